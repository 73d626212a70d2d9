from dataclasses import replace

from chain.contracts.task_registry import TaskStatus
from chain.primitives import TaskId
from chain.training.resources import count_content_bytes, count_disk_bytes, count_state_bytes
from node.training.disk_budgets import DiskBudgets
from tests.worlds.training import SPEC as SMALL
from tests.worlds.training import at, history_after

NEEDED = count_disk_bytes(SMALL) + 1
SPEC = replace(SMALL, resources=replace(SMALL.resources, disk_bytes=NEEDED))
KEPT = count_content_bytes(SPEC) + count_state_bytes(SPEC)
ONE, TWO, THREE = TaskId(1), TaskId(2), TaskId(3)
CLOSED_AT = at(9).timestamp


def test_promises_never_exceed_their_limit() -> None:
    budgets = DiskBudgets(2 * NEEDED, closed_seconds=100)
    budgets.promise(ONE, SPEC)
    assert budgets.find_objection(TWO, SPEC, 0) is None
    budgets.promise(TWO, SPEC)
    assert budgets.find_objection(TWO, SPEC, 0) is None, "it is counted already"
    objection = budgets.find_objection(THREE, SPEC, 0)
    assert objection is not None
    assert f"up to {NEEDED} bytes" in objection
    assert f"{2 * NEEDED} are promised" in objection
    budgets.withdraw(ONE)
    assert budgets.find_objection(THREE, SPEC, 0) is None


def test_closed_task_counts_what_is_kept_of_it() -> None:
    budgets = DiskBudgets(NEEDED + KEPT, closed_seconds=100)
    closed = replace(history_after(), status=TaskStatus.CLOSED, closed=at(9), rounds_settled=2)
    budgets.promise(ONE, SPEC)
    assert budgets.find_objection(TWO, SPEC, CLOSED_AT) is not None
    budgets.close(closed, SPEC)
    assert budgets.find_objection(TWO, SPEC, CLOSED_AT) is None
    budgets.promise(TWO, SPEC)
    assert budgets.find_objection(THREE, SPEC, CLOSED_AT + 99) is not None
    budgets.withdraw(TWO)
    assert budgets.find_objection(TWO, replace(SPEC), CLOSED_AT + 100) is None


def test_task_that_was_not_promised_counts_nothing_when_it_is_closed() -> None:
    budgets = DiskBudgets(NEEDED, closed_seconds=100)
    budgets.close(replace(history_after(), status=TaskStatus.CLOSED, closed=at(9)), SPEC)
    assert budgets.find_objection(TWO, SPEC, CLOSED_AT) is None


def test_task_above_the_limit_is_too_large() -> None:
    assert DiskBudgets(NEEDED - 1, closed_seconds=100).is_too_large(SPEC)
    assert not DiskBudgets(NEEDED, closed_seconds=100).is_too_large(SPEC)
