"""The phases of tasks, kept for as long as they cannot change."""

from chain.contracts.gradient_ledger import Deadline, Phase
from chain.primitives import BlockNumber, TaskId

Moment = tuple[BlockNumber, int]
"""A head's number and a time in seconds: a phase depends on nothing else."""

TaskPhase = tuple[Phase, Deadline]
"""A task's phase, and when it ends."""


class PhaseCache:
    """Phases at one moment; the contracts see no finer time, and asking them takes 3 ms."""

    def __init__(self) -> None:
        self._moment: Moment | None = None
        self._phases: dict[TaskId, TaskPhase] = {}

    def find(self, task_id: TaskId, moment: Moment) -> TaskPhase | None:
        """The phase of a task if it was kept for this moment."""
        return self._phases.get(task_id) if moment == self._moment else None

    def keep(self, task_id: TaskId, moment: Moment, phase: TaskPhase) -> None:
        """Keep a phase; those of other moments are dropped."""
        if moment != self._moment:
            self._moment, self._phases = moment, {}
        self._phases[task_id] = phase
