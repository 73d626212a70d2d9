"""State chunks: together they are the whole state, and anything else is refused."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.crypto import keccak256
from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import EMPTY_TRIE_ROOT, Address, Hash32
from chain.state import trie
from chain.state import walk as state_walk
from chain.state.walk import END, START, collect_chunk, verify_chunk
from chain.state.world_state import WorldState

CODES = (b"", b"\x60\x01" * 400, b"\x60\x02" * 300)


def build_state(account_count: int, slot_count: int) -> tuple[Hash32, dict[bytes, bytes]]:
    """A state of accounts: some share code, and one has large storage."""
    world = WorldState({}, EMPTY_TRIE_ROOT)
    for index in range(account_count):
        address = Address(index.to_bytes(20, "big"))
        world.set_balance(address, 10**18 + index)
        if index % 3:
            world.set_code(address, CODES[index % 3])
        for slot in range(slot_count if index == 4 else index % 5):
            world.set_storage(address, slot, slot + 1)
    root, delta = world.compute_delta()
    return root, dict(delta)


ROOT, NODES = build_state(60, 200)
WHOLE = verify_chunk(ROOT, START, END, collect_chunk(NODES.get, ROOT, START, END, 2**30))


def reachable() -> set[bytes]:
    return {bytes(item.hash) for item in WHOLE.items}


def test_whole_walk_returns_every_node_once_in_ascending_order() -> None:
    positions = [item.position for item in WHOLE.items]
    assert positions == sorted(set(positions))
    assert WHOLE.next_position == END
    assert {item.hash: item.data for item in WHOLE.items} == {
        key: value for key, value in NODES.items() if key in reachable()
    }
    # Every account, slot and code can be read from the chunks.
    found = {item.hash: item.data for item in WHOLE.items}
    world = WorldState(found, ROOT)
    assert world.get_storage(Address((4).to_bytes(20, "big")), 199) == 200
    assert world.get_code(Address((4).to_bytes(20, "big"))) == CODES[1]
    assert all(world.get_balance(Address(i.to_bytes(20, "big"))) == 10**18 + i for i in range(60))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20_000), st.lists(st.binary(min_size=1, max_size=70), max_size=4))
def test_chunks_of_any_size_and_range_add_up_to_the_whole_state(
    limit_bytes: int, cuts: list[bytes]
) -> None:
    bounds = [START, *sorted({bytes(b % 16 for b in cut) for cut in cuts}), END]
    found: dict[bytes, bytes] = {}
    for first, end in pairwise(bounds):
        position = first
        while position != end:
            items = collect_chunk(NODES.get, ROOT, position, end, limit_bytes)
            chunk = verify_chunk(ROOT, position, end, items)
            assert chunk.next_position > position
            assert sum(len(item.data) for item in chunk.items[:-1]) < limit_bytes + 10_000
            found.update((item.hash, item.data) for item in chunk.items)
            position = chunk.next_position
    assert found == {item.hash: item.data for item in WHOLE.items}


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_tampered_chunk_is_refused(data: st.DataObject) -> None:
    start = data.draw(st.sampled_from([item.position for item in WHOLE.items]))
    items = list(collect_chunk(NODES.get, ROOT, start, END, 4_000))
    index = data.draw(st.integers(0, len(items) - 1))
    match data.draw(st.sampled_from(["flip", "drop", "insert", "swap", "cut the proof", "twice"])):
        case "flip":
            place = data.draw(st.integers(0, len(items[index]) - 1))
            bit = 1 << data.draw(st.integers(0, 7))
            changed = bytearray(items[index])
            changed[place] ^= bit
            items[index] = bytes(changed)
        case "drop" if index < len(items) - 1:
            del items[index]
        case "insert":
            items.insert(index, data.draw(st.binary(max_size=40)))
        case "swap" if items[0] != items[index]:
            items[0], items[index] = items[index], items[0]
        case "cut the proof":
            items = items[1:]
        case "twice":
            items.insert(index, items[index])
        case _:
            items = []
    with pytest.raises(RejectedInputError) as refusal:
        verify_chunk(ROOT, start, END, items)
    assert refusal.value.reason is RejectionReason.CONTENT_MISMATCH


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=100), max_size=4), st.binary(max_size=130))
def test_arbitrary_bytes_are_refused_and_raise_nothing_else(
    items: list[bytes], start: bytes
) -> None:
    with pytest.raises(RejectedInputError):
        verify_chunk(ROOT, start, b"\xff" * 131, [*items, b""])


def test_chunk_that_hashes_to_the_root_but_is_no_state_is_refused() -> None:
    for item in (b"\x80", b"\xc2\x20\x01", b"", b"\xc3\x81\x20\x05"):
        with pytest.raises(RejectedInputError):
            verify_chunk(keccak256(item), START, END, [item])


def test_missing_state_is_reported_and_an_empty_one_is_complete() -> None:
    with pytest.raises(trie.MissingTrieNodeError):
        collect_chunk({}.get, ROOT, START, END, 100)
    assert collect_chunk({}.get, EMPTY_TRIE_ROOT, START, END, 100) == ()
    assert verify_chunk(EMPTY_TRIE_ROOT, START, END, ()).next_position == END


def test_code_that_accounts_share_comes_once_a_chunk() -> None:
    codes = [item.data for item in WHOLE.items if item.data in CODES]
    assert sorted(codes) == sorted(CODES[1:])
    assert max(len(item.position) for item in WHOLE.items) <= state_walk.POSITION_LIMIT_BYTES
