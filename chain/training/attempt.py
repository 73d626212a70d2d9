"""Which attempt at which round of which task (docs/spec/training.md, section 10)."""

from dataclasses import dataclass

from chain.primitives import TaskId


@dataclass(frozen=True, slots=True, order=True)
class AttemptId:
    """One attempt at a round of a task; ids are ordered as attempts follow each other."""

    task_id: TaskId
    round_number: int
    """0-based within the task."""
    attempt_number: int
    """0-based within the round."""
