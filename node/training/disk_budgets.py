"""The disk that this validator has promised to tasks (docs/spec/training.md, section 11).

A validator that is ready for a task must be able to keep its content, its states and the gradients
of its rounds until it is closed. The specification declares how much that is, and the task pays for
it. So a task is refused before its first byte is fetched, and the gradients of one task never take
the room of another.
"""

from typing import Final

from chain.primitives import TaskId
from chain.training.history import TaskHistory
from chain.training.resources import count_content_bytes, count_state_bytes
from chain.training.task_spec import TaskSpec

FORGOTTEN_SECONDS: Final = 86_400
"""How long a task that was closed before a round was settled still takes disk."""


class DiskBudgets:
    """The promised bytes of each task, and their limit."""

    def __init__(self, limit_bytes: int, closed_seconds: int) -> None:
        """Begin without promises.

        Args:
            limit_bytes: The most that is promised to all tasks together.
            closed_seconds: How long the content of a closed task is kept.
        """
        self._limit_bytes = limit_bytes
        self._closed_seconds = closed_seconds
        self._open: dict[TaskId, int] = {}
        self._closed: dict[TaskId, tuple[int, int]] = {}
        """Bytes of closed tasks, and the time at which they are deleted."""

    def promise(self, task_id: TaskId, spec: TaskSpec) -> None:
        """Count an open task for which this validator is ready, or is about to be."""
        if task_id not in self._open:
            self._open[task_id] = spec.resources.disk_bytes

    def has(self, task_id: TaskId) -> bool:
        """Whether an open task is counted."""
        return task_id in self._open

    def withdraw(self, task_id: TaskId) -> None:
        """Count a task no more: this validator is not ready for it after all."""
        self._open.pop(task_id, None)

    def close(self, history: TaskHistory, spec: TaskSpec) -> None:
        """Count of a closed task only what is still kept."""
        assert history.closed is not None
        if self._open.pop(history.task_id, None) is not None:
            seconds = self._closed_seconds if history.rounds_settled else FORGOTTEN_SECONDS
            kept = count_content_bytes(spec) + count_state_bytes(spec)
            self._closed[history.task_id] = (kept, history.closed.timestamp + seconds)

    def find_objection(self, task_id: TaskId, spec: TaskSpec, now: int) -> str | None:
        """The reason why a task can be promised no disk at the time `now`; None if it can."""
        needed = 0 if task_id in self._open else spec.resources.disk_bytes
        self._closed = {
            each: (size, until) for each, (size, until) in self._closed.items() if until > now
        }
        promised = sum(self._open.values()) + sum(size for size, _ in self._closed.values())
        if promised + needed <= self._limit_bytes:
            return None
        return (
            f"the task takes up to {needed} bytes of disk; of the {self._limit_bytes} bytes that "
            f"blobs.quota_bytes allows to all tasks, {promised} are promised to others"
        )

    def is_too_large(self, spec: TaskSpec) -> bool:
        """Whether a task takes more than all tasks together may."""
        return spec.resources.disk_bytes > self._limit_bytes
