"""A late node catches up from peers, some of which lie."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.errors import RejectionReason
from chain.primitives import ZERO_HASH, BlockNumber
from node.network.stream import UnreachablePeerError
from node.network.wire import Head
from node.sync.block_sync import PATIENCE_SECONDS
from tests.node.consensus_cluster import Wire, build_cluster, heads, run_thread_inline, until


@pytest.fixture(autouse=True)
def inline_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio.to_thread, "run_sync", run_thread_inline)


async def start_late(wire: Wire, nursery: trio.Nursery, blocks: int = 5) -> None:
    """Three validators with some blocks; the fourth node is to be started as a follower."""
    for node in wire.nodes[:3]:
        await nursery.start(node.run)
    await until(lambda: min(heads(wire.nodes[:3])) >= blocks)
    wire.nodes[3].is_signer = False
    # A follower hears no consensus messages: sync alone brings it on.
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


@pytest.mark.parametrize("lie", ["signature", "body", "certificate", "nothing", "unreachable"])
async def test_a_lying_peer_is_reported_and_the_next_one_asked(
    autojump_clock: MockClock, tmp_path: Path, lie: str
) -> None:
    wire = build_cluster(tmp_path)
    liar = wire.nodes[0]  # the nearest, so that it is asked first
    serve = liar.serve_blocks

    def serve_lies(first: BlockNumber, count: int):
        match lie:
            case "unreachable":
                raise UnreachablePeerError("node 0")
            case "nothing":
                return ()
            case "body":
                return tuple(
                    (replace(block, transactions=(b"\x02more",)), certificate)
                    for block, certificate in serve(first, count)
                )
            case "certificate":
                pairs = serve(first, count)
                return tuple((block, pairs[0][1]) for block, _ in pairs[1:])
            case _:
                return tuple(
                    (block, replace(certificate, signatures=certificate.signatures[::-1]))
                    for block, certificate in serve(first, count)
                )

    async with trio.open_nursery() as nursery:
        await start_late(wire, nursery)
        liar.serve_blocks = serve_lies
        liar.claimed_head = Head(BlockNumber(1_000), ZERO_HASH)
        late = wire.nodes[3]
        await nursery.start(late.run)
        await until(lambda: late.store.head_number() >= 5, seconds=3)
        assert late.is_running
        nursery.cancel_scope.cancel()
    reasons = {(peer, error.reason) for peer, error in late.faults}
    assert reasons == {
        "signature": {("node 0", RejectionReason.BAD_CERTIFICATE)},
        "body": {("node 0", RejectionReason.TRANSACTIONS_ROOT_MISMATCH)},
        "certificate": {("node 0", RejectionReason.BAD_SIGNATURE)},
    }.get(lie, set())


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
            node.kill()  # no quorum: nothing is decided any more
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
