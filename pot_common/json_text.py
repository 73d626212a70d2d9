"""JSON as text: what this program reads from other processes and writes to them."""

import json

from pydantic_core import from_json

from chain.json_types import Json


def parse_json(data: bytes) -> Json:
    """The value of the JSON text `data`. The caller bounds its length.

    This is not the standard library's parser: importing py-evm raises Python's recursion limit, and
    from then on a body of open brackets overflows that parser's C stack and ends the process.

    Raises:
        ValueError: It is not UTF-8, not JSON, nested deeper than 200, or has NaN or Infinity.
    """
    value: Json = from_json(data, allow_inf_nan=False)
    return value


def dump_json(value: Json) -> bytes:
    """The compact UTF-8 text of `value`."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
