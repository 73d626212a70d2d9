"""What became of a task's money, folded from events (docs/spec/rpc.md, section 2).

The contracts hold what is left of a task's budget and fee. Where the rest went is told by events
alone: how much of the fee was burnt, and what of the pay went to miners. A node that began with a
snapshot has not seen the events of earlier tasks, so it cannot tell.
"""

from dataclasses import dataclass, replace
from typing import Final

from chain.contracts.events import Event
from chain.contracts.gradient_ledger import AttemptPaid, RoundSettled
from chain.contracts.task_registry import TaskFeeRefunded, TaskLeased
from chain.training.history import TaskHistory, compute_outcome
from chain.training.task_spec import TaskSpec

MONEY_EVENTS: Final = (TaskLeased, TaskFeeRefunded, RoundSettled, AttemptPaid)
"""The events that change the sums; other events need not be asked."""


@dataclass(frozen=True, slots=True)
class TaskMoney:
    """The sums of a task since its submission; those of the fee in base units of POT."""

    fee_paid: int = 0
    """What the submission and extensions took, from any account."""
    fee_burnt: int = 0
    fee_returned: int = 0
    """What the submitter took back."""
    miners_paid: int = 0
    """For accepted units, in base units of the task's token. The rest of what was paid went to
    validators."""


def apply_to_money(
    money: TaskMoney, event: Event, before: TaskHistory, spec: TaskSpec | None
) -> TaskMoney:
    """The sums after an event.

    Args:
        money: The sums before it.
        event: An event of the task; events come in the order of the chain.
        before: The task before the event.
        spec: The task's specification; None if the submitted bytes are invalid.
    """
    match event:
        case TaskLeased():
            held = before.lease.held_pay + before.lease.held_rent
            grown = event.lease.held_pay + event.lease.held_rent - held
            return replace(
                money,
                fee_paid=money.fee_paid + event.burnt + grown,
                fee_burnt=money.fee_burnt + event.burnt,
            )
        case TaskFeeRefunded():
            return replace(money, fee_returned=money.fee_returned + event.amount)
        case RoundSettled() | AttemptPaid():
            assert spec is not None, "an active task has a valid specification"
            # A quorum of liars could settle a payout below the pay of the units that it accepts.
            pay = event.result.accepted_units * spec.reward.unit_price
            earned = min(event.result.payout, pay - _get_forfeited(before, spec))
            return replace(money, miners_paid=money.miners_paid + earned)
        case _:
            return money


def _get_forfeited(before: TaskHistory, spec: TaskSpec) -> int:
    """The pay that miners lose in the attempt in progress, because they delivered late."""
    attempt = before.attempt
    if attempt is None or attempt.validator_set is None or not attempt.late_deliveries:
        return 0
    return compute_outcome(attempt, spec, attempt.validator_set).forfeited


def compute_earned_answers(money: TaskMoney, history: TaskHistory) -> int:
    """What validators earned with their answers to the task, in base units of POT."""
    held = history.lease.held_pay + history.lease.held_rent
    return money.fee_paid - money.fee_burnt - money.fee_returned - held
