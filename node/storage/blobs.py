"""Blobs by content id: gradients, models and data shards as files (docs/spec/wire.md, section 7).

    <content id>.blob     a whole blob; it was verified before it got this name
    <content id>.partial  a download, at its full length, with chunks at their final positions
    <content id>.leaves   the chunk hashes of a blob or of a download
    <random>.upload       an upload in progress
    <any of them>.aside   a file that is being deleted

The modification time of a file is the time at which it was last needed. Several processes may use
one directory: a blob appears by a rename, and the used space is what the directory contains, to
which only the holder of its lock adds files. A download does not record which chunks it has; that
is recomputed from the bytes, so it cannot be wrong after a crash. At most one chunk is in memory.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

from chain.crypto import CHUNK_BYTES, merkle_leaf
from chain.crypto import content_id as compute_content_id
from chain.errors import RejectedInputError, RejectionReason
from chain.hexadecimal import to_hex
from chain.primitives import Hash32
from node.storage.blob_files import (
    ASIDE,
    BLOB,
    LEAVES,
    PARTIAL,
    UPLOAD,
    BlobDownload,
    BlobUpload,
    build_disk_error,
    compute_leaves,
    touch,
)
from node.storage.blob_manifest import BlobManifest
from pot_common.atomic_file import TEMPORARY_SUFFIX, write_atomically
from pot_common.errors import OperatorError
from pot_common.lock_file import wait_for_lock

CACHED_MANIFESTS: Final = 16
"""Manifests kept in memory, with up to 5 MB each. Without this cache every chunk that is served
would cost 4 ms for each gigabyte of its blob."""

PROMISED_SHARE: Final = 2
"""One part in this many of the quota is for what validators promised to keep by their ready votes.
Content of other tasks is let in only while the rest has room for it, so it never takes that part.
"""


class BlobQuotaError(OperatorError):
    """The blob does not fit into blobs.quota_bytes; the message names the setting."""


class BlobDamagedError(Exception):
    """The disk changed a blob. The blob was deleted and must be fetched again."""


class BlobStore:
    """The blobs in one directory.

    Args:
        directory: Created if it does not exist.
        quota_bytes: Limit of all blobs, downloads and uploads together.

    Raises:
        OperatorError: The directory is not accessible.
    """

    def __init__(self, directory: Path, *, quota_bytes: int) -> None:
        self._directory = directory
        self._quota_bytes = quota_bytes
        # The manifest of a content id never changes, but its size is that of the file, which the
        # disk may change. The cache is cleared when that is found.
        self._manifests = lru_cache(CACHED_MANIFESTS)(self._read_manifest)
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise OperatorError(f"cannot use the blob directory {directory}: {error}") from error

    @property
    def quota_bytes(self) -> int:
        """The limit on all blobs together."""
        return self._quota_bytes

    def has_room_for_content(self, size_bytes: int) -> bool:
        """Whether that many bytes of a task's content fit without using the promised share.

        Raises:
            BlobDiskError: The directory cannot be read.
        """
        return self.used_bytes() + size_bytes <= self._quota_bytes - self.promised_share_bytes

    @property
    def promised_share_bytes(self) -> int:
        """The part of the quota for the tasks that this validator is ready for."""
        return self._quota_bytes // PROMISED_SHARE

    def has(self, content_id: Hash32) -> bool:
        """Whether the whole blob is here."""
        return self.path(content_id).exists()

    def renew(self, content_id: Hash32) -> bool:
        """Mark a blob as needed now, so that `collect` keeps it; False if it is not here.

        Raises:
            BlobDiskError: The disk refused.
        """
        try:
            touch(self.path(content_id))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise build_disk_error(self._directory, error) from error
        return True

    def path(self, content_id: Hash32) -> Path:
        """The path of the whole blob, whether it exists or not."""
        return self._directory / (content_id.hex() + BLOB)

    def size_bytes(self, content_id: Hash32) -> int:
        """The length of a stored blob.

        Raises:
            KeyError: The blob is not here.
        """
        try:
            return self.path(content_id).stat().st_size
        except FileNotFoundError:
            raise KeyError(content_id) from None

    def get_size(self, content_id: Hash32) -> int | None:
        """The length of a blob; None if it is not here."""
        try:
            return self.size_bytes(content_id)
        except KeyError:
            return None

    def open(self, content_id: Hash32) -> BinaryIO:
        """The blob, opened for reading; the caller closes it. It stays readable if it is deleted.

        Raises:
            KeyError: The blob is not here.
        """
        try:
            return self.path(content_id).open("rb")
        except FileNotFoundError:
            raise KeyError(content_id) from None

    def manifest(self, content_id: Hash32) -> BlobManifest:
        """Size and chunk hashes of a stored blob.

        Raises:
            KeyError: The blob is not here.
            BlobDamagedError: The disk changed it.
        """
        size_bytes = self.size_bytes(content_id)
        manifest = self._manifests(content_id)
        if manifest.size_bytes != size_bytes:
            self._drop_damaged(content_id)
        return manifest

    def _read_manifest(self, content_id: Hash32) -> BlobManifest:
        size_bytes = self.size_bytes(content_id)
        try:
            return self._load_manifest(content_id, size_bytes)
        except (FileNotFoundError, RejectedInputError):
            pass
        with self.open(content_id) as file:
            manifest = BlobManifest(size_bytes, tuple(compute_leaves(file)))
        if manifest.content_id != content_id:
            self._drop_damaged(content_id)
        with suppress(OSError):  # the file is only a cache: next time the hashes are computed again
            write_atomically(self._leaves_path(content_id), b"".join(manifest.leaves))
        return manifest

    def chunk(self, content_id: Hash32, index: int) -> bytes:
        """The chunk at `index` of a stored blob, verified against its hash.

        Raises:
            KeyError: The blob is not here, or has no such chunk.
            BlobDamagedError: The disk changed it.
        """
        manifest = self.manifest(content_id)
        if not 0 <= index < len(manifest.leaves):
            raise KeyError(index)
        with self.open(content_id) as file:
            file.seek(index * CHUNK_BYTES)
            data = file.read(CHUNK_BYTES)
        if merkle_leaf(data) != manifest.leaves[index]:
            self._drop_damaged(content_id)
        return data

    def put(self, data: bytes | memoryview) -> Hash32:
        """Store a blob from memory and return its content id.

        Raises:
            BlobQuotaError: The blob does not fit into the quota.
            BlobDiskError: The disk refused.
        """
        known = compute_content_id(data)
        if self.renew(known):
            return known
        with self.upload(len(data), known) as upload:
            upload.write(data)
            return upload.finish()

    def upload(
        self, size_limit: int, expected: Hash32 | None = None, *, is_content: bool = False
    ) -> BlobUpload:
        """A new blob that is written from start to end.

        Args:
            size_limit: The largest length; it is reserved in the quota until the upload ends.
            expected: Its content id, if that is known before.
            is_content: Whether it is a task's content, which leaves the promised share free.

        Raises:
            BlobQuotaError: There is no room for `size_limit` bytes.
            BlobDiskError: The disk refused.
        """
        limit = self._quota_bytes - (self.promised_share_bytes if is_content else 0)
        try:
            with wait_for_lock(self._directory):
                self._check_quota(size_limit, limit)
                return BlobUpload(self._directory, size_limit, expected)
        except OSError as error:
            raise build_disk_error(self._directory, error) from error

    def download(self, manifest: BlobManifest) -> BlobDownload:
        """A blob that is written chunk by chunk; it continues where an earlier download ended.

        There can be only one at a time for a content id.

        Raises:
            BlobQuotaError: The blob does not fit into the quota.
            BlobDiskError: The disk refused.
        """
        content_id = manifest.content_id
        partial = self._directory / (content_id.hex() + PARTIAL)
        try:
            is_reserved = partial.exists() and partial.stat().st_size == manifest.size_bytes
            with nullcontext() if is_reserved else wait_for_lock(self._directory):
                if not is_reserved:
                    self._check_quota(manifest.size_bytes, self._quota_bytes)
                write_atomically(self._leaves_path(content_id), b"".join(manifest.leaves))
                return BlobDownload(partial, manifest)
        except OSError as error:
            raise build_disk_error(self._directory, error) from error

    def delete(self, content_id: Hash32) -> None:
        """Delete the blob and any download of it."""
        for suffix in (BLOB, PARTIAL, LEAVES):
            (self._directory / (content_id.hex() + suffix)).unlink(missing_ok=True)

    def content_ids(self) -> tuple[Hash32, ...]:
        """The whole blobs, by ascending content id."""
        return tuple(sorted(self._stored(BLOB)))

    def used_bytes(self) -> int:
        """The used part of the quota: all files, with downloads and uploads at their full length.

        Raises:
            BlobDiskError: The directory cannot be read.
        """
        used = 0
        try:
            with os.scandir(self._directory) as entries:
                for entry in entries:
                    try:
                        used += entry.stat().st_size
                    except FileNotFoundError:  # another process just renamed or deleted it
                        continue
        except OSError as error:
            raise build_disk_error(self._directory, error) from error
        return used

    def list_unwanted(self, before_ns: int) -> Mapping[Hash32, int]:
        """The bytes of blobs and downloads last needed before `before_ns` (Unix time), by id."""
        wanted: dict[Hash32, int] = {}
        sizes: dict[Hash32, int] = {}
        with os.scandir(self._directory) as entries:
            for entry in entries:
                stem, _, suffix = entry.name.partition(".")
                if len(stem) != 64 or f".{suffix}" not in (BLOB, PARTIAL, LEAVES):
                    continue
                content_id = Hash32(bytes.fromhex(stem))
                try:
                    status = entry.stat()
                except FileNotFoundError:  # another process just renamed or deleted it
                    continue
                wanted[content_id] = max(status.st_mtime_ns, wanted.get(content_id, 0))
                sizes[content_id] = sizes.get(content_id, 0) + status.st_size
        return {each: sizes[each] for each in sorted(wanted) if wanted[each] < before_ns}

    def list_downloads(self) -> Sequence[Hash32]:
        """The blobs of which a part was downloaded, by ascending content id."""
        return tuple(sorted(self._stored(PARTIAL)))

    def collect_download(self, content_id: Hash32, before_ns: int) -> int:
        """Delete a download last written to before `before_ns`; returns the bytes freed."""
        return self._collect(content_id, (PARTIAL,), before_ns)

    def collect(self, content_id: Hash32, before_ns: int) -> int:
        """Delete a blob or download last needed before `before_ns`; returns the bytes freed.

        If another process needs it at the same moment, that process either keeps it or finds it
        absent. For this it is renamed first, and renamed back if it was needed meanwhile.
        """
        return self._collect(content_id, (BLOB, PARTIAL), before_ns)

    def _collect(self, content_id: Hash32, suffixes: Iterable[str], before_ns: int) -> int:
        freed = 0
        for suffix in suffixes:
            path = self._directory / (content_id.hex() + suffix)
            aside = path.with_name(path.name + ASIDE)
            try:
                path.rename(aside)
            except FileNotFoundError:
                continue
            status = aside.stat()
            if status.st_mtime_ns >= before_ns:
                aside.rename(path)
                return freed
            aside.unlink()
            freed += status.st_size
        if self.has(content_id):
            return freed
        leaves = self._leaves_path(content_id)
        try:
            size = leaves.stat().st_size
        except FileNotFoundError:
            return freed
        leaves.unlink(missing_ok=True)
        return freed + size

    def recover(self) -> int:
        """Clean up after killed processes and return the number of files; no other may write now.

        Half-written files are deleted. Files that were about to be deleted get their name back.
        """
        count = 0
        for path in tuple(self._directory.iterdir()):
            if path.suffix in (UPLOAD, TEMPORARY_SUFFIX):
                path.unlink(missing_ok=True)
            elif path.suffix == ASIDE:
                path.rename(path.with_suffix(""))
            else:
                continue
            count += 1
        return count

    def remove_uploads(self, before_ns: int) -> None:
        """Delete uploads that were last written to before `before_ns`."""
        for path in tuple(self._directory.iterdir()):
            if path.suffix in (UPLOAD, TEMPORARY_SUFFIX):
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime_ns < before_ns:
                        path.unlink()

    def _leaves_path(self, content_id: Hash32) -> Path:
        return self._directory / (content_id.hex() + LEAVES)

    def _load_manifest(self, content_id: Hash32, size_bytes: int) -> BlobManifest:
        data = self._leaves_path(content_id).read_bytes()
        leaves = tuple(Hash32(data[start : start + 32]) for start in range(0, len(data), 32))
        manifest = BlobManifest(size_bytes, leaves)
        if manifest.content_id != content_id:
            raise RejectedInputError(RejectionReason.CONTENT_MISMATCH, "chunk hashes")
        return manifest

    def _stored(self, suffix: str) -> Iterator[Hash32]:
        for path in self._directory.iterdir():
            if path.suffix == suffix and len(path.stem) == 64:
                yield Hash32(bytes.fromhex(path.stem))

    def _check_quota(self, size_bytes: int, limit_bytes: int) -> None:
        used = self.used_bytes()
        if used + size_bytes > limit_bytes:
            raise BlobQuotaError(
                f"a blob of {size_bytes} bytes does not fit: {used} of {limit_bytes} are in use; "
                f"raise blobs.quota_bytes, which is {self._quota_bytes}"
            )

    def _drop_damaged(self, content_id: Hash32) -> NoReturn:
        self.delete(content_id)
        self._manifests.cache_clear()
        raise BlobDamagedError(f"the disk of {self._directory} changed blob {to_hex(content_id)}")
