"""What an operator does about misses and frauds (docs/spec/contracts.md, section 6).

It gives late verdicts on accused gradients, votes on the fines of attempts, imposes approved ones,
and ends the seats of miners that missed twice. For the last two operators take turns.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Final, assert_never

import trio

from chain.contracts import gradient_ledger, miner_seats
from chain.contracts.abi import ContractCall
from chain.contracts.miner_seats import MAX_ENDED_SEATS, Fine
from chain.primitives import BlockNumber, Hash32
from chain.training.acceptance import Verdict, encode_verdicts
from chain.training.attempt_records import Attempt, EndedMark
from chain.training.decisions import LATE_VERDICTS
from chain.training.history import TaskHistory
from chain.training.rounds import TURN_BLOCKS
from chain.training.slashing import (
    HURRY_BLOCKS,
    FineTrees,
    ImposeFines,
    PostFines,
    build_fine_trees,
    list_open_words,
    plan_fines,
)
from node.chain.contract_reader import ContractReader
from node.chain.training_index import TrainingIndex
from node.training.gradients import Gradients
from node.training.votes import SLASH_GAS, OperatorVotes
from node.training.work import (
    AttemptFines,
    Job,
    JobKey,
    JobKind,
    ServedTask,
    TaskWork,
    UnavailableError,
)

LATE_CHECKS_LIMIT: Final = 16
"""The most accused gradients that are checked at once for late verdicts: rounds in progress come
first."""

READS_LIMIT: Final = 4
"""The most ended attempts of a task that are read together: a restarted node has many to read, each
takes 15 ms of a thread, and consensus shares the processor."""

NOTHING_TO_FINE: Final = "SeatsNothingToFine"
"""The error with which the contract refuses fines for which nothing can be taken."""


class Slashings:
    """Builds the jobs of one operator."""

    def __init__(
        self,
        *,
        chain_id: int,
        index: TrainingIndex,
        contracts: ContractReader,
        votes: OperatorVotes,
        gradients: Gradients,
    ) -> None:
        self._chain_id = chain_id
        self._index = index
        self._contracts = contracts
        self._votes = votes
        self._gradients = gradients

    def list_jobs(self, task: ServedTask) -> list[Job]:
        """The jobs that a task asks for at the head.

        An ended attempt with nothing to do costs a look into a table: there may be hundreds, and
        duties are listed some times a second in the thread in which consensus runs.
        """
        head, marks = self._contracts.head_number(), task.history.ended
        jobs = self._list_seat_jobs(task, head)
        known = task.work.fines
        if len(known) > len(marks):
            ordinals = {mark.ordinal for mark in marks}
            task.work.fines = known = {k: each for k, each in known.items() if k in ordinals}
        unread = []
        for mark in marks:
            if head >= mark.slashed_until:
                continue
            fines = known.get(mark.ordinal)
            if fines is None or not fines.holds_at(mark, head):
                unread.append(mark)
                continue
            if fines.open_words and head < mark.late_until:
                jobs += self._list_late_jobs(task, fines, head)
            if fines.next_block is not None and head >= fines.next_block:
                jobs += self._list_fine_jobs(task, fines, head)
        for mark in unread[:READS_LIMIT]:
            key = JobKey(task.task_id, JobKind.ENDED, mark.attempt_id)
            jobs.append(Job(key, partial(self._read, task, mark)))
        return jobs

    def find_next_head(self, closed: TaskHistory, work: TaskWork, head: BlockNumber) -> BlockNumber:
        """The first head after this one at which a closed task may ask for other jobs.

        An event of the task or the end of a job may bring some earlier.
        """
        following: list[int] = []
        for mark in closed.ended:
            fines = work.fines.get(mark.ordinal)
            following.append(mark.slashed_until)
            if fines is None or not fines.holds_at(mark, head):
                continue  # it is read by a job
            following += [mark.late_until, mark.late_until - HURRY_BLOCKS]
            if fines.next_block is not None:
                following.append(max(fines.next_block, head + 1))
        return BlockNumber(min(each for each in following if each > head))

    async def _read(self, task: ServedTask, mark: EndedMark) -> None:
        """Work out in a thread what there is to do about an ended attempt."""
        known = task.work.fines.get(mark.ordinal)
        head = self._contracts.head_number()
        found = await trio.to_thread.run_sync(self._compute_fines, mark, known, head)
        if found is None:
            raise UnavailableError("the ledger has forgotten the attempt")
        task.work.fines[mark.ordinal] = found

    def _compute_fines(
        self, mark: EndedMark, known: AttemptFines | None, head: BlockNumber
    ) -> AttemptFines | None:
        ended = self._index.ended(mark.attempt_id.task_id, mark.ordinal)
        if ended is None:
            return None
        is_closing = head >= mark.late_until
        own_index = ended.validator_set.find_operator(self._votes.operator.address)
        trees = FineTrees(None)
        open_words: tuple[int, ...] = ()
        if own_index is not None:
            own = ended.validator_set.validators[own_index]
            open_words = () if is_closing else list_open_words(ended, own)
            if known is not None and known.is_closing == is_closing:
                trees = known.trees
            else:
                trees = build_fine_trees(self._chain_id, ended, head)
        if not open_words:
            # Plans need neither commitments nor verdicts, which may be large.
            bare = replace(ended.attempt, commitments=(), verdicts=(), results=())
            ended = replace(ended, attempt=bare)
        return AttemptFines(
            ended,
            mark.changed_block,
            trees,
            is_closing=is_closing,
            open_words=open_words,
            next_block=BlockNumber(0),
            hopeless=set() if known is None else known.hopeless,
        )

    def _list_fine_jobs(
        self, task: ServedTask, fines: AttemptFines, head: BlockNumber
    ) -> list[Job]:
        plan = plan_fines(
            fines.ended, fines.trees, self._votes.operator.address, head, fines.hopeless
        )
        fines.next_block = plan.next_block
        return [self._build_fine_job(task, fines, duty) for duty in plan.duties]

    def _build_fine_job(
        self, task: ServedTask, fines: AttemptFines, duty: PostFines | ImposeFines
    ) -> Job:
        task_id, attempt_id = task.task_id, fines.ended.attempt.id
        match duty:
            case PostFines(ordinal, is_closing, root):
                # Each attempt has two votes; they are told apart as two ballots are.
                key = JobKey(task_id, JobKind.FINES, attempt_id, int(is_closing))
                call = partial(miner_seats.post_fines, task_id, ordinal, root)
                return self._votes.build(task, key, call)
            case ImposeFines(ordinal, batch, proven):
                key = JobKey(task_id, JobKind.SLASH, attempt_id, commitment_index=batch)
                impose = partial(miner_seats.slash, task_id, ordinal, proven)
                note = partial(_note_refusal, fines, proven)
                return self._votes.build(task, key, impose, SLASH_GAS, on_refusal=note)
            case _:
                assert_never(duty)

    def _list_late_jobs(
        self, task: ServedTask, fines: AttemptFines, head: BlockNumber
    ) -> list[Job]:
        """Checks of accused gradients that this node owes a word on, then its late verdicts."""
        attempt, indices = fines.ended.attempt, fines.open_words
        checks = task.work.checks.get(attempt.id, {})
        # A validator that cannot check the task's gradients says nothing late.
        open_checks = [i for i in indices if i not in checks] if task.work.may_check else []
        is_hurry = head >= fines.ended.late_until - HURRY_BLOCKS
        if open_checks and not is_hurry:
            return self._list_checks(task, attempt, open_checks)
        found = {i: checks[i].verdict for i in indices if i in checks}
        if not any(verdict in LATE_VERDICTS for verdict in found.values()):
            return []
        key = JobKey(task.task_id, JobKind.LATE, attempt.id)
        return [self._votes.build(task, key, partial(_build_late_verdicts, attempt, found))]

    def _list_checks(self, task: ServedTask, attempt: Attempt, indices: Sequence[int]) -> list[Job]:
        """Checks of gradients of an ended attempt, and the search for their reveals."""
        known = self._gradients.get_reveals(attempt)
        jobs = [
            Job(
                JobKey(task.task_id, JobKind.CHECK, attempt.id, commitment_index=i),
                partial(self._gradients.check, task, attempt, i),
            )
            for i in islice((i for i in indices if i in known.opened), LATE_CHECKS_LIMIT)
        ]
        if not all(i in known.opened for i in indices):
            find = partial(self._gradients.find_reveals, task, attempt)
            jobs.append(Job(JobKey(task.task_id, JobKind.REVEALS, attempt.id), find))
        return jobs

    def _list_seat_jobs(self, task: ServedTask, head: BlockNumber) -> list[Job]:
        """The job that ends seats, once in each attempt and in this operator's turn."""
        attempt = task.history.attempt
        own_index = self._index.validator_set.find_operator(self._votes.operator.address)
        if attempt is None or own_index is None or task.work.seats_checked >= attempt.ordinal:
            return []
        place = (own_index - attempt.id.round_number) % len(self._index.validator_set.validators)
        if head < attempt.open_block + TURN_BLOCKS * place:
            return []

        async def send() -> None:
            over = await trio.to_thread.run_sync(
                self._contracts.read, miner_seats.list_over(task.task_id, MAX_ENDED_SEATS)
            )
            if not over:
                task.work.seats_checked = max(task.work.seats_checked, attempt.ordinal)
                return
            call = partial(miner_seats.end_seats, task.task_id, over)
            key = JobKey(task.task_id, JobKind.END_SEATS, attempt.id)
            await self._votes.build(task, key, call, SLASH_GAS).run()
            raise UnavailableError("the seats have not ended in a final block yet")

        return [Job(JobKey(task.task_id, JobKind.END_SEATS, attempt.id), send)]


def _note_refusal(
    fines: AttemptFines, proven: Sequence[tuple[Fine, tuple[Hash32, ...]]], refusal: str
) -> None:
    """Remember that there is nothing to take for some fines, so that they are not tried again.

    That stays true: a miner that comes back has a new seat, which answers for later attempts only.
    """
    if refusal == NOTHING_TO_FINE:
        fines.hopeless.update(fine for fine, _ in proven)


def _build_late_verdicts(attempt: Attempt, found: dict[int, Verdict]) -> ContractCall:
    verdicts = [found.get(i, Verdict.UNCHECKED) for i in range(len(attempt.commitments))]
    return gradient_ledger.post_late_verdict(
        attempt.id.task_id, attempt.ordinal, encode_verdicts(verdicts)
    )
