"""Turns that clients share."""

import asyncio
import heapq
import itertools
import threading
from collections.abc import Callable

import pytest

from node.ipc import turns
from node.ipc.turns import CLIENT, SharedTurns


async def use(shared: SharedTurns, client: str, served: list[str]) -> None:
    CLIENT.set(client)
    async with shared.take():
        await asyncio.sleep(0)
        served.append(client)


def test_client_waits_for_one_request_of_each_other_client() -> None:
    served: list[str] = []

    async def run() -> None:
        shared = SharedTurns(1)
        clients = ["many"] * 10 + ["one", "other"]
        await asyncio.gather(*(use(shared, client, served) for client in clients))

    asyncio.run(run())
    assert served[:4] == ["many", "many", "one", "other"]
    assert len(served) == 12


def test_clients_that_leave_while_they_wait_keep_no_turn() -> None:
    served: list[str] = []

    async def run() -> None:
        shared = SharedTurns(1)
        async with shared.take():
            leaving = [asyncio.create_task(use(shared, "leaving", served)) for _ in range(3)]
            staying = asyncio.create_task(use(shared, "staying", served))
            await asyncio.sleep(0)
            for each in leaving[:2]:
                each.cancel()
            await asyncio.sleep(0)
            leaving[2].cancel()
        async with asyncio.timeout(10):
            await staying
            await use(shared, "late", served)

    asyncio.run(run())
    assert served == ["staying", "late"]


def test_client_that_leaves_as_it_gets_a_turn_passes_it_on() -> None:
    served: list[str] = []

    async def run() -> None:
        shared = SharedTurns(1)
        async with shared.take():
            leaving = asyncio.create_task(use(shared, "leaving", served))
            await asyncio.sleep(0)
        leaving.cancel()
        async with asyncio.timeout(10):
            await use(shared, "late", served)

    asyncio.run(run())
    assert served == ["late"]


def test_turn_of_a_thread_lasts_although_its_client_leaves() -> None:
    async def run() -> None:
        shared = SharedTurns(1)
        may_end, has_begun = threading.Event(), threading.Event()

        def work() -> None:
            has_begun.set()
            may_end.wait(10)

        leaving = asyncio.create_task(shared.run(work))
        await asyncio.to_thread(has_begun.wait, 10)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        following = asyncio.create_task(shared.run(may_end.is_set))
        await asyncio.sleep(0)
        may_end.set()
        assert await following

    asyncio.run(run())


class VirtualCalls:
    """Calls that take seconds of a virtual clock, on turns that clients share."""

    def __init__(self, limit: int) -> None:
        self.now = 0.0
        self._turns = SharedTurns(limit, lambda: self.now)
        self._running: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self.ended: list[str] = []

    async def call(self, client: str, seconds: float) -> None:
        CLIENT.set(client)
        await self._turns.finish(lambda: self._begin(seconds))
        self.ended.append(client)

    async def repeat(self, client: str, seconds: float) -> None:
        while True:
            await self.call(client, seconds)

    async def run_until(self, is_over: Callable[[], bool]) -> None:
        """Let the clock go on to the end of each call."""
        while True:
            for _ in range(20):
                await asyncio.sleep(0)
            if is_over():
                return
            self.now, _, call = heapq.heappop(self._running)
            call.set_result(None)

    async def play(self, clients: list[str], seconds: float) -> list[str]:
        """The clients in the order in which their calls end, which all ask now."""
        self.ended.clear()
        calls = [asyncio.create_task(self.call(each, seconds)) for each in clients]
        await self.run_until(lambda: all(call.done() for call in calls))
        return list(self.ended)

    def _begin(self, seconds: float) -> "asyncio.Future[None]":
        call: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._running, (self.now + seconds, next(self._numbers), call))
        return call


@pytest.mark.parametrize("addresses", [1, 4])
def test_client_with_short_calls_is_before_all_with_long_ones(addresses: int) -> None:
    async def run() -> list[str]:
        calls = VirtualCalls(2)
        others = [
            asyncio.create_task(calls.repeat(f"many{address}", 5.0 + connection / 10))
            for address in range(addresses)
            for connection in range(4)
        ]
        await calls.run_until(lambda: len(calls.ended) >= 3 * addresses)
        order = await calls.play(["miner"], 0.003)
        for each in others:
            each.cancel()
        return order

    ended_before = asyncio.run(run()).index("miner")
    assert ended_before <= 1


def test_client_with_short_turns_waits_for_no_later_newcomer() -> None:
    order = ["first", "miner", "newcomer", "other newcomer"]

    async def run() -> list[str]:
        calls = VirtualCalls(1)
        await calls.play(["miner"], 0.1)
        return await calls.play(order, 0.5)

    assert asyncio.run(run()) == order


def test_used_seconds_are_forgotten_with_time() -> None:
    order = ["first", "many", "newcomer"]

    async def run() -> tuple[list[str], list[str]]:
        calls = VirtualCalls(1)
        await calls.play(["many"], 5.0)
        soon = await calls.play(order, 0.5)
        calls.now += 600
        return soon, await calls.play(order, 0.5)

    assert asyncio.run(run()) == (["first", "newcomer", "many"], order)


def test_number_of_remembered_clients_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "KNOWN_CLIENTS", 2)

    async def run() -> list[str]:
        shared = SharedTurns(1)
        for client in ("a", "b", "a", "c"):
            await use(shared, client, [])
        return list(shared._used)

    assert asyncio.run(run()) == ["a", "c"]


def test_turns_of_all_kinds_leave_threads_to_uploads() -> None:
    """An upload writes each part in a thread of the loop's own."""
    may_end = threading.Event()

    async def run() -> str:
        kinds = [SharedTurns(2) for _ in range(40)]
        long = [asyncio.create_task(kind.run(may_end.wait, 60)) for kind in kinds * 2]
        await asyncio.sleep(0)  # now all of them have begun
        try:
            async with asyncio.timeout(10):
                return await asyncio.to_thread(lambda: "written")
        finally:
            may_end.set()
            await asyncio.gather(*long)

    assert asyncio.run(run()) == "written"
