"""Calls without priority, in turns of their tasks or operators."""

from itertools import islice

from chain.primitives import Address, Hash32, TaskId
from node.mempool.waiting_calls import WaitingCalls

FIRST, SECOND = TaskId(1), TaskId(2)
ANN, BEN = Address(b"\x0a" * 20), Address(b"\x0b" * 20)


def name(value: int) -> Hash32:
    return Hash32(value.to_bytes(32, "big"))


def waiting() -> WaitingCalls:
    given = WaitingCalls()
    for value in (10, 11, 12, 13):
        given.add(FIRST, ANN, name(value))
    given.add(SECOND, ANN, name(20))
    return given


def test_groups_take_turns_and_each_call_comes_once() -> None:
    order = [name(each) for each in (10, 20, 11, 12, 13)]
    assert list(waiting().take_turns()) == order


def test_next_turns_begin_where_the_last_ones_ended() -> None:
    given = waiting()
    assert list(islice(given.take_turns(), 3)) == [name(10), name(20), name(11)]
    assert list(islice(given.take_turns(), 3)) == [name(20), name(12), name(13)]
    assert list(islice(given.take_turns(), 2)) == [name(20), name(10)]


def test_calls_may_be_removed_during_the_turns() -> None:
    given, seen = waiting(), []
    for each in given.take_turns():
        seen.append(each)
        if each == name(10):
            given.remove(FIRST, ANN, name(10))
            given.remove(FIRST, ANN, name(12))
            given.remove(SECOND, ANN, name(20))
    assert set(seen) == {name(10), name(11), name(13)}
    assert sorted(given.take_turns()) == [name(11), name(13)]


def test_senders_of_a_group_take_turns() -> None:
    given = waiting()
    given.add(FIRST, BEN, name(30))
    given.remove(SECOND, ANN, name(20))
    assert list(islice(given.take_turns(), 3)) == [name(10), name(30), name(11)]
    assert list(given.take_turns()) == [name(30), name(12), name(13), name(10), name(11)]
