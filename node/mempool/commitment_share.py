"""The share of the mempool in which gradient commitments have priority.

A commitment costs its sender nothing on a chain where gas is free, and any account can register as
a miner of a task of its own. So all commitments with priority together may fill only a part of the
pool, and when that is full, the task that holds the most of it makes room for the others.
"""

from collections.abc import Sequence

from chain.primitives import Hash32, TaskId


class CommitmentShare:
    """The commitments with priority, by task, and their number and bytes.

    Args:
        count_limit: The most commitments.
        size_limit: The most encoded bytes of all commitments.
    """

    def __init__(self, count_limit: int, size_limit: int) -> None:
        self._count_limit = count_limit
        self._size_limit = size_limit
        self._count = 0
        self._size = 0
        self._by_task: dict[TaskId, dict[Hash32, int]] = {}
        """The encoded bytes of each commitment, in the order of their admission."""

    def has_room(self, size: int) -> bool:
        """Whether one more commitment of `size` bytes fits."""
        return self._count < self._count_limit and self._size + size <= self._size_limit

    def find_victims(self, task_id: TaskId, size: int) -> tuple[Hash32, ...] | None:
        """The commitments that make room for one of `task_id` with `size` bytes.

        Each is the last one of the task that holds the largest part of the share, of its number or
        of its bytes. None if `task_id` would then hold as much as that task.
        """
        if self.has_room(size):
            return ()
        left = {each: list(held.items()) for each, held in self._by_task.items()}
        weights = {each: self._weigh(held) for each, held in left.items()}
        wanted = self._weigh([*left.get(task_id, ()), (None, size)])
        victims: list[Hash32] = []
        count, total = self._count, self._size
        while count >= self._count_limit or total + size > self._size_limit:
            largest = max(weights, key=lambda each: weights[each], default=task_id)
            # So two tasks never make room for each other in turn.
            if weights.get(largest, 0) <= wanted:
                return None
            transaction_hash, freed = left[largest].pop()
            weights[largest] = self._weigh(left[largest])
            victims.append(transaction_hash)
            count, total = count - 1, total - freed
        return tuple(victims)

    def _weigh(self, held: Sequence[tuple[Hash32 | None, int]]) -> int:
        """The part of the share that some commitments fill, times the product of both limits."""
        size = sum(size for _, size in held)
        return max(len(held) * self._size_limit, size * self._count_limit)

    def add(self, task_id: TaskId, transaction_hash: Hash32, size: int) -> None:
        """Take note of a commitment that was admitted with priority."""
        self._by_task.setdefault(task_id, {})[transaction_hash] = size
        self._count += 1
        self._size += size

    def remove(self, task_id: TaskId, transaction_hash: Hash32) -> None:
        """Take note that a commitment has left the pool."""
        held = self._by_task[task_id]
        self._size -= held.pop(transaction_hash)
        self._count -= 1
        if not held:
            del self._by_task[task_id]
