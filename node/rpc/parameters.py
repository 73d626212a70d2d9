"""Parses the parameters of requests (docs/spec/rpc.md, section 2).

An invalid parameter is refused with an error that names the parameter and the reason.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from chain.hexadecimal import from_hex
from chain.json_types import Json, JsonObject
from chain.primitives import Address, BlockNumber, Hash32
from chain.types.block import TRANSACTION_LIMIT_BYTES
from chain.types.receipt import MAX_TOPICS
from node.rpc.errors import ErrorCode, RpcError, invalid_params

Value = TypeVar("Value")
Default = TypeVar("Default")

CALL_DATA_LIMIT_BYTES: Final = TRANSACTION_LIMIT_BYTES
"""Limit of a call's data: no transaction could have more."""

MAX_FILTER_ALTERNATIVES: Final = 1_000
"""Limit of addresses in a log filter, and of topics in one position, as in geth."""

_QUANTITY = re.compile(r"0x(0|[1-9a-fA-F][0-9a-fA-F]*)\Z")
_DATA = re.compile(r"0x([0-9a-fA-F]{2})*\Z")


class BlockTag(StrEnum):
    """A name for a block. `latest`, `safe` and `finalized` name the same one, as all are final."""

    LATEST = "latest"
    SAFE = "safe"
    FINALIZED = "finalized"
    EARLIEST = "earliest"
    PENDING = "pending"


BlockSelector = BlockTag | BlockNumber | Hash32
"""The value of a block parameter."""


class Parameters:
    """The positional parameters of one request, which a method reads in order."""

    def __init__(self, values: list[Json]) -> None:
        self._values = values
        self._next = 0

    def required(self, name: str, parse: Callable[[Json], Value]) -> Value:
        """The next parameter.

        Raises:
            RpcError: -32602: The parameter is missing or invalid.
        """
        if self._next >= len(self._values):
            raise invalid_params(f"missing value for required argument {self._next} ({name})")
        value = self._values[self._next]
        self._next += 1
        return parse_named(name, parse, value)

    def optional(
        self, name: str, parse: Callable[[Json], Value], default: Default
    ) -> Value | Default:
        """The next parameter; `default` if it is absent or null.

        Raises:
            RpcError: -32602: The parameter is invalid.
        """
        if self._next >= len(self._values) or self._values[self._next] is None:
            self._next += 1
            return default
        return self.required(name, parse)

    def end(self) -> None:
        """Check that there are no more parameters.

        Raises:
            RpcError: -32602: There are more parameters.
        """
        if self._next < len(self._values):
            raise invalid_params(f"too many arguments, want at most {self._next}")


def parse_named(name: str, parse: Callable[[Json], Value], value: Json) -> Value:
    """The parsed value; an error contains `name`.

    Raises:
        RpcError: As for `parse`.
    """
    try:
        return parse(value)
    except RpcError as error:
        if error.code is not ErrorCode.INVALID_PARAMS:
            raise
        raise invalid_params(f"invalid argument {name}: {error.message}") from error


def parse_quantity(value: Json) -> int:
    """An unsigned integer, from hexadecimal with the prefix 0x and without leading zeros.

    Raises:
        RpcError: -32602: The value is no such string, or is 2**256 or more.
    """
    if not isinstance(value, str):
        raise invalid_params("expected a 0x-hexadecimal string")
    if not value.startswith("0x"):
        raise invalid_params("hex string without 0x prefix")
    if not _QUANTITY.match(value):
        raise invalid_params("hex number with leading zero digits, no digits, or other characters")
    if len(value) > 66:
        raise invalid_params("hex number > 256 bits")
    return int(value, 16)


def parse_uint64(value: Json) -> int:
    """A quantity below 2**64.

    Raises:
        RpcError: -32602: The value is no such quantity.
    """
    number = parse_quantity(value)
    if number >= 1 << 64:
        raise invalid_params("hex number > 64 bits")
    return number


def parse_data(value: Json, *, limit_bytes: int = CALL_DATA_LIMIT_BYTES) -> bytes:
    """Bytes, from hexadecimal with the prefix 0x and an even number of digits.

    Raises:
        RpcError: -32602: The value is no such string. -32005: It exceeds `limit_bytes`.
    """
    if not isinstance(value, str):
        raise invalid_params("expected a 0x-hexadecimal string")
    if not value.startswith("0x"):
        raise invalid_params("hex string without 0x prefix")
    if len(value) > 2 + 2 * limit_bytes:
        raise RpcError(ErrorCode.LIMIT_EXCEEDED, f"more than {limit_bytes} bytes")
    if not _DATA.match(value):
        raise invalid_params("hex string of odd length, or with other characters")
    return from_hex(value)


def _parse_fixed(value: Json, length: int) -> bytes:
    parsed = parse_data(value)
    if len(parsed) != length:
        raise invalid_params(f"hex string has {len(parsed)} bytes, want {length}")
    return parsed


def parse_address(value: Json) -> Address:
    """An address, from 20 hexadecimal bytes in any letter case.

    Raises:
        RpcError: -32602: The value is no such string.
    """
    return Address(_parse_fixed(value, 20))


def parse_hash(value: Json) -> Hash32:
    """A hash, from 32 hexadecimal bytes.

    Raises:
        RpcError: -32602: The value is no such string.
    """
    return Hash32(_parse_fixed(value, 32))


