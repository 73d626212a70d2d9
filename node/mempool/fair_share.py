"""A part of the mempool that calls of many tasks or operators share fairly.

A call may cost its sender nothing on a chain where gas is free, and any account can register as a
miner of a task of its own. So commitments with priority, and calls that came too early for theirs,
may each fill only a part of the pool. When that is full, the task or the operator that holds the
most of it makes room for the others.
"""

from typing import TypeAlias

from chain.primitives import Address, Hash32, TaskId

Group: TypeAlias = Address | TaskId
"""Who takes turns: operators with their votes and duties, tasks with the commitments of miners."""


class FairShare:
    """The calls in one part of the pool by task or operator, and their number and bytes.

    Args:
        count_limit: The most calls.
        size_limit: The most encoded bytes of all calls.
    """

    def __init__(self, count_limit: int, size_limit: int) -> None:
        self._count_limit = count_limit
        self._size_limit = size_limit
        self._count = 0
        self._size = 0
        self._groups: dict[Group, dict[Hash32, int]] = {}
        """The encoded bytes of each call, in the order of their admission."""
        self._sizes: dict[Group, int] = {}
        """The encoded bytes of all calls of each group."""

    def has_room(self, size: int) -> bool:
        """Whether one more call of `size` bytes fits."""
        return self._count < self._count_limit and self._size + size <= self._size_limit

    def find_victims(self, group: Group, size: int) -> tuple[Hash32, ...] | None:
        """The calls that make room for one of `group` with `size` bytes.

        Each is the last one of the group that holds the largest part of the share, of its number or
        of its bytes. None if `group` would then hold as much as that one.
        """
        if self.has_room(size):
            return ()
        left = {each: (len(held), self._sizes[each]) for each, held in self._groups.items()}
        newest = {each: reversed(held.items()) for each, held in self._groups.items()}
        own_count, own_size = left.get(group, (0, 0))
        wanted = self._weigh(own_count + 1, own_size + size)
        victims: list[Hash32] = []
        count, total = self._count, self._size
        while count >= self._count_limit or total + size > self._size_limit:
            largest = max(left, key=lambda each: self._weigh(*left[each]), default=None)
            # So two groups never make room for each other in turn.
            if largest is None or self._weigh(*left[largest]) <= wanted:
                return None
            transaction_hash, freed = next(newest[largest])
            left[largest] = (left[largest][0] - 1, left[largest][1] - freed)
            victims.append(transaction_hash)
            count, total = count - 1, total - freed
        return tuple(victims)

    def _weigh(self, count: int, size: int) -> int:
        """The part of the share that some calls fill, times the product of both limits."""
        return max(count * self._size_limit, size * self._count_limit)

    def add(self, group: Group, transaction_hash: Hash32, size: int) -> None:
        """Take note of a call that has a place in the share."""
        self._groups.setdefault(group, {})[transaction_hash] = size
        self._sizes[group] = self._sizes.get(group, 0) + size
        self._count += 1
        self._size += size

    def remove(self, group: Group, transaction_hash: Hash32) -> None:
        """Take note that a call has left its place."""
        held = self._groups[group]
        size = held.pop(transaction_hash)
        self._sizes[group] -= size
        self._size -= size
        self._count -= 1
        if not held:
            del self._groups[group], self._sizes[group]
