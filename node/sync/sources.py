"""Whom sync asks: peers that did not fail it lately (docs/spec/consensus.md, section 10)."""

from typing import Final

import structlog
import trio

from chain.errors import InvalidMessage, RejectedInputError, RejectionReason
from chain.primitives import BlockNumber
from node.network.peers import PeerInfo
from node.network.requests import ConnectedPeers
from node.network.stream import PeerId

SOURCES_LIMIT: Final = 8
"""Peers asked at a time: more only share the same line."""

ANSWER_SECONDS: Final = 20.0
"""The longest that an answer may take, even if nobody else is there to ask: 0.4 MB/s."""

REST_SECONDS: Final = 60.0
"""How long a peer that failed sync is not asked again."""

ABSENT_REST_SECONDS: Final = 2.0
"""The same for one that could not be reached: a connection is soon back."""

_log = structlog.get_logger("node.sync")


class Sources:
    """The peers of the network, less those that rest."""

    def __init__(self, network: ConnectedPeers) -> None:
        self._network = network
        self._resting: dict[PeerId, float] = {}
        """Until when."""

    def list_at(self, number: BlockNumber) -> list[PeerInfo]:
        """Peers that say they hold the block of this number, the best first."""
        now = trio.current_time()
        self._resting = {peer: until for peer, until in self._resting.items() if until > now}
        found = [
            peer
            for peer in self._network.peers()
            if peer.head.number >= number and peer.peer_id not in self._resting
        ]
        # Validators first: strangers may come in any number, to take all places and be slow.
        return sorted(
            found,
            key=lambda peer: (
                peer.validator is None,
                peer.latency_seconds or 1.0,
                peer.peer_id,
            ),
        )

    def get_head(self, peer_id: PeerId) -> BlockNumber | None:
        """The head that a peer tells of; None if it rests or is gone."""
        found = (
            peer.head.number for peer in self.list_at(BlockNumber(0)) if peer.peer_id == peer_id
        )
        return next(found, None)

    def rest(self, peer_id: PeerId, error: RejectedInputError | None = None) -> None:
        """Leave a peer alone: for long because of a fault, or else shortly."""
        seconds = ABSENT_REST_SECONDS if error is None else REST_SECONDS
        self._resting[peer_id] = trio.current_time() + seconds
        if error is not None:
            _log.warning("peer is not synced from", peer=peer_id, reason=str(error))

    def report(self, peer_id: PeerId, error: RejectedInputError) -> None:
        """Take points off a peer, and leave it alone."""
        self._network.report_fault(peer_id, error)
        self.rest(peer_id, error)

    def report_slow(self, peer_id: PeerId, wanted: str) -> None:
        """As above, for an answer that did not come in time."""
        self.report(peer_id, InvalidMessage(RejectionReason.TOO_SLOW, wanted))
