"""The mempool: transactions that wait for a block (docs/spec/wire.md, section 5).

The limits and the order are the policy of this node; they do not decide which blocks are valid. The
pool limits the number of transactions, their bytes, the transactions of each sender, the distance
of a nonce from its account, and the blocks that a transaction may wait. Transactions of one sender
leave in the order of their nonces. Among senders, operators' votes and duties take turns with
gradient commitments, operators the first ones; then comes the highest price. Only a call that the
contracts would accept in the next block has this priority, and a sender has one such transaction
for each thing it may do. Refused votes that an operator sent before a vote go with it, up to a
limit of gas, because the vote waits behind them.

Gas may be free on this chain, so transactions without a fee risk nothing. Those that offer nothing
or less than this node's gas price may together use a quarter of the pool, without votes and duties
with priority; of them, only a commitment with priority evicts a transaction that pays. All
commitments with priority may use a quarter, too. Transactions behind a nonce gap may never become
valid; they may use a quarter, and evict none. A sender's balance must cover all its transactions.
"""

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from typing import Final

from cachetools import FIFOCache

from chain.amounts import format_amount
from chain.crypto import keccak256
from chain.errors import InvalidTransaction, RejectionReason
from chain.primitives import Address, Hash32
from chain.types.transaction import Transaction, decode_transaction
from chain.validation import FORM_REASONS
from node.chain.finalizer import NewHead
from node.mempool.candidates import Candidates, merge
from node.mempool.entries import Entry, Queue, check_replacement
from node.mempool.free_gas import NO_RATION, FreeGasPolicy
from node.mempool.holdings import Holdings
from node.mempool.policy import HeadRules, MempoolLimits, Priority, Subject

REFUSED_CALLS_LIMIT: Final = 4
"""After this many votes and commitments of a sender that got no priority, further ones are ordinary
until the next block without asking the contracts, which takes up to 4 ms."""

ACCEPTED_CALLS_LIMIT: Final = 32
"""After this many calls of a sender that got priority, further ones are ordinary until the next
block. So an operator that breaks the rules takes a bounded part of this node's time, and blocks."""

EXAMINED_LIMIT: Final = 16
"""The most votes, and the most commitments, that wait and are executed at a block, because the
contracts may accept them by now. Each takes about 4 ms."""

LOOKS_LIMIT: Final = 128
"""The most votes, and the most commitments, of those that wait that are looked at in a block. The
ledger's storage shows in 0.4 ms that a commitment is not due."""

REFUSED_LIMIT: Final = 8_192
"""Limit of refused transactions that are remembered, so that they are not fetched again: those that
another head may make valid until the next block, others until newer ones take their place. It
equals the default limit of transactions."""

BAN_BLOCKS: Final = 256
"""A transaction that took too long to execute, and any other with its sender and nonce, is refused
for this many blocks. A ban of the hash alone would be evaded by a change of any byte."""


