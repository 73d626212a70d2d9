"""Turns at what the clients of an RPC process share (docs/spec/rpc.md, section 5).

A client is an IP address. However many requests an address has waiting, each other address waits
for one of them at most; and an address whose turns took long waits for those whose turns did not.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import ContextVar, copy_context
from typing import Final, ParamSpec, TypeVar

CLIENT: Final[ContextVar[str]] = ContextVar("client", default="")
"""The client of the request that the current task answers; empty for this process itself."""

FREE_SECONDS: Final = 1.0
"""Clients whose turns took less than this, lately, are equal. So a client with short turns waits
for none that came after it, not even for those that took nothing yet."""

HALF_LIFE_SECONDS: Final = 60.0
"""After this time, a used second counts half."""

KNOWN_CLIENTS: Final = 4_096
"""Limit of clients whose used seconds are remembered; the first to be forgotten is the one that
ended no turn for longest."""

TURN_THREADS: Final = ThreadPoolExecutor(4, thread_name_prefix="turn")
"""Where the functions of all turns of this process run. The threads of the event loop stay free for
what takes no turn, such as each part of a gradient that is uploaded; and of what clients can make
long, no more than these compete with the event loop for the interpreter."""

_Arguments = ParamSpec("_Arguments")
_Value = TypeVar("_Value")


class SharedTurns:
    """A bounded number of turns. The next one is for the client whose turns took the least time.

    Clients that took less than FREE_SECONDS get them in the order of clients, one each. The waiting
    requests are bounded by the connections of the process.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = self._free = limit
        self._clock = clock
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By client, in the order in which equal clients get their next turns."""
        self._used: dict[str, tuple[float, float]] = {}
        """By client: the seconds that its turns took, and when the last one ended; in that order.
        """

    def count(self) -> int:
        """The turns that are held, and the requests that wait for one."""
        return self._limit - self._free + sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Hold a turn."""
        await self._acquire()
        started = self._clock()
        try:
            yield
        finally:
            self._end(started, CLIENT.get())

    async def run(
        self,
        function: Callable[_Arguments, _Value],
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> _Value:
        """The result of a function that runs in one of `TURN_THREADS`.

        The turn ends with the function, even if the caller is cancelled: a thread cannot be ended.
        """
        context, loop = copy_context(), asyncio.get_running_loop()
        return await self.finish(
            lambda: loop.run_in_executor(
                TURN_THREADS, lambda: context.run(function, *args, **kwargs)
            )
        )

    async def finish(self, begin: "Callable[[], asyncio.Future[_Value]]") -> _Value:
        """The result of what `begin` starts. It keeps its turn even if the caller leaves."""
        await self._acquire()
        started, client = self._clock(), CLIENT.get()
        try:
            running = begin()
        except BaseException:
            self._release()
            raise
        running.add_done_callback(lambda _: self._end(started, client))
        return await asyncio.shield(running)

    async def _acquire(self) -> None:
        if self._free:
            self._free -= 1
            return
        client = CLIENT.get()
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release()
            else:
                self._forget(client, turn)
            raise

    def _forget(self, client: str, turn: "asyncio.Future[None]") -> None:
        queue = self._waiting.get(client)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._waiting[client]

    def _end(self, started: float, client: str) -> None:
        """Charge a turn to its client, and pass it on."""
        now = self._clock()
        used = self._compute_used(client, now) + now - started
        self._used.pop(client, None)
        self._used[client] = used, now
        if len(self._used) > KNOWN_CLIENTS:
            del self._used[next(iter(self._used))]
        self._release()

    def _compute_used(self, client: str, now: float) -> float:
        seconds, ended = self._used.get(client, (0.0, now))
        return seconds * math.exp2((ended - now) / HALF_LIFE_SECONDS)

    def _choose(self) -> str:
        """The waiting client that is next."""
        now = self._clock()
        return min(
            self._waiting, key=lambda client: max(FREE_SECONDS, self._compute_used(client, now))
        )

    def _release(self) -> None:
        while self._waiting:
            client = self._choose()
            queue = self._waiting.pop(client)
            turn = queue.popleft()
            if queue:
                self._waiting[client] = queue
            if not turn.done():  # a cancelled caller has not noticed yet
                turn.set_result(None)
                return
        self._free += 1
