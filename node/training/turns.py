"""The order in which work of tasks has its turn on the workers (docs/spec/training.md, section 10).

Work is done in pieces of about a second, and each piece waits for a turn. The task whose votes are
due first has the next turn, as long as it has used no more time than it was promised when it was
accepted. As all promises together fit into half of the time, all work within them is done in time,
whatever other tasks ask for. Work beyond a promise, or too late to count, shares what is left.

Within one promise, what comes first is done to its end before the next begins. An attempt with more
checks than time then has most of them done, and not all of them half done.
"""

import math
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio
from cachetools import FIFOCache

PROMISES_LIMIT: Final = 1_024
"""Promises whose use is remembered: several for each of 64 served tasks."""


class WorkOverError(Exception):
    """The answer is not needed any more."""


def _always() -> bool:
    return True


def _never_due() -> float:
    return math.inf


@dataclass(frozen=True, slots=True)
class Turn:
    """What a piece of work belongs to.

    Attributes:
        promise: The promise that its time is counted against, such as the checks of an attempt.
        promised_seconds: The time that was promised.
        get_deadline: When the result is due, by trio's clock. A further ballot puts it off, also
            for work that waits.
        is_wanted: Whether the result is still needed.
        place: The place among what belongs to the same promise; the lowest is first.
    """

    promise: Hashable = None
    promised_seconds: float = math.inf
    get_deadline: Callable[[], float] = _never_due
    is_wanted: Callable[[], bool] = _always
    place: int = 0


@dataclass(slots=True, eq=False)
class _Waiting:
    turn: Turn
    number: int
    called: trio.Event
    is_dropped: bool = False


class Turns:
    """Lets so many pieces of work run at a time, and says which is next."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: list[_Waiting] = []
        self._number = 0
        self._used_seconds: FIFOCache[Hashable, float] = FIFOCache(PROMISES_LIMIT)

    @asynccontextmanager
    async def take(self, turn: Turn) -> AsyncIterator[None]:
        """Wait for a turn, and have it inside of the context.

        Raises:
            WorkOverError: The work was not wanted any more before its turn came.
        """
        await self._wait(turn)
        start = trio.current_time()
        try:
            yield
        finally:
            used = self._used_seconds.get(turn.promise, 0.0) + trio.current_time() - start
            self._used_seconds[turn.promise] = used
            self._free += 1
            # Not at once: the next piece of the same work may be the first in the order.
            trio.lowlevel.current_trio_token().run_sync_soon(self._call_next, idempotent=True)

    async def _wait(self, turn: Turn) -> None:
        self._number += 1
        waiting = _Waiting(turn, self._number, trio.Event())
        self._waiting.append(waiting)
        self._call_next()
        try:
            await waiting.called.wait()
        except trio.Cancelled:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            elif not waiting.is_dropped:
                self._free += 1
                self._call_next()
            raise
        if waiting.is_dropped:
            raise WorkOverError

    def _call_next(self) -> None:
        for each in [each for each in self._waiting if not each.turn.is_wanted()]:
            self._waiting.remove(each)
            each.is_dropped = True
            each.called.set()
        while self._free and self._waiting:
            first = min(self._waiting, key=self._rank)
            chosen = min(
                (each for each in self._waiting if each.turn.promise == first.turn.promise),
                key=lambda each: (each.turn.place, each.number),
            )
            self._waiting.remove(chosen)
            self._free -= 1
            chosen.called.set()

    def _rank(self, waiting: _Waiting) -> tuple[bool, float, float, int]:
        """The place in the order: promised work by deadline, then the rest by the time it used."""
        turn = waiting.turn
        used = self._used_seconds.get(turn.promise, 0.0)
        deadline = turn.get_deadline()
        is_beyond = used >= turn.promised_seconds or deadline <= trio.current_time()
        return is_beyond, used if is_beyond else deadline, used, waiting.number
