"""The workers' time is promised once."""

from chain.primitives import TaskId
from chain.training.task_checks import ObjectionCode, WorkerShares
from node.training.capacity import Capacity

ONE, TWO, THREE = TaskId(1), TaskId(2), TaskId(3)
THIRD = WorkerShares(check_ppm=333_333, aggregation_ppm=1)
SMALL = WorkerShares(check_ppm=166_667, aggregation_ppm=1)


def test_promises_of_all_tasks_fit_into_half_of_the_time() -> None:
    capacity = Capacity(1)
    capacity.promise(ONE, THIRD)
    assert capacity.find_objection(ONE, THIRD) is None, "it is counted already"
    assert capacity.find_objection(TWO, SMALL) is None
    objection = capacity.find_objection(TWO, THIRD)
    assert objection is not None
    assert objection.code is ObjectionCode.WORKERS_BUSY
    assert "of the 500000" in objection.reason
    assert "333333 are promised" in objection.reason
    capacity.release(ONE)
    assert capacity.find_objection(TWO, THIRD) is None


def test_more_workers_have_more_time_for_checks_and_not_for_aggregations() -> None:
    capacity = Capacity(2)
    shares = WorkerShares(check_ppm=500_000, aggregation_ppm=250_000)
    capacity.promise(ONE, shares)
    assert capacity.find_objection(TWO, shares) is None
    capacity.promise(TWO, shares)
    assert capacity.find_objection(THREE, WorkerShares(1, 0)) is not None
    assert capacity.find_objection(THREE, WorkerShares(0, 1)) is not None
    assert capacity.find_objection(THREE, WorkerShares(0, 0)) is None
