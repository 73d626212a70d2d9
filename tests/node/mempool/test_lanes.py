"""Due commitments find room and an early place, whatever strangers and a lying operator send."""

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from chain.errors import InvalidTransaction
from chain.primitives import Address, TaskId
from chain.types.transaction import Transaction
from node.mempool.candidates import OPERATOR_TURNS, TURN_GAS
from node.mempool.entries import CARRIED_GAS_LIMIT
from node.mempool.free_gas import FreeGasPolicy
from node.mempool.policy import MempoolLimits
from node.mempool.pool import Mempool
from tests.node.mempool.test_pool import ALICE, BOB, FakeHead, transaction

LIMITS = MempoolLimits(
    transactions=16, size_bytes=6_400, sender_transactions=6, free_sender_transactions=2
)
POLICY = FreeGasPolicy(10**9, gas_per_second=500_000, block_gas=8_000_000, operator_gas=2_000_000)
MINER, LIAR = Address(b"\x0a" * 20), Address(b"\x0b" * 20)
STRANGERS = [Address(bytes([value]) * 20) for value in range(20, 32)]
HONEST_TASK = TaskId(1)
STRANGERS_TASKS = [TaskId(each) for each in range(2, 5)]

senders = st.one_of(
    st.tuples(st.just(LIAR), st.sampled_from([ALICE, ALICE, None])),
    st.tuples(st.sampled_from(STRANGERS), st.sampled_from([BOB, BOB, None])),
)
submissions = st.lists(
    st.tuples(
        senders,
        st.booleans(),  # whether the contracts refuse it
        st.sampled_from([0, 0, 1, 10**9, 10**10]),  # the tip
        st.sampled_from([100, 200, 400]),  # the encoded bytes
        st.sampled_from([21_000, TURN_GAS, 9_000_000]),
        st.sampled_from(STRANGERS_TASKS),
    ),
    max_size=40,
)


def others_of(given_transactions: Sequence[Transaction]) -> list[Transaction]:
    return [each for each in given_transactions if each.sender != LIAR]


def submit(pool: Mempool, given_transaction: Transaction) -> bool:
    try:
        pool.add(given_transaction)
    except InvalidTransaction:
        return False
    return True


def draw(pool: Mempool, head: FakeHead, each) -> Transaction:
    """What one submission sends."""
    (sender, to), is_refused, tip, size, gas, task_id = each
    nonce = pool.pending_nonce(sender)
    if to is BOB:
        size, gas = min(size, 200), 21_000  # what has a subject is bounded
    made = replace(transaction(sender, nonce, tip, fee=tip, size=size, to=to), gas_limit=gas)
    head.tasks_of_hashes[made.hash] = task_id if to is BOB else TaskId(100 + nonce)
    if is_refused:
        head.early.add(made.hash)
    return made


@settings(max_examples=150, deadline=None)
@given(is_full=st.booleans(), before=submissions, after=submissions, blocks=st.integers(0, 2))
def test_due_commitment_without_coins_finds_a_place(is_full, before, after, blocks):
    head = FakeHead()
    head.balances[MINER] = 0
    pool = Mempool(head, LIMITS, POLICY)
    due = transaction(MINER, 0, fee=0, to=BOB)
    head.tasks_of_hashes[due.hash] = HONEST_TASK

    for value in range(LIMITS.transactions if is_full else 0):
        submit(pool, transaction(Address(bytes([100 + value]) * 20), 0, tip=10**9))
    for each in before:
        submit(pool, draw(pool, head, each))
    for _ in range(blocks):
        pool.on_finalized([])
    pool.add(due)
    for each in after:
        submit(pool, draw(pool, head, each))
    for _ in range(blocks):
        pool.on_finalized([])

    assert due.hash in pool
    order = pool.candidates().transactions
    first = order[: order.index(due)]
    assert due.hash not in pool.candidates().free
    # Before it are the liar's votes, what goes with them, and a commitment of each other task.
    assert all(each.to == ALICE for each in first if each.sender == LIAR)
    refused = [each for each in first if each.sender == LIAR and each.hash in head.early]
    assert len(first) - len(others_of(first)) <= OPERATOR_TURNS
    rationed = pool.candidates().refused.get(LIAR, frozenset())
    assert {each.hash for each in refused if POLICY.is_free(each, 0)} <= rationed
    assert sum(each.gas_limit for each in refused) <= CARRIED_GAS_LIMIT
    others = [head.tasks_of_hashes[each.hash] for each in first if each.sender != LIAR]
    assert all(each.to == BOB for each in first if each.sender != LIAR)
    assert len(set(others)) == len(others) <= len(STRANGERS_TASKS)


@settings(max_examples=150, deadline=None)
@given(before=submissions, after=submissions, wait_blocks=st.integers(1, 6))
def test_early_commitment_without_coins_gets_its_priority(before, after, wait_blocks):
    """Due commitments of strangers may push it out, so it is then sent again."""
    head = FakeHead()
    head.balances[MINER] = 0
    pool = Mempool(head, LIMITS, POLICY)
    early = transaction(MINER, 0, fee=0, to=BOB)
    head.tasks_of_hashes[early.hash] = HONEST_TASK
    head.early.add(early.hash)
    for each in before:
        submit(pool, draw(pool, head, each))
    is_full = len(pool) == LIMITS.transactions or pool.size_bytes + 100 > LIMITS.size_bytes
    subject = head.find_subject(early)
    has_early_room = pool._held.has_early_room(subject, HONEST_TASK, len(early.raw))
    held = pool._held
    standings = [
        held.queues[each.transaction.sender].standings[each.transaction.hash]
        for each in held.entries.values()
        if each.is_free
    ]
    # It finds a place unless the pool is full of what pays, the free quarter of what is due, or the
    # early places are taken by tasks that have no more of them than this one.
    assert submit(pool, early) or is_full or not has_early_room or 0 not in standings
    for each in after:
        submit(pool, draw(pool, head, each))
    for _ in range(wait_blocks):
        pool.on_finalized([])
    head.early.remove(early.hash)
    if early.hash not in pool:
        assert submit(pool, early)
    pool.on_finalized([])
    order = pool.candidates().transactions
    first = order[: order.index(early)]
    assert all(each.to in (ALICE, BOB) for each in first)
    assert early.hash not in pool.candidates().free
