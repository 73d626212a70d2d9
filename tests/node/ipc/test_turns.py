"""Turns that clients share."""

import asyncio
import threading

import pytest

from node.ipc.turns import CLIENT, SharedTurns


async def use(turns: SharedTurns, client: str, served: list[str]) -> None:
    CLIENT.set(client)
    async with turns.take():
        await asyncio.sleep(0)
        served.append(client)


def test_client_waits_for_one_request_of_each_other_client() -> None:
    served: list[str] = []

    async def run() -> None:
        turns = SharedTurns(1)
        clients = ["many"] * 10 + ["one", "other"]
        await asyncio.gather(*(use(turns, client, served) for client in clients))

    asyncio.run(run())
    assert served[:4] == ["many", "many", "one", "other"]
    assert len(served) == 12


def test_clients_that_leave_while_they_wait_keep_no_turn() -> None:
    served: list[str] = []

    async def run() -> None:
        turns = SharedTurns(1)
        async with turns.take():
            leaving = [asyncio.create_task(use(turns, "leaving", served)) for _ in range(3)]
            staying = asyncio.create_task(use(turns, "staying", served))
            await asyncio.sleep(0)
            for each in leaving[:2]:
                each.cancel()
            await asyncio.sleep(0)
            leaving[2].cancel()
        async with asyncio.timeout(10):
            await staying
            await use(turns, "late", served)

    asyncio.run(run())
    assert served == ["staying", "late"]


def test_client_that_leaves_as_it_gets_a_turn_passes_it_on() -> None:
    served: list[str] = []

    async def run() -> None:
        turns = SharedTurns(1)
        async with turns.take():
            leaving = asyncio.create_task(use(turns, "leaving", served))
            await asyncio.sleep(0)
        leaving.cancel()
        async with asyncio.timeout(10):
            await use(turns, "late", served)

    asyncio.run(run())
    assert served == ["late"]


def test_turn_of_a_thread_lasts_although_its_client_leaves() -> None:
    async def run() -> None:
        turns = SharedTurns(1)
        may_end, has_begun = threading.Event(), threading.Event()

        def work() -> None:
            has_begun.set()
            may_end.wait(10)

        leaving = asyncio.create_task(turns.run(work))
        await asyncio.to_thread(has_begun.wait, 10)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        following = asyncio.create_task(turns.run(may_end.is_set))
        await asyncio.sleep(0)
        may_end.set()
        assert await following

    asyncio.run(run())
