"""Budgets of one peer and one protocol."""

import pytest
import trio
from trio.testing import MockClock

from chain.types.block import TRANSACTION_LIMIT_BYTES
from node.network.limits import (
    BURST_SECONDS,
    DEFAULT_LIMITS,
    LIMITS,
    SHARED_MESSAGES_PER_SECOND,
    SHARED_SERVED_BYTES_PER_SECOND,
    Meter,
    SharedBudget,
    compute_transaction_cost,
    get_kind,
    get_limits,
)
from node.network.metrics import NetworkMetrics
from node.network.pieces import links as pieces
from node.network.protocols import (
    blobs,
    blocks,
    consensus,
    state,
    status,
    training,
    transactions,
)
from tests.worlds.network import stream_pair


def test_every_protocol_has_limits() -> None:
    protocols = (blobs, blocks, consensus, pieces, state, status, training, transactions)
    assert {get_kind(each.PROTOCOL_ID) for each in protocols} == set(LIMITS)
    assert get_limits("unknown") is DEFAULT_LIMITS


async def test_streams_of_one_peer_share_a_budget_of_messages(autojump_clock: MockClock) -> None:
    metrics = NetworkMetrics()
    meter = Meter("training", metrics, LIMITS["training"])
    received = 0

    async def flood_and_read() -> None:
        nonlocal received
        theirs, ours = stream_pair()
        ours.meter = meter
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                while True:
                    await theirs.write_frame(b"request")

            nursery.start_soon(flood)
            while True:
                await ours.read_frame(100)
                received += 1

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(flood_and_read)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    rate = LIMITS["training"].messages_per_second
    assert (10 + BURST_SECONDS - 1) * rate <= received <= (10 + BURST_SECONDS) * rate + 3
    assert metrics.frames["training", "in"] >= received
    assert metrics.bytes["training", "in"] == metrics.frames["training", "in"] * (4 + 7)


async def test_non_validators_share_a_budget_and_validators_do_not_wait(
    autojump_clock: MockClock,
) -> None:
    metrics, shared, limits = NetworkMetrics(), SharedBudget(), LIMITS["training"]
    meters = [Meter("training", metrics, limits, shared) for _ in range(100)]
    meters.append(Meter("training", metrics, limits))
    taken = [0] * len(meters)

    async def flood(index: int) -> None:
        while True:
            await meters[index].on_received(7)
            taken[index] += 1

    async with trio.open_nursery() as nursery:
        for index in range(len(meters)):
            nursery.start_soon(flood, index)
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    *non_validators, validators = taken
    assert sum(non_validators) <= (20 + BURST_SECONDS) * SHARED_MESSAGES_PER_SECOND
    assert sum(non_validators) >= 19 * SHARED_MESSAGES_PER_SECOND
    assert max(non_validators) <= min(non_validators) + BURST_SECONDS * limits.messages_per_second
    assert validators >= 20 * limits.messages_per_second


async def test_answers_to_non_validators_are_paced_by_bytes_and_frames(
    autojump_clock: MockClock,
) -> None:
    for frames, size_bytes, rate in (
        (1, 2**20, SHARED_SERVED_BYTES_PER_SECOND / 2**20),
        (100, 100, SHARED_MESSAGES_PER_SECOND / 100),
    ):
        shared = SharedBudget()
        meters = [Meter("blob", NetworkMetrics(), LIMITS["blob"], shared) for _ in range(10)]
        start = trio.current_time()
        count = int(10 * rate)
        for index in range(count):
            await meters[index % len(meters)].on_sending(frames, size_bytes)
        assert trio.current_time() - start == pytest.approx(10 - BURST_SECONDS, abs=0.1)


async def test_answers_are_paced_but_requests_of_ours_are_not(autojump_clock: MockClock) -> None:
    metrics = NetworkMetrics()
    answer = bytes(2**18)
    for limits, seconds in ((LIMITS["blob"], 2.0), (None, 0.0)):
        theirs, ours = stream_pair()
        ours.meter = Meter("blob", metrics, limits)
        start = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def read_all(stream=theirs) -> None:
                for _ in range(4 * 64 * 4):
                    await stream.read_frame(2**20)

            nursery.start_soon(read_all)
            for _ in range(4 * 64 * 4):
                await ours.write_frame(answer)
        # 256 MiB at 64 MiB/s, of which the burst of two seconds is sent at once.
        assert trio.current_time() - start == pytest.approx(seconds, abs=0.1)
    assert metrics.frames["blob", "out"] == 2 * 4 * 64 * 4


def test_large_transactions_and_authorizations_count_for_what_they_take() -> None:
    assert compute_transaction_cost(b"\x02" + bytes(99)) == 1
    assert compute_transaction_cost(b"\x02" + bytes(TRANSACTION_LIMIT_BYTES - 1)) == 65
    assert compute_transaction_cost(b"\x04" + bytes(1_599)) == 26
