"""How calls, answers and events are encoded (docs/spec/contracts.md, section 3)."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from eth_abi.abi import decode, encode
from eth_abi.grammar import TupleType, parse

from chain.crypto import keccak256
from chain.primitives import Address, Hash32

SELECTOR_BYTES: Final = 4
"""How much of a signature's hash names a function or an error."""


WORD_BYTES: Final = 32
"""The unit of ABI encoding."""


@lru_cache(maxsize=256)
def list_types(signature: str) -> tuple[str, ...]:
    """The parameter types of a function, an event or an error."""
    parameters = signature[signature.index("(") :]
    if parameters == "()":
        return ()
    parsed = parse(parameters)
    assert isinstance(parsed, TupleType)
    return tuple(component.to_type_str() for component in parsed.components)


@lru_cache(maxsize=256)
def compute_selector(signature: str) -> bytes:
    """The first four bytes of call data for a function, or of revert data for an error."""
    return keccak256(signature.encode())[:SELECTOR_BYTES]


def encode_call(signature: str, *values: object) -> bytes:
    """Call data for a function."""
    return compute_selector(signature) + encode(list_types(signature), values)


def convert_value(abi_type: str, value: object) -> object:
    """A decoded value in the types of chain.primitives."""
    if abi_type == "address":
        assert isinstance(value, str)
        return Address(bytes.fromhex(value[2:]))
    return value


def decode_values(types: Sequence[str], data: bytes) -> list[object]:
    """Values that lie one after another."""
    decoded = decode(types, data)
    return [convert_value(kind, value) for kind, value in zip(types, decoded, strict=True)]


def decode_struct(abi_type: str, data: bytes) -> list[object]:
    """The fields of a struct."""
    components = list_types(abi_type)
    (values,) = decode([abi_type], data)
    return [convert_value(kind, value) for kind, value in zip(components, values, strict=True)]


def decode_uint(data: bytes) -> int:
    """One number, or a boolean as 0 or 1."""
    return int.from_bytes(data[:WORD_BYTES], "big")


def decode_hash(data: bytes) -> Hash32:
    """One 32-byte word."""
    return Hash32(data[:WORD_BYTES])


def decode_address(data: bytes) -> Address:
    """One account."""
    return Address(data[WORD_BYTES - 20 : WORD_BYTES])


def decode_addresses(data: bytes) -> tuple[Address, ...]:
    """A list of accounts, in the contract's order."""
    (addresses,) = decode(["address[]"], data)
    return tuple(Address(bytes.fromhex(each[2:])) for each in addresses)
