from dataclasses import replace

import pytest

from chain.contracts.events import Event
from chain.contracts.gradient_ledger import AttemptPaid, BallotFailed, RoundSettled
from chain.contracts.task_registry import TaskFeeRefunded, TaskFunded, TaskLeased
from chain.primitives import Address
from chain.training.acceptance import Verdict
from chain.training.history import build_history
from chain.training.leases import NO_LEASE
from chain.training.task_money import (
    MONEY_EVENTS,
    TaskMoney,
    apply_to_money,
    compute_earned_answers,
)
from tests.worlds.training import (
    SPEC,
    SUBMITTED,
    TASK,
    VOTE,
    at,
    committed,
    history_after,
    opened,
    verdict,
)

SENDER = Address(b"\x01" * 20)
PRICE = SPEC.reward.unit_price
NEW = replace(build_history(SUBMITTED, at(1)), lease=NO_LEASE)
HELD = replace(NO_LEASE, held_pay=40, held_rent=300, answer_pay=10)


def test_submission_pays_what_is_burnt_and_what_is_held() -> None:
    event = TaskLeased(TASK, SENDER, 7, HELD)
    assert apply_to_money(TaskMoney(), event, NEW, SPEC) == TaskMoney(347, 7)


def test_rent_that_is_burnt_later_is_paid_once() -> None:
    before = replace(NEW, lease=replace(HELD, held_pay=20))
    event = TaskLeased(TASK, SENDER, 300, replace(HELD, held_pay=20, held_rent=0))
    after = apply_to_money(TaskMoney(347, 7), event, before, SPEC)
    assert after == TaskMoney(347, 307)
    history = replace(NEW, lease=event.lease)
    assert compute_earned_answers(after, history) == 20, "two answers of four"


def test_extension_is_burnt_at_once_if_the_task_is_active() -> None:
    before = replace(NEW, lease=replace(HELD, held_rent=0))
    event = TaskLeased(TASK, SENDER, 5, before.lease)
    assert apply_to_money(TaskMoney(347, 307), event, before, SPEC) == TaskMoney(352, 312)


def test_fee_that_was_taken_back_is_returned() -> None:
    event = TaskFeeRefunded(TASK, SENDER, 20)
    assert apply_to_money(TaskMoney(347, 307), event, NEW, SPEC) == TaskMoney(347, 307, 20)


@pytest.mark.parametrize("payout", [2 * PRICE + 5, 2 * PRICE, PRICE])
def test_pay_for_accepted_units_goes_to_miners(payout: int) -> None:
    vote = replace(VOTE, accepted_units=2, payout=payout)
    settled, paid = RoundSettled(TASK, 0, 0, 0, vote), AttemptPaid(TASK, 0, 0, 0, vote)
    for event in (settled, paid):
        money = apply_to_money(TaskMoney(), event, history_after(), SPEC)
        assert money.miners_paid == min(payout, 2 * PRICE)


def test_pay_that_a_late_delivery_loses_goes_to_nobody() -> None:
    words = (Verdict.MISSING, Verdict.MISSING, Verdict.UNCHECKED, Verdict.OK)
    failed = [verdict(i, word) for i, word in enumerate(words)]
    again = [verdict(i, Verdict.OK, ballot=1) for i in range(4)]
    before = history_after(opened(), committed(0), *failed, BallotFailed(TASK, 0, 0, 0), *again)
    vote = replace(VOTE, accepted_units=1, payout=PRICE * 7 // 8 + SPEC.reward.validator_fee)
    money = apply_to_money(TaskMoney(), RoundSettled(TASK, 0, 0, 1, vote), before, SPEC)
    assert money.miners_paid == PRICE * 7 // 8


def test_other_events_change_nothing() -> None:
    event: Event = TaskFunded(TASK, SENDER, 9)
    assert not isinstance(event, MONEY_EVENTS)
    assert apply_to_money(TaskMoney(), event, NEW, SPEC) == TaskMoney()
