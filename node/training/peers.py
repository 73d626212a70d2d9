"""The training host's requests to peers: blobs, reveals and training states."""

from collections.abc import Sequence
from typing import Final

import structlog
import trio

from chain.errors import RejectedInputError
from chain.primitives import Hash32
from chain.training.attempt import AttemptId
from chain.training.reveal import Reveal
from node.network.protocols.blobs import BlobUnavailableError
from node.network.requests import PeerRequests
from node.network.stream import PeerId, UnreachablePeerError
from node.storage.blobs import BlobQuotaError, BlobStore

REVEALS_SECONDS: Final = 3.0
"""How long peers are asked for the reveals of an attempt, at most 160 KB from each."""

ANNOUNCE_SECONDS: Final = 3.0
"""How long peers are given to take an announcement; a check may wait for this."""

_log = structlog.get_logger("node.training")


class TrainingPeers:
    """Asks connected peers on behalf of the training host."""

    def __init__(self, requests: PeerRequests, blobs: BlobStore) -> None:
        self._requests = requests
        self._blobs = blobs

    async def fetch_blob(
        self, content_id: Hash32, size_limit: int, *, is_urgent: bool = False
    ) -> bool:
        """Fetch a blob into the store; False if no peer has it or it exceeds `size_limit`."""
        try:
            await self._requests.fetch_blob(content_id, is_urgent=is_urgent)
        except BlobUnavailableError:
            return False
        except BlobQuotaError as error:
            _log.warning("fetched blob refused", reason=str(error))
            return False
        try:
            is_too_large = self._blobs.size_bytes(content_id) > size_limit
        except KeyError:  # collected meanwhile
            return False
        if is_too_large:
            self._blobs.delete(content_id)
        return not is_too_large

    async def fetch_reveals(self, attempt_id: AttemptId) -> Sequence[Reveal]:
        """The reveals of an attempt that connected peers hold, unverified and with duplicates.

        What the slowest peers hold is missing: they must not delay the checks.
        """
        found: list[Reveal] = []

        async def ask(peer_id: PeerId) -> None:
            try:
                found.extend(await self._requests.request_reveals(peer_id, attempt_id))
            except (UnreachablePeerError, RejectedInputError):
                return

        with trio.move_on_after(REVEALS_SECONDS):
            async with trio.open_nursery() as nursery:
                for peer in self._requests.peers():
                    nursery.start_soon(ask, peer.peer_id)
        return found

    async def fetch_state_parts(self, state_root: Hash32) -> Sequence[Hash32] | None:
        """The content ids below a training state root, from the first peer that knows them."""
        for peer in self._requests.peers():
            try:
                parts = await self._requests.request_state_parts(peer.peer_id, state_root)
            except (UnreachablePeerError, RejectedInputError):
                continue
            if parts:
                return parts
        return None

    async def announce_reveal(self, reveal: Reveal) -> None:
        """Tell every connected peer of a reveal that is held here; slow ones may miss it."""

        async def tell(peer_id: PeerId) -> None:
            try:
                await self._requests.announce_reveal(peer_id, reveal)
            except (UnreachablePeerError, RejectedInputError):
                return

        with trio.move_on_after(ANNOUNCE_SECONDS):
            async with trio.open_nursery() as nursery:
                for peer in self._requests.peers():
                    nursery.start_soon(tell, peer.peer_id)
