"""Rates at which a peer may send and is answered, by protocol (docs/spec/wire.md, section 1).

A peer that sends faster is read more slowly: flow control makes it wait, nothing is lost, and it
loses no points.
"""

from dataclasses import dataclass
from typing import Final

from chain.types.transaction import SET_CODE_TYPE
from node.network.budget import TokenBucket
from node.network.metrics import NetworkMetrics

BURST_SECONDS: Final = 2.0
"""A full budget holds this many seconds of its rate: blocks and rounds come in bursts."""


@dataclass(frozen=True, slots=True)
class ProtocolLimits:
    """The limits of one protocol; all streams of a peer share them."""

    streams: int
    """Streams of the peer that are served at a time."""
    messages_per_second: float
    """Frames read from the peer."""
    bytes_per_second: float
    """Bytes read from the peer."""
    served_bytes_per_second: float
    """Bytes written to the peer in answer."""


MIB: Final = float(2**20)
"""A mebibyte."""

LIMITS: Final = {
    # A ping and a pong every two seconds each way; a flood of them ends the session (status.py).
    "status": ProtocolLimits(2, 20, 32_768, 32_768),
    # A validator sends three votes and a few resends a block, and after an outage a whole queue;
    # the largest NEW-VIEW has 8 MiB.
    "consensus": ProtocolLimits(2, 500, 32 * MIB, 1_024),
    # Each validator relays one coded piece, at most 2 MiB, of each large message.
    "pieces": ProtocolLimits(2, 500, 32 * MIB, 1_024),
    # Announcements come in batches; a request asks for up to 256 transactions.
    "tx": ProtocolLimits(2, 100, 8 * MIB, 8 * MIB),
    # A syncing node is limited by its own execution long before.
    "blocks": ProtocolLimits(4, 20, 8_192, 16 * MIB),
    # A request asks for a chunk of half a MiB, or for nodes by hash.
    "state": ProtocolLimits(4, 50, 262_144, 16 * MIB),
    # A request is answered with up to 4 MiB.
    "blob": ProtocolLimits(8, 100, 32_768, 64 * MIB),
    # A validator asks a few times a second in each verdict phase.
    "training": ProtocolLimits(8, 50, 16_384, 4 * MIB),
}
"""The limits by kind of protocol (`get_kind`)."""

DEFAULT_LIMITS: Final = ProtocolLimits(4, 50, 65_536, 16 * MIB)
"""The limits of a protocol that LIMITS does not name."""

SHARED_MESSAGES_PER_SECOND: Final = 1_000.0
"""Frames read from all non-validators together, plus the frames of the answers to them."""

SHARED_SERVED_BYTES_PER_SECOND: Final = 32 * MIB
"""Bytes written in answer to all non-validators together."""

SHARED_TRANSACTIONS_PER_SECOND: Final = 1_000.0
"""Transactions fetched from all non-validators together: more than blocks have room for. To recover
a sender takes 0.1 ms. See `compute_transaction_cost` for large ones.
"""

BYTES_OF_A_TRANSACTION: Final = 2_048
"""The bytes that are decoded in the time of a small transaction, if they are lists: 128 KiB take up
to 8 ms."""


BYTES_OF_AN_AUTHORIZATION: Final = 64
"""An authorization has about 100 bytes, and to recover who signed it takes as long as for a
transaction."""


def compute_transaction_cost(raw: bytes) -> int:
    """How many transactions an encoded one counts for in the budget of all non-validators."""
    is_set_code = raw[:1] == bytes([SET_CODE_TYPE])
    return 1 + len(raw) // (BYTES_OF_AN_AUTHORIZATION if is_set_code else BYTES_OF_A_TRANSACTION)


def get_kind(protocol_id: str) -> str:
    """The name of a protocol in metrics and LIMITS: `blocks` for `/pot/blocks/1`."""
    return protocol_id.split("/")[2]


def get_limits(kind: str) -> ProtocolLimits:
    """The limits of a protocol."""
    return LIMITS.get(kind, DEFAULT_LIMITS)


class SharedBudget:
    """The rates that all non-validators share, so that their requests never delay votes."""

    def __init__(self) -> None:
        self.messages = _build_bucket(SHARED_MESSAGES_PER_SECOND)
        self.transactions = _build_bucket(SHARED_TRANSACTIONS_PER_SECOND)
        self.served = _build_bucket(SHARED_SERVED_BYTES_PER_SECOND)


class Meter:
    """Counts the frames of a protocol, and waits while a budget is overdrawn."""

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
            limits: None where this node asks: its requests bound the answers.
            shared: the budget of all non-validators; None for a validator.
        """
        self._kind = kind
        self._metrics = metrics
        self._shared = shared
        self._messages = limits and _build_bucket(limits.messages_per_second)
        self._bytes = limits and _build_bucket(limits.bytes_per_second)
        self._served = limits and _build_bucket(limits.served_bytes_per_second)

    async def on_received(self, size_bytes: int) -> None:
        """Count a frame that has arrived, and wait if its sender is too fast."""
        self._metrics.frames[self._kind, "in"] += 1
        self._metrics.bytes[self._kind, "in"] += size_bytes
        if self._messages and self._bytes:
            await self._messages.take(1)
            await self._bytes.take(size_bytes)
        if self._shared:
            await self._shared.messages.take(1)

    async def on_sending(self, frame_count: int, size_bytes: int) -> None:
        """Count frames about to be sent, and wait if the peer has had its rate of answers."""
        self._metrics.frames[self._kind, "out"] += frame_count
        self._metrics.bytes[self._kind, "out"] += size_bytes
        if self._served:
            await self._served.take(size_bytes)
        if self._shared:
            await self._shared.messages.take(frame_count)
            await self._shared.served.take(size_bytes)


def _build_bucket(per_second: float) -> TokenBucket:
    return TokenBucket(per_second=per_second, burst=BURST_SECONDS * per_second)
