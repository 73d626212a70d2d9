"""The transactions of the mempool, each with what the pool knows of it, and queued by sender."""

from dataclasses import dataclass, field
from typing import Final, Self, TypeAlias

from chain.errors import InvalidTransaction, RejectionReason
from chain.primitives import Address, Hash32
from chain.types.transaction import Transaction
from node.mempool.fair_share import Group
from node.mempool.policy import Priority, Subject
from pot_common.gas_offer import REPLACEMENT_PERCENT

CARRIED_GAS_LIMIT: Final = 12_000_000
"""The most gas that the calls before an operator's vote may ask for, if they are to go with it: two
votes that came too late, and the fines of one batch. What they use is rationed."""


CARRIED_COMMITMENT_CALLS: Final = 4
"""How many transactions before a commitment make no room, since it waits behind them. A miner has
approved its bond, registered or claimed before."""

Rank: TypeAlias = tuple[int, int, int]
"""What makes room in a full pool goes by this, the lowest first: the class, the tip, and the order
of admission. Calls with priority do not go by their tip."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A transaction in the pool."""

    transaction: Transaction
    priority: Priority
    subject: Subject | None
    """The subject of an operator's vote or duty, or of a miner's commitment, also of one that the
    contracts refuse; None for any other."""
    is_early: bool
    """Whether it has no priority yet, and a place in the share of such calls."""
    is_free: bool
    """Whether it offers nothing or less than this node's gas price, and is no vote or duty with
    priority. It counts towards FREE_SHARE then; so may one that waits behind it (`Queue`)."""
    free_gas: int
    """Its gas limit if it shares the ration of free gas at the base fee of its admission; else 0.
    An operator's votes and duties have a ration of their own."""
    arrival: int
    """The position in the order of admission, which breaks ties."""
    admitted_block: int
    """The number of blocks that the pool had seen when the transaction was admitted."""
    authorities: tuple[Address, ...]
    """The accounts that its authorizations may make delegate."""

    @classmethod
    def build(
        cls,
        transaction: Transaction,
        priority: Priority,
        subject: Subject | None,
        *,
        is_early: bool,
        is_cheap: bool,
        arrival: int,
        admitted_block: int,
        authorities: tuple[Address, ...],
    ) -> Self:
        """The entry of a transaction; `is_cheap` if it offers less than this node's gas price."""
        is_ordinary, is_vote = priority is Priority.ORDINARY, priority is Priority.OPERATOR_VOTE
        is_duty = subject is not None and subject.priority is Priority.OPERATOR_VOTE
        return cls(
            transaction=transaction,
            priority=priority,
            subject=subject,
            is_early=is_early,
            is_free=not is_vote and (is_cheap or transaction.max_fee_per_gas == 0),
            free_gas=transaction.gas_limit if is_ordinary and is_cheap and not is_duty else 0,
            arrival=arrival,
            admitted_block=admitted_block,
            authorities=authorities,
        )

    @property
    def is_duty(self) -> bool:
        """Whether it is an operator's vote or duty, also one that the contracts refuse."""
        return self.subject is not None and self.subject.priority is Priority.OPERATOR_VOTE

    @property
    def group(self) -> Group:
        """The task or the operator whose turn the call takes; only for one with a subject."""
        assert self.subject is not None
        is_duty = self.subject.priority is Priority.OPERATOR_VOTE
        return self.transaction.sender if is_duty else self.subject.task_id

    def rank(self, priority: Priority) -> Rank:
        """The rank of the entry, if it has that priority, for example from a call behind it."""
        tip = self.transaction.max_priority_fee_per_gas if priority is Priority.ORDINARY else 0
        return -priority, tip, -self.arrival

    @property
    def standing(self) -> int:
        """3 for a transaction with priority, 1 for an early one, and 0 for others.

        Anybody with a seat can send calls that are too early for ever, so they keep no due one out.
        In the pool, an ordinary one before a call with priority has a standing of 2 (`Queue`).
        """
        return int(self.is_early) if self.priority is Priority.ORDINARY else 3


@dataclass(slots=True)
class Overflow:
    """What is too much in the pool, or in a share of it; negative if there is room."""

    count: int
    size: int
    """Encoded bytes."""

    @property
    def is_left(self) -> bool:
        """Whether something has to make room."""
        return self.count > 0 or self.size > 0

    def change(self, entry: Entry, count: int) -> None:
        """Count an entry that enters with 1, or leaves with -1."""
        self.count += count
        self.size += count * len(entry.transaction.raw)


