"""Which tasks' duties are listed, and when (docs/spec/training.md, section 10).

Listing the duties to a task takes time in the thread in which consensus runs, more so with many
commitments. So what other accounts can cause often, such as the end of a check, has the duties to
its own task listed and no other's, and not more than a few times a second.
"""

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Final

import trio

from chain.primitives import BlockNumber, TaskId

TICK_SECONDS: Final = 0.25
"""How often duties to a task in progress are listed when nothing happens: a deadline passes without
an event."""

LISTING_SECONDS: Final = 0.1
"""The shortest time between two listings of the duties to a task, unless a block comes. It is short
against the block interval, so votes are as early as without it."""

REST_SECONDS: Final = 2.0
"""How often duties are listed to an open task that is not in progress: it ends by itself."""


class DueTasks:
    """Decides which tasks are to be looked at now."""

    def __init__(self) -> None:
        self._awaited: dict[TaskId, BlockNumber] = {}
        """Closed tasks, of which miners may still be fined, and the head that each waits for."""
        self._heads: list[tuple[BlockNumber, TaskId]] = []
        """A heap of the same; entries that were changed since are skipped."""
        self._closed: set[TaskId] = set()
        """Tasks that are skipped, because they are closed."""
        self._timed: set[TaskId] = set()
        """Tasks in progress; their phases end by themselves."""
        self._resting: set[TaskId] = set()
        """The other open tasks. They have no duty but to be closed when they are over."""
        self._rests_until = 0.0
        self._urgent: set[TaskId] = set()
        """Tasks that blocks have changed since duties were last listed."""
        self._waiting: set[TaskId] = set()
        """Tasks with an event since their duties were last listed."""
        self._is_all_due = True
        self._is_head_new = True
        self._listed_at: dict[TaskId, float] = {}
        """When the duties to each open task were last listed."""

    def wait_for_phases(self, task_id: TaskId) -> None:
        """Note that a task is in progress: it is looked at after each block and each tick."""
        self._forget(task_id)
        self._timed.add(task_id)

    def rest(self, task_id: TaskId) -> None:
        """Note that a task is open and not in progress: it is looked at now and then."""
        self._forget(task_id)
        self._resting.add(task_id)

    def wait_for_head(self, task_id: TaskId, number: BlockNumber) -> None:
        """Note that a task has nothing to do before a head, unless something happens to it.

        No slot limits how many closed tasks wait so, for hours.
        """
        if self._awaited.get(task_id) != number:
            self._forget(task_id)
            self._awaited[task_id] = number
            heappush(self._heads, (number, task_id))

    def close(self, task_id: TaskId) -> None:
        """Never look at a task again."""
        self._forget(task_id)
        self._listed_at.pop(task_id, None)
        self._closed.add(task_id)

    def _forget(self, task_id: TaskId) -> None:
        self._timed.discard(task_id)
        self._resting.discard(task_id)
        self._awaited.pop(task_id, None)

    def is_in_progress(self, task_id: TaskId) -> bool:
        """Whether the task waits for the phases of a round."""
        return task_id in self._timed

    def note_all(self) -> None:
        """Any task may have changed."""
        self._is_all_due = True

    def take_all_due(self) -> bool:
        """Whether any task may have changed; if so, tell `note_block` of those with duties."""
        is_all_due, self._is_all_due = self._is_all_due, False
        if is_all_due:
            self._urgent |= self._timed | self._resting
        return is_all_due

    def note_block(self, changed: Iterable[TaskId]) -> None:
        """A new block has changed these tasks, and moves the phases of those in progress."""
        self._urgent.update(changed)
        self._is_head_new = True

    def take(self, ended: Iterable[TaskId], head: BlockNumber) -> list[TaskId]:
        """The tasks to look at now, in ascending order.

        Args:
            ended: Tasks with a job that ended, or whose wait is over.
            head: The number of the head.
        """
        now = trio.current_time()
        due = set(self._urgent)
        if self._is_head_new:
            due |= self._timed
        if now >= self._rests_until:
            self._rests_until = now + REST_SECONDS
            due |= self._resting
        while self._heads and self._heads[0][0] <= head:
            number, task_id = heappop(self._heads)
            if self._awaited.get(task_id) == number:
                del self._awaited[task_id]
                due.add(task_id)
        self._is_head_new = False
        self._urgent = set()
        self._waiting.update(ended)
        due.update(each for each in self._waiting if now >= self._get_earliest(each))
        due.update(each for each in self._timed if now >= self._get_latest(each))
        due -= self._closed
        self._waiting -= due | self._closed
        self._listed_at.update((each, now) for each in due)
        return sorted(due)

    def get_wait_seconds(self) -> float:
        """How long `take` has nothing more to return, unless something happens."""
        earliest = (self._get_earliest(each) for each in self._waiting)
        latest = (self._get_latest(each) for each in self._timed)
        now = trio.current_time()
        return max(0.0, min((now + TICK_SECONDS, *earliest, *latest)) - now)

    def _get_earliest(self, task_id: TaskId) -> float:
        return self._listed_at.get(task_id, -LISTING_SECONDS) + LISTING_SECONDS

    def _get_latest(self, task_id: TaskId) -> float:
        return self._listed_at.get(task_id, -TICK_SECONDS) + TICK_SECONDS
