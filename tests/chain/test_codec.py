"""The strict RLP decoder, compared with the rlp library."""

import contextlib
import time

import pytest
import rlp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chain import codec
from chain.errors import RejectedInputError, RejectionReason

ITEMS = st.recursive(
    st.binary(max_size=70), lambda children: st.lists(children, max_size=5), max_leaves=20
)


def nested(depth: int) -> bytes:
    """Nested lists of that depth, each the only item of the list around it."""
    data = b""
    prefixes = []
    size = 0
    for _ in range(depth):
        if size < 56:
            prefix = bytes([0xC0 + size])
        else:
            length = size.to_bytes((size.bit_length() + 7) // 8)
            prefix = bytes([0xF7 + len(length)]) + length
        prefixes.append(prefix)
        size += len(prefix)
    return b"".join(reversed(prefixes)) + data


@given(ITEMS)
def test_encoded_items_decode_to_themselves(item: codec.Item) -> None:
    assert codec.decode(codec.encode(item), limit_bytes=10_000) == item


@given(st.lists(ITEMS))
def test_list_is_split_and_joined_without_decoding_its_items(items: list[codec.Item]) -> None:
    parts = [codec.encode(item) for item in items]
    assert codec.split_list(codec.encode(items)) == parts
    assert codec.join_list(parts) == codec.encode(items)
    assert codec.split_fields(codec.encode(items), limit_items=len(items)) == parts


@settings(max_examples=500)
@given(st.binary(max_size=80))
@example(b"")
@example(b"\xc1\x01\x01")
@example(b"\xc1\x81")
@example(b"\x81\x00")
@example(b"\x82\x01")
def test_any_bytes_are_split_or_read_as_a_string_or_refused(data: bytes) -> None:
    with contextlib.suppress(RejectedInputError):
        assert codec.join_list(codec.split_fields(data, limit_items=80)) == data
        assert codec.count_items(data, limit=80) == len(codec.split_fields(data, limit_items=80))
    with contextlib.suppress(RejectedInputError):
        assert codec.encode(codec.decode_bytes(data)) == data


def test_list_with_more_fields_than_the_limit_is_refused() -> None:
    with pytest.raises(RejectedInputError) as caught:
        codec.split_fields(codec.encode([b"", b""]), limit_items=1)
    assert caught.value.reason == RejectionReason.MALFORMED


@settings(max_examples=500)
@given(st.binary(max_size=80) | ITEMS.map(codec.encode).flatmap(lambda data: st.just(data[:-1])))
@example(b"\x81\x00")
@example(b"\xb8\x37" + bytes(55))
@example(b"\xb9\x00\x38" + bytes(56))
@example(b"\xc1\x81")
@example(b"\xbf" + b"\xff" * 8)
def test_the_library_accepts_and_refuses_the_same(data: bytes) -> None:
    try:
        expected = rlp.decode(data, strict=True)
    except rlp.exceptions.RLPException:
        with pytest.raises(RejectedInputError):
            codec.decode(data, limit_bytes=10_000)
    else:
        assert codec.decode(data, limit_bytes=10_000) == expected


def test_nesting_has_a_limit() -> None:
    assert codec.decode(nested(codec.MAX_DEPTH), limit_bytes=100)
    with pytest.raises(RejectedInputError, match="nested too deeply"):
        codec.decode(nested(codec.MAX_DEPTH + 1), limit_bytes=100)


def test_items_at_all_depths_are_limited() -> None:
    item: codec.Item = [[b"a"] * 3, b"", [[b"b"]]]
    data = codec.encode(item)
    assert codec.decode(data, limit_bytes=100, limit_items=8) == item
    with pytest.raises(RejectedInputError) as refused:
        codec.decode(data, limit_bytes=100, limit_items=7)
    assert refused.value.reason is RejectionReason.TOO_LARGE


def test_mebibyte_of_nested_lists_is_refused_quickly() -> None:
    data = nested(250_000)
    start = time.perf_counter()
    with pytest.raises(RejectedInputError, match="nested too deeply"):
        codec.decode(data, limit_bytes=len(data))
    # The rlp library takes minutes for this input.
    assert time.perf_counter() - start < 1
