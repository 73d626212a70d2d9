"""Fetching one blob from several peers at once (docs/spec/wire.md, section 7).

No peer is waited for alone: one that takes longer than PATIENCE_SECONDS for anything no longer
counts, so another does the same beside it, and it is asked last for a while.
"""

import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Final, Protocol, TypeVar

import trio

from chain.crypto import CHUNK_BYTES
from chain.errors import InvalidMessage, RejectedInputError
from chain.hexadecimal import to_hex
from chain.primitives import Hash32
from node.network.fetch_places import Place
from node.network.metrics import NetworkMetrics
from node.network.slow_peers import PATIENCE_SECONDS, SlowPeers
from node.network.stream import FrameStream, PeerId, StreamClosedError, UnreachablePeerError
from node.network.wire import (
    CHUNK_FRAME_LIMIT_BYTES,
    CHUNK_REQUEST_LIMIT,
    RequestChunks,
    RequestHave,
    RequestManifest,
    compute_manifest_frame_limit,
    decode_manifest,
    encode_blob_request,
)
from node.storage.blob_manifest import BlobManifest
from pot_common.errors import OperatorError

ASKED_PEERS_LIMIT: Final = 16
"""Peers that are asked at a time whether they hold a blob, besides those that were too slow."""

FETCH_PEERS_LIMIT: Final = 4
"""Peers that send chunks of one blob at a time, besides those that were too slow."""

HAVE_SECONDS: Final = 10.0
"""How long a peer may take to open a stream and to say whether it holds a blob."""

ANSWER_SECONDS: Final = 30.0
"""How long a manifest or a chunk may take."""

GRACE_SECONDS: Final = 10.0
"""How long the first chunk may take beyond what the least rate allows."""

LEAST_BYTES_PER_SECOND: Final = 16_384.0
"""A holder that sends fewer bytes a second on average, while chunks are asked of it, is given up.
Uploads over HTTP have the same least rate."""

OpenStream = Callable[[PeerId], Awaitable[FrameStream]]
"""Opens a stream of the blob protocol to a peer, or raises UnreachablePeerError."""

OnFault = Callable[[PeerId, RejectedInputError], None]
"""Takes note of a peer that sent wrong data."""

_Result = TypeVar("_Result")


class Download(Protocol):
    """A blob that is being stored chunk by chunk."""

    def is_read(self) -> bool:
        """Whether it is known of each chunk whether it is held."""

    def read_some(self) -> None:
        """Read a few of the chunks that an earlier process may have written."""

    def missing(self) -> Sequence[int]:
        """The indices of the missing chunks, ascending."""

    def write_chunk(self, index: int, data: bytes) -> None:
        """Verify and store a chunk.

        Raises:
            RejectedInputError: CONTENT_MISMATCH or MALFORMED.
        """

    def finish(self) -> Hash32:
        """Make the complete blob available, and return its content id."""


class DownloadStore(Protocol):
    """A store of blobs; every method may be called from any thread."""

    def download(self, manifest: BlobManifest) -> AbstractContextManager[Download]:
        """Begin or resume a download; only one at a time for a content id."""


class BlobUnavailableError(Exception):
    """No connected peer holds the blob, or chunks of it are missing; the next fetch resumes."""


class _Talk:
    """What one peer is asked for, and how fast it has answered."""

    def __init__(self, peer_id: PeerId) -> None:
        self.peer_id = peer_id
        self.asked_at = trio.current_time()
        """When it was asked for what it owes; infinity if it owes nothing."""
        self.is_holder = False
        self.chunks: list[int] = []
        """The indices of the chunks that it was asked for."""
        self.is_doubled = False
        """Whether another holder was asked for the same chunks."""
        self.received_bytes = 0
        self.sending_seconds = 0.0
        """How long this node has waited for its chunks in all."""

    def is_slow(self) -> bool:
        """Whether it has let this node wait for longer than PATIENCE_SECONDS."""
        return trio.current_time() >= self.asked_at + PATIENCE_SECONDS

    def compute_chunk_seconds(self) -> float:
        """How long the next chunk may take; the least rate is an average over the whole fetch."""
        wanted = self.received_bytes + CHUNK_BYTES
        allowed = GRACE_SECONDS + wanted / LEAST_BYTES_PER_SECOND - self.sending_seconds
        return max(0.0, min(ANSWER_SECONDS, allowed))

    @contextmanager
    def expect(self, seconds: float) -> Iterator[None]:
        """Wait for an answer.

        Raises:
            TooSlowError: It took longer than `seconds`.
        """
        self.asked_at = trio.current_time()
        try:
            with trio.fail_after(seconds):
                yield
        finally:
            self.asked_at = math.inf


