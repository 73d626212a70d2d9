"""The time of its workers that this validator has promised to tasks (docs/spec/training.md, 10.1).

Each task's checks have to fit into its verdict phase while the other tasks are checked as well. So
a task is accepted only if the shares that all accepted tasks may take fit into half of the time.
"""

from typing import Final

from chain.primitives import TaskId
from chain.training.fees import PROMISED_SHARE
from chain.training.task_checks import Objection, ObjectionCode, WorkerShares

WHOLE_PPM: Final = 1_000_000
"""The whole time of one worker, in parts per million."""


class Capacity:
    """The promised shares of each task, and their limits."""

    def __init__(self, check_workers: int) -> None:
        """Begin without promises; `check_workers` check gradients side by side."""
        self._check_limit = check_workers * WHOLE_PPM // PROMISED_SHARE
        self._aggregation_limit = WHOLE_PPM // PROMISED_SHARE
        self._promised: dict[TaskId, WorkerShares] = {}

    def promise(self, task_id: TaskId, shares: WorkerShares) -> None:
        """Count a task for which this validator is ready."""
        self._promised[task_id] = shares

    def release(self, task_id: TaskId) -> None:
        """Count a task no more: it is closed."""
        self._promised.pop(task_id, None)

    def find_objection(self, task_id: TaskId, shares: WorkerShares) -> Objection | None:
        """The reason why a task does not fit beside those that are promised; None if it does."""
        others = [each for key, each in self._promised.items() if key != task_id]
        for name, needed, promised, limit in (
            (
                "checks and evaluations",
                shares.check_ppm,
                sum(each.check_ppm for each in others),
                self._check_limit,
            ),
            (
                "aggregations",
                shares.aggregation_ppm,
                sum(each.aggregation_ppm for each in others),
                self._aggregation_limit,
            ),
        ):
            if promised + needed > limit:
                return Objection(
                    ObjectionCode.WORKERS_BUSY,
                    f"{name} take {needed} millionths of a worker's time; of the {limit} that a "
                    f"validator promises to all tasks, {promised} are promised to others",
                )
        return None
