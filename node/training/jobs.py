"""Running jobs: once at a time, and again after a while (docs/spec/training.md, section 10)."""

from heapq import heappop, heappush
from typing import Final

import structlog
import trio

from chain.errors import RejectedInputError
from chain.primitives import TaskId
from chain.training.attempt import AttemptId
from node.storage.blobs import BlobDamagedError, BlobQuotaError
from node.training.turns import WorkOverError
from node.training.work import Job, JobKey, JobKind, UnavailableError
from node.training.worker_pool import WorkerFailedError, WorkerRefusedError
from pot_common.errors import StorageError

RETRY_SECONDS: Final = 0.5
"""The wait before a job that could not finish, such as for a missing blob, is tried again."""

_log = structlog.get_logger("node.training")


class Jobs:
    """Runs each job once at a time, and holds a failed one back for a while.

    It knows which tasks need a look: a job of theirs ended, or its wait is over. All others cost
    nothing, however many they are.
    """

    def __init__(self) -> None:
        self._running: set[JobKey] = set()
        self._retry_at: dict[JobKey, float] = {}
        """The held back jobs. A job leaves when its time has come, so this does not grow."""
        self._retries: list[tuple[float, int, JobKey]] = []
        """A heap of the same by time and number; entries that were changed since are skipped."""
        self._retry_count = 0
        self._due: set[TaskId] = set()
        self._changed = trio.Event()

    def wake(self) -> None:
        """Let `wait_changed` return: something has happened."""
        self._changed.set()

    async def wait_changed(self, limit_seconds: float) -> None:
        """Wait until something happens or a wait is over, `limit_seconds` at most."""
        limit = trio.current_time() + limit_seconds
        if self._retries:
            limit = min(limit, self._retries[0][0])
        with trio.move_on_at(limit):
            await self._changed.wait()

    def forget_changes(self) -> None:
        """Have `wait_changed` wait for what happens from now on."""
        self._changed = trio.Event()

    def take_due(self) -> set[TaskId]:
        """The tasks with a job that ended, or whose wait is over, since this was last asked."""
        now = trio.current_time()
        while self._retries and self._retries[0][0] <= now:
            retry_at, _, key = heappop(self._retries)
            if self._retry_at.get(key) == retry_at:
                del self._retry_at[key]
                self._due.add(key.task_id)
        due, self._due = self._due, set()
        return due

    def note_due(self, task_id: TaskId) -> None:
        """Have the task looked at: a job of it may be possible now."""
        self._due.add(task_id)
        self.wake()

    def is_waiting(self, key: JobKey) -> bool:
        """Whether the job runs, or is held back until a later time."""
        return key in self._running or trio.current_time() < self._retry_at.get(key, 0)

    def end_waits(self, kind: JobKind, attempt_id: AttemptId | None = None) -> None:
        """Let the held back jobs of a kind run at once: those of one attempt, or all of them."""
        for key in tuple(self._retry_at):
            if key.kind is kind and attempt_id in (None, key.attempt_id):
                del self._retry_at[key]
                self._due.add(key.task_id)
        self.wake()

    def end_wait(self, key: JobKey) -> None:
        """Let a held back job run at once."""
        self._retry_at.pop(key, None)
        self.note_due(key.task_id)

    def put_off(self, key: JobKey, seconds: float) -> None:
        """Hold the job back for that long; a longer wait that was set before remains."""
        retry_at = max(trio.current_time() + seconds, self._retry_at.get(key, 0))
        if self._retry_at.get(key) != retry_at:
            self._retry_at[key] = retry_at
            self._retry_count += 1
            heappush(self._retries, (retry_at, self._retry_count, key))

    def start(self, nursery: trio.Nursery, job: Job) -> None:
        """Run the job, unless it runs already or is held back."""
        if not self.is_waiting(job.key):
            self._running.add(job.key)
            nursery.start_soon(self._run, job)

    async def _run(self, job: Job) -> None:
        key = job.key
        try:
            await job.run()
        except UnavailableError as error:
            _log.debug("training job waits", job=str(key), reason=str(error))
            self.put_off(key, error.wait_seconds or RETRY_SECONDS)
        except WorkOverError:
            self._due.add(key.task_id)
        except WorkerFailedError as error:
            _log.debug("training job waits", job=str(key), reason=str(error))
            self.put_off(key, RETRY_SECONDS)
        except (
            RejectedInputError,
            WorkerRefusedError,
            BlobQuotaError,
            StorageError,
            BlobDamagedError,
            OSError,  # a small file could not be written; the disk may recover
        ) as error:
            _log.warning("training job refused", job=str(key), reason=str(error))
            self.put_off(key, RETRY_SECONDS)
        else:
            self._retry_at.pop(key, None)
            self._due.add(key.task_id)
        finally:
            self._running.discard(key)
            self.wake()
