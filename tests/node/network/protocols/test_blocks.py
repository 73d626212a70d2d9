"""/pot/blocks/1 between nodes whose hosts are in memory."""

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import Address, BlockNumber
from chain.types.receipt import RECEIPTS_LIMIT_BYTES, Log, build_receipt, encode_receipts
from node.network import wire
from node.network.protocols import blocks
from node.network.stream import FrameStream, UnreachablePeerError
from tests.worlds.network import (
    CERTIFICATE,
    MemoryChain,
    MemoryInternet,
    Node,
    build_block,
    build_nodes,
    running,
    stream_pair,
)
from tests.worlds.waiting import until


@asynccontextmanager
async def connected_pair() -> AsyncIterator[tuple[Node, Node]]:
    asking, serving = build_nodes(MemoryInternet(), 2)
    async with running(asking, serving):
        await until(lambda: bool(asking.network.peers() and serving.network.peers()))
        yield asking, serving


@pytest.mark.usefixtures("inline_threads")
async def test_blocks_and_headers_are_served_with_certificates(
    autojump_clock: MockClock,
) -> None:
    async with connected_pair() as (asking, serving):
        serving.chain.blocks = {BlockNumber(n): build_block(n) for n in range(1, 8)}
        peers, peer_id = asking.network.requests, serving.host.peer_id
        assert await peers.request_blocks(peer_id, BlockNumber(5), 10) == tuple(
            (build_block(number), CERTIFICATE) for number in (5, 6, 7)
        )
        assert await peers.request_headers(peer_id, BlockNumber(1), 2) == tuple(
            (build_block(number).header, CERTIFICATE) for number in (1, 2)
        )
        assert await peers.request_blocks(peer_id, BlockNumber(8), 1) == ()
        wanted = build_block(3)
        assert await peers.request_block_by_hash(peer_id, wanted.hash) == wanted
        assert await peers.request_block_by_hash(peer_id, build_block(9).hash) is None


