"""Which new task is dry-run next, and for how long (docs/spec/training.md, section 10.1).

Validators dry-run one task at a time, so tasks that take long would keep others waiting. Therefore
a dry run may take no more processor time than follows from what its task declares. By the clock it
may take far longer, because other processes must not make a task look slow; a dry run that the
clock ends says nothing about its task. Turns alternate: the task with the shortest dry run is next,
and then the earliest task. So a flood of long dry runs delays a short one by two of them, and no
task waits for ever: of two turns, one is the earliest task's. A dry run that is repeated, because
this machine ended it, comes after the first ones of other tasks in the first kind of turn.

A validator that was away has tasks with an attempt in progress to dry-run, whose miners wait for
its vote. In the first kind of turn these come before all others.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from chain.primitives import TaskId
from chain.training.resources import count_dataset_bytes
from chain.training.task_spec import TaskSpec

BEGIN_SECONDS: Final = 60
"""The longest time in which a worker starts and loads its libraries. A dry run of digits took 17 s
in all on two busy cores."""

LOAD_BYTES_PER_SECOND: Final = 20_000_000
"""The slowest loading of rows that is waited for."""

RUNS: Final = 10
"""A dry run may take this many times the declared times. It computes a unit twice, to warm up and
to check it. Then it makes trials with at most 256 samples, which take up to eight times as long as
a check of these samples, and further trials only in the first 10 s. One step as large as any of a
check, with a trial of it, takes a few seconds, which `BEGIN_SECONDS` leaves."""


def compute_dry_run_seconds(spec: TaskSpec, limit_seconds: float) -> float:
    """The most processor time of one dry run of a new task; `limit_seconds` at most."""
    declared = spec.resources
    milliseconds = declared.unit_milliseconds + declared.evaluation_milliseconds
    loading = count_dataset_bytes(spec) / LOAD_BYTES_PER_SECOND
    return min(limit_seconds, BEGIN_SECONDS + loading + RUNS * milliseconds / 1_000)


@dataclass(slots=True, eq=False)
class _Waiting:
    task_id: TaskId
    seconds: float
    has_attempt: Callable[[], bool]
    turns_had: int
    called: trio.Event

    def rank(self) -> tuple[int, bool, float, TaskId]:
        """The place among those that wait for a turn of the shortest."""
        return self.turns_had, not self.has_attempt(), self.seconds, self.task_id


class DryRunTurns:
    """Lets one task at a time be dry-run, and says which is next."""

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: list[_Waiting] = []
        self._is_earliest_next = False
        self._turns_had: Counter[TaskId] = Counter()
        """Of tasks that are not closed or refused."""

    @asynccontextmanager
    async def take(
        self, task_id: TaskId, seconds: float, has_attempt: Callable[[], bool]
    ) -> AsyncIterator[None]:
        """Wait for a turn, and have it inside of the context.

        A dry run may be repeated without end if it ends by the fault of this machine. So a turn of
        the shortest goes to a task that had the fewest turns, and none waits long for its first.

        Args:
            task_id: The task; earlier ones have lower ids.
            seconds: The longest time of its dry run, by what it declares.
            has_attempt: Whether an attempt of it is in progress; one may open while it waits.
        """
        had = self._turns_had[task_id]
        waiting = _Waiting(task_id, seconds, has_attempt, had, trio.Event())
        self._waiting.append(waiting)
        # Not at once: tasks that are ready at the same moment are compared with each other.
        trio.lowlevel.current_trio_token().run_sync_soon(self._call_next, idempotent=True)
        try:
            await waiting.called.wait()
            self._turns_had[task_id] += 1
            yield
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            else:
                self._is_taken = False
                self._call_next()

    def forget(self, task_id: TaskId) -> None:
        """Forget the turns of a task that is closed or refused."""
        self._turns_had.pop(task_id, None)

    def _call_next(self) -> None:
        if self._is_taken or not self._waiting:
            return
        if self._is_earliest_next:
            chosen = min(self._waiting, key=lambda each: each.task_id)
        else:
            chosen = min(self._waiting, key=_Waiting.rank)
        self._is_earliest_next = not self._is_earliest_next
        self._waiting.remove(chosen)
        self._is_taken = True
        chosen.called.set()
