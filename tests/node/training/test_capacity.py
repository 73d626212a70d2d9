"""The workers' time is promised once, and new tasks wait for what others leave."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from chain.primitives import TaskId
from chain.training.task_checks import ObjectionCode, Promise
from node.training.capacity import Capacity

ONE, TWO, THREE, FOUR = (TaskId(number) for number in range(1, 5))
THIRD = Promise(check_ppm=333_333, aggregation_ppm=1, disk_bytes=0)
SMALL = Promise(check_ppm=166_667, aggregation_ppm=1, disk_bytes=0)
TINY = Promise(check_ppm=1, aggregation_ppm=1, disk_bytes=0)

HALF = Promise(check_ppm=0, aggregation_ppm=0, disk_bytes=500)
DISK_BYTES = 1_000


def build(check_workers: int = 1) -> Capacity:
    return Capacity(check_workers, DISK_BYTES, lambda: 0)


def test_promises_of_all_tasks_fit_into_half_of_the_time() -> None:
    capacity = build()
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
    capacity = build()
    capacity.claim(ONE, THIRD)
    for task_id, shares in ((FOUR, SMALL), (THREE, THIRD), (TWO, THIRD)):
        capacity.claim(task_id, shares)
    assert capacity.find_objection(FOUR) is None, "a smaller task need not wait for larger ones"
    assert capacity.release(ONE) == (TWO,)
    assert capacity.release(FOUR) == ()
    assert capacity.release(TWO) == (THREE,)


def test_a_task_that_waits_takes_no_room_when_it_is_closed() -> None:
    capacity = build()
    capacity.claim(ONE, THIRD)
    capacity.claim(TWO, THIRD)
    assert capacity.release(TWO) == ()
    assert capacity.release(ONE) == ()
    assert capacity.find_objection(TWO) is None, "it is not counted any more"


def test_task_that_was_ready_before_a_restart_waits_for_time_but_is_served() -> None:
    capacity = build()
    capacity.claim(ONE, THIRD)
    capacity.promise(TWO, replace(THIRD, disk_bytes=DISK_BYTES))
    assert capacity.find_objection(TWO) is None
    assert (capacity.has_promise(TWO), capacity.has_time(TWO)) == (True, False)
    capacity.claim(THREE, replace(SMALL, disk_bytes=1))
    assert capacity.find_objection(THREE) is not None, "its disk is counted"
    assert capacity.release(ONE) == (TWO,)
    assert capacity.has_time(TWO)
    assert capacity.release(TWO) == (THREE,)


def test_task_is_served_again_even_if_there_is_less_disk_than_before() -> None:
    capacity = build()
    capacity.promise(ONE, replace(THIRD, disk_bytes=DISK_BYTES + 1))
    assert (capacity.has_promise(ONE), capacity.has_time(ONE)) == (True, True)


def test_more_workers_have_more_time_for_checks_and_not_for_aggregations() -> None:
    capacity = build(2)
    shares = Promise(check_ppm=500_000, aggregation_ppm=250_000, disk_bytes=0)
    capacity.claim(ONE, shares)
    capacity.claim(TWO, shares)
    assert capacity.find_objection(TWO) is None
    for number, (left, is_waiting) in enumerate(
        ((Promise(1, 0, 0), True), (Promise(0, 1, 0), True), (Promise(0, 0, 0), False)), 3
    ):
        capacity.claim(TaskId(number), left)
        assert (capacity.find_objection(TaskId(number)) is not None) is is_waiting


def test_tasks_wait_for_disk_in_the_same_order_as_for_time() -> None:
    capacity = build()
    for task_id, disk_bytes in ((ONE, 900), (FOUR, 101), (THREE, 500), (TWO, 600)):
        capacity.claim(task_id, replace(HALF, disk_bytes=disk_bytes))
    objection = capacity.find_objection(FOUR)
    assert objection is not None
    assert objection.code is ObjectionCode.NO_ROOM
    assert "declares 101 bytes of disk; of the 1000" in objection.reason
    assert "900 are promised" in objection.reason
    assert capacity.release(ONE) == (TWO, FOUR)
    assert capacity.find_objection(THREE) is not None


def test_an_active_task_is_served_with_disk_and_waits_for_time() -> None:
    capacity = build()
    capacity.claim(ONE, replace(THIRD, disk_bytes=600))
    for task_id, disk_bytes in ((TWO, 401), (THREE, 400)):
        capacity.claim(task_id, replace(THIRD, disk_bytes=disk_bytes), is_active=True)
    assert capacity.find_objection(TWO) is not None
    assert capacity.find_objection(THREE) is None
    # A task that has waited for time since it was new is served when it is active.
    capacity.claim(FOUR, THIRD)
    assert capacity.find_objection(FOUR) is not None
    capacity.claim(FOUR, THIRD, is_active=True)
    assert capacity.find_objection(FOUR) is None
    served = (ONE, THREE, FOUR)
    assert [capacity.has_promise(each) for each in served] == [True, True, True]
    assert [capacity.has_time(each) for each in served] == [True, False, False]
    assert capacity.release(ONE) == (TWO,)
    assert [capacity.has_time(each) for each in (TWO, THREE, FOUR)] == [True, False, False]


def test_tasks_that_others_make_active_are_promised_no_more_than_half() -> None:
    """They were promised all that they declare: more than three workers of one that there is."""
    capacity = build()
    large = Promise(check_ppm=400_000, aggregation_ppm=100, disk_bytes=1)
    for task_id in (ONE, TWO, THREE, FOUR):
        capacity.claim(task_id, large)
    for task_id in (TWO, THREE, FOUR):
        capacity.claim(task_id, large, is_active=True)
    tasks = (ONE, TWO, THREE, FOUR)
    assert [capacity.has_promise(each) for each in tasks] == [True] * 4
    assert [capacity.has_time(each) for each in tasks] == [True, False, False, False]
    assert capacity.release(ONE) == (TWO,)
    assert [capacity.has_time(each) for each in tasks] == [False, True, False, False]


def test_room_that_closed_tasks_leave_with_time_is_given() -> None:
    closed = [501]
    capacity = Capacity(1, DISK_BYTES, lambda: closed[0])
    capacity.claim(ONE, HALF)
    assert capacity.find_objection(ONE) is not None
    assert capacity.give_room() == ()
    closed[0] = 500
    assert capacity.give_room() == (ONE,)
    assert capacity.find_objection(ONE) is None


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("claim", "activate", "restart", "release")),
        st.integers(1, 6),
        st.integers(1, 500_000),
    )
)


@given(STEPS)
def test_no_time_is_promised_twice_and_none_is_left_that_is_enough(
    steps: list[tuple[str, int, int]],
) -> None:
    capacity, claimed = build(), dict[TaskId, int]()
    for step, number, ppm in steps:
        task_id = TaskId(number)
        if step == "release":
            claimed.pop(task_id, None)
            capacity.release(task_id)
        else:
            promise = Promise(claimed.setdefault(task_id, ppm), 0, 0)
            if step == "restart":
                capacity.promise(task_id, promise)
            else:
                capacity.claim(task_id, promise, is_active=step == "activate")
        waiting = [each for each in claimed if not capacity.has_time(each)]
        used = sum(ppm for each, ppm in claimed.items() if each not in waiting)
        assert used <= 500_000
        assert all(used + claimed[each] > 500_000 for each in waiting)


def test_what_is_promised_is_added_up_once_for_all_tasks_that_wait() -> None:
    """Each event of a thousand pending tasks added a thousand promises up a thousand times."""
    counted: list[int] = []
    capacity = Capacity(1, DISK_BYTES, lambda: counted.append(1) or 0)
    capacity.claim(ONE, replace(HALF, disk_bytes=DISK_BYTES))
    for number in range(2, 102):
        capacity.claim(TaskId(number), HALF)
    del counted[:]
    assert capacity.give_room() == ()
    assert len(counted) == 1
    assert capacity.release(ONE) == (TWO, THREE)
    assert len(counted) == 1 + 3
