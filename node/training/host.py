"""The training host does the duties of this node to tasks (docs/spec/training.md, section 10).

After every block, blob and finished job it asks chain/training/rounds.py for the duties. Each duty
is done by jobs; a job runs once at a time, and is started again as long as its duty is listed. So a
restart, a lost blob or a dead worker needs no code of its own. The jobs are in the other modules.

It asks for a task when a block changed the task or a job of the task ended. A task in progress is
asked for after every block and some times a second as well, because its phases end by themselves;
other open tasks now and then, because they end by themselves, too. A closed task of which miners
may still be fined is asked for at the heads that its fines wait for. Others cost nothing.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, assert_never

import structlog
import trio

from chain.contracts import gradient_ledger, task_registry
from chain.contracts.abi import ContractCall
from chain.contracts.gradient_ledger import Deadline, Phase, ResultVote
from chain.contracts.task_registry import TaskStatus
from chain.params import ChainParameters
from chain.primitives import Address, BlockNumber, TaskId
from chain.training import rounds
from chain.training.acceptance import Verdict, encode_verdicts
from chain.training.attempt_records import Attempt
from chain.training.fees import KEPT_SECONDS
from chain.training.history import TaskHistory
from chain.training.leases import READY_CODE, is_window_over
from chain.training.reveal import Reveal
from chain.training.task_checks import (
    REFUSAL_CODES,
    UNSERVED_CODES,
    Objection,
    ObjectionCode,
    Promise,
    compute_promise,
    find_code,
)
from chain.training.task_spec import TaskSpec
from node.chain.contract_reader import ContractReader
from node.chain.training_index import TrainingIndex
from node.clock import Clock
from node.operator.account import Operator
from node.storage.blobs import BlobQuotaError, BlobStore
from node.training.capacity import Capacity
from node.training.closed_disk import ClosedDisk
from node.training.content import Content
from node.training.due_tasks import DueTasks
from node.training.gradient_jobs import GradientJobs
from node.training.gradients import Gradients
from node.training.jobs import Jobs
from node.training.preparation import Preparation
from node.training.readiness import ReadinessLog, ReadinessState, TaskReadiness
from node.training.results import Results
from node.training.reveal_store import RevealStore
from node.training.rows import TaskRows
from node.training.slashings import Slashings
from node.training.state_parts import StatePartStore
from node.training.states import TrainingStates
from node.training.votes import OperatorVotes
from node.training.work import (
    Job,
    JobKey,
    JobKind,
    KnownTask,
    SeenPhase,
    ServedTask,
    TaskWork,
    TrainingPeers,
    VotedTask,
)
from node.training.worker_pool import Workers
from node.trio_types import TaskStatus as RunStatus
from pot_common.errors import StorageError

ALREADY_ANSWERED: Final = "TaskAlreadyAnswered"
"""The error with which the contract refuses a second answer of a validator."""

_log = structlog.get_logger("node.training")


class TrainingHost:
    """Does this node's duties to every task that is not closed, and its last ones to those."""

    def __init__(
        self,
        *,
        chain_id: int,
        parameters: ChainParameters,
        index: TrainingIndex,
        contracts: ContractReader,
        blobs: BlobStore,
        reveals: RevealStore,
        state_parts: StatePartStore,
        announced: trio.MemoryReceiveChannel[Reveal],
        workers: Workers,
        peers: TrainingPeers,
        operator: Operator | None,
        clock: Clock,
        directory: Path,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._phase_floor_blocks = parameters.phase_floor_blocks
        self._index = index
        self._contracts = contracts
        self._blobs = blobs
        self._announced = announced
        self._workers = workers
        self._clock = clock
        self._work: dict[TaskId, TaskWork] = {}
        self._due = DueTasks()
        self._closed_disk = ClosedDisk()
        self._capacity = Capacity(
            workers.checks.count,
            blobs.promised_share_bytes,
            lambda: self._closed_disk.count(clock.now_ms() // 1000),
        )
        self._jobs = Jobs()
        self._readiness = ReadinessLog()
        self.describe_readiness = self._readiness.describe
        """This node's answer to a task, as RPC shows it."""
        self._votes = None if operator is None else OperatorVotes(operator, contracts)
        self._slashings: Slashings | None = None
        content = self._content = Content(blobs, peers, directory)
        self._states = TrainingStates(blobs, state_parts, content, peers, workers.aggregator)
        rows = TaskRows(blobs, content, directory, workers.dry_runs)
        self._preparation = Preparation(
            blob_bytes_per_second=parameters.blob_bytes_per_second,
            contracts=contracts,
            blobs=blobs,
            content=content,
            rows=rows,
            dry_runs=workers.dry_runs,
            dry_run_seconds=workers.checks.timeout_seconds,
            check_workers=workers.checks.count,
            capacity=self._capacity,
            clock=clock,
            jobs=self._jobs,
            readiness=self._readiness,
        )
        self.find_disk_objection = self._preparation.find_disk_objection
        """Why a task is promised no disk; None if it is."""
        self._gradients = Gradients(
            chain_id=chain_id,
            index=index,
            contracts=contracts,
            blobs=blobs,
            content=content,
            reveals=reveals,
            rows=rows,
            verifier=workers.checks,
            peers=peers,
            directory=directory,
        )
        self._gradient_jobs = GradientJobs(self._gradients, self._jobs, self._capacity)
        if self._votes is not None:
            self._slashings = Slashings(
                chain_id=chain_id,
                index=index,
                contracts=contracts,
                votes=self._votes,
                gradients=self._gradients,
            )
        self._results = Results(
            chain_id=chain_id,
            index=index,
            content=content,
            gradients=self._gradients,
            states=self._states,
            rows=rows,
            verifier=workers.checks,
        )

    def wake(self) -> None:
        """List the duties to all tasks again: any of them may have changed."""
        self._due.note_all()
        self._jobs.wake()

    def on_new_head(self, changed: Iterable[TaskId]) -> None:
        """List the duties to the tasks in progress again, and to those that a block has changed."""
        self._due.note_block(changed)
        self._jobs.wake()

    def on_blob(self) -> None:
        """Retry the checks that are held back: the RPC process stored a blob that one may need."""
        for kind in (JobKind.CHECK, JobKind.FETCH):
            self._jobs.end_waits(kind)

    def is_served(self, task_id: TaskId) -> bool:
        """Whether this node has or may have duties to a task; its files may then be in use."""
        return task_id in self._work

    def is_refused(self, task_id: TaskId) -> bool:
        """Whether this node takes no part in a task."""
        work = self._work.get(task_id)
        return work is not None and work.is_accepted is False

    def get_readiness(self, task_id: TaskId) -> TaskReadiness | None:
        """This node's answer to a task; None if its preparation has not begun."""
        return self._readiness.get(task_id)

    async def _take_announced(self) -> None:
        async with trio.open_nursery() as nursery:
            async for reveal in self._announced:
                # Only tasks in progress are looked up: peers may name any task.
                task_id = reveal.attempt_id.task_id
                has_room = self._capacity.has_promise(task_id)
                is_served = self._due.is_in_progress(task_id) and has_room
                if is_served and self._gradients.is_wanted(reveal):
                    nursery.start_soon(self._take, reveal)

    async def _take_hints(self, hints: Sequence[Reveal], nursery: trio.Nursery) -> None:
        for hint in hints:
            nursery.start_soon(self._take, hint)
            # Consensus runs in the same thread, and an attempt can have a thousand commitments.
            await trio.lowlevel.checkpoint()

    async def _take(self, reveal: Reveal) -> None:
        try:
            await self._gradients.take(reveal)
        except (BlobQuotaError, StorageError) as error:
            _log.warning("announced gradient not stored", reason=str(error))
            return
        history = self._index.history(reveal.attempt_id.task_id)
        attempt = None if history is None else history.attempt
        index = None if attempt is None else self._gradients.find_index(attempt, reveal)
        if index is not None:
            task_id, attempt_id = reveal.attempt_id.task_id, reveal.attempt_id
            for kind in (JobKind.CHECK, JobKind.FETCH):
                self._jobs.end_wait(JobKey(task_id, kind, attempt_id, commitment_index=index))

    # The main loop.

    async def run(self, task_status: RunStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve tasks until cancelled."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take_announced)
            if self._votes is not None:
                # So that the first work of no task pays for the start of a worker.
                nursery.start_soon(self._workers.checks.warm_up)
                nursery.start_soon(self._workers.aggregator.warm_up)
            await self._count_promises()
            while True:
                self._jobs.forget_changes()
                if self._due.take_all_due():
                    unfinished = await trio.to_thread.run_sync(self._list_unfinished)
                    self._due.note_block(unfinished)
                head = self._contracts.head_number()
                for task_id in self._due.take(self._jobs.take_due(), head):
                    self._step(task_id, nursery)
                    # Many tasks must not delay consensus, which runs in the same thread.
                    await trio.lowlevel.checkpoint()
                await self._jobs.wait_changed(self._due.get_wait_seconds())

    async def _count_promises(self) -> None:
        """Count the tasks that it was ready for, first those that were promised time, or kept."""
        now = self._clock.now_ms() // 1000
        promises: list[tuple[bool, TaskId, Promise]] = []
        for task_id in await trio.to_thread.run_sync(self._list_paid, now):
            history = self._index.history(task_id)
            spec = None if history is None else self._index.spec(history)
            if history is None or spec is None:
                continue
            if history.is_closed:
                # One that it refused is served with disk as well once others have made it active.
                is_kept = history.rounds_settled > 0 and self._blobs.has(spec.initial_weights)
                if self._is_ready(history) or is_kept:
                    self._closed_disk.add(history, spec)
            elif self._is_ready(history):
                is_late = not self._was_ready_early(history)
                promises.append((is_late, task_id, compute_promise(spec)))
            await trio.lowlevel.checkpoint()
        for _, task_id, promise in sorted(promises, key=lambda each: each[:2]):
            self._capacity.promise(task_id, promise)

    def _list_paid(self, now: int) -> list[TaskId]:
        """The open tasks, and the closed ones that still pay for disk at the time `now`."""
        closed = self._index.closed_tasks(BlockNumber(0))
        paid = (each.task_id for each in closed if each.timestamp + KEPT_SECONDS > now)
        return [*self._index.open_tasks(), *paid]

    def _list_unfinished(self) -> list[TaskId]:
        """The open tasks, and the closed ones of which miners may still have to be fined."""
        head = self._contracts.head_number()
        closed = self._index.closed_tasks(BlockNumber(0))
        fined = (each.task_id for each in closed if head < each.slashed_until)
        return [*self._index.open_tasks(), *fined]

    def _is_ready(self, history: TaskHistory) -> bool:
        """Whether this validator posted ready for a task."""
        return self._get_answer(history) == READY_CODE

    def _was_ready_early(self, history: TaskHistory) -> bool:
        """Whether this validator was ready for a task before a quorum made it active."""
        quorum = self._index.validator_set.quorum
        return history.status is TaskStatus.PENDING or self._own_address in history.ready[:quorum]

    def _get_answer(self, history: TaskHistory) -> int | None:
        """The answer to a task that this validator gave on the chain; None if it gave none."""
        own = self._own_address
        return None if own is None else history.get_answer(own)

    @property
    def _own_address(self) -> Address | None:
        """The validator of this node; None if it has none in the set in force."""
        operator = None if self._votes is None else self._votes.operator.address
        index = self._index.validator_set.find_operator(operator)
        return None if index is None else self._index.validator_set.validators[index]

    def _get_work(self, history: TaskHistory) -> TaskWork:
        """This node's work on a task, which begins with its answer on the chain."""
        work = self._work.get(history.task_id)
        if work is None:
            answer = self._get_answer(history)
            work = self._work[history.task_id] = TaskWork.after_answer(answer)
            code = None if answer is None else find_code(answer)
            if code is not None:
                refused = Objection(code, "this validator refused it before its node restarted")
                self._readiness.object(history.task_id, ReadinessState.REFUSED, refused)
        return work

    def _step(self, task_id: TaskId, nursery: trio.Nursery) -> None:
        head = self._contracts.head_number()
        history = self._index.history(task_id)
        assert history is not None
        spec = self._index.spec(history)
        self._content.end_fetches(task_id, history.attempt)
        if history.is_closed and spec is not None:
            if self._is_ready(history) or self._capacity.has_promise(task_id):
                self._closed_disk.add(history, spec)
            self._preparation.release(task_id)
        is_slashed = spec is None or not self._may_slash(history)
        has_answers = history.is_closed and self._may_answer(history)
        if history.is_closed and is_slashed and not has_answers:
            self._due.close(task_id)
            self._work.pop(task_id, None)
            self._gradients.forget_reveals(task_id)
            return
        work = self._get_work(history)
        self._gradients.keep_reveals(KnownTask(history, work))
        if history.attempt is not None and self._capacity.has_promise(task_id):
            hints = self._gradients.pop_hints(history.attempt)
            nursery.start_soon(self._take_hints, hints, nursery)
        work.keep_checks(history, gives_late_verdicts=self._slashings is not None)
        is_served = spec is not None and work.answer_code not in UNSERVED_CODES
        is_trained = history.status is TaskStatus.ACTIVE and is_served
        if is_trained:
            self._due.wait_for_phases(task_id)
        else:
            self._due.rest(task_id)
        if spec is None and work.answer_code is None:
            self._refuse_bytes(task_id, work)
        now = self._clock.now_ms() // 1000
        view = self._get_view(history, work, now, is_trained=is_trained)
        if self._contracts.head_number() != head:
            # A block became final meanwhile: history and phase may belong to different blocks.
            self._due.note_block([task_id])
            self._jobs.wake()
            return
        if not history.is_closed:
            work.has_time = work.is_accepted is not False and self._capacity.has_time(task_id)
        is_late = spec is not None and rounds.is_late(spec, view, now)
        duties = rounds.list_duties(
            history,
            spec,
            view,
            self._get_own_work(history, spec, work, is_late=is_late),
            self._index.validator_set,
            None if self._votes is None else self._votes.operator.address,
            now,
        )
        jobs: list[Job] = []
        for duty in duties:
            match duty:
                case rounds.AnswerTask() | rounds.ExpireTask():
                    jobs.append(self._build_call(duty, KnownTask(history, work)))
                case _:
                    assert spec is not None, "a task without a specification has no other duties"
                    jobs += self._list_jobs(duty, ServedTask(history, spec, work))
        if self._slashings is not None and spec is not None:
            jobs += self._slashings.list_jobs(ServedTask(history, spec, work))
            if history.is_closed and not has_answers:
                next_head = self._slashings.find_next_head(history, work, head)
                self._due.wait_for_head(task_id, next_head)
        for job in jobs:
            self._jobs.start(nursery, job)

    def _refuse_bytes(self, task_id: TaskId, work: TaskWork) -> None:
        """Note the answer to a task whose bytes are no valid specification."""
        invalid = Objection(ObjectionCode.SPEC_INVALID, "the bytes are no valid specification")
        self._readiness.object(task_id, ReadinessState.REFUSED, invalid)
        work.is_accepted, work.answer_code = False, REFUSAL_CODES[invalid.code]

    def _may_answer(self, closed: TaskHistory) -> bool:
        """Whether this validator may still have an answer for a closed task, which is paid."""
        own, work = self._own_address, self._work.get(closed.task_id)
        if own is None or work is None:
            return False
        is_preparing = self._jobs.is_waiting(JobKey(closed.task_id, JobKind.PREPARE))
        now, number = self._clock.now_ms() // 1000, self._contracts.head_number() + 1
        return (
            (is_preparing or work.answer_code is not None)
            and not work.is_answered
            and not closed.has_answered(own)
            and not is_window_over(closed.lease, number, now)
        )

    def _get_view(
        self, history: TaskHistory, work: TaskWork, now: int, *, is_trained: bool
    ) -> rounds.PhaseView:
        phase, deadline = Phase.INACTIVE, Deadline(BlockNumber(0), 0)
        if is_trained:
            phase, deadline = self._contracts.phase(history.task_id)
            seconds = deadline.timestamp - now if deadline.timestamp else math.inf
            work.due_at = trio.current_time() + seconds
        attempt = history.attempt
        head = self._contracts.head_number()
        seen = SeenPhase(phase, is_expired=history.is_expired(head + 1, now))
        if attempt is not None:
            seen = SeenPhase(phase, attempt.id, attempt.ballot_number)
        if seen != work.seen:
            work.seen, work.since_block = seen, head
        late_blocks = rounds.compute_late_blocks(
            self._phase_floor_blocks, self._index.validator_set.max_faulty
        )
        return rounds.PhaseView(
            phase, deadline, late_blocks, head, work.since_block, seen.is_expired
        )

    def _build_call(self, duty: rounds.AnswerTask | rounds.ExpireTask, task: KnownTask) -> Job:
        """The job that sends a call on the task as a whole."""
        match duty:
            case rounds.AnswerTask(code):
                answer = task_registry.answer_task(task.task_id, code)
                key = JobKey(task.task_id, JobKind.ANSWER)
                note = partial(_note_answered, task.work)
                return self._vote(task, key, lambda: answer, on_refusal=note)
            case rounds.ExpireTask():
                expire = task_registry.expire_task(task.task_id)
                return self._vote(task, JobKey(task.task_id, JobKind.EXPIRE), lambda: expire)
            case _:
                assert_never(duty)

    def _list_jobs(self, duty: rounds.RoundDuty, task: ServedTask) -> list[Job]:
        """The jobs that fulfil a duty."""
        task_id = task.task_id
        match duty:
            case rounds.PrepareContent():
                self._preparation.claim(task)
                key = JobKey(task_id, JobKind.PREPARE)
                return [Job(key, partial(self._preparation.prepare, task))]
            case rounds.RestoreState():
                return [Job(JobKey(task_id, JobKind.STATE), partial(self._states.restore, task))]
            case rounds.AdvanceRound():
                call = partial(gradient_ledger.advance_round, task_id)
                return [self._vote_in_ballot(task, JobKind.ADVANCE, call)]
            case rounds.CheckGradients(indices):
                return self._gradient_jobs.list_checks(task, _get_attempt(task), indices)
            case rounds.FetchGradients(indices):
                return self._gradient_jobs.list_fetches(task, _get_attempt(task), indices)
            case rounds.PostVerdict(verdicts):
                call = partial(self._make_verdict, task, _get_attempt(task), verdicts)
                return [self._vote_in_ballot(task, JobKind.VERDICT, call)]
            case rounds.ComputeResult():
                attempt = _get_attempt(task)
                key = JobKey(task_id, JobKind.RESULT, attempt.id, attempt.ballot_number)
                return [Job(key, partial(self._results.compute, task, attempt))]
            case rounds.ComputePayment():
                attempt = _get_attempt(task)
                key = JobKey(task_id, JobKind.PAYMENT, attempt.id, attempt.ballot_number)
                return [Job(key, partial(self._results.compute_payment, task, attempt))]
            case rounds.EvaluateModel(model_root):
                attempt = _get_attempt(task)
                key = JobKey(task_id, JobKind.EVALUATE, attempt.id, attempt.ballot_number)
                return [Job(key, partial(self._results.evaluate, task, attempt, model_root))]
            case rounds.PostResult(vote):
                call = partial(_make_result, task, _get_attempt(task), vote)
                return [self._vote_in_ballot(task, JobKind.POST, call, vote.timely_voters)]
            case rounds.PostEvaluation(vote):
                call = partial(_make_result, task, _get_attempt(task), vote)
                return [self._vote_in_ballot(task, JobKind.SCORE, call, vote.timely_voters)]
            case rounds.SettleRound(vote):
                call = partial(gradient_ledger.settle_round, task_id, vote)
                return [self._vote_in_ballot(task, JobKind.SETTLE, call)]
            case _:
                assert_never(duty)

    def _vote_in_ballot(
        self,
        task: ServedTask,
        kind: JobKind,
        make_call: Callable[[], ContractCall],
        timely_voters: int | None = None,
    ) -> Job:
        """The job that sends a call to the ledger once in each ballot.

        Args:
            task: The task.
            kind: The kind of the job.
            make_call: Returns the call.
            timely_voters: Those of the result that the call votes for: if the ballot turns out to
                have others, the vote for its new result is sent at once.
        """
        attempt = task.history.attempt
        key = JobKey(task.task_id, kind, timely_voters=timely_voters)
        if attempt is not None:
            key = key._replace(attempt_id=attempt.id, ballot_number=attempt.ballot_number)
        return self._vote(task, key, make_call)

    def _vote(
        self,
        task: VotedTask,
        key: JobKey,
        make_call: Callable[[], ContractCall],
        on_refusal: Callable[[str], None] = lambda _error: None,
    ) -> Job:
        assert self._votes is not None, "a node without an operator has no duty to vote"
        return self._votes.build(task, key, make_call, on_refusal=on_refusal)

    def _may_slash(self, closed: TaskHistory) -> bool:
        """Whether miners of a closed task may still have to be fined."""
        if self._slashings is None:
            return False
        head = self._contracts.head_number()
        return any(head < mark.slashed_until for mark in closed.ended)

    def _get_own_work(
        self, history: TaskHistory, spec: TaskSpec | None, work: TaskWork, *, is_late: bool
    ) -> rounds.OwnWork:
        attempt = history.attempt
        verdicts: tuple[Verdict | None, ...] = ()
        held: frozenset[int] | None = None
        result = None
        if attempt is not None and spec is not None:
            found = map(work.checks.get(attempt.id, {}).get, range(len(attempt.commitments)))
            verdicts = tuple(None if check is None else check.verdict for check in found)
            if is_late or work.can_check is False:
                held = self._gradients.get_reveals(attempt).find_held()
            result = work.results.get(attempt.ballot_number)
        wanted = history.training_state_root if history.rounds_settled else work.state_root
        is_state_held = work.state is not None and work.state_root == wanted
        root = None if result is None else result.model_root
        return rounds.OwnWork(
            is_accepted=work.is_accepted,
            answer_code=None if work.is_answered else work.answer_code,
            has_room=self._capacity.has_promise(history.task_id),
            is_content_held=work.is_content_held,
            can_check=work.can_check,
            is_state_held=is_state_held,
            verdicts=verdicts,
            held=held,
            result=result,
            is_evaluation_over=root in work.evaluations,
            is_evaluated=root is not None and work.evaluations.get(root) is not None,
        )

    def _make_verdict(
        self, task: ServedTask, attempt: Attempt, verdicts: Sequence[Verdict]
    ) -> ContractCall:
        self._gradients.save_checks(task, attempt, verdicts)
        return gradient_ledger.post_verdict(
            task.task_id,
            attempt.id.round_number,
            attempt.id.attempt_number,
            attempt.ballot,
            encode_verdicts(verdicts),
        )


def _note_answered(work: TaskWork, refusal: str) -> None:
    """Remember that the contract has an answer of this validator already."""
    work.is_answered = work.is_answered or refusal == ALREADY_ANSWERED


def _get_attempt(task: ServedTask) -> Attempt:
    attempt = task.history.attempt
    assert attempt is not None, "a duty to a ballot needs an attempt in progress"
    return attempt


def _make_result(task: ServedTask, attempt: Attempt, vote: ResultVote) -> ContractCall:
    evaluation = task.work.evaluations.get(vote.model_root)
    return gradient_ledger.post_result(
        task.task_id,
        attempt.id.round_number,
        attempt.id.attempt_number,
        attempt.ballot,
        vote,
        None if evaluation is None else evaluation.correct_count,
        0 if evaluation is None else evaluation.loss_millinats,
    )
