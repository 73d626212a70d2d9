from dataclasses import replace

from chain.contracts.task_registry import TaskStatus
from chain.primitives import TaskId
from chain.training.fees import KEPT_SECONDS
from chain.training.resources import count_closed_bytes
from node.training.closed_disk import ClosedDisk
from tests.worlds.training import SPEC, at, history_after

KEPT = count_closed_bytes(SPEC)
CLOSED = replace(history_after(), status=TaskStatus.CLOSED, closed=at(9), rounds_settled=2)
CLOSED_AT = at(9).timestamp


def test_closed_task_takes_disk_as_long_as_it_has_paid_for_it() -> None:
    for rounds_settled in (0, 2):
        disk = ClosedDisk()
        assert disk.count(CLOSED_AT) == 0
        disk.add(replace(CLOSED, rounds_settled=rounds_settled), SPEC)
        disk.add(replace(CLOSED, rounds_settled=rounds_settled), SPEC)
        assert disk.count(CLOSED_AT + KEPT_SECONDS - 1) == KEPT
        assert disk.count(CLOSED_AT + KEPT_SECONDS) == 0


def test_content_that_two_tasks_share_is_counted_twice_as_it_is_paid_for() -> None:
    disk = ClosedDisk()
    disk.add(CLOSED, SPEC)
    disk.add(replace(CLOSED, task_id=TaskId(2)), SPEC)
    assert disk.count(CLOSED_AT) == 2 * KEPT
