"""The inputs that wait for the replica, in one queue."""

from contextlib import suppress
from typing import Final

import structlog
import trio

from chain.consensus.inputs import Input, NewNumber
from node.consensus.performer import Received
from node.metrics.registry import NodeMetrics

INPUT_LIMIT: Final = 1_024
"""Inputs waiting for the replica; past it the streams of peers wait."""

_log = structlog.get_logger("node.consensus")


class InputQueue:
    """A bounded queue that peers may fill, and one place beside it that they cannot."""

    def __init__(self, metrics: NodeMetrics) -> None:
        self._metrics = metrics
        self._send, self._receive = trio.open_memory_channel[Input | Received | None](INPUT_LIMIT)
        self._new_number: NewNumber | None = None
        """Beside the queue: without this one input the replica would wait for ever."""

    def __len__(self) -> int:
        return self._send.statistics().current_buffer_used

    async def put(self, event: Input | Received) -> None:
        """Add an input as soon as there is room."""
        await self._send.send(event)

    def put_at_once(self, event: Input | Received) -> None:
        """Add an input of this node's own; it is dropped if there is no room."""
        try:
            self._send.send_nowait(event)
        except trio.WouldBlock:
            self._metrics.dropped_inputs.inc()
            _log.error("input dropped", kind=type(event).__name__)

    def put_first(self, new_number: NewNumber) -> None:
        """Have the replica begin a number before any other input; there is always room."""
        self._new_number = new_number
        with suppress(trio.WouldBlock):  # whatever waits there wakes the replica as well
            self._send.send_nowait(None)

    async def take(self) -> list[Input | Received]:
        """What the replica takes next, in order, once there is something."""
        event = await self._receive.receive()
        new_number, self._new_number = self._new_number, None
        return [each for each in (new_number, event) if each is not None]
