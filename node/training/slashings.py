"""Slashing the miners that an attempt found guilty (docs/spec/contracts.md, section 6).

The operators take turns: each sends the verdicts and commitments of the attempt to the ledger.
"""

from functools import partial
from typing import Final

from chain.contracts.gradient_ledger import EVIDENCE_BALLOTS
from chain.training.history import EndedAttempt
from chain.training.slashing import plan_slashing
from node.chain.contract_reader import ContractReader
from node.chain.training_index import TrainingIndex
from node.operator.account import RESEND_BLOCKS
from node.training.votes import OperatorVotes
from node.training.work import Job, JobKey, JobKind, ServedTask, UnavailableError

SLASH_LIMIT: Final = 32
"""The most slash calls that are sent together; each contains all commitments of the round."""


class Slashings:
    """Builds the slash calls of one operator."""

    def __init__(
        self, index: TrainingIndex, contracts: ContractReader, votes: OperatorVotes
    ) -> None:
        self._index = index
        self._contracts = contracts
        self._votes = votes

    def list_jobs(self, task: ServedTask) -> list[Job]:
        """One job for each attempt with miners that are still to be slashed."""
        history, work = task.history, task.work
        too_old = history.rounds_settled - EVIDENCE_BALLOTS - 1
        work.slashed_through = max(work.slashed_through, too_old)
        jobs: list[Job] = []
        for round_number in range(work.slashed_through + 1, history.rounds_settled):
            settled = self._index.settled_round(history.task_id, round_number)
            # `settled` is None if the round ended before the snapshot that this node began with.
            # Then the other validators slash.
            job = None
            if settled is not None:
                job = self._find_job(task, EndedAttempt(settled.attempt, settled.block_number))
            if job is not None:
                jobs.append(job)
            elif round_number == work.slashed_through + 1:
                work.slashed_through = round_number
        work.slashed_voids &= {ended.attempt.id for ended in history.voided}
        for ended in history.voided:
            if ended.attempt.id not in work.slashed_voids:
                job = self._find_job(task, ended)
                jobs += [] if job is None else [job]
        return jobs

    def _find_job(self, task: ServedTask, ended: EndedAttempt) -> Job | None:
        """The job that slashes the guilty miners of an attempt; None if there are none."""
        operator = self._votes.operator.address
        plan = plan_slashing(ended, task.spec, self._index.validator_set, operator)
        is_final = self._contracts.head_number() >= ended.block_number
        if plan is None or not is_final:
            return None

        async def send() -> None:
            if self._contracts.head_number() < plan.due_block:
                raise UnavailableError("it is another operator's turn")
            sent_count = 0
            for i in plan.guilty:
                key = JobKey(task.task_id, JobKind.SLASH, plan.attempt_id, commitment_index=i)
                try:
                    await self._votes.build(task, key, partial(plan.build_call, i)).run()
                except UnavailableError:
                    continue  # slashed by another operator, or the evidence is too old
                sent_count += 1
                if sent_count == SLASH_LIMIT:
                    break
            # Repeat until no call is left, because a transaction may be lost.
            if not sent_count and self._contracts.head_number() >= plan.due_block + RESEND_BLOCKS:
                if ended in task.history.voided:
                    task.work.slashed_voids.add(plan.attempt_id)
                else:
                    round_number = plan.attempt_id.round_number
                    task.work.slashed_through = max(task.work.slashed_through, round_number)
            else:
                raise UnavailableError("not all slashings are final yet")

        return Job(JobKey(task.task_id, JobKind.SLASH, plan.attempt_id), send)
