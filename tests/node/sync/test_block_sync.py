"""A late node catches up from peers, some of which lie or are slow."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.errors import RejectionReason
from chain.primitives import ZERO_HASH, BlockNumber
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from node.network.stream import PeerId, UnreachablePeerError
from node.network.wire import Head
from node.sync import ranges
from node.sync.block_sync import PATIENCE_SECONDS
from node.sync.sources import ANSWER_SECONDS, REST_SECONDS
from tests.worlds.cluster import Wire, build_cluster, heads
from tests.worlds.waiting import until

pytestmark = pytest.mark.usefixtures("inline_threads")


async def start_late(wire: Wire, nursery: trio.Nursery, blocks: int = 5) -> None:
    """Start three validators and wait for some blocks; return the fourth node, a follower."""
    for node in wire.nodes[:3]:
        await nursery.start(node.run)
    await until(lambda: min(heads(wire.nodes[:3])) >= blocks)
    wire.nodes[3].is_signer = False
    # A follower gets no consensus messages, so it has only sync.
    wire.lost = lambda sender, receiver, _payload: 3 in (sender, receiver)


async def test_a_follower_catches_up_and_keeps_up(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    wire = build_cluster(tmp_path)
    async with trio.open_nursery() as nursery:
        await start_late(wire, nursery)
        late = wire.nodes[3]
        await nursery.start(late.run)
        await until(lambda: late.store.head_number() >= 5, seconds=3)
        goal = wire.nodes[0].store.head_number() + 3
        await until(lambda: late.store.head_number() >= goal, seconds=10)
        number = late.store.head_number()
        assert late.store.header(number) == wire.nodes[0].store.header(number)
        assert late.sync.best_known() >= number
        nursery.cancel_scope.cancel()


async def never_answer(*_: object) -> tuple[()]:
    await trio.sleep_forever()
    return ()


Serve = Callable[[BlockNumber, int], tuple[tuple[Block, CommitCertificate], ...]]


def lie(kind: str, serve: Serve) -> Serve:
    """The answer of a peer that lies in one way."""

    def answer(first: BlockNumber, count: int) -> tuple[tuple[Block, CommitCertificate], ...]:
        pairs = serve(first, count)
        match kind:
            case "unreachable":
                raise UnreachablePeerError("node 0")
            case "nothing":
                return ()
            case "short":
                return pairs[:1]
            case "reversed":
                return pairs[::-1]
            case "body":
                return tuple((replace(b, transactions=(b"\x02more",)), c) for b, c in pairs)
            case "gap":
                return (pairs[0], *pairs[2:], pairs[-1])
            case "own chain":
                header = replace(pairs[-1][0].header, gas_used=1)
                return (*pairs[:-1], (replace(pairs[-1][0], header=header), pairs[-1][1]))
            case _:
                forged = replace(pairs[-1][1], signatures=pairs[-1][1].signatures[::-1])
                return (*pairs[:-1], (pairs[-1][0], forged))

    return answer


LIES = {
    "unreachable": None,
    "nothing": RejectionReason.FALSE_HEAD,
    "short": RejectionReason.FALSE_HEAD,
    "reversed": RejectionReason.CONTENT_MISMATCH,
    "body": RejectionReason.TRANSACTIONS_ROOT_MISMATCH,
    "gap": RejectionReason.UNKNOWN_PARENT,
    "own chain": RejectionReason.BAD_SIGNATURE,
    "certificate": RejectionReason.BAD_CERTIFICATE,
}


@pytest.mark.parametrize("kind", LIES)
async def test_a_lying_peer_is_reported_once_and_others_are_asked(
    autojump_clock: MockClock, tmp_path: Path, kind: str
) -> None:
    wire = build_cluster(tmp_path)
    liar = wire.nodes[0]
    async with trio.open_nursery() as nursery:
        await start_late(wire, nursery)
        late, tell = wire.nodes[3], lie(kind, liar.serve_blocks)
        asked: list[BlockNumber] = []

        def answer(first: BlockNumber, count: int):
            asked.append(first)
            return tell(first, count)

        liar.serve_blocks = answer
        late.peers = lambda: type(late).peers(late)[: None if asked else 1]
        await nursery.start(late.run)
        await until(lambda: late.store.head_number() >= 5, seconds=6)
        nursery.cancel_scope.cancel()
    reasons = [(peer, error.reason) for peer, error in late.faults]
    assert reasons == ([("node 0", LIES[kind])] if LIES[kind] else [])


async def test_peer_that_claims_a_nonexistent_head_is_not_followed(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    wire = build_cluster(tmp_path)
    async with trio.open_nursery() as nursery:
        await start_late(wire, nursery)
        wire.nodes[0].claimed_head = Head(BlockNumber(2**63), ZERO_HASH)
        late = wire.nodes[3]
        await nursery.start(late.run)
        await until(lambda: late.store.head_number() >= 5, seconds=6)
        await until(lambda: bool(late.faults), seconds=6)
        assert [(peer, error.reason) for peer, error in late.faults] == [
            ("node 0", RejectionReason.FALSE_HEAD)
        ]
        # The node waits before it asks again; the claim delays nothing and is not passed on.
        assert late.sync.best_known() < 2**63
        nursery.cancel_scope.cancel()


async def test_slow_peers_delay_the_sync_by_seconds_only(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    wire = build_cluster(tmp_path)
    async with trio.open_nursery() as nursery:
        await start_late(wire, nursery, blocks=20)
        late = wire.nodes[3]
        ask = late.request_blocks

        async def ask_slowly(peer_id: PeerId, first: BlockNumber, count: int):
            if peer_id != "node 2":
                await trio.sleep(3_600)
            return await ask(peer_id, first, count)

        late.request_blocks = ask_slowly
        start = trio.current_time()
        await nursery.start(late.run)
        await until(lambda: late.store.head_number() >= 20)
        assert trio.current_time() - start <= 3 * ranges.PATIENCE_SECONDS
        await until(lambda: len(late.faults) == 2, seconds=60)
        assert {(peer, error.reason) for peer, error in late.faults} == {
            ("node 0", RejectionReason.TOO_SLOW),
            ("node 1", RejectionReason.TOO_SLOW),
        }
        nursery.cancel_scope.cancel()


async def test_the_only_peer_may_be_slow_but_not_for_ever(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    wire = build_cluster(tmp_path)
    async with trio.open_nursery() as nursery:
        await start_late(wire, nursery)
        late = wire.nodes[3]
        for node in wire.nodes[1:3]:
            node.kill()
        late.peers = lambda: type(late).peers(late)[:1]
        late.request_blocks = never_answer
        await nursery.start(late.run)
        await until(lambda: bool(late.faults), seconds=ANSWER_SECONDS + 1)
        del late.request_blocks
        await until(lambda: late.store.head_number() >= 5, seconds=REST_SECONDS + 1)
        nursery.cancel_scope.cancel()


async def test_ranges_are_requested_from_several_peers_at_a_time(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "RANGE_BLOCKS", 4)
    wire = build_cluster(tmp_path)
    async with trio.open_nursery() as nursery:
        await start_late(wire, nursery, blocks=24)
        late = wire.nodes[3]
        ask, asked, busy, most_busy = late.request_blocks, [], set(), 0

        async def note(peer_id: PeerId, first: BlockNumber, count: int):
            nonlocal most_busy
            asked.append((peer_id, first))
            busy.add(peer_id)
            most_busy = max(most_busy, len(busy))
            await trio.sleep(0.5)
            busy.discard(peer_id)
            return await ask(peer_id, first, count)

        late.request_blocks = note
        await nursery.start(late.run)
        await until(lambda: late.store.head_number() >= 24)
        nursery.cancel_scope.cancel()
    assert most_busy == 3
    firsts = [first for _, first in asked if first <= 21]
    assert sorted(firsts) == [1, 5, 9, 13, 17, 21], "each range once"
    assert late.faults == []


async def test_a_validator_one_block_behind_leaves_it_to_consensus_for_a_while(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    wire = build_cluster(tmp_path)
    late = wire.nodes[3]
    asked: list[float] = []
    async with trio.open_nursery() as nursery:
        for node in wire.nodes[:3]:
            await nursery.start(node.run)
        await nursery.start(late.run)
        await until(lambda: min(heads(wire.nodes)) >= 1)
        for node in wire.nodes[:2]:
            node.kill()  # without a quorum no block is decided any more
        await until(lambda: not wire.nodes[0].is_running)
        number = late.store.head_number()
        if wire.nodes[2].store.head_number() > number:
            await until(lambda: late.store.head_number() > number)
            number = late.store.head_number()
        wire.nodes[2].claimed_head = Head(BlockNumber(number + 1), ZERO_HASH)

        async def note(*_: object) -> tuple[()]:
            await trio.lowlevel.checkpoint()
            asked.append(trio.current_time())
            return ()

        late.request_blocks = note
        start = trio.current_time()
        await until(lambda: bool(asked))
        nursery.cancel_scope.cancel()
    assert PATIENCE_SECONDS <= asked[0] - start <= PATIENCE_SECONDS + 0.5
