"""/pot/consensus/1: consensus messages, one stream each way (docs/spec/wire.md, section 4)."""

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Final

import trio

from chain.primitives import Address
from node.network.metrics import NetworkMetrics
from node.network.stream import (
    FrameStream,
    OpenStream,
    StreamClosedError,
    UnreachablePeerError,
)
from node.network.wire import CONSENSUS_FRAME_LIMIT_BYTES

PROTOCOL_ID: Final = "/pot/consensus/1"
"""Opened by the sender; the receiver never writes to it."""

QUEUE_FRAMES_LIMIT: Final = 4096
"""Frames queued for one validator: minutes of votes, after which the oldest is stale anyway."""

QUEUE_LIMIT_BYTES: Final = 4 * CONSENSUS_FRAME_LIMIT_BYTES
"""Bytes queued for one validator: a few full blocks. All queues share the bytes of a broadcast
message.
"""

COALESCE_BYTES: Final = 2**16
"""Queued frames are sent together in writes of about this size."""

REOPEN_SECONDS: Final = 0.5
"""The wait after a stream has ended until the next is opened."""

ConsensusHandler = Callable[[Address, bytes], Awaitable[None]]
"""Takes one frame and the validator that sent it, who need not be its author."""


class OutboundQueue:
    """The frames queued for one validator; a full queue drops the oldest."""

    def __init__(self, metrics: NetworkMetrics) -> None:
        self._metrics = metrics
        self._frames: deque[bytes] = deque()
        self._size_bytes = 0
        self._filled = trio.Event()

    def put(self, frame: bytes) -> None:
        """Append a frame; never waits."""
        self._frames.append(frame)
        self._size_bytes += len(frame)
        while len(self._frames) > QUEUE_FRAMES_LIMIT or self._size_bytes > QUEUE_LIMIT_BYTES:
            self._size_bytes -= len(self._frames.popleft())
            self._metrics.consensus_frames_dropped += 1
        self._filled.set()

    def count(self) -> tuple[int, int]:
        """The number of queued frames, and their bytes."""
        return len(self._frames), self._size_bytes

    def restore(self, frames: list[bytes]) -> None:
        """Put back frames that were taken but not sent; the receiver may get some of them twice."""
        self._frames.extendleft(reversed(frames))
        self._size_bytes += sum(len(frame) for frame in frames)
        self._filled.set()

    async def take(self) -> list[bytes]:
        """Remove and return the oldest frames: at least one, about COALESCE_BYTES together."""
        while not self._frames:
            self._filled = trio.Event()
            await self._filled.wait()
        batch: list[bytes] = []
        room = COALESCE_BYTES
        while self._frames and (not batch or len(self._frames[0]) <= room):
            frame = self._frames.popleft()
            self._size_bytes -= len(frame)
            room -= len(frame)
            batch.append(frame)
        return batch


class ConsensusLinks:
    """The streams of one protocol to and from the other validators, and their queues."""

    def __init__(
        self,
        *,
        own_address: Address | None,
        handle: ConsensusHandler,
        metrics: NetworkMetrics,
        protocol_id: str = PROTOCOL_ID,
        frame_limit_bytes: int = CONSENSUS_FRAME_LIMIT_BYTES,
    ) -> None:
        self._own_address = own_address
        self._handle = handle
        self._metrics = metrics
        self._protocol_id = protocol_id
        self._frame_limit_bytes = frame_limit_bytes
        self._queues: dict[Address, OutboundQueue] = {}
        self._set_changed = trio.Event()

    def set_validators(self, addresses: Iterable[Address]) -> None:
        """Set the current validators: each other one gets a queue, all other queues are dropped."""
        self._queues = {
            address: self._queues.get(address) or OutboundQueue(self._metrics)
            for address in sorted(addresses)
            if address != self._own_address
        }
        self._set_changed.set()
        self._set_changed = trio.Event()

    def count_waiting(self) -> tuple[int, int]:
        """The number and bytes of frames queued for all validators."""
        sizes = [queue.count() for queue in self._queues.values()]
        return sum(frames for frames, _ in sizes), sum(size for _, size in sizes)

    def are_among(self, addresses: Collection[Address | None]) -> bool:
        """Whether `addresses` holds every other validator of the current set."""
        return all(address in addresses for address in self._queues)

    def is_validator(self, address: Address | None) -> bool:
        """Whether the address is another validator of the current set."""
        return address in self._queues

    def broadcast(self, payload: bytes) -> None:
        """Queue a message for every other validator."""
        self._check_size(payload)
        for queue in self._queues.values():
            queue.put(payload)

    def send(self, address: Address, payload: bytes) -> None:
        """Queue a message for one validator, unless it is not in the current set."""
        self._check_size(payload)
        if queue := self._queues.get(address):
            queue.put(payload)

    async def run_outbound(self, address: Address, open_stream: OpenStream) -> None:
        """Send the queued frames of a validator, until cancelled at the end of its session."""
        while True:
            # Read before the queue, so that no change is missed.
            changed = self._set_changed
            queue = self._queues.get(address)
            if queue is None:
                await changed.wait()
                continue
            try:
                await self._write(queue, address, await open_stream(self._protocol_id))
            except (StreamClosedError, UnreachablePeerError):
                await trio.sleep(REOPEN_SECONDS)

    async def _write(self, queue: OutboundQueue, address: Address, stream: FrameStream) -> None:
        try:
            while self._queues.get(address) is queue:
                batch = await queue.take()
                try:
                    await stream.write_frames(batch)
                except StreamClosedError:
                    queue.restore(batch)
                    raise
                self._metrics.consensus_frames_sent += len(batch)
        finally:
            with trio.CancelScope(shield=True):
                await stream.reset()

    async def serve(self, stream: FrameStream, address: Address) -> None:
        """Pass every frame of a peer's stream to consensus, while the peer is a validator.

        Raises:
            InvalidMessage: TOO_LARGE.
            StreamClosedError: The stream ended, or must be reset because its sender is not in the
                validator set; the sender then opens another stream when it writes again.
        """
        while self.is_validator(address):
            frame = await stream.read_frame(self._frame_limit_bytes)
            self._metrics.consensus_frames_received += 1
            await self._handle(address, frame)
        # Reset, not only closed: votes that it writes after it has joined would never be read.
        raise StreamClosedError("the sender is no validator")

    def _check_size(self, payload: bytes) -> None:
        assert len(payload) <= self._frame_limit_bytes, "consensus sends what no peer would read"
