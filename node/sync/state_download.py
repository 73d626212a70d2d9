"""Fetches the state of a pivot in parts (docs/spec/consensus.md, section 10).

Each chunk is verified against the state root and stored together with the progress of its part. A
part whose peer is late is given to another peer, too; the first answer counts.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import trio

from node.network.requests import SnapshotPeers
from node.network.stream import PeerId
from node.storage.snapshot_progress import Pivot, SnapshotProgress
from node.sync.sources import Sources
from node.sync.workers import Worker, Workers

POLL_SECONDS: Final = 0.2
"""Interval of looking for peers while none answers."""

_CHUNK: Final = "a chunk of the state"


@dataclass(frozen=True, slots=True)
class _Request:
    peer_id: PeerId
    worker: Worker


class StateDownload:
    """The missing parts of a state, and the peers that are asked for them."""

    def __init__(
        self,
        *,
        pivot: Pivot,
        progress: SnapshotProgress,
        network: SnapshotPeers,
        sources: Sources,
        on_chunk: Callable[[], None],
    ) -> None:
        """Create it; it does nothing before `run`.

        Args:
            pivot: The block after which the state is fetched.
            progress: Stores chunks, and how far each part has come.
            network: The peers.
            sources: Those of them that did not fail lately.
            on_chunk: Called for each chunk that was stored.
        """
        self._pivot = pivot
        self._progress = progress
        self._network = network
        self._sources = sources
        self._on_chunk = on_chunk
        self._parts = {part.index: part for part in progress.parts() if not part.is_done}
        self._requests: dict[int, _Request] = {}
        """By part: the request that was made last and has no answer yet."""
        self._workers = Workers()
        self._changed = trio.Event()

    async def run(self, is_stalled: Callable[[], bool]) -> bool:
        """Fetch all parts; False if `is_stalled` says that no peer serves them.

        Raises:
            StorageError: The disk refused.
        """
        async with trio.open_nursery() as nursery:
            while self._parts and not is_stalled():
                self._begin_work(nursery)
                self._changed = trio.Event()
                with trio.move_on_after(POLL_SECONDS):
                    await self._changed.wait()
            nursery.cancel_scope.cancel()
        return not self._parts

    def _begin_work(self, nursery: trio.Nursery) -> None:
        now = trio.current_time()
        for slow in self._workers.list_surplus(now):
            self._report_slow(slow)
        trusted = self._sources.list_trusted()
        for peer in self._sources.list_at(self._pivot.header.number):
            is_preferred = not trusted or peer in trusted
            worker = self._workers.begin(peer.peer_id, is_preferred=is_preferred, now=now)
            if worker is not None:
                nursery.start_soon(self._work, peer.peer_id, worker)

    async def _work(self, peer_id: PeerId, worker: Worker) -> None:
        """Request chunks from one peer, as long as it is a source."""
        with worker.scope:
            while self._sources.find(peer_id) is not None:
                index = self._choose_part()
                if index is None:
                    await trio.sleep(POLL_SECONDS)
                else:
                    await self._fetch(index, _Request(peer_id, worker))
        self._workers.end(peer_id, worker)

    def _choose_part(self) -> int | None:
        """A part that no peer is asked for, or only one that is late; none that is being stored."""
        now = trio.current_time()
        late = {index for index, request in self._requests.items() if request.worker.is_late(now)}
        free = self._parts.keys() - self._requests.keys()
        return min(free or late & self._parts.keys(), default=None)

    async def _fetch(self, index: int, request: _Request) -> None:
        """Fetch and store the next chunk of a part, unless another peer is faster."""
        part, header = self._parts[index], self._pivot.header
        before = self._requests.get(index)
        self._requests[index] = request
        request.worker.asked_at = trio.current_time()
        try:
            chunk = await self._sources.ask(
                request.peer_id,
                lambda peer_id: self._network.request_state_chunk(
                    peer_id, header.number, header.state_root, part.next_position, part.end
                ),
                _CHUNK,
            )
            if chunk is None or self._parts.get(index) is not part:
                return
            # From here on no other answer for the same chunk counts.
            request.worker.asked_at = None
            self._requests[index] = request
            done = self._parts[index] = replace(part, next_position=chunk.next_position)
            if done.is_done:
                del self._parts[index]
            # Shielded, because a cancelled thread would go on and could write its row too late.
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._progress.save_chunk, done, chunk.items)
        finally:
            request.worker.asked_at = None
            if self._requests.get(index) is request:
                del self._requests[index]
            self._changed.set()
        self._sources.note_delivered(request.peer_id)
        self._on_chunk()
        if before is not None and before.worker.asked_at is not None:
            self._report_slow(before.peer_id)

    def _report_slow(self, peer_id: PeerId) -> None:
        self._sources.report_slow(peer_id, _CHUNK)
        self._workers.stop(peer_id)
