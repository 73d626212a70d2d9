"""/pot/pieces/1: parts of large consensus messages (docs/spec/wire.md, section 4).

Apart from /pot/consensus/1, so that votes do not wait behind blocks.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

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
from node.network.protocols.consensus import ConsensusHandler, ConsensusLinks, OpenStream
from node.network.stream import FrameStream

if TYPE_CHECKING:
    # The stubs that py-libp2p's dependency installs hide trio's own types from the checker.
    from trio_typing import TaskStatus

PROTOCOL_ID: Final = "/pot/pieces/1"
"""Opened by the sender; the receiver never writes to it."""

WAITING_LIMIT: Final = 4
"""Messages of ours that wait to be cut up; more are sent whole."""

RELAYED_BYTES_PER_SECOND: Final = 2.0 * 2**20
"""Bytes of one author's messages whose pieces are passed on; an author proposes each n-th block.

Who cuts up rubbish would else have everybody send it to everybody.
"""

RELAYED_BURST_BYTES: Final = 32.0 * 2**20
"""So many at once: four messages of the largest size."""

_log = structlog.get_logger("node.network")


class PieceLinks:
    """Sends large messages to every validator in pieces, and puts together what they send."""

    def __init__(
        self, *, own_address: Address | None, handle: ConsensusHandler, metrics: NetworkMetrics
    ) -> None:
        self._handle = handle
        self._metrics = metrics
        self._dissemination = Dissemination(own_address)
        self._allowances: dict[Address, Allowance] = {}
        """By author: what is passed on of its messages."""
        self._links = ConsensusLinks(
            own_address=own_address,
            handle=self._take,
            metrics=metrics,
            protocol_id=PROTOCOL_ID,
            frame_limit_bytes=PIECE_FRAME_LIMIT_BYTES,
        )
        self._send_waiting, self._receive_waiting = trio.open_memory_channel[bytes](WAITING_LIMIT)

    def set_validators(self, addresses: Iterable[Address]) -> None:
        """Say who takes part in consensus now."""
        validators = tuple(addresses)
        self._dissemination.set_validators(validators)
        self._allowances = {
            address: self._allowances.get(address)
            or Allowance(per_second=RELAYED_BYTES_PER_SECOND, burst=RELAYED_BURST_BYTES)
            for address in validators
        }
        self._links.set_validators(validators)

    def broadcast(self, message: bytes) -> bool:
        """Take a message for every other validator; False if it is better sent whole."""
        if not self._dissemination.begin(message, trio.current_time()):
            return False
        try:
            self._send_waiting.send_nowait(message)
        except trio.WouldBlock:
            return False
        return True

    def is_spreading(self, message: bytes) -> bool:
        """Whether whoever lacks this message of ours will have it from the pieces."""
        return self._dissemination.is_spreading(message, trio.current_time())

    async def run(self, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Cut up what was taken, until cancelled."""
        task_status.started()
        async for message in self._receive_waiting:
            for address, frame in await trio.to_thread.run_sync(self._dissemination.cut, message):
                self._links.send(address, frame)

    async def run_outbound(self, address: Address, open_stream: OpenStream) -> None:
        """Send what is queued for a validator, for as long as its session lasts."""
        await self._links.run_outbound(address, open_stream)

    async def serve(self, stream: FrameStream, address: Address) -> None:
        """Take the pieces that a validator sends.

        Raises:
            RejectedInputError: it sent what is no piece.
            StreamClosedError: the validator left.
        """
        await self._links.serve(stream, address)

    async def _take(self, sender: Address, frame: bytes) -> None:
        piece = decode_piece(frame)
        try:
            taken = self._dissemination.take(sender, piece)
        except RejectedInputError as error:
            # It may know another validator set, for a block or two: counted, not held against it.
            self._metrics.rejections[error.reason] += 1
            return
        if taken.relay_to:
            self._relay(piece.name, frame, taken.relay_to)
        if taken.complete is not None:
            await self._deliver(taken.complete)

    def _relay(self, name: MessageName, frame: bytes, receivers: Iterable[Address]) -> None:
        """Pass on our piece, unless its author has us pass on too much."""
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
            # Whose piece came last is not to blame for what the author cut up.
            self._metrics.rejections[error.reason] += 1
            author = to_hex(complete.name.author)
            _log.warning("message in pieces refused", author=author, error=str(error))
