"""What one peer may send and be sent in a second, by protocol (docs/spec/wire.md, section 1).

Who sends more waits, by flow control; nothing is lost and nobody is punished for it.
"""

from dataclasses import dataclass
from typing import Final

from node.network.budget import TokenBucket
from node.network.metrics import NetworkMetrics

BURST_SECONDS: Final = 2.0
"""A budget saves up this much: blocks and rounds come in bursts."""


@dataclass(frozen=True, slots=True)
class ProtocolLimits:
    """Of one peer and one protocol; all its streams share them."""

    streams: int
    """Streams that the peer may have served at a time."""
    messages_per_second: float
    """Frames taken from it."""
    bytes_per_second: float
    """Bytes taken from it."""
    served_bytes_per_second: float
    """Bytes written to it in answer."""


MIB: Final = float(2**20)
"""A mebibyte."""

LIMITS: Final = {
    # Two messages every two seconds each way; a flood of them ends the session (status.py).
    "status": ProtocolLimits(2, 20, 32_768, 32_768),
    # A validator sends three votes and a few repeats a block, and after an outage a queue of them;
    # the largest NEW-VIEW has 8 MiB.
    "consensus": ProtocolLimits(2, 500, 32 * MIB, 1_024),
    # Everybody's piece of everybody's large messages, at most 2 MiB each.
    "pieces": ProtocolLimits(2, 500, 32 * MIB, 1_024),
    # Announcements in batches, and requests of 256 for what they announce.
    "tx": ProtocolLimits(2, 100, 8 * MIB, 8 * MIB),
    # Who syncs is limited by execution long before.
    "blocks": ProtocolLimits(4, 20, 8_192, 16 * MIB),
    # A chunk of half a MiB at a time, or nodes by hash.
    "state": ProtocolLimits(4, 50, 262_144, 16 * MIB),
    # A request is answered by up to 4 MiB.
    "blob": ProtocolLimits(8, 100, 32_768, 64 * MIB),
    # A validator asks a few times a second in each verdict phase.
    "training": ProtocolLimits(8, 50, 16_384, 4 * MIB),
}
"""By the middle part of the protocol id."""

DEFAULT_LIMITS: Final = ProtocolLimits(4, 50, 65_536, 16 * MIB)
"""Of a request protocol that LIMITS does not name."""

SHARED_MESSAGES_PER_SECOND: Final = 1_000.0
"""Frames taken from all nodes together that are no validators, and frames of answers to them."""

SHARED_SERVED_BYTES_PER_SECOND: Final = 32 * MIB
"""Bytes written in answer to all nodes together that are no validators."""

SHARED_TRANSACTIONS_PER_SECOND: Final = 1_000.0
"""Transactions fetched from all of them: more than blocks have room for, and each one's signature
costs 0.2 ms.
"""


def get_kind(protocol_id: str) -> str:
    """`blocks` of `/pot/blocks/1`: what metrics and LIMITS call a protocol."""
    return protocol_id.split("/")[2]


def get_limits(kind: str) -> ProtocolLimits:
    """The limits of a protocol."""
    return LIMITS.get(kind, DEFAULT_LIMITS)


class SharedBudget:
    """What all nodes that are no validators share, so that votes find time whatever they ask."""

    def __init__(self) -> None:
        self.messages = _build_bucket(SHARED_MESSAGES_PER_SECOND)
        self.transactions = _build_bucket(SHARED_TRANSACTIONS_PER_SECOND)
        self.served = _build_bucket(SHARED_SERVED_BYTES_PER_SECOND)


class Meter:
    """Counts the frames of a protocol, and makes whoever overdraws its budget wait."""

    def __init__(
        self,
        kind: str,
        metrics: NetworkMetrics,
        limits: ProtocolLimits | None,
        shared: SharedBudget | None = None,
    ) -> None:
        """Begin with full budgets.

        Args:
            kind: the protocol, see `get_kind`.
            metrics: where frames and bytes are counted.
            limits: None where we ask, and the answers are bounded by what we ask for.
            shared: what the peer shares with others, unless it is a validator.
        """
        self._kind = kind
        self._metrics = metrics
        self._shared = shared
        self._messages = limits and _build_bucket(limits.messages_per_second)
        self._bytes = limits and _build_bucket(limits.bytes_per_second)
        self._served = limits and _build_bucket(limits.served_bytes_per_second)

    async def on_received(self, size_bytes: int) -> None:
        """A frame has come; waits if its sender is too fast."""
        self._metrics.frames[self._kind, "in"] += 1
        self._metrics.bytes[self._kind, "in"] += size_bytes
        if self._messages and self._bytes:
            await self._messages.take(1)
            await self._bytes.take(size_bytes)
        if self._shared:
            await self._shared.messages.take(1)

    async def on_sending(self, frame_count: int, size_bytes: int) -> None:
        """Frames are about to go out; waits if they are answers and the peer has had enough."""
        self._metrics.frames[self._kind, "out"] += frame_count
        self._metrics.bytes[self._kind, "out"] += size_bytes
        if self._served:
            await self._served.take(size_bytes)
        if self._shared:
            await self._shared.messages.take(frame_count)
            await self._shared.served.take(size_bytes)


def _build_bucket(per_second: float) -> TokenBucket:
    return TokenBucket(per_second=per_second, burst=BURST_SECONDS * per_second)