class Mempool:
    """A bounded pool of decoded transactions. It may be used by one thread at a time.

    Args:
        rules: The chain's rules and accounts at the head.
        limits: The limits of the pool; None takes the defaults.
        free_gas: The limits of transactions that offer less than this node's gas price.
    """

    def __init__(
        self,
        rules: HeadRules,
        limits: MempoolLimits | None = None,
        free_gas: FreeGasPolicy = NO_RATION,
    ) -> None:
        self.free_gas = free_gas
        self._rules = rules
        self._limits = limits or MempoolLimits()
        self._held = Holdings(rules, self._limits)
        self._banned: FIFOCache[Hash32, None] = FIFOCache(self._limits.banned)
        self._slow: FIFOCache[tuple[Address, int], int] = FIFOCache(self._limits.banned)
        """The number of blocks seen at which the ban of a sender's nonce ends."""
        self._refused: FIFOCache[Hash32, None] = FIFOCache(REFUSED_LIMIT)
        self._invalid: FIFOCache[Hash32, None] = FIFOCache(REFUSED_LIMIT)
        """Transactions that are refused at every head."""
        self._refused_calls: dict[Address, int] = {}
        """By sender, how many votes and commitments got no priority since the last block."""
        self._accepted_calls: dict[Address, int] = {}
        """By sender, how many got priority since the last block."""
        self._blocks = 0

    def __len__(self) -> int:
        return len(self._held.entries)

    def __contains__(self, transaction_hash: Hash32) -> bool:
        return transaction_hash in self._held.entries

    @property
    def size_bytes(self) -> int:
        """The encoded bytes of all transactions in the pool."""
        return self._held.size_bytes

    @property
    def waiting_free_gas(self) -> int:
        """The gas limits of all transactions that share the ration of free gas."""
        return self._held.waiting_free_gas

    @property
    def free_gas_seconds(self) -> float:
        """For how long those transactions would fill the ration; 0 without a ration."""
        rate = self.free_gas.gas_per_second
        return self._held.waiting_free_gas / rate if rate else 0.0

    def suggest_price(self) -> int:
        """What to offer for a unit of gas, in wei, so as not to wait long."""
        return self.free_gas.suggest_price(self._held.waiting_free_gas)

    def get(self, transaction_hash: Hash32) -> Transaction | None:
        """The transaction with a hash; None if the pool does not hold it."""
        entry = self._held.entries.get(transaction_hash)
        return None if entry is None else entry.transaction

    def hashes(self) -> tuple[Hash32, ...]:
        """The hashes of all transactions in the pool, in the order of their admission."""
        return tuple(self._held.entries)

    def add(self, transaction: Transaction) -> None:
        """Admit a transaction; a full pool evicts cheaper ones for it.

        Raises:
            InvalidTransaction: The transaction is refused. The detail is geth's text where clients
                recognize one.
        """
        try:
            self._admit(transaction)
        except InvalidTransaction as error:
            refused = self._invalid if error.reason in FORM_REASONS else self._refused
            refused.setdefault(transaction.hash, None)
            raise

    def decode(self, raw: bytes) -> Transaction:
        """The transaction that `raw` encodes, unless its outline shows that it is invalid.

        Raises:
            InvalidTransaction: The transaction is refused at every head.
        """
        try:
            self._rules.validate_outline(raw)
            return decode_transaction(raw)
        except InvalidTransaction:
            self._invalid.setdefault(keccak256(raw), None)
            raise

    def is_settled(self, transaction_hash: Hash32) -> bool:
        """Whether a transaction is in the pool, or need not be fetched.

        It need not if it is banned, is invalid at every head, or was refused since the last block.
        """
        return any(
            transaction_hash in each
            for each in (self._held.entries, self._refused, self._invalid, self._banned)
        )

    def _admit(self, transaction: Transaction) -> None:
        if transaction.hash in self._held.entries:
            raise InvalidTransaction(RejectionReason.ALREADY_KNOWN, "already known")
        if transaction.hash in self._banned:
            raise InvalidTransaction(RejectionReason.BANNED, "it could not be included before")
        blocks_left = self._slow.get((transaction.sender, transaction.nonce), 0) - self._blocks
        if blocks_left > 0:
            raise InvalidTransaction(
                RejectionReason.TOO_SLOW_TO_EXECUTE,
                f"one with nonce {transaction.nonce} took longer than a block has time for; this "
                f"node takes another in {blocks_left} blocks",
            )
        self._rules.validate(transaction)
        sender = transaction.sender
        account_nonce = self._rules.nonce(sender)
        if transaction.nonce < account_nonce:
            raise InvalidTransaction(
                RejectionReason.NONCE_TOO_LOW,
                f"nonce too low: next nonce {account_nonce}, tx nonce {transaction.nonce}",
            )
        # It may have grown by an authorization (EIP-7702), or by code of the account.
        self._held.advance(sender, account_nonce)
        queue = self._held.queues.get(sender) or Queue(account_nonce)
        replaced = queue.entries.get(transaction.nonce)
        if replaced is None:
            self._check_nonce_limit(transaction, queue)
        elif not replaced.free_gas and not replaced.is_duty:
            check_replacement(transaction, replaced.transaction)
        self._check_funds(transaction, queue)
        is_gapped = transaction.nonce - queue.nonce > len(queue.pending())
        if is_gapped:
            self._check_gapped_share(transaction, replaced)
        authorities = self._held.authorizations.check(transaction, queue, self._held.queues)
        # This comes late, because it may execute a call, which takes up to 4 ms.
        refused_calls = self._refused_calls.get(sender, 0)
        accepted_calls = self._accepted_calls.get(sender, 0)
        is_asked = refused_calls < REFUSED_CALLS_LIMIT and accepted_calls < ACCEPTED_CALLS_LIMIT
        subject = self._rules.find_subject(transaction)
        priority = self._classify(transaction, subject, queue, is_asked=is_asked)
        if subject is not None and is_asked:
            self._refused_calls[sender] = refused_calls + 1
        entry = self._build_entry(
            transaction, priority, subject, is_early=False, authorities=authorities
        )
        is_early = (
            subject is not None
            and priority is Priority.ORDINARY
            and not is_gapped
            and not queue.holds(subject, transaction.nonce, with_early=True)
            and self._held.has_early_room(subject, entry.group, len(transaction.raw))
        )
        entry = replace(entry, is_early=is_early)
        if replaced is not None and not self._takes_place(entry, replaced):
            check_replacement(transaction, replaced.transaction)
        if subject is None:  # else the call may get priority while it waits
            self.free_gas.validate(entry.free_gas)
        if replaced is None:
            self._check_free_limits(entry, queue)
        self._held.make_room(entry, replaced, is_gapped=is_gapped)
        if replaced is not None:
            self._held.remove(replaced)
        self._held.insert(entry, account_nonce)
        if priority is not Priority.ORDINARY:
            self._refused_calls[sender] = refused_calls
            self._accepted_calls[sender] = accepted_calls + 1

    def _classify(
        self,
        transaction: Transaction,
        subject: Subject | None,
        queue: Queue,
        *,
        is_asked: bool = True,
    ) -> Priority:
        """The priority of a transaction; without `is_asked`, the contracts are not asked."""
        if subject is None or not is_asked:
            return Priority.ORDINARY
        if queue.holds(subject, transaction.nonce, with_early=False):
            return Priority.ORDINARY
        size = len(transaction.raw)
        is_commitment = subject.priority is Priority.COMMITMENT
        if is_commitment and self._held.commitments.find_victims(subject.task_id, size) is None:
            return Priority.ORDINARY
        return self._rules.classify(transaction)

    def _takes_place(self, entry: Entry, replaced: Entry) -> bool:
        """Whether an entry takes the place of one with its nonce at any fee.

        What is due takes that of what waits for a ration, as it would wait behind it. So does what
        came too early, because a peer that has the next block already took it for due. But it does
        so once at a nonce: calls that are too early for ever cost their sender nothing.
        """
        if entry.priority is Priority.ORDINARY:
            return entry.is_early and replaced.free_gas > 0 and replaced.subject is None
        if not replaced.is_duty:
            return replaced.free_gas > 0
        return self._rules.classify(replaced.transaction) is Priority.ORDINARY

    def _build_entry(
        self,
        transaction: Transaction,
        priority: Priority,
        subject: Subject | None,
        *,
        is_early: bool,
        authorities: tuple[Address, ...],
    ) -> Entry:
        return Entry.build(
            transaction,
            priority,
            subject,
            is_early=is_early,
            # By the price alone: with one wei, a sender would have a balance and yet risk nothing.
            is_cheap=self.free_gas.is_free(transaction, self._rules.base_fee()),
            arrival=self._held.arrivals,
            admitted_block=self._blocks,
            authorities=authorities,
        )

    def drop(self, transaction_hash: Hash32, *, ban: bool = False) -> None:
        """Remove a transaction that could not be included; with `ban`, refuse it from now on."""
        entry = self._held.entries.get(transaction_hash)
        if entry is not None:
            self._held.take_out(entry)
        if ban:
            self._banned.setdefault(transaction_hash, None)

    def ban(self, transaction: Transaction) -> None:
        """Remove a transaction that took too long, and refuse its sender's nonce for a while."""
        self.drop(transaction.hash)
        self._slow[transaction.sender, transaction.nonce] = self._blocks + BAN_BLOCKS

    def on_finalized(self, transactions: Iterable[Transaction]) -> None:
        """Remove the transactions that a final block included or made stale.

        Call this when the rules already use the state of the new head.
        """
        self._blocks += 1
        self._refused.clear()
        self._refused_calls.clear()
        self._accepted_calls.clear()
        for sender in {transaction.sender: None for transaction in transactions}:
            if sender in self._held.queues:
                self._held.advance(sender, self._rules.nonce(sender))
        oldest_kept = self._blocks - self._limits.waiting_blocks
        for entry in list(self._held.entries.values()):
            if entry.admitted_block >= oldest_kept:
                break
            if entry.transaction.hash in self._held.entries:
                self._held.take_out(entry)
        self._examine_waiting(Priority.OPERATOR_VOTE)
        self._examine_waiting(Priority.COMMITMENT)

    def _examine_waiting(self, kind: Priority) -> None:
        """Give priority to calls that the contracts accept by now.

        Some are looked at in each block, and of these, some are executed. Votes go on being looked
        at while they wait, because their operator's later votes wait behind them. A call of which
        the sender is no operator or miner any more is an ordinary transaction from then on.
        """
        examined_count = 0
        for transaction_hash in islice(self._held.waiting[kind].take_turns(), LOOKS_LIMIT):
            entry = self._held.entries[transaction_hash]
            transaction = entry.transaction
            subject = self._rules.find_subject(transaction)
            if subject is None:
                self._reinsert(self._rebuild(entry, Priority.ORDINARY, None), entry)
                continue
            queue = self._held.queues[transaction.sender]
            is_gapped = transaction.nonce - queue.nonce >= len(queue.pending())
            if not is_gapped and self._rules.is_examinable(transaction):
                examined_count += 1
                priority = self._classify(transaction, subject, queue)
                if priority is not Priority.ORDINARY:
                    self._promote(entry, priority)
            if examined_count == EXAMINED_LIMIT:
                return

    def _promote(self, entry: Entry, priority: Priority) -> None:
        """Give an entry a priority, unless its share has no room for it."""
        due = self._rebuild(entry, priority, entry.subject)
        try:
            self._held.make_room(due, entry, is_gapped=False)
        except InvalidTransaction:
            return
        self._reinsert(due, entry)

    def _rebuild(self, entry: Entry, priority: Priority, subject: Subject | None) -> Entry:
        return self._build_entry(
            entry.transaction, priority, subject, is_early=False, authorities=entry.authorities
        )

    def _reinsert(self, entry: Entry, replaced: Entry) -> None:
        account_nonce = self._held.queues[entry.transaction.sender].nonce
        self._held.remove(replaced)
        self._held.insert(entry, account_nonce)

    def on_new_head(self, head: NewHead) -> None:
        """Remove the transactions that a new head made final or stale."""
        if head.is_snapshot:  # a block before the snapshot may have included any of them
            self.on_finalized([entry.transaction for entry in self._held.entries.values()])
        else:
            self.on_finalized(head.transactions)

    def candidates(self, base_fee_per_gas: int = 0) -> Candidates:
        """The transactions that a block may include."""
        runs = [queue.rank() for queue in self._held.queues.values()]
        return merge(runs, base_fee_per_gas, self.free_gas)

    def pending_nonce(self, sender: Address) -> int:
        """The nonce that the next transaction of a sender should have."""
        queue = self._held.queues.get(sender)
        if queue is None:
            return self._rules.nonce(sender)
        return queue.nonce + len(queue.pending())

    def pending(self, sender: Address) -> tuple[Transaction, ...]:
        """The transactions of a sender without a nonce gap, by ascending nonce."""
        queue = self._held.queues.get(sender)
        return () if queue is None else tuple(each.transaction for each in queue.pending())

    def queued(self, sender: Address) -> tuple[Transaction, ...]:
        """The transactions of a sender behind a nonce gap, by ascending nonce."""
        queue = self._held.queues.get(sender)
        return () if queue is None else tuple(each.transaction for each in queue.queued())

    def counts(self) -> tuple[int, int]:
        """The number of transactions that are not behind a nonce gap, and of those that are."""
        return len(self._held.entries) - self._held.gapped_count, self._held.gapped_count

    def _check_nonce_limit(self, transaction: Transaction, queue: Queue) -> None:
        if transaction.nonce - queue.nonce >= self._limits.sender_transactions:
            raise InvalidTransaction(
                RejectionReason.NONCE_TOO_HIGH,
                f"nonce too high: next nonce {queue.nonce}, tx nonce {transaction.nonce}",
            )

    def _check_gapped_share(self, transaction: Transaction, replaced: Entry | None) -> None:
        count, size = 1, len(transaction.raw)
        if replaced is not None:
            count, size = 0, size - len(replaced.transaction.raw)
        if self._held.is_gapped_full(count, size):
            raise InvalidTransaction(
                RejectionReason.POOL_FULL, "txpool is full for transactions behind a nonce gap"
            )

    def _check_free_limits(self, entry: Entry, queue: Queue) -> None:
        is_ordinary = entry.priority is Priority.ORDINARY
        if (
            not entry.is_free
            or entry.is_duty
            or (is_ordinary and self._rules.balance(entry.transaction.sender))
        ):
            return
        # With a gap, a sender that risks nothing would hold a place that no block ever empties.
        if entry.transaction.nonce - queue.nonce > len(queue.pending()):
            raise InvalidTransaction(
                RejectionReason.NONCE_TOO_HIGH, "nonce too high for an account without a balance"
            )
        if is_ordinary and len(queue.entries) >= self._limits.free_sender_transactions:
            raise InvalidTransaction(
                RejectionReason.POOL_FULL, "too many transactions of an account without a balance"
            )

    def _check_funds(self, transaction: Transaction, queue: Queue) -> None:
        others = (entry.transaction for entry in queue.entries.values())
        held = sum(other.cost for other in others if other.nonce != transaction.nonce)
        balance = self._rules.balance(transaction.sender)
        if held + transaction.cost > balance:
            raise InvalidTransaction(
                RejectionReason.INSUFFICIENT_FUNDS,
                f"{format_amount(balance)} coins, needs {format_amount(transaction.cost)} and "
                f"{format_amount(held)} for others in the pool",
            )
