"""When a task is over, and what validators answer to it (docs/spec/contracts.md, section 4).

The contract decides; this is the same rule for nodes, which must know when to call `expireTask`.
"""

from dataclasses import replace
from typing import Final

from chain.contracts.task_registry import TaskLease, TaskStatus
from chain.primitives import BlockNumber

READY_CODE: Final = 0
"""The answer of a validator that is ready; every other code is a refusal."""

_NEVER: Final = 2**64 - 1

NO_LEASE: Final = TaskLease(
    window_time=_NEVER,
    window_block=BlockNumber(_NEVER),
    end_time=_NEVER,
    end_block=BlockNumber(_NEVER),
    progress_time=_NEVER,
    progress_block=BlockNumber(_NEVER),
    lifetime_seconds=0,
    attempts_left=0,
    attempt_seconds=0,
    refusal_code=0,
    answer_pay=0,
    idle_seconds=0,
    idle_blocks=0,
    held_pay=0,
    held_rent=0,
)
"""The lease of a task before the event that says what was bought."""


def pay_answer(lease: TaskLease) -> TaskLease:
    """The lease after an answer, which is paid as long as pay is left."""
    paid = lease.answer_pay if lease.held_pay >= lease.answer_pay else 0
    return replace(lease, held_pay=lease.held_pay - paid)


def use_attempt(lease: TaskLease) -> TaskLease:
    """The lease after an attempt opened."""
    return replace(lease, attempts_left=max(0, lease.attempts_left - 1))


def return_attempt(lease: TaskLease, number: BlockNumber, timestamp: int) -> TaskLease:
    """The lease after an attempt without a commitment: it is given back, and counts as progress."""
    return note_progress(replace(lease, attempts_left=lease.attempts_left + 1), number, timestamp)


def compute_fee_refund(lease: TaskLease, status: TaskStatus, number: int, now: int) -> int:
    """What a submitter can take back now of the POT that is held for its task."""
    pay = lease.held_pay if is_window_over(lease, number, now) else 0
    return pay + (lease.held_rent if status is TaskStatus.CLOSED else 0)


def refund_fee(
    lease: TaskLease, status: TaskStatus, number: BlockNumber, timestamp: int
) -> TaskLease:
    """The lease after `compute_fee_refund` was paid to its submitter."""
    held_pay = 0 if is_window_over(lease, number, timestamp) else lease.held_pay
    held_rent = 0 if status is TaskStatus.CLOSED else lease.held_rent
    return replace(lease, held_pay=held_pay, held_rent=held_rent)


def note_payout(lease: TaskLease, payout: int, number: BlockNumber, timestamp: int) -> TaskLease:
    """The lease after an attempt ended with this payout."""
    return note_progress(lease, number, timestamp) if payout else lease


def note_progress(lease: TaskLease, number: BlockNumber, timestamp: int) -> TaskLease:
    """The lease after progress: the task's idle time is counted from this block again."""
    return replace(lease, progress_time=timestamp, progress_block=number)


def is_window_over(lease: TaskLease, number: int, now: int) -> bool:
    """Whether answers are not accepted any more in a block with this number and time."""
    return now >= lease.window_time and number >= lease.window_block


def is_lifetime_over(lease: TaskLease, number: int, now: int) -> bool:
    """Whether the lifetime of a task that became active is over."""
    return now >= lease.end_time and number >= lease.end_block


def is_idle(lease: TaskLease, number: int, now: int) -> bool:
    """Whether an active task went too long without progress."""
    return (
        now >= lease.progress_time + lease.idle_seconds
        and number >= lease.progress_block + lease.idle_blocks
    )


def is_expired(
    status: TaskStatus, lease: TaskLease, *, is_attempt_open: bool, number: int, now: int
) -> bool:
    """Whether a task is over in a block with this number and time, so that it can be closed."""
    match status:
        case TaskStatus.NONE | TaskStatus.CLOSED:
            return False
        case TaskStatus.PENDING:
            return is_window_over(lease, number, now)
        case TaskStatus.ACTIVE:
            is_over = is_lifetime_over(lease, number, now) or is_idle(lease, number, now)
            return is_over and not is_attempt_open
        case TaskStatus.PAUSED:
            return is_lifetime_over(lease, number, now)
