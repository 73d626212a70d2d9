"""Blobs by content id: gradients, models and data shards as files (docs/spec/wire.md, section 7).

    <content id>.blob     a whole blob; it was verified before it got this name
    <content id>.partial  a download, at its full length, with chunks at their final positions
    <content id>.leaves   the chunk hashes of a blob or of a download
    <random>.upload       an upload in progress; of an RPC process: rpc-<place>-<random>.upload
    <any of them>.aside   a file that is being deleted
    used_bytes            what all of them take of the quota

The modification time of a file is the time at which it was last needed. Several processes may use
one directory: a blob appears by a rename, and all keep one number of used bytes (blob_usage.py).
Which chunks a download has is on no disk: a process computes it from the bytes once, so it cannot
be wrong after a crash, and then remembers it. At most one chunk is in memory.
"""

import os
import secrets
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

from cachetools import LRUCache

from chain.crypto import CHUNK_BYTES, merkle_leaf
from chain.crypto import content_id as compute_content_id
from chain.errors import RejectedInputError, RejectionReason
from chain.hexadecimal import to_hex
from chain.primitives import Hash32
from chain.training.resources import count_stored_bytes
from node.storage.blob_files import (
    ASIDE,
    BLOB,
    LEAVES,
    PARTIAL,
    UPLOAD,
    BlobDownload,
    BlobUpload,
    ContentUpload,
    HeldChunks,
    build_disk_error,
    compute_leaves,
    set_length,
    touch,
)
from node.storage.blob_manifest import BlobManifest
from node.storage.blob_usage import BlobUsage, LockedUsage
from pot_common.atomic_file import TEMPORARY_SUFFIX, write_atomically
from pot_common.errors import OperatorError

CACHED_LEAVES: Final = 2**20
"""Chunk hashes of manifests that are kept in memory, with 80 bytes each: those of 256 GiB. Without
this cache every chunk that is served would cost 4 ms for each gigabyte of its blob."""

PROMISED_SHARE: Final = 2
"""One part in this many of the quota is for what validators promised to keep by their ready votes.
Content of other tasks is let in only while the rest has room for it, so it never takes that part.
"""


class BlobQuotaError(OperatorError):
    """The blob does not fit into blobs.quota_bytes; the message names the setting."""


class BlobDamagedError(Exception):
    """The disk changed a blob. The blob was deleted and must be fetched again."""


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """What is stored of one blob."""

    is_whole: bool
    is_downloaded: bool
    """Whether there is a download of it, which may stay beside a blob that came otherwise."""
    stored_bytes: int
    """What it takes of the quota."""
    wanted_ns: int
    """When it was last needed, in Unix nanoseconds."""