def parse_slot(value: Json) -> int:
    """A storage slot, from 1 to 64 hexadecimal digits; clients send it with or without zeros.

    Raises:
        RpcError: -32602: The value is no such string.
    """
    if not isinstance(value, str) or not re.match(r"0x[0-9a-fA-F]{1,64}\Z", value):
        raise invalid_params("expected 0x and 1 to 64 hexadecimal digits")
    return int(value, 16)


def parse_bool(value: Json) -> bool:
    """A boolean.

    Raises:
        RpcError: -32602: The value is no boolean.
    """
    if not isinstance(value, bool):
        raise invalid_params("expected true or false")
    return value


def parse_object(value: Json) -> JsonObject:
    """A JSON object.

    Raises:
        RpcError: -32602: The value is no object.
    """
    if not isinstance(value, dict):
        raise invalid_params("expected an object")
    return value


def parse_list(value: Json, *, limit: int) -> list[Json]:
    """A list of at most `limit` entries.

    Raises:
        RpcError: -32602: The value is no list. -32005: The list is longer.
    """
    if not isinstance(value, list):
        raise invalid_params("expected a list")
    if len(value) > limit:
        raise RpcError(ErrorCode.LIMIT_EXCEEDED, f"more than {limit} entries")
    return value


def parse_integer(value: Json, *, low: int, high: int) -> int:
    """An integer from `low` to `high`, from a JSON integer or a quantity.

    Raises:
        RpcError: -32602: The value is no such integer.
    """
    number = value if isinstance(value, int) and not isinstance(value, bool) else None
    if number is None:
        number = parse_quantity(value)
    if not low <= number <= high:
        raise invalid_params(f"expected an integer from {low} to {high}")
    return number


def parse_block(value: Json) -> BlockSelector:
    """A block tag, number or hash, or EIP-1898's object with `blockNumber` or `blockHash`.

    The object's field `requireCanonical` has no effect, because all blocks of this chain are
    canonical.

    Raises:
        RpcError: -32602: The value names no block.
    """
    if isinstance(value, dict):
        if set(value) - {"blockNumber", "blockHash", "requireCanonical"}:
            raise invalid_params("expected blockNumber or blockHash")
        parse_bool(value.get("requireCanonical", False))
        if "blockHash" in value and "blockNumber" in value:
            raise invalid_params("cannot specify both blockHash and blockNumber")
        if "blockHash" in value:
            return parse_hash(value["blockHash"])
        if "blockNumber" in value:
            return parse_block_number(value["blockNumber"])
        raise invalid_params("expected blockNumber or blockHash")
    if isinstance(value, str) and len(value) == 66:
        return parse_hash(value)
    return parse_block_number(value)


def parse_block_number(value: Json) -> BlockTag | BlockNumber:
    """A block tag or a block number.

    Raises:
        RpcError: -32602: The value is neither.
    """
    if isinstance(value, str) and value in set(BlockTag):
        return BlockTag(value)
    return BlockNumber(parse_uint64(value))


@dataclass(frozen=True, slots=True)
class LogFilter:
    """A filter of logs by block, address and topics."""

    block_hash: Hash32 | None
    """The only block to search; None if the range of blocks is searched."""
    from_block: BlockTag | BlockNumber
    to_block: BlockTag | BlockNumber
    addresses: tuple[Address, ...]
    """The address of a log must be one of these; if there are none, all addresses match."""
    topics: tuple[tuple[Hash32, ...], ...]
    """For each position, the topic must be one of these; if there are none, every topic matches,
    but the log must have a topic there."""

    def matches(self, address: Address, topics: tuple[Hash32, ...]) -> bool:
        """Whether a log with this address and these topics matches."""
        return (
            (not self.addresses or address in self.addresses)
            and len(topics) >= len(self.topics)
            and all(
                not wanted or topic in wanted
                for wanted, topic in zip(self.topics, topics, strict=False)
            )
        )


def parse_filter(value: Json) -> LogFilter:
    """A log filter.

    Raises:
        RpcError: -32602: A field is invalid. -32005: A list is too long.
    """
    given = parse_object(value)
    block_hash = given.get("blockHash")
    first, last = given.get("fromBlock"), given.get("toBlock")
    if block_hash is not None and (first is not None or last is not None):
        raise invalid_params("cannot specify both BlockHash and FromBlock/ToBlock, choose one")
    topics = given.get("topics")
    positions = [] if topics is None else parse_list(topics, limit=MAX_FILTER_ALTERNATIVES)
    if len(positions) > MAX_TOPICS:
        raise invalid_params("exceed max topics")
    return LogFilter(
        block_hash=None if block_hash is None else parse_hash(block_hash),
        from_block=BlockTag.LATEST if first is None else parse_block_number(first),
        to_block=BlockTag.LATEST if last is None else parse_block_number(last),
        addresses=_parse_alternatives(given.get("address"), parse_address),
        topics=tuple(_parse_alternatives(position, parse_hash) for position in positions),
    )


def _parse_alternatives(value: Json, parse: Callable[[Json], Value]) -> tuple[Value, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        return (parse(value),)
    entries = parse_list(value, limit=MAX_FILTER_ALTERNATIVES)
    # As in geth, a null among the alternatives matches everything.
    return () if None in entries else tuple(parse(entry) for entry in entries)
