"""What makes room in a full pool: the right ones, at a cost that does not grow with the pool."""

import heapq
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.errors import InvalidTransaction
from chain.primitives import Address
from node.mempool import eviction
from node.mempool.entries import CARRIED_COMMITMENT_CALLS, Entry
from node.mempool.holdings import FREE_SHARE
from node.mempool.policy import MempoolLimits, Priority
from node.mempool.pool import Mempool
from tests.node.mempool.test_lanes import POLICY
from tests.node.mempool.test_pool import ALICE, BOB, CAROL, DAVE, LIMITS, FakeHead, transaction

EVE = Address(b"\x0e" * 20)
SENDERS = [Address(bytes([30 + i]) * 20) for i in range(5)]
ROOMY = MempoolLimits(transactions=16, size_bytes=10**6)


def paying(count: int) -> list:
    return [transaction(Address(bytes([50 + i]) * 20), 0, tip=2 + i) for i in range(count)]


def test_due_commitment_leaves_what_another_one_waits_behind() -> None:
    """A claim that waits for the ration of free gas was evicted, and the commitment cut off."""
    pool = Mempool(FakeHead(), ROOMY)
    others = [transaction(each, 0, fee=0) for each in (ALICE, BOB)]
    claim, due = transaction(CAROL, 0, fee=0), transaction(CAROL, 1, fee=0, to=BOB)
    newcomer = transaction(EVE, 0, fee=0, to=BOB)
    for each in (*others, claim, due, newcomer):
        pool.add(each)
    assert [each.hash in pool for each in (*others, claim, due, newcomer)] == [
        True,
        False,
        True,
        True,
        True,
    ]


@pytest.mark.parametrize("tip", [0, 7])
def test_due_commitment_evicts_no_other_one_from_a_full_pool(tip: int) -> None:
    pool = Mempool(FakeHead(), ROOMY)
    claim, due = transaction(CAROL, 0, fee=0), transaction(CAROL, 1, fee=0, to=BOB)
    newcomer = transaction(EVE, 0, tip, to=BOB)
    for each in (claim, due, *paying(14), newcomer):
        pool.add(each)
    assert [each.hash in pool for each in (claim, due, newcomer)] == [True] * 3


def test_long_queue_before_a_due_commitment_makes_room() -> None:
    """Else the cheap transactions of few miners could fill the pool during a phase."""
    pool = Mempool(FakeHead(), ROOMY)
    count = CARRIED_COMMITMENT_CALLS + 1
    cheap = [transaction(CAROL, nonce, tip=1) for nonce in range(count)]
    due = transaction(CAROL, count, fee=0, to=BOB)
    for each in (*cheap, due, *paying(16 - count - 1)):
        pool.add(each)
    pool.add(transaction(DAVE, 0, tip=50))
    assert due.hash not in pool


