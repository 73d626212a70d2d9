"""The mempool: transactions that wait for a block (docs/spec/wire.md, section 5).

Policy of this node, never validity. Bounded in every direction: transactions, bytes, transactions a
sender, nonces ahead of the account, blocks of waiting. A sender's transactions leave in the order
of their nonces; among senders operator votes go first, then commitments, then the higher tip.

Where gas may cost nothing, whoever has nothing to lose shares a quarter of the pool. So does what
waits behind a nonce gap, which no block may ever take, and it pushes nobody out. A sender's
transactions need a balance for all of them together.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Protocol

from cachetools import FIFOCache

from chain.errors import InvalidTransaction, RejectionReason
from chain.primitives import Address, Hash32
from chain.types.transaction import Transaction
from node.chain.finalizer import NewHead

REPLACEMENT_PERCENT: Final = 110
"""geth's price bump: a replacement pays the network for having carried two."""

FREE_SHARE: Final = 4
"""Senders without a balance get one part in this many of the pool."""

GAPPED_SHARE: Final = 4
"""What waits behind nonce gaps gets one part in this many of the pool."""

REFUSED_LIMIT: Final = 8_192
"""Hashes of refused transactions that are remembered until the next block."""


class Priority(IntEnum):
    """Who goes first into a block."""

    OPERATOR_VOTE = 0
    """Ready, verdict and result transactions of validators' operators."""
    COMMITMENT = 1
    """Gradient commitments of registered miners."""
    ORDINARY = 2


class HeadRules(Protocol):
    """What the mempool asks of the chain, always against the state of the head."""

    def validate(self, transaction: Transaction) -> None:
        """Accept a transaction that could be included once its nonce is due.

        Raises:
            InvalidTransaction: it could not; a nonce that is too low is one reason, a nonce that
                is too high is none.
        """

    def nonce(self, sender: Address) -> int:
        """The account's next nonce."""

    def balance(self, sender: Address) -> int:
        """The account's balance in wei."""

    def classify(self, transaction: Transaction) -> Priority:
        """Which queue of the block the transaction belongs to."""


@dataclass(frozen=True, slots=True)
class MempoolLimits:
    """The bounds of a mempool."""

    transactions: int = 8_192
    """Some 20 full blocks of transfers."""
    size_bytes: int = 32 * 2**20
    """Eight full blocks of calldata."""
    sender_transactions: int = 64
    """A sender's transactions, and how far its nonces may run ahead of the account (geth: 64)."""
    free_sender_transactions: int = 4
    """The same for a sender without a balance: enough for approve, register and claim."""
    waiting_blocks: int = 3_600
    """After so many blocks a transaction is dropped: 30 minutes at two blocks a second."""
    banned: int = 4_096
    """Hashes of banned transactions that are remembered, the latest ones."""


@dataclass(frozen=True, slots=True)
class _Entry:
    transaction: Transaction
    priority: Priority
    is_free: bool
    """The sender had no balance, and the transaction is an ordinary one."""
    arrival: int
    """Position in the order of admission, which breaks ties."""
    admitted_block: int

    @property
    def worth(self) -> tuple[int, int, int]:
        """Order of eviction, least first."""
        return -self.priority, self.transaction.max_priority_fee_per_gas, -self.arrival


@dataclass(slots=True)
class _Queue:
    """One sender's entries by nonce."""

    nonce: int
    """The account's next nonce at the head."""
    entries: dict[int, _Entry] = field(default_factory=dict)
    gapped_count: int = 0
    gapped_bytes: int = 0

    def pending(self) -> list[_Entry]:
        """The entries without a gap from the account's nonce on."""
        run: list[_Entry] = []
        while (entry := self.entries.get(self.nonce + len(run))) is not None:
            run.append(entry)
        return run

    def queued(self) -> list[_Entry]:
        """The entries behind a gap, by ascending nonce."""
        first = self.nonce + len(self.pending())
        return [self.entries[nonce] for nonce in sorted(self.entries) if nonce >= first]


