"""Frames on a byte stream."""

import pytest
import trio

from chain.errors import InvalidMessage, RejectionReason
from node.network.stream import StreamClosedError
from tests.worlds.network import stream_pair


async def test_frames_arrive_whole_and_in_order() -> None:
    first, second = stream_pair()
    frames = [b"", b"x", bytes(100_000), b"last"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.write_frames, frames)
        assert [await second.read_frame(100_000) for _ in frames] == frames


async def test_frame_above_its_limit_is_refused_before_it_is_read() -> None:
    first, second = stream_pair()
    await first._byte_stream.send_all((1001).to_bytes(4, "big"))
    with pytest.raises(InvalidMessage) as refusal:
        await second.read_frame(1000)
    assert refusal.value.reason is RejectionReason.TOO_LARGE


async def test_stream_that_ends_within_a_frame_is_closed() -> None:
    first, second = stream_pair()
    await first._byte_stream.send_all(b"\x00\x00\x00\x05abc")
    await first.close()
    with pytest.raises(StreamClosedError):
        await second.read_frame(1000)


async def test_writers_do_not_mix_their_frames() -> None:
    first, second = stream_pair()
    async with trio.open_nursery() as nursery:
        for letter in b"abc":
            nursery.start_soon(first.write_frame, bytes([letter]) * 200_000)
        frames = [await second.read_frame(200_000) for _ in range(3)]
    assert sorted(frames) == [bytes([letter]) * 200_000 for letter in b"abc"]
