"""The transactions of the mempool, each with what the pool knows of it, and queued by sender."""

from dataclasses import dataclass, field
from typing import Final

from chain.primitives import Address
from chain.types.transaction import Transaction
from node.mempool.policy import Priority, Subject

CARRIED_GAS_LIMIT: Final = 12_000_000
"""The most gas that the ordinary transactions before an operator's vote may ask for, if they are to
go with it. It is enough for a call that imposes fines (9 million) and two votes (1.5 million each)
that came too late. The contracts accept each vote once, so this moves few other transactions.
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A transaction in the pool."""

    transaction: Transaction
    priority: Priority
    subject: Subject | None
    """The subject of a vote or commitment with priority; None for an ordinary transaction."""
    is_early: bool
    """Whether it has no priority because the contracts would not accept it yet."""
    is_duty: bool
    """Whether it is an operator's vote or duty, with priority or without."""
    is_free: bool
    """Whether the transaction counts towards FREE_SHARE: it offers nothing or less than this node's
    gas price, and is no vote or duty."""
    free_gas: int
    """Its gas limit if it shares the ration of free gas at the base fee of its admission; else 0.
    """
    arrival: int
    """The position in the order of admission, which breaks ties."""
    admitted_block: int
    """The number of blocks that the pool had seen when the transaction was admitted."""
    authorities: tuple[Address, ...]
    """The accounts that its authorizations may make delegate."""

    @property
    def worth(self) -> tuple[int, int, int]:
        """The rank of the entry; the lowest rank is evicted first."""
        return -self.priority, self.transaction.max_priority_fee_per_gas, -self.arrival


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

    def pending(self) -> list[Entry]:
        """The entries with consecutive nonces, beginning with the account's next nonce."""
        run: list[Entry] = []
        while (entry := self.entries.get(self.nonce + len(run))) is not None:
            run.append(entry)
        return run

    def count_carried(self) -> int:
        """How many of the entries of `pending` have the priority of an operator's vote.

        Those before a vote have it, because the vote cannot go before them.
        """
        carried_count, gas = 0, 0
        for position, entry in enumerate(self.pending()):
            if entry.priority is Priority.OPERATOR_VOTE:
                carried_count, gas = position + 1, 0
            else:
                gas += entry.transaction.gas_limit
                if gas > CARRIED_GAS_LIMIT:
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
