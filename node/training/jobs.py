"""Running jobs: once at a time, and again after a while (docs/spec/training.md, section 10)."""

from typing import Final

import structlog
import trio

from chain.errors import RejectedInputError
from chain.training.attempt import AttemptId
from node.storage.blobs import BlobDamagedError, BlobQuotaError
from node.training.work import Job, JobKey, JobKind, UnavailableError
from node.training.worker_pool import WorkerFailedError, WorkerRefusedError
from pot_common.errors import StorageError

RETRY_SECONDS: Final = 0.5
"""The wait before a job that could not finish, such as for a missing blob, is tried again."""

REMEMBERED_LIMIT: Final = 4_096
"""Jobs with a remembered time of the next try. The oldest is forgotten first; it is then tried
earlier."""

_log = structlog.get_logger("node.training")


class Jobs:
    """Runs each job once at a time, and holds a failed one back for a while."""

    def __init__(self) -> None:
        self._running: set[JobKey] = set()
        self._retry_at: dict[JobKey, float] = {}
        self._changed = trio.Event()

    def wake(self) -> None:
        """Let `wait_changed` return: something has happened."""
        self._changed.set()

    async def wait_changed(self, limit_seconds: float) -> None:
        """Wait until something happens, `limit_seconds` at most."""
        with trio.move_on_after(limit_seconds):
            await self._changed.wait()

    def forget_changes(self) -> None:
        """Have `wait_changed` wait for what happens from now on."""
        self._changed = trio.Event()

    def is_waiting(self, key: JobKey) -> bool:
        """Whether the job runs, or is held back until a later time."""
        return key in self._running or trio.current_time() < self._retry_at.get(key, 0)

    def end_waits(self, kind: JobKind, attempt_id: AttemptId | None = None) -> None:
        """Let the held back jobs of a kind run at once: those of one attempt, or all of them."""
        for key in tuple(self._retry_at):
            if key.kind is kind and attempt_id in (None, key.attempt_id):
                del self._retry_at[key]
        self.wake()

    def put_off(self, key: JobKey, seconds: float) -> None:
        """Hold the job back for that long; a longer wait that was set before remains."""
        earlier = self._retry_at.pop(key, 0)
        self._retry_at[key] = max(trio.current_time() + seconds, earlier)
        if len(self._retry_at) > REMEMBERED_LIMIT:
            del self._retry_at[next(iter(self._retry_at))]

    def start(self, nursery: trio.Nursery, job: Job) -> None:
        """Run the job, unless it runs already or is held back."""
        if not self.is_waiting(job.key):
            self._running.add(job.key)
            nursery.start_soon(self._run, job)

    async def _run(self, job: Job) -> None:
        key = job.key
        try:
            await job.run()
        except (UnavailableError, WorkerFailedError) as error:
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
        finally:
            self._running.discard(key)
            self.wake()
