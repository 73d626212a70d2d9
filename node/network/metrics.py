"""Counters of the network, read by the metrics endpoint (docs/operator-guide.md, section 13)."""

from collections import Counter
from dataclasses import dataclass, field

from chain.errors import RejectionReason


@dataclass(slots=True)
class NetworkMetrics:
    """Totals since the node started; gauges are read from `Network.peers`."""

    dials: int = 0
    dial_failures: int = 0
    sessions_opened: int = 0
    sessions_closed: int = 0
    peers_silent: int = 0
    peers_banned: int = 0
    consensus_frames_sent: int = 0
    consensus_frames_received: int = 0
    consensus_frames_dropped: int = 0
    """Oldest frames dropped because a peer's queue was full."""
    pieces_withheld: int = 0
    """Pieces not passed on, because their author sends too many messages."""
    transactions_announced: int = 0
    transactions_received: int = 0
    transactions_served: int = 0
    announcements_dropped: int = 0
    blocks_received: int = 0
    blocks_served: int = 0
    blob_chunks_received: int = 0
    blob_chunks_served: int = 0
    blob_chunks_refused: int = 0
    """Chunks that did not hash to what the content id says."""
    streams_refused: int = 0
    """Streams beyond what a peer may have served at a time."""
    frames: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Frames by protocol and direction, `in` or `out`."""
    bytes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Bytes of frames, likewise."""
    disconnects: Counter[str] = field(default_factory=Counter)
    """Sessions ended, and handshakes refused, by reason."""
    rejections: Counter[RejectionReason] = field(default_factory=Counter)
    """Inputs of peers refused, by reason."""
