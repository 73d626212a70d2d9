"""The files of a blob that is being written (docs/spec/wire.md, section 7).

An upload is written from start to end, a download chunk by chunk; both are verified, and only then
renamed to the name of a whole blob.
"""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, Self

from chain.crypto import CHUNK_BYTES, merkle_leaf
from chain.errors import RejectedInputError, RejectionReason
from chain.hexadecimal import to_hex
from chain.primitives import Hash32
from node.storage.blob_manifest import BlobManifest
from pot_common.atomic_file import sync_directory, sync_file, write_atomically
from pot_common.errors import StorageError

BLOB: Final = ".blob"
PARTIAL: Final = ".partial"
LEAVES: Final = ".leaves"
UPLOAD: Final = ".upload"
ASIDE: Final = ".aside"


class BlobDiskError(StorageError):
    """The disk refused a blob. Nothing promised is lost: a blob can be fetched again."""


class BlobUpload:
    """A blob that is written from start to end; it is deleted unless `finish` was called."""

    def __init__(self, directory: Path, size_limit: int, expected: Hash32 | None) -> None:
        self._size_limit = size_limit
        self._expected = expected
        self._size_bytes = 0
        self._leaves: list[Hash32] = []
        self._chunk = bytearray()
        self._path = directory / (secrets.token_hex(16) + UPLOAD)
        try:
            self._file = self._path.open("x+b")
        except OSError as error:
            raise build_disk_error(directory, error) from error
        try:
            # This reserves the space: other uploads count these bytes as used.
            self._file.truncate(size_limit)
        except OSError as error:
            self._discard()
            raise build_disk_error(directory, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._discard()

    def _discard(self) -> None:
        with suppress(OSError):  # closing retries the write that the disk has refused already
            self._file.close()
        self._path.unlink(missing_ok=True)

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
            self._file.truncate(manifest.size_bytes)
            sync_file(self._file)
            return _publish(self._path, manifest)
        except OSError as error:
            raise build_disk_error(self._path.parent, error) from error

    def _flush_chunk(self) -> None:
        self._leaves.append(merkle_leaf(bytes(self._chunk)))
        try:
            self._file.write(self._chunk)
        except OSError as error:
            raise build_disk_error(self._path.parent, error) from error
        self._chunk.clear()


class BlobDownload:
    """A blob that is written in chunks, in any order; each is verified before it is written.

    Chunks may be written from several threads.
    """

    def __init__(self, path: Path, manifest: BlobManifest) -> None:
        self._path = path
        self._manifest = manifest
        self._missing = set(range(len(manifest.leaves)))
        resumed = path.exists()
        if resumed:
            touch(path)
        self._file = path.open("r+b" if resumed else "x+b")
        self._file.truncate(manifest.size_bytes)
        if resumed:
            held = enumerate(compute_leaves(self._file))
            self._missing -= {index for index, leaf in held if leaf == manifest.leaves[index]}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def missing(self) -> tuple[int, ...]:
        """The indices of the missing chunks, ascending."""
        return tuple(sorted(self._missing))

    def write_chunk(self, index: int, data: bytes) -> None:
        """Write the chunk at `index`.

        Raises:
            RejectedInputError: MALFORMED if there is no such chunk, CONTENT_MISMATCH if these are
                not its bytes.
            BlobDiskError: The disk refused.
        """
        if not 0 <= index < len(self._manifest.leaves):
            raise RejectedInputError(RejectionReason.MALFORMED, f"no chunk {index}")
        right_size = len(data) == self._manifest.chunk_size(index)
        if not right_size or merkle_leaf(data) != self._manifest.leaves[index]:
            raise RejectedInputError(RejectionReason.CONTENT_MISMATCH, f"chunk {index}")
        try:
            written = os.pwrite(self._file.fileno(), data, index * CHUNK_BYTES)
            if written != len(data):
                raise OSError(f"wrote {written} of {len(data)} bytes")
        except OSError as error:
            raise build_disk_error(self._path.parent, error) from error
        self._missing.discard(index)

    def finish(self) -> Hash32:
        """Make the blob appear under its content id, and return that. No chunk may be missing.

        Raises:
            BlobDiskError: The disk refused.
        """
        assert not self._missing
        try:
            sync_file(self._file)
            return _publish(self._path, self._manifest)
        except OSError as error:
            raise build_disk_error(self._path.parent, error) from error


def _publish(written: Path, manifest: BlobManifest) -> Hash32:
    """Rename a verified file to its final name, durably."""
    content_id = manifest.content_id
    stem = written.with_name(content_id.hex())
    write_atomically(stem.with_suffix(LEAVES), b"".join(manifest.leaves))
    written.replace(stem.with_suffix(BLOB))
    sync_directory(written.parent)
    return content_id


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
