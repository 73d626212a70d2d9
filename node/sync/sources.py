"""The peers that sync asks: those that did not fail it lately (docs/spec/consensus.md, 10)."""

from typing import Final

import structlog
import trio

from chain.errors import InvalidMessage, RejectedInputError, RejectionReason
from chain.primitives import BlockNumber
from node.network.peers import PeerInfo
from node.network.requests import ConnectedPeers
from node.network.stream import PeerId

SOURCES_LIMIT: Final = 8
"""Limit of peers that are asked at the same time; more would only share the same bandwidth."""

ANSWER_SECONDS: Final = 20.0
"""Time limit of an answer, which demands 0.4 MB/s even if there is no other peer to ask."""

REST_SECONDS: Final = 60.0
"""How long a peer rests, that is, is not asked again, after a fault."""

ABSENT_REST_SECONDS: Final = 2.0
"""How long a peer rests that could not be reached; connections return soon."""

_log = structlog.get_logger("node.sync")


class Sources:
    """The connected peers except those that rest after a failure."""

    def __init__(self, network: ConnectedPeers) -> None:
        self._network = network
        self._resting: dict[PeerId, float] = {}
        """The time until which each peer rests."""

    def list_at(self, number: BlockNumber) -> list[PeerInfo]:
        """Peers that report a head of at least this number, the best first."""
        now = trio.current_time()
        self._resting = {peer: until for peer, until in self._resting.items() if until > now}
        found = [
            peer
            for peer in self._network.peers()
            if peer.head.number >= number and peer.peer_id not in self._resting
        ]
        # Validators first. Other peers may be many and slow, and would then take all places.
        return sorted(
            found,
            key=lambda peer: (
                peer.validator is None,
                peer.latency_seconds or 1.0,
                peer.peer_id,
            ),
        )

    def get_head(self, peer_id: PeerId) -> BlockNumber | None:
        """The head that a peer reports; None if it rests or is not connected."""
        found = (
            peer.head.number for peer in self.list_at(BlockNumber(0)) if peer.peer_id == peer_id
        )
        return next(found, None)

    def rest(self, peer_id: PeerId, error: RejectedInputError | None = None) -> None:
        """Let a peer rest, for longer if `error` names a fault of it."""
        seconds = ABSENT_REST_SECONDS if error is None else REST_SECONDS
        self._resting[peer_id] = trio.current_time() + seconds
        if error is not None:
            _log.warning("peer is not synced from", peer=peer_id, reason=str(error))

    def report(self, peer_id: PeerId, error: RejectedInputError) -> None:
        """Report the fault of a peer to the network, which lowers its score, and let it rest."""
        self._network.report_fault(peer_id, error)
        self.rest(peer_id, error)

    def report_slow(self, peer_id: PeerId, wanted: str) -> None:
        """Report a peer that did not answer in time, and let it rest."""
        self.report(peer_id, InvalidMessage(RejectionReason.TOO_SLOW, wanted))
