"""The training host's requests to peers: blobs, reveals and training states."""

from collections.abc import Awaitable, Callable, Container, Sequence
from contextlib import suppress
from typing import Final

import structlog
import trio

from chain.errors import RejectedInputError
from chain.primitives import Hash32, TaskId
from chain.training.attempt import AttemptId
from chain.training.reveal import Reveal
from chain.training.state import compute_state_root
from node.network.protocols.blob_fetch import BlobUnavailableError
from node.network.requests import PeerRequests
from node.network.slow_peers import ask_until_answered
from node.network.stream import PeerId, UnreachablePeerError
from node.storage.blobs import BlobQuotaError, BlobStore

REVEALS_SECONDS: Final = 3.0
"""How long peers are asked for the reveals of an attempt, at most 160 KB from each."""

ANNOUNCE_SECONDS: Final = 3.0
"""How long peers are given to take an announcement; a check may wait for this."""

PARTS_SECONDS: Final = 10.0
"""How long peers are asked for the parts of a state, some hundred bytes."""

SLOW_PEER_SECONDS: Final = 0.3
"""How long a peer that lately was slow gets after all others have answered. A silent peer would
else delay each question to all by three seconds."""

_log = structlog.get_logger("node.training")


class TrainingPeers:
    """Asks connected peers on behalf of the training host."""

    def __init__(self, requests: PeerRequests, blobs: BlobStore) -> None:
        self._requests = requests
        self._blobs = blobs

    async def fetch_blob(
        self, content_id: Hash32, size_limit: int, *, is_urgent: bool, task_id: TaskId
    ) -> bool:
        """Fetch a blob for a task; False if no peer has it or it exceeds `size_limit`."""
        try:
            await self._requests.fetch_blob(
                content_id, size_limit, is_urgent=is_urgent, task_id=task_id
            )
        except BlobUnavailableError:
            return False
        except BlobQuotaError as error:
            _log.warning("fetched blob refused", reason=str(error))
            return False
        try:
            # A larger one was fetched for another task, which keeps it.
            return self._blobs.size_bytes(content_id) <= size_limit
        except KeyError:  # collected meanwhile
            return False

    async def fetch_reveals(
        self, attempt_id: AttemptId, ignored: Container[PeerId]
    ) -> Sequence[tuple[PeerId, Sequence[Reveal]]]:
        """The reveals of an attempt that each connected peer holds, unverified, validators first.

        What the slowest peers hold is missing: they must not delay the checks.

        Args:
            attempt_id: The attempt.
            ignored: The peers that are not asked.
        """
        found: dict[PeerId, Sequence[Reveal]] = {}

        async def ask(peer_id: PeerId) -> None:
            if peer_id not in ignored:
                found[peer_id] = await self._requests.request_reveals(peer_id, attempt_id)

        await self._ask_all(ask, REVEALS_SECONDS)
        return [(each, found[each]) for each in self._requests.list_preferred() if each in found]

    async def fetch_state_parts(self, state_root: Hash32) -> Sequence[Hash32] | None:
        """The content ids below a training state root, from the first peer that knows them."""

        async def ask(peer_id: PeerId) -> Sequence[Hash32] | None:
            try:
                parts = await self._requests.request_state_parts(peer_id, state_root)
            except (UnreachablePeerError, RejectedInputError):
                return None
            return parts if parts and compute_state_root(parts) == state_root else None

        with trio.move_on_after(PARTS_SECONDS):
            return await ask_until_answered(
                self._requests.list_preferred(), ask, self._requests.slow_peers
            )
        return None

    async def announce_reveal(self, reveal: Reveal) -> None:
        """Tell every connected peer of a reveal that is held here; slow ones may miss it."""

        async def tell(peer_id: PeerId) -> None:
            await self._requests.announce_reveal(peer_id, reveal)

        await self._ask_all(tell, ANNOUNCE_SECONDS)

    async def _ask_all(self, ask: Callable[[PeerId], Awaitable[None]], seconds: float) -> None:
        """Ask every connected peer at once; a slow one gets SLOW_PEER_SECONDS after the others."""
        slow_peers = self._requests.slow_peers
        peers = self._requests.list_preferred()
        waited_for = {peer_id for peer_id in peers if not slow_peers.has(peer_id)}
        with trio.move_on_after(seconds) as patience:

            async def run(peer_id: PeerId) -> None:
                with suppress(UnreachablePeerError, RejectedInputError):
                    await ask(peer_id)
                waited_for.discard(peer_id)
                if not waited_for:
                    last = trio.current_time() + SLOW_PEER_SECONDS
                    patience.deadline = min(patience.deadline, last)

            async with trio.open_nursery() as nursery:
                for peer_id in peers:
                    nursery.start_soon(run, peer_id)
        for peer_id in sorted(waited_for):
            slow_peers.add(peer_id)
