"""What a miner keeps on its disk: the data of tasks, and the gradients that it may have to reveal.

Data is kept only to be fetched no second time, so it may go at any moment: when the miner is done
with its task, and when another task needs the room.
"""

import os
import shutil
from pathlib import Path

import structlog

from chain.primitives import TaskId
from chain.training.task_spec import TaskSpec
from miner.client import FailoverClient
from miner.gradient_store import GradientStore

_log = structlog.get_logger("miner")


class TaskFiles:
    """The files of one miner on one network."""

    def __init__(self, client: FailoverClient, directory: Path, limit_bytes: int) -> None:
        """Use a directory.

        Args:
            client: Fetches data.
            directory: Where everything is kept.
            limit_bytes: The most bytes of data that are kept. A task with more has all of it, but
                then no other task has any.
        """
        self._client = client
        self._directory = directory
        self._data = directory / "data"
        self._limit_bytes = limit_bytes
        self._shards: dict[TaskId, tuple[Path, ...]] = {}

    def fetch_shards(self, task: TaskId, spec: TaskSpec) -> tuple[Path, ...]:
        """The files of a task's data, in order; missing ones are fetched.

        Raises:
            ContentUnavailableError: No node and no mirror has it.
        """
        self._data.mkdir(parents=True, exist_ok=True)
        paths = tuple(self._data / f"{each.content_id.hex()}.npz" for each in spec.data.shards)
        self._shards[task] = paths
        self._make_room(frozenset(paths), sum(each.byte_count for each in spec.data.shards))
        for shard, path in zip(spec.data.shards, paths, strict=True):
            if not path.exists():
                self._client.fetch_file(shard.content_id, shard.byte_count, path, spec.data.urls)
                _log.info("data shard fetched", content=shard.content_id, bytes=shard.byte_count)
            os.utime(path)
        return paths

    def open_gradients(self, task: TaskId) -> GradientStore:
        """The gradients of a task."""
        return GradientStore(self._directory / f"task-{task}")

    def list_tasks(self) -> tuple[TaskId, ...]:
        """The tasks that have a directory of gradients, ascending."""
        names = [path.name.removeprefix("task-") for path in self._directory.glob("task-*")]
        return tuple(sorted(TaskId(int(name)) for name in names if name.isdecimal()))

    def delete(self, task: TaskId) -> None:
        """Delete the data and the gradients of a task in which nothing is left to reveal."""
        for path in self._shards.pop(task, ()):
            path.unlink(missing_ok=True)
        shutil.rmtree(self._directory / f"task-{task}", ignore_errors=True)

    def _make_room(self, wanted: frozenset[Path], needed_bytes: int) -> None:
        """Delete other data, the longest unused first, until what is needed fits."""
        found = []
        for path in self._data.iterdir():
            if path.suffix == ".part":
                path.unlink()  # of a fetch that was interrupted
            elif path not in wanted:
                status = path.stat()
                found.append((status.st_mtime_ns, path, status.st_size))
        total_bytes = needed_bytes + sum(size for _, _, size in found)
        for _, path, size in sorted(found):
            if total_bytes <= self._limit_bytes:
                return
            path.unlink()
            total_bytes -= size
            _log.info("data of another task deleted", file=path.name, bytes=size)
