"""Counters of the network, read by the metrics endpoint (docs/operator-guide.md, section 13)."""

from collections import Counter
from dataclasses import dataclass, field

from chain.errors import RejectionReason


@dataclass(slots=True)
class NetworkMetrics:
    """Totals since the node started; gauges come from `Network.peers`."""

    dials: int = 0
    dial_failures: int = 0
    sessions_opened: int = 0
    sessions_closed: int = 0
    peers_silent: int = 0
    peers_banned: int = 0
    consensus_frames_sent: int = 0
    consensus_frames_received: int = 0
    consensus_frames_dropped: int = 0
    """Frames dropped, oldest first, because a validator's queue was full."""
    pieces_withheld: int = 0
    """Coded pieces not relayed, because their author sends too many messages."""
    transactions_announced: int = 0
    transactions_received: int = 0
    transactions_served: int = 0
    announcements_dropped: int = 0
    blocks_received: int = 0
    blocks_served: int = 0
    blob_chunks_received: int = 0
    blob_chunks_served: int = 0
    blob_chunks_refused: int = 0
    """Chunks with a hash that does not fit the content id."""
    streams_refused: int = 0
    """Streams refused because the peer had too many open."""
    frames: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Frames by protocol and direction, `in` or `out`."""
    bytes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Bytes of frames, by protocol and direction."""
    disconnects: Counter[str] = field(default_factory=Counter)
    """Sessions that ended and handshakes that were refused, by reason."""
    rejections: Counter[RejectionReason] = field(default_factory=Counter)
    """Refused inputs of peers, by reason."""