class BlobFetch:
    """The fetch of one blob: find holders, get the manifest, share chunks out among the holders."""

    def __init__(
        self,
        content_id: Hash32,
        *,
        size_limit: int,
        manifest_size_limit: int,
        note_size: Callable[[int], None],
        store: DownloadStore,
        threads: trio.CapacityLimiter,
        readers: trio.CapacityLimiter,
        metrics: NetworkMetrics,
        slow_peers: SlowPeers,
        open_stream: OpenStream,
        on_fault: OnFault,
        place: Place,
    ) -> None:
        """Begin with nothing asked.

        Args:
            content_id: the blob.
            size_limit: the most bytes that it may have.
            manifest_size_limit: a manifest of a larger blob is not read.
            note_size: is told how many it has.
            store: takes the chunks.
            threads: limits the threads that hash and write chunks.
            readers: limits those that read what an earlier process has fetched.
            metrics: counts chunks.
            slow_peers: is told of peers that let this node wait.
            open_stream: opens a stream to a peer.
            on_fault: is told of a peer that sent wrong data.
            place: counts the verified bytes and knows the holders.
        """
        self._content_id = content_id
        self._size_limit = size_limit
        self._manifest_limit_bytes = compute_manifest_frame_limit(manifest_size_limit)
        self._note_size = note_size
        self._store = store
        self._threads = threads
        self._readers = readers
        self._metrics = metrics
        self._slow_peers = slow_peers
        self._open_stream = open_stream
        self._on_fault = on_fault
        self._place = place
        place.list_holders = self._list_holders
        self._waiting: deque[PeerId] = deque()
        self._asked_count = 0
        self._talks: list[_Talk] = []
        self._manifest: BlobManifest | None = None
        self._download: Download | None = None
        self._missing: set[int] = set()
        self._ranges: deque[tuple[int, int]] = deque()
        self._manifest_lock = trio.Lock()
        self._write_lock = trio.Lock()
        self._disk_error: OperatorError | None = None
        self._changed = trio.Event()

    async def run(self, peers: Sequence[PeerId]) -> None:
        """Fetch the blob from these peers, the first ones preferred.

        Raises:
            BlobUnavailableError: Some chunks are missing; the others are kept.
            OperatorError: The disk fails, or the quota is used up.
        """
        self._waiting.extend(peers)
        failure: BlobUnavailableError | OperatorError | None = None
        with ExitStack() as stack:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._ask_peers, nursery)
                try:
                    await self._take_manifest(stack)
                    await self._take_chunks()
                except (BlobUnavailableError, OperatorError) as error:
                    failure = error
                nursery.cancel_scope.cancel()
            if failure is not None:
                raise failure
            assert self._download is not None
            await self._in_thread(self._download.finish)

    def ask_again(self, peers: Sequence[PeerId]) -> None:
        """Ask these peers, too; those that did not hold the blob before may hold it now."""
        asked = {talk.peer_id for talk in self._talks}.union(self._waiting)
        self._waiting.extend(peer_id for peer_id in peers if peer_id not in asked)
        self._asked_count = 0
        self._notify()

    async def _take_manifest(self, stack: ExitStack) -> None:
        """Wait for the first right manifest, and open the download in `stack`."""
        while self._manifest is None:
            if self._is_over():
                raise BlobUnavailableError(
                    f"{to_hex(self._content_id)}: no connected peer holds it"
                )
            await self._changed.wait()
        begin = partial(self._store.download, self._manifest)
        download = stack.enter_context(await self._in_thread(begin))
        while not download.is_read():
            await trio.to_thread.run_sync(download.read_some, limiter=self._readers)
        self._download = download
        self._missing = set(download.missing())
        self._ranges.extend(list_ranges(sorted(self._missing)))
        self._notify()

    async def _take_chunks(self) -> None:
        """Wait until no chunk is missing."""
        while self._missing:
            if self._disk_error is not None:
                raise self._disk_error
            if self._is_over():
                raise BlobUnavailableError(
                    f"{to_hex(self._content_id)}: {len(self._missing)} chunks missing"
                )
            await self._changed.wait()

    def _is_over(self) -> bool:
        """Whether no peer is left that could still send something."""
        return not self._waiting and not self._talks

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _in_thread(self, work: Callable[[], _Result]) -> _Result:
        return await trio.to_thread.run_sync(work, limiter=self._threads)

    # Whom to ask.

    async def _ask_peers(self, nursery: trio.Nursery) -> None:
        """Begin to talk to peers, as many as are needed, until cancelled."""
        while True:
            while self._waiting and self._needs_another():
                talk = _Talk(self._waiting.popleft())
                self._talks.append(talk)
                self._asked_count += 1
                nursery.start_soon(self._talk, talk)
            changed = self._changed
            # No talk that begins to wait from now on can be slow before this time.
            next_slow_at = trio.current_time() + PATIENCE_SECONDS
            for talk in self._talks:
                if not talk.is_slow():
                    next_slow_at = min(next_slow_at, talk.asked_at + PATIENCE_SECONDS)
            with trio.move_on_at(next_slow_at):
                await changed.wait()
            slow = [talk for talk in self._talks if talk.is_slow()]
            for talk in slow:
                self._slow_peers.add(talk.peer_id)
            if slow and not changed.is_set():
                self._notify()  # idle holders may take over what the slow ones owe

    def _needs_another(self) -> bool:
        prompt = [talk for talk in self._talks if not talk.is_slow()]
        holder_count = sum(talk.is_holder for talk in prompt)
        if len(prompt) >= ASKED_PEERS_LIMIT or holder_count >= FETCH_PEERS_LIMIT:
            return False
        # Beyond the first peers, others are asked only while none of those serves the blob.
        return self._asked_count < ASKED_PEERS_LIMIT or holder_count == 0

    # What to ask one peer for.

    async def _talk(self, talk: _Talk) -> None:
        stream: FrameStream | None = None
        try:
            with talk.expect(HAVE_SECONDS):
                stream = await self._open_stream(talk.peer_id)
                talk.is_holder = await request_have(stream, self._content_id)
            if talk.is_holder:
                if self._manifest is None:
                    await self._ask_manifest(talk, stream)
                while self._missing or self._download is None:
                    await self._send_chunks(talk, stream)
        except RejectedInputError as error:
            self._metrics.blob_chunks_refused += talk.is_holder
            self._on_fault(talk.peer_id, error)
        except (UnreachablePeerError, StreamClosedError, trio.TooSlowError):
            pass  # others are asked
        except OperatorError as error:
            self._disk_error = error
        finally:
            self._talks.remove(talk)
            if not talk.is_doubled:
                self._ranges.extend(list_ranges(self._list_owed(talk)))
            self._notify()
            if stream is not None:
                with trio.CancelScope(shield=True):
                    await stream.reset()

    async def _ask_manifest(self, talk: _Talk, stream: FrameStream) -> None:
        with talk.expect(ANSWER_SECONDS):
            request = RequestManifest(self._content_id)
            await stream.write_frame(encode_blob_request(request))
            try:
                frame = await stream.read_frame(self._manifest_limit_bytes)
            except InvalidMessage as error:
                # Of a larger blob. Whoever named it is at fault, and not this peer.
                raise StreamClosedError(f"its manifest is too long: {error}") from error
        if not frame:
            raise StreamClosedError("the peer does not hold the blob any more")
        # Several holders may send a manifest at the same moment. One is enough, and to verify one
        # can take milliseconds, in which consensus is not to wait.
        async with self._manifest_lock:
            if self._manifest is not None:
                return
            manifest = await self._in_thread(partial(decode_manifest, frame, self._content_id))
            self._note_size(manifest.size_bytes)
            if manifest.size_bytes > self._size_limit:
                raise StreamClosedError(f"the blob has {manifest.size_bytes} bytes")
            self._manifest = manifest
            self._notify()

    async def _send_chunks(self, talk: _Talk, stream: FrameStream) -> None:
        """Take one range of chunks from a holder, or wait until there is one to take."""
        talk.chunks = self._choose_chunks(talk)
        talk.is_doubled = False
        if not talk.chunks:
            await self._changed.wait()
            return
        first, count = talk.chunks[0], len(talk.chunks)
        request = encode_blob_request(RequestChunks(self._content_id, first, count))
        await self._wait_for_chunk(talk, partial(stream.write_frame, request))
        for index in range(first, first + count):
            read = partial(stream.read_frame, CHUNK_FRAME_LIMIT_BYTES)
            frame = await self._wait_for_chunk(talk, read)
            if not frame:
                raise StreamClosedError("the peer does not hold the chunk any more")
            talk.received_bytes += len(frame)
            await self._store_chunk(index, frame[1:])
        talk.chunks = []

    async def _wait_for_chunk(self, talk: _Talk, take: Callable[[], Awaitable[_Result]]) -> _Result:
        asked_at = trio.current_time()
        with talk.expect(talk.compute_chunk_seconds()):
            result = await take()
        talk.sending_seconds += trio.current_time() - asked_at
        return result

    async def _store_chunk(self, index: int, data: bytes) -> None:
        async with self._write_lock:
            if index not in self._missing:
                return  # another holder was faster
            assert self._download is not None
            await self._in_thread(partial(self._download.write_chunk, index, data))
            self._missing.discard(index)
        self._metrics.blob_chunks_received += 1
        self._place.count(len(data))
        if not self._missing:
            self._notify()

    def _choose_chunks(self, talk: _Talk) -> list[int]:
        """Consecutive chunks to ask a holder for; none if it has to wait."""
        if self._download is None:
            return []
        others = [each for each in self._talks if each is not talk and each.chunks]
        if sum(not each.is_slow() for each in others) >= FETCH_PEERS_LIMIT:
            return []
        while self._ranges:
            first, count = self._ranges.popleft()
            wanted = [index for index in range(first, first + count) if index in self._missing]
            if wanted:
                return self._take_first_range(wanted)
        for slow in others:
            owed = self._list_owed(slow)
            if slow.is_slow() and not slow.is_doubled and owed:
                slow.is_doubled = True
                return self._take_first_range(owed)
        return []

    def _take_first_range(self, indices: list[int]) -> list[int]:
        """The first consecutive ones of these chunks; the others wait for another holder."""
        (first, count), *others = list_ranges(indices)
        self._ranges.extendleft(reversed(others))
        return list(range(first, first + count))

    def _list_holders(self) -> list[PeerId]:
        return [talk.peer_id for talk in self._talks if talk.is_holder]

    def _list_owed(self, talk: _Talk) -> list[int]:
        return [index for index in talk.chunks if index in self._missing]


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
