"""The files of a blob that is being written (docs/spec/wire.md, section 7).

A blob of this node is written from start to end, one that peers or senders of content give chunk by
chunk; all are verified, and only then renamed to the name of a whole blob.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, Self

from chain.crypto import CHUNK_BYTES, merkle_leaf
from chain.errors import RejectedInputError, RejectionReason
from chain.hexadecimal import to_hex
from chain.primitives import Hash32
from chain.training.resources import count_stored_bytes
from node.storage.blob_manifest import BlobManifest
from node.storage.blob_usage import BlobUsage
from pot_common.atomic_file import sync_directory, sync_file, write_atomically
from pot_common.errors import StorageError

BLOB: Final = ".blob"
PARTIAL: Final = ".partial"
LEAVES: Final = ".leaves"
UPLOAD: Final = ".upload"
ASIDE: Final = ".aside"

READ_CHUNKS: Final = 64
"""The chunks of an earlier process that are read and hashed at a time: 16 MiB, which takes a
sixtieth of a second. Other downloads need the same thread."""


class BlobDiskError(StorageError):
    """The disk refused a blob. Nothing promised is lost: a blob can be fetched again."""


class BlobUpload:
    """A blob that is written from start to end; it is deleted unless `finish` was called."""

    def __init__(
        self, path: Path, usage: BlobUsage, size_limit: int, expected: Hash32 | None
    ) -> None:
        """Create the file at its full length; the caller holds the lock and counts it.

        Raises:
            OSError: The disk refused.
        """
        self._usage = usage
        self._size_limit = size_limit
        self._reserved_bytes = size_limit
        self._expected = expected
        self._size_bytes = 0
        self._leaves: list[Hash32] = []
        self._chunk = bytearray()
        self._path = path
        self._file = self._path.open("x+b")
        try:
            # The node that counts anew counts these bytes as used.
            self._file.truncate(size_limit)
        except OSError:
            self._file.close()
            self._path.unlink()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._discard()

    def _discard(self) -> None:
        with suppress(OSError):  # closing retries the write that the disk has refused already
            self._file.close()
        _discard(self._usage, self._path, self._reserved_bytes)

    @property
    def path(self) -> Path:
        """The file, at its full length, for another process that writes it."""
        return self._path

    def finish_written(self, expected: Hash32 | None = None) -> Hash32:
        """Make the blob appear that another process has written to the whole of `path`.

        Args:
            expected: Its content id; None if that is not known.

        Raises:
            RejectedInputError: CONTENT_MISMATCH if it is not the expected content id.
            BlobDiskError: The disk refused.
        """
        leaves = tuple(compute_leaves(self._file))
        return self._publish(BlobManifest(self._size_limit, leaves), expected)

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`.

        Raises:
            RejectedInputError: TOO_LARGE above the size limit.
            BlobDiskError: The disk refused.
        """
        view = memoryview(data).cast("B")
        self._size_bytes += len(view)
        if self._size_bytes > self._size_limit:
            raise RejectedInputError(
                RejectionReason.TOO_LARGE, f"more than the {self._size_limit} bytes announced"
            )
        while view:
            taken = view[: CHUNK_BYTES - len(self._chunk)]
            self._chunk += taken
            view = view[len(taken) :]
            if len(self._chunk) == CHUNK_BYTES:
                self._flush_chunk()

    def finish(self) -> Hash32:
        """Make the blob appear under its content id, and return that.

        Raises:
            RejectedInputError: CONTENT_MISMATCH if it is not the expected content id.
            BlobDiskError: The disk refused.
        """
        if self._chunk or not self._leaves:
            self._flush_chunk()
        manifest = BlobManifest(self._size_bytes, tuple(self._leaves))
        return self._publish(manifest, self._expected)

    def _publish(self, manifest: BlobManifest, expected: Hash32 | None) -> Hash32:
        if expected is not None and manifest.content_id != expected:
            raise RejectedInputError(
                RejectionReason.CONTENT_MISMATCH, f"the bytes are {to_hex(manifest.content_id)}"
            )
        try:
            self._cut(manifest.size_bytes)
            sync_file(self._file)
            return _publish(self._usage, self._path, manifest)
        except OSError as error:
            raise build_disk_error(self._path.parent, error) from error

    def _cut(self, size_bytes: int) -> None:
        """Give the file its final length, and free what was reserved beyond it."""
        more = count_stored_bytes(size_bytes) - count_stored_bytes(self._reserved_bytes)
        with self._usage.lock() as usage, usage.changed(more):
            self._file.truncate(size_bytes)
            self._reserved_bytes = size_bytes

    def _flush_chunk(self) -> None:
        self._leaves.append(merkle_leaf(bytes(self._chunk)))
        try:
            self._file.write(self._chunk)
        except OSError as error:
            raise build_disk_error(self._path.parent, error) from error
        self._chunk.clear()


class HeldChunks:
    """Which chunks of a download are in its file.

    The store remembers it from one try to the next: whoever names a blob and then sends nothing of
    it can cause as many tries as it likes, and hashing a GiB takes a second.
    """

    def __init__(self, chunk_count: int, inode: int, *, is_new: bool) -> None:
        """Begin without chunks.

        Args:
            chunk_count: The chunks of the blob.
            inode: The inode of the file.
            is_new: Whether the file was just created; another one may hold chunks.
        """
        self.inode = inode
        self.flags = bytearray(chunk_count)
        """1 for each chunk that is held. Several threads only set them, one chunk each."""
        self.unread_from = chunk_count if is_new else 0
        """The first chunk that an earlier process may have written and that was not read since."""


