"""The content ids of training states' parts, as files (docs/spec/training.md, section 8).

The content ids cannot be computed from a state's root, and restarts and peers need them. Each state
has one small file, TASK/ROOT: the rounds settled until then (u64, big-endian), then content ids.
"""

import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chain.primitives import Hash32, TaskId
from chain.training.state import compute_state_root
from pot_common.atomic_file import write_atomically

_COUNT_BYTES: Final = 8
_STATE_NAME: Final = re.compile(r"\d{1,20}/[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StoredState:
    """A training state and the round that it belongs to."""

    task_id: TaskId
    rounds_settled: int
    """0 for the initial state. If rounds end in equal states, the latest of them counts."""
    root: Hash32
    part_ids: tuple[Hash32, ...]
    """The content ids, theta first."""
    written_ns: int
    """When it was last computed or fetched, in Unix nanoseconds."""


class StatePartStore:
    """Content ids by task and training state root, as small files below one directory.

    The names of the files are in memory: peers may ask for any root, and a search of the disk takes
    a millisecond for each hundred tasks.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._lock = threading.Lock()
        self._tasks: dict[Hash32, frozenset[TaskId]] = {}
        """The tasks with a file for a root."""
        for path in directory.glob("*/*"):
            if _STATE_NAME.fullmatch(f"{path.parent.name}/{path.name}"):
                self._note(TaskId(int(path.parent.name)), Hash32(bytes.fromhex(path.name)))

    def put(self, task_id: TaskId, rounds_settled: int, part_ids: Sequence[Hash32]) -> Hash32:
        """Write the parts of a task's state after that many rounds, and return its root."""
        root = compute_state_root(part_ids)
        path = self._path(task_id, root)
        held = self._read(path)
        latest = rounds_settled if held is None else max(rounds_settled, held.rounds_settled)
        path.parent.mkdir(exist_ok=True)
        # Also if it is there: its time says which state of a round was computed last.
        write_atomically(path, latest.to_bytes(_COUNT_BYTES, "big") + b"".join(part_ids))
        self._note(task_id, root)
        return root

    def get(self, root: Hash32) -> tuple[Hash32, ...] | None:
        """The parts of a state, theta first; None if they are unknown."""
        # Equal states of two tasks have equal parts.
        for task_id in self._tasks.get(root, ()):
            held = self._read(self._path(task_id, root))
            if held is not None:
                return held.part_ids
        return None

    def states(self) -> Iterator[StoredState]:
        """All states that have a file."""
        for path in self._directory.glob("*/*"):
            held = self._read(path)
            if held is not None:
                yield held

    def remove(self, task_id: TaskId, root: Hash32) -> None:
        """Delete the file of a task's state."""
        self._path(task_id, root).unlink(missing_ok=True)
        self._forget(task_id, root)

    def remove_task(self, task_id: TaskId) -> None:
        """Delete the folder of a task."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self._directory / str(task_id))
        for root, task_ids in tuple(self._tasks.items()):
            if task_id in task_ids:
                self._forget(task_id, root)

    def _note(self, task_id: TaskId, root: Hash32) -> None:
        with self._lock:
            self._tasks[root] = self._tasks.get(root, frozenset()) | {task_id}

    def _forget(self, task_id: TaskId, root: Hash32) -> None:
        with self._lock:
            if self._path(task_id, root).exists():  # another thread has just written it again
                return
            left = self._tasks.get(root, frozenset()) - {task_id}
            if left:
                self._tasks[root] = left
            else:
                self._tasks.pop(root, None)

    def _path(self, task_id: TaskId, root: Hash32) -> Path:
        return self._directory / str(task_id) / root.hex()

    def _read(self, path: Path) -> StoredState | None:
        if not _STATE_NAME.fullmatch(f"{path.parent.name}/{path.name}"):
            return None
        try:
            data, written_ns = path.read_bytes(), path.stat().st_mtime_ns
        except FileNotFoundError:
            return None
        count, ids = data[:_COUNT_BYTES], data[_COUNT_BYTES:]
        part_ids = tuple(Hash32(ids[start : start + 32]) for start in range(0, len(ids), 32))
        root = Hash32(bytes.fromhex(path.name))
        if not part_ids or compute_state_root(part_ids) != root:
            return None
        task_id, rounds_settled = TaskId(int(path.parent.name)), int.from_bytes(count, "big")
        return StoredState(task_id, rounds_settled, root, part_ids, written_ns)
