"""Length-prefixed JSON: how processes of one node speak (docs/spec/rpc.md, section 7).

Bytes in, values out, no sockets: trio, asyncio and plain pipes use it alike.
"""

import json
from typing import Final

from pydantic_core import from_json

from chain.json_types import Json, JsonObject

MAX_FRAME_BYTES: Final = 2**24
"""16 MiB: a full transaction pool in hexadecimal, and far less than would hurt either process."""

LENGTH_BYTES: Final = 4
"""A frame is its length as a big-endian u32, then that many bytes of JSON."""


class FrameError(Exception):
    """The other end does not speak this protocol; the connection is of no further use."""


def parse_json(data: bytes) -> Json:
    """The value that `data`, already bounded by the caller, says in standard JSON.

    Not the standard library's parser: importing py-evm raises Python's recursion limit, and from
    then on a body of open brackets overflows that parser's C stack and ends the process.

    Raises:
        ValueError: It is not UTF-8, not JSON, nested deeper than 200, or says NaN or Infinity.
    """
    value: Json = from_json(data, allow_inf_nan=False)
    return value


def dump_json(value: Json) -> bytes:
    """The compact UTF-8 encoding of `value`."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def encode_frame(value: JsonObject) -> bytes:
    """The frame that carries `value`.

    Raises:
        FrameError: It would be longer than MAX_FRAME_BYTES.
    """
    body = dump_json(value)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(body)} bytes, limit {MAX_FRAME_BYTES}")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def decode_length(prefix: bytes) -> int:
    """The length of the frame body that follows `prefix`.

    Raises:
        FrameError: It is past MAX_FRAME_BYTES.
    """
    length = int.from_bytes(prefix, "big")
    if length > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {length} bytes, limit {MAX_FRAME_BYTES}")
    return length


def decode_body(body: bytes) -> JsonObject:
    """The object that a frame body carries.

    Raises:
        FrameError: It is not a JSON object.
    """
    try:
        value = parse_json(body)
    except ValueError as error:
        raise FrameError("a frame that is not JSON") from error
    if not isinstance(value, dict):
        raise FrameError("a frame that is not an object")
    return value


class FrameReader:
    """Cuts a stream of bytes into frames; holds at most one incomplete frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[JsonObject]:
        """The objects that `data` completes, in order.

        Raises:
            FrameError: A frame is too long, or not a JSON object.
        """
        self._buffer += data
        values: list[JsonObject] = []
        while len(self._buffer) >= LENGTH_BYTES:
            end = LENGTH_BYTES + decode_length(bytes(self._buffer[:LENGTH_BYTES]))
            if len(self._buffer) < end:
                break
            values.append(decode_body(bytes(self._buffer[LENGTH_BYTES:end])))
            del self._buffer[:end]
        return values
