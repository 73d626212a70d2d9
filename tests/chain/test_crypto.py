import hashlib
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain import crypto
from chain.crypto import (
    CHUNK_BYTES,
    content_id,
    content_id_of_chunks,
    merkle_leaf,
    merkle_node,
    merkle_path,
    merkle_root,
    merkle_root_of_path,
)

INPUTS = ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")
LAST_INPUT = "606162636465666768696a6b6c6d6e6f"
ROOT_OF_EIGHT = "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


def test_tree_hash_is_that_of_certificate_transparency() -> None:
    """The inputs and the root are those of the reference log of RFC 6962."""
    leaves = [merkle_leaf(bytes.fromhex(each)) for each in (*INPUTS, LAST_INPUT)]
    assert merkle_root(leaves).hex() == ROOT_OF_EIGHT
    assert leaves[0].hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"


@given(st.integers(1, 99), st.data())
def test_path_proves_a_leaf_at_one_position_only(count: int, data: st.DataObject) -> None:
    leaves = [merkle_leaf(bytes([i])) for i in range(count)]
    root = merkle_root(leaves)
    index = data.draw(st.integers(0, count - 1))
    path = merkle_path(leaves, index)
    assert merkle_root_of_path(leaves[index], path, index, count) == root
    for other in {0, index - 1, index + 1, count - 1} - {index, -1, count}:
        assert merkle_root_of_path(leaves[index], path, other, count) != root


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_path_of_the_wrong_length_is_refused(count: int) -> None:
    leaves = [merkle_leaf(bytes([i])) for i in range(count)]
    path = merkle_path(leaves, 0)
    longer = (*path, leaves[0])
    assert merkle_root_of_path(leaves[0], longer, 0, count) is None
    if path:
        assert merkle_root_of_path(leaves[0], path[:-1], 0, count) != merkle_root(leaves)


def test_content_id_is_the_hash_of_size_and_root() -> None:
    def leaf(data: bytes) -> bytes:
        return hashlib.sha256(b"\x00" + data).digest()

    assert content_id(b"") == hashlib.sha256(b"\x02" + bytes(8) + leaf(b"")).digest()
    data = bytes(range(256)) * (CHUNK_BYTES // 256) + b"end"
    root = hashlib.sha256(b"\x01" + leaf(data[:CHUNK_BYTES]) + leaf(b"end")).digest()
    size = (CHUNK_BYTES + 3).to_bytes(8, "big")
    assert content_id(data) == hashlib.sha256(b"\x02" + size + root).digest()
    assert content_id(memoryview(data)) == content_id(data)


def test_no_two_manifests_have_one_content_id() -> None:
    """All manifests of up to four chunks whose hashes are leaves, inner nodes and content ids."""
    leaves = [merkle_leaf(b"a"), merkle_leaf(b"b")]
    pairs = [merkle_node(left, right) for left, right in product(leaves, leaves)]
    named = [content_id_of_chunks(1, leaves[:1]), merkle_node(pairs[0], pairs[1])]
    manifests = [
        (size_bytes, row)
        for count in range(1, 5)
        for size_bytes in ((count - 1) * CHUNK_BYTES + 1, count * CHUNK_BYTES)
        for row in product((*leaves, *pairs, *named), repeat=count)
    ]
    assert len({content_id_of_chunks(*each) for each in manifests}) == len(manifests)


def test_no_two_blobs_have_one_content_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """All blobs of up to four chunks of one or two pieces, where a piece may be a hash."""
    monkeypatch.setattr(crypto, "CHUNK_BYTES", 64)
    pieces = [bytes(32), merkle_leaf(bytes(64)), content_id(bytes(64))]
    blobs = {
        b"".join(row) + end
        for count in range(6)
        for row in product(pieces, repeat=count)
        for end in (b"", b"\x00")
    }
    assert len({content_id(each) for each in blobs}) == len(blobs)
