import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.crypto import CHUNK_BYTES, chunk_hashes, content_id, merkle_node
from chain.errors import RejectedInputError, RejectionReason
from chain.training.resources import BLOB_FILES_BYTES, count_stored_bytes
from node.storage import blob_files
from node.storage.blob_files import BlobDiskError
from node.storage.blob_manifest import BlobManifest
from node.storage.blobs import (
    BlobDamagedError,
    BlobQuotaError,
    BlobStore,
)
from pot_common.errors import StorageError
from tests.node.full_disk import limited_file_size
from tests.worlds.blobs import list_downloads, list_unwanted, list_whole

QUOTA_BYTES = 8 * CHUNK_BYTES
BLOB = random.Random(1).randbytes(2 * CHUNK_BYTES + 1000)
NOW_NS = time.time_ns()
HOUR_NS = 3600 * 10**9
OVERHEAD_BYTES = BLOB_FILES_BYTES + 32
"""What a blob of one chunk takes beside its bytes."""
SIZES = (0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES)


@pytest.fixture
def store(tmp_path) -> BlobStore:
    return BlobStore(tmp_path / "blobs", quota_bytes=QUOTA_BYTES)


def manifest_of(data: bytes) -> BlobManifest:
    return BlobManifest(len(data), chunk_hashes(data))


def read(store: BlobStore, name: bytes) -> bytes:
    with store.open(name) as file:
        return file.read()


@pytest.mark.parametrize("size", SIZES)
def test_blob_of_any_size_is_stored_under_its_content_id(store, size):
    data = BLOB[:size] if size <= len(BLOB) else bytes(size)
    name = store.put(data)
    assert name == content_id(data)
    assert store.has(name)
    assert read(store, name) == data
    assert store.size_bytes(name) == size
    assert store.manifest(name) == manifest_of(data)
    chunks = [store.chunk(name, index) for index in range(len(chunk_hashes(data)))]
    assert b"".join(chunks) == data
    assert list_whole(store) == (name,)


def test_absent_blob_is_a_key_error(store):
    name = content_id(b"absent")
    assert not store.has(name)
    for ask in (store.open, store.size_bytes, store.manifest, lambda name: store.chunk(name, 0)):
        with pytest.raises(KeyError):
            ask(name)
    store.put(b"absent")
    with pytest.raises(KeyError):
        store.chunk(name, 1)


@settings(max_examples=25, deadline=None)
@given(
    cuts=st.lists(st.integers(0, len(BLOB)), max_size=6),
)
def test_upload_in_any_pieces_is_the_same_blob(tmp_path_factory, cuts):
    store = BlobStore(tmp_path_factory.mktemp("blobs"), quota_bytes=QUOTA_BYTES)
    edges = [0, *sorted(cuts), len(BLOB)]
    with store.upload(len(BLOB), expected=content_id(BLOB)) as upload:
        for start, end in pairwise(edges):
            upload.write(BLOB[start:end])
        assert upload.finish() == content_id(BLOB)
    assert read(store, content_id(BLOB)) == BLOB


def test_upload_of_other_bytes_or_too_many_leaves_nothing(store, tmp_path):
    with store.upload(100, expected=content_id(b"right")) as upload:
        upload.write(b"wrong")
        with pytest.raises(RejectedInputError) as mismatch:
            upload.finish()
    assert mismatch.value.reason == RejectionReason.CONTENT_MISMATCH
    with store.upload(4) as upload, pytest.raises(RejectedInputError) as too_large:
        upload.write(b"abcde")
    assert too_large.value.reason == RejectionReason.TOO_LARGE
    assert [path.name for path in (tmp_path / "blobs").iterdir()] == ["used_bytes"]
    assert store.used_bytes() == 0


