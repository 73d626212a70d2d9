"""Reading blobs again to see whether the disk damaged them (docs/spec/training.md, section 5).

A flipped bit on the own disk must not become a false verdict, so what a check has read is read
again if its verdict is not ok. A miner can cause that with each false gradient, which may cost it
nothing, and rows may be gigabytes. So it has a thread of its own, which no duty to a round waits
for, and what was found intact is not read again for a while.
"""

import math
from typing import Final

import trio
from cachetools import LRUCache

from chain.primitives import Hash32
from node.storage.blobs import BlobStore

INTACT_SECONDS: Final = 60.0
"""How long a blob that was found intact is not read again."""

ROWS_INTACT_SECONDS: Final = 600.0
"""The same of the rows that a verdict rests on. Reading a GiB takes 1.7 s of a processor, and with
the default quota all tasks together are promised 32 GiB. So the false gradients of all tasks take
less than a tenth of a processor, and a damaged file is found in ten minutes."""

REMEMBERED_BLOBS: Final = 1_024
"""The most blobs of which that is remembered."""

SLICE_CHUNKS: Final = 256
"""The chunks that are read in one turn of a thread, in a tenth of a second. So a task does not wait
until the gigabytes of another are read."""

FileIdentity = tuple[int, int]
"""The inode and the size of a file."""


class IntactBlobs:
    """Reads blobs in two threads: one for duties to rounds, and one for what others can cause."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._urgent = trio.CapacityLimiter(1)
        self._background = trio.CapacityLimiter(1)
        self._running: dict[tuple[Hash32, bool], trio.Event] = {}
        """What is being read in either thread. A thousand checks need the same rows."""
        self._intact: LRUCache[Hash32, tuple[float, FileIdentity]] = LRUCache(REMEMBERED_BLOBS)
        """When a blob was found intact, and which file it was."""

    async def check(self, content_id: Hash32, *, is_urgent: bool, trusted_seconds: float) -> None:
        """Read a blob, unless it was found intact `trusted_seconds` ago or later.

        Args:
            content_id: The blob.
            is_urgent: Whether a duty to a live round waits for it, which no miner or submitter can
                cause at will.
            trusted_seconds: For how long an earlier reading counts.

        Raises:
            KeyError: It is not held.
            BlobDamagedError: The disk damaged it; it is deleted.
        """
        key = (content_id, is_urgent)
        while key in self._running:
            await self._running[key].wait()
        over = self._running[key] = trio.Event()
        try:
            now, identity = trio.current_time(), self._identify(content_id)
            checked_at, checked = self._intact.get(content_id, (-math.inf, None))
            if checked != identity or now >= checked_at + trusted_seconds:
                threads = self._urgent if is_urgent else self._background
                first: int | None = 0
                while first is not None:
                    first = await trio.to_thread.run_sync(
                        self._read, content_id, first, limiter=threads
                    )
                self._intact[content_id] = (now, identity)
        finally:
            del self._running[key]
            over.set()

    def _identify(self, content_id: Hash32) -> FileIdentity:
        try:
            status = self._blobs.path(content_id).stat()
        except FileNotFoundError as error:
            raise KeyError(content_id) from error
        return status.st_ino, status.st_size

    def _read(self, content_id: Hash32, first: int) -> int | None:
        """Read some chunks, and return the first that is left; None if all are read."""
        count = len(self._blobs.manifest(content_id).leaves)
        end = min(first + SLICE_CHUNKS, count)
        for index in range(first, end):
            self._blobs.chunk(content_id, index)
        return end if end < count else None
