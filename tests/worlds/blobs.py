"""What a blob store holds, for tests."""

from collections.abc import Mapping
from pathlib import Path

from chain.crypto import CHUNK_BYTES, chunk_hashes
from chain.primitives import Hash32
from chain.training.resources import count_stored_bytes
from node.storage.blobs import BlobStore


def list_whole(store: BlobStore) -> tuple[Hash32, ...]:
    """The whole blobs, by ascending content id."""
    return tuple(each for each, stored in store.list_stored().items() if stored.is_whole)


def list_downloads(store: BlobStore) -> tuple[Hash32, ...]:
    """The blobs of which a part was downloaded, by ascending content id."""
    return tuple(each for each, stored in store.list_stored().items() if stored.is_downloaded)


def list_unwanted(store: BlobStore, before_ns: int) -> Mapping[Hash32, int]:
    """What blobs and downloads take that were last needed before a time, by content id."""
    stored = store.list_stored().items()
    return {k: each.stored_bytes for k, each in stored if each.wanted_ns < before_ns}


def count_files(directory: Path) -> int:
    """What the files of blobs take of the quota, counted from the directory alone."""
    suffixes = (".blob", ".partial", ".upload", ".aside")
    files = [each for each in directory.iterdir() if each.suffix in suffixes]
    return sum(count_stored_bytes(each.stat().st_size) for each in files)


def build_upload_body(blob: bytes) -> bytes:
    """The body with which a blob is uploaded: the hashes of its chunks, and the blob."""
    return b"".join(chunk_hashes(blob)) + blob


def read_upload_body(body: bytes) -> bytes:
    """The blob that an upload brings; its hashes must be right."""
    chunk_count = -(-len(body) // (CHUNK_BYTES + 32))
    blob = body[32 * chunk_count :]
    assert body == build_upload_body(blob)
    return blob
