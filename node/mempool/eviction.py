"""Which transactions make room in a full mempool (docs/spec/wire.md, section 5).

Both orders are heaps that are kept up to date at each change of a queue, because strangers can have
a full pool asked a thousand times a second, in the thread in which consensus runs. A heap may hold
items that no longer hold; they are dropped when they come up.
"""

import heapq
from collections.abc import Callable, Collection, Generator, Mapping
from typing import TypeAlias, TypeVar

from chain.primitives import Address, Hash32
from node.mempool.entries import Entry, Queue, Rank
from node.mempool.policy import Priority

_SenderItem: TypeAlias = tuple[Rank, Address]
_FreeItem: TypeAlias = tuple[int, int, Hash32]

T = TypeVar("T", _SenderItem, _FreeItem)


class _LazyHeap(list[T]):
    """A heap with items that may no longer hold."""

    def put(self, item: T, limit: int, list_valid: Callable[[], list[T]]) -> None:
        """Add an item; above `limit` items, begin anew with those that hold."""
        heapq.heappush(self, item)
        if len(self) > limit:
            self[:] = list_valid()
            heapq.heapify(self)


class Eviction:
    """The orders in which transactions make room.

    Args:
        queues: The queues of the pool by sender.
        entries: The entries of the pool by hash.
        limit: The most entries of the pool.
    """

    def __init__(
        self, queues: Mapping[Address, Queue], entries: Mapping[Hash32, Entry], limit: int
    ) -> None:
        self._queues = queues
        self._entries = entries
        self._heap_limit = 2 * limit
        self._senders: _LazyHeap[_SenderItem] = _LazyHeap()
        """Each sender with the rank of its lowest-ranked transaction."""
        self._free: _LazyHeap[_FreeItem] = _LazyHeap()
        """Each free transaction with its standing, the newest first."""

    def note_change(self, sender: Address, queue: Queue) -> None:
        """Update the orders after a change of a sender's queue."""
        earlier = queue.lowest
        for entry in queue.update_ranks():
            name = entry.transaction.hash
            item = (queue.standings[name], -entry.arrival, name)
            self._free.put(item, self._heap_limit, self._list_free)
        if queue.lowest is not None and queue.lowest != earlier:
            self._senders.put((queue.lowest, sender), self._heap_limit, self._list_senders)

    def list_cheapest(
        self, entry: Entry, chosen: Collection[Hash32], *, is_free: bool
    ) -> Generator[Entry]:
        """Those that make room for `entry` in the pool, one after the other.

        Each is the last transaction of the sender of the lowest-ranked one, since any other would
        leave a nonce gap. None ranks as high as `entry`. All count as free if `entry` does, unless
        that is a commitment. A call with priority passes over what its own sender sent before.

        Args:
            entry: The newcomer.
            chosen: Those that make room for it already; the caller adds to them.
            is_free: Whether the newcomer counts as free.
        """
        own = entry.transaction.sender
        rest: list[tuple[Rank, Address, list[int]]] = []
        """What is left of senders of which some make room."""
        taken: dict[Address, _SenderItem] = {}
        may_evict_paying = not is_free or entry.priority is Priority.COMMITMENT
        try:
            while True:
                first = self._find_first_sender(taken)
                if rest and (first is None or rest[0] < first):
                    rank, sender, nonces = heapq.heappop(rest)
                elif first is not None:
                    heapq.heappop(self._senders)
                    rank, sender = taken[first[1]] = first
                    nonces = sorted(self._queues[sender].entries)
                else:
                    return
                if rank[:2] >= entry.rank(entry.priority)[:2]:
                    return
                if sender == own:
                    if entry.priority is Priority.ORDINARY:
                        return
                    continue
                queue = self._queues[sender]
                while nonces:
                    nonce = nonces.pop()
                    victim = queue.entries[nonce]
                    if victim.transaction.hash not in chosen:
                        if not may_evict_paying and victim.transaction.hash not in queue.standings:
                            return
                        yield victim
                    if queue.ranks[nonce] == rank:
                        break
                if nonces:
                    lowest = min(queue.ranks[nonce] for nonce in nonces)
                    heapq.heappush(rest, (lowest, sender, nonces))
        finally:
            for each in taken.values():
                heapq.heappush(self._senders, each)

    def list_free(
        self, entry: Entry, chosen: Collection[Hash32], demoted: Collection[Hash32]
    ) -> Generator[Entry]:
        """What counts as free and makes room for `entry`: of the least standing, the newest first.

        None has as much standing as `entry`, and none is of the same sender, because `entry` may
        have to wait behind it.

        Args:
            entry: The newcomer.
            chosen: Those that make room for it already.
            demoted: Early calls that lose their places to `entry`, and count as ordinary ones.
        """
        taken: dict[Hash32, _FreeItem] = {}
        lowered = [
            (0, -self._entries[each].arrival, each)
            for each in demoted
            if self._find_standing(each) == 1
        ]
        heapq.heapify(lowered)
        try:
            while True:
                first = self._find_first_free(taken)
                if lowered and (first is None or lowered[0] < first):
                    standing, _, name = heapq.heappop(lowered)
                elif first is not None:
                    heapq.heappop(self._free)
                    standing, _, name = taken[first[2]] = first
                    if name in demoted and standing == 1:
                        continue
                else:
                    return
                if standing >= entry.standing:
                    return
                victim = self._entries[name]
                if victim.transaction.sender != entry.transaction.sender and name not in chosen:
                    yield victim
        finally:
            for each in taken.values():
                heapq.heappush(self._free, each)

    def _find_first_sender(self, taken: Collection[Address]) -> _SenderItem | None:
        while self._senders:
            rank, sender = self._senders[0]
            queue = self._queues.get(sender)
            if queue is not None and queue.lowest == rank and sender not in taken:
                return rank, sender
            heapq.heappop(self._senders)
        return None

    def _find_first_free(self, taken: Collection[Hash32]) -> _FreeItem | None:
        while self._free:
            standing, arrival, name = self._free[0]
            is_valid = name not in taken and self._find_standing(name) == standing
            if is_valid and -self._entries[name].arrival == arrival:
                return standing, arrival, name
            heapq.heappop(self._free)
        return None

    def _find_standing(self, name: Hash32) -> int | None:
        entry = self._entries.get(name)
        if entry is None:
            return None
        return self._queues[entry.transaction.sender].standings.get(name)

    def _list_senders(self) -> list[_SenderItem]:
        return [
            (queue.lowest, sender)
            for sender, queue in self._queues.items()
            if queue.lowest is not None
        ]

    def _list_free(self) -> list[_FreeItem]:
        return [
            (standing, -entry.arrival, name)
            for name, entry in self._entries.items()
            if (standing := self._find_standing(name)) is not None
        ]
