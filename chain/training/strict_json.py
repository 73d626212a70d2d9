"""Strict JSON objects: an unknown member or a value out of bounds is refused.

Source: docs/spec/training.md, section 1.

Which specifications are valid is part of the protocol, so the rules are code of ours: two nodes
with different versions of a validation library could disagree about a task.
"""

import json
import re
from collections.abc import Callable
from typing import Final, NoReturn, TypeVar

from pydantic_core import from_json

from chain.errors import InvalidSpec, RejectionReason
from chain.hexadecimal import from_hex
from chain.json_types import Json

Item = TypeVar("Item")
"""What the elements of a JSON array are decoded to."""

MAX_DIGITS: Final = 20
"""The longest integer that is parsed, sign included. The bounds of the members are far lower."""

MAX_KEY_SHOWN: Final = 64
"""How much of an unknown key an error message repeats."""


class JsonFields:
    """The members of one JSON object; each is read once, and `finish` refuses the rest.

    Args:
        value: The JSON value, which must be an object.
        where: Its path in the document, for messages.

    Raises:
        InvalidSpec: BAD_SPEC. Every method raises it for a member that breaks its rule.
    """

    def __init__(self, value: Json, where: str) -> None:
        if not isinstance(value, dict):
            refuse(where, "must be an object")
        self._members = dict(value)
        self.where = where

    def finish(self) -> None:
        """Refuse members that were not read."""
        if self._members:
            self._refuse(min(self._members)[:MAX_KEY_SHOWN], "is not a known key")

    def child(self, key: str) -> "JsonFields":
        """The object `key`."""
        return JsonFields(self._take(key), f"{self.where}.{key}")

    def integer(self, key: str, low: int, high: int) -> int:
        """The integer `key`, from `low` to `high`."""
        return check_integer(self._take(key), low, high, f"{self.where}.{key}")

    def constant(self, key: str, expected: int) -> None:
        """Require the integer `key` to be `expected`."""
        self.integer(key, expected, expected)

    def choice(self, key: str, options: tuple[str, ...]) -> str:
        """The string `key`, one of `options`."""
        value = self._take(key)
        if not isinstance(value, str) or value not in options:
            self._refuse(key, f"must be one of {', '.join(options)}")
        return value

    def matching(self, key: str, pattern: re.Pattern[str]) -> str:
        """The string `key`, all of which matches `pattern`."""
        value = self._take(key)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            self._refuse(key, f"must match {pattern.pattern}")
        return value

    def hexadecimal(self, key: str, byte_count: int) -> bytes:
        """The bytes that the string `key` writes as 0x and lower-case hex digits."""
        value = self._take(key)
        if not isinstance(value, str) or not re.fullmatch(f"0x[0-9a-f]{{{2 * byte_count}}}", value):
            self._refuse(key, f"must be 0x and {byte_count} lower-case hex bytes")
        return from_hex(value)

    def items(
        self, key: str, shortest: int, longest: int, decode: Callable[[Json, str], Item]
    ) -> tuple[Item, ...]:
        """The elements of the array `key`; `decode` gets each with its path."""
        value, where = self._take(key), f"{self.where}.{key}"
        if not isinstance(value, list) or not shortest <= len(value) <= longest:
            refuse(where, f"must be an array of {shortest} to {longest} elements")
        return tuple(decode(item, f"{where}[{i}]") for i, item in enumerate(value))

    def _take(self, key: str) -> Json:
        if key not in self._members:
            self._refuse(key, "is missing")
        return self._members.pop(key)

    def _refuse(self, key: str, problem: str) -> NoReturn:
        refuse(f"{self.where}.{key}", problem)


def parse_json_without_floats(data: bytes) -> Json:
    """The JSON value in UTF-8 bytes, without floats and without integers of more than 20 digits.

    Raises:
        ValueError: The bytes are something else, or nest deeper than 200.
    """
    # This parser bounds the depth. The one below overflows a small C stack on 16 384 open brackets
    # once py-evm is imported, which raises Python's recursion limit.
    from_json(data, allow_inf_nan=False)
    value: Json = json.loads(
        data.decode(),
        parse_float=_refuse_number,
        parse_constant=_refuse_number,
        parse_int=_parse_integer,
    )
    return value


def check_integer(value: Json, low: int, high: int, where: str) -> int:
    """The value, if it is an integer from `low` to `high`.

    Raises:
        InvalidSpec: BAD_SPEC.
    """
    # bool is an int to isinstance, and true is not 1.
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        refuse(where, f"must be an integer from {low} to {high}")
    return value


def refuse(where: str, problem: str) -> NoReturn:
    """Refuse the specification for the value at the path `where`.

    Raises:
        InvalidSpec: BAD_SPEC, always.
    """
    raise InvalidSpec(RejectionReason.BAD_SPEC, f"{where} {problem}")


def _parse_integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        _refuse_number(text)
    return int(text)


def _refuse_number(text: str) -> NoReturn:
    message = f"the number {text[:24]} is not a small integer"
    raise ValueError(message)
