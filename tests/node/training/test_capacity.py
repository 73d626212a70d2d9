"""The workers' time is promised once, and new tasks wait for what others leave."""

from hypothesis import given
from hypothesis import strategies as st

from chain.primitives import TaskId
from chain.training.task_checks import ObjectionCode, WorkerShares
from node.training.capacity import Capacity

ONE, TWO, THREE, FOUR = (TaskId(number) for number in range(1, 5))
THIRD = WorkerShares(check_ppm=333_333, aggregation_ppm=1)
SMALL = WorkerShares(check_ppm=166_667, aggregation_ppm=1)
TINY = WorkerShares(check_ppm=1, aggregation_ppm=1)


def test_promises_of_all_tasks_fit_into_half_of_the_time() -> None:
    capacity = Capacity(1)
    capacity.claim(ONE, THIRD)
    capacity.claim(ONE, THIRD)
    capacity.claim(TWO, SMALL)
    assert capacity.find_objection(ONE) is capacity.find_objection(TWO) is None
    capacity.claim(THREE, TINY)
    objection = capacity.find_objection(THREE)
    assert objection is not None
    assert objection.code is ObjectionCode.WORKERS_BUSY
    assert "of the 500000" in objection.reason
    assert "500000 are promised" in objection.reason
    assert capacity.release(TWO) == (THREE,)
    assert capacity.find_objection(THREE) is None


def test_room_goes_to_the_earliest_task_that_it_is_enough_for() -> None:
    capacity = Capacity(1)
    capacity.claim(ONE, THIRD)
    for task_id, shares in ((FOUR, SMALL), (THREE, THIRD), (TWO, THIRD)):
        capacity.claim(task_id, shares)
    assert capacity.find_objection(FOUR) is None, "a smaller task need not wait for larger ones"
    assert capacity.release(ONE) == (TWO,)
    assert capacity.release(FOUR) == ()
    assert capacity.release(TWO) == (THREE,)


def test_a_task_that_waits_takes_no_room_when_it_is_closed() -> None:
    capacity = Capacity(1)
    capacity.claim(ONE, THIRD)
    capacity.claim(TWO, THIRD)
    assert capacity.release(TWO) == ()
    assert capacity.release(ONE) == ()
    assert capacity.find_objection(TWO) is None, "it is not counted any more"


def test_an_active_task_is_counted_whatever_room_there_is() -> None:
    capacity = Capacity(1)
    capacity.claim(ONE, THIRD)
    capacity.claim(TWO, THIRD)
    capacity.promise(TWO, THIRD)
    assert capacity.find_objection(TWO) is None
    capacity.claim(THREE, SMALL)
    assert capacity.release(ONE) == (THREE,)


def test_more_workers_have_more_time_for_checks_and_not_for_aggregations() -> None:
    capacity = Capacity(2)
    shares = WorkerShares(check_ppm=500_000, aggregation_ppm=250_000)
    capacity.claim(ONE, shares)
    capacity.claim(TWO, shares)
    assert capacity.find_objection(TWO) is None
    for number, (left, is_waiting) in enumerate(
        ((WorkerShares(1, 0), True), (WorkerShares(0, 1), True), (WorkerShares(0, 0), False)), 3
    ):
        capacity.claim(TaskId(number), left)
        assert (capacity.find_objection(TaskId(number)) is not None) is is_waiting


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 6), st.integers(1, 500_000))))
def test_no_time_is_promised_twice_and_none_is_left_that_is_enough(
    steps: list[tuple[bool, int, int]],
) -> None:
    capacity, claimed = Capacity(1), dict[TaskId, int]()
    for is_claim, number, ppm in steps:
        task_id = TaskId(number)
        if is_claim:
            claimed.setdefault(task_id, ppm)
            capacity.claim(task_id, WorkerShares(claimed[task_id], 0))
        else:
            claimed.pop(task_id, None)
            capacity.release(task_id)
        waiting = [each for each in claimed if capacity.find_objection(each) is not None]
        used = sum(ppm for each, ppm in claimed.items() if each not in waiting)
        assert used <= 500_000
        assert all(used + claimed[each] > 500_000 for each in waiting)
