"""The memory of requests and answers, shared by address."""

import pytest

from node.rpc.held_bytes import HeldBytes, NoRoomError


def test_address_that_holds_the_most_gives_way_with_its_largest() -> None:
    held, ended = HeldBytes(100), list[str]()
    for client, size in (("many", 30), ("many", 40), ("other", 20)):
        held.open(client, lambda name=f"{client}{size}": ended.append(name)).resize(size)
    newcomer = held.open("new")
    newcomer.resize(15)
    assert (ended, held.total) == (["many40"], 65)
    newcomer.add(1)
    assert held.total == 66


def test_address_that_would_hold_the_most_is_refused() -> None:
    held, ended = HeldBytes(100), list[str]()
    held.open("other", lambda: ended.append("other")).resize(50)
    first, second = held.open("many"), held.open("many")
    first.resize(40)
    with pytest.raises(NoRoomError):
        second.add(11)
    assert (ended, held.total, second.size_bytes) == ([], 90, 0)
    first.resize(10)
    second.add(40)
    assert held.total == 100


def test_ended_request_takes_no_room_again() -> None:
    held = HeldBytes(100)
    victim, other = held.open("many"), held.open("other")
    victim.resize(90)
    other.resize(20)
    with pytest.raises(NoRoomError):
        victim.resize(1)
    assert held.total == 20


def test_room_is_free_after_the_request() -> None:
    held = HeldBytes(100)
    with held.open("client") as holding:
        holding.resize(100)
    assert held.total == 0