class Mempool:
    """A bounded pool of decoded transactions; one thread at a time.

    Args:
        rules: the chain's one rule function, and its accounts.
        limits: how much is held.
    """

    def __init__(self, rules: HeadRules, limits: MempoolLimits | None = None) -> None:
        self._rules = rules
        self._limits = limits or MempoolLimits()
        self._entries: dict[Hash32, _Entry] = {}
        self._queues: dict[Address, _Queue] = {}
        self._banned: FIFOCache[Hash32, None] = FIFOCache(self._limits.banned)
        self._refused: FIFOCache[Hash32, None] = FIFOCache(REFUSED_LIMIT)
        self._cheapest: list[tuple[tuple[int, int, int], Hash32]] = []
        self._size_bytes = 0
        self._free_count = 0
        self._free_bytes = 0
        self._gapped_count = 0
        self._gapped_bytes = 0
        self._arrivals = 0
        self._blocks = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, transaction_hash: Hash32) -> bool:
        return transaction_hash in self._entries

    @property
    def size_bytes(self) -> int:
        """The encoded bytes of all transactions held."""
        return self._size_bytes

    def get(self, transaction_hash: Hash32) -> Transaction | None:
        """The transaction with that hash, or None if it is not held."""
        entry = self._entries.get(transaction_hash)
        return None if entry is None else entry.transaction

    def hashes(self) -> tuple[Hash32, ...]:
        """All transactions held, in the order they came."""
        return tuple(self._entries)

    def add(self, transaction: Transaction) -> None:
        """Admit a transaction, in the place of a cheaper one where that is needed.

        Raises:
            InvalidTransaction: why not; the detail is geth's text where clients know one.
        """
        try:
            self._admit(transaction)
        except InvalidTransaction:
            self._refused.setdefault(transaction.hash, None)
            raise

    def is_settled(self, transaction_hash: Hash32) -> bool:
        """Whether it is held, banned, or was refused since the last block: not worth a look."""
        return any(
            transaction_hash in each for each in (self._entries, self._refused, self._banned)
        )

    def _admit(self, transaction: Transaction) -> None:
        if transaction.hash in self._entries:
            raise InvalidTransaction(RejectionReason.ALREADY_KNOWN, "already known")
        if transaction.hash in self._banned:
            raise InvalidTransaction(
                RejectionReason.BANNED, "execution takes longer than a block has time for"
            )
        self._rules.validate(transaction)
        sender = transaction.sender
        account_nonce = self._rules.nonce(sender)
        if transaction.nonce < account_nonce:
            raise InvalidTransaction(
                RejectionReason.NONCE_TOO_LOW,
                f"nonce too low: next nonce {account_nonce}, tx nonce {transaction.nonce}",
            )
        priority = self._rules.classify(transaction)
        entry = _Entry(
            transaction,
            priority,
            priority is Priority.ORDINARY and self._rules.balance(sender) == 0,
            self._arrivals,
            self._blocks,
        )
        queue = self._queues.get(sender) or _Queue(account_nonce)
        replaced = queue.entries.get(transaction.nonce)
        if replaced is None:
            self._check_sender_limits(entry, queue)
        else:
            _check_replacement(transaction, replaced.transaction)
        self._check_funds(transaction, queue)
        is_gapped = transaction.nonce - queue.nonce > len(queue.pending())
        self._make_room(entry, replaced, is_gapped=is_gapped)
        if replaced is not None:
            self._remove(replaced)
        self._insert(entry, account_nonce)

    def drop(self, transaction_hash: Hash32, *, ban: bool = False) -> None:
        """Forget a transaction that could not be included; with `ban`, refuse it from now on."""
        entry = self._entries.get(transaction_hash)
        if entry is not None:
            self._take_out(entry)
        if ban:
            self._banned.setdefault(transaction_hash, None)

    def on_finalized(self, transactions: Iterable[Transaction]) -> None:
        """Take out what a finalized block included or made stale. The rules are the new head's."""
        self._blocks += 1
        self._refused.clear()
        for sender in {transaction.sender: None for transaction in transactions}:
            queue = self._queues.get(sender)
            if queue is None:
                continue
            queue.nonce = self._rules.nonce(sender)
            for nonce in [nonce for nonce in queue.entries if nonce < queue.nonce]:
                self._remove(queue.entries[nonce])
            self._count_gapped(queue)
        oldest_kept = self._blocks - self._limits.waiting_blocks
        for entry in list(self._entries.values()):
            if entry.admitted_block >= oldest_kept:
                break
            if entry.transaction.hash in self._entries:
                self._take_out(entry)

    def on_new_head(self, head: NewHead) -> None:
        """Take out what became final with a new head, wherever it came from."""
        if head.is_snapshot:  # any transaction may be in a block that the snapshot skipped
            self.on_finalized([entry.transaction for entry in self._entries.values()])
        else:
            self.on_finalized(head.transactions)

    def candidates(self, base_fee_per_gas: int = 0) -> Iterator[Transaction]:
        """What a block may include, best first, each sender's by ascending nonce.

        Works on a copy: the pool may change, and another thread may iterate. Who cannot include a
        transaction skips the later ones of its sender.
        """
        return _merge([queue.pending() for queue in self._queues.values()], base_fee_per_gas)

    def pending_nonce(self, sender: Address) -> int:
        """The nonce that the sender's next transaction should have."""
        queue = self._queues.get(sender)
        if queue is None:
            return self._rules.nonce(sender)
        return queue.nonce + len(queue.pending())

    def content(
        self,
    ) -> dict[Address, tuple[tuple[Transaction, ...], tuple[Transaction, ...]]]:
        """By ascending sender: the transactions due in turn, and those behind a nonce gap."""
        return {
            sender: (
                tuple(entry.transaction for entry in queue.pending()),
                tuple(entry.transaction for entry in queue.queued()),
            )
            for sender, queue in sorted(self._queues.items())
        }

    def counts(self) -> tuple[int, int]:
        """How many transactions are due, and how many are behind a nonce gap."""
        return len(self._entries) - self._gapped_count, self._gapped_count

    def _check_sender_limits(self, entry: _Entry, queue: _Queue) -> None:
        ahead = entry.transaction.nonce - queue.nonce
        if ahead >= self._limits.sender_transactions:
            raise InvalidTransaction(
                RejectionReason.NONCE_TOO_HIGH,
                f"nonce too high: next nonce {queue.nonce}, tx nonce {entry.transaction.nonce}",
            )
        if not entry.is_free:
            return
        # A gap would let senders who risk nothing hold places that no block can empty.
        if ahead > len(queue.pending()):
            raise InvalidTransaction(
                RejectionReason.NONCE_TOO_HIGH, "nonce too high for an account without a balance"
            )
        if len(queue.entries) >= self._limits.free_sender_transactions:
            raise InvalidTransaction(
                RejectionReason.POOL_FULL, "too many transactions of an account without a balance"
            )

    def _check_funds(self, transaction: Transaction, queue: _Queue) -> None:
        others = (entry.transaction for entry in queue.entries.values())
        held = sum(other.cost for other in others if other.nonce != transaction.nonce)
        balance = self._rules.balance(transaction.sender)
        if held + transaction.cost > balance:
            raise InvalidTransaction(
                RejectionReason.INSUFFICIENT_FUNDS,
                f"balance {balance}, needs {transaction.cost} and {held} for others in the pool",
            )

    def _is_gapped_full(self, count: int = 0, size: int = 0) -> bool:
        """Whether so much more than is held would be too much behind gaps."""
        return (
            self._gapped_count + count > self._limits.transactions // GAPPED_SHARE
            or self._gapped_bytes + size > self._limits.size_bytes // GAPPED_SHARE
        )

    def _count_gapped(self, queue: _Queue) -> None:
        """Bring the sums up to date with a queue that changed."""
        queued = queue.queued()
        size = sum(len(entry.transaction.raw) for entry in queued)
        self._gapped_count += len(queued) - queue.gapped_count
        self._gapped_bytes += size - queue.gapped_bytes
        queue.gapped_count, queue.gapped_bytes = len(queued), size

    def _make_room(self, entry: _Entry, replaced: _Entry | None, *, is_gapped: bool) -> None:
        """Evict until `entry` fits in the place of `replaced`, or refuse it."""
        count, size = 1, len(entry.transaction.raw)
        free_count, free_bytes = (count, size) if entry.is_free else (0, 0)
        if replaced is not None:
            count, size = 0, size - len(replaced.transaction.raw)
            if replaced.is_free:
                free_count, free_bytes = free_count - 1, free_bytes - len(replaced.transaction.raw)
        if entry.is_free and (
            self._free_count + free_count > self._limits.transactions // FREE_SHARE
            or self._free_bytes + free_bytes > self._limits.size_bytes // FREE_SHARE
        ):
            raise InvalidTransaction(
                RejectionReason.POOL_FULL, "txpool is full for accounts without a balance"
            )
        if is_gapped and self._is_gapped_full(count, size):
            raise InvalidTransaction(
                RejectionReason.POOL_FULL, "txpool is full for nonces that are not due"
            )
        while (
            len(self._entries) + count > self._limits.transactions
            or self._size_bytes + size > self._limits.size_bytes
        ):
            if is_gapped:
                raise InvalidTransaction(RejectionReason.POOL_FULL, "txpool is full")
            self._evict_for(entry)

    def _evict_for(self, entry: _Entry) -> None:
        """Drop the last transaction of whoever sent the least worthy one, if that is below `entry`.

        The last one, since dropping another would leave a gap before it.
        """
        while True:
            # A full pool holds something, so there is an entry that is not outdated.
            worth, transaction_hash = self._cheapest[0]
            held = self._entries.get(transaction_hash)
            if held is not None and held.worth == worth:
                break
            heapq.heappop(self._cheapest)
        sender = held.transaction.sender
        if sender == entry.transaction.sender or worth[:2] >= entry.worth[:2]:
            raise InvalidTransaction(RejectionReason.POOL_FULL, "txpool is full")
        queue = self._queues[sender]
        self._remove(queue.entries[max(queue.entries)])

    def _insert(self, entry: _Entry, account_nonce: int) -> None:
        transaction = entry.transaction
        self._arrivals += 1
        self._entries[transaction.hash] = entry
        queue = self._queues.setdefault(transaction.sender, _Queue(account_nonce))
        queue.nonce = account_nonce
        queue.entries[transaction.nonce] = entry
        self._count_gapped(queue)
        self._size_bytes += len(transaction.raw)
        if entry.is_free:
            self._free_count += 1
            self._free_bytes += len(transaction.raw)
        heapq.heappush(self._cheapest, (entry.worth, transaction.hash))
        if len(self._cheapest) > 2 * self._limits.transactions:
            self._cheapest = [(held.worth, name) for name, held in self._entries.items()]
            heapq.heapify(self._cheapest)

    def _take_out(self, entry: _Entry) -> None:
        """Remove it, and what waits behind the gap that it leaves where that is too much."""
        queue = self._queues[entry.transaction.sender]
        self._remove(entry)
        while queue.entries and self._is_gapped_full():
            self._remove(queue.entries[max(queue.entries)])

    def _remove(self, entry: _Entry) -> None:
        transaction = entry.transaction
        del self._entries[transaction.hash]
        queue = self._queues[transaction.sender]
        del queue.entries[transaction.nonce]
        self._count_gapped(queue)
        if not queue.entries:
            del self._queues[transaction.sender]
        self._size_bytes -= len(transaction.raw)
        if entry.is_free:
            self._free_count -= 1
            self._free_bytes -= len(transaction.raw)


