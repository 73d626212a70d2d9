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
from heapq import heappop, heappush
from itertools import islice
from typing import Final, NamedTuple

import trio

PROMISES_LIMIT: Final = 1_024
"""Promises whose use is remembered in any case: several for each of 64 served tasks. Of more, only
those are whose work is still wanted."""

DROP_SECONDS: Final = 1.0
"""How often all promises are asked whether their work is still wanted. Otherwise only that of the
next piece is asked: an answer reads the database."""


class WorkOverError(Exception):
    """The answer is not needed any more."""


def _always() -> bool:
    return True


def _never_due() -> float:
    return math.inf


@dataclass(frozen=True, slots=True)
class Turn:
    """What a piece of work belongs to.

    Pieces of the same promise differ in nothing but `place` and `is_begun`.

    Attributes:
        promise: The promise that its time is counted against, such as the checks of an attempt.
        promised_seconds: The time that was promised.
        get_deadline: When the result is due, by trio's clock. A further ballot puts it off, also
            for work that waits.
        is_wanted: Whether the result is still needed.
        place: The place among what belongs to the same promise; the lowest is first.
        is_begun: Whether a piece of the same work was done before. Then the work goes on before
            other work of its promise begins: what is begun takes disk.
    """

    promise: Hashable = None
    promised_seconds: float = math.inf
    get_deadline: Callable[[], float] = _never_due
    is_wanted: Callable[[], bool] = _always
    place: int = 0
    is_begun: bool = False


@dataclass(slots=True, eq=False)
class _Waiting:
    called: trio.Event
    is_dropped: bool = False
    is_cancelled: bool = False


class _Entry(NamedTuple):
    """A piece in the queue of its promise, which is a heap."""

    is_new: bool
    place: int
    number: int
    """The order in which pieces came, for those with the same place."""
    turn: Turn
    waiting: _Waiting


class Turns:
    """Lets so many pieces of work run at a time, and says which is next.

    A piece costs as much as there are promises, however many pieces wait: a thousand checks of an
    attempt wait at once, and consensus runs in the same thread.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._queues: dict[Hashable, list[_Entry]] = {}
        """What waits, by promise; no queue is empty."""
        self._number = 0
        self._drops_at = -math.inf
        self._used_seconds: dict[Hashable, float] = {}
        self._latest: dict[Hashable, Turn] = {}
        """The latest turn of each promise that was used; the promise to ask about next is first."""

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
            if turn.promise not in self._latest:
                self._forget_over()
            self._used_seconds[turn.promise], self._latest[turn.promise] = used, turn
            self._free += 1
            # Not at once: the next piece of the same work may be the first in the order.
            trio.lowlevel.current_trio_token().run_sync_soon(self._call_next, idempotent=True)

    def _forget_over(self) -> None:
        """Make room for a further promise, by those whose work is over.

        Two are asked each time, so at most twice as many are remembered as are still wanted.
        """
        if len(self._latest) < PROMISES_LIMIT:
            return
        for promise in tuple(islice(self._latest, 2)):
            turn = self._latest.pop(promise)
            # What promises nothing cannot use up its promise.
            if turn.is_wanted() and turn.promised_seconds < math.inf:
                self._latest[promise] = turn
            else:
                del self._used_seconds[promise]

    async def _wait(self, turn: Turn) -> None:
        self._number += 1
        waiting = _Waiting(trio.Event())
        queue = self._queues.setdefault(turn.promise, [])
        heappush(queue, _Entry(not turn.is_begun, turn.place, self._number, turn, waiting))
        self._call_next()
        try:
            await waiting.called.wait()
        except trio.Cancelled:
            if not waiting.called.is_set():
                waiting.is_cancelled = True
            elif not waiting.is_dropped:
                self._free += 1
                self._call_next()
            raise
        if waiting.is_dropped:
            raise WorkOverError

    def _call_next(self) -> None:
        if self._free and trio.current_time() >= self._drops_at:
            self._drops_at = trio.current_time() + DROP_SECONDS
            for promise in tuple(self._queues):
                if not self._queues[promise][0].turn.is_wanted():
                    self._drop(promise)
        while self._free and self._queues:
            promise = min(self._queues, key=self._rank)
            if not self._queues[promise][0].turn.is_wanted():
                self._drop(promise)
                continue
            waiting = self._take_first(promise)
            if not waiting.is_cancelled:
                self._free -= 1
                waiting.called.set()

    def _take_first(self, promise: Hashable) -> _Waiting:
        queue = self._queues[promise]
        first = heappop(queue)
        if not queue:
            del self._queues[promise]
        return first.waiting

    def _drop(self, promise: Hashable) -> None:
        for entry in self._queues.pop(promise):
            entry.waiting.is_dropped = True
            entry.waiting.called.set()

    def _rank(self, promise: Hashable) -> tuple[bool, float, float]:
        """The place in the order: promised work by deadline, then the rest by the time it used."""
        turn = self._queues[promise][0].turn
        used = self._used_seconds.get(promise, 0.0)
        deadline = turn.get_deadline()
        is_beyond = used >= turn.promised_seconds or deadline <= trio.current_time()
        return is_beyond, used if is_beyond else deadline, used
