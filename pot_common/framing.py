"""Length-prefixed JSON: how the processes of one machine talk (docs/spec/rpc.md, section 7).

A frame is its length as a big-endian 32-bit integer, then that many bytes of one JSON object. The
codec does no I/O but for `read`, so trio, asyncio and plain pipes use it alike.
"""

import json
from dataclasses import dataclass
from typing import BinaryIO, Final

from chain.json_types import JsonObject
from pot_common.json_text import dump_json, parse_json

LENGTH_BYTES: Final = 4
"""The length before a frame's body."""


class FrameError(Exception):
    """The other process does not follow this protocol; the connection is of no further use."""


@dataclass(frozen=True, slots=True)
class FrameFormat:
    """What both ends of a connection agree on.

    Attributes:
        limit_bytes: The longest body, so that a broken process cannot fill the other's memory.
        is_ascii: Whether bodies are ASCII with a space after each comma and colon, as
            `json.dumps` writes by default, instead of compact UTF-8. Every reader takes both.
    """

    limit_bytes: int
    is_ascii: bool = False

    def encode(self, message: JsonObject) -> bytes:
        """The frame that carries `message`.

        Raises:
            FrameError: The body would be longer than the limit.
        """
        body = json.dumps(message).encode() if self.is_ascii else dump_json(message)
        self._check_length(len(body))
        return len(body).to_bytes(LENGTH_BYTES, "big") + body

    def decode_length(self, prefix: bytes) -> int:
        """The length of the body that follows `prefix`.

        Raises:
            FrameError: It is longer than the limit.
        """
        length = int.from_bytes(prefix, "big")
        self._check_length(length)
        return length

    def read(self, stream: BinaryIO) -> JsonObject | None:
        """The next message of a blocking stream; None if the stream ended before it.

        Raises:
            FrameError: The stream ends inside a frame, or the frame breaks the protocol.
        """
        body = self.read_body(stream)
        return None if body is None else decode_body(body)

    def read_body(self, stream: BinaryIO) -> bytes | None:
        """The body of the next frame of a blocking stream; None if the stream ended before it.

        Raises:
            FrameError: The stream ends inside the frame, or the frame is too long.
        """
        prefix = stream.read(LENGTH_BYTES)
        if not prefix:
            return None
        body = stream.read(self.decode_length(prefix)) if len(prefix) == LENGTH_BYTES else b""
        if len(prefix) < LENGTH_BYTES or len(body) < int.from_bytes(prefix, "big"):
            raise FrameError("the stream ends inside a frame")
        return body

    def _check_length(self, length: int) -> None:
        if length > self.limit_bytes:
            raise FrameError(f"a frame of {length} bytes, limit {self.limit_bytes}")


def decode_body(body: bytes) -> JsonObject:
    """The object that a frame's body carries.

    Raises:
        FrameError: It is not a JSON object.
    """
    try:
        value = parse_json(body)
    except ValueError as error:
        raise FrameError(f"a frame that is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise FrameError("a frame that is not a JSON object")
    return value


class FrameReader:
    """Cuts a stream of bytes into frames; holds at most one incomplete frame."""

    def __init__(self, frame_format: FrameFormat) -> None:
        self._format = frame_format
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[JsonObject]:
        """The objects that `data` completes, in order.

        Raises:
            FrameError: A frame is too long, or is not a JSON object.
        """
        self._buffer += data
        messages: list[JsonObject] = []
        while len(self._buffer) >= LENGTH_BYTES:
            end = LENGTH_BYTES + self._format.decode_length(bytes(self._buffer[:LENGTH_BYTES]))
            if len(self._buffer) < end:
                break
            messages.append(decode_body(bytes(self._buffer[LENGTH_BYTES:end])))
            del self._buffer[:end]
        return messages


NODE_FRAMES: Final = FrameFormat(limit_bytes=2**24)
"""Between the node, its RPC processes and their workers. 16 MiB are far more than any message of
theirs takes, and far less than would hurt either process."""

WORKER_QUESTIONS: Final = FrameFormat(limit_bytes=2**20, is_ascii=True)
"""From a node to a worker. A question with the path, root and miner of 1 024 gradients, which is
what the ledger admits to a task, takes half of it."""

WORKER_ANSWERS: Final = FrameFormat(limit_bytes=2**16, is_ascii=True)
"""From a worker to its node: a few numbers, or a refusal with its detail."""
