"""Strict RLP: decoded bytes always re-encode to themselves (docs/spec/wire.md, section 1)."""

from collections.abc import Sequence
from typing import Final

import rlp

from chain.errors import RejectedInputError, RejectionReason

Item = bytes | list["Item"]
"""A decoded RLP item: a byte string, or a list of items."""

Encodable = bytes | int | Sequence["Encodable"]
"""What `encode` takes: byte strings, unsigned integers, and sequences of them."""

MAX_DEPTH: Final = 16
"""Limit of nested lists; no type of this protocol nests as deep."""


def encode(value: Encodable) -> bytes:
    """The RLP encoding of a nested value; integers are big-endian without leading zeros."""
    return bytes(rlp.encode(value))


def decode(data: bytes, *, limit_bytes: int, limit_items: int | None = None) -> Item:
    """The item that `data` canonically encodes.

    Args:
        data: Bytes from a peer, or from our own disk.
        limit_bytes: The largest accepted length.
        limit_items: The largest number of list items, all depths together; by default len(data).

    Raises:
        RejectedInputError: TOO_LARGE above a limit, MALFORMED if it is not canonical RLP.
    """
    if len(data) > limit_bytes:
        raise RejectedInputError(
            RejectionReason.TOO_LARGE, f"{len(data)} bytes, limit {limit_bytes}"
        )
    if not data:
        raise _not_canonical()
    items_left = [len(data) if limit_items is None else limit_items]
    item, end = _decode_item(data, 0, len(data), MAX_DEPTH, items_left)
    if end != len(data):
        raise _not_canonical()
    return item


def split_list(data: bytes) -> list[bytes]:
    """The encodings of the items of an encoded list; the items themselves are not decoded.

    Args:
        data: Bytes from our own disk. If they are not RLP, that is a bug or a broken disk.
    """
    _, _, _, start = rlp.codec.consume_length_prefix(data, 0)
    items = []
    while start < len(data):
        _, _, length, body = rlp.codec.consume_length_prefix(data, start)
        items.append(data[start : body + length])
        start = body + length
    return items


def join_list(items: Sequence[bytes]) -> bytes:
    """The encoding of a list, from the encodings of its items."""
    return bytes(rlp.codec.length_prefix(sum(map(len, items)), 0xC0)) + b"".join(items)


def split_fields(data: bytes, *, limit_items: int) -> list[bytes]:
    """The encodings of the items of a list from a peer; what is inside an item is not checked.

    Raises:
        RejectedInputError: MALFORMED if `data` is not one list, or if it has more items.
    """
    start, end = len(data) - measure_list(data), len(data)
    items: list[bytes] = []
    while start < end:
        if len(items) == limit_items:
            raise RejectedInputError(
                RejectionReason.MALFORMED, f"expected at most {limit_items} items"
            )
        _, _, item_end = read_prefix(data, start, end)
        items.append(data[start:item_end])
        start = item_end
    return items


def measure_list(data: bytes) -> int:
    """The length of the encodings of the items of a list from a peer, which are not looked at.

    Raises:
        RejectedInputError: MALFORMED if `data` is not one list.
    """
    is_list, start, end = read_prefix(data, 0, len(data)) if data else (False, 0, 0)
    if not is_list or end != len(data):
        raise RejectedInputError(RejectionReason.MALFORMED, "expected a list")
    return end - start


def count_items(data: bytes, *, limit: int) -> int:
    """The number of items of a list from a peer, or `limit` if it has more.

    Raises:
        RejectedInputError: MALFORMED if `data` is not one list.
    """
    start, count = len(data) - measure_list(data), 0
    while start < len(data) and count < limit:
        _, _, start = read_prefix(data, start, len(data))
        count += 1
    return count


def decode_bytes(data: bytes) -> bytes:
    """The byte string that `data` canonically encodes. A list is refused without decoding it.

    Raises:
        RejectedInputError: MALFORMED.
    """
    is_list, body, end = read_prefix(data, 0, len(data)) if data else (True, 0, 0)
    if is_list or end != len(data):
        raise RejectedInputError(RejectionReason.MALFORMED, "expected a byte string")
    return data[body:end]


