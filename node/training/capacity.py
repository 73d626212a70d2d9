"""What this validator has promised to tasks (docs/spec/training.md, sections 10.1 and 11).

A task's checks have to fit into its verdict phase while other tasks are checked as well, and its
content, states and gradients must have room until it is closed. So a new task is examined only if
what all tasks are promised fits into half of the workers' time and half of the disk. Until then it
waits: room goes to the tasks that wait in ascending id, to each that it is enough for. All
validators see the same tasks, declarations and ends, so they promise room to the same tasks.

An active task that a validator is not ready for, because it waits there, goes on without it. Such
a task is promised disk before it is promised time: until there is room for both, its work has what
others leave.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from chain.primitives import TaskId
from chain.training.fees import PROMISED_SHARE
from chain.training.task_checks import Objection, ObjectionCode, Promise

WHOLE_PPM: Final = 1_000_000
"""The whole time of one worker, in parts per million."""


class Capacity:
    """What each task is promised, the tasks that wait for room, and the limits."""

    def __init__(
        self, check_workers: int, disk_bytes: int, count_closed_bytes: Callable[[], int]
    ) -> None:
        """Begin without promises.

        Args:
            check_workers: The workers that check gradients side by side.
            disk_bytes: The most bytes that are promised to all tasks together.
            count_closed_bytes: The bytes that closed tasks take of them.
        """
        self._check_limit = check_workers * WHOLE_PPM // PROMISED_SHARE
        self._aggregation_limit = WHOLE_PPM // PROMISED_SHARE
        self._disk_limit = disk_bytes
        self._count_closed_bytes = count_closed_bytes
        self._promised: dict[TaskId, Promise] = {}
        self._waiting: dict[TaskId, Promise] = {}
        """What is promised to tasks when there is room for it. Their disk may be promised now."""
        self._served: set[TaskId] = set()
        """The tasks among those that wait that are served without a promise of time."""

    def promise(self, task_id: TaskId, promise: Promise) -> None:
        """Count a task for which this validator was ready before, its disk even if there is none.

        Its time is promised again as far as there is room: it became ready for an active task
        without a promise of time, or now has fewer workers.
        """
        self._promised[task_id] = _get_disk(promise)
        self._waiting[task_id] = promise
        self._served.add(task_id)
        self.give_room()

    def claim(self, task_id: TaskId, promise: Promise, *, is_active: bool = False) -> None:
        """Promise a task what it declares, now or when other tasks have left enough room.

        An active task waits for disk, because it would otherwise take what is promised to others.
        It is served as soon as it has disk, because other validators are ready for it and its
        rounds go on; time is promised to it when others have left enough.
        """
        if task_id in self._promised or (task_id in self._waiting and not is_active):
            return
        self._waiting[task_id] = promise
        if is_active:
            self._served.add(task_id)
        self.give_room()

    def release(self, task_id: TaskId) -> tuple[TaskId, ...]:
        """Count a task no more: it is closed or refused. Returns the tasks that now have room."""
        self._stop_waiting(task_id)
        self._promised.pop(task_id, None)
        return self.give_room()

    def give_room(self) -> tuple[TaskId, ...]:
        """Promise what is left to tasks that wait. Returns those that now have room."""
        given = []
        used = self._count_used()
        for task_id in sorted(self._waiting):
            promise = self._waiting[task_id]
            is_disk_held = task_id in self._promised
            wanted = replace(promise, disk_bytes=0) if is_disk_held else promise
            shortage = self._find_shortage(wanted, used)
            if shortage is None:
                self._promised[task_id] = promise
                self._stop_waiting(task_id)
            elif (
                task_id in self._served
                and not is_disk_held
                and shortage.code is not ObjectionCode.NO_ROOM
            ):
                self._promised[task_id] = _get_disk(promise)
            else:
                continue
            given.append(task_id)
            used = self._count_used()
        return tuple(given)

    def has_promise(self, task_id: TaskId) -> bool:
        """Whether a task has disk to use."""
        return task_id in self._promised

    def has_time(self, task_id: TaskId) -> bool:
        """Whether workers' time is promised to a task; else its work has what others leave."""
        return task_id in self._promised and task_id not in self._waiting

    def find_objection(self, task_id: TaskId) -> Objection | None:
        """What a task waits for before it is served; None if it is, or is not counted any more."""
        promise = self._waiting.get(task_id)
        if promise is None or task_id in self._promised:
            return None
        return self._find_shortage(promise, self._count_used())

    def _stop_waiting(self, task_id: TaskId) -> None:
        self._waiting.pop(task_id, None)
        self._served.discard(task_id)

    def _count_used(self) -> Promise:
        """What is promised to all tasks together, with the disk of closed ones."""
        promised = self._promised.values()
        return Promise(
            check_ppm=sum(each.check_ppm for each in promised),
            aggregation_ppm=sum(each.aggregation_ppm for each in promised),
            disk_bytes=sum(each.disk_bytes for each in promised) + self._count_closed_bytes(),
        )

    def _find_shortage(self, wanted: Promise, used: Promise) -> Objection | None:
        """What there is too little of; disk comes first."""
        if wanted.disk_bytes and used.disk_bytes + wanted.disk_bytes > self._disk_limit:
            return Objection(
                ObjectionCode.NO_ROOM,
                f"the task declares {wanted.disk_bytes} bytes of disk; of the {self._disk_limit} "
                f"that blobs.quota_bytes of a validator allows to all tasks, {used.disk_bytes} are "
                "promised to others",
            )
        for name, needed, taken, limit in (
            ("checks and evaluations", wanted.check_ppm, used.check_ppm, self._check_limit),
            (
                "aggregations",
                wanted.aggregation_ppm,
                used.aggregation_ppm,
                self._aggregation_limit,
            ),
        ):
            if taken + needed > limit:
                return Objection(
                    ObjectionCode.WORKERS_BUSY,
                    f"{name} take {needed} millionths of a worker's time; of the {limit} that a "
                    f"validator promises to all tasks, {taken} are promised to others",
                )
        return None


def _get_disk(promise: Promise) -> Promise:
    """The part of a promise that is no time."""
    return Promise(check_ppm=0, aggregation_ppm=0, disk_bytes=promise.disk_bytes)
