"""Why a task opens no attempt (docs/spec/contracts.md, section 5.1).

The contracts decide; this is the same rule for nodes, which show the reasons, and for miners, which
place no bond in a task that cannot pay them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from chain.contracts.ledger_storage import OpeningState
from chain.contracts.task_registry import TaskStatus, TaskTerms
from chain.contracts.training_token import describe_amount


class ObstacleKind(StrEnum):
    """What keeps a task from opening an attempt."""

    PENDING = "pending"
    PAUSED = "paused"
    CLOSED = "closed"
    MINERS = "miners"
    """Fewer miners have a seat than an attempt needs."""
    UNITS = "units"
    """The seats have fewer units together than an attempt needs, and missing miners may bring too
    few."""
    ATTEMPTS = "attempts"
    """All attempts that were bought are used up."""
    ESCROW = "escrow"
    """The escrow does not pay for a round."""
    LIFETIME = "lifetime"
    """The lifetime may end before an attempt does."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A condition for an attempt that is missing."""

    kind: ObstacleKind
    reason: str
    """A few words for people. They change only when the task does, so a log can tell them once."""


def list_obstacles(
    state: OpeningState,
    terms: TaskTerms,
    *,
    number: int,
    now: int,
    empty_block_interval_ms: int,
) -> tuple[Obstacle, ...]:
    """Every condition for a new attempt that a task does not meet; none if one is in progress.

    Args:
        state: The task in the state of a block.
        terms: The terms of the task.
        number: The number of the next block.
        now: The time of the next block.
        empty_block_interval_ms: The network's parameter, by which seconds are turned into blocks.
    """
    if state.is_open:
        return ()
    match state.status:
        case TaskStatus.NONE | TaskStatus.CLOSED:
            return (Obstacle(ObstacleKind.CLOSED, "it is closed"),)
        case TaskStatus.PENDING:
            return (Obstacle(ObstacleKind.PENDING, "too few validators are ready for it yet"),)
        case TaskStatus.PAUSED:
            reason = "three attempts in a row failed, and its submitter has not resumed it"
            return (Obstacle(ObstacleKind.PAUSED, reason),)
        case TaskStatus.ACTIVE:
            pass
    found = []
    missing_miners = max(0, terms.min_miners - state.seat_count)
    if missing_miners:
        reason = f"too few miners: {state.seat_count} of {terms.min_miners}"
        found.append(Obstacle(ObstacleKind.MINERS, reason))
    # Each miner that is missing brings at least one unit.
    if state.registered_units + missing_miners < terms.min_units:
        reason = f"too few units: {state.registered_units} of {terms.min_units}"
        found.append(Obstacle(ObstacleKind.UNITS, reason))
    if not state.attempts_left:
        reason = "no attempts are left of those that were bought"
        found.append(Obstacle(ObstacleKind.ATTEMPTS, reason))
    cost = terms.max_units * terms.unit_price + terms.validator_fee
    if state.refundable < cost:
        left, needed_amount = (
            describe_amount(each, terms.token) for each in (state.refundable, cost)
        )
        reason = f"too little escrow: {left} of the {needed_amount} for a round"
        found.append(Obstacle(ObstacleKind.ESCROW, reason))
    needed = state.attempt_seconds
    needed_blocks = -(-needed * 1_000 // empty_block_interval_ms)
    # A lifetime ends when both its time and its blocks are over, so one that is left suffices.
    if now + needed > state.end_time and number + needed_blocks > state.end_block:
        reason = f"less lifetime is left than an attempt may take ({needed} s)"
        found.append(Obstacle(ObstacleKind.LIFETIME, reason))
    return tuple(found)


def describe_obstacles(obstacles: Sequence[Obstacle]) -> str:
    """The reasons as one text."""
    return "; ".join(each.reason for each in obstacles)
