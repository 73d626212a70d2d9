"""The disk that closed tasks still take (docs/spec/training.md, section 11)."""

from typing import Final

from chain.primitives import TaskId
from chain.training.history import TaskHistory
from chain.training.resources import count_content_bytes, count_state_bytes
from chain.training.task_spec import TaskSpec

FORGOTTEN_SECONDS: Final = 86_400
"""How long a task that was closed before a round was settled still takes disk."""


class ClosedDisk:
    """The content and the final state of each closed task that this validator was ready for."""

    def __init__(self, closed_seconds: int) -> None:
        """Begin without tasks; `closed_seconds` is how long the content of a closed one is kept."""
        self._closed_seconds = closed_seconds
        self._kept: dict[TaskId, tuple[int, int]] = {}
        """The bytes, and the time at which they are deleted."""

    def add(self, history: TaskHistory, spec: TaskSpec) -> None:
        """Count what is still kept of a closed task."""
        assert history.closed is not None
        seconds = self._closed_seconds if history.rounds_settled else FORGOTTEN_SECONDS
        kept = count_content_bytes(spec) + count_state_bytes(spec)
        self._kept[history.task_id] = (kept, history.closed.timestamp + seconds)

    def count(self, now: int) -> int:
        """The bytes at the time `now`; what was deleted until then is not counted any more."""
        self._kept = {
            each: (size, until) for each, (size, until) in self._kept.items() if until > now
        }
        return sum(size for size, _ in self._kept.values())
