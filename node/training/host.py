"""The training host: what validators owe tasks is done here (docs/spec/training.md, section 10).

After every block, blob and finished job chain/training/rounds.py is asked again what is owed; a job
runs once at a time and is started again while its duty stands. So a restart, a lost blob or a dead
worker needs no code of its own. What the jobs do is in node/training/.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, assert_never

import trio

from chain.contracts.addresses import GRADIENT_LEDGER, TASK_REGISTRY
from chain.contracts.gradient_ledger import (
    ResultVote,
    encode_advance_round,
    encode_post_result,
    encode_post_verdict,
    encode_settle_round,
)
from chain.contracts.task_registry import encode_post_ready
from chain.primitives import Address, TaskId
from chain.training import rounds
from chain.training.acceptance import Verdict, encode_verdicts
from chain.training.history import Attempt, TaskHistory
from chain.training.reveal import Reveal
from node.chain.contract_reader import LedgerReader
from node.chain.training_index import TrainingIndex
from node.clock import Clock
from node.operator.account import Operator
from node.storage.blobs import BlobStore
from node.training.content import Content
from node.training.gradients import Gradients
from node.training.jobs import Jobs
from node.training.preparation import Preparation
from node.training.results import Results
from node.training.retention import CLOSED_EVIDENCE_BLOCKS
from node.training.reveal_store import RevealStore
from node.training.slashings import Slashings
from node.training.state_parts import StatePartStore
from node.training.states import TrainingStates
from node.training.verifier import Verifier
from node.training.votes import OperatorVotes
from node.training.work import NamedJob, ServedTask, TaskWork, TrainingPeers

if TYPE_CHECKING:
    # The stubs that py-libp2p's dependency installs hide trio's own types from the checker.
    from trio_typing import TaskStatus

TICK_SECONDS: Final = 0.25
"""How often duties are looked at when nothing happens: deadlines pass without an event."""


class TrainingHost:
    """Serves every live task of the chain."""

    def __init__(
        self,
        *,
        chain_id: int,
        blob_bytes_per_second: int,
        index: TrainingIndex,
        ledger: LedgerReader,
        blobs: BlobStore,
        reveals: RevealStore,
        state_parts: StatePartStore,
        announced: trio.MemoryReceiveChannel[Reveal],
        verifier: Verifier,
        peers: TrainingPeers,
        operator: Operator | None,
        clock: Clock,
        directory: Path,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._index = index
        self._ledger = ledger
        self._announced = announced
        self._verifier = verifier
        self._clock = clock
        self._work: dict[TaskId, TaskWork] = {}
        self._closed: set[TaskId] = set()
        """Closed, or refused: not looked at any more."""
        self._jobs = Jobs()
        self._votes = None if operator is None else OperatorVotes(operator, ledger)
        self._slashings = None if self._votes is None else Slashings(index, ledger, self._votes)
        content = Content(blobs, peers, directory)
        self._states = TrainingStates(blobs, state_parts, content, peers)
        self._preparation = Preparation(
            blob_bytes_per_second=blob_bytes_per_second,
            ledger=ledger,
            blobs=blobs,
            content=content,
            verifier=verifier,
            jobs=self._jobs,
            count_served=self._count_served,
        )
        self._gradients = Gradients(
            chain_id=chain_id,
            ledger=ledger,
            blobs=blobs,
            content=content,
            reveals=reveals,
            verifier=verifier,
            peers=peers,
            directory=directory,
        )
        self._results = Results(
            chain_id=chain_id,
            index=index,
            content=content,
            gradients=self._gradients,
            states=self._states,
            verifier=verifier,
        )

    def wake(self) -> None:
        """Look at the duties again: a block is final, or something else has happened."""
        self._jobs.wake()

    def on_blob(self) -> None:
        """The RPC process stored a blob: a check that waits for one need not wait any longer."""
        self._jobs.end_waits("/check-")

    async def _take_announced(self) -> None:
        async for reveal in self._announced:
            self._on_announced(reveal)

    def _on_announced(self, reveal: Reveal) -> None:
        work = self._work.get(reveal.task_id)
        if work is None or work.phase_key[1:3] != (reveal.round_number, reveal.attempt):
            return  # no check waits for it; a check that starts later asks the peers
        self._gradients.remember(reveal)
        self._jobs.end_waits(f"{reveal.task_id}/check-{reveal.round_number}-{reveal.attempt}-")

    # The loop.

    async def run(self, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Serve tasks until cancelled."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take_announced)
            if self._votes is not None:
                nursery.start_soon(self._verifier.warm_up)
            while True:
                self._jobs.begin_look()
                for number in range(1, self._index.task_count() + 1):
                    task_id = TaskId(number)
                    if task_id in self._closed or self._jobs.is_waiting(f"{task_id}/prepare"):
                        continue
                    self._step(task_id, nursery)
                    # Many tasks must not keep consensus from its turn.
                    await trio.lowlevel.checkpoint()
                await self._jobs.wait_changed(TICK_SECONDS)

    def _step(self, task_id: TaskId, nursery: trio.Nursery) -> None:
        head = self._ledger.head_number()
        history = self._index.history(task_id)
        assert history is not None
        spec = self._index.spec(history)
        held = self._work.get(task_id)
        is_refused = held is not None and held.is_accepted is False
        if spec is None or is_refused or (history.is_closed and not self._may_slash(history)):
            self._closed.add(task_id)
            self._work.pop(task_id, None)
            return
        task = ServedTask(history, spec, self._work.setdefault(task_id, TaskWork()))
        view = self._get_view(history, task.work)
        if self._ledger.head_number() != head:
            # A block became final in between: history and phase may not be of one state.
            self._jobs.wake()
            return
        duties = rounds.list_duties(
            history,
            spec,
            view,
            _get_own_work(task),
            self._index.validator_set,
            None if self._votes is None else self._votes.operator.address,
            self._clock.now_ms() // 1000,
        )
        jobs = [job for duty in duties for job in self._list_jobs(duty, task)]
        if self._slashings is not None:
            jobs += self._slashings.list_jobs(task)
        for name, job in jobs:
            self._jobs.start(nursery, f"{task_id}/{name}", job)

    def _get_view(self, history: TaskHistory, work: TaskWork) -> rounds.PhaseView:
        phase, deadline_timestamp = self._ledger.phase(history.task_id)
        attempt = history.attempt
        ballot = (
            ()
            if attempt is None
            else (attempt.id.round_number, attempt.id.attempt_number, attempt.ballot)
        )
        key = (phase.value, *ballot)
        head = self._ledger.head_number()
        if key != work.phase_key:
            work.phase_key, work.since_block = key, head
        return rounds.PhaseView(phase, deadline_timestamp, head, work.since_block)

    def _list_jobs(self, duty: rounds.Duty, task: ServedTask) -> list[NamedJob]:
        """The jobs that fulfil a duty."""
        task_id, attempt = task.task_id, task.history.attempt
        match duty:
            case rounds.PrepareContent():
                return [("prepare", partial(self._preparation.prepare, task))]
            case rounds.RestoreState():
                return [("state", partial(self._states.restore, task))]
            case rounds.PostReady():
                encode = partial(encode_post_ready, task_id)
                return [self._vote(task, "ready", TASK_REGISTRY, encode)]
            case rounds.AdvanceRound():
                encode = partial(encode_advance_round, task_id)
                name = f"advance-{task.work.phase_key}"
                return [self._vote(task, name, GRADIENT_LEDGER, encode)]
            case rounds.CheckGradients(indices):
                assert attempt is not None
                place = f"check-{attempt.id.round_number}-{attempt.id.attempt_number}"
                check = self._gradients.check
                return [(f"{place}-{i}", partial(check, task, attempt, i)) for i in indices]
            case rounds.PostVerdict(verdicts):
                assert attempt is not None
                encode = partial(self._encode_verdict, task, attempt, verdicts)
                name = f"verdict-{attempt.ballot_number}"
                return [self._vote(task, name, GRADIENT_LEDGER, encode)]
            case rounds.ComputeResult():
                assert attempt is not None
                name = f"result-{attempt.ballot_number}"
                return [(name, partial(self._results.compute, task, attempt))]
            case rounds.PostResult(vote):
                assert attempt is not None
                encode = partial(_encode_result, task, attempt, vote)
                return [self._vote(task, f"post-{attempt.ballot_number}", GRADIENT_LEDGER, encode)]
            case rounds.SettleRound(vote):
                assert attempt is not None
                encode = partial(encode_settle_round, task_id, vote)
                name = f"settle-{attempt.ballot_number}"
                return [self._vote(task, name, GRADIENT_LEDGER, encode)]
            case _:
                assert_never(duty)

    def _vote(
        self, task: ServedTask, name: str, contract: Address, encode: Callable[[], bytes]
    ) -> NamedJob:
        assert self._votes is not None, "who has no operator owes no votes"
        return self._votes.build(task, name, contract, encode)

    def _may_slash(self, closed: TaskHistory) -> bool:
        """Whether the last rounds of a closed task may still ask for slashing."""
        if self._slashings is None or closed.closed is None:
            return False
        return self._ledger.head_number() <= closed.closed.number + CLOSED_EVIDENCE_BLOCKS

    def _count_served(self) -> int:
        return sum(work.is_accepted is True for work in self._work.values())

    def _encode_verdict(
        self, task: ServedTask, attempt: Attempt, verdicts: Sequence[Verdict]
    ) -> bytes:
        self._gradients.save_checks(task, attempt)
        return encode_post_verdict(
            task.task_id,
            attempt.id.round_number,
            attempt.id.attempt_number,
            attempt.ballot,
            encode_verdicts(verdicts),
        )


def _get_own_work(task: ServedTask) -> rounds.OwnWork:
    history, work = task.history, task.work
    attempt = history.attempt
    verdicts: tuple[Verdict | None, ...] = ()
    result = None
    if attempt is not None:
        found = (
            work.checks.get((attempt.id.round_number, attempt.id.attempt_number, i))
            for i in range(len(attempt.commitments))
        )
        verdicts = tuple(None if check is None else check[0] for check in found)
        computed = work.results.get(attempt.ballot_number)
        result = None if computed is None else computed[0]
    wanted = history.training_state_root if history.rounds_settled else work.state_root
    is_state_held = work.state is not None and work.state_root == wanted
    return rounds.OwnWork(work.is_content_held, work.is_accepted, is_state_held, verdicts, result)


def _encode_result(task: ServedTask, attempt: Attempt, vote: ResultVote) -> bytes:
    _, correct_count, loss = task.work.results[attempt.ballot_number]
    return encode_post_result(
        task.task_id,
        attempt.id.round_number,
        attempt.id.attempt_number,
        attempt.ballot,
        vote,
        correct_count,
        loss,
    )