def _check_replacement(transaction: Transaction, replaced: Transaction) -> None:
    for new, old in (
        (transaction.max_fee_per_gas, replaced.max_fee_per_gas),
        (transaction.max_priority_fee_per_gas, replaced.max_priority_fee_per_gas),
    ):
        if new <= old or new * 100 < old * REPLACEMENT_PERCENT:
            raise InvalidTransaction(
                RejectionReason.REPLACEMENT_UNDERPRICED, "replacement transaction underpriced"
            )


def _merge(runs: Iterable[Sequence[_Entry]], base_fee_per_gas: int) -> Iterator[Transaction]:
    """The entries of all runs, each run in its order, otherwise best first."""
    heads: list[tuple[int, int, int, Transaction, Iterator[_Entry]]] = []

    def push_next(run: Iterator[_Entry]) -> None:
        entry = next(run, None)
        # Behind one that cannot pay the base fee, nothing of its sender can be included.
        if entry is not None and entry.transaction.max_fee_per_gas >= base_fee_per_gas:
            transaction = entry.transaction
            tip = transaction.compute_effective_gas_price(base_fee_per_gas) - base_fee_per_gas
            # Arrivals differ, so nothing behind them is compared.
            heapq.heappush(heads, (entry.priority, -tip, entry.arrival, transaction, run))

    for entries in runs:
        push_next(iter(entries))
    while heads:
        _, _, _, transaction, run = heapq.heappop(heads)
        yield transaction
        push_next(run)
