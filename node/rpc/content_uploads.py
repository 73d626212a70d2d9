"""Takes a task's content from its senders, chunk by chunk (docs/spec/rpc.md, section 6).

A body begins with the hashes of the blob's chunks, which the content id fixes (decision 0036). So
each chunk is verified as it arrives, and wrong bytes end the upload at once. Right bytes help,
whoever sends them: all senders of a blob write to one file, which is there from the first right
chunk on. So a sender has nothing to keep from others, and no sender has to wait for a place.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import Hash32
from node.ipc.turns import SharedTurns
from node.rpc.held_bytes import Holding
from node.rpc.http import LEAST_BYTES_PER_SECOND, HttpError, Request
from node.storage.blob_files import ContentUpload
from node.storage.blob_manifest import BlobManifest, compute_chunk_count, compute_chunk_size
from node.storage.blobs import BlobStore

HASH_BYTES: Final = 32
"""What each chunk adds to the body of an upload."""

HASHING_TURNS: Final = 2
"""Lists of chunk hashes that are verified at the same time; the longest has 65 536 hashes."""

_T = TypeVar("_T")


def count_body_bytes(size_bytes: int) -> int:
    """The length of the body with which a blob of `size_bytes` is uploaded."""
    return HASH_BYTES * compute_chunk_count(size_bytes) + size_bytes


class ContentUploads:
    """The uploads of content to this process."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._arriving: dict[Hash32, _ArrivingBlob] = {}
        self._manifests: WeakValueDictionary[Hash32, BlobManifest] = WeakValueDictionary()
        self._turns = SharedTurns(HASHING_TURNS)

    async def receive(
        self,
        request: Request,
        content_id: Hash32,
        size_bytes: int,
        check_wanted: Callable[[], Awaitable[None]],
    ) -> bool:
        """Store the blob that a request brings; False if it is held meanwhile from another sender.

        Args:
            request: The request, whose body was not read yet.
            content_id: The blob.
            size_bytes: The length that it is said to have.
            check_wanted: Raises HttpError once the blob is not needed any more.

        Raises:
            HttpError: The client stalls or disconnects, or the blob is not needed any more.
            RejectedInputError: CONTENT_MISMATCH: These are other hashes or other bytes.
            BlobQuotaError: The node has no room for content.
            BlobDiskError: The disk refused.
            NoRoomError: There is no room for the hashes.
        """
        parts = request.chunks(count_body_bytes(size_bytes), least_rate=LEAST_BYTES_PER_SECOND)
        hash_bytes = HASH_BYTES * compute_chunk_count(size_bytes)
        counted = _count_hashes(parts, hash_bytes, request.holding)
        pieces = _split(counted, _list_piece_sizes(size_bytes))
        read = partial(_read_manifest, content_id, size_bytes)
        manifest = await self._turns.run(read, await anext(pieces))
        request.holding.resize(0)
        # One of a large blob takes megabytes, so all its senders share one.
        manifest = self._manifests.setdefault(content_id, manifest)
        arriving: _ArrivingBlob | None = None
        index = 0
        async with AsyncExitStack() as stack:
            async for chunk in pieces:
                await check_wanted()
                if self._store.has(content_id):
                    return False
                if arriving is None:
                    # Only a sender that has the blob makes this node keep room for it.
                    await asyncio.to_thread(manifest.check_chunk, index, chunk)
                    arriving = await stack.enter_async_context(self._join(content_id, manifest))
                await arriving.write(index, chunk)
                index += 1
            assert arriving is not None, "each blob has a chunk"
            return await arriving.finish()

    @asynccontextmanager
    async def _join(
        self, content_id: Hash32, manifest: BlobManifest
    ) -> AsyncIterator["_ArrivingBlob"]:
        """Take part in the upload of a blob, which is deleted if its last sender leaves it."""
        arriving = self._arriving.get(content_id)
        if arriving is None or arriving.is_over():
            arriving = self._arriving[content_id] = _ArrivingBlob(self._store, manifest)
        arriving.sender_count += 1
        try:
            yield arriving
        finally:
            arriving.sender_count -= 1
            if arriving.sender_count == 0:
                if self._arriving.get(content_id) is arriving:
                    del self._arriving[content_id]
                await _run_to_end(arriving.close())


