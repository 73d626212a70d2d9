"""Which tasks a miner accepts: those that are safe for its bonds, within the operator's limits."""

import os
from dataclasses import dataclass
from typing import Final

from chain.contracts.gradient_ledger import compute_late_blocks, compute_window_blocks
from chain.params import ChainParameters, compute_attempt_seconds
from chain.primitives import TaskId
from chain.training.resources import count_content_bytes
from chain.training.task_checks import find_commitment_objection, find_phase_objection
from chain.training.task_spec import TaskSpec
from chain.types.validator_set import compute_quorum
from pot_common.rpc_replies import ClientError

GIB: Final = 2**30
"""The bytes of a GiB."""

DAY_SECONDS: Final = 86_400
"""The seconds of a day."""


def get_machine_memory_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@dataclass(frozen=True, slots=True)
class MinerLimits:
    """What an operator allows a task to take of a miner."""

    memory_bytes: int
    """The most memory that a task may declare."""
    data_bytes: int
    """The most bytes of task data on the disk."""
    lock_seconds: int
    """The longest time for which bonds may be locked after a miner decides to leave a task that it
    has chosen by itself."""


def require_enough_time(task: TaskId, spec: TaskSpec, parameters: ChainParameters) -> None:
    """Accept a task only if its phases leave honest miners time to commit and to reveal.

    Raises:
        ClientError: A bond in the task could be lost for lack of time.
    """
    speed = parameters.blob_bytes_per_second
    objection = find_phase_objection(spec, speed) or find_commitment_objection(spec, speed)
    if objection is not None:
        raise ClientError(
            f"task {task} could cost you the bond: {objection.reason}; take another task"
        )


def require_room(task: TaskId, spec: TaskSpec, limits: MinerLimits) -> None:
    """Accept a task only if this machine has the memory and the disk for it.

    Validators refuse a task that takes more memory than it declares, so the miner relies on that.

    Raises:
        ClientError: The task takes too much. The message names the setting.
    """
    data_bytes = count_content_bytes(spec)
    for what, needed, limit, setting in (
        ("memory", spec.resources.peak_bytes, limits.memory_bytes, "--memory-gib"),
        ("disk", data_bytes, limits.data_bytes, "--data-gib"),
    ):
        if needed > limit:
            raise ClientError(
                f"task {task} takes up to {needed / GIB:.2f} GiB of {what}, and {setting} allows "
                f"{limit / GIB:.2f}"
            )


def compute_lock_seconds(spec: TaskSpec, parameters: ChainParameters, validator_count: int) -> int:
    """The longest time from a miner's decision to leave a task until its bonds are free.

    They are locked during the attempt in progress, which may need all its ballots, and then as
    long as that attempt can be fined. This is a number of blocks, all of which may be empty ones.
    The bonds can be taken in the block after the last of them.
    """
    phases, quorum = spec.phases, compute_quorum(validator_count)
    attempt_seconds = compute_attempt_seconds(
        parameters,
        validator_count,
        commit_seconds=phases.commit_seconds,
        verdict_seconds=phases.verdict_seconds,
        result_seconds=phases.result_seconds,
    )
    late_blocks = compute_late_blocks(quorum, phases.verdict_seconds)
    blocks = late_blocks + 2 * compute_window_blocks(quorum) + 1
    return attempt_seconds + -(-blocks * parameters.empty_block_interval_ms // 1_000)


def require_short_lock(task: TaskId, lock_seconds: int, limits: MinerLimits) -> None:
    """Accept a task only if it does not lock bonds for too long.

    Raises:
        ClientError: It does. The message names the setting.
    """
    if lock_seconds > limits.lock_seconds:
        raise ClientError(
            f"task {task} may lock bonds for {lock_seconds / DAY_SECONDS:.1f} days after its last "
            f"attempt has begun, and --lock-days allows {limits.lock_seconds / DAY_SECONDS:g}"
        )
