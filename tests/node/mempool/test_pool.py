from dataclasses import replace

import pytest
from eth_account import Account
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from chain.amounts import format_amount
from chain.crypto import get_address, keccak256
from chain.errors import InvalidTransaction, RejectionReason
from chain.primitives import Address, Hash32, TaskId
from chain.types.transaction import Authorization, Transaction
from node.mempool import pool as mempool
from node.mempool.authorizations import AUTHORIZATIONS_LIMIT
from node.mempool.candidates import OPERATOR_TURNS, TURN_GAS
from node.mempool.entries import CARRIED_GAS_LIMIT
from node.mempool.holdings import COMMITMENT_SHARE, EARLY_SHARE, FREE_SHARE, GAPPED_SHARE
from node.mempool.policy import MempoolLimits, Priority, Subject
from node.mempool.pool import EXAMINED_LIMIT, LOOKS_LIMIT, Mempool

TASK = TaskId(1)
ALICE, BOB, CAROL, DAVE = (Address(bytes([value]) * 20) for value in range(1, 5))


def transaction(
    sender: Address, nonce: int, tip: int = 0, *, fee: int | None = None, size: int = 100, to=None
) -> Transaction:
    fee = max(tip, 1) if fee is None else fee
    raw = keccak256(repr((sender, nonce, tip, fee, size, to)).encode()).ljust(size, b"\x00")
    return Transaction(
        raw=raw,
        hash=keccak256(raw),
        type=2,
        chain_id=1,
        nonce=nonce,
        max_fee_per_gas=fee,
        max_priority_fee_per_gas=tip,
        gas_limit=21_000,
        to=to,
        value=0,
        data=b"",
        access_list=(),
        authorization_list=(),
        v=0,
        y_parity=0,
        r=1,
        s=1,
        sender=sender,
    )


class FakeHead:
    """Accounts in dictionaries; ALICE as recipient makes a vote, and BOB a commitment."""

    def __init__(self) -> None:
        self.nonces: dict[Address, int] = {}
        self.balances: dict[Address, int] = {}
        self.tasks: dict[Address, TaskId] = {}
        """The task of the commitments of a sender; TASK by default."""
        self.tasks_of_hashes: dict[Hash32, TaskId] = {}
        """The task of single commitments."""
        self.early: set[Hash32] = set()
        """The votes and commitments that the contracts would not accept yet."""
        self.common: set[Hash32] = set()
        """The votes whose turns all operators share."""
        self.unexpected: set[Hash32] = set()
        """Those that the rules refuse without executing them."""
        self.validated = 0
        self.delegated: set[Address] = set()
        self.classified = 0
        self.cap = 2**24

    def validate_outline(self, raw: bytes) -> None:
        if raw.startswith(b"gas"):
            raise InvalidTransaction(RejectionReason.INTRINSIC_GAS)

    def validate(self, transaction: Transaction) -> None:
        self.validated += 1
        if transaction.gas_limit > self.cap:
            raise InvalidTransaction(RejectionReason.GAS_CAP)
        if transaction.max_fee_per_gas > 0 and self.balance(transaction.sender) == 0:
            raise InvalidTransaction(RejectionReason.INSUFFICIENT_FUNDS)

    def nonce(self, sender: Address) -> int:
        return self.nonces.get(sender, 0)

    def base_fee(self) -> int:
        return 0

    def balance(self, sender: Address) -> int:
        return self.balances.get(sender, 10**18)

    def is_delegated(self, account: Address) -> bool:
        return account in self.delegated

    def find_subject(self, transaction: Transaction) -> Subject | None:
        priority = {ALICE: Priority.OPERATOR_VOTE, BOB: Priority.COMMITMENT}.get(transaction.to)
        if priority is None:
            return None
        task_id = self.tasks_of_hashes.get(transaction.hash)
        task_id = task_id or self.tasks.get(transaction.sender, TASK)
        return Subject(task_id, priority, b"", transaction.hash in self.common)

    def is_examinable(self, transaction: Transaction) -> bool:
        return transaction.hash not in self.unexpected

    def classify(self, transaction: Transaction) -> Priority:
        self.classified += 1
        if transaction.hash in self.early:
            return Priority.ORDINARY
        return {ALICE: Priority.OPERATOR_VOTE, BOB: Priority.COMMITMENT}[transaction.to]


LIMITS = MempoolLimits(
    transactions=8,
    size_bytes=2_000,
    sender_transactions=4,
    free_sender_transactions=2,
    waiting_blocks=10,
    banned=2,
)


@pytest.fixture
def head() -> FakeHead:
    return FakeHead()


@pytest.fixture
def pool(head: FakeHead) -> Mempool:
    return Mempool(head, LIMITS)


def ranked(pool: Mempool, base_fee_per_gas: int = 0) -> list[Transaction]:
    return list(pool.candidates(base_fee_per_gas).transactions)


def refusal(pool: Mempool, given: Transaction) -> InvalidTransaction:
    before = pool.hashes()
    with pytest.raises(InvalidTransaction) as refused:
        pool.add(given)
    assert pool.hashes() == before
    return refused.value


def test_admitted_transaction_is_found_and_is_the_candidate(pool):
    given = transaction(ALICE, 0)
    pool.add(given)
    assert given.hash in pool
    assert pool.get(given.hash) == given
    assert (len(pool), pool.size_bytes) == (1, 100)
    assert ranked(pool) == [given]


def test_refusals_carry_geths_texts(pool, head):
    given = transaction(ALICE, 3, tip=100)
    head.nonces[ALICE] = 3
    pool.add(given)
    assert refusal(pool, given).detail == "already known"
    assert refusal(pool, transaction(ALICE, 2)).detail.startswith("nonce too low")
    underpriced = refusal(pool, transaction(ALICE, 3, tip=109))
    assert underpriced.detail == "replacement transaction underpriced"
    assert underpriced.reason == RejectionReason.REPLACEMENT_UNDERPRICED


def test_known_transaction_is_refused_without_validation(pool, head):
    pool.add(transaction(ALICE, 0))
    refusal(pool, transaction(ALICE, 0))
    assert head.validated == 1


