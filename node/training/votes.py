"""Sending the operator's votes on tasks (docs/spec/training.md, section 10).

A vote is first executed on the head's state, and sent again if no block includes it.
"""

from collections.abc import Callable
from typing import Final

import structlog
import trio

from chain.contracts.abi import ContractCall
from node.chain.contract_reader import ContractReader
from node.operator.account import RESEND_BLOCKS, Operator
from node.training.work import Job, JobKey, UnavailableError, VotedTask

VOTE_GAS: Final = 1_500_000
"""The gas limit of an operator's vote; the most expensive one takes less."""

SLASH_GAS: Final = 9_000_000
"""The gas limit of a call that imposes fines: sixteen frauds that 100 validators accuse of take 6.7
million, sixteen misses 1.2 million."""

_log = structlog.get_logger("node.training")


class OperatorVotes:
    """Builds the jobs that send one operator's calls."""

    def __init__(self, operator: Operator, contracts: ContractReader) -> None:
        self.operator = operator
        self._contracts = contracts

    def build(
        self,
        task: VotedTask,
        key: JobKey,
        make_call: Callable[[], ContractCall],
        gas_limit: int = VOTE_GAS,
        *,
        on_refusal: Callable[[str], None] = lambda _error: None,
    ) -> Job:
        """The job that sends a call, unless it was sent a moment ago or would revert.

        Args:
            task: The task that the call is about.
            key: The identity of the job.
            make_call: Returns the call.
            gas_limit: The gas limit of the transaction.
            on_refusal: Called with the error's name if the call would revert.
        """
        work, attempt = task.work, task.history.attempt

        async def send() -> None:
            head = self._contracts.head_number()
            sent_at = work.sent.get(key)
            if sent_at is not None and head < sent_at + RESEND_BLOCKS:
                raise UnavailableError(f"{key} waits for a block")
            call = make_call()
            refusal = await trio.to_thread.run_sync(
                self._contracts.simulate, self.operator.address, call, gas_limit
            )
            if refusal is not None:
                on_refusal(refusal)
                # Another operator was faster or the phase is over; the next duties show which.
                raise UnavailableError(f"{key} would revert: {refusal}")
            await self.operator.send(call, gas_limit)
            work.sent = {
                each: sent for each, sent in work.sent.items() if head < sent + RESEND_BLOCKS
            }
            work.sent[key] = head
            _log.info(
                "operator vote sent",
                vote=key.kind.value,
                task=task.task_id,
                round=None if attempt is None else attempt.id.round_number,
            )

        return Job(key, send)
