"""The queue of inputs for the replica."""

from contextlib import suppress
from typing import Final

import structlog
import trio

from chain.consensus.inputs import Input, NewNumber
from node.consensus.performer import Received
from node.metrics.registry import NodeMetrics

INPUT_LIMIT: Final = 1_024
"""Limit of inputs in the queue. When it is full, the streams of peers wait."""

_log = structlog.get_logger("node.consensus")


class InputQueue:
    """A bounded queue, with a place beside it for `NewNumber` that peers cannot fill."""

    def __init__(self, metrics: NodeMetrics) -> None:
        self._metrics = metrics
        self._send, self._receive = trio.open_memory_channel[Input | Received | None](INPUT_LIMIT)
        self._new_number: NewNumber | None = None
        """Kept outside the queue, because the replica would wait for ever if it were dropped."""

    def __len__(self) -> int:
        return self._send.statistics().current_buffer_used

    async def put(self, event: Input | Received) -> None:
        """Add an input; wait while the queue is full."""
        await self._send.send(event)

    def put_at_once(self, event: Input | Received) -> None:
        """Add an input of this node itself; drop and log it if the queue is full."""
        try:
            self._send.send_nowait(event)
        except trio.WouldBlock:
            self._metrics.dropped_inputs.inc()
            _log.error("consensus input dropped", kind=type(event).__name__)

    def put_first(self, new_number: NewNumber) -> None:
        """Add a `NewNumber`, which the replica gets before all other inputs; never fails."""
        self._new_number = new_number
        with suppress(trio.WouldBlock):  # a full queue wakes the replica as well
            self._send.send_nowait(None)

    async def take(self) -> list[Input | Received]:
        """The next inputs in order; waits until there is one."""
        event = await self._receive.receive()
        new_number, self._new_number = self._new_number, None
        return [each for each in (new_number, event) if each is not None]
