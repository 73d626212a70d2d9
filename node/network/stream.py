"""A stream of length-prefixed frames to one peer (docs/spec/wire.md, section 1)."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final, NewType, Protocol

import trio

from chain.errors import InvalidMessage, RejectionReason
from node.network.limits import Meter

PeerId = NewType("PeerId", str)
"""The base58 text of a libp2p peer id: the multihash of the peer's Ed25519 host key."""

LENGTH_BYTES: Final = 4
"""A big-endian u32 before every frame."""

READ_BYTES: Final = 2**16
"""What one read asks for: Yamux's largest frame."""


class StreamClosedError(Exception):
    """The stream ended: the peer closed or reset it, or the connection is gone."""


class UnreachablePeerError(Exception):
    """The peer cannot be reached, does not speak the protocol, or does not answer."""


class ByteStream(Protocol):
    """Ordered bytes in both directions; any method may raise StreamClosedError."""

    async def receive_some(self, max_bytes: int) -> bytes:
        """Between 1 and `max_bytes` bytes; none at the end of the stream."""

    async def send_all(self, data: bytes) -> None:
        """Send `data`, waiting while the peer's window is full."""

    async def close(self) -> None:
        """Announce that nothing more will be sent."""

    async def reset(self) -> None:
        """End both directions at once."""


class FrameStream:
    """Frames over a byte stream: one task reads, any number of tasks write."""

    def __init__(self, byte_stream: ByteStream, peer_id: PeerId) -> None:
        self.peer_id = peer_id
        self.meter: Meter | None = None
        """None until the peer has a session."""
        self._byte_stream = byte_stream
        self._buffer = bytearray()
        self._write_lock = trio.Lock()

    async def read_exactly(self, count: int) -> bytes:
        """The next `count` bytes.

        Raises:
            StreamClosedError: The stream ended before them.
        """
        while len(self._buffer) < count:
            piece = await self._byte_stream.receive_some(READ_BYTES)
            if not piece:
                raise StreamClosedError("the peer closed the stream")
            self._buffer += piece
        data = bytes(memoryview(self._buffer)[:count])
        del self._buffer[:count]
        return data

    async def read_frame(self, limit_bytes: int) -> bytes:
        """The next frame's payload.

        Raises:
            StreamClosedError: The stream ended before it.
            InvalidMessage: TOO_LARGE. The length is checked before the payload is read.
        """
        length = int.from_bytes(await self.read_exactly(LENGTH_BYTES), "big")
        if length > limit_bytes:
            raise InvalidMessage(
                RejectionReason.TOO_LARGE, f"a frame of {length} bytes, limit {limit_bytes}"
            )
        payload = await self.read_exactly(length)
        if self.meter is not None:
            await self.meter.on_received(LENGTH_BYTES + length)
        return payload

    async def write_frame(self, payload: bytes) -> None:
        """Send one frame.

        Raises:
            StreamClosedError: The stream ended.
        """
        await self.write_frames([payload])

    async def write_frames(self, payloads: list[bytes]) -> None:
        """Send several frames in one write.

        Raises:
            StreamClosedError: The stream ended.
        """
        data = b"".join(
            part
            for payload in payloads
            for part in (len(payload).to_bytes(LENGTH_BYTES, "big"), payload)
        )
        if self.meter is not None:
            await self.meter.on_sending(len(payloads), len(data))
        async with self._write_lock:
            await self._byte_stream.send_all(data)

    async def close(self) -> None:
        """Announce that nothing more will be sent; never raises."""
        await self._byte_stream.close()

    async def reset(self) -> None:
        """End both directions at once; never raises."""
        await self._byte_stream.reset()


OpenStream = Callable[[str], Awaitable[FrameStream]]
"""Opens a stream of a protocol to one certain peer, or raises UnreachablePeerError."""

StreamHandler = Callable[[FrameStream], Awaitable[None]]
"""Serves one inbound stream; an exception from it ends only that stream."""


class Host(Protocol):
    """What the protocols need from libp2p; tests use a host in memory."""

    @property
    def peer_id(self) -> PeerId:
        """The peer id of this node."""

    def run(self) -> AbstractAsyncContextManager[None]:
        """Listen while the `with` block runs."""

    def listen_addresses(self) -> tuple[str, ...]:
        """The full multiaddresses of this node, with the `/p2p/` part."""

    def connected_peers(self) -> tuple[PeerId, ...]:
        """Peers with at least one open connection, sorted."""

    def inbound_connections(self) -> tuple[int, Mapping[str, int]]:
        """The number of open ones, and of those closed without a session, by reason."""

    def set_handler(self, protocol_id: str, handler: StreamHandler) -> None:
        """Serve a protocol; called before the host runs."""

    async def dial(self, peer_id: PeerId, address: str) -> None:
        """Connect to `peer_id` at a full multiaddress.

        Raises:
            UnreachablePeerError: No node with that peer id answers there.
        """

    async def open_stream(self, peer_id: PeerId, protocol_id: str) -> FrameStream:
        """A new stream over an existing connection.

        Raises:
            UnreachablePeerError: No connection, or the peer does not speak the protocol.
        """

    def keep(self, peer_id: PeerId, *, is_validator: bool) -> None:
        """Mark the peer as one with a session, so that its connection is not closed for others."""

    async def disconnect(self, peer_id: PeerId) -> None:
        """Close every connection to the peer; never raises."""
