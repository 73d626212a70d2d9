"""Free transactions share a ration of gas; others, and what operators owe, do not."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.errors import InvalidTransaction, RejectionReason
from chain.params import ChainParameters
from chain.primitives import Address, TaskId
from chain.types.transaction import Transaction
from node.mempool.free_gas import (
    CROWDED_SECONDS,
    NO_RATION,
    FreeGasBucket,
    FreeGasPolicy,
    OperatorGas,
)
from node.mempool.policy import MempoolLimits
from node.mempool.pool import Mempool
from tests.node.mempool.test_pool import ALICE, BOB, CAROL, DAVE, FakeHead, transaction
from tests.worlds.chain import genesis_config

GWEI = 10**9
POLICY = FreeGasPolicy(
    price_wei=GWEI, gas_per_second=500_000, block_gas=8_000_000, operator_gas=2_000_000
)


@pytest.fixture
def head() -> FakeHead:
    return FakeHead()


@pytest.fixture
def pool(head: FakeHead) -> Mempool:
    return Mempool(head, free_gas=POLICY)


def with_gas(gas: int, sender: Address = CAROL, nonce: int = 0, **offer: int) -> Transaction:
    return replace(transaction(sender, nonce, **offer), gas_limit=gas)


# The bucket.


@given(
    validator_count=st.integers(1, 100),
    steps=st.lists(st.tuples(st.integers(0, 200_000), st.lists(st.integers(21_000, 16_777_216)))),
)
def test_proposer_gives_at_most_its_part_of_the_ration_and_two_blocks(
    validator_count: int, steps: list[tuple[int, list[int]]]
) -> None:
    bucket, now_ms, total = FreeGasBucket.full(POLICY, 0), 0, 0
    for waited_ms, wanted in steps:
        now_ms += waited_ms
        bucket = bucket.fill(POLICY, now_ms, validator_count)
        used = 0
        for gas in wanted:
            if used < bucket.gas and used + gas <= POLICY.block_gas:
                used += gas
        bucket = bucket.take(used)
        total += used
        rate = POLICY.gas_per_second / validator_count
        assert used <= POLICY.block_gas
        assert total <= rate * now_ms / 1000 + 2 * POLICY.block_gas


@given(
    validator_count=st.integers(1, 100),
    pauses=st.lists(st.integers(0, 10_000), max_size=50),
    overdrawn=st.integers(0, 8_000_000),
)
def test_bucket_fills_alike_in_many_steps_and_in_one(
    validator_count: int, pauses: list[int], overdrawn: int
) -> None:
    start = FreeGasBucket.full(POLICY, 0).take(POLICY.block_gas + overdrawn)
    bucket, now_ms = start, 0
    for pause in pauses:
        now_ms += pause
        bucket = bucket.fill(POLICY, now_ms, validator_count)
    at_once = start.fill(POLICY, now_ms, validator_count)
    # Each step rounds down by less than a thousandth of a unit of gas.
    assert at_once.milligas - len(pauses) <= bucket.milligas <= at_once.milligas
    assert bucket.milligas <= 1000 * POLICY.block_gas


def test_slowest_part_of_the_ration_fills_in_the_shortest_block_interval() -> None:
    slow = replace(POLICY, gas_per_second=1)
    empty = FreeGasBucket(0, 0)
    assert empty.fill(slow, 100, validator_count=100).milligas == 1
    assert empty.fill(slow, 100, validator_count=100).gas == 1


def test_operators_share_a_quarter_of_a_block_for_refused_calls() -> None:
    operators = [Address(bytes([each]) * 20) for each in range(1, 5)]
    given = OperatorGas({}).fill(POLICY, 0, operators)
    assert [given.get_gas(each) for each in (*operators, Address(bytes(20)))] == [500_000] * 4 + [0]
    used = given.take({operators[0]: 3_000_000})
    assert [used.get_gas(each) for each in operators] == [-2_500_000, *[500_000] * 3]
    # A quarter of 500 000 in a second, since each validator gives its part.
    later = used.fill(POLICY, 8_000, operators)
    assert later.get_gas(operators[0]) == -2_500_000 + 8 * 125_000
    assert later.get_gas(operators[1]) == 500_000
    assert used.fill(POLICY, 0, operators[1:]).get_gas(operators[0]) == 0


# The policy.


def test_free_transactions_of_a_block_take_at_most_a_second() -> None:
    config = genesis_config()
    built = FreeGasPolicy.build(config, price_wei=GWEI, gas_per_second=500_000)
    assert built == POLICY
    unpriced = genesis_config(gas_per_tick=0)
    assert FreeGasPolicy.build(unpriced, price_wei=1, gas_per_second=1).block_gas == 1_000_000
    small = replace(config, gas_limit=5_000_000)
    assert FreeGasPolicy.build(small, price_wei=1, gas_per_second=1).block_gas == 5_000_000


def test_blocks_of_free_transactions_are_made_in_the_first_view() -> None:
    # The primary executes them while it builds, then the others do.
    parameters = ChainParameters()
    seconds = POLICY.block_gas / parameters.execution_gas_per_second
    assert 2 * seconds * 1000 <= parameters.view_timeout_base_ms


@pytest.mark.parametrize(
    ("tip", "fee", "base_fee", "is_free"),
    [
        (0, 0, 0, True),
        (GWEI - 1, GWEI - 1, 0, True),
        (GWEI, GWEI, 0, False),
        (0, 10 * GWEI, 0, True),
        (0, 10 * GWEI, GWEI, False),
        (GWEI // 2, 10 * GWEI, GWEI // 2, False),
        (GWEI, GWEI // 2, 0, True),
    ],
)
def test_transaction_is_free_below_the_price_that_it_would_pay(
    tip: int, fee: int, base_fee: int, is_free: bool
) -> None:
    given = transaction(CAROL, 0, tip, fee=fee)
    assert POLICY.is_free(given, base_fee) is is_free
    assert not NO_RATION.is_free(given, base_fee)


# The pool.


def test_gas_limit_that_no_block_includes_for_nothing_is_refused(pool: Mempool) -> None:
    pool.add(with_gas(8_000_000))
    with pytest.raises(InvalidTransaction) as refused:
        pool.add(with_gas(8_000_001, DAVE))
    assert refused.value.reason is RejectionReason.UNDERPRICED
    assert refused.value.detail == (
        "gas limit 8000001; without a price, validators include at most 8000000: "
        "offer 1000000000 wei for a unit of gas"
    )
    pool.add(with_gas(8_000_001, DAVE, tip=GWEI))
    assert pool.waiting_free_gas == 8_000_000


def test_only_ordinary_transactions_below_the_price_are_free(pool: Mempool, head: FakeHead) -> None:
    vote, commitment = transaction(CAROL, 0, to=ALICE), transaction(DAVE, 0, to=BOB)
    free, paying = transaction(ALICE, 0), transaction(BOB, 0, tip=GWEI)
    for each in (vote, commitment, free, paying):
        pool.add(each)
    candidates = pool.candidates()
    assert candidates.transactions == (vote, commitment, paying, free)
    assert candidates.free == {free.hash}
    assert pool.waiting_free_gas == 21_000


def test_refused_votes_of_an_operator_have_a_ration_of_their_own(
    pool: Mempool, head: FakeHead
) -> None:
    refused, vote = transaction(CAROL, 0, to=ALICE), transaction(CAROL, 1, to=ALICE)
    head.tasks_of_hashes = {refused.hash: TaskId(9)}
    head.early.add(refused.hash)
    for transactions in ((refused,), (refused, vote)):
        pool.add(transactions[-1])
        candidates = pool.candidates()
        assert candidates.transactions == transactions
        assert (candidates.free, candidates.refused) == (
            frozenset(),
            {CAROL: frozenset({refused.hash})},
        )
    assert pool.waiting_free_gas == 0


@pytest.mark.parametrize("nonce", [0, 1])
def test_operators_call_may_ask_for_more_gas_than_the_ration_has(
    pool: Mempool, head: FakeHead, nonce: int
) -> None:
    """Also one behind a nonce gap, and one that the contracts were not asked about."""
    asked = [replace(transaction(CAROL, at, to=ALICE), gas_limit=30_000) for at in range(2, 6)]
    early = replace(transaction(CAROL, nonce, to=ALICE), gas_limit=POLICY.block_gas + 1)
    head.early = {each.hash for each in (early, *asked)}
    for each in (*asked, early):
        pool.add(each)
    if nonce:
        pool.add(transaction(CAROL, 0))
    head.early = {each.hash for each in asked}
    pool.on_finalized([])
    candidates = pool.candidates()
    assert early in candidates.transactions
    assert early.hash not in candidates.refused.get(CAROL, ())


def test_early_commitment_is_free_until_the_contracts_accept_it(
    pool: Mempool, head: FakeHead
) -> None:
    early = transaction(DAVE, 0, to=BOB)
    head.early.add(early.hash)
    pool.add(early)
    assert pool.candidates().free == {early.hash}
    head.early.clear()
    pool.on_finalized([])
    assert pool.candidates().free == frozenset()
    assert pool.waiting_free_gas == 0


def test_early_calls_are_taken_where_no_gas_is_free(head: FakeHead) -> None:
    pool = Mempool(head, free_gas=replace(POLICY, gas_per_second=0, block_gas=0))
    early = [transaction(CAROL, 0, fee=0, to=ALICE), transaction(DAVE, 0, fee=0, to=BOB)]
    head.early = {each.hash for each in early}
    for each in early:
        pool.add(each)
    head.early = set()
    pool.on_finalized([])
    candidates = pool.candidates()
    assert list(candidates.transactions) == early
    assert (candidates.free, candidates.refused) == (frozenset(), {})


def test_transactions_below_the_price_leave_room_for_commitments(head: FakeHead) -> None:
    pool = Mempool(head, MempoolLimits(transactions=8), POLICY)
    cheap = [transaction(Address(bytes([each]) * 20), 0, tip=1) for each in range(9, 17)]
    for each in cheap[:2]:
        pool.add(each)
    with pytest.raises(InvalidTransaction) as refused:
        pool.add(cheap[2])
    assert refused.value.reason is RejectionReason.POOL_FULL
    due = transaction(CAROL, 0, fee=0, to=BOB)
    pool.add(due)
    assert pool.candidates().transactions == (due, cheap[0])


def test_early_votes_and_commitments_find_room_among_free_transactions(head: FakeHead) -> None:
    pool = Mempool(head, MempoolLimits(transactions=8), POLICY)
    free = [transaction(Address(bytes([each]) * 20), 0, fee=0) for each in range(9, 11)]
    vote, commitment = transaction(CAROL, 0, fee=0, to=ALICE), transaction(DAVE, 0, fee=0, to=BOB)
    head.early = {vote.hash, commitment.hash}
    for each in (*free, vote, commitment):
        pool.add(each)
    assert pool.candidates().transactions == (vote, commitment)


@pytest.mark.parametrize("recipient", [ALICE, BOB])
def test_due_call_takes_the_place_of_a_free_transaction(
    pool: Mempool, head: FakeHead, recipient: Address
) -> None:
    waiting, due = transaction(CAROL, 0, fee=0), transaction(CAROL, 0, fee=0, to=recipient)
    pool.add(waiting)
    pool.add(due)
    assert pool.candidates().transactions == (due,)
    assert pool.waiting_free_gas == 0
    with pytest.raises(InvalidTransaction) as refused:
        pool.add(transaction(CAROL, 0, fee=0, size=101, to=recipient))
    assert refused.value.reason is RejectionReason.REPLACEMENT_UNDERPRICED


def test_due_vote_takes_the_place_of_one_that_is_refused_by_now(
    pool: Mempool, head: FakeHead
) -> None:
    waiting, due = (transaction(CAROL, 0, fee=0, size=each, to=ALICE) for each in (100, 101))
    pool.add(waiting)
    with pytest.raises(InvalidTransaction) as refused:
        pool.add(due)
    assert refused.value.reason is RejectionReason.REPLACEMENT_UNDERPRICED
    head.early.add(waiting.hash)
    pool.on_finalized([])
    pool.add(due)
    assert pool.candidates().transactions == (due,)


@pytest.mark.parametrize("recipient", [ALICE, BOB])
def test_early_call_takes_the_place_of_a_free_transaction_once(
    pool: Mempool, head: FakeHead, recipient: Address
) -> None:
    """A node that was a block behind refused it, and then never asked for it again."""
    waiting = transaction(CAROL, 0, fee=0)
    early, other = (transaction(CAROL, 0, fee=0, size=each, to=recipient) for each in (100, 101))
    head.early = {early.hash, other.hash}
    for each in (waiting, early):
        pool.add(each)
    for each in (other, waiting, transaction(CAROL, 0, fee=0, size=101)):
        with pytest.raises(InvalidTransaction) as refused:
            pool.add(each)
        assert refused.value.reason is RejectionReason.REPLACEMENT_UNDERPRICED
    pool.add(transaction(DAVE, 0, tip=GWEI))
    head.early = set()
    pool.on_finalized([])
    assert pool.candidates().transactions[0] == early


def test_what_is_not_due_must_pay_to_take_the_place_of_others(
    pool: Mempool, head: FakeHead
) -> None:
    paying, early = transaction(DAVE, 0, tip=GWEI), transaction(DAVE, 0, tip=1, to=BOB)
    head.early.add(early.hash)
    waiting = transaction(CAROL, 0, fee=0)
    for each in (paying, waiting):
        pool.add(each)
    for each in (early, transaction(CAROL, 0, fee=0, size=101)):
        with pytest.raises(InvalidTransaction) as refused:
            pool.add(each)
        assert refused.value.reason is RejectionReason.REPLACEMENT_UNDERPRICED
    dearer = transaction(CAROL, 0, tip=GWEI)
    pool.add(dearer)
    assert pool.candidates().transactions == (paying, dearer)


def test_price_is_suggested_while_free_transactions_have_to_wait(
    pool: Mempool,
) -> None:
    gas = POLICY.gas_per_second * CROWDED_SECONDS
    pool.add(with_gas(gas))
    assert pool.suggest_price() == 0
    last = with_gas(21_000, DAVE)
    pool.add(last)
    assert pool.suggest_price() == GWEI
    pool.add(replace(with_gas(21_000, DAVE, tip=GWEI)))
    assert last.hash not in pool
    assert pool.suggest_price() == 0


def test_nothing_is_suggested_without_a_ration(head: FakeHead) -> None:
    pool = Mempool(head)
    for nonce in range(4):
        pool.add(with_gas(16_000_000, nonce=nonce))
    assert pool.suggest_price() == 0
    assert pool.candidates().free == frozenset()


def test_node_without_a_ration_takes_and_gives_nothing_below_the_price(head: FakeHead) -> None:
    policy = FreeGasPolicy.build(genesis_config(), price_wei=GWEI, gas_per_second=0)
    pool = Mempool(head, free_gas=policy)
    with pytest.raises(InvalidTransaction) as refused:
        pool.add(transaction(ALICE, 0))
    assert refused.value.reason is RejectionReason.UNDERPRICED
    assert refused.value.detail == (
        "no gas is free at this node: offer 1000000000 wei for a unit of gas"
    )
    assert pool.suggest_price() == GWEI
    assert pool.free_gas_seconds == 0
    assert FreeGasBucket.full(policy, 0).fill(policy, 10**9, 1).gas == 0
