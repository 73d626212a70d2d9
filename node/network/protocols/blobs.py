"""/pot/blob/1: blobs by content id, chunk by chunk (docs/spec/wire.md, section 7).

A manifest is verified against the content id, and every chunk against the manifest, before it is
stored. Stored chunks are kept, so that an interrupted fetch resumes. Disk access and hashing happen
in threads, so that votes do not wait for them.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Final, Protocol, TypeVar

import trio

from chain.errors import RejectedInputError
from chain.hexadecimal import to_hex
from chain.primitives import Address, Hash32
from node.network.metrics import NetworkMetrics
from node.network.stream import FrameStream, PeerId, StreamClosedError, UnreachablePeerError
from node.network.wire import (
    CHUNK_FRAME_LIMIT_BYTES,
    CHUNK_REQUEST_LIMIT,
    MANIFEST_FRAME_LIMIT_BYTES,
    REQUEST_FRAME_LIMIT_BYTES,
    RequestChunks,
    RequestHave,
    RequestManifest,
    decode_blob_request,
    decode_manifest,
    encode_blob_request,
    encode_manifest,
)
from node.storage.blobs import BlobDamagedError, BlobManifest
from pot_common.errors import OperatorError

PROTOCOL_ID: Final = "/pot/blob/1"
"""The opener of a stream sends any number of requests, one after the other."""

SERVED_STREAMS_LIMIT: Final = 8
"""Streams of non-validators on which chunks are sent at a time; the others wait, so that votes are
not delayed."""

VALIDATOR_STREAMS_LIMIT: Final = 2
"""Streams of one validator on which chunks are sent at a time. Validators wait for no other peer: a
few peers that read slowly must not keep gradients from them."""

FETCH_PEERS_LIMIT: Final = 4
"""Peers from which one blob is fetched at a time."""

FETCH_LIMIT: Final = 4
"""Blobs of new tasks that are fetched at a time. Their senders may be slow on purpose."""

URGENT_FETCH_LIMIT: Final = 32
"""Blobs for live rounds that are fetched at a time. They never wait for blobs of new tasks."""

ANSWER_SECONDS: Final = 30.0
"""How long one frame may take: a chunk of 256 KiB at 10 KB/s."""

FETCH_THREADS: Final = 4
"""Threads that read, hash and write chunks; they are not those that run the EVM."""

ASKED_PEERS_LIMIT: Final = 16
"""Peers that are asked whether they hold a blob."""

OpenPeerStream = Callable[[PeerId, str], Awaitable[FrameStream]]
"""Opens a stream of a protocol to a peer, or raises UnreachablePeerError."""

OnFault = Callable[[PeerId, RejectedInputError], None]
"""Takes note of a peer that sent wrong data."""

_Result = TypeVar("_Result")


class Download(Protocol):
    """A blob that is being stored chunk by chunk."""

    def missing(self) -> Sequence[int]:
        """The indices of the missing chunks, ascending."""

    def write_chunk(self, index: int, data: bytes) -> None:
        """Verify and store a chunk.

        Raises:
            RejectedInputError: CONTENT_MISMATCH or MALFORMED.
        """

    def finish(self) -> Hash32:
        """Make the complete blob available, and return its content id."""


class BlobRepository(Protocol):
    """A store of blobs; every method may be called from any thread."""

    def has(self, content_id: Hash32) -> bool:
        """Whether the complete blob is held."""

    def manifest(self, content_id: Hash32) -> BlobManifest:
        """The size and chunk hashes of a blob; KeyError if it is not held."""

    def chunk(self, content_id: Hash32, index: int) -> bytes:
        """A verified chunk of a blob; KeyError if it is not held."""

    def download(self, manifest: BlobManifest) -> AbstractContextManager[Download]:
        """Begin or resume a download; only one at a time for a content id."""


class BlobUnavailableError(Exception):
    """No connected peer holds the blob, or chunks of it are missing; the next fetch resumes."""


class BlobExchange:
    """Serves the blobs of this node, and fetches blobs from peers."""

    def __init__(self, store: BlobRepository, metrics: NetworkMetrics) -> None:
        self.store = store
        self.metrics = metrics
        self._threads = trio.CapacityLimiter(FETCH_THREADS)
        self._serving = trio.CapacityLimiter(SERVED_STREAMS_LIMIT)
        self._serving_validators: dict[Address, trio.CapacityLimiter] = {}
        self._fetches = trio.CapacityLimiter(FETCH_LIMIT)
        self._urgent_fetches = trio.CapacityLimiter(URGENT_FETCH_LIMIT)
        self._fetching: dict[Hash32, trio.Event] = {}

    async def serve(self, stream: FrameStream, validator: Address | None) -> None:
        """Answer the requests of a peer until it closes the stream.

        Args:
            stream: the peer's stream.
            validator: the validator that the peer represents; None if it represents none.

        Raises:
            RejectedInputError: A request breaks the rules.
            StreamClosedError: The peer left.
        """
        places = self._serving
        if validator is not None:
            limiter = trio.CapacityLimiter(VALIDATOR_STREAMS_LIMIT)
            places = self._serving_validators.setdefault(validator, limiter)
        while True:
            request = decode_blob_request(await stream.read_frame(REQUEST_FRAME_LIMIT_BYTES))
            match request:
                case RequestHave(content_id):
                    held = await self.in_thread(partial(self.store.has, content_id))
                    await stream.write_frame(b"\x01" if held else b"")
                case RequestManifest(content_id):
                    try:
                        manifest = await self.in_thread(partial(self.store.manifest, content_id))
                    except (KeyError, BlobDamagedError):
                        await stream.write_frame(b"")
                    else:
                        await stream.write_frame(encode_manifest(manifest))
                case RequestChunks():
                    async with places:
                        await self._serve_chunks(stream, request)

    async def _serve_chunks(self, stream: FrameStream, request: RequestChunks) -> None:
        for index in range(request.first_index, request.first_index + request.count):
            try:
                load = partial(self.store.chunk, request.content_id, index)
                chunk = await self.in_thread(load)
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
        is_urgent: bool = False,
    ) -> None:
        """Fetch a blob into the store, from several peers at a time.

        Args:
            content_id: the blob; nothing happens if it is held.
            peers: the peers to ask, in order of preference.
            open_stream: opens a stream to one of them, or raises UnreachablePeerError.
            on_fault: is told of a peer that sent wrong data.
            is_urgent: whether a live round needs it.

        Raises:
            BlobUnavailableError: Some chunks are missing; the others are kept.
        """
        while (running := self._fetching.get(content_id)) is not None:
            await running.wait()
        done = self._fetching[content_id] = trio.Event()
        try:
            async with self._urgent_fetches if is_urgent else self._fetches:
                if not await self.in_thread(partial(self.store.has, content_id)):
                    await _Fetch(content_id, self, open_stream, on_fault).run(peers)
        finally:
            done.set()
            del self._fetching[content_id]

    async def in_thread(self, work: Callable[[], _Result]) -> _Result:
        """Do disk work in one of the FETCH_THREADS threads."""
        return await trio.to_thread.run_sync(work, limiter=self._threads)


class _Fetch:
    """The fetch of one blob: find holders, get the manifest, share chunks out among the holders."""

    def __init__(
        self,
        content_id: Hash32,
        exchange: BlobExchange,
        open_stream: OpenPeerStream,
        on_fault: OnFault,
    ) -> None:
        self._content_id = content_id
        self._exchange = exchange
        self._open_stream = open_stream
        self._on_fault = on_fault
        self._holders: dict[PeerId, FrameStream] = {}
        self._ranges: deque[tuple[int, int]] = deque()
        self._write_lock = trio.Lock()
        self._disk_error: OperatorError | None = None

    async def run(self, peers: Sequence[PeerId]) -> None:
        try:
            async with trio.open_nursery() as nursery:
                for peer_id in peers[:ASKED_PEERS_LIMIT]:
                    nursery.start_soon(self._ask_whether_held, peer_id)
            manifest = await self._get_manifest()
            store = self._exchange.store
            with await self._exchange.in_thread(partial(store.download, manifest)) as download:
                self._ranges.extend(list_ranges(download.missing()))
                while self._ranges and self._holders:
                    await self._share_out(manifest, download)
                if download.missing():
                    raise BlobUnavailableError(
                        f"{to_hex(self._content_id)}: {len(download.missing())} chunks missing"
                    )
                await self._exchange.in_thread(download.finish)
        finally:
            with trio.CancelScope(shield=True):
                for stream in self._holders.values():
                    await stream.reset()

    async def _ask_whether_held(self, peer_id: PeerId) -> None:
        try:
            with trio.fail_after(ANSWER_SECONDS):
                stream = await self._open_stream(peer_id, PROTOCOL_ID)
                is_held = await request_have(stream, self._content_id)
        except (UnreachablePeerError, StreamClosedError, trio.TooSlowError):
            return
        except RejectedInputError as error:
            self._on_fault(peer_id, error)
            return
        if is_held:
            self._holders[peer_id] = stream
        else:
            await stream.reset()

    async def _get_manifest(self) -> BlobManifest:
        for peer_id in tuple(self._holders):
            stream = self._holders[peer_id]
            try:
                with trio.fail_after(ANSWER_SECONDS):
                    request = RequestManifest(self._content_id)
                    await stream.write_frame(encode_blob_request(request))
                    frame = await stream.read_frame(MANIFEST_FRAME_LIMIT_BYTES)
                if frame:
                    return decode_manifest(frame, self._content_id)
            except (RejectedInputError, StreamClosedError, trio.TooSlowError) as error:
                await self._drop(peer_id, error)
        raise BlobUnavailableError(f"{to_hex(self._content_id)}: no connected peer holds it")

    async def _share_out(self, manifest: BlobManifest, download: Download) -> None:
        """Let several holders send ranges until no range or no holder is left."""
        async with trio.open_nursery() as nursery:
            for peer_id in tuple(self._holders)[:FETCH_PEERS_LIMIT]:
                nursery.start_soon(self._take_ranges, peer_id, manifest, download)
        if self._disk_error is not None:
            raise self._disk_error

    async def _take_ranges(
        self, peer_id: PeerId, manifest: BlobManifest, download: Download
    ) -> None:
        stream = self._holders[peer_id]
        while self._ranges and self._disk_error is None:
            first, count = self._ranges.popleft()
            try:
                request = RequestChunks(self._content_id, first, count)
                await stream.write_frame(encode_blob_request(request))
                while count:
                    with trio.fail_after(ANSWER_SECONDS):
                        frame = await stream.read_frame(CHUNK_FRAME_LIMIT_BYTES)
                    if not frame:
                        raise StreamClosedError("the peer does not hold the chunk any more")
                    async with self._write_lock:
                        write = partial(download.write_chunk, first, frame[1:])
                        await self._exchange.in_thread(write)
                    self._exchange.metrics.blob_chunks_received += 1
                    first, count = first + 1, count - 1
            except (RejectedInputError, StreamClosedError, trio.TooSlowError) as error:
                self._ranges.append((first, count))
                await self._drop(peer_id, error)
                return
            except OperatorError as error:
                self._disk_error = error

    async def _drop(self, peer_id: PeerId, error: Exception) -> None:
        if isinstance(error, RejectedInputError):
            self._exchange.metrics.blob_chunks_refused += 1
            self._on_fault(peer_id, error)
        await self._holders.pop(peer_id).reset()


async def request_have(stream: FrameStream, content_id: Hash32) -> bool:
    """Whether the peer says that it holds the complete blob.

    Raises:
        RejectedInputError: The answer breaks the rules.
        StreamClosedError: The peer left.
    """
    await stream.write_frame(encode_blob_request(RequestHave(content_id)))
    return bool(await stream.read_frame(1))


def list_ranges(indices: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending indices as (first, count) of consecutive ones, at most CHUNK_REQUEST_LIMIT each."""
    ranges: list[tuple[int, int]] = []
    for index in indices:
        if ranges and index == sum(ranges[-1]) and ranges[-1][1] < CHUNK_REQUEST_LIMIT:
            ranges[-1] = (ranges[-1][0], ranges[-1][1] + 1)
        else:
            ranges.append((index, 1))
    return ranges
