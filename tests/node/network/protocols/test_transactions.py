"""/pot/tx/1 between nodes whose hosts are in memory."""

import pytest
import trio
from trio.testing import MockClock

from chain.crypto import keccak256
from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import Hash32
from node.network import wire
from node.network.limits import (
    BURST_SECONDS,
    BYTES_OF_A_TRANSACTION,
    SHARED_TRANSACTIONS_PER_SECOND,
    SharedBudget,
)
from node.network.metrics import NetworkMetrics
from node.network.protocols import transactions
from node.network.protocols.transactions import AnnouncementQueue, TransactionExchange
from node.network.stream import FrameStream
from tests.worlds.network import (
    ALICE,
    MemoryInternet,
    MemoryPool,
    build_node,
    build_nodes,
    running,
    stream_pair,
)
from tests.worlds.waiting import until


async def test_transaction_reaches_every_pool_once(autojump_clock: MockClock) -> None:
    nodes = build_nodes(MemoryInternet(), 4)
    async with running(*nodes):
        await until(lambda: all(len(node.network.peers()) == 3 for node in nodes), seconds=120)
        nodes[2].network.announce_transactions(nodes[2].pool.add(b"pay", b"claim"))
        await until(lambda: all(len(node.pool.held) == 2 for node in nodes))
        await trio.sleep(10)
        assert [node.pool.submissions for node in nodes] == [2, 2, 0, 2]


async def test_transaction_is_relayed_between_nodes_that_do_not_meet(
    autojump_clock: MockClock,
) -> None:
    internet = MemoryInternet()
    middle = build_node(internet, 0)
    ends = [
        build_node(internet, index, bootstrap=middle.host.listen_addresses()) for index in (1, 2)
    ]
    for node in ends:
        node.host.is_reachable = False
    async with running(middle, *ends):
        await until(lambda: len(middle.network.peers()) == 2)
        ends[0].network.announce_transactions(ends[0].pool.add(b"pay"))
        await until(lambda: len(ends[1].pool.held) == 1)
        assert len(ends[1].network.peers()) == 1


async def test_transactions_of_non_validators_are_fetched_at_a_shared_rate(
    autojump_clock: MockClock,
) -> None:
    raws = [bytes([index]) * BYTES_OF_A_TRANSACTION * 20 for index in range(50)]
    raws += [b"transaction %d" % index for index in range(4_000)]
    seconds: list[float] = []
    for shared in (None, SharedBudget().transactions):
        giving, taking = MemoryPool(), MemoryPool()
        giving.add(*raws)
        theirs, ours = stream_pair()

        async def open_stream(_: str, stream: FrameStream = theirs) -> FrameStream:
            return stream

        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            giver, taker = (
                TransactionExchange(pool, NetworkMetrics()) for pool in (giving, taking)
            )
            nursery.start_soon(giver.run_outbound, ALICE, open_stream, expect_no_fault)
            nursery.start_soon(taker.serve, ours, shared)
            await until(lambda pool=taking: len(pool.held) == len(raws))
            nursery.cancel_scope.cancel()
        seconds.append(trio.current_time() - start)
    alone, sharing = seconds
    waiting = 5_050 / SHARED_TRANSACTIONS_PER_SECOND - BURST_SECONDS
    assert sharing - alone == pytest.approx(waiting, abs=0.5)


def expect_no_fault(error: RejectedInputError) -> None:
    raise AssertionError(error)


async def test_pool_is_announced_to_a_peer_that_connects_later(autojump_clock: MockClock) -> None:
    nodes = build_nodes(MemoryInternet(), 2)
    raws = [b"transaction %d" % index for index in range(1000)]
    nodes[0].pool.add(*raws)
    async with running(*nodes):
        await until(lambda: len(nodes[1].pool.held) == 1000, seconds=60)
        assert nodes[1].pool.held == nodes[0].pool.held
        assert nodes[1].network.metrics.transactions_received == 1000


async def test_answers_stay_below_their_limit(autojump_clock: MockClock) -> None:
    nodes = build_nodes(MemoryInternet(), 2)
    nodes[0].pool.add(*(index.to_bytes(1, "big") * 2**17 for index in range(40)))
    async with running(*nodes):
        # Transactions that did not fit the first answer are not requested from this peer again.
        await until(lambda: len(nodes[1].pool.held) >= 16)
        assert nodes[1].host.errors == []


