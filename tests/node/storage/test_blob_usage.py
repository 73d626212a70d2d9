"""The number of used bytes that all processes of a node keep."""

import os
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.crypto import CHUNK_BYTES, chunk_hashes
from chain.errors import RejectedInputError
from node.storage.blob_files import BlobDiskError, BlobUpload
from node.storage.blob_manifest import BlobManifest
from node.storage.blobs import BlobDamagedError, BlobQuotaError, BlobStore
from tests.worlds.blobs import count_files

QUOTA_BYTES = 12 * CHUNK_BYTES
SIZES = (0, 700, CHUNK_BYTES, CHUNK_BYTES + 5, 3 * CHUNK_BYTES)
FOREVER_NS = 2**62
KILLED = 9
"""The exit status of a process that was killed."""
CHANGES = ("open", "pwrite", "rename", "replace", "unlink", "ftruncate", "utime")
"""The calls of the system at which a process is killed."""


def make(index: int) -> bytes:
    return bytes([index + 1]) * SIZES[index]


def manifest_of(data: bytes) -> BlobManifest:
    return BlobManifest(len(data), chunk_hashes(data))


class World:
    """Two stores on one directory, as of the node process and an RPC process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.uploads: list[BlobUpload] = []
        self.restart()

    def close(self) -> None:
        """Close the files of unfinished uploads, which stay as after a kill."""
        for upload in self.uploads:
            upload._file.close()
        self.uploads.clear()

    def restart(self) -> None:
        self.close()
        self.stores = [BlobStore(self.directory, quota_bytes=QUOTA_BYTES) for _ in range(2)]
        self.stores[0].recover()

    def act(self, store: BlobStore, action: str, index: int) -> None:
        data, name = make(index), manifest_of(make(index)).content_id
        match action:
            case "put":
                store.put(data)
            case "upload":
                self.uploads.append(store.upload(len(data) + 9))
            case "finish" if self.uploads:
                with self.uploads.pop(0) as upload:
                    upload.write(data)
                    upload.finish()
            case "abort" if self.uploads:
                self.uploads.pop().__exit__()
            case "download" | "interrupt":
                with store.download(manifest_of(data)) as download:
                    for chunk in download.missing():
                        download.write_chunk(chunk, data[chunk * CHUNK_BYTES :][:CHUNK_BYTES])
                        if action == "interrupt":
                            return
                    download.finish()
            case "lost download":
                with store.download(manifest_of(data)) as download:
                    store.collect(name, FOREVER_NS)
                    for chunk in download.missing():
                        download.write_chunk(chunk, data[chunk * CHUNK_BYTES :][:CHUNK_BYTES])
                    download.finish()
            case "collect":
                store.collect(name, FOREVER_NS)
            case "collect young":
                store.collect(name, 0)
            case "collect download":
                store.collect_download(name, FOREVER_NS)
            case "delete":
                store.delete(name)
            case "damage" if store.has(name) and data:
                path = store.path(name)
                path.write_bytes(bytes(len(data)))
                store.chunk(name, 0)
            case "remove uploads":
                store.remove_uploads(FOREVER_NS)
                for upload in self.uploads:
                    upload.__exit__()
                self.uploads.clear()
            case _:
                pass

    def act_or_fail(self, store: BlobStore, action: str, index: int) -> None:
        expected = (BlobQuotaError, BlobDiskError, BlobDamagedError, RejectedInputError)
        with suppress(*expected):
            self.act(store, action, index)


ACTIONS = (
    *("put", "upload", "finish", "abort", "download", "interrupt"),
    *("lost download", "collect", "collect young", "collect download", "delete", "damage"),
    *("remove uploads", "restart"),
)
STEPS = st.tuples(st.sampled_from(ACTIONS), st.integers(0, 1), st.integers(0, len(SIZES) - 1))


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip fsync: no test cuts the power."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


def play(world: World, steps: list[tuple[str, int, int]]) -> None:
    for action, store, index in steps:
        if action == "restart":
            world.restart()
        else:
            world.act_or_fail(world.stores[store], action, index)
        for each in world.stores:
            assert each.used_bytes() == count_files(world.directory), action


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_used_bytes_are_those_of_the_files(tmp_path_factory, steps):
    with closing(World(tmp_path_factory.mktemp("blobs"))) as world:
        play(world, steps)


def is_killed(action: Callable[[], object], cut: int) -> bool:
    """Do something in another process, which is killed at its `cut`th change of a file.

    False if it makes fewer changes.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED
    left = cut

    def count_down(call: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object, **options: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(KILLED)
            return call(*arguments, **options)

        return counted

    try:
        for name in CHANGES:
            setattr(os, name, count_down(getattr(os, name)))
        action()
    finally:
        os._exit(0)


@pytest.mark.parametrize("action", [each for each in ACTIONS if each != "restart"])
def test_killed_process_leaves_the_number_too_large_until_restart(tmp_path, action):
    steps = [("put", 1, 1), ("put", 0, 3), ("interrupt", 0, 3), ("interrupt", 0, 4)]
    for cut in range(60):
        with closing(World(tmp_path / str(cut))) as world:
            play(world, [*steps, ("upload", 0, 3), ("upload", 1, 1)])
            act = partial(world.act_or_fail, world.stores[0], action, 3)
            was_killed = is_killed(act, cut)
            assert world.stores[0].used_bytes() >= count_files(world.directory), cut
            world.restart()
            play(world, [("collect young", 0, 0)])
            if not was_killed:
                break
    assert not was_killed


def test_no_upload_or_fetch_reads_the_directory(tmp_path, monkeypatch):
    store = BlobStore(tmp_path / "blobs", quota_bytes=QUOTA_BYTES)
    store.recover()
    read = []

    def count(call):
        def counted(*arguments):
            read.append(call.__name__)
            return call(*arguments)

        return counted

    monkeypatch.setattr(os, "scandir", count(os.scandir))
    monkeypatch.setattr(os, "listdir", count(os.listdir))
    name = store.put(make(1))
    with store.upload(10) as upload:
        upload.write(b"short")
        upload.finish()
    with store.upload(10):
        pass
    with store.download(manifest_of(make(3))) as download:
        for index in download.missing():
            download.write_chunk(index, make(3)[index * CHUNK_BYTES :][:CHUNK_BYTES])
        download.finish()
    assert store.has_room_for_content(1)
    assert store.used_bytes() == count_files(tmp_path / "blobs")
    store.renew(name)
    store.manifest(name)
    store.collect(name, time.time_ns() * 2)
    read_by_the_test = ["listdir"]
    assert read == read_by_the_test
    store.list_stored()
    assert read == [*read_by_the_test, "scandir"]


def test_number_that_is_lost_is_counted_anew(tmp_path):
    store = BlobStore(tmp_path, quota_bytes=QUOTA_BYTES)
    store.put(make(1))
    used = store.used_bytes()
    for damage in (b"", b"1234", None):
        path = tmp_path / "used_bytes"
        path.unlink() if damage is None else path.write_bytes(damage)
        assert BlobStore(tmp_path, quota_bytes=QUOTA_BYTES).used_bytes() == used
    (tmp_path / "used_bytes").write_bytes(bytes(8))
    store.recover()
    assert store.used_bytes() == used
