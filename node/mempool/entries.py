"""The transactions of the mempool, each with what the pool knows of it, and queued by sender."""

from dataclasses import dataclass, field

from chain.primitives import Address
from chain.types.transaction import Transaction
from node.mempool.policy import Priority, Subject


@dataclass(frozen=True, slots=True)
class Entry:
    """A transaction in the pool."""

    transaction: Transaction
    priority: Priority
    subject: Subject | None
    """The subject of a vote or commitment with priority; None for an ordinary transaction."""
    is_free: bool
    """Whether the transaction counts towards FREE_SHARE: it offers no fee, and is no vote with
    priority."""
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

    @property
    def pays(self) -> bool:
        """Whether the transaction offers a fee."""
        return self.transaction.max_fee_per_gas > 0


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

    def queued(self) -> list[Entry]:
        """The entries behind a nonce gap, by ascending nonce."""
        first = self.nonce + len(self.pending())
        return [self.entries[nonce] for nonce in sorted(self.entries) if nonce >= first]