@pytest.mark.parametrize(
    "reason",
    [
        RejectionReason.BAD_SIGNATURE,
        RejectionReason.INTRINSIC_GAS,
        RejectionReason.GAS_CAP,
        RejectionReason.TIP_ABOVE_FEE,
        RejectionReason.TRANSACTION_TYPE,
    ],
)
async def test_transaction_that_no_head_makes_valid_costs_its_sender_points(
    autojump_clock: MockClock, reason: RejectionReason
) -> None:
    nodes = build_nodes(MemoryInternet(), 2)
    async with running(*nodes):
        await until(lambda: all(node.network.peers() for node in nodes))
        nodes[0].network.announce_transactions(nodes[0].pool.add(reason.encode()))
        await until(lambda: nodes[1].network.metrics.rejections[reason] == 1)
        assert nodes[1].network.peers()[0].score < 60


async def test_transaction_is_requested_elsewhere_if_its_announcer_is_silent(
    autojump_clock: MockClock,
) -> None:
    pool = MemoryPool()
    exchange = TransactionExchange(pool, NetworkMetrics())
    silent, served_silent = stream_pair()
    honest, served_honest = stream_pair()
    announcement = wire.encode_transaction_message(wire.AnnounceTransactions((keccak256(b"pay"),)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.serve, served_silent)
        await silent.write_frame(announcement)
        await trio.sleep(0.1)
        nursery.start_soon(exchange.serve, served_honest)
        await honest.write_frame(announcement)
        with trio.fail_after(2 * transactions.FETCH_SECONDS):
            request = wire.decode_transaction_message(await honest.read_frame(1000))
        assert request == wire.RequestTransactions((keccak256(b"pay"),))
        await honest.write_frame(wire.encode_transaction_message(wire.TransactionBatch((b"pay",))))
        await until(lambda: pool.contains(keccak256(b"pay")))
        nursery.cancel_scope.cancel()


async def test_announcements_are_bounded_and_skip_their_source(
    autojump_clock: MockClock,
) -> None:
    metrics = NetworkMetrics()
    queue = AnnouncementQueue(metrics)
    hashes = [keccak256(index.to_bytes(4, "big")) for index in range(transactions.QUEUE_LIMIT + 5)]
    queue.put(hashes)
    assert metrics.announcements_dropped == 5
    queue.add_known(hashes[:10])
    assert await queue.take() == tuple(hashes[10 : 10 + wire.HASHES_LIMIT])
    queue.put(hashes[:20])
    assert (await queue.take())[0] == hashes[10 + wire.HASHES_LIMIT]


async def test_hashes_that_others_owe_are_looked_at_in_turns(autojump_clock: MockClock) -> None:
    """Each message of a peer had all 8 192 looked at, 7 ms of the thread of consensus."""

    class CountingPool(MemoryPool):
        looks = 0

        def contains(self, transaction_hash: Hash32) -> bool:
            self.looks += 1
            return super().contains(transaction_hash)

    pool = CountingPool()
    exchange = TransactionExchange(pool, NetworkMetrics())
    hashes = [keccak256(index.to_bytes(4, "big")) for index in range(1_000)]
    owed = dict.fromkeys(hashes[:-1])
    while exchange.claim(owed, 128):
        pass
    wanted = dict.fromkeys(hashes)
    pool.looks = 0
    assert exchange.claim(wanted, 128) == ()
    assert pool.looks == 128
    calls = 1
    while not (found := exchange.claim(wanted, 128)):
        calls += 1
    assert (found, calls) == ((hashes[-1],), 7)
    await trio.sleep(transactions.FETCH_SECONDS)
    assert len(exchange.claim(wanted, 128)) == wire.TRANSACTION_REQUEST_LIMIT


async def test_what_a_broken_stream_announced_is_announced_again(
    autojump_clock: MockClock,
) -> None:
    queue = AnnouncementQueue(NetworkMetrics())
    served, lost, theirs = (keccak256(bytes([n])) for n in range(3))
    queue.add_known([theirs])
    queue.put([served, lost, theirs])
    assert set(await queue.take()) == {served, lost}
    queue.add_known([served])
    queue.forget_announced()
    queue.put([served, lost, theirs])
    assert await queue.take() == (lost,)
