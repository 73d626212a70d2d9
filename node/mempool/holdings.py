"""What the mempool holds, and what makes room for a newcomer (docs/spec/wire.md, section 5)."""

from collections.abc import Collection
from contextlib import closing
from dataclasses import replace
from typing import Final

from chain.errors import InvalidTransaction, RejectionReason
from chain.primitives import Address, Hash32
from node.mempool.authorizations import PendingAuthorizations
from node.mempool.entries import Entry, Overflow, Queue
from node.mempool.eviction import Eviction
from node.mempool.fair_share import FairShare, Group
from node.mempool.policy import HeadRules, MempoolLimits, Priority, Subject
from node.mempool.waiting_calls import WaitingCalls

FREE_SHARE: Final = 4
"""All free transactions together may fill the pool's limits divided by this number."""

COMMITMENT_SHARE: Final = 4
"""All commitments with priority may fill the pool's limits divided by this number."""

EARLY_SHARE: Final = 16
"""Operators' calls that came too early may fill the pool's limits divided by this number, and early
commitments as much. So they leave half of FREE_SHARE to others."""

GAPPED_SHARE: Final = 4
"""All transactions behind nonce gaps may fill the pool's limits divided by this number."""


class Holdings:
    """The entries by hash and by sender, within the limits of the pool and of its shares."""

    def __init__(self, rules: HeadRules, limits: MempoolLimits) -> None:
        self._limits = limits
        self.entries: dict[Hash32, Entry] = {}
        self.queues: dict[Address, Queue] = {}
        self.commitments = FairShare(
            limits.transactions // COMMITMENT_SHARE,
            limits.size_bytes // COMMITMENT_SHARE,
        )
        self._early = {
            kind: FairShare(
                max(1, limits.transactions // EARLY_SHARE), limits.size_bytes // EARLY_SHARE
            )
            for kind in (Priority.OPERATOR_VOTE, Priority.COMMITMENT)
        }
        self.waiting = {
            Priority.OPERATOR_VOTE: WaitingCalls(),
            Priority.COMMITMENT: WaitingCalls(),
        }
        """What has a subject and no priority, by the priority that it may get."""
        self.authorizations = PendingAuthorizations(rules)
        self.size_bytes = 0
        self.waiting_free_gas = 0
        self.gapped_count = 0
        self.arrivals = 0
        """How many entries there have been, for their order."""
        self._eviction = Eviction(self.queues, self.entries, limits.transactions)
        self._free_count = 0
        self._free_bytes = 0
        self._gapped_bytes = 0

    def is_gapped_full(self, count: int = 0, size: int = 0) -> bool:
        """Whether gapped transactions exceed their share with `count` more, of `size` bytes."""
        return (
            self.gapped_count + count > self._limits.transactions // GAPPED_SHARE
            or self._gapped_bytes + size > self._limits.size_bytes // GAPPED_SHARE
        )

    def note_change(self, sender: Address, queue: Queue) -> None:
        """Update what depends on a sender's queue after a change of it."""
        queued = queue.queued()
        size = sum(len(entry.transaction.raw) for entry in queued)
        self.gapped_count += len(queued) - queue.gapped_count
        self._gapped_bytes += size - queue.gapped_bytes
        queue.gapped_count, queue.gapped_bytes = len(queued), size
        free_count, free_bytes = len(queue.standings), queue.free_bytes
        self._eviction.note_change(sender, queue)
        self._free_count += len(queue.standings) - free_count
        self._free_bytes += queue.free_bytes - free_bytes

    def make_room(self, entry: Entry, replaced: Entry | None, *, is_gapped: bool) -> None:
        """Evict transactions so that `entry` fits, without `replaced`.

        If those that may make room do not suffice, none is evicted and `entry` is refused.
        """
        in_pool = Overflow(
            len(self.entries) - self._limits.transactions,
            self.size_bytes - self._limits.size_bytes,
        )
        in_free = Overflow(
            self._free_count - self._limits.transactions // FREE_SHARE,
            self._free_bytes - self._limits.size_bytes // FREE_SHARE,
        )
        victims: dict[Hash32, Entry] = {}
        demoted = self._find_demoted(entry)

        def change(each: Entry, count: int) -> None:
            in_pool.change(each, count)
            if self._counts_as_free(each):
                in_free.change(each, count)

        def evict(victim: Entry | None, detail: str = "txpool is full") -> None:
            if victim is None or victim.transaction.sender == entry.transaction.sender:
                raise InvalidTransaction(RejectionReason.POOL_FULL, detail)
            victims[victim.transaction.hash] = victim
            change(victim, -1)

        queue = self.queues.get(entry.transaction.sender)
        free_now = (queue or Queue(entry.transaction.nonce)).list_free_with(entry, replaced)
        in_pool.change(entry, 1)
        for added in free_now:
            in_free.change(added, 1)
        if replaced is not None:
            change(replaced, -1)
        if entry.priority is Priority.COMMITMENT:
            # None cannot be here: it has no priority then.
            size = len(entry.transaction.raw)
            for each in self.commitments.find_victims(entry.group, size) or ():
                evict(self.entries[each])
        with closing(self._eviction.list_free(entry, victims, demoted)) as free:
            while free_now and in_free.is_left:
                evict(next(free, None), "txpool is full for transactions at this price")
        with closing(
            self._eviction.list_cheapest(entry, victims, is_free=bool(free_now))
        ) as cheapest:
            while in_pool.is_left:
                evict(None if is_gapped else next(cheapest, None))
        for victim in victims.values():
            if victim.transaction.hash in self.entries:  # it did not leave behind another's gap
                self.take_out(victim)
        for each in demoted:
            # What is replaced leaves its place anyway.
            if each in self.entries and self.entries[each] is not replaced:
                self._demote(self.entries[each])

    def _counts_as_free(self, entry: Entry) -> bool:
        """Whether an entry of the pool is free, or waits behind one of the ration."""
        return entry.transaction.hash in self.queues[entry.transaction.sender].standings

    def has_early_room(self, subject: Subject, group: Group, size: int) -> bool:
        """Whether a call that came too early finds a place in its share."""
        return self._early[subject.priority].find_victims(group, size) is not None

    def _find_demoted(self, entry: Entry) -> Collection[Hash32]:
        """The early calls that lose their places to `entry`; they stay in the pool as ordinary."""
        if not entry.is_early or entry.subject is None:
            return ()
        share = self._early[entry.subject.priority]
        return share.find_victims(entry.group, len(entry.transaction.raw)) or ()

    def _demote(self, entry: Entry) -> None:
        assert entry.subject is not None
        transaction = entry.transaction
        self._early[entry.subject.priority].remove(entry.group, transaction.hash)
        ordinary = replace(entry, is_early=False)
        self.entries[transaction.hash] = ordinary
        queue = self.queues[transaction.sender]
        queue.entries[transaction.nonce] = ordinary
        self.note_change(transaction.sender, queue)

    def advance(self, sender: Address, account_nonce: int) -> None:
        """Note the next nonce of an account at the head, and remove what it has made stale.

        No entry may stay below that nonce: it is no candidate, so nothing would remove it.
        """
        queue = self.queues.get(sender)
        if queue is None or queue.nonce == account_nonce:
            return
        queue.nonce = account_nonce
        for nonce in [nonce for nonce in queue.entries if nonce < account_nonce]:
            self.remove(queue.entries[nonce])
        self.note_change(sender, queue)

    def insert(self, entry: Entry, account_nonce: int) -> None:
        """Hold an entry; its sender's next nonce is `account_nonce`."""
        transaction = entry.transaction
        self.arrivals += 1
        self.entries[transaction.hash] = entry
        queue = self.queues.setdefault(transaction.sender, Queue(account_nonce))
        assert queue.nonce == account_nonce
        queue.entries[transaction.nonce] = entry
        self.note_change(transaction.sender, queue)
        self.size_bytes += len(transaction.raw)
        self.authorizations.add(entry.authorities)
        self.waiting_free_gas += entry.free_gas
        if entry.subject is not None:
            size = len(transaction.raw)
            if entry.priority is Priority.COMMITMENT:
                self.commitments.add(entry.group, transaction.hash, size)
            if entry.priority is Priority.ORDINARY:
                self.waiting[entry.subject.priority].add(
                    entry.group, transaction.sender, transaction.hash
                )
            if entry.is_early:
                self._early[entry.subject.priority].add(entry.group, transaction.hash, size)

    def take_out(self, entry: Entry) -> None:
        """Remove an entry. If it leaves too many behind a nonce gap, remove the last of those."""
        queue = self.queues[entry.transaction.sender]
        self.remove(entry)
        while queue.entries and self.is_gapped_full():
            self.remove(queue.entries[max(queue.entries)])

    def remove(self, entry: Entry) -> None:
        """Hold an entry no longer."""
        transaction = entry.transaction
        del self.entries[transaction.hash]
        queue = self.queues[transaction.sender]
        del queue.entries[transaction.nonce]
        self.note_change(transaction.sender, queue)
        if not queue.entries:
            del self.queues[transaction.sender]
        self.size_bytes -= len(transaction.raw)
        self.authorizations.remove(entry.authorities)
        self.waiting_free_gas -= entry.free_gas
        if entry.subject is not None:
            if entry.priority is Priority.COMMITMENT:
                self.commitments.remove(entry.group, transaction.hash)
            if entry.priority is Priority.ORDINARY:
                self.waiting[entry.subject.priority].remove(
                    entry.group, transaction.sender, transaction.hash
                )
            if entry.is_early:
                self._early[entry.subject.priority].remove(entry.group, transaction.hash)
