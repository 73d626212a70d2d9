"""Jobs: each runs once at a time, and is tried again after a while (docs/spec/training.md, 10)."""

from collections import OrderedDict
from typing import Final

import structlog
import trio

from chain.errors import RejectedInputError
from node.storage.blobs import BlobDamagedError, BlobQuotaError
from node.training.verifier import VerifierFailedError, VerifierRefusedError
from node.training.work import Job, UnavailableError
from pot_common.errors import StorageError

RETRY_SECONDS: Final = 0.5
"""Until a job that could not finish (a blob nobody has yet) is tried again."""

REMEMBERED_LIMIT: Final = 4_096
"""Names whose next try is remembered; the oldest is forgotten first, and tried earlier."""

_log = structlog.get_logger("node.training")


class Jobs:
    """Starts jobs by name; what ends, or ends a wait, sets `changed`."""

    def __init__(self) -> None:
        self._running: set[str] = set()
        self._retry_at: OrderedDict[str, float] = OrderedDict()
        self._changed = trio.Event()

    def wake(self) -> None:
        """Something has happened: whoever waits for changes looks again."""
        self._changed.set()

    async def wait_changed(self, limit_seconds: float) -> None:
        """Until something happens, `limit_seconds` at most."""
        with trio.move_on_after(limit_seconds):
            await self._changed.wait()

    def begin_look(self) -> None:
        """What happens from here on is a change."""
        self._changed = trio.Event()

    def is_waiting(self, name: str) -> bool:
        """Whether the job runs, or will be tried again later."""
        return name in self._running or trio.current_time() < self._retry_at.get(name, 0)

    def end_waits(self, part_of_name: str) -> None:
        """Try at once what waits and has this in its name."""
        for name in [name for name in self._retry_at if part_of_name in name]:
            del self._retry_at[name]
        self.wake()

    def put_off(self, name: str, seconds: float) -> None:
        """Do not try the job for so long, or longer if that was said before."""
        self._retry_at[name] = max(trio.current_time() + seconds, self._retry_at.get(name, 0))
        self._retry_at.move_to_end(name)
        if len(self._retry_at) > REMEMBERED_LIMIT:
            self._retry_at.popitem(last=False)

    def start(self, nursery: trio.Nursery, name: str, job: Job) -> None:
        """Run the job, unless it runs already or waits."""
        if not self.is_waiting(name):
            self._running.add(name)
            nursery.start_soon(self._run, name, job)

    async def _run(self, name: str, job: Job) -> None:
        try:
            await job()
        except (UnavailableError, VerifierFailedError) as error:
            _log.debug("job waits", job=name, reason=str(error))
            self.put_off(name, RETRY_SECONDS)
        except (
            RejectedInputError,
            VerifierRefusedError,
            BlobQuotaError,
            StorageError,
            BlobDamagedError,
            OSError,  # of our small files: the duty stands, and the disk may come back
        ) as error:
            _log.warning("job refused", job=name, reason=str(error))
            self.put_off(name, RETRY_SECONDS)
        else:
            self._retry_at.pop(name, None)
        finally:
            self._running.discard(name)
            self.wake()
