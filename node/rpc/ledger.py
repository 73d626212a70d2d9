"""What system contracts say of tasks, through the call workers (docs/spec/rpc.md, section 2)."""

import time
from typing import Final

from cachetools import FIFOCache

from chain.contracts.abi import decode_uint
from chain.contracts.addresses import GRADIENT_LEDGER, REWARD_DISTRIBUTOR, TASK_REGISTRY
from chain.contracts.gradient_ledger import (
    Deadline,
    Phase,
    RoundState,
    decode_deadline,
    decode_participants,
    decode_round,
    encode_deadline,
    encode_get_round,
    encode_participants,
    encode_phase,
)
from chain.contracts.reward_distributor import encode_claimed_of
from chain.contracts.task_registry import (
    TaskAccount,
    TaskTerms,
    decode_account,
    decode_terms,
    encode_get_account,
    encode_get_terms,
)
from chain.execution.call_values import CallRequest
from chain.primitives import Address, BlockNumber, TaskId
from chain.types.header import Header
from node.rpc.calls import CallExecutor
from node.rpc.chain_view import ChainView
from node.rpc.errors import header_not_found

CACHED_ATTEMPTS: Final = 256
"""Attempts whose participants are kept: they never change once the attempt is open."""

CACHED_TASKS: Final = 256
"""Tasks whose phase is kept until the next block or second."""


class LedgerView:
    """Views of the predeployed contracts."""

    def __init__(self, chain: ChainView, calls: CallExecutor) -> None:
        self._chain = chain
        self._calls = calls
        self._participants: FIFOCache[
            tuple[TaskId, BlockNumber], tuple[tuple[Address, int], ...]
        ] = FIFOCache(CACHED_ATTEMPTS)
        self._phases: FIFOCache[TaskId, tuple[tuple[BlockNumber, int], Phase, Deadline]] = (
            FIFOCache(CACHED_TASKS)
        )

    async def phase(self, task_id: TaskId) -> tuple[Phase, Deadline]:
        """The phase as the next block will find it, and when it ends."""
        moment = (self._chain.store.head_number(), int(time.time()))
        known = self._phases.get(task_id)
        if known is None or known[0] != moment:
            phase = await self._call(GRADIENT_LEDGER, encode_phase(task_id))
            deadline = await self._call(GRADIENT_LEDGER, encode_deadline(task_id))
            known = (
                moment,
                Phase(decode_uint(phase)),
                decode_deadline(deadline),
            )
            self._phases[task_id] = known
        return known[1], known[2]

    async def terms(self, task_id: TaskId) -> TaskTerms:
        """What settlement goes by."""
        answer = await self._call(TASK_REGISTRY, encode_get_terms(task_id))
        return decode_terms(answer)

    async def account(self, task_id: TaskId) -> TaskAccount:
        """The task's money and status."""
        answer = await self._call(TASK_REGISTRY, encode_get_account(task_id))
        return decode_account(answer)

    async def round(self, task_id: TaskId) -> RoundState:
        """The round in progress."""
        answer = await self._call(GRADIENT_LEDGER, encode_get_round(task_id))
        return decode_round(answer)

    async def claimed(self, task_id: TaskId, account: Address) -> int:
        """What an account has claimed in all, base units."""
        answer = await self._call(REWARD_DISTRIBUTOR, encode_claimed_of(task_id, account))
        return decode_uint(answer)

    async def participants(
        self, task_id: TaskId, open_block: BlockNumber
    ) -> tuple[tuple[Address, int], ...]:
        """Who takes part in the attempt that opened in `open_block`, with declared units."""
        key = (task_id, open_block)
        if key not in self._participants:
            header = self._chain.store.header(open_block)
            if header is None:
                raise header_not_found()
            answer = await self._call(GRADIENT_LEDGER, encode_participants(task_id), header)
            self._participants[key] = tuple(
                (each.miner, each.units) for each in decode_participants(answer)
            )
        return self._participants[key]

    async def _call(self, to: Address, call_data: bytes, header: Header | None = None) -> bytes:
        return await self._calls.call(
            header or self._chain.head(),
            CallRequest(to=to, data=call_data),
            {},
            is_pending=header is None,
        )
