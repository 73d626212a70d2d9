import pytest
import rlp
from hypothesis import given, settings
from hypothesis import strategies as st
from trie import HexaryTrie

from chain.crypto import keccak256
from chain.primitives import EMPTY_TRIE_ROOT, Hash32
from chain.state import trie

# Few keys that share prefixes, so that branches split and collapse.
keys = st.lists(st.sampled_from([b"\x00", b"\x01", b"\x10", b"\x11"]), min_size=3, max_size=3).map(
    b"".join
)
batches = st.lists(st.dictionaries(keys, st.binary(max_size=40), max_size=8), max_size=5)


def apply_batches(changes: list[dict[bytes, bytes]]) -> tuple[Hash32, dict[bytes, bytes]]:
    nodes: dict[bytes, bytes] = {}
    root = EMPTY_TRIE_ROOT
    for batch in changes:
        root, made = trie.update(nodes.get, root, batch)
        nodes.update(made)
    return root, nodes


@settings(max_examples=200)
@given(batches)
def test_roots_and_values_are_the_reference_tries(changes: list[dict[bytes, bytes]]) -> None:
    reference = HexaryTrie({})
    for batch in changes:
        for key, value in batch.items():
            reference[key] = value
    root, nodes = apply_batches(changes)
    assert root == reference.root_hash
    for key in {key for batch in changes for key in batch}:
        assert trie.get(nodes.get, root, key) == reference[key]


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=200))
def test_ordered_root_is_the_reference_tries(items: list[bytes]) -> None:
    reference = HexaryTrie({})
    for index, item in enumerate(items):
        reference[rlp.encode(index)] = item
    assert trie.compute_ordered_root(items) == reference.root_hash


def test_deleting_everything_gives_the_empty_root() -> None:
    root, nodes = apply_batches([{b"\x00\x01": b"a", b"\x00\x02": b"b"}])
    assert root != EMPTY_TRIE_ROOT
    assert trie.update(nodes.get, root, {b"\x00\x01": b"", b"\x00\x02": b""}) == (
        EMPTY_TRIE_ROOT,
        {},
    )


def test_a_missing_node_is_named() -> None:
    root = keccak256(b"nobody has this")
    with pytest.raises(trie.MissingTrieNodeError) as caught:
        trie.get({}.get, root, b"\x00")
    assert caught.value.node_hash == root
