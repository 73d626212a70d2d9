from dataclasses import replace

from chain.contracts.task_registry import TaskStatus
from chain.training.resources import count_content_bytes, count_state_bytes
from node.training.closed_disk import FORGOTTEN_SECONDS, ClosedDisk
from tests.worlds.training import SPEC, at, history_after

KEPT = count_content_bytes(SPEC) + count_state_bytes(SPEC)
CLOSED = replace(history_after(), status=TaskStatus.CLOSED, closed=at(9), rounds_settled=2)
CLOSED_AT = at(9).timestamp


def test_closed_task_takes_disk_until_its_content_is_deleted() -> None:
    disk = ClosedDisk(closed_seconds=100)
    assert disk.count(CLOSED_AT) == 0
    disk.add(CLOSED, SPEC)
    disk.add(CLOSED, SPEC)
    assert [disk.count(CLOSED_AT + each) for each in (0, 99, 100)] == [KEPT, KEPT, 0]


def test_task_without_a_settled_round_is_forgotten_after_a_day() -> None:
    disk = ClosedDisk(closed_seconds=10 * FORGOTTEN_SECONDS)
    disk.add(replace(CLOSED, rounds_settled=0), SPEC)
    assert disk.count(CLOSED_AT + FORGOTTEN_SECONDS - 1) == KEPT
    assert disk.count(CLOSED_AT + FORGOTTEN_SECONDS) == 0
