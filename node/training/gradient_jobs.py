"""The jobs that fetch and check the gradients of an attempt (docs/spec/training.md, section 10)."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Final

from chain.training.attempt_records import Attempt
from node.training.capacity import Capacity
from node.training.gradients import Gradients
from node.training.jobs import Jobs
from node.training.work import Job, JobKey, JobKind, ServedTask

STARTS_LIMIT: Final = 64
"""The most checks of a task that are started at once: an attempt can have a thousand, and consensus
runs in the same thread."""


class GradientJobs:
    """Lists the jobs on the gradients of the attempts in progress."""

    def __init__(self, gradients: Gradients, jobs: Jobs, capacity: Capacity) -> None:
        self._gradients = gradients
        self._jobs = jobs
        self._capacity = capacity

    def list_checks(self, task: ServedTask, attempt: Attempt, indices: Sequence[int]) -> list[Job]:
        """The jobs that check commitments, and the one that looks for what is not revealed yet."""
        opened = self._gradients.get_reveals(attempt).opened
        wanted = [index for index in indices if index in opened]
        jobs = self._list_searches(task, attempt)
        return [*jobs, *self._start(JobKind.CHECK, self._gradients.check, task, attempt, wanted)]

    def list_fetches(self, task: ServedTask, attempt: Attempt, indices: Sequence[int]) -> list[Job]:
        """The jobs that fetch gradients which are not checked now, if the task has room."""
        jobs = self._list_searches(task, attempt)
        if not self._capacity.has_promise(task.task_id):
            return jobs
        known = self._gradients.get_reveals(attempt)
        wanted = [index for index in indices if index in known.opened and index not in known.held]
        return [*jobs, *self._start(JobKind.FETCH, self._gradients.fetch, task, attempt, wanted)]

    def _list_searches(self, task: ServedTask, attempt: Attempt) -> list[Job]:
        """The job that looks for what is not revealed yet."""
        if len(self._gradients.get_reveals(attempt).opened) == len(attempt.commitments):
            return []
        key = JobKey(task.task_id, JobKind.REVEALS, attempt.id)
        return [Job(key, partial(self._gradients.find_reveals, task, attempt))]

    def _start(
        self,
        kind: JobKind,
        work: Callable[[ServedTask, Attempt, int], Awaitable[None]],
        task: ServedTask,
        attempt: Attempt,
        indices: Iterable[int],
    ) -> Iterator[Job]:
        """The next jobs on single commitments of an attempt."""
        keys = (JobKey(task.task_id, kind, attempt.id, commitment_index=i) for i in indices)
        startable = (key for key in keys if not self._jobs.is_waiting(key))
        for key in islice(startable, STARTS_LIMIT):
            assert key.commitment_index is not None
            yield Job(key, partial(work, task, attempt, key.commitment_index))
