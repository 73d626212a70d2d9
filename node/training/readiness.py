"""Why this node is or is not ready for each task, for submitters (docs/spec/rpc.md, section 2)."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cachetools import FIFOCache

from chain.json_types import JsonObject
from chain.primitives import TaskId
from chain.training.task_checks import Objection

READINESS_LIMIT: Final = 4_096
"""The most tasks that are remembered. The earliest is forgotten first."""

REASON_LIMIT: Final = 400
"""The longest reason that is kept, in characters: a worker's error may quote its input."""


class ReadinessState(StrEnum):
    """How far this node's preparation for a task is. RPC shows the values."""

    PREPARING = "preparing"
    """Content is being fetched, or the dry run is running or waits for its turn."""
    WAITING = "waiting"
    """Something is missing; the node tries again by itself."""
    REFUSED = "refused"
    """The validator is not ready. If others are, it does what it can when the task is active."""
    READY = "ready"
    """The dry run succeeded; the operator's vote follows."""


@dataclass(frozen=True, slots=True)
class TaskReadiness:
    """This node's answer to a task."""

    state: ReadinessState
    code: str | None = None
    """The ObjectionCode; None unless the node waits or refuses."""
    reason: str | None = None
    """A sentence for people; None unless the node waits or refuses."""

    def to_json(self) -> JsonObject:
        """The answer as RPC shows it."""
        return {"state": self.state.value, "code": self.code, "reason": self.reason}


UNKNOWN: Final[JsonObject] = {"state": None, "code": None, "reason": None}
"""The answer to a task that is not being prepared, or was forgotten."""


class ReadinessLog:
    """The last answer of this node to each of the latest tasks."""

    def __init__(self) -> None:
        self._answers: FIFOCache[TaskId, TaskReadiness] = FIFOCache(READINESS_LIMIT)

    def get(self, task_id: TaskId) -> TaskReadiness | None:
        """The answer to a task; None if its preparation has not begun, or it was forgotten."""
        return self._answers.get(task_id)

    def describe(self, task_id: TaskId) -> JsonObject:
        """The last answer to a task, as RPC shows it."""
        answer = self._answers.get(task_id)
        return UNKNOWN if answer is None else answer.to_json()

    def set_state(self, task_id: TaskId, state: ReadinessState) -> None:
        """Note that a task is being prepared, or that this node is ready for it."""
        self._answers[task_id] = TaskReadiness(state)

    def object(self, task_id: TaskId, state: ReadinessState, objection: Objection) -> None:
        """Note why this node waits or refuses."""
        reason = objection.reason[:REASON_LIMIT]
        self._answers[task_id] = TaskReadiness(state, objection.code.value, reason)
