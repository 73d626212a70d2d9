"""/pot/consensus/1: queues, writers and limits."""

import pytest
import trio
from trio.testing import MockClock

from node.network.metrics import NetworkMetrics
from node.network.protocols import consensus
from node.network.protocols.consensus import ConsensusLinks, OutboundQueue
from node.network.stream import FrameStream, StreamClosedError, UnreachablePeerError
from tests.worlds.network import Received, stream_pair, validator_address

BOB = validator_address(1)


async def test_full_queue_drops_the_oldest_frames_and_counts_them() -> None:
    metrics = NetworkMetrics()
    queue = OutboundQueue(metrics)
    for index in range(consensus.QUEUE_FRAMES_LIMIT + 3):
        queue.put(index.to_bytes(4, "big"))
    assert metrics.consensus_frames_dropped == 3
    assert (await queue.take())[0] == (3).to_bytes(4, "big")


async def test_queue_is_bounded_by_bytes() -> None:
    metrics = NetworkMetrics()
    queue = OutboundQueue(metrics)
    block = bytes(2**22)
    for _ in range(10):
        queue.put(block)
    assert metrics.consensus_frames_dropped == 10 - consensus.QUEUE_LIMIT_BYTES // 2**22


async def test_small_queued_frames_are_sent_in_one_write() -> None:
    queue = OutboundQueue(NetworkMetrics())
    frames = [bytes([index]) * 200 for index in range(100)]
    for frame in [*frames, bytes(2**20), b"last"]:
        queue.put(frame)
    assert await queue.take() == frames
    assert await queue.take() == [bytes(2**20)]
    assert await queue.take() == [b"last"]


def build_links(received: Received) -> ConsensusLinks:
    links = ConsensusLinks(
        own_address=validator_address(0), handle=received.handle, metrics=NetworkMetrics()
    )
    links.set_validators([validator_address(0), BOB])
    return links


async def test_frames_of_a_broken_stream_are_sent_on_the_next(
    autojump_clock: MockClock,
) -> None:
    links = build_links(Received())
    streams = [stream_pair() for _ in range(2)]
    opened: list[FrameStream] = []
    await streams[0][1].reset()

    async def open_stream(protocol_id: str) -> FrameStream:
        if not opened:
            opened.append(streams[0][0])
            return streams[0][0]
        if len(opened) == 1:
            opened.append(streams[0][0])
            raise UnreachablePeerError("not yet")
        return streams[1][0]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(links.run_outbound, BOB, open_stream)
        links.broadcast(b"vote")
        with trio.fail_after(5):
            assert await streams[1][1].read_frame(100) == b"vote"
        nursery.cancel_scope.cancel()


async def test_validator_that_left_the_set_is_neither_read_nor_sent_to(
    autojump_clock: MockClock,
) -> None:
    received = Received()
    links = build_links(received)
    theirs, ours = stream_pair()

    async def serve() -> None:
        with pytest.raises(StreamClosedError, match="no validator"):
            await links.serve(ours, BOB)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await theirs.write_frame(b"first")
        await received.wait_for(1)
        links.set_validators([validator_address(0)])
        links.send(BOB, b"dropped")
        await theirs.write_frames([b"second", b"third"])
        await trio.sleep(1)
    # The frame that was already being read is still passed on.
    assert received.frames == [(BOB, b"first"), (BOB, b"second")]


def test_queued_frames_are_counted() -> None:
    links = build_links(Received())
    links.broadcast(b"vote")
    links.send(BOB, b"again")
    frames, size_bytes = links.count_waiting()
    assert (frames, size_bytes) == (1 + len(links._queues), 4 * len(links._queues) + 5)
