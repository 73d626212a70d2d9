"""A client that reads a blob keeps its place only while it is fast, or no other needs it."""

import asyncio

import pytest

from node.rpc.http import HttpError
from node.rpc.read_places import FAST_BYTES_PER_SECOND, ReadPlace, ReadPlaces
from tests.worlds.clock import FakeClock


def fill(places: ReadPlaces, *addresses: str) -> list[ReadPlace]:
    return [places.take(address) for address in addresses]


def run(places: ReadPlaces, taken: list[ReadPlace], newcomer: str) -> list[bool]:
    """Whether each place is lost when another client comes."""

    async def take() -> list[bool]:
        timers = []
        for place in taken:
            timers.append(asyncio.Timeout(None))
            place.begin(timers[-1])
            await timers[-1].__aenter__()
        places.take(newcomer)
        lost = [timer.when() is not None for timer in timers]
        for timer in timers:
            timer.reschedule(None)
            await timer.__aexit__(None, None, None)
        return lost

    return asyncio.run(take())


def test_slowest_client_gives_way_to_any_other() -> None:
    clock = FakeClock()
    places = ReadPlaces(3, clock)
    taken = fill(places, "a", "b", "c")
    clock.now = 2.0
    for place, rate in zip(taken, (2.0, 0.5, 0.9), strict=True):
        place.sent_bytes = int(rate * FAST_BYTES_PER_SECOND * 2)
    assert run(places, taken, "a") == [False, True, False]


def test_address_with_the_most_places_gives_way_until_all_have_as_many() -> None:
    places = ReadPlaces(4, FakeClock())
    taken = fill(places, "a", "a", "a", "b")
    taken[1].sent_bytes, taken[2].sent_bytes, taken[0].sent_bytes = 3, 2, 1
    assert run(places, taken, "b") == [True, False, False, False]
    with pytest.raises(HttpError, match="too many transfers") as refusal:
        places.take("a")
    assert (refusal.value.status, refusal.value.retry_after_seconds) == (503, 2)


def test_place_that_is_lost_before_the_response_begins_ends_it() -> None:
    places = ReadPlaces(2, FakeClock())
    (first, _) = fill(places, "a", "a")

    async def respond() -> None:
        first.sent_bytes = -1
        places.take("b")
        async with asyncio.timeout(None) as timer:
            first.begin(timer)
            await asyncio.sleep(5)

    with pytest.raises(TimeoutError):
        asyncio.run(respond())
