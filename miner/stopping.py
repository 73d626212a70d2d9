"""What becomes of a seat when its miner is stopped, in a sentence for the log.

A seat owes a gradient in each attempt, whether its miner runs or not (docs/spec/contracts.md,
section 6).
"""

from typing import Final

from chain.primitives import TOKEN_UNIT, TaskId
from chain.training.task_spec import TaskSpec
from pot_common.amounts import format_amount

COMPUTING_SHARE: Final = 2
"""A miner computes for at most this part of the phase in which miners commit."""


def describe_stop(task: TaskId, spec: TaskSpec, seat_bond_pot: int, *, is_at_work: bool) -> str:
    """What a stopped miner with a seat loses, and what its operator can do about it.

    Args:
        task: The task.
        spec: Its specification.
        seat_bond_pot: The bond of a seat, in POT.
        is_at_work: Whether the attempt in progress may still need a gradient of this miner.
    """
    bond = format_amount(seat_bond_pot * TOKEN_UNIT)
    seconds = max(1, spec.phases.commit_seconds // COMPUTING_SHARE)
    owed = "; an attempt in progress is owed also then" if is_at_work else ""
    return (
        f"miner stopped, and its seat in task {task} goes on: each attempt that it misses costs an "
        f"eighth of its pay and of its bond of {bond} POT, and two, or its last one, cost all of "
        "that bond. "
        f"Start the miner again within about {seconds} s, or give the seat up: "
        f"pot miner leave {task}{owed}"
    )