def test_transaction_that_the_rules_refuse_is_refused(pool, head):
    head.balances[ALICE] = 0
    assert refusal(pool, transaction(ALICE, 0, tip=1)).reason == RejectionReason.INSUFFICIENT_FUNDS


def test_replacement_needs_a_tenth_more_of_both_fees(pool):
    first = transaction(ALICE, 0, tip=100, fee=1000)
    pool.add(first)
    for tip, fee in ((110, 1099), (109, 1100), (100, 2000)):
        refusal(pool, transaction(ALICE, 0, tip=tip, fee=fee))
    second = transaction(ALICE, 0, tip=110, fee=1100)
    pool.add(second)
    assert ranked(pool) == [second]
    assert first.hash not in pool
    assert len(pool) == 1


def test_replacing_a_free_transaction_needs_some_fee(pool):
    pool.add(transaction(ALICE, 0, fee=0, to=CAROL))
    refusal(pool, transaction(ALICE, 0, fee=0, to=DAVE))
    pool.add(transaction(ALICE, 0, tip=1))


def test_candidates_come_in_nonce_order_and_end_at_a_gap(pool):
    second, first, late = (transaction(ALICE, nonce) for nonce in (1, 0, 3))
    for given in (second, first, late):
        pool.add(given)
    assert ranked(pool) == [first, second]
    assert pool.pending_nonce(ALICE) == 2
    assert pool.pending(ALICE) == (first, second)
    assert late.hash in pool
    assert pool.counts() == (2, 1)


def test_candidates_are_ordered_by_priority_then_tip_then_arrival(pool):
    cheap, rich = transaction(CAROL, 0, tip=1), transaction(DAVE, 0, tip=9)
    also_cheap = transaction(Address(bytes([9]) * 20), 0, tip=1)
    commitment = transaction(BOB, 0, to=BOB)
    vote, after_vote = transaction(ALICE, 0, to=ALICE), transaction(ALICE, 1, tip=5)
    for given in (cheap, also_cheap, rich, commitment, after_vote, vote):
        pool.add(given)
    assert ranked(pool) == [
        vote,
        commitment,
        rich,
        after_vote,
        cheap,
        also_cheap,
    ]


def test_candidates_are_ordered_by_effective_tip_and_pay_the_base_fee(pool):
    capped = transaction(ALICE, 0, tip=50, fee=110)
    tipping = transaction(BOB, 0, tip=20, fee=1000)
    too_low, follower = transaction(CAROL, 0, tip=1, fee=99), transaction(CAROL, 1, tip=9, fee=999)
    for given in (capped, tipping, too_low, follower):
        pool.add(given)
    assert ranked(pool, base_fee_per_gas=100) == [tipping, capped]


def vote_of(head: FakeHead, sender: Address, nonce: int, *, gas: int = 21_000, **changes):
    """A vote of an operator on a task of its own."""
    given = replace(transaction(sender, nonce, to=ALICE, **changes), gas_limit=gas)
    head.tasks_of_hashes[given.hash] = TaskId(1_000 * sender[0] + nonce)
    return given


def test_refused_vote_goes_with_a_later_one_of_its_operator(pool, head):
    rich, commitment = transaction(DAVE, 0, tip=9), transaction(BOB, 0, to=BOB)
    stale, vote, later = vote_of(head, CAROL, 0), vote_of(head, CAROL, 1), transaction(CAROL, 2)
    head.early = {stale.hash}
    for given in (rich, commitment, stale, later):
        pool.add(given)
    assert ranked(pool) == [commitment, rich, stale]
    pool.add(vote)
    assert ranked(pool) == [stale, vote, commitment, rich, later]


