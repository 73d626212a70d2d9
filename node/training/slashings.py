"""What an operator does about misses and frauds (docs/spec/contracts.md, section 6).

It gives late verdicts on accused gradients, votes on the fines of attempts, imposes approved ones,
and ends the seats of miners that missed twice. For the last two operators take turns.
"""

from collections.abc import Sequence
from functools import partial
from typing import Final, assert_never

import trio

from chain.contracts import gradient_ledger, miner_seats
from chain.contracts.abi import ContractCall
from chain.contracts.miner_seats import MAX_ENDED_SEATS
from chain.primitives import BlockNumber
from chain.training.acceptance import Verdict, encode_verdicts
from chain.training.attempt import AttemptId
from chain.training.attempt_records import Attempt, EndedAttempt
from chain.training.rounds import TURN_BLOCKS
from chain.training.slashing import (
    HURRY_BLOCKS,
    LATE_VERDICTS,
    ImposeFines,
    PostFines,
    list_open_words,
    plan_fines,
)
from node.chain.contract_reader import ContractReader
from node.chain.training_index import TrainingIndex
from node.training.gradients import Gradients
from node.training.votes import SLASH_GAS, OperatorVotes
from node.training.work import Job, JobKey, JobKind, ServedTask, UnavailableError

LATE_CHECKS_LIMIT: Final = 16
"""The most accused gradients that are checked at once for late verdicts: rounds in progress come
first."""


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
        """The jobs that a task asks for at the head."""
        head, planned = self._contracts.head_number(), task.work.fines_planned
        jobs = self._list_seat_jobs(task, head)
        task.work.fines_planned = {
            each.attempt.ordinal: planned[each.attempt.ordinal]
            for each in task.history.ended
            if each.attempt.ordinal in planned
        }
        for ended in task.history.ended:
            ordinal = ended.attempt.ordinal
            jobs += self._list_late_jobs(task, ended, head)
            if task.work.fines_planned.get(ordinal) != head:
                task.work.fines_planned[ordinal] = head
                jobs += self._list_fine_jobs(task, ended, head)
        return jobs

    def _list_fine_jobs(
        self, task: ServedTask, ended: EndedAttempt, head: BlockNumber
    ) -> list[Job]:
        attempt_id = ended.attempt.id
        duties = plan_fines(self._chain_id, ended, self._votes.operator.address, head)
        return [self._build_fine_job(task, attempt_id, duty) for duty in duties]

    def _build_fine_job(
        self, task: ServedTask, attempt_id: AttemptId, duty: PostFines | ImposeFines
    ) -> Job:
        task_id = task.task_id
        match duty:
            case PostFines(ordinal, is_closing, root):
                # Each attempt has two votes; they are told apart as two ballots are.
                key = JobKey(task_id, JobKind.FINES, attempt_id, int(is_closing))
                call = partial(miner_seats.post_fines, task_id, ordinal, root)
                return self._votes.build(task, key, call)
            case ImposeFines(ordinal, batch, fines):
                key = JobKey(task_id, JobKind.SLASH, attempt_id, commitment_index=batch)
                impose = partial(miner_seats.slash, task_id, ordinal, fines)
                return self._votes.build(task, key, impose, SLASH_GAS)
            case _:
                assert_never(duty)

    def _list_late_jobs(
        self, task: ServedTask, ended: EndedAttempt, head: BlockNumber
    ) -> list[Job]:
        """Checks of accused gradients that this node owes a word on, then its late verdicts."""
        own_index = ended.validator_set.find_operator(self._votes.operator.address)
        if own_index is None or head >= ended.late_until:
            return []
        attempt, work = ended.attempt, task.work
        indices = list_open_words(ended, ended.validator_set.validators[own_index])
        open_checks = [i for i in indices if (attempt.id, i) not in work.checks]
        is_hurry = head >= ended.late_until - HURRY_BLOCKS
        if open_checks and not is_hurry:
            return self._list_checks(task, attempt, open_checks[:LATE_CHECKS_LIMIT])
        found = {i: work.checks[attempt.id, i].verdict for i in indices if i not in open_checks}
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
            for i in indices
            if i in known.opened
        ]
        if len(jobs) < len(indices):
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


def _build_late_verdicts(attempt: Attempt, found: dict[int, Verdict]) -> ContractCall:
    verdicts = [found.get(i, Verdict.UNCHECKED) for i in range(len(attempt.commitments))]
    return gradient_ledger.post_late_verdict(
        attempt.id.task_id, attempt.ordinal, encode_verdicts(verdicts)
    )