class _ArrivingBlob:
    """One blob that arrives from one sender or several."""

    def __init__(self, store: BlobStore, manifest: BlobManifest) -> None:
        self.sender_count = 0
        self._opening = asyncio.create_task(asyncio.to_thread(store.receive_content, manifest))
        self._finishing: asyncio.Task[Hash32] | None = None

    def is_over(self) -> bool:
        """Whether it can take no more chunks: it is stored, or the disk refused it."""
        if self._finishing is not None:
            return self._finishing.done()
        return self._opening.done() and self._opening.exception() is not None

    async def write(self, index: int, chunk: bytes) -> None:
        """Verify a chunk, and write it unless another sender was faster.

        Raises:
            RejectedInputError: CONTENT_MISMATCH: These are other bytes.
            BlobQuotaError: The node has no room for the blob.
            BlobDiskError: The disk refused.
        """
        upload = await asyncio.shield(self._opening)
        await _run_to_end(asyncio.to_thread(upload.write_chunk, index, chunk))

    async def finish(self) -> bool:
        """Make the blob appear; all of its chunks must be written. False for all but one sender.

        Raises:
            BlobDiskError: The disk refused.
        """
        is_first = self._finishing is None
        if self._finishing is None:
            upload: ContentUpload = self._opening.result()
            self._finishing = asyncio.create_task(asyncio.to_thread(upload.finish))
        await asyncio.shield(self._finishing)
        return is_first

    async def close(self) -> None:
        """Delete what has arrived, unless it is whole. Threads that use the file are waited for."""
        tasks = (self._opening, self._finishing)
        await asyncio.wait([each for each in tasks if each is not None])
        if self._finishing is not None:
            self._finishing.exception()  # its senders have left, or were told
        if self._opening.exception() is None:
            await asyncio.to_thread(self._opening.result().__exit__)


async def _run_to_end(work: Coroutine[object, object, _T]) -> _T:
    """The result of work that goes on to its end even if the caller is cancelled, who waits for it.

    A file must not be closed while a thread writes to it.
    """
    running = asyncio.create_task(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # the caller has no use for it
        raise


def _list_piece_sizes(size_bytes: int) -> Iterator[int]:
    """The lengths of what a body consists of: all hashes, and then each chunk."""
    chunk_count = compute_chunk_count(size_bytes)
    yield HASH_BYTES * chunk_count
    for index in range(chunk_count):
        yield compute_chunk_size(size_bytes, index)


async def _count_hashes(
    parts: AsyncIterator[bytes], hash_bytes: int, holding: Holding
) -> AsyncIterator[bytes]:
    """The parts of a body; the hashes at its beginning count as held while they arrive.

    Those of a large blob take megabytes. Of the chunks, a sender holds one at a time.

    Raises:
        NoRoomError: There is no room for the hashes.
    """
    missing = hash_bytes
    async for part in parts:
        if missing > 0:
            holding.add(min(missing, len(part)))
            missing -= len(part)
        yield part


async def _split(parts: AsyncIterator[bytes], sizes: Iterable[int]) -> AsyncIterator[bytes]:
    """The pieces of those sizes of which a body consists, which arrives in other parts.

    Raises:
        HttpError: The body ends before the last piece.
    """
    arrived = bytearray()
    for size in sizes:
        while len(arrived) < size:
            part = await anext(parts, None)
            if part is None:
                raise HttpError(400, "malformed", "the body ended early")
            arrived += part
        piece = bytes(memoryview(arrived)[:size])
        del arrived[:size]
        yield piece
    # The end of the body may come after its last byte.
    await anext(parts, None)


def _read_manifest(content_id: Hash32, size_bytes: int, hashes: bytes) -> BlobManifest:
    """The manifest of a blob that has these chunk hashes.

    Raises:
        RejectedInputError: CONTENT_MISMATCH: They are those of another blob.
    """
    starts = range(0, len(hashes), HASH_BYTES)
    leaves = tuple(Hash32(hashes[start : start + HASH_BYTES]) for start in starts)
    manifest = BlobManifest(size_bytes, leaves)
    if manifest.content_id != content_id:
        raise RejectedInputError(
            RejectionReason.CONTENT_MISMATCH,
            "the body does not begin with the hashes of the blob's chunks, 32 bytes each",
        )
    return manifest
