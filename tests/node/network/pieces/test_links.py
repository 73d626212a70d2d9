"""/pot/pieces/1: large messages between validators."""

import pytest
import trio
from trio.testing import MockClock

from chain.crypto import sha256
from chain.errors import RejectedInputError, RejectionReason
from node.network.metrics import NetworkMetrics
from node.network.pieces.dissemination import SPREAD_BYTES, SPREAD_SECONDS, Dissemination
from node.network.pieces.links import WAITING_LIMIT, PieceLinks
from node.network.stream import FrameStream, StreamClosedError
from tests.worlds.network import (
    MemoryInternet,
    Received,
    build_nodes,
    running,
    stream_pair,
    validator_address,
)
from tests.worlds.waiting import until

pytestmark = pytest.mark.usefixtures("inline_threads")

MESSAGE = b"".join(sha256(bytes([i])) for i in range(256)) * (SPREAD_BYTES // 2**13)


async def test_large_message_reaches_all_validators_once_at_less_cost(
    autojump_clock: MockClock,
) -> None:
    nodes = build_nodes(MemoryInternet(), 8)
    async with running(*nodes):
        await until(lambda: all(len(node.network.peers()) == 7 for node in nodes))
        author, *others = nodes
        author.network.broadcast_consensus(MESSAGE)
        author.network.broadcast_consensus(b"small")
        await until(lambda: all(len(node.received.frames) == 2 for node in others))
    for node in others:
        assert sorted(node.received.frames, key=lambda frame: len(frame[1])) == [
            (validator_address(0), b"small"),
            (validator_address(0), MESSAGE),
        ]
    assert author.network.metrics.bytes["pieces", "out"] < 2.2 * len(MESSAGE)


async def test_message_is_sent_whole_on_request_after_spreading(
    autojump_clock: MockClock,
) -> None:
    nodes = build_nodes(MemoryInternet(), 8)
    async with running(*nodes):
        await until(lambda: all(len(node.network.peers()) == 7 for node in nodes))
        author, other, *_ = nodes
        author.network.broadcast_consensus(MESSAGE)
        await other.received.wait_for(1)
        author.network.send_consensus(validator_address(1), MESSAGE)
        await trio.sleep(SPREAD_SECONDS)
        assert len(other.received.frames) == 1
        author.network.send_consensus(validator_address(1), MESSAGE)
        await other.received.wait_for(2)


def build_links(received: Received, metrics: NetworkMetrics, *, own: int = 0) -> PieceLinks:
    links = PieceLinks(own_address=validator_address(own), handle=received.handle, metrics=metrics)
    links.set_validators([validator_address(index) for index in range(8)])
    return links


async def test_undecodable_piece_is_a_fault_of_its_sender(autojump_clock: MockClock) -> None:
    links = build_links(Received(), NetworkMetrics())
    theirs, ours = stream_pair()
    await theirs.write_frame(b"\xc1\x80")
    with pytest.raises(RejectedInputError, match="malformed"):
        await links.serve(ours, validator_address(1))


async def test_piece_of_another_validator_set_costs_no_points(
    autojump_clock: MockClock,
) -> None:
    metrics = NetworkMetrics()
    sender = build_links(Received(), NetworkMetrics(), own=1)
    sender.set_validators([validator_address(index) for index in range(9)])
    links = build_links(Received(), metrics)
    theirs, ours = stream_pair()
    stopped = trio.Event()

    async def serve() -> None:
        try:
            await links.serve(ours, validator_address(1))
        except StreamClosedError:
            stopped.set()

    async def open_stream(_protocol_id: str) -> FrameStream:
        return theirs

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        nursery.start_soon(sender.run)
        assert sender.broadcast(MESSAGE)
        nursery.start_soon(sender.run_outbound, validator_address(0), open_stream)
        await until(lambda: metrics.rejections[RejectionReason.MALFORMED] == 1)
        assert not stopped.is_set()
        nursery.cancel_scope.cancel()


async def test_pieces_of_an_author_above_its_rate_are_not_relayed(
    autojump_clock: MockClock,
) -> None:
    metrics = NetworkMetrics()
    validators = [validator_address(index) for index in range(8)]
    received = Received()
    ours = PieceLinks(own_address=validators[0], handle=received.handle, metrics=metrics)
    ours.set_validators(validators)

    def cut(author: int, message: bytes) -> bytes:
        """The piece for the node under test."""
        theirs = Dissemination(validators[author])
        theirs.set_validators(validators)
        assert theirs.begin(message, 0.0)
        return dict(theirs.cut(message))[validators[0]]

    rubbish = [cut(1, bytes([index]) * 2**22) for index in range(10)]
    for frame in rubbish:
        await ours._take(validators[1], frame)
    assert metrics.pieces_withheld == 2  # ten messages of 4 MiB, of which 32 MiB are relayed
    # Other authors are not affected, and the budget of this one refills.
    await ours._take(validators[2], cut(2, MESSAGE))
    await trio.sleep(2)
    await ours._take(validators[1], rubbish[0])
    assert metrics.pieces_withheld == 2
    await ours._take(validators[1], rubbish[0])
    assert metrics.pieces_withheld == 3


async def test_messages_beyond_the_waiting_limit_are_sent_whole(autojump_clock: MockClock) -> None:
    links = build_links(Received(), NetworkMetrics())
    taken = [links.broadcast(MESSAGE + bytes([index])) for index in range(WAITING_LIMIT + 1)]
    assert taken == [True] * WAITING_LIMIT + [False]
