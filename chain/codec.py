"""Strict RLP: what decodes re-encodes to the same bytes (docs/spec/wire.md, section 1)."""

from collections.abc import Sequence
from typing import Final

import rlp

from chain.errors import RejectedInputError, RejectionReason

Item = bytes | list["Item"]
"""A decoded RLP item: a byte string, or a list of items."""

Encodable = bytes | int | Sequence["Encodable"]
"""What `encode` takes: byte strings, unsigned integers, and sequences of them."""

MAX_DEPTH: Final = 16
"""Deeper nesting than any type of this protocol has; guards the recursive decoder."""


def encode(value: Encodable) -> bytes:
    """The RLP encoding of a nested value; integers are big-endian without leading zeros."""
    return bytes(rlp.encode(value))


def decode(data: bytes, *, limit_bytes: int) -> Item:
    """The item that `data` canonically encodes.

    Raises:
        RejectedInputError: TOO_LARGE past `limit_bytes`, MALFORMED if not canonical RLP.
    """
    if len(data) > limit_bytes:
        raise RejectedInputError(
            RejectionReason.TOO_LARGE, f"{len(data)} bytes, limit {limit_bytes}"
        )
    try:
        item: Item = rlp.decode(data, strict=True)
    except (rlp.exceptions.RLPException, RecursionError) as error:
        raise RejectedInputError(RejectionReason.MALFORMED, "not RLP") from error
    _check_depth(item, MAX_DEPTH)
    return item


def _check_depth(item: Item, depth_left: int) -> None:
    if isinstance(item, list):
        if depth_left == 0:
            raise RejectedInputError(RejectionReason.MALFORMED, "nested too deeply")
        for child in item:
            _check_depth(child, depth_left - 1)


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