def test_only_refused_votes_within_a_limit_of_gas_go_with_a_vote(head):
    pool = Mempool(head, replace(LIMITS, transactions=20))
    rich = transaction(DAVE, 0, tip=9)
    junk = [transaction(CAROL, 0, tip=1), vote_of(head, CAROL, 1)]
    erin = Address(bytes([9]) * 20)
    stale = [vote_of(head, erin, nonce, gas=CARRIED_GAS_LIMIT // 2) for nonce in range(3)]
    head.early = {each.hash for each in stale}
    given = [rich, *junk, *stale, vote_of(head, erin, 3)]
    for each in given:
        pool.add(each)
    assert ranked(pool) == given
    # A miner's commitment carries nothing: any account may be a miner.
    miner = [transaction(BOB, 0, tip=1), transaction(BOB, 1, to=BOB)]
    for each in miner:
        pool.add(each)
    assert ranked(pool)[0] == rich


def test_operators_take_turns_at_any_price(head):
    pool = Mempool(head, replace(LIMITS, transactions=20))
    liars = [vote_of(head, CAROL, nonce, tip=9) for nonce in range(3)]
    dear = vote_of(head, Address(bytes([9]) * 20), 0, gas=2 * TURN_GAS, tip=9)
    honest = [vote_of(head, DAVE, nonce) for nonce in range(2)]
    for each in (*liars, dear, *honest):
        pool.add(each)
    assert ranked(pool) == [liars[0], honest[0], liars[1], dear, honest[1], liars[2]]


def test_commitments_do_not_wait_for_all_that_operators_may_send(head):
    pool = Mempool(head, MempoolLimits())
    votes = [vote_of(head, CAROL, nonce, tip=9) for nonce in range(3 * OPERATOR_TURNS)]
    miners = [transaction(Address(bytes([20 + i]) * 20), 0, fee=0, to=BOB) for i in range(3)]
    head.tasks_of_hashes |= {miners[2].hash: TaskId(2)}
    for each in (*votes, *miners):
        pool.add(each)
    turns = OPERATOR_TURNS
    assert ranked(pool) == [
        *votes[:turns],
        miners[0],
        miners[2],
        *votes[turns : 2 * turns],
        miners[1],
        *votes[2 * turns :],
    ]


def test_operators_share_the_turns_of_votes_on_proposals(head):
    """Two of them could fill blocks with votes on proposals that they made for that."""
    pool = Mempool(head, MempoolLimits())
    liars = [Address(bytes([60 + i]) * 20) for i in range(5)]
    proposals = [vote_of(head, liar, nonce) for nonce in range(2) for liar in liars]
    head.common = {each.hash for each in proposals}
    honest = [vote_of(head, CAROL, nonce) for nonce in range(3)]
    due = transaction(DAVE, 0, fee=0, to=BOB)
    for each in (*proposals, *honest, due):
        pool.add(each)
    order = ranked(pool)
    assert order[:8] == [
        proposals[0],
        honest[0],
        proposals[1],
        honest[1],
        proposals[2],
        honest[2],
        proposals[3],
        due,
    ]


def test_tasks_take_turns_with_their_commitments_at_any_price(head):
    pool = Mempool(head, MempoolLimits())
    strangers = [transaction(Address(bytes([20 + i]) * 20), 0, tip=9, to=BOB) for i in range(3)]
    honest = [transaction(each, 0, fee=0, to=BOB) for each in (CAROL, DAVE)]
    head.tasks_of_hashes = {each.hash: TaskId(2) for each in honest}
    for each in (*strangers, *honest):
        pool.add(each)
    in_turns = [strangers[0], honest[0], strangers[1], honest[1], strangers[2]]
    assert ranked(pool) == in_turns


def test_no_tip_evicts_a_vote_by_what_its_operator_sent_before(head):
    pool = Mempool(head, LIMITS)
    stale, vote = vote_of(head, CAROL, 0), vote_of(head, CAROL, 1)
    head.early = {stale.hash}
    strangers = [Address(bytes([20 + i]) * 20) for i in range(10)]
    for given in (stale, vote, *(transaction(each, 0, tip=2) for each in strangers[:6])):
        pool.add(given)
    pool.add(transaction(strangers[6], 0, tip=3))
    assert (stale.hash in pool, vote.hash in pool) == (True, True)
    # If all that is held is more worth, the newcomer is refused.
    for each in strangers[:6]:
        held = transaction(each, 0, tip=2)
        if held.hash in pool:
            pool.add(transaction(each, 0, tip=4))
    refusal(pool, transaction(strangers[7], 0, tip=2))
    assert (stale.hash in pool, vote.hash in pool) == (True, True)


def test_contracts_are_asked_about_few_calls_of_a_sender_that_they_accept(head):
    pool = Mempool(head, MempoolLimits())
    votes = [transaction(CAROL, nonce, tip=1, to=ALICE) for nonce in range(40)]
    head.tasks_of_hashes = {each.hash: TaskId(9 + at) for at, each in enumerate(votes)}
    for each in votes:
        pool.add(each)
    assert head.classified == mempool.ACCEPTED_CALLS_LIMIT
    rich = transaction(DAVE, 0, tip=9)
    pool.add(rich)
    assert ranked(pool).index(rich) == mempool.ACCEPTED_CALLS_LIMIT
    pool.on_finalized([])
    assert ranked(pool) == [*votes, rich]


def test_candidates_do_not_change_with_the_pool(pool):
    given = [transaction(ALICE, 0), transaction(ALICE, 1), transaction(BOB, 0)]
    for each in given:
        pool.add(each)
    candidates = pool.candidates().transactions
    pool.drop(given[0].hash)
    pool.drop(given[2].hash)
    assert list(candidates) == given


def test_final_and_stale_transactions_are_removed(pool, head):
    included, conflicting, next_one = (
        transaction(ALICE, 0, tip=1),
        transaction(ALICE, 1, tip=1),
        transaction(ALICE, 2, tip=1),
    )
    for given in (included, conflicting, next_one):
        pool.add(given)
    head.nonces[ALICE] = 2
    pool.on_finalized([included, transaction(ALICE, 1, tip=7), transaction(DAVE, 0)])
    assert ranked(pool) == [next_one]
    assert pool.hashes() == (next_one.hash,)


def test_nonce_far_ahead_is_refused(pool, head):
    head.nonces[ALICE] = 10
    pool.add(transaction(ALICE, 13))
    assert refusal(pool, transaction(ALICE, 14)).reason == RejectionReason.NONCE_TOO_HIGH


def test_full_pool_admits_only_a_higher_tip_than_the_lowest(pool):
    held = [transaction(Address(bytes([10 + i]) * 20), 0, tip=10 + i) for i in range(8)]
    for given in held:
        pool.add(given)
    assert refusal(pool, transaction(ALICE, 0, tip=10)).detail == "txpool is full"
    pool.add(transaction(ALICE, 0, tip=12))
    assert held[0].hash not in pool
    assert len(pool) == 8
    pool.add(transaction(BOB, 0, tip=0, to=ALICE))
    assert held[1].hash not in pool


def test_eviction_takes_the_last_transaction_of_the_cheapest_sender(pool):
    chain = [transaction(ALICE, 0, tip=1), transaction(ALICE, 1, tip=99)]
    others = [transaction(Address(bytes([10 + i]) * 20), 0, tip=50) for i in range(6)]
    for given in (*chain, *others):
        pool.add(given)
    pool.add(transaction(BOB, 0, tip=50))
    assert chain[0].hash in pool
    assert chain[1].hash not in pool


def test_total_bytes_are_bounded(pool):
    small = [transaction(Address(bytes([10 + i]) * 20), 0, tip=1, size=300) for i in range(6)]
    for given in small:
        pool.add(given)
    assert refusal(pool, transaction(ALICE, 0, tip=1, size=300)).detail == "txpool is full"
    pool.add(transaction(ALICE, 0, tip=2, size=700))
    assert pool.size_bytes <= LIMITS.size_bytes


def test_senders_without_a_balance_share_a_quarter(pool, head):
    senders = [Address(bytes([20 + i]) * 20) for i in range(4)]
    head.balances = dict.fromkeys(senders, 0)
    pool.add(transaction(senders[0], 0, fee=0))
    assert "gap" not in refusal(pool, transaction(senders[1], 1, fee=0)).detail
    pool.add(transaction(senders[0], 1, fee=0))
    assert len(pool) == LIMITS.transactions // FREE_SHARE
    assert refusal(pool, transaction(senders[0], 2, fee=0)).reason == RejectionReason.POOL_FULL
    assert refusal(pool, transaction(senders[1], 0, fee=0)).reason == RejectionReason.POOL_FULL
    pool.add(transaction(senders[2], 0, fee=0, to=ALICE))  # operator votes do not count
    pool.add(transaction(ALICE, 0))
    head.nonces[senders[0]] = 1
    pool.on_finalized([transaction(senders[0], 0, fee=0)])
    pool.add(transaction(senders[1], 0, fee=0))


def test_a_balance_does_not_evade_the_share_of_what_pays_no_fee(pool, head):
    senders = [Address(bytes([20 + i]) * 20) for i in range(3)]
    head.balances = dict.fromkeys(senders, 1)
    for sender in senders[: LIMITS.transactions // FREE_SHARE]:
        pool.add(transaction(sender, 0, fee=0))
    assert refusal(pool, transaction(senders[2], 0, fee=0)).reason == RejectionReason.POOL_FULL
    pool.add(transaction(ALICE, 0, fee=1))


def test_sender_with_a_balance_may_queue_and_leave_gaps_without_a_fee(head):
    pool = Mempool(head, MempoolLimits())
    given = [transaction(ALICE, nonce, fee=0) for nonce in (0, 1, 2, 3, 4, 9)]
    for each in given:
        pool.add(each)
    assert ranked(pool) == given[:5]


def test_due_commitments_evict_what_pays_within_their_share(pool, head):
    paying = [transaction(Address(bytes([10 + i]) * 20), 0, tip=10) for i in range(8)]
    for given in paying:
        pool.add(given)
    miners = [Address(bytes([20 + i]) * 20) for i in range(3)]
    head.balances = dict.fromkeys((*miners, CAROL), 0)
    due = [transaction(each, 0, fee=0, to=BOB) for each in miners]
    assert refusal(pool, transaction(CAROL, 0, fee=0)).detail == "txpool is full"
    for given in due[: LIMITS.transactions // COMMITMENT_SHARE]:
        pool.add(given)
    assert refusal(pool, due[-1]).reason == RejectionReason.POOL_FULL
    assert [each.hash in pool for each in paying] == [True] * 6 + [False] * 2


def test_transaction_that_is_refused_evicts_no_other(pool):
    pool.add(transaction(ALICE, 0, tip=9, size=1_500))
    cheap = [transaction(Address(bytes([50 + i]) * 20), 0, tip=2) for i in range(5)]
    for each in cheap:
        pool.add(each)
    refusal(pool, transaction(CAROL, 0, tip=3, size=1_000))
    assert len(pool) == 6


def test_all_free_senders_together_share_a_quarter(pool, head):
    senders = [Address(bytes([20 + i]) * 20) for i in range(4)]
    head.balances = dict.fromkeys(senders, 0)
    pool.add(transaction(senders[0], 0, fee=0, to=BOB))
    pool.add(transaction(senders[1], 0, fee=0, to=BOB))
    assert len(pool) == LIMITS.transactions // FREE_SHARE
    for to in (BOB, None):
        given = transaction(senders[2], 0, fee=0, to=to)
        assert refusal(pool, given).reason == RejectionReason.POOL_FULL


def test_free_commitment_takes_the_place_of_an_ordinary_free_transaction(pool, head):
    senders = [Address(bytes([20 + i]) * 20) for i in range(4)]
    head.balances = dict.fromkeys(senders, 0)
    ordinary = [transaction(sender, 0, fee=0) for sender in senders[:2]]
    for given in ordinary:
        pool.add(given)
    pool.add(transaction(senders[2], 0, fee=0, to=BOB))
    assert ordinary[0].hash in pool
    assert ordinary[1].hash not in pool


def test_due_commitment_takes_the_place_of_one_that_is_early(pool, head):
    senders = [Address(bytes([20 + i]) * 20) for i in range(4)]
    head.balances = dict.fromkeys(senders, 0)
    early = [transaction(sender, 0, fee=0, to=BOB) for sender in senders[:3]]
    head.early = {each.hash for each in early}
    for given in early[:2]:
        pool.add(given)
    assert refusal(pool, early[2]).reason == RejectionReason.POOL_FULL
    due = transaction(senders[3], 0, fee=0, to=BOB)
    pool.add(due)
    assert [each.hash in pool for each in (*early, due)] == [True, False, False, True]


def test_due_commitment_is_not_refused_for_what_its_miner_sent_before(pool, head):
    """The newest free transaction was its own, which may not make room for it."""
    stranger, claim = transaction(ALICE, 0, fee=0), transaction(CAROL, 0, fee=0)
    due = transaction(CAROL, 1, fee=0, to=BOB)
    for given in (stranger, claim, due):
        pool.add(given)
    assert [each.hash in pool for each in (stranger, claim, due)] == [False, True, True]


def test_vote_is_not_refused_for_what_its_operator_sent_before(pool, head):
    """The lowest-ranked transaction of a full pool was its own, which came too late."""
    stale, vote = vote_of(head, CAROL, 0), vote_of(head, CAROL, 1)
    head.early = {stale.hash}
    paying = [transaction(Address(bytes([10 + i]) * 20), 0, tip=2 + i) for i in range(7)]
    for given in (stale, *paying, vote):
        pool.add(given)
    assert [each.hash in pool for each in (stale, *paying, vote)] == [
        True,
        False,
        *[True] * 7,
    ]


def test_paying_stranger_evicts_no_due_commitment_behind_a_cheap_one(pool, head):
    claim, due = transaction(CAROL, 0, fee=0), transaction(CAROL, 1, fee=0, to=BOB)
    paying = [transaction(Address(bytes([10 + i]) * 20), 0, tip=2 + i) for i in range(6)]
    for given in (claim, due, *paying):
        pool.add(given)
    rich = transaction(DAVE, 0, tip=50)
    pool.add(rich)
    assert [each.hash in pool for each in (claim, due, *paying, rich)] == [
        True,
        True,
        False,
        *[True] * 6,
    ]


def test_sender_has_one_commitment_with_priority_in_a_task(pool):
    first, second = transaction(ALICE, 0, to=BOB), transaction(ALICE, 1, to=BOB)
    rich = transaction(DAVE, 0, tip=5)
    for given in (first, second, rich):
        pool.add(given)
    assert ranked(pool) == [first, rich, second]


def test_task_with_the_most_commitments_makes_room_for_another_task(pool, head):
    senders = [Address(bytes([20 + i]) * 20) for i in range(4)]
    head.tasks = {senders[2]: TaskId(2), senders[3]: TaskId(2)}
    given = [transaction(sender, 0, tip=i + 1, to=BOB) for i, sender in enumerate(senders)]
    for each in given[:3]:
        pool.add(each)
    assert given[1].hash not in pool
    # Both tasks hold one, so a further commitment of the second is an ordinary transaction.
    pool.add(given[3])
    rich = transaction(DAVE, 0, tip=50)
    pool.add(rich)
    assert ranked(pool) == [given[0], given[2], rich, given[3]]


def test_vote_that_came_a_block_too_early_gets_its_priority_later(pool, head):
    rich, vote = transaction(DAVE, 0, tip=5), transaction(CAROL, 0, to=ALICE)
    head.early = {vote.hash}
    for given in (rich, vote):
        pool.add(given)
    assert ranked(pool) == [rich, vote]
    head.early = set()
    pool.on_finalized([])
    assert ranked(pool) == [vote, rich]


def test_vote_is_examined_at_each_block_while_it_waits(pool, head):
    rich, vote = transaction(DAVE, 0, tip=5), transaction(CAROL, 0, to=ALICE)
    head.early = {vote.hash}
    for given in (rich, vote):
        pool.add(given)
    for _ in range(3):
        pool.on_finalized([])
    head.early = set()
    pool.on_finalized([])
    assert ranked(pool) == [vote, rich]


def test_gapped_call_is_examined_once_its_gap_is_closed(pool, head):
    gapped = transaction(CAROL, 1, to=BOB)
    head.early = {gapped.hash}
    pool.add(gapped)
    head.early = set()
    asked = head.classified
    pool.on_finalized([])
    assert head.classified == asked
    first = transaction(CAROL, 0)
    pool.add(first)
    pool.on_finalized([])
    assert ranked(pool) == [first, gapped]
    head.nonces[CAROL] = 1
    pool.on_finalized([first])
    pool.add(transaction(DAVE, 0, tip=5))
    assert ranked(pool)[0] == gapped


def test_miners_take_no_place_of_an_operators_early_vote(head):
    pool = Mempool(head, MempoolLimits())
    rich, vote = transaction(BOB, 0, tip=5), transaction(CAROL, 0, to=ALICE)
    commitments = [transaction(DAVE, nonce, to=BOB) for nonce in range(40)]
    head.tasks_of_hashes = {each.hash: TaskId(9 + at) for at, each in enumerate(commitments)}
    head.early = {each.hash for each in (vote, *commitments)}
    for given in (rich, vote, *commitments):
        pool.add(given)
    head.early = set()
    pool.on_finalized([])
    assert ranked(pool)[0] == vote


def test_sender_has_one_early_call_of_a_subject(head):
    pool = Mempool(head, MempoolLimits())
    rich, honest = transaction(BOB, 0, tip=5), transaction(CAROL, 0, to=BOB)
    repeated = [transaction(DAVE, nonce, to=BOB) for nonce in range(40)]
    head.early = {each.hash for each in (honest, *repeated)}
    for given in (rich, honest, *repeated):
        pool.add(given)
    head.early = set()
    pool.on_finalized([])
    assert ranked(pool)[:3] == [honest, repeated[0], rich]


def test_early_commitments_of_a_task_make_room_for_those_of_another(head):
    limits = replace(LIMITS, transactions=2 * EARLY_SHARE, size_bytes=100_000)
    pool = Mempool(head, limits)
    strangers = [Address(bytes([20 + i]) * 20) for i in range(10)]
    miners = [Address(bytes([60 + i]) * 20) for i in range(2)]
    head.balances = dict.fromkeys((*strangers, *miners), 0)
    early = [transaction(each, 0, fee=0, to=BOB) for each in strangers]
    honest = [transaction(each, 0, fee=0, to=BOB) for each in miners]
    head.early = {each.hash for each in (*early, *honest)}
    head.tasks_of_hashes = {each.hash: TaskId(7) for each in honest}
    for each in early[:8]:
        pool.add(each)
    assert refusal(pool, early[8]).reason == RejectionReason.POOL_FULL
    pool.add(honest[0])
    assert pool.hashes() == tuple(each.hash for each in (*early[:7], honest[0]))
    # Each task has one now, so a second one finds no place. What lost its place is ordinary.
    assert refusal(pool, honest[1]).reason == RejectionReason.POOL_FULL
    due = transaction(miners[1], 0, fee=0, to=BOB, size=101)
    pool.add(due)
    assert (early[6].hash in pool, honest[0].hash in pool) == (False, True)


def test_sender_has_one_early_place_for_a_subject(head):
    limits = replace(LIMITS, transactions=2 * EARLY_SHARE, size_bytes=100_000)
    pool = Mempool(head, limits)
    repeated = [transaction(CAROL, nonce, fee=0, to=BOB) for nonce in range(2)]
    other = transaction(DAVE, 0, fee=0, to=BOB)
    head.early = {each.hash for each in (*repeated, other)}
    ordinary = [transaction(Address(bytes([50 + i]) * 20), 0, fee=0) for i in range(6)]
    for each in (*ordinary, *repeated):
        pool.add(each)
    refusal(pool, transaction(BOB, 0, fee=0))
    pool.add(other)
    held = [each.hash in pool for each in (*ordinary, *repeated, other)]
    assert held == [True] * 7 + [False, True]


def test_due_call_has_priority_behind_an_early_one_of_its_subject(pool, head):
    early, due = transaction(CAROL, 0, to=BOB), transaction(CAROL, 1, to=BOB)
    head.early = {early.hash}
    for given in (transaction(DAVE, 0, tip=5), early, due, transaction(ALICE, 0)):
        pool.add(given)
    assert ranked(pool)[-2:] == [due, transaction(ALICE, 0)]


def test_operators_take_turns_with_their_early_votes(head):
    pool = Mempool(head, MempoolLimits())
    liars = [vote_of(head, CAROL, nonce) for nonce in range(EXAMINED_LIMIT + 4)]
    honest = vote_of(head, DAVE, 0)
    head.early = {each.hash for each in (*liars, honest)}
    for each in (*liars, honest):
        pool.add(each)
    head.early.remove(honest.hash)
    pool.on_finalized([])
    assert ranked(pool)[0] == honest


def early_commitments(head: FakeHead, pool: Mempool, count: int) -> list[Transaction]:
    """Commitments of as many senders, which are not due yet."""
    senders = [Address(each.to_bytes(20, "big")) for each in range(99, 99 + count)]
    given = [transaction(sender, 0, to=BOB) for sender in senders]
    head.early = {each.hash for each in given}
    for each in given:
        pool.add(each)
    return given


def test_commitment_is_examined_when_it_is_due_whatever_others_wait(head):
    """The oldest was forgotten after 256, and each that was examined in vain."""
    pool = Mempool(head, MempoolLimits())
    honest = transaction(CAROL, 0, to=BOB)
    head.tasks_of_hashes = {honest.hash: TaskId(7)}
    head.early = {honest.hash}
    pool.add(honest)
    others = early_commitments(head, pool, 400)
    head.early.add(honest.hash)
    for _ in range(50):
        pool.on_finalized([])
    head.early.remove(honest.hash)
    pool.on_finalized([])
    pool.add(transaction(BOB, 0, tip=5))
    assert ranked(pool)[0] == honest
    assert all(each.hash in pool for each in others)


def test_each_block_examines_some_early_commitments_until_all_are(head):
    pool = Mempool(head, MempoolLimits())
    given = early_commitments(head, pool, EXAMINED_LIMIT + 2)
    head.early = set()
    rich = transaction(BOB, 0, tip=5)
    pool.add(rich)
    pool.on_finalized([])
    assert ranked(pool) == [*given[:EXAMINED_LIMIT], rich, *given[EXAMINED_LIMIT:]]
    pool.on_finalized([])
    assert ranked(pool) == [*given, rich]


def test_what_storage_shows_not_to_be_due_delays_no_other(head):
    pool = Mempool(head, MempoolLimits())
    given = early_commitments(head, pool, LOOKS_LIMIT + 1)
    head.unexpected, head.early = {each.hash for each in given[:-2]}, set()
    asked = head.classified
    pool.on_finalized([])
    assert head.classified == asked + 1
    assert ranked(pool)[0] == given[-2]
    pool.on_finalized([])
    assert ranked(pool)[:2] == given[-2:]


def test_many_commitments_of_few_miners_delay_none_of_another(head):
    pool = Mempool(head, MempoolLimits())
    senders = [Address(bytes([20 + i]) * 20) for i in range(LOOKS_LIMIT // 64)]
    junk = [transaction(sender, nonce, to=BOB) for sender in senders for nonce in range(64)]
    honest = transaction(CAROL, 0, to=BOB)
    head.early = {each.hash for each in (*junk, honest)}
    for each in (*junk, honest):
        pool.add(each)
    head.unexpected, head.early = {each.hash for each in junk}, set()
    pool.on_finalized([])
    assert ranked(pool)[0] == honest


def test_contracts_are_not_asked_about_what_is_refused_anyway(pool, head):
    pool.add(transaction(ALICE, 0, tip=100, fee=100, to=BOB))
    for nonce in (2, 3):
        pool.add(transaction(CAROL, nonce))
    head.balances[DAVE] = 1
    asked = head.classified
    for given in (
        transaction(ALICE, 0, tip=109, fee=109, to=BOB),  # underpriced
        transaction(ALICE, LIMITS.sender_transactions, to=BOB),  # too far ahead
        transaction(ALICE, 2, to=BOB),  # no room behind a gap
        transaction(DAVE, 0, tip=1, fee=1, to=BOB),  # no funds
    ):
        refusal(pool, given)
    assert head.classified == asked


def test_contracts_are_asked_about_few_calls_of_a_sender_that_they_refuse(pool, head):
    filler = Address(bytes([9]) * 20)
    for nonce in range(4):
        pool.add(transaction(filler, nonce, tip=9, fee=9))
        pool.add(transaction(CAROL, nonce, tip=9, fee=9))
    calls = [transaction(DAVE, 0, tip=1, fee=1 + each, to=BOB) for each in range(1, 9)]
    head.early = {each.hash for each in calls}
    for each in calls:
        assert refusal(pool, each).reason == RejectionReason.POOL_FULL
    assert head.classified == mempool.REFUSED_CALLS_LIMIT
    pool.on_finalized([])
    refusal(pool, transaction(DAVE, 0, tip=1, fee=20))
    head.early.clear()
    pool.add(calls[0])
    assert ranked(pool)[0] == calls[0]


def test_gapped_transactions_share_a_quarter_and_evict_no_others(pool):
    senders = [Address(bytes([20 + i]) * 20) for i in range(8)]
    pool.add(transaction(senders[0], 1, tip=99))
    pool.add(transaction(senders[0], 2, tip=99))
    assert pool.counts() == (0, LIMITS.transactions // GAPPED_SHARE)
    assert "behind a nonce gap" in refusal(pool, transaction(senders[1], 1, tip=99)).detail
    pool.add(transaction(senders[0], 2, tip=110))  # it replaces another one
    due = [transaction(sender, 0) for sender in senders]
    pool.add(due[0])  # it closes the gap
    for given in due[1:6]:
        pool.add(given)
    assert (len(pool), pool.counts()) == (LIMITS.transactions, (8, 0))
    assert refusal(pool, transaction(senders[6], 1, tip=99)).detail == "txpool is full"
    assert all(given.hash in pool for given in due[:6])


def test_gapped_transactions_are_bounded_in_bytes(pool):
    pool.add(transaction(ALICE, 1, size=LIMITS.size_bytes // GAPPED_SHARE))
    assert "behind a nonce gap" in refusal(pool, transaction(ALICE, 2)).detail


def test_gap_left_by_a_drop_keeps_gapped_transactions_in_their_share(pool):
    run = [transaction(ALICE, nonce) for nonce in range(4)]
    for given in run:
        pool.add(given)
    pool.drop(run[0].hash)
    assert pool.hashes() == (run[1].hash, run[2].hash)


def test_balance_must_cover_all_transactions_of_a_sender(pool, head):
    cost = transaction(ALICE, 0, tip=10).cost
    head.balances[ALICE] = 2 * cost
    pool.add(transaction(ALICE, 0, tip=10))
    pool.add(transaction(ALICE, 1, tip=10))
    short = refusal(pool, transaction(ALICE, 2, tip=10))
    assert short.reason == RejectionReason.INSUFFICIENT_FUNDS
    needed, held = format_amount(cost), format_amount(2 * cost)
    assert short.detail == f"{held} coins, needs {needed} and {held} for others in the pool"
    dearer = refusal(pool, transaction(ALICE, 1, tip=11))  # the replaced cost does not count
    higher = format_amount(cost * 11 // 10)
    assert dearer.detail == f"{held} coins, needs {higher} and {needed} for others in the pool"


AUTHORITY_KEY = keccak256(b"authority")
AUTHORITY = get_address(AUTHORITY_KEY)


def authorizing(sender: Address, at: int, *, count: int = 1, **changes: int) -> Transaction:
    """A transaction with nonce `at` and authorizations of AUTHORITY, for chain 1 and nonce 0."""
    fields = {"chainId": 1, "address": BOB, "nonce": 0, **changes}
    signed = Account.sign_authorization(fields, AUTHORITY_KEY)
    entry = Authorization(
        chain_id=fields["chainId"],
        address=BOB,
        nonce=fields["nonce"],
        y_parity=signed.y_parity,
        r=signed.r,
        s=signed.s,
    )
    return replace(transaction(sender, at), authorization_list=(entry,) * count)


def test_delegated_account_has_one_transaction(pool, head):
    head.delegated = {ALICE}
    head.nonces[ALICE] = 5
    assert refusal(pool, transaction(ALICE, 6)).reason == RejectionReason.DELEGATED_ACCOUNT
    pool.add(transaction(ALICE, 5))
    assert refusal(pool, transaction(ALICE, 6)).reason == RejectionReason.DELEGATED_ACCOUNT
    pool.add(transaction(ALICE, 5, tip=9, fee=9))
    head.nonces[ALICE] = 6
    pool.on_finalized([transaction(ALICE, 5)])
    pool.add(transaction(ALICE, 6))


def test_account_with_a_waiting_authorization_has_one_transaction(pool, head):
    given = authorizing(CAROL, 0)
    pool.add(given)
    pool.add(transaction(AUTHORITY, 0))
    assert refusal(pool, transaction(AUTHORITY, 1)).reason == RejectionReason.DELEGATED_ACCOUNT
    pool.drop(given.hash)
    pool.add(transaction(AUTHORITY, 1))


def test_authorization_of_an_account_with_two_transactions_is_refused(pool):
    pool.add(transaction(AUTHORITY, 0))
    pool.add(transaction(AUTHORITY, 1))
    assert refusal(pool, authorizing(CAROL, 0)).reason == RejectionReason.DELEGATED_ACCOUNT


def test_own_authorization_waits_alone(pool):
    pool.add(transaction(AUTHORITY, 0))
    own = authorizing(AUTHORITY, 1, nonce=2)
    assert refusal(pool, own).reason == RejectionReason.DELEGATED_ACCOUNT


@pytest.mark.parametrize("changes", [{"chainId": 2}, {"nonce": 2}])
def test_authorization_that_can_never_apply_limits_nobody(pool, head, changes):
    head.nonces[AUTHORITY] = 3
    pool.add(authorizing(CAROL, 0, **changes))
    pool.add(transaction(AUTHORITY, 3))
    pool.add(transaction(AUTHORITY, 4))


def test_number_of_authorizations_is_bounded(pool):
    pool.add(authorizing(CAROL, 0, count=AUTHORIZATIONS_LIMIT))
    refused = refusal(pool, authorizing(DAVE, 0, count=AUTHORIZATIONS_LIMIT + 1))
    assert refused.reason == RejectionReason.TOO_MANY_AUTHORIZATIONS


def test_refused_transaction_is_settled_until_the_next_block(pool, head):
    refused, held, unknown = transaction(ALICE, 99), transaction(ALICE, 0), transaction(BOB, 0)
    pool.add(held)
    with pytest.raises(InvalidTransaction):
        pool.add(refused)
    settled = [pool.is_settled(each.hash) for each in (held, refused, unknown)]
    assert settled == [True, True, False]
    pool.on_finalized([])
    settled = [pool.is_settled(each.hash) for each in (held, refused, unknown)]
    assert settled == [True, False, False]


@pytest.mark.parametrize("raw", [b"gas", b"malformed"])
def test_what_no_head_makes_valid_is_settled_after_later_blocks(pool, raw):
    with pytest.raises(InvalidTransaction):
        pool.decode(raw)
    pool.on_finalized([])
    assert pool.is_settled(keccak256(raw))


def test_invalid_form_found_by_the_rules_is_settled_after_later_blocks(pool, head):
    head.cap = 20_000
    given = transaction(ALICE, 0)
    with pytest.raises(InvalidTransaction):
        pool.add(given)
    pool.on_finalized([])
    assert pool.is_settled(given.hash)


def test_number_of_remembered_refused_transactions_is_bounded(head, monkeypatch):
    monkeypatch.setattr(mempool, "REFUSED_LIMIT", 3)
    pool = Mempool(head, LIMITS)
    refused = [transaction(ALICE, 99 + each) for each in range(5)]
    for each in refused:
        with pytest.raises(InvalidTransaction):
            pool.add(each)
    assert [pool.is_settled(each.hash) for each in refused] == [False, False, True, True, True]


def test_banned_transaction_is_refused_until_it_is_forgotten(pool):
    given = [transaction(ALICE, nonce) for nonce in range(4)]
    for each in given[:3]:
        pool.add(each)
        pool.drop(each.hash, ban=True)
    assert refusal(pool, given[2]).reason == RejectionReason.BANNED
    pool.add(given[0])  # only the last two bans are remembered
    pool.drop(given[0].hash)
    pool.add(given[0])


def test_nonce_of_a_transaction_that_took_too_long_is_refused_for_a_while(pool, monkeypatch):
    monkeypatch.setattr(mempool, "BAN_BLOCKS", 2)
    slow, other = transaction(ALICE, 0), transaction(BOB, 0)
    replacement = transaction(ALICE, 0, tip=9)
    pool.add(slow)
    pool.ban(slow)
    assert len(pool) == 0
    refused = refusal(pool, replacement)
    assert refused.reason == RejectionReason.TOO_SLOW_TO_EXECUTE
    assert refused.detail.endswith("this node takes another in 2 blocks")
    pool.add(other)
    pool.on_finalized([])
    assert refusal(pool, slow).detail.endswith("in 1 blocks")
    pool.on_finalized([])
    pool.add(replacement)


def test_transaction_that_waits_too_long_is_dropped(pool):
    pool.add(transaction(ALICE, 1))
    for _ in range(5):
        pool.on_finalized([])
    pool.add(transaction(BOB, 1))
    for _ in range(5):
        pool.on_finalized([])
    assert len(pool) == 2
    pool.on_finalized([])
    assert pool.hashes() == (transaction(BOB, 1).hash,)


class MempoolMachine(RuleBasedStateMachine):
    """Sends, drops and finalizes transactions in any order; the limits and the order hold."""

    def __init__(self) -> None:
        super().__init__()
        self.head = FakeHead()
        self.senders = [Address(bytes([30 + i]) * 20) for i in range(6)]
        self.head.balances = {self.senders[0]: 0, self.senders[1]: 0}
        self.head.tasks = {sender: TaskId(i // 2) for i, sender in enumerate(self.senders)}
        self.pool = Mempool(self.head, LIMITS)
        self.admitted: dict[bytes, Transaction] = {}

    @rule(
        sender=st.integers(0, 5),
        nonce=st.integers(0, 7),
        tip=st.sampled_from([0, 0, 1, 10, 11, 50]),
        size=st.sampled_from([100, 400, 900]),
        to=st.sampled_from([ALICE, BOB, CAROL]),
    )
    def send(self, sender, nonce, tip, size, to):
        given = transaction(self.senders[sender], nonce, tip, fee=tip, size=size, to=to)
        before = set(self.pool.hashes())
        try:
            self.pool.add(given)
        except InvalidTransaction:
            assert set(self.pool.hashes()) <= before
        else:
            assert given.hash in self.pool
            assert set(self.pool.hashes()) <= before | {given.hash}
            self.admitted[given.hash] = given

    @rule(data=st.data())
    def drop(self, data):
        if len(self.pool):
            self.pool.drop(data.draw(st.sampled_from(self.pool.hashes())))

    @rule(count=st.integers(0, 3))
    def finalize(self, count):
        included = [given for _, given in zip(range(count), ranked(self.pool), strict=False)]
        for given in included:
            self.head.nonces[given.sender] = given.nonce + 1
        self.pool.on_finalized(included)
        assert not any(given.hash in self.pool for given in included)

    @invariant()
    def bounds_hold(self):
        held = [self.pool.get(name) for name in self.pool.hashes()]
        assert all(self.admitted[given.hash] == given for given in held)
        assert len(held) == len(self.pool) <= LIMITS.transactions
        assert sum(len(given.raw) for given in held) == self.pool.size_bytes <= LIMITS.size_bytes
        assert len({(given.sender, given.nonce) for given in held}) == len(held)
        for sender in self.senders:
            mine = [given for given in held if given.sender == sender]
            first = self.head.nonce(sender)
            assert all(first <= given.nonce < first + LIMITS.sender_transactions for given in mine)
        free = [
            given
            for given in held
            if given.max_fee_per_gas == 0 and given.to != ALICE  # no vote
        ]
        assert len(free) <= LIMITS.transactions // FREE_SHARE
        assert sum(len(given.raw) for given in free) <= LIMITS.size_bytes // FREE_SHARE
        due = set(self.pool.candidates().transactions)
        gapped = [given for given in held if given not in due]
        assert self.pool.counts() == (len(due), len(gapped))
        assert len(gapped) <= LIMITS.transactions // GAPPED_SHARE
        assert sum(len(given.raw) for given in gapped) <= LIMITS.size_bytes // GAPPED_SHARE

    @invariant()
    def candidates_are_the_runs_from_the_accounts_nonces(self):
        due = dict(self.head.nonces)
        for given in self.pool.candidates().transactions:
            assert given.nonce == due.get(given.sender, 0)
            due[given.sender] = given.nonce + 1
        for sender in self.senders:
            assert self.pool.pending_nonce(sender) == due.get(sender, 0)
            assert not any(
                given.sender == sender and given.nonce == due.get(sender, 0)
                for given in map(self.pool.get, self.pool.hashes())
            )

    @invariant()
    def candidates_are_ordered_from_best_to_worst(self):
        seen: list[Transaction] = []
        for given in self.pool.candidates().transactions:
            # A transaction cannot go before an earlier one of its own sender.
            free_to_go = not seen or seen[-1].sender != given.sender
            if seen and free_to_go:
                before = seen[-1]
                assert self.order(before) <= self.order(given)
            seen.append(given)

    def order(self, given: Transaction) -> tuple[int, int]:
        # What waits before an operator's vote has the priority of the vote. Votes and commitments
        # go by turns, others by price.
        ranks = self.pool._held.queues[given.sender].rank()
        priority = next(rank for rank, entry in ranks if entry.transaction == given)
        is_ordinary = priority is Priority.ORDINARY
        return priority, -given.max_priority_fee_per_gas if is_ordinary else 0


MempoolMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
test_limits_and_order_hold_after_any_history = MempoolMachine.TestCase
