"""The pool of call workers, with workers that end or are slow."""

import asyncio
import sys
from collections.abc import Awaitable, Callable

import pytest

from chain.execution.call_values import CallRequest
from node.ipc.turns import CLIENT
from node.rpc.calls import CallWorkers
from node.rpc.errors import ErrorCode, RpcError
from tests.worlds.network import build_block

HEADER = build_block(1).header
REQUEST = CallRequest(to=None)
ANSWERS_ONCE = """
import sys
size = int.from_bytes(sys.stdin.buffer.read(4), "big")
sys.stdin.buffer.read(size)
answer = b'{"result": "0x2a"}'
sys.stdout.buffer.write(len(answer).to_bytes(4, "big") + answer)
"""
ANSWERS_NOTHING = "import sys; sys.stdin.buffer.read(4)"


ANSWERS_LATE = """
import sys, time
while len(head := sys.stdin.buffer.read(4)) == 4:
    sys.stdin.buffer.read(int.from_bytes(head, "big"))
    time.sleep(0.2)
    answer = b'{"result": "0x2a"}'
    sys.stdout.buffer.write(len(answer).to_bytes(4, "big") + answer)
    sys.stdout.buffer.flush()
"""


def play(program: str, scenario: Callable[[CallWorkers], Awaitable[None]]) -> None:
    async def run() -> None:
        workers = CallWorkers((sys.executable, "-c", program), size=1, timeout_seconds=2.0)
        try:
            await scenario(workers)
        finally:
            await workers.close()

    asyncio.run(run())


def test_worker_that_ended_while_idle_is_replaced() -> None:
    async def scenario(workers: CallWorkers) -> None:
        for _ in range(3):
            assert await workers.call(HEADER, REQUEST, {}) == b"\x2a"

    play(ANSWERS_ONCE, scenario)


def test_call_ends_one_idle_worker_and_one_new_one_at_most() -> None:
    async def scenario(workers: CallWorkers) -> None:
        for _ in range(3):
            await workers.warm_up()
        first, second, _ = workers._idle
        with pytest.raises(RpcError, match="could not be executed"):
            await workers.call(HEADER, REQUEST, {})
        assert workers._idle == [first, second]

    play(ANSWERS_NOTHING, scenario)


def test_call_that_ends_every_worker_is_an_internal_error() -> None:
    async def scenario(workers: CallWorkers) -> None:
        with pytest.raises(RpcError) as refusal:
            await workers.call(HEADER, REQUEST, {})
        assert refusal.value.code is ErrorCode.INTERNAL

    play(ANSWERS_NOTHING, scenario)


def test_warmed_up_worker_gets_the_first_call() -> None:
    async def scenario(workers: CallWorkers) -> None:
        await workers.warm_up()
        (warm,) = workers._idle
        assert await workers.call(HEADER, REQUEST, {}) == b"\x2a"
        assert workers._idle == [warm]

    play(ANSWERS_ONCE, scenario)


def test_worker_finishes_an_abandoned_call_and_takes_the_next() -> None:
    async def scenario(workers: CallWorkers) -> None:
        await workers.warm_up()
        (warm,) = workers._idle
        running, waiting = (
            asyncio.ensure_future(workers.call(HEADER, REQUEST, {})) for _ in range(2)
        )
        await asyncio.sleep(0.05)
        running.cancel()
        waiting.cancel()
        await asyncio.sleep(0)
        assert workers.count() == 1
        assert await workers.call(HEADER, REQUEST, {}) == b"\x2a"
        assert (workers._idle, workers.count()) == ([warm], 0)

    play(ANSWERS_LATE, scenario)


def test_client_waits_for_one_call_of_another_at_most() -> None:
    ended: list[str] = []

    async def call(workers: CallWorkers, client: str) -> None:
        CLIENT.set(client)
        await workers.call(HEADER, REQUEST, {})
        ended.append(client)

    async def scenario(workers: CallWorkers) -> None:
        await asyncio.gather(*(call(workers, each) for each in [*["many"] * 4, "one"]))

    play(ANSWERS_LATE, scenario)
    assert ended == ["many", "many", "one", "many", "many"]
