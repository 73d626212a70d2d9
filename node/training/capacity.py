"""The time of its workers that this validator has promised to tasks (docs/spec/training.md, 10.1).

Each task's checks have to fit into its verdict phase while the other tasks are checked as well. So
a new task is examined only if what all tasks are promised fits into half of the time. Until then it
waits: room goes to the tasks that wait in ascending id, to each that it is enough for. All
validators see the same tasks, declarations and ends, so they promise room to the same tasks.
"""

from typing import Final

from chain.primitives import TaskId
from chain.training.fees import PROMISED_SHARE
from chain.training.task_checks import Objection, ObjectionCode, WorkerShares

WHOLE_PPM: Final = 1_000_000
"""The whole time of one worker, in parts per million."""


class Capacity:
    """The promised shares of each task, the tasks that wait for room, and the limits."""

    def __init__(self, check_workers: int) -> None:
        """Begin without promises; `check_workers` check gradients side by side."""
        self._check_limit = check_workers * WHOLE_PPM // PROMISED_SHARE
        self._aggregation_limit = WHOLE_PPM // PROMISED_SHARE
        self._promised: dict[TaskId, WorkerShares] = {}
        self._waiting: dict[TaskId, WorkerShares] = {}

    def promise(self, task_id: TaskId, shares: WorkerShares) -> None:
        """Count a task whatever room there is: it is active, or this validator was ready for it."""
        self._promised[task_id] = shares
        self._waiting.pop(task_id, None)

    def claim(self, task_id: TaskId, shares: WorkerShares) -> None:
        """Promise a new task its shares, now or when other tasks have left enough room."""
        if task_id in self._promised or task_id in self._waiting:
            return
        # What is left is not enough for any task that waits already.
        counted = self._promised if self._has_room(shares) else self._waiting
        counted[task_id] = shares

    def release(self, task_id: TaskId) -> tuple[TaskId, ...]:
        """Count a task no more: it is closed or refused. Returns the tasks that now have room."""
        self._waiting.pop(task_id, None)
        self._promised.pop(task_id, None)
        return self._give_room()

    def find_objection(self, task_id: TaskId) -> Objection | None:
        """What a task waits for; None if it is promised its shares, or not counted any more."""
        shares = self._waiting.get(task_id)
        if shares is None:
            return None
        for name, needed, promised, limit in self._compare(shares):
            if promised + needed > limit:
                return Objection(
                    ObjectionCode.WORKERS_BUSY,
                    f"{name} take {needed} millionths of a worker's time; of the {limit} that a "
                    f"validator promises to all tasks, {promised} are promised to others",
                )
        raise AssertionError("room that is enough for a task was given to it")

    def _give_room(self) -> tuple[TaskId, ...]:
        given = []
        for task_id in sorted(self._waiting):
            shares = self._waiting[task_id]
            if self._has_room(shares):
                self._promised[task_id] = self._waiting.pop(task_id)
                given.append(task_id)
        return tuple(given)

    def _has_room(self, shares: WorkerShares) -> bool:
        return all(used + needed <= limit for _, needed, used, limit in self._compare(shares))

    def _compare(self, shares: WorkerShares) -> tuple[tuple[str, int, int, int], ...]:
        """What a task needs, what is promised, and the limit, for each kind of work."""
        promised = self._promised.values()
        return (
            (
                "checks and evaluations",
                shares.check_ppm,
                sum(each.check_ppm for each in promised),
                self._check_limit,
            ),
            (
                "aggregations",
                shares.aggregation_ppm,
                sum(each.aggregation_ppm for each in promised),
                self._aggregation_limit,
            ),
        )
