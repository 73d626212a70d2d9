"""What a miner that waits or is stopped should know, in a sentence for the log.

A seat owes a gradient in each attempt, whether its miner runs or not (docs/spec/contracts.md,
section 6).
"""

from chain.amounts import format_amount
from chain.contracts.task_registry import TaskStatus
from chain.primitives import TOKEN_UNIT, TaskId
from chain.training.task_checks import compute_work_milliseconds
from chain.training.task_spec import TaskSpec


def describe_stop(task: TaskId, spec: TaskSpec, seat_bond_pot: int, *, is_at_work: bool) -> str:
    """What a stopped miner with a seat loses, and what its operator can do about it.

    Args:
        task: The task.
        spec: Its specification.
        seat_bond_pot: The bond of a seat, in POT.
        is_at_work: Whether the attempt in progress may still need a gradient of this miner.
    """
    bond = format_amount(seat_bond_pot * TOKEN_UNIT)
    seconds = max(1, compute_work_milliseconds(spec.phases.commit_seconds) // 1_000)
    owed = "; it still owes the attempt in progress then" if is_at_work else ""
    return (
        f"miner stopped, and its seat in task {task} goes on: each attempt that it misses costs an "
        f"eighth of its pay and of its bond of {bond} POT; all of that bond is lost if two are "
        "within eight attempts, or if the last one is missed. "
        f"Start the miner again within about {seconds} s, or give the seat up: "
        f"pot miner leave {task}{owed}"
    )


def describe_wait(task: TaskId, status: TaskStatus) -> str:
    """Why a miner waits that was told to mine a pending or paused task, and what ends the wait."""
    if status is TaskStatus.PENDING:
        return (
            f"task {task} is pending: too few validators are ready for it yet; the miner waits "
            f"until it is active. What validators wait for: pot task show {task}"
        )
    return (
        f"task {task} is paused, because three attempts in a row failed; the miner waits until its "
        f"submitter resumes it (pot task resume {task}) or it expires (pot task show {task}). To "
        "mine others meanwhile, stop the miner and start it with --task auto"
    )
