"""The rows of tasks, as files that workers map (docs/spec/training.md, sections 5 and 11).

How long data takes to unpack is up to the stranger who submitted it. So it is unpacked once, in the
dry run of its task, into a blob of this node's own, and duties to rounds read from that blob only
the rows that they need. A file rows/TASK holds the blob's content id.
"""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

from chain.json_types import JsonObject
from chain.primitives import Hash32, TaskId
from chain.training.resources import count_rows_bytes
from node.storage.blob_files import BlobUpload
from node.storage.blobs import BlobStore
from node.training.content import Content, Need, list_shard_ids
from node.training.turns import Turn
from node.training.work import ServedTask, UnavailableError
from node.training.worker_pool import WorkerFilesError, WorkerPool, WorkerRefusedError
from pot_common.atomic_file import write_atomically

_RECORD_NAME: Final = re.compile(r"\d{1,20}")
_ID_BYTES: Final = 32
_REFUSED_MARK: Final = b"-"


class RowRecords:
    """The content ids of the tasks' rows, as small files.

    They have a directory of their own: beside them, each attempt of an open task has a file.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "rows"
        self._directory.mkdir(parents=True, exist_ok=True)

    def put(self, task_id: TaskId, rows_id: Hash32, *, is_refused: bool = False) -> None:
        """Record the blob with a task's rows, and whether this validator refused the task."""
        write_atomically(self._path(task_id), rows_id + (_REFUSED_MARK if is_refused else b""))

    def find(self, task_id: TaskId) -> Hash32 | None:
        """The blob with a task's rows; None if it is not known."""
        data = self._read(task_id)
        rows_id, mark = data[:_ID_BYTES], data[_ID_BYTES:]
        is_whole = len(rows_id) == _ID_BYTES and mark in (b"", _REFUSED_MARK)
        return Hash32(rows_id) if is_whole else None

    def is_refused(self, task_id: TaskId) -> bool:
        """Whether this validator refused the task when its rows were recorded."""
        return self._read(task_id)[_ID_BYTES:] == _REFUSED_MARK

    def _read(self, task_id: TaskId) -> bytes:
        try:
            return self._path(task_id).read_bytes()
        except FileNotFoundError:
            return b""

    def list(self) -> Iterator[tuple[TaskId, Hash32]]:
        """All tasks that have a record, with their blobs."""
        for path in self._directory.iterdir():
            if _RECORD_NAME.fullmatch(path.name):
                rows_id = self.find(TaskId(int(path.name)))
                if rows_id is not None:
                    yield TaskId(int(path.name)), rows_id

    def remove(self, task_id: TaskId) -> None:
        """Delete the record of a task."""
        self._path(task_id).unlink(missing_ok=True)

    def _path(self, task_id: TaskId) -> Path:
        return self._directory / str(task_id)


@dataclass(frozen=True, slots=True)
class RowsFile:
    """A file of rows for a worker."""

    members: JsonObject
    """How a request names it."""
    upload: BlobUpload | None = None
    """Set if the worker is to fill it."""


class TaskRows:
    """The blobs with the rows of all tasks."""

    def __init__(
        self, blobs: BlobStore, content: Content, directory: Path, background: WorkerPool
    ) -> None:
        self._blobs = blobs
        self._content = content
        self._records = RowRecords(directory)
        self._background = background

    def find(self, task: ServedTask) -> Hash32 | None:
        """The blob with a task's rows, which is kept for a while; None if it is not stored.

        Raises:
            BlobDiskError: The disk refused.
        """
        rows_id = self._records.find(task.task_id)
        if rows_id is None or not self._blobs.renew(rows_id):
            return None
        size = self._blobs.get_size(rows_id)
        if size == count_rows_bytes(task.spec):
            return rows_id
        if size is not None:  # else the collector took them meanwhile
            self._blobs.delete(rows_id)
        return None

    def is_examined(self, task: ServedTask) -> bool:
        """Whether a dry run for which this validator would be ready has stored a task's rows.

        After a refusal, rows are stored for the duties to a task that is active all the same. The
        refusal may never have come to the chain, so it must not become *ready* after a restart.
        """
        return self.find(task) is not None and not self._records.is_refused(task.task_id)

    @asynccontextmanager
    async def open(self, task: ServedTask) -> AsyncIterator[RowsFile]:
        """The rows, or a file that a worker is to fill with them, which `keep` stores.

        A task has one such file at a time, so that no two workers unpack the same data.

        Raises:
            BlobQuotaError: The quota has no room for them.
            BlobDiskError: The disk refused.
        """
        async with task.work.storing_rows:
            rows_id = self.find(task)
            if rows_id is not None:
                yield RowsFile({"rows": str(self._blobs.path(rows_id))})
                return
            size = count_rows_bytes(task.spec)
            with await trio.to_thread.run_sync(self._blobs.upload, size) as upload:
                shards = [str(self._blobs.path(each)) for each in list_shard_ids(task.spec)]
                yield RowsFile({"rows": str(upload.path), "shards": [*shards]}, upload)

    async def keep(self, task: ServedTask, file: RowsFile) -> None:
        """Store the rows with which a worker has filled a file, and whether the task is refused.

        Raises:
            BlobDiskError: The disk refused.
        """
        rows_id = self._records.find(task.task_id)
        if file.upload is not None:
            rows_id = await trio.to_thread.run_sync(file.upload.finish_written)
        elif rows_id is None or not self._records.is_refused(task.task_id):
            return
        is_refused = task.work.is_accepted is False
        put = partial(self._records.put, task.task_id, rows_id, is_refused=is_refused)
        await trio.to_thread.run_sync(put)

    async def ensure(self, task: ServedTask) -> Hash32:
        """The blob with a task's rows, which are unpacked again if they are lost.

        Raises:
            UnavailableError: The data is lost, too, and no peer has it; or the rows are again.
            WorkerFailedError: The worker did not finish.
            WorkerRefusedError: The worker refused the data.
            BlobQuotaError: The quota has no room for the rows.
            BlobDiskError: The disk refused.
        """
        rows_id = self.find(task)
        if rows_id is not None:
            return rows_id
        await self._content.ensure_shards(task.spec, Need(task.task_id))
        async with self.open(task) as file:
            if file.upload is not None:
                await self._fill(task, file)
                await self.keep(task, file)
        rows_id = self.find(task)
        if rows_id is None:
            raise UnavailableError("the rows were lost again")
        return rows_id

    async def _fill(self, task: ServedTask, file: RowsFile) -> None:
        spec_path = self._content.get_spec_path(task)
        try:
            await self._background.ask("store_rows", {"spec": spec_path, **file.members}, Turn())
        except (WorkerRefusedError, WorkerFilesError):
            await self._content.check_intact(list_shard_ids(task.spec))
            raise

    def get_inputs(self, task: ServedTask, theta_root: Hash32, rows_id: Hash32) -> JsonObject:
        """The members that a worker's request for a duty has."""
        rows = str(self._blobs.path(rows_id))
        return {**self._content.get_inputs(task, theta_root), "rows": rows}
