"""/pot/pieces/1: coded pieces of large consensus messages (docs/spec/wire.md, section 4).

The protocol has streams of its own, so that votes do not wait behind blocks.
"""

from collections.abc import Iterable
from typing import Final

import structlog
import trio

from chain.errors import RejectedInputError
from chain.hexadecimal import to_hex
from chain.primitives import Address
from node.network.budget import Allowance
from node.network.metrics import NetworkMetrics
from node.network.pieces.dissemination import (
    PIECE_FRAME_LIMIT_BYTES,
    Complete,
    Dissemination,
    MessageName,
    decode_piece,
)
from node.network.protocols.consensus import ConsensusHandler, ConsensusLinks
from node.network.stream import FrameStream, OpenStream
from node.trio_types import TaskStatus

PROTOCOL_ID: Final = "/pot/pieces/1"
"""Opened by the sender; the receiver never writes to it."""

WAITING_LIMIT: Final = 4
"""Messages of this node that wait to be cut into pieces; more are sent whole."""

RELAYED_BYTES_PER_SECOND: Final = 2.0 * 2**20
"""The limit on messages that this node relays in pieces, for each author, in bytes a second.
Of n validators, each proposes every n-th block. Without a limit, a faulty author could fill the
lines of all validators.
"""

RELAYED_BURST_BYTES: Final = 32.0 * 2**20
"""The limit on bytes that are relayed at once for one author: four messages of the largest size."""

_log = structlog.get_logger("node.network")


class PieceLinks:
    """Sends large messages to all validators in coded pieces, and reassembles theirs."""

    def __init__(
        self, *, own_address: Address | None, handle: ConsensusHandler, metrics: NetworkMetrics
    ) -> None:
        self._handle = handle
        self._metrics = metrics
        self._dissemination = Dissemination(own_address)
        self._allowances: dict[Address, Allowance] = {}
        """The budget of relayed bytes of each author."""
        self._links = ConsensusLinks(
            own_address=own_address,
            handle=self._take,
            metrics=metrics,
            protocol_id=PROTOCOL_ID,
            frame_limit_bytes=PIECE_FRAME_LIMIT_BYTES,
        )
        self._send_waiting, self._receive_waiting = trio.open_memory_channel[bytes](WAITING_LIMIT)

    def set_validators(self, addresses: Iterable[Address]) -> None:
        """Set the current validators."""
        validators = tuple(addresses)
        self._dissemination.set_validators(validators)
        self._allowances = {
            address: self._allowances.get(address)
            or Allowance(per_second=RELAYED_BYTES_PER_SECOND, burst=RELAYED_BURST_BYTES)
            for address in validators
        }
        self._links.set_validators(validators)

    def broadcast(self, message: bytes) -> bool:
        """Queue a message for all other validators; False if it must be sent whole."""
        if not self._dissemination.begin(message, trio.current_time()):
            return False
        try:
            self._send_waiting.send_nowait(message)
        except trio.WouldBlock:
            return False
        return True

    def is_spreading(self, message: bytes) -> bool:
        """Whether the pieces of this message of ours are still on their way."""
        return self._dissemination.is_spreading(message, trio.current_time())

    async def run(self, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Cut queued messages into pieces and send these, until cancelled."""
        task_status.started()
        async for message in self._receive_waiting:
            for address, frame in await trio.to_thread.run_sync(self._dissemination.cut, message):
                self._links.send(address, frame)

    async def run_outbound(self, address: Address, open_stream: OpenStream) -> None:
        """Send the queued pieces of a validator, until cancelled at the end of its session."""
        await self._links.run_outbound(address, open_stream)

    async def serve(self, stream: FrameStream, address: Address) -> None:
        """Process the pieces that a validator sends.

        Raises:
            RejectedInputError: A frame does not decode to a piece.
            StreamClosedError: The validator left.
        """
        await self._links.serve(stream, address)

    async def _take(self, sender: Address, frame: bytes) -> None:
        piece = decode_piece(frame)
        try:
            taken = self._dissemination.take(sender, piece)
        except RejectedInputError as error:
            # The sender may know another validator set for a block or two: it loses no points.
            self._metrics.rejections[error.reason] += 1
            return
        if taken.relay_to:
            self._relay(piece.name, frame, taken.relay_to)
        if taken.complete is not None:
            await self._deliver(taken.complete)

    def _relay(self, name: MessageName, frame: bytes, receivers: Iterable[Address]) -> None:
        """Relay our own piece, unless its author exceeds its rate."""
        if not self._allowances[name.author].take(trio.current_time(), name.size_bytes):
            self._metrics.pieces_withheld += 1
            return
        for address in receivers:
            self._links.send(address, frame)

    async def _deliver(self, complete: Complete) -> None:
        try:
            message = await trio.to_thread.run_sync(complete.decode)
            await self._handle(complete.name.author, message)
        except RejectedInputError as error:
            # The author is at fault for a bad message, not the relay that sent the last piece.
            self._metrics.rejections[error.reason] += 1
            author = to_hex(complete.name.author)
            _log.warning("message in pieces refused", author=author, error=str(error))