class BlobDownload:
    """A blob that is written in chunks, in any order; each is verified before it is written.

    Chunks may be written from several threads.
    """

    def __init__(
        self,
        path: Path,
        manifest: BlobManifest,
        usage: BlobUsage,
        held: HeldChunks,
        forget: Callable[[], object] = lambda: None,
    ) -> None:
        """Open a file that has the length of the blob.

        Args:
            path: The file.
            manifest: The size and chunk hashes.
            usage: The used bytes, among which the file is counted.
            held: The chunks that are in the file.
            forget: Is called when the file has become a blob.

        Raises:
            OSError: The disk refused.
        """
        self._path = path
        self._manifest = manifest
        self._usage = usage
        self._held = held
        self._forget = forget
        self._file = path.open("r+b")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def is_read(self) -> bool:
        """Whether it is known of each chunk whether it is held."""
        return self._held.unread_from == len(self._manifest.leaves)

    def read_some(self) -> None:
        """Read a few of the chunks that an earlier process may have written.

        Raises:
            BlobDiskError: The disk refused.
        """
        first, leaves = self._held.unread_from, self._manifest.leaves
        end = min(first + READ_CHUNKS, len(leaves))
        try:
            for index in range(first, end):
                chunk = os.pread(self._file.fileno(), CHUNK_BYTES, index * CHUNK_BYTES)
                self._held.flags[index] |= merkle_leaf(chunk) == leaves[index]
        except OSError as error:
            raise build_disk_error(self._path.parent, error) from error
        self._held.unread_from = end

    def missing(self) -> tuple[int, ...]:
        """The indices of the missing chunks, ascending, after reading what is left to read."""
        while not self.is_read():
            self.read_some()
        return tuple(index for index, is_held in enumerate(self._held.flags) if not is_held)

    def write_chunk(self, index: int, data: bytes) -> None:
        """Write the chunk at `index`; nothing is written if it is held already.

        Raises:
            RejectedInputError: MALFORMED if there is no such chunk, CONTENT_MISMATCH if these are
                not its bytes.
            BlobDiskError: The disk refused.
        """
        self._manifest.check_chunk(index, data)
        if self._held.flags[index]:
            return
        try:
            written = os.pwrite(self._file.fileno(), data, index * CHUNK_BYTES)
            if written != len(data):
                raise OSError(f"wrote {written} of {len(data)} bytes")
        except OSError as error:
            raise build_disk_error(self._path.parent, error) from error
        self._held.flags[index] = True

    def finish(self) -> Hash32:
        """Make the blob appear under its content id, and return that. No chunk may be missing.

        Raises:
            BlobDiskError: The disk refused.
        """
        assert all(self._held.flags)
        try:
            sync_file(self._file)
            content_id = _publish(self._usage, self._path, self._manifest)
        except OSError as error:
            raise build_disk_error(self._path.parent, error) from error
        self._forget()
        return content_id


class ContentUpload(BlobDownload):
    """A blob that senders upload chunk by chunk; it is deleted unless `finish` was called."""

    def __init__(self, path: Path, manifest: BlobManifest, usage: BlobUsage) -> None:
        """Create the file at its full length; the caller holds the lock and counts it.

        Raises:
            OSError: The disk refused.
        """
        self._reserved_bytes = manifest.size_bytes
        try:
            set_length(path, manifest.size_bytes)
            held = HeldChunks(len(manifest.leaves), path.stat().st_ino, is_new=True)
            super().__init__(path, manifest, usage, held)
        except OSError:
            path.unlink(missing_ok=True)
            raise

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        _discard(self._usage, self._path, self._reserved_bytes)


def _discard(usage: BlobUsage, path: Path, reserved_bytes: int) -> None:
    """Delete a file that is not to appear as a blob, if it is still there."""
    if path.exists():
        # If the disk refuses, the collector deletes the file later.
        freed = count_stored_bytes(reserved_bytes)
        with suppress(OSError), usage.lock() as locked, locked.changed(-freed):
            path.unlink()


def _publish(usage: BlobUsage, written: Path, manifest: BlobManifest) -> Hash32:
    """Rename a verified file to its final name, durably."""
    content_id = manifest.content_id
    stem = written.with_name(content_id.hex())
    write_atomically(stem.with_suffix(LEAVES), b"".join(manifest.leaves))
    blob = stem.with_suffix(BLOB)
    with usage.lock() as locked:
        # Another process may have stored the same blob meanwhile.
        freed = count_stored_bytes(blob.stat().st_size) if blob.exists() else 0
        with locked.changed(-freed):
            written.replace(blob)
    sync_directory(written.parent)
    return content_id


def set_length(path: Path, size_bytes: int) -> None:
    """Give a file, which is created if need be, a length, and note that it is needed now."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, size_bytes)
    finally:
        os.close(descriptor)
    touch(path)


def touch(path: Path) -> None:
    """Note that a file is needed now."""
    now_ns = time.time_ns()
    os.utime(path, ns=(now_ns, now_ns))


def build_disk_error(directory: Path, error: OSError) -> BlobDiskError:
    """The error for the operator that the disk of the blobs has failed."""
    return BlobDiskError(
        f"cannot use the blobs in {directory}: {error}; free or repair the disk of data_dir"
    )


def compute_leaves(file: BinaryIO) -> Iterator[Hash32]:
    """The hash of every chunk of `file`, which is read chunk by chunk."""
    file.seek(0)
    chunk = file.read(CHUNK_BYTES)
    yield merkle_leaf(chunk)
    while len(chunk) == CHUNK_BYTES and (chunk := file.read(CHUNK_BYTES)):
        yield merkle_leaf(chunk)
