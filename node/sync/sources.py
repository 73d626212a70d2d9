"""The peers that sync asks: those that did not fail it lately (docs/spec/consensus.md, 10)."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import structlog
import trio

from chain.errors import InvalidMessage, RejectedInputError, RejectionReason
from chain.primitives import Address, BlockNumber
from node.network.peers import PeerInfo
from node.network.requests import ConnectedPeers
from node.network.stream import PeerId, UnreachablePeerError
from node.storage.block_store import BlockStore

ANSWER_SECONDS: Final = 20.0
"""Time limit of an answer, which demands 0.4 MB/s even if there is no other peer to ask."""

REST_SECONDS: Final = 60.0
"""How long a peer rests, that is, is not asked again, after a fault."""

ABSENT_REST_SECONDS: Final = 2.0
"""How long a peer rests that could not be reached; connections return soon."""

_UNKNOWN: Final = 2
"""The rank of peers that are neither validators nor have delivered."""

_log = structlog.get_logger("node.sync")


_Answer = TypeVar("_Answer")


class UnfitError(RejectedInputError):
    """A well-formed answer that contradicts a verified block. The peer must be reported."""


class Sources:
    """The connected peers except those that rest after a failure."""

    def __init__(self, network: ConnectedPeers, store: BlockStore) -> None:
        self._network = network
        self._store = store
        self._resting: dict[PeerId, float] = {}
        """The time until which each peer rests."""
        self._delivered: set[PeerId] = set()
        """The connected peers that sent what a certificate verified, and did not fail since."""

    def list_trusted(self) -> list[PeerInfo]:
        """The validators, and the peers that have delivered.

        Any number of peers can claim any head. These are asked first, and wait for no others.
        """
        validators = self._store.next_validator_set().validators
        peers = self.list_at(BlockNumber(0))
        return [peer for peer in peers if self._rank(peer, validators) < _UNKNOWN]

    def note_delivered(self, peer_id: PeerId) -> None:
        """Trust a peer, which sent what a certificate verified, until its next fault."""
        self._delivered.add(peer_id)

    def _rank(self, peer: PeerInfo, validators: Sequence[Address]) -> int:
        if peer.validator in validators:
            return 0
        return 1 if peer.peer_id in self._delivered else _UNKNOWN

    def list_at(self, number: BlockNumber) -> list[PeerInfo]:
        """Peers that report a head of at least this number, the trusted ones first."""
        now = trio.current_time()
        peers = self._network.peers()
        self._delivered &= {peer.peer_id for peer in peers}
        validators = self._store.next_validator_set().validators
        self._resting = {peer: until for peer, until in self._resting.items() if until > now}
        found = [
            peer
            for peer in peers
            if peer.head.number >= number and peer.peer_id not in self._resting
        ]
        return sorted(
            found,
            key=lambda peer: (
                self._rank(peer, validators),
                peer.latency_seconds or 1.0,
                peer.peer_id,
            ),
        )

    def find(self, peer_id: PeerId) -> PeerInfo | None:
        """A peer by its id; None if it rests or is not connected."""
        found = (peer for peer in self.list_at(BlockNumber(0)) if peer.peer_id == peer_id)
        return next(found, None)

    async def ask(
        self,
        peer_id: PeerId,
        ask: Callable[[PeerId], Awaitable[_Answer | None]],
        wanted: str,
    ) -> _Answer | None:
        """The answer of a peer; None if it has none or a bad one, and then the peer rests.

        Args:
            peer_id: The peer.
            ask: Asks it. None is an honest peer's word that it does not have it.
            wanted: What is asked for, for the log.
        """
        scope = trio.move_on_after(ANSWER_SECONDS)
        try:
            with scope:
                answer = await ask(peer_id)
                if answer is None:
                    self.rest(peer_id)
                return answer
        except UnreachablePeerError:
            self.rest(peer_id)
        except UnfitError as error:
            self.report(peer_id, error)
        except RejectedInputError as error:
            self.rest(peer_id, error)  # the network has lowered its score already
        if scope.cancelled_caught:
            self.report_slow(peer_id, wanted)
        return None

    def rest(self, peer_id: PeerId, error: RejectedInputError | None = None) -> None:
        """Let a peer rest, for longer if `error` names a fault of it."""
        seconds = ABSENT_REST_SECONDS if error is None else REST_SECONDS
        self._resting[peer_id] = trio.current_time() + seconds
        if error is not None:
            self._delivered.discard(peer_id)
            _log.warning("peer is not synced from", peer=peer_id, reason=str(error))

    def report(self, peer_id: PeerId, error: RejectedInputError) -> None:
        """Report the fault of a peer to the network, which lowers its score, and let it rest."""
        self._network.report_fault(peer_id, error)
        self.rest(peer_id, error)

    def report_slow(self, peer_id: PeerId, wanted: str) -> None:
        """Report a peer that did not answer in time, and let it rest."""
        self.report(peer_id, InvalidMessage(RejectionReason.TOO_SLOW, wanted))
