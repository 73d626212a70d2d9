"""The disk that closed tasks have paid for (docs/spec/training.md, section 11).

A validator keeps their files longer, but then they give way to other tasks, so that they take
nothing of what it promises.
"""

from chain.primitives import TaskId
from chain.training.fees import KEPT_SECONDS
from chain.training.history import TaskHistory
from chain.training.resources import count_closed_bytes
from chain.training.task_spec import TaskSpec


class ClosedDisk:
    """The content and the final state of each closed task that this validator was ready for."""

    def __init__(self) -> None:
        self._kept: dict[TaskId, tuple[int, int]] = {}
        """The bytes, and the time until which they are paid for."""

    def add(self, history: TaskHistory, spec: TaskSpec) -> None:
        """Count what a closed task has paid for.

        Content that it shares with another task is counted again, as it is paid for again.
        """
        assert history.closed is not None
        until = history.closed.timestamp + KEPT_SECONDS
        self._kept[history.task_id] = (count_closed_bytes(spec), until)

    def count(self, now: int) -> int:
        """The bytes that are paid for at the time `now`."""
        self._kept = {
            each: (size, until) for each, (size, until) in self._kept.items() if until > now
        }
        return sum(size for size, _ in self._kept.values())
