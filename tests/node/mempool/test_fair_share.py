"""Which calls make room in a share of the pool."""

from chain.primitives import Hash32, TaskId
from node.mempool.fair_share import FairShare

LARGE, SMALL, OTHER = TaskId(1), TaskId(2), TaskId(3)


def name(value: int) -> Hash32:
    return Hash32(value.to_bytes(32, "big"))


def share_with(held: dict[TaskId, list[int]]) -> FairShare:
    """A share of 20 commitments and 1 000 bytes, with commitments of these sizes."""
    share = FairShare(20, 1_000)
    for task_id, sizes in held.items():
        for at, size in enumerate(sizes):
            share.add(task_id, name(100 * task_id + at), size)
    return share


def test_task_with_the_most_bytes_makes_room_if_bytes_are_short() -> None:
    """The task with more commitments lost one for each large one of the other."""
    share = share_with({LARGE: [300, 300], SMALL: [50] * 8})
    assert share.find_victims(OTHER, 200) == (name(101),)
    assert share.find_victims(SMALL, 50) == (name(101),)
    assert share.find_victims(LARGE, 300) is None


def test_task_with_the_most_commitments_makes_room_if_places_are_short() -> None:
    share = share_with({LARGE: [300] * 2, SMALL: [10] * 18})
    assert share.find_victims(OTHER, 10) == (name(217),)
    assert share.find_victims(SMALL, 10) is None


def test_two_tasks_do_not_push_each_other_out_in_turn() -> None:
    share = share_with({LARGE: [300, 200], SMALL: [250, 250]})
    assert share.find_victims(LARGE, 10) is None
    assert share.find_victims(SMALL, 10) is None
    assert share.find_victims(OTHER, 250) == (name(101), name(201))


def test_several_make_room_for_a_large_one() -> None:
    share = share_with({LARGE: [100] * 6, SMALL: [100] * 4})
    assert share.find_victims(OTHER, 300) == (name(105), name(104), name(103))
    assert share.find_victims(OTHER, 600) is None