async def test_answers_are_decoded_outside_of_the_thread_of_consensus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two peers without a stake stopped a chain: each answer of 5 MB took 3 s of its thread."""
    threads = []

    def note(decode: Callable[[bytes], object]) -> Callable[[bytes], object]:
        def noted(data: bytes) -> object:
            threads.append(threading.current_thread())
            return decode(data)

        return noted

    for name in ("decode_block", "decode_header", "decode_receipts"):
        monkeypatch.setattr(blocks, name, note(getattr(blocks, name)))
    async with connected_pair() as (asking, serving):
        serving.chain.blocks = {BlockNumber(1): build_block(1)}
        serving.chain.executed = {BlockNumber(1): ()}
        peers, peer_id = asking.network.requests, serving.host.peer_id
        assert await peers.request_blocks(peer_id, BlockNumber(1), 1)
        assert await peers.request_headers(peer_id, BlockNumber(1), 1)
        assert await peers.request_receipts(peer_id, [BlockNumber(1)])
        assert await peers.request_block_by_hash(peer_id, build_block(1).hash)
    assert len(threads) == 4
    assert threading.main_thread() not in threads


@pytest.mark.usefixtures("inline_threads")
async def test_receipts_are_served_as_far_as_they_are_held(autojump_clock: MockClock) -> None:
    async with connected_pair() as (asking, serving):
        peers, peer_id = asking.network.requests, serving.host.peer_id
        receipts = (build_receipt(2, 1, 21_000, ()), build_receipt(0, 0, 50_000, ()))
        serving.chain.executed = {BlockNumber(3): receipts, BlockNumber(7): ()}
        numbers = [BlockNumber(n) for n in (3, 7, 8, 3)]
        assert await peers.request_receipts(peer_id, numbers) == (receipts, ())


@pytest.mark.usefixtures("inline_threads")
async def test_node_below_its_snapshot_serves_headers_but_no_blocks(
    autojump_clock: MockClock,
) -> None:
    async with connected_pair() as (asking, serving):
        peers, peer_id = asking.network.requests, serving.host.peer_id
        serving.chain.blocks = {BlockNumber(n): build_block(n) for n in (4, 5, 6)}
        serving.chain.certified = {BlockNumber(5), BlockNumber(6)}
        serving.chain.first = 5
        for count in (1, 10):
            with pytest.raises(blocks.HistoryNotHeldError, match="below 5"):
                await peers.request_blocks(peer_id, BlockNumber(4), count)
        assert len(await peers.request_blocks(peer_id, BlockNumber(5), 10)) == 2
        assert await peers.request_headers(peer_id, BlockNumber(4), 2) == (
            (build_block(4).header, None),
            (build_block(5).header, CERTIFICATE),
        )
        assert serving.network.peers()[0].score == 100


@pytest.mark.usefixtures("inline_threads")
async def test_largest_receipts_of_a_block_are_served_alone(autojump_clock: MockClock) -> None:
    """A block with more than 4 MiB of logs was a fault of whoever served its receipts."""
    log = Log(Address(b"\x01" * 20), (), bytes(2**22 - 400))
    receipts = (build_receipt(2, 1, 21_000, (log,)),) * 4
    size = len(encode_receipts(receipts))
    assert RECEIPTS_LIMIT_BYTES - 2_000 < size <= RECEIPTS_LIMIT_BYTES
    async with connected_pair() as (asking, serving):
        serving.chain.executed = {BlockNumber(3): receipts, BlockNumber(4): receipts}
        numbers = [BlockNumber(3), BlockNumber(4)]
        answer = await asking.network.requests.request_receipts(serving.host.peer_id, numbers)
        assert answer == (receipts,)


@pytest.mark.usefixtures("inline_threads")
async def test_answer_ends_before_its_byte_limit(autojump_clock: MockClock) -> None:
    async with connected_pair() as (asking, serving):
        serving.chain.blocks = {
            BlockNumber(n): build_block(n, size_bytes=3 * 2**20) for n in range(1, 8)
        }
        answer = await asking.network.requests.request_blocks(
            serving.host.peer_id, BlockNumber(1), 7
        )
        assert [block.number for block, _ in answer] == [1, 2]


@pytest.mark.usefixtures("inline_threads")
async def test_answers_that_break_the_rules_are_refused(autojump_clock: MockClock) -> None:
    wrong_block = wire.encode_certified(build_block(9).encode(), CERTIFICATE.encode())
    for frames, reason in (
        ([wrong_block, b""], RejectionReason.CONTENT_MISMATCH),
        ([b"\x05"], RejectionReason.MALFORMED),
        ([wire.encode_certified(build_block(1).encode(), b"")], RejectionReason.MALFORMED),
        ([wrong_block] * 3, RejectionReason.TOO_LARGE),
    ):
        asking, serving = stream_pair()
        await serving.write_frames([*frames, b""])
        with pytest.raises(RejectedInputError) as refusal:
            await blocks.request_blocks(asking, BlockNumber(1), 2)
        assert refusal.value.reason is reason


@pytest.mark.usefixtures("inline_threads")
async def test_peer_that_does_not_answer_is_unreachable(autojump_clock: MockClock) -> None:
    async with connected_pair() as (asking, serving):

        async def never_answer(stream: FrameStream) -> None:
            await trio.sleep_forever()

        serving.host.set_handler(blocks.PROTOCOL_ID, never_answer)
        with pytest.raises(UnreachablePeerError):
            await asking.network.requests.request_blocks(serving.host.peer_id, BlockNumber(1), 1)


@pytest.mark.parametrize("frame", [b"", b"\xc0", b"\xc1\x09", b"\xc2\x00\x01", b"x" * 300])
@pytest.mark.usefixtures("inline_threads")
async def test_requests_that_break_the_rules_end_the_stream(
    frame: bytes, autojump_clock: MockClock
) -> None:
    asking, serving = stream_pair()
    await asking.write_frame(frame)
    with pytest.raises(RejectedInputError):
        await blocks.serve(
            serving, MemoryChain(), build_nodes(MemoryInternet(), 1)[0].network.metrics
        )