def count_pops(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    pops = [0]

    class Counting:
        heappush, heapify = staticmethod(heapq.heappush), staticmethod(heapq.heapify)

        @staticmethod
        def heappop(heap: list) -> object:
            pops[0] += 1
            return heapq.heappop(heap)

    monkeypatch.setattr(eviction, "heapq", Counting)
    return pops


def test_refusal_of_a_full_pool_looks_at_few_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looked at all that waited before due commitments: 34 ms for thirty miners."""
    pool = Mempool(FakeHead(), MempoolLimits(transactions=800, size_bytes=10**6))
    miners = [Address(i.to_bytes(20, "big")) for i in range(1_000, 1_020)]
    for miner in miners:
        for nonce in range(CARRIED_COMMITMENT_CALLS):
            pool.add(transaction(miner, nonce, fee=0))
        pool.add(transaction(miner, CARRIED_COMMITMENT_CALLS, fee=0, to=BOB))
    for i in range(800 - len(pool)):
        pool.add(transaction(Address(i.to_bytes(20, "big")), 0, tip=5))
    newcomers = [transaction(Address(i.to_bytes(20, "little")), 0, tip=5) for i in range(1, 12)]
    with pytest.raises(InvalidTransaction, match="full"):
        pool.add(newcomers[0])  # this drops what no longer holds, once
    pops = count_pops(monkeypatch)
    for each in newcomers[1:]:
        with pytest.raises(InvalidTransaction, match="full"):
            pool.add(each)
    assert pops[0] <= 10


def test_large_transaction_that_evicts_many_looks_at_each_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = Mempool(FakeHead(), MempoolLimits(transactions=800, size_bytes=80_000))
    for i in range(800):
        pool.add(transaction(Address(i.to_bytes(20, "big")), 0, tip=1))
    pops = count_pops(monkeypatch)
    pool.add(transaction(EVE, 0, tip=9, size=50_000))
    assert len(pool) == 301
    assert pops[0] <= 2 * 500


def find_by_definition(pool: Mempool, newcomer: Entry) -> Entry | None:
    """The last entry of the sender with the lowest-ranked one; none of the newcomer's sender."""
    found = [
        (rank, queue.entries[max(queue.entries)])
        for sender, queue in pool._held.queues.items()
        for rank in queue.ranks.values()
        if sender != newcomer.transaction.sender
    ]
    rank, last = min(found, default=(None, None), key=lambda each: each[0])
    is_lower = rank is not None and rank[:2] < newcomer.rank(newcomer.priority)[:2]
    return last if is_lower else None


def test_what_waits_behind_a_free_one_shares_the_quarter_of_the_free() -> None:
    """Paying transactions that no block can include filled the pool for nothing."""
    pool = Mempool(FakeHead(), ROOMY, POLICY)
    for sender in SENDERS:
        head = transaction(sender, 0, tip=POLICY.price_wei - 1)
        for each in (head, *(transaction(sender, nonce, tip=POLICY.price_wei) for nonce in (1, 2))):
            with suppress(InvalidTransaction):
                pool.add(each)
    ready_count, _ = pool.counts()
    assert ready_count == ROOMY.transactions // FREE_SHARE


def test_free_one_before_paying_ones_needs_room_for_all_in_the_quarter() -> None:
    pool = Mempool(FakeHead(), ROOMY, POLICY)
    for nonce in (1, 2, 3, 4):
        pool.add(transaction(CAROL, nonce, tip=POLICY.price_wei))
    with pytest.raises(InvalidTransaction, match="at this price"):
        pool.add(transaction(CAROL, 0, tip=POLICY.price_wei - 1))
    pool.add(transaction(CAROL, 0, tip=POLICY.price_wei))
    assert len(pool.pending(CAROL)) == 5


sendings = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.integers(0, 6),
        st.sampled_from([0, 0, 1, 10, 50]),
        st.sampled_from([100, 400]),
        st.sampled_from([ALICE, BOB, CAROL]),
        st.sampled_from(["send", "send", "send", "drop", "finalize"]),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(sendings=sendings)
def test_first_to_make_room_is_the_one_of_the_definition(sendings) -> None:
    head = FakeHead()
    pool = Mempool(head, LIMITS)
    for sender, nonce, tip, size, to, act in sendings:
        held = pool._held
        if act == "send":
            try:
                pool.add(transaction(SENDERS[sender], nonce, tip, fee=tip, size=size, to=to))
            except InvalidTransaction:
                continue
        elif act == "drop" and len(pool):
            pool.drop(pool.hashes()[nonce % len(pool)])
        elif act == "finalize":
            included = list(pool.candidates(0).transactions)[:1]
            for each in included:
                head.nonces[each.sender] = each.nonce + 1
            pool.on_finalized(included)
        newcomer = pool._build_entry(
            transaction(EVE, 0, 60, to=BOB),
            Priority.COMMITMENT,
            None,
            is_early=False,
            authorities=(),
        )
        cheapest = held._eviction.list_cheapest(newcomer, (), is_free=False)
        assert next(cheapest, None) == find_by_definition(pool, newcomer)
        cheapest.close()
        free = [each for each in held.entries.values() if held._counts_as_free(each)]
        wanted = min(
            (
                (standing, -each.arrival, each.transaction.hash)
                for each in free
                if (standing := held._eviction._find_standing(each.transaction.hash)) < 3
            ),
            default=None,
        )
        due = pool._build_entry(
            transaction(EVE, 0, fee=0, to=BOB),
            Priority.COMMITMENT,
            None,
            is_early=False,
            authorities=(),
        )
        listed = held._eviction.list_free(due, (), ())
        first = next(listed, None)
        listed.close()
        assert (first and first.transaction.hash) == (wanted and wanted[2])