@dataclass(slots=True)
class Queue:
    """The entries of one sender."""

    nonce: int
    """The account's next nonce at the head."""
    entries: dict[int, Entry] = field(default_factory=dict)
    """The entries by nonce."""
    gapped_count: int = 0
    """The number of entries behind a nonce gap, as last counted."""
    gapped_bytes: int = 0
    """The encoded bytes of those entries."""
    ranks: dict[int, Rank] = field(default_factory=dict)
    """The rank of each entry by nonce. An entry before a call with priority has that one's class,
    and one behind a transaction of the ration no higher tip than that has."""
    lowest: Rank | None = None
    """The lowest of these ranks; None without entries."""
    standings: dict[Hash32, int] = field(default_factory=dict)
    """By hash, the standing of each entry that counts as free: it is, or waits behind one of the
    ration, and is paid only after it."""
    free_bytes: int = 0
    """The encoded bytes of those entries."""

    def pending(self) -> list[Entry]:
        """The entries with consecutive nonces, beginning with the account's next nonce."""
        run: list[Entry] = []
        while (entry := self.entries.get(self.nonce + len(run))) is not None:
            run.append(entry)
        return run

    def update_ranks(self) -> list[Entry]:
        """Update `ranks` and `standings` after a change of the entries.

        Returns:
            The entries that count as free and did not before, or have another standing now.
        """
        pending, carried_count = self.pending(), self.count_carried()
        before_commitment = 0
        for position, entry in enumerate(pending[: CARRIED_COMMITMENT_CALLS + 1]):
            if entry.priority is Priority.COMMITMENT:
                before_commitment = position
        earlier, self.ranks, self.standings = self.standings, {}, {}
        self.free_bytes = 0
        least_tip: int | None = None
        for nonce, entry in sorted(self.entries.items()):
            priority = entry.priority
            if nonce - self.nonce < carried_count:
                priority = Priority.OPERATOR_VOTE
            elif nonce - self.nonce < before_commitment:
                priority = min(priority, Priority.COMMITMENT)
            rank = entry.rank(priority)
            if least_tip is not None and priority is Priority.ORDINARY:
                rank = (rank[0], min(rank[1], least_tip), rank[2])
            self.ranks[nonce] = rank
            if entry.is_free or (least_tip is not None and entry.priority is Priority.ORDINARY):
                is_carried = priority < entry.priority
                self.standings[entry.transaction.hash] = 2 if is_carried else entry.standing
                self.free_bytes += len(entry.transaction.raw)
            if entry.free_gas:
                tip = entry.transaction.max_priority_fee_per_gas
                least_tip = tip if least_tip is None else min(least_tip, tip)
        self.lowest = min(self.ranks.values(), default=None)
        return [
            entry
            for entry in self.entries.values()
            if (standing := self.standings.get(entry.transaction.hash)) is not None
            and standing != earlier.get(entry.transaction.hash)
        ]

    def list_free_with(self, entry: Entry, replaced: Entry | None) -> list[Entry]:
        """What counts as free from the admission of `entry` on, and did not before.

        What waits behind a transaction that shares the ration of free gas is paid only after it.
        """
        nonce = entry.transaction.nonce
        found: list[Entry] = []
        is_behind = entry.priority is Priority.ORDINARY and any(
            each.free_gas and each.transaction.nonce < nonce for each in self.entries.values()
        )
        if entry.is_free or is_behind:
            found.append(entry)
        if entry.free_gas:
            found += [
                each
                for each in self.entries.values()
                if each.transaction.nonce > nonce
                and each is not replaced
                and each.priority is Priority.ORDINARY
                and each.transaction.hash not in self.standings
            ]
        return found

    def holds(self, subject: Subject, nonce: int, *, with_early: bool) -> bool:
        """Whether an entry with another nonce has the priority of a subject, or is early for it."""
        return any(
            each.subject == subject
            and each.transaction.nonce != nonce
            and (each.priority is not Priority.ORDINARY or (with_early and each.is_early))
            for each in self.entries.values()
        )

    def count_carried(self) -> int:
        """How many of the entries of `pending` have the priority of an operator's vote.

        Refused votes and duties before a vote have it, because the vote cannot go before them. No
        other transaction has: an operator could fill each block with those. A proposer gives them
        little gas for nothing (`Candidates.refused`).
        """
        carried_count, gas = 0, 0
        for position, entry in enumerate(self.pending()):
            if entry.priority is Priority.OPERATOR_VOTE:
                carried_count = position + 1
                continue
            gas += entry.transaction.gas_limit
            if not entry.is_duty or gas > CARRIED_GAS_LIMIT:
                break
        return carried_count

    def rank(self) -> list[tuple[Priority, Entry]]:
        """The entries of `pending`, each with the priority that it has for a block."""
        carried_count = self.count_carried()
        return [
            (Priority.OPERATOR_VOTE if position < carried_count else entry.priority, entry)
            for position, entry in enumerate(self.pending())
        ]

    def queued(self) -> list[Entry]:
        """The entries behind a nonce gap, by ascending nonce."""
        first = self.nonce + len(self.pending())
        return [self.entries[nonce] for nonce in sorted(self.entries) if nonce >= first]


def check_replacement(transaction: Transaction, replaced: Transaction) -> None:
    """Accept a transaction that pays enough more than the one with its nonce.

    Raises:
        InvalidTransaction: REPLACEMENT_UNDERPRICED.
    """
    for new, old in (
        (transaction.max_fee_per_gas, replaced.max_fee_per_gas),
        (transaction.max_priority_fee_per_gas, replaced.max_priority_fee_per_gas),
    ):
        if new <= old or new * 100 < old * REPLACEMENT_PERCENT:
            raise InvalidTransaction(
                RejectionReason.REPLACEMENT_UNDERPRICED, "replacement transaction underpriced"
            )
