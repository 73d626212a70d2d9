"""/pot/training/1: answers within limits, and malformed messages that end only their stream."""

import pytest
import trio
from trio.testing import MockClock

from chain import codec
from chain.errors import RejectedInputError
from chain.primitives import Address, Hash32, TaskId
from chain.training.attempt import AttemptId
from chain.training.reveal import Reveal
from chain.training.state import MAX_PARTS
from node.network.protocols import training
from node.network.stream import FrameStream, StreamClosedError
from tests.worlds.network import stream_pair

ROOT = Hash32(b"\x07" * 32)
ATTEMPT = AttemptId(TaskId(1), 2, 3)


def reveal(number: int) -> Reveal:
    word = Hash32(number.to_bytes(32, "big"))
    return Reveal(ATTEMPT, Address(number.to_bytes(20, "big")), 4, word, word)


class Source:
    """The training data of a node."""

    def __init__(self, count: int = 3) -> None:
        self.reveals = [reveal(number) for number in range(count)]
        self.announced: list[Reveal] = []
        self.parts = [Hash32(bytes([n]) * 32) for n in range(MAX_PARTS)]

    async def list_reveals(self, attempt_id: AttemptId) -> list[Reveal]:
        return self.reveals if attempt_id == ATTEMPT else []

    async def get_state_parts(self, state_root: Hash32) -> list[Hash32] | None:
        return self.parts if state_root == ROOT else None

    def on_announced_reveal(self, reveal: Reveal) -> None:
        self.announced.append(reveal)


async def test_reveals_and_parts_are_served_and_announcements_passed_on(
    autojump_clock: MockClock,
) -> None:
    asking, serving = stream_pair()
    source = Source()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(training.serve, serving, source, source.on_announced_reveal)
        assert await training.request_reveals(asking, ATTEMPT) == tuple(source.reveals)
        assert await training.request_reveals(asking, AttemptId(TaskId(9), 2, 3)) == ()
        assert await training.request_state_parts(asking, ROOT) == tuple(source.parts)
        assert await training.request_state_parts(asking, Hash32(bytes(32))) == ()
        await training.announce_reveal(asking, reveal(7))
        assert source.announced == [reveal(7)]
        nursery.cancel_scope.cancel()


async def test_answer_holds_all_reveals_that_an_attempt_can_have(
    autojump_clock: MockClock,
) -> None:
    asking, serving = stream_pair()
    async with trio.open_nursery() as nursery:
        source = Source(training.REVEALS_LIMIT + 5)
        nursery.start_soon(training.serve, serving, source, source.on_announced_reveal)
        answer = await training.request_reveals(asking, ATTEMPT)
        assert len(answer) == training.REVEALS_LIMIT
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xff" * 40,
        codec.encode([]),
        codec.encode([9]),
        codec.encode([0, 1]),
        codec.encode([0, 2**64, 0, 0]),
        codec.encode([0, [], 0, 0]),
        codec.encode([1, b"short"]),
        codec.encode([2, [b""] * 7]),
        codec.encode([[], 1]),
        codec.encode(b"text"),
    ],
)
async def test_malformed_request_is_refused(autojump_clock: MockClock, frame: bytes) -> None:
    asking, serving = stream_pair()
    await asking.write_frame(frame)
    source = Source()
    with pytest.raises(RejectedInputError):
        await training.serve(serving, source, source.on_announced_reveal)
    assert source.announced == []


async def answer_once(stream: FrameStream, frame: bytes) -> None:
    try:
        await stream.read_frame(1_000)
        await stream.write_frame(frame)
    except StreamClosedError:
        return


@pytest.mark.parametrize(
    "frame",
    [
        b"\xff" * 30,
        codec.encode([[b"\x01"] * 7]),
        codec.encode([[0] * 7] * (training.REVEALS_LIMIT + 1)),
    ],
)
async def test_malformed_answer_is_refused(autojump_clock: MockClock, frame: bytes) -> None:
    asking, serving = stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer_once, serving, frame)
        with pytest.raises(RejectedInputError):
            await training.request_reveals(asking, ATTEMPT)


async def test_more_parts_than_a_state_can_have_are_refused(autojump_clock: MockClock) -> None:
    asking, serving = stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer_once, serving, codec.encode([bytes(32)] * (MAX_PARTS + 1)))
        with pytest.raises(RejectedInputError):
            await training.request_state_parts(asking, ROOT)