def _decode_item(
    data: bytes, start: int, limit: int, depth_left: int, items_left: list[int]
) -> tuple[Item, int]:
    """The item at `start`, which is below `limit`, and its end; decrements `items_left`.

    Depth is checked before an item is decoded, and only strings are copied. A library that builds
    the nested lists first takes a minute for a MiB of opening brackets.
    """
    is_list, body, end = read_prefix(data, start, limit)
    if not is_list:
        return data[body:end], end
    if depth_left == 0:
        raise RejectedInputError(RejectionReason.MALFORMED, "nested too deeply")
    items: list[Item] = []
    while body < end:
        if items_left[0] == 0:
            raise RejectedInputError(RejectionReason.TOO_LARGE, "too many items")
        items_left[0] -= 1
        item, body = _decode_item(data, body, end, depth_left - 1, items_left)
        items.append(item)
    return items, end


def read_prefix(data: bytes, start: int, limit: int) -> tuple[bool, int, int]:
    """Whether the item at `start` is a list, and where its content begins and ends.

    Args:
        data: Bytes from a peer.
        start: The position of the item, below `limit`.
        limit: The end of the list that holds the item.

    Raises:
        RejectedInputError: MALFORMED if the prefix or the string is not canonical.
    """
    prefix = data[start]
    if prefix < 0x80:
        return False, start, start + 1
    is_list = prefix >= 0xC0
    length = prefix - (0xC0 if is_list else 0x80)
    body = start + 1
    if length > 55:
        body += length - 55
        if body > limit or not data[start + 1]:
            raise _not_canonical()
        length = int.from_bytes(data[start + 1 : body], "big")
        if length <= 55:
            raise _not_canonical()
    end = body + length
    if end > limit or (length == 1 and not is_list and data[body] < 0x80):
        raise _not_canonical()
    return is_list, body, end


def _not_canonical() -> RejectedInputError:
    return RejectedInputError(RejectionReason.MALFORMED, "not RLP")


def as_list(item: Item, *, length: int | None = None, max_length: int | None = None) -> list[Item]:
    """The item as a list of `length`, or of at most `max_length`, items.

    Raises:
        RejectedInputError: MALFORMED.
    """
    if not isinstance(item, list):
        raise RejectedInputError(RejectionReason.MALFORMED, "expected a list")
    if length is not None and len(item) != length:
        raise RejectedInputError(
            RejectionReason.MALFORMED, f"expected {length} items, got {len(item)}"
        )
    if max_length is not None and len(item) > max_length:
        raise RejectedInputError(
            RejectionReason.MALFORMED, f"expected at most {max_length} items, got {len(item)}"
        )
    return item


def as_bytes(item: Item, *, length: int | None = None, max_length: int | None = None) -> bytes:
    """The item as a byte string of `length`, or of at most `max_length`, bytes.

    Raises:
        RejectedInputError: MALFORMED.
    """
    if not isinstance(item, bytes):
        raise RejectedInputError(RejectionReason.MALFORMED, "expected a byte string")
    if length is not None and len(item) != length:
        raise RejectedInputError(
            RejectionReason.MALFORMED, f"expected {length} bytes, got {len(item)}"
        )
    if max_length is not None and len(item) > max_length:
        raise RejectedInputError(
            RejectionReason.MALFORMED, f"expected at most {max_length} bytes, got {len(item)}"
        )
    return item


def as_uint(item: Item, *, bits: int) -> int:
    """The item as an unsigned integer below 2**bits, without leading zero bytes.

    Raises:
        RejectedInputError: MALFORMED.
    """
    data = as_bytes(item, max_length=(bits + 7) // 8)
    if data[:1] == b"\x00":
        raise RejectedInputError(RejectionReason.MALFORMED, "integer with a leading zero")
    value = int.from_bytes(data, "big")
    if value >= 1 << bits:
        raise RejectedInputError(RejectionReason.MALFORMED, f"integer above {bits} bits")
    return value
