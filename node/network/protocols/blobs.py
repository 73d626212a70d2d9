"""/pot/blob/1: blobs by content id, chunk by chunk (docs/spec/wire.md, section 7).

A manifest is verified against the content id, and every chunk against the manifest, before it is
stored. Stored chunks are kept, so that an interrupted fetch resumes. Disk access and hashing happen
in threads, so that votes do not wait for them.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Protocol

import trio
from cachetools import LRUCache

from chain.hexadecimal import to_hex
from chain.primitives import Address, Hash32, TaskId
from node.network.fetch_pauses import FetchPauses
from node.network.fetch_places import FetchPlaces, Place
from node.network.metrics import NetworkMetrics
from node.network.protocols.blob_fetch import (
    ANSWER_SECONDS,
    BlobFetch,
    BlobUnavailableError,
    DownloadStore,
    OnFault,
)
from node.network.slow_peers import SlowPeers
from node.network.stream import FrameStream, PeerId, StreamClosedError
from node.network.wire import (
    MAX_BLOB_BYTES,
    REQUEST_FRAME_LIMIT_BYTES,
    RequestChunks,
    RequestHave,
    RequestManifest,
    decode_blob_request,
    encode_manifest,
)
from node.storage.blob_manifest import BlobManifest
from node.storage.blobs import BlobDamagedError
from pot_common.errors import OperatorError

PROTOCOL_ID: Final = "/pot/blob/1"
"""The opener of a stream sends any number of requests, one after the other."""

SERVED_STREAMS_LIMIT: Final = 8
"""Streams of non-validators on which chunks are sent at a time; the others wait, so that votes are
not delayed."""

VALIDATOR_STREAMS_LIMIT: Final = 2
"""Streams of one validator on which chunks are sent at a time. Validators wait for no other peer: a
few peers that read slowly must not keep gradients from them."""

FETCH_LIMIT: Final = 4
"""Blobs of new tasks that are fetched at a time. Their senders may be slow on purpose."""

URGENT_FETCH_LIMIT: Final = 32
"""Blobs for live rounds that are fetched at a time. They never wait for blobs of new tasks."""

FETCH_THREADS: Final = 4
"""Threads that hash and write chunks for live rounds; they are not those that run the EVM. Each of
their works is on one chunk, so a fetch waits for the chunks of others only."""

CONTENT_THREADS: Final = 2
"""The same for the content of new tasks."""

SERVING_THREADS: Final = 2
"""Threads that read chunks for validators, and as many for all other peers."""

READING_THREADS: Final = 1
"""Threads that read what an earlier process has fetched of a blob, a few chunks of each in turn."""

KNOWN_SIZES: Final = 4_096
"""The most blobs of which the size is remembered; of another one a manifest is asked again."""

OpenPeerStream = Callable[[PeerId, str], Awaitable[FrameStream]]
"""Opens a stream of a protocol to a peer, or raises UnreachablePeerError."""


class BlobRepository(DownloadStore, Protocol):
    """A store of blobs; every method may be called from any thread."""

    def has(self, content_id: Hash32) -> bool:
        """Whether the complete blob is held."""

    def manifest(self, content_id: Hash32) -> BlobManifest:
        """The size and chunk hashes of a blob; KeyError if it is not held."""

    def chunk(self, content_id: Hash32, index: int) -> bytes:
        """A verified chunk of a blob; KeyError if it is not held."""


class _Running:
    """A fetch that runs or waits for its place."""

    def __init__(self, is_urgent: bool, size_limit: int) -> None:
        self.is_urgent = is_urgent
        self.size_limit = size_limit
        self.fetch: BlobFetch | None = None
        """None until it has a place."""
        self.scope = trio.CancelScope()
        self.done = trio.Event()


class BlobExchange:
    """Serves the blobs of this node, and fetches blobs from peers."""

    def __init__(self, store: BlobRepository, metrics: NetworkMetrics) -> None:
        self.store = store
        self.metrics = metrics
        self.slow_peers = SlowPeers()
        self._urgent_threads = trio.CapacityLimiter(FETCH_THREADS)
        self._content_threads = trio.CapacityLimiter(CONTENT_THREADS)
        self._readers = trio.CapacityLimiter(READING_THREADS)
        self._validator_threads = trio.CapacityLimiter(SERVING_THREADS)
        self._other_threads = trio.CapacityLimiter(SERVING_THREADS)
        self._serving = trio.CapacityLimiter(SERVED_STREAMS_LIMIT)
        self._serving_validators: dict[Address, trio.CapacityLimiter] = {}
        self._places = FetchPlaces(FETCH_LIMIT)
        self._urgent_places = FetchPlaces(URGENT_FETCH_LIMIT)
        self.pauses = FetchPauses()
        self._fetching: dict[Hash32, _Running] = {}
        self._sizes: LRUCache[Hash32, int] = LRUCache(KNOWN_SIZES)
        """The sizes of blobs; their content ids fix them."""

    async def serve(self, stream: FrameStream, validator: Address | None) -> None:
        """Answer the requests of a peer until it closes the stream.

        Args:
            stream: the peer's stream.
            validator: the validator that the peer represents; None if it represents none.

        Raises:
            RejectedInputError: A request breaks the rules.
            StreamClosedError: The peer left.
        """
        places, threads = self._serving, self._other_threads
        if validator is not None:
            threads = self._validator_threads
            limiter = trio.CapacityLimiter(VALIDATOR_STREAMS_LIMIT)
            places = self._serving_validators.setdefault(validator, limiter)
        while True:
            request = decode_blob_request(await stream.read_frame(REQUEST_FRAME_LIMIT_BYTES))
            match request:
                case RequestHave(content_id):
                    has = partial(self.store.has, content_id)
                    held = await trio.to_thread.run_sync(has, limiter=threads)
                    await stream.write_frame(b"\x01" if held else b"")
                case RequestManifest(content_id):
                    load = partial(self._load_manifest, content_id)
                    await stream.write_frame(await trio.to_thread.run_sync(load, limiter=threads))
                case RequestChunks():
                    async with places:
                        await self._serve_chunks(stream, request, threads)

    def _load_manifest(self, content_id: Hash32) -> bytes:
        """The frame of a manifest; empty if the blob is not held."""
        try:
            return encode_manifest(self.store.manifest(content_id))
        except (KeyError, BlobDamagedError):
            return b""

    async def _serve_chunks(
        self, stream: FrameStream, request: RequestChunks, threads: trio.CapacityLimiter
    ) -> None:
        for index in range(request.first_index, request.first_index + request.count):
            try:
                load = partial(self.store.chunk, request.content_id, index)
                chunk = await trio.to_thread.run_sync(load, limiter=threads)
            except (KeyError, BlobDamagedError):
                # Chunks have a marker byte, because the only chunk of an empty blob is empty.
                await stream.write_frame(b"")
                return
            with trio.move_on_after(ANSWER_SECONDS) as patience:
                await stream.write_frame(b"\x01" + chunk)
            if patience.cancelled_caught:
                raise StreamClosedError("the peer takes no chunks")
            self.metrics.blob_chunks_served += 1

    async def fetch(
        self,
        content_id: Hash32,
        peers: Sequence[PeerId],
        open_stream: OpenPeerStream,
        on_fault: OnFault,
        *,
        size_limit: int = MAX_BLOB_BYTES,
        is_urgent: bool = False,
        task_id: TaskId | None = None,
    ) -> None:
        """Fetch a blob into the store, from several peers at a time.

        Args:
            content_id: the blob; nothing happens if it is held.
            peers: the peers to ask, in order of preference.
            open_stream: opens a stream to one of them, or raises UnreachablePeerError.
            on_fault: is told of a peer that sent wrong data.
            size_limit: the most bytes that it may have.
            is_urgent: whether a live round needs it.
            task_id: the task that needs it; None if that is not known.

        Raises:
            BlobUnavailableError: Some chunks are missing; the others are kept. Or it is too large,
                or nothing came of it lately.
        """
        # A miner may commit to what another task has as content, which is not to be disturbed then.
        if self._sizes.get(content_id, 0) > size_limit:
            raise BlobUnavailableError(f"{to_hex(content_id)} has more than {size_limit} bytes")
        if self.pauses.is_paused(content_id, task_id):
            raise BlobUnavailableError(f"{to_hex(content_id)}: nothing came of it lately")
        manifest_size_limit = size_limit
        while (running := self._fetching.get(content_id)) is not None:
            if is_urgent and not running.is_urgent:
                # Any task may name the blobs of another, and its fetch may wait for long.
                running.scope.cancel()
                # It may be larger than this round allows. Once that is known, it runs undisturbed.
                manifest_size_limit = max(size_limit, running.size_limit)
            elif running.fetch is not None:
                # It may wait for a slow holder, and was begun when these peers lacked the blob.
                running.fetch.ask_again(peers)
            await running.done.wait()
        own = self._fetching[content_id] = _Running(is_urgent, manifest_size_limit)
        places = self._urgent_places if is_urgent else self._places
        threads = self._urgent_threads if is_urgent else self._content_threads
        try:
            with own.scope:
                async with places.take(content_id, task_id) as place:
                    has = partial(self.store.has, content_id)
                    if not await trio.to_thread.run_sync(has, limiter=threads):
                        fetch = BlobFetch(
                            content_id,
                            size_limit=size_limit,
                            manifest_size_limit=manifest_size_limit,
                            note_size=partial(self._sizes.__setitem__, content_id),
                            store=self.store,
                            threads=threads,
                            readers=self._readers,
                            metrics=self.metrics,
                            slow_peers=self.slow_peers,
                            open_stream=lambda peer_id: open_stream(peer_id, PROTOCOL_ID),
                            on_fault=on_fault,
                            place=place,
                        )
                        own.fetch = fetch
                        await self._run(fetch, peers, place)
                    return
        finally:
            del self._fetching[content_id]
            own.done.set()
        raise BlobUnavailableError(f"{to_hex(content_id)}: others are fetched first")

    async def _run(self, fetch: BlobFetch, peers: Sequence[PeerId], place: Place) -> None:
        """Run a fetch that has a place, and pause further ones if nothing comes of the blob."""
        try:
            await fetch.run(peers)
        except (BlobUnavailableError, OperatorError):
            if place.received_bytes:
                self.pauses.end(place.content_id, place.task_id)
            elif peers:  # a node that has just started has none
                self.pauses.note_empty(place.content_id, place.task_id)
            raise
        self.pauses.end(place.content_id, place.task_id)
