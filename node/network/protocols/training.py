"""/pot/training/1: reveals, and the parts of training states (docs/spec/wire.md, section 8).

Gradients and tensors themselves are blobs; these messages tell which blobs to fetch. The caller
verifies them: a reveal must open its commitment, parts must hash to their root.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, Protocol

import trio

from chain import codec
from chain.errors import InvalidMessage, RejectionReason
from chain.primitives import Hash32, TaskId
from chain.training.attempt import AttemptId
from chain.training.reveal import REVEAL_LIMIT_BYTES, Reveal, reveal_from_item
from chain.training.state import MAX_PARTS
from node.network.stream import FrameStream
from node.network.wire import REQUEST_FRAME_LIMIT_BYTES

PROTOCOL_ID: Final = "/pot/training/1"
"""The opener of a stream sends any number of requests, one after the other."""

REVEALS_LIMIT: Final = 1_024
"""Reveals in one answer: the most miners that the ledger admits to a task."""

REVEALS_FRAME_LIMIT_BYTES: Final = REVEALS_LIMIT * REVEAL_LIMIT_BYTES + 16
"""An answer with REVEALS_LIMIT reveals."""

ENCODED_ANSWERS: Final = 16
"""Answers with reveals that are kept encoded, for peers that ask again."""

_REVEALS: Final = 0
_STATE_PARTS: Final = 1
_ANNOUNCE: Final = 2


class TrainingSource(Protocol):
    """The training data that a node serves to its peers."""

    async def list_reveals(self, attempt_id: AttemptId) -> Sequence[Reveal]:
        """The reveals of an attempt that this node holds."""

    async def get_state_parts(self, state_root: Hash32) -> Sequence[Hash32] | None:
        """The content ids below a training state root; None if they are not known."""

    def on_announced_reveal(self, reveal: Reveal) -> None:
        """Take note of a reveal that a peer holds; it is not verified yet."""


async def serve(
    stream: FrameStream, source: TrainingSource, on_announced: Callable[[Reveal], None]
) -> None:
    """Answer the requests of a peer until it closes the stream.

    Args:
        stream: the peer's stream.
        source: the data to answer with.
        on_announced: takes note of a reveal that the peer holds; it is not verified yet.

    Raises:
        RejectedInputError: A request breaks the rules.
        StreamClosedError: The peer left.
    """
    while True:
        frame = await stream.read_frame(REQUEST_FRAME_LIMIT_BYTES)
        item = codec.as_list(codec.decode(frame, limit_bytes=REQUEST_FRAME_LIMIT_BYTES))
        kind = codec.as_uint(item[0], bits=8) if item else -1
        match kind, item[1:]:
            case 0, [task_id, round_number, attempt_number]:
                attempt_id = AttemptId(
                    TaskId(codec.as_uint(task_id, bits=64)),
                    codec.as_uint(round_number, bits=32),
                    codec.as_uint(attempt_number, bits=32),
                )
                reveals = await source.list_reveals(attempt_id)
                answer = await trio.to_thread.run_sync(_encode_reveals, tuple(reveals))
                await stream.write_frame(answer)
            case 1, [root]:
                parts = await source.get_state_parts(Hash32(codec.as_bytes(root, length=32)))
                await stream.write_frame(codec.encode(list(parts or ())))
            case 2, [reveal]:
                on_announced(reveal_from_item(reveal))
                await stream.write_frame(b"")
            case _:
                raise InvalidMessage(RejectionReason.MALFORMED, f"unknown request {kind}")


@lru_cache(ENCODED_ANSWERS)
def _encode_reveals(reveals: tuple[Reveal, ...]) -> bytes:
    # A thousand reveals take 60 ms, and peers may ask often.
    return codec.encode([reveal.to_item() for reveal in reveals[:REVEALS_LIMIT]])


def _decode_reveals(frame: bytes) -> tuple[Reveal, ...]:
    items = codec.decode(frame, limit_bytes=REVEALS_FRAME_LIMIT_BYTES)
    return tuple(reveal_from_item(each) for each in codec.as_list(items, max_length=REVEALS_LIMIT))


async def request_reveals(stream: FrameStream, attempt_id: AttemptId) -> tuple[Reveal, ...]:
    """The reveals of an attempt that the peer holds, unverified.

    Raises:
        RejectedInputError: TOO_LARGE or MALFORMED.
        StreamClosedError: The peer left.
    """
    place = (attempt_id.task_id, attempt_id.round_number, attempt_id.attempt_number)
    await stream.write_frame(codec.encode([_REVEALS, *place]))
    frame = await stream.read_frame(REVEALS_FRAME_LIMIT_BYTES)
    # In a thread: a peer that sends a thousand false reveals must not stop consensus for that long.
    return await trio.to_thread.run_sync(_decode_reveals, frame)


async def request_state_parts(stream: FrameStream, root: Hash32) -> tuple[Hash32, ...]:
    """The content ids below a training state root, unverified; empty if the peer knows none.

    Raises:
        RejectedInputError: TOO_LARGE or MALFORMED.
        StreamClosedError: The peer left.
    """
    await stream.write_frame(codec.encode([_STATE_PARTS, root]))
    limit = 40 * MAX_PARTS
    items = codec.decode(await stream.read_frame(limit), limit_bytes=limit)
    return tuple(
        Hash32(codec.as_bytes(each, length=32))
        for each in codec.as_list(items, max_length=MAX_PARTS)
    )


async def announce_reveal(stream: FrameStream, reveal: Reveal) -> None:
    """Tell the peer of a reveal.

    Raises:
        StreamClosedError: The peer left.
    """
    await stream.write_frame(codec.encode([_ANNOUNCE, reveal.to_item()]))
    await stream.read_frame(0)
