"""Due commitments find room and an early place, whatever strangers and a lying operator send."""

import random
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


def test_early_call_may_take_the_place_of_its_own_senders_in_a_full_share() -> None:
    """The replaced call is the one that would have to make room for the other task."""
    head = FakeHead()
    pool = Mempool(head, replace(LIMITS, transactions=32), POLICY)

    def commit(sender: Address, task_id: TaskId, fee: int) -> Transaction:
        made = replace(transaction(sender, 0, fee, fee=fee, to=BOB), gas_limit=200_000)
        head.early.add(made.hash)
        head.tasks_of_hashes[made.hash] = task_id
        return made

    first, second = STRANGERS[:2]
    pool.add(commit(first, HONEST_TASK, 0))
    pool.add(commit(second, HONEST_TASK, 0))  # two of 32 fill the share of early commitments
    replacing = commit(second, STRANGERS_TASKS[0], 1)
    pool.add(replacing)
    early = {each.transaction.hash for each in pool._held.entries.values() if each.is_early}
    assert early == set(pool.hashes())
    assert replacing.hash in early


def run_pool(seed: int) -> None:
    """Send a random history to a small pool, and compare its sums after each step."""
    chance = random.Random(seed)
    senders = [Address((50 + each).to_bytes(20, "big")) for each in range(10)]
    head = FakeHead()
    limits = MempoolLimits(
        transactions=chance.choice([8, 16, 40]),
        size_bytes=chance.choice([2_000, 5_000, 10**6]),
        sender_transactions=8,
        free_sender_transactions=2,
        waiting_blocks=chance.choice([3, 10]),
        banned=2,
    )
    pool, price = Mempool(head, limits, POLICY), POLICY.price_wei
    for _ in range(120):
        step = chance.random()
        if step < 0.75:
            sender = chance.choice(senders)
            nonce = head.nonce(sender) + chance.choice([0, 0, 0, 1, 1, 2, 3, 4])
            fee = chance.choice([0, 0, 1, price, price + 1, 2 * price, 3 * price])
            size = chance.choice([100, 100, 300, 900])
            to = chance.choice([None, None, None, ALICE, BOB, BOB])
            made = replace(
                transaction(sender, nonce, fee, fee=fee, size=size, to=to),
                gas_limit=chance.choice([21_000, TURN_GAS, 9_000_000]),
            )
            head.tasks[sender] = TaskId(chance.randrange(3))
            if chance.random() < 0.3:
                head.early.add(made.hash)
            if chance.random() < 0.1:
                head.unexpected.add(made.hash)
            head.balances[sender] = 0 if chance.random() < 0.05 else 10**18
            submit(pool, made)
        elif step < 0.85:
            if chance.random() < 0.5:
                head.early.clear()
            done = []
            for each in pool.candidates(0).transactions[: chance.randrange(5)]:
                if each.nonce == head.nonce(each.sender):
                    head.nonces[each.sender] = each.nonce + 1
                    done.append(each)
            pool.on_finalized(done)
        elif step < 0.88:
            # An authorization or code of the account raises its nonce.
            sender = chance.choice(senders)
            head.nonces[sender] = head.nonce(sender) + chance.randrange(1, 4)
        elif step < 0.95 and pool.hashes():
            pool.drop(chance.choice(sorted(pool.hashes())), ban=chance.random() < 0.5)
        held = pool._held
        queues = held.queues.values()
        assert len(held.entries) <= limits.transactions
        assert held.size_bytes == sum(len(each.transaction.raw) for each in held.entries.values())
        assert held._free_count == sum(len(queue.standings) for queue in queues)
        assert held._free_bytes == sum(queue.free_bytes for queue in queues)
        for queue in queues:
            assert all(nonce >= queue.nonce for nonce in queue.entries)
        early = [each for each in held.entries.values() if each.is_early]
        assert len(early) <= 2 * max(1, limits.transactions // 16)


def test_sums_of_the_pool_hold_whatever_is_sent() -> None:
    for seed in range(60):
        run_pool(seed)


def test_what_an_authorization_made_stale_leaves_the_pool() -> None:
    head = FakeHead()
    pool = Mempool(head, LIMITS, POLICY)
    sender = STRANGERS[0]
    stale = transaction(sender, 1, 0, fee=0)
    pool.add(stale)
    head.nonces[sender] = 2
    pool.on_finalized([])
    pool.add(transaction(sender, 3, 0, fee=0))
    assert stale.hash not in pool
    assert pool._held.queues[sender].gapped_count == 1
