"""Calls and answers of contracts as typed values (docs/spec/contracts.md, section 3).

A `ContractView` holds the call data of a view function and the decoder of its answer. So the type
checker knows the type of `read(view)`, in whichever way the contract is asked. The types of all
functions and events are in `chain/contracts/tables.py`, generated from the compiled contracts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields, is_dataclass
from enum import IntEnum
from typing import Final, Generic, TypeVar

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_abi.grammar import ABIType, BasicType, TupleType, parse
from eth_utils.abi import event_signature_to_log_topic, function_signature_to_4byte_selector

from chain.hexadecimal import from_hex
from chain.primitives import Address, Hash32

T = TypeVar("T")
"""The type of an answer."""

SELECTOR_BYTES: Final = 4
"""Length of a selector: the first bytes of the signature's hash name a function or an error."""

WORD_BYTES: Final = 32
"""Length of a word, the unit of ABI encoding."""


class InvalidAnswerError(Exception):
    """A contract failed, or its answer does not have the types that it declares."""


@dataclass(frozen=True, slots=True)
class ContractCall:
    """A call of a contract: its address and the call data for a transaction."""

    to: Address
    data: bytes


@dataclass(frozen=True, slots=True)
class ContractView(Generic[T]):
    """A call of a view function, which changes nothing, with the type of its answer."""

    to: Address
    data: bytes
    decode: Callable[[bytes], T] = field(compare=False, repr=False)
    """Decodes the answer; raises InvalidAnswerError."""


@dataclass(frozen=True, slots=True)
class FunctionAbi:
    """The types of a function's arguments and results."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EventAbi:
    """The types of an event's parameters."""

    inputs: tuple[str, ...]
    indexed: tuple[int, ...]
    """Positions of the indexed parameters, which are topics of the log."""


@dataclass(frozen=True, slots=True)
class ContractAbi:
    """The functions and events of a contract, by name."""

    constructor: tuple[str, ...]
    functions: Mapping[str, FunctionAbi]
    events: Mapping[str, EventAbi]
    errors: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Contract:
    """A contract at an address, with its ABI."""

    address: Address
    abi: ContractAbi

    def call(self, name: str, *arguments: object) -> ContractCall:
        """A call of a function. Structs are given as dataclasses."""
        return ContractCall(self.address, self._encode(name, arguments))

    def view(self, name: str, *arguments: object, returns: Callable[..., T]) -> ContractView[T]:
        """A call of a view function.

        Args:
            name: The name of the function.
            arguments: Its arguments.
            returns: Builds the answer from the returned values. A returned struct is passed as
                its fields.
        """
        outputs = self.abi.functions[name].outputs

        def decode(answer: bytes) -> T:
            return build(returns, tuple(_list_fields(outputs, answer)))

        return ContractView(self.address, self._encode(name, arguments), decode)

    def compute_selector(self, name: str) -> bytes:
        """The first bytes of call data for a function."""
        return compute_selector(name, self.abi.functions[name].inputs)

    def encode_constructor(self, *arguments: object) -> bytes:
        """The encoded arguments of the constructor, which follow the creation code."""
        return encode(self.abi.constructor, [_to_plain(each) for each in arguments])

    def _encode(self, name: str, arguments: Sequence[object]) -> bytes:
        inputs = self.abi.functions[name].inputs
        return self.compute_selector(name) + encode(inputs, [_to_plain(each) for each in arguments])


def compute_selector(name: str, types: Sequence[str]) -> bytes:
    """The first bytes of call data for a function, or of revert data for an error."""
    return function_signature_to_4byte_selector(_join_signature(name, types))


def compute_topic(name: str, types: Sequence[str]) -> Hash32:
    """The first topic of an event's logs."""
    return Hash32(event_signature_to_log_topic(_join_signature(name, types)))


def decode_values(types: Sequence[str], data: bytes) -> tuple[object, ...]:
    """The decoded values of these types. Addresses are bytes.

    Raises:
        InvalidAnswerError: The data is not an encoding of these types.
    """
    try:
        values = decode(types, data)
    except (DecodingError, OverflowError, UnicodeDecodeError) as error:
        raise InvalidAnswerError(f"{len(data)} bytes are not {', '.join(types)}") from error
    pairs = zip(types, values, strict=True)
    return tuple(_with_bytes_addresses(parse(kind), value) for kind, value in pairs)


def build(kind: Callable[..., T], values: Sequence[object]) -> T:
    """A value of type `kind` from decoded values, with its enums and structs.

    Raises:
        InvalidAnswerError: No enum has such a member, or two arrays differ in length.
    """
    types = [each.type for each in fields(kind)] if is_dataclass(kind) else [object] * len(values)
    converted = [_convert(each, value) for each, value in zip(types, values, strict=True)]
    try:
        return kind(*converted)
    except ValueError as error:
        raise InvalidAnswerError(str(error)) from error


def _convert(kind: object, value: object) -> object:
    """A decoded value, converted to the type `kind` of a field."""
    if isinstance(kind, type) and issubclass(kind, IntEnum):
        return build(kind, [value])
    if isinstance(kind, type) and is_dataclass(kind):
        assert isinstance(value, tuple)
        return build(kind, value)
    return value


def _with_bytes_addresses(kind: ABIType, value: object) -> object:
    """A decoded value with its addresses as bytes; eth_abi returns addresses as text."""
    if kind.is_array:
        assert isinstance(value, tuple)
        return tuple(_with_bytes_addresses(kind.item_type, each) for each in value)
    if isinstance(kind, TupleType):
        assert isinstance(value, tuple)
        pairs = zip(kind.components, value, strict=True)
        return tuple(_with_bytes_addresses(component, each) for component, each in pairs)
    if isinstance(kind, BasicType) and kind.base == "address":
        assert isinstance(value, str)
        return Address(from_hex(value))
    return value


def _list_fields(types: Sequence[str], data: bytes) -> Iterator[object]:
    """The decoded values, with each struct replaced by its fields."""
    for kind, value in zip(types, decode_values(types, data), strict=True):
        if kind.startswith("(") and kind.endswith(")"):
            assert isinstance(value, tuple)
            yield from value
        else:
            yield value


def _to_plain(value: object) -> object:
    """An argument in the form that eth_abi expects; structs become tuples."""
    if is_dataclass(value) and not isinstance(value, type):
        return astuple(value)
    if isinstance(value, list | tuple):
        return tuple(_to_plain(each) for each in value)
    return value


def _join_signature(name: str, types: Sequence[str]) -> str:
    return f"{name}({','.join(types)})"
