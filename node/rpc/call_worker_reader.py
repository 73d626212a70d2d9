"""Reads of the system contracts through the call workers (docs/spec/rpc.md, section 2)."""

import time
from typing import Final, TypeVar

from cachetools import FIFOCache

from chain.contracts import gradient_ledger, miner_seats
from chain.contracts.abi import ContractView
from chain.execution.call_values import CallRequest
from chain.primitives import Address, BlockNumber, TaskId
from chain.types.header import Header
from node.chain.phase_cache import PhaseCache, TaskPhase
from node.rpc.calls import CallExecutor
from node.rpc.chain_view import ChainView
from node.rpc.errors import header_not_found

T = TypeVar("T")
"""The type of a view's result."""

CACHED_ATTEMPTS: Final = 256
"""Limit of attempts with cached participants, which never change once the attempt is open."""


class CallWorkerReader:
    """Calls views of the system contracts, in call workers."""

    def __init__(self, chain: ChainView, calls: CallExecutor) -> None:
        self._chain = chain
        self._calls = calls
        self._participants: FIFOCache[
            tuple[TaskId, BlockNumber], tuple[tuple[Address, int], ...]
        ] = FIFOCache(CACHED_ATTEMPTS)
        self._seats: FIFOCache[tuple[TaskId, BlockNumber], tuple[Address, ...]] = FIFOCache(
            CACHED_ATTEMPTS
        )
        self._phases = PhaseCache()

    async def read(self, view: ContractView[T], header: Header | None = None) -> T:
        """The result of a view.

        Args:
            view: The view with its arguments.
            header: The block after which the view is called; None if it is called in the next
                block, on top of the head.

        Raises:
            RpcError: The contract fails, or no worker answers in time.
        """
        answer = await self._calls.call(
            header or self._chain.head(),
            CallRequest(to=view.to, data=view.data),
            {},
            is_pending=header is None,
        )
        return view.decode(answer)

    async def phase(self, task_id: TaskId) -> TaskPhase:
        """The phase of a task in the next block, and the deadline of that phase."""
        moment = (self._chain.store.head_number(), int(time.time()))
        phase = self._phases.find(task_id, moment)
        if phase is None:
            phase = (
                await self.read(gradient_ledger.phase(task_id)),
                await self.read(gradient_ledger.deadline(task_id)),
            )
            self._phases.keep(task_id, moment, phase)
        return phase

    async def participants(
        self, task_id: TaskId, open_block: BlockNumber
    ) -> tuple[tuple[Address, int], ...]:
        """The miners of the attempt that opened in `open_block`, with their declared units."""
        key = (task_id, open_block)
        if key not in self._participants:
            header = self._get_header(open_block)
            found = await self.read(miner_seats.participants(task_id), header)
            self._participants[key] = tuple((each.miner, each.units) for each in found)
        return self._participants[key]

    async def seats(self, task_id: TaskId, block: BlockNumber) -> tuple[Address, ...]:
        """The miners that have seats after a final block, by address."""
        key = (task_id, block)
        if key not in self._seats:
            found = await self.read(miner_seats.list_seats(task_id), self._get_header(block))
            self._seats[key] = tuple(each.miner for each in found)
        return self._seats[key]

    def _get_header(self, number: BlockNumber) -> Header:
        header = self._chain.store.header(number)
        if header is None:
            raise header_not_found()
        return header