def test_uploads_of_content_at_once_leave_the_promised_half_free(store, monkeypatch):
    check = store._check_quota

    def check_slowly(usage, more_bytes, limit_bytes):
        check(usage, more_bytes, limit_bytes)
        time.sleep(0.02)

    monkeypatch.setattr(store, "_check_quota", check_slowly)

    def begin(_number):
        try:
            return store.receive_content(manifest_of(bytes(QUOTA_BYTES // 8 - OVERHEAD_BYTES)))
        except BlobQuotaError:
            return None

    with ThreadPoolExecutor(8) as threads, ExitStack() as uploads:
        begun = [each for each in threads.map(begin, range(8)) if each is not None]
        for each in begun:
            uploads.enter_context(each)
        assert len(begun) == 4
        # Gradients have the other half.
        uploads.enter_context(store.upload(QUOTA_BYTES // 2 - 3 * 32 - OVERHEAD_BYTES))


def test_quota_counts_uploads_in_progress_and_names_the_setting(store):
    with store.upload(QUOTA_BYTES - 7 * 32 - 2 * OVERHEAD_BYTES - 10):
        with pytest.raises(BlobQuotaError, match=r"raise blobs\.quota_bytes"):
            store.put(bytes(11))
        with pytest.raises(BlobQuotaError):
            store.download(manifest_of(bytes(11)))
    store.put(bytes(11))
    assert store.used_bytes() == count_stored_bytes(11)


def test_upload_may_be_shorter_than_announced(store):
    with store.upload(1000) as upload:
        upload.write(b"short")
        name = upload.finish()
    assert read(store, name) == b"short"
    assert store.size_bytes(name) == 5


def test_download_takes_chunks_in_any_order_and_verifies_each(store):
    manifest = manifest_of(BLOB)
    with store.download(manifest) as download:
        assert download.missing() == (0, 1, 2)
        for index in (2, 0, 1):
            start = index * CHUNK_BYTES
            chunk = BLOB[start : start + CHUNK_BYTES]
            for wrong in (chunk[:-1], b"\x01" + chunk[1:], chunk + b"\x00", b""):
                with pytest.raises(RejectedInputError) as refused:
                    download.write_chunk(index, wrong)
                assert refused.value.reason == RejectionReason.CONTENT_MISMATCH
            assert index in download.missing()
            assert not store.has(manifest.content_id)
            download.write_chunk(index, chunk)
        with pytest.raises(RejectedInputError):
            download.write_chunk(3, b"")
        assert download.finish() == manifest.content_id
    assert read(store, manifest.content_id) == BLOB


def test_download_goes_on_after_a_restart_and_fetches_torn_chunks_again(store, tmp_path):
    manifest = manifest_of(BLOB)
    with store.download(manifest) as download:
        download.write_chunk(0, BLOB[:CHUNK_BYTES])
        download.write_chunk(2, BLOB[2 * CHUNK_BYTES :])
    partial = tmp_path / "blobs" / f"{manifest.content_id.hex()}.partial"
    with partial.open("r+b") as file:
        file.seek(100)
        file.write(b"torn")

    restarted = BlobStore(tmp_path / "blobs", quota_bytes=QUOTA_BYTES)
    with restarted.download(manifest) as download:
        assert download.missing() == (0, 1)
        download.write_chunk(0, BLOB[:CHUNK_BYTES])
        download.write_chunk(1, BLOB[CHUNK_BYTES : 2 * CHUNK_BYTES])
        download.finish()
    assert read(restarted, manifest.content_id) == BLOB


def test_chunks_of_a_download_are_read_once_in_a_process(store, tmp_path, monkeypatch):
    """A peer that withholds a blob can cause any number of tries."""
    read = []
    hash_chunk = blob_files.merkle_leaf
    monkeypatch.setattr(blob_files, "merkle_leaf", lambda data: read.append(0) or hash_chunk(data))
    manifest = manifest_of(BLOB)
    for _ in range(3):
        with store.download(manifest) as download:
            assert download.missing() == (0, 1, 2)
    assert len(read) == 0

    with store.download(manifest) as download:
        download.write_chunk(1, BLOB[CHUNK_BYTES : 2 * CHUNK_BYTES])
    restarted = BlobStore(tmp_path / "blobs", quota_bytes=QUOTA_BYTES)
    for _ in range(3):
        with restarted.download(manifest) as download:
            assert download.missing() == (0, 2)
    assert len(read) == 3


@pytest.mark.parametrize("end", ["finished", "deleted", "collected"])
def test_what_ended_downloads_held_is_forgotten(store, end):
    manifest = manifest_of(b"short")
    with store.download(manifest) as download:
        download.write_chunk(0, b"short")
        if end == "finished":
            download.finish()
    if end == "collected":
        store.collect_download(manifest.content_id, 2 * NOW_NS)
    else:
        store.delete(manifest.content_id)
    assert store._held == {}
    with store.download(manifest) as download:
        assert download.missing() == (0,)


def test_download_of_an_empty_blob(store):
    with store.download(manifest_of(b"")) as download:
        download.write_chunk(0, b"")
        assert download.finish() == content_id(b"")
    assert read(store, content_id(b"")) == b""


def test_manifest_that_no_blob_has_is_refused():
    leaves = chunk_hashes(BLOB)
    for size, hashes in (
        (len(BLOB), leaves[:2]),
        (len(BLOB), (*leaves, leaves[0])),
        (2 * CHUNK_BYTES, leaves),
        (-1, leaves[:1]),
        (0, ()),
        # Inner nodes given as leaves.
        (len(BLOB), (merkle_node(leaves[0], leaves[1]), leaves[2])),
    ):
        with pytest.raises(RejectedInputError):
            BlobManifest(size, hashes)


def test_blob_that_the_disk_changed_is_dropped(store):
    name = store.put(BLOB)
    data = bytearray(BLOB)
    data[CHUNK_BYTES] ^= 1
    store.path(name).write_bytes(data)
    assert store.chunk(name, 0) == BLOB[:CHUNK_BYTES]
    with pytest.raises(BlobDamagedError):
        store.chunk(name, 1)
    assert not store.has(name)
    store.put(BLOB)
    assert store.chunk(name, 1) == BLOB[CHUNK_BYTES : 2 * CHUNK_BYTES]


@pytest.mark.parametrize("change", [-1, 1])
def test_blob_of_another_length_is_dropped_once(store, change):
    name = store.put(BLOB)
    store.path(name).write_bytes((BLOB + b"\0")[: len(BLOB) + change])
    with pytest.raises(BlobDamagedError):
        store.chunk(name, len(BLOB) // CHUNK_BYTES)
    assert not store.has(name)
    store.put(BLOB)
    assert store.manifest(name) == manifest_of(BLOB)
    assert store.chunk(name, 0) == BLOB[:CHUNK_BYTES]


def test_upload_to_a_full_disk_is_one_storage_error(store):
    with limited_file_size(999), pytest.raises(StorageError, match="free or repair the disk"):
        store.put(BLOB[:1000])
    with store.upload(1000) as upload, limited_file_size(999):
        upload.write(BLOB[:1000])
        with pytest.raises(StorageError, match="free or repair the disk"):
            upload.finish()
        # Leaving the block closes the file, and the full disk still refuses its last bytes.
        upload.__exit__()
    assert store.used_bytes() == 0


def test_lost_blob_directory_is_one_storage_error(store, tmp_path):
    (tmp_path / "blobs").rmdir()
    for ask in (store.used_bytes, lambda: store.has_room_for_content(1), lambda: store.put(b"1")):
        with pytest.raises(StorageError, match="free or repair the disk"):
            ask()


def test_manifest_is_read_though_its_hashes_cannot_be_kept(store, tmp_path):
    name = store.put(BLOB)
    (tmp_path / "blobs" / f"{name.hex()}.leaves").unlink()
    with limited_file_size(0):
        assert store.manifest(name) == manifest_of(BLOB)


def test_lost_or_damaged_chunk_hashes_are_computed_again(store, tmp_path):
    name = store.put(BLOB)
    leaves = tmp_path / "blobs" / f"{name.hex()}.leaves"
    for damage in (leaves.unlink, lambda: leaves.write_bytes(b"x" * 96)):
        damage()
        restarted = BlobStore(tmp_path / "blobs", quota_bytes=QUOTA_BYTES)
        assert restarted.manifest(name) == manifest_of(BLOB)
        assert leaves.read_bytes() == b"".join(chunk_hashes(BLOB))


def age(tmp_path, *names: str) -> None:
    """Make files an hour old; all files if none is named."""
    for path in (tmp_path / "blobs").iterdir():
        if not names or path.name in names:
            os.utime(path, ns=(NOW_NS - HOUR_NS, NOW_NS - HOUR_NS))


def test_blob_unused_for_long_is_found_and_collected(store, tmp_path):
    old, renewed, put_again = (store.put(data) for data in (b"old", b"renewed", b"put again"))
    unfinished = manifest_of(b"unfinished")
    with store.download(unfinished):
        pass
    age(tmp_path)
    young = store.put(b"young")
    assert store.renew(renewed)
    assert store.put(b"put again") == put_again
    assert not store.renew(content_id(b"absent"))

    unwanted = list_unwanted(store, NOW_NS - HOUR_NS // 2)
    assert list(unwanted) == sorted((old, unfinished.content_id))
    freed = {each: store.collect(each, NOW_NS - HOUR_NS // 2) for each in unwanted}
    assert freed == unwanted
    assert sum(freed.values()) == count_stored_bytes(3) + count_stored_bytes(10)
    assert list_whole(store) == tuple(sorted((renewed, put_again, young)))
    assert store.collect(old, NOW_NS) == 0


def test_blob_used_at_the_last_moment_is_not_collected(store, tmp_path):
    name = store.put(BLOB)
    age(tmp_path)
    assert list(list_unwanted(store, NOW_NS - HOUR_NS // 2)) == [name]
    store.renew(name)
    assert store.collect(name, NOW_NS - HOUR_NS // 2) == 0
    assert read(store, name) == BLOB
    assert store.manifest(name) == manifest_of(BLOB)


def test_blob_collected_during_a_read_is_still_read_to_its_end(store):
    name = store.put(BLOB)
    with store.open(name) as file:
        start = file.read(1000)
        assert store.collect(name, 2 * NOW_NS) == count_stored_bytes(len(BLOB))
        assert start + file.read() == BLOB
    with pytest.raises(KeyError):
        store.chunk(name, 0)
    assert store.used_bytes() == 0
    assert store.put(BLOB) == name
    assert read(store, name) == BLOB


def test_a_download_that_is_collected_begins_again(store, tmp_path):
    manifest = manifest_of(BLOB)
    with store.download(manifest) as download:
        download.write_chunk(0, BLOB[:CHUNK_BYTES])
        store.collect(manifest.content_id, 2 * NOW_NS)
        download.write_chunk(1, BLOB[CHUNK_BYTES : 2 * CHUNK_BYTES])
        download.write_chunk(2, BLOB[2 * CHUNK_BYTES :])
        with pytest.raises(BlobDiskError):
            download.finish()
    with store.download(manifest) as download:
        assert download.missing() == (0, 1, 2)
    age(tmp_path)
    with store.download(manifest):
        assert list_unwanted(store, NOW_NS - HOUR_NS // 2) == {}, "it goes on"


def test_a_download_goes_alone_if_the_blob_came_otherwise(store, tmp_path):
    manifest = manifest_of(BLOB)
    with store.download(manifest):
        store.put(BLOB)
    assert list_downloads(store) == (manifest.content_id,)
    assert store.collect_download(manifest.content_id, NOW_NS - HOUR_NS) == 0, "it is young"
    assert store.collect_download(manifest.content_id, 2 * NOW_NS) == count_stored_bytes(len(BLOB))
    assert list_downloads(store) == ()
    assert store.used_bytes() == count_stored_bytes(len(BLOB))
    assert read(store, manifest.content_id) == BLOB


def test_leftovers_of_a_killed_process_are_repaired(store, tmp_path):
    (tmp_path / "blobs" / "0123.upload").write_bytes(b"half")
    (tmp_path / "blobs" / "0123.leaves.1-2.tmp").write_bytes(b"half")
    name = store.put(b"whole")
    blob = store.path(name)
    blob.rename(blob.with_name(blob.name + ".aside"))
    assert store.recover() == 3
    assert list_whole(store) == (name,)
    assert read(store, name) == b"whole"
    assert store.used_bytes() == count_stored_bytes(5)


def test_abandoned_uploads_are_removed(store, tmp_path):
    (tmp_path / "blobs" / "0123.upload").write_bytes(b"half")
    age(tmp_path)
    with store.upload(4) as upload:
        store.remove_uploads(NOW_NS - HOUR_NS // 2)
        upload.write(b"abcd")
        assert upload.finish() == content_id(b"abcd")
    assert [path.suffix for path in (tmp_path / "blobs").glob("*.upload")] == []