class BlobStore:
    """The blobs in one directory.

    Args:
        directory: Created if it does not exist.
        quota_bytes: Limit of all blobs, downloads and uploads together.
        place: The index of the RPC process that this object belongs to; None in other processes.

    Raises:
        OperatorError: The directory is not accessible.
    """

    def __init__(self, directory: Path, *, quota_bytes: int, place: int | None = None) -> None:
        self._directory = directory
        self._upload_prefix = "" if place is None else _build_upload_prefix(place)
        self._quota_bytes = quota_bytes
        self._usage = BlobUsage(directory, self._count_used)
        # The manifest of a content id never changes, but its size is that of the file, which the
        # disk may change. The cache is cleared when that is found.
        self._manifests: LRUCache[Hash32, BlobManifest] = LRUCache(
            CACHED_LEAVES, getsizeof=lambda manifest: len(manifest.leaves)
        )
        self._manifests_lock = threading.Lock()
        # One byte for each chunk of the unfinished downloads, all of which the quota counts.
        self._held: dict[Hash32, HeldChunks] = {}
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise OperatorError(f"cannot use the blob directory {directory}: {error}") from error

    @property
    def quota_bytes(self) -> int:
        """The limit on all blobs together."""
        return self._quota_bytes

    def has_room_for_content(self, stored_bytes: int) -> bool:
        """Whether content that takes so much of the quota fits beside the promised share.

        Raises:
            BlobDiskError: The directory cannot be read.
        """
        return self.used_bytes() + stored_bytes <= self._quota_bytes - self.promised_share_bytes

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
        with self._manifests_lock:
            known = self._manifests.get(content_id)
        manifest = self._read_manifest(content_id) if known is None else known
        if known is None:
            with self._manifests_lock:
                self._manifests[content_id] = manifest
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
        self, size_limit: int, expected: Hash32 | None = None, *, is_promised: bool = True
    ) -> BlobUpload:
        """A new blob that is written from start to end.

        Args:
            size_limit: The largest length; it is reserved in the quota until the upload ends.
            expected: Its content id, if that is known before.
            is_promised: Whether it may use the promised share; else it leaves that free.

        Raises:
            BlobQuotaError: There is no room for `size_limit` bytes.
            BlobDiskError: The disk refused.
        """
        stored_bytes = count_stored_bytes(size_limit)
        limit = self._quota_bytes - (0 if is_promised else self.promised_share_bytes)
        try:
            with self._usage.lock() as usage:
                self._check_quota(usage, stored_bytes, limit)
                with usage.changed(stored_bytes):
                    path = self._build_upload_path()
                    return BlobUpload(path, self._usage, size_limit, expected)
        except OSError as error:
            raise build_disk_error(self._directory, error) from error

    def receive_content(self, manifest: BlobManifest) -> ContentUpload:
        """A blob of a task's content that its senders upload; it leaves the promised share free.

        Raises:
            BlobQuotaError: There is no room for it.
            BlobDiskError: The disk refused.
        """
        stored_bytes = count_stored_bytes(manifest.size_bytes)
        limit = self._quota_bytes - self.promised_share_bytes
        try:
            with self._usage.lock() as usage:
                self._check_quota(usage, stored_bytes, limit)
                with usage.changed(stored_bytes):
                    return ContentUpload(self._build_upload_path(), manifest, self._usage)
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
        path = self._directory / (content_id.hex() + PARTIAL)
        try:
            with self._usage.lock() as usage:
                before = path.stat() if path.exists() else None
                reserved = 0 if before is None else count_stored_bytes(before.st_size)
                more_bytes = count_stored_bytes(manifest.size_bytes) - reserved
                self._check_quota(usage, more_bytes, self._quota_bytes)
                with usage.changed(more_bytes):
                    set_length(path, manifest.size_bytes)
            held = self._held.get(content_id)
            if before is None or held is None or held.inode != before.st_ino:
                write_atomically(self._leaves_path(content_id), b"".join(manifest.leaves))
                inode, is_new = path.stat().st_ino, before is None
                held = HeldChunks(len(manifest.leaves), inode, is_new=is_new)
                self._held[content_id] = held
            forget = partial(self._held.pop, content_id, None)
            return BlobDownload(path, manifest, self._usage, held, forget)
        except OSError as error:
            raise build_disk_error(self._directory, error) from error

    def delete(self, content_id: Hash32) -> None:
        """Delete the blob and any download of it.

        Raises:
            BlobDiskError: The disk refused.
        """
        try:
            for suffix in (BLOB, PARTIAL):
                path = self._directory / (content_id.hex() + suffix)
                if path.exists():
                    self._unlink(path)
            self._held.pop(content_id, None)
            self._leaves_path(content_id).unlink(missing_ok=True)
        except OSError as error:
            raise build_disk_error(self._directory, error) from error

    def used_bytes(self) -> int:
        """The used part of the quota: all blobs, downloads and uploads at their full length.

        Raises:
            BlobDiskError: The directory cannot be read.
        """
        try:
            return self._usage.get()
        except OSError as error:
            raise build_disk_error(self._directory, error) from error

    def list_stored(self) -> Mapping[Hash32, StoredBlob]:
        """What is stored of blobs, by ascending content id.

        This reads the whole directory, which takes some seconds if it holds a million files.
        """
        found: dict[Hash32, StoredBlob] = {}
        nothing = StoredBlob(is_whole=False, is_downloaded=False, stored_bytes=0, wanted_ns=0)
        for entry in self._list_files((BLOB, PARTIAL, LEAVES)):
            stem, _, suffix = entry.name.partition(".")
            if len(stem) != 64:
                continue
            try:
                status = entry.stat()
            except FileNotFoundError:  # another process just renamed or deleted it
                continue
            content_id = Hash32(bytes.fromhex(stem))
            known = found.get(content_id, nothing)
            is_counted = f".{suffix}" != LEAVES
            found[content_id] = StoredBlob(
                is_whole=known.is_whole or f".{suffix}" == BLOB,
                is_downloaded=known.is_downloaded or f".{suffix}" == PARTIAL,
                stored_bytes=known.stored_bytes
                + (count_stored_bytes(status.st_size) if is_counted else 0),
                wanted_ns=max(known.wanted_ns, status.st_mtime_ns),
            )
        return dict(sorted(found.items()))

    def collect_download(self, content_id: Hash32, before_ns: int) -> int:
        """Delete a download last written to before `before_ns`; returns what it took."""
        return self._collect(content_id, (PARTIAL,), before_ns)

    def collect(self, content_id: Hash32, before_ns: int) -> int:
        """Delete a blob or download last needed before `before_ns`; returns what it took.

        If another process needs it at the same moment, that process either keeps it or finds it
        absent. For this it is renamed first, and renamed back if it was needed meanwhile.
        """
        return self._collect(content_id, (BLOB, PARTIAL), before_ns)

    def _collect(self, content_id: Hash32, suffixes: Iterable[str], before_ns: int) -> int:
        freed = 0
        for suffix in suffixes:
            path = self._directory / (content_id.hex() + suffix)
            if not path.exists():
                continue
            aside = path.with_name(path.name + ASIDE)
            with self._usage.lock():
                try:
                    path.rename(aside)
                except FileNotFoundError:
                    continue
                if aside.stat().st_mtime_ns >= before_ns:
                    aside.rename(path)
                    return freed
            freed += self._unlink(aside)
            if suffix == PARTIAL:
                self._held.pop(content_id, None)
        if not self.has(content_id):
            self._leaves_path(content_id).unlink(missing_ok=True)
        return freed

    def _unlink(self, path: Path) -> int:
        """Delete a file that is counted, and return what it took; 0 if it is gone."""
        with self._usage.lock() as usage:
            try:
                size = count_stored_bytes(path.stat().st_size)
                with usage.changed(-size):
                    path.unlink()
            except FileNotFoundError:
                return 0
        return size

    def recover(self) -> int:
        """Clean up after killed processes and return the number of files; no other may write now.

        Half-written files are deleted. Files that were about to be deleted get their name back. The
        used bytes are counted anew.
        """
        count = 0
        for entry in self._list_files((UPLOAD, TEMPORARY_SUFFIX, ASIDE)):
            path, count = Path(entry.path), count + 1
            if path.suffix == ASIDE:
                path.rename(path.with_suffix(""))
            else:
                path.unlink(missing_ok=True)
        self._usage.count_anew()
        return count

    def remove_uploads(self, before_ns: int) -> None:
        """Delete uploads that were last written to before `before_ns`."""
        for entry in self._list_files((UPLOAD, TEMPORARY_SUFFIX)):
            with suppress(FileNotFoundError):
                if entry.stat().st_mtime_ns >= before_ns:
                    continue
                if entry.name.endswith(UPLOAD):
                    self._unlink(Path(entry.path))
                else:
                    Path(entry.path).unlink()

    def remove_uploads_of(self, place: int) -> int:
        """Delete the uploads of an RPC process that ended, and return what they took.

        Raises:
            BlobDiskError: The disk refused.
        """
        prefix = _build_upload_prefix(place)
        try:
            uploads = [each for each in self._list_files((UPLOAD,)) if each.name.startswith(prefix)]
            return sum(self._unlink(Path(each.path)) for each in uploads)
        except OSError as error:
            raise build_disk_error(self._directory, error) from error

    def _build_upload_path(self) -> Path:
        return self._directory / (self._upload_prefix + secrets.token_hex(16) + UPLOAD)

    def _list_files(self, suffixes: tuple[str, ...]) -> list[os.DirEntry[str]]:
        with os.scandir(self._directory) as entries:
            return [entry for entry in entries if entry.name.endswith(suffixes)]

    def _count_used(self) -> int:
        used = 0
        for entry in self._list_files((BLOB, PARTIAL, UPLOAD, ASIDE)):
            with suppress(FileNotFoundError):  # another process just renamed or deleted it
                used += count_stored_bytes(entry.stat().st_size)
        return used

    def _leaves_path(self, content_id: Hash32) -> Path:
        return self._directory / (content_id.hex() + LEAVES)

    def _load_manifest(self, content_id: Hash32, size_bytes: int) -> BlobManifest:
        data = self._leaves_path(content_id).read_bytes()
        leaves = tuple(Hash32(data[start : start + 32]) for start in range(0, len(data), 32))
        manifest = BlobManifest(size_bytes, leaves)
        if manifest.content_id != content_id:
            raise RejectedInputError(RejectionReason.CONTENT_MISMATCH, "chunk hashes")
        return manifest

    def _check_quota(self, usage: LockedUsage, more_bytes: int, limit_bytes: int) -> None:
        if more_bytes > 0 and usage.used_bytes + more_bytes > limit_bytes:
            raise BlobQuotaError(
                f"a blob that takes {more_bytes} bytes does not fit: {usage.used_bytes} of "
                f"{limit_bytes} are in use; raise blobs.quota_bytes, which is {self._quota_bytes}"
            )

    def _drop_damaged(self, content_id: Hash32) -> NoReturn:
        self.delete(content_id)
        with self._manifests_lock:
            self._manifests.clear()
        raise BlobDamagedError(f"the disk of {self._directory} changed blob {to_hex(content_id)}")


def _build_upload_prefix(place: int) -> str:
    """What the names of the uploads of an RPC process begin with; no other names do."""
    return f"rpc-{place}-"
