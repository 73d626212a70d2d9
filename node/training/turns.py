"""The order in which work of tasks has its turn on the workers (docs/spec/training.md, section 10).

Work is done in pieces of about a second, and each piece waits for a turn. The task whose rate
(below) pays for its work first has the next turn, as long as it has used no more time than it was
promised when it was accepted. Work without a rate goes by its deadline. Work beyond a promise, or
too late to count, shares what is left.

A task is promised a rate: so much work in each of its phases. A phase may end long before its
deadline, and then the next attempt comes sooner than the rate allows. So each piece puts off what
the task asks for next by the time in which its rate pays for the piece, and work that comes earlier
has only the turns that other promised work leaves. This is the constant bandwidth server of Abeni
and Buttazzo (RTSS 1998). The rates of all tasks together are one worker for each that there is. So
on one worker, promised work that comes at its rate is done when the rate has paid for it, or a
piece later, whatever other tasks ask for. That is a quarter of a phase before its votes are due,
and no lawful piece takes longer than a quarter of the shortest phase. The worker that aggregates
has rates of its own.

Deviations: the server of the paper asks at once for its next deadline when its budget is used up.
Here the task waits until its rate has paid for the work; otherwise a task that used an idle worker
would owe that time later. Pieces are not interrupted.

Within one promise, what comes first is done to its end before the next begins. An attempt with more
checks than time then has most of them done, and not all of them half done.
"""

import math
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import IntEnum
from heapq import heappop, heappush
from itertools import islice
from typing import Final, NamedTuple

import trio

from chain.training.fees import MICROSECONDS, PROMISED_SHARE

PROMISES_LIMIT: Final = 1_024
"""Promises whose use is remembered in any case: several for each of 64 served tasks. Of more, only
those are whose work is still wanted."""

DROP_SECONDS: Final = 1.0
"""How often all promises are asked whether their work is still wanted. Otherwise only that of the
next piece is asked: an answer reads the database."""

DEBT_SECONDS: Final = 600.0
"""How far a piece that takes longer than was promised puts off what its task asks for next, at
most. It may be the machine's fault: a worker starts in seconds, a small task takes milliseconds."""


class WorkOverError(Exception):
    """The answer is not needed any more."""


def _always() -> bool:
    return True


def _never_due() -> float:
    return math.inf


class Standing(IntEnum):
    """How work stands to its promise; the lowest is done first."""

    PROMISED = 0
    EARLY = 1
    """Work that comes sooner than the rate of its task allows."""
    BEYOND = 2
    """Work that uses more than was promised, or comes too late."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What a piece of work belongs to.

    Pieces of the same promise differ in nothing but `place` and `is_begun`.

    Attributes:
        promise: The promise that its time is counted against, such as the checks of an attempt.
        promised_seconds: The time that was promised.
        task: The task whose rate the promise belongs to.
        rate: The seconds of work in a second that the promises of the task have together.
        get_deadline: When the result is due, by trio's clock. A further ballot puts it off, also
            for work that waits.
        is_wanted: Whether the result is still needed.
        place: The place among what belongs to the same promise; the lowest is first.
        is_begun: Whether a piece of the same work was done before. Then the work goes on before
            other work of its promise begins: what is begun takes disk.
    """

    promise: Hashable = None
    promised_seconds: float = math.inf
    task: Hashable = None
    rate: float = math.inf
    get_deadline: Callable[[], float] = _never_due
    is_wanted: Callable[[], bool] = _always
    place: int = 0
    is_begun: bool = False


@dataclass(slots=True, eq=False)
class _Waiting:
    called: trio.Event
    is_dropped: bool = False
    is_cancelled: bool = False
    is_promised: bool = False


@dataclass(slots=True, eq=False)
class _Use:
    """What is remembered of a promise."""

    latest: Turn
    released_at: float
    """From then on the work is within the rate of its task."""
    used_seconds: float = 0.0


class _Entry(NamedTuple):
    """A piece in the queue of its promise, which is a heap."""

    is_new: bool
    place: int
    number: int
    """The order in which pieces came, for those with the same place."""
    turn: Turn
    waiting: _Waiting


def compute_rate(promised_ppm: int) -> float:
    """The rate of a task, from its promised part of a worker in millionths.

    It is twice that part, as all parts together are half of the workers' time. So what is promised
    for a phase is paid for in half of the phase, and an attempt may follow after that.
    """
    return PROMISED_SHARE * max(1, promised_ppm) / MICROSECONDS


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
        self._uses: dict[Hashable, _Use] = {}
        """The use of each promise; the promise to ask about next is first."""
        self._paid_until: dict[Hashable, float] = {}
        """By task, when its rate has paid for the promised work that was done."""

    @asynccontextmanager
    async def take(self, turn: Turn) -> AsyncIterator[None]:
        """Wait for a turn, and have it inside of the context.

        Raises:
            WorkOverError: The work was not wanted any more before its turn came.
        """
        use = self._find_use(turn)
        is_promised = await self._wait(turn)
        start = trio.current_time()
        try:
            yield
        finally:
            seconds = trio.current_time() - start
            if is_promised:
                self._charge(turn, use, seconds)
            use.used_seconds += seconds
            use.latest = turn
            self._uses[turn.promise] = use
            self._free += 1
            # Not at once: the next piece of the same work may be the first in the order.
            trio.lowlevel.current_trio_token().run_sync_soon(self._call_next, idempotent=True)

    def _find_use(self, turn: Turn) -> _Use:
        """The use of a promise, which begins when the first of its work comes."""
        use = self._uses.get(turn.promise)
        if use is None:
            self._forget_over()
            now = trio.current_time()
            use = _Use(turn, max(now, self._paid_until.get(turn.task, now)))
            self._uses[turn.promise] = use
        return use

    def _charge(self, turn: Turn, use: _Use, seconds: float) -> None:
        """Put off what the task asks for next by the time in which its rate pays for a piece."""
        if turn.rate == math.inf:
            return
        if turn.task not in self._paid_until:
            now = trio.current_time()
            self._paid_until = {task: at for task, at in self._paid_until.items() if at > now}
        paid_until = max(use.released_at, self._paid_until.get(turn.task, use.released_at))
        limit = max(
            trio.current_time() + DEBT_SECONDS, use.released_at + turn.promised_seconds / turn.rate
        )
        self._paid_until[turn.task] = min(paid_until + seconds / turn.rate, limit)

    def _forget_over(self) -> None:
        """Make room for a further promise, by those whose work is over or due no more.

        Two are asked each time, so at most twice as many are remembered as are still wanted.
        """
        if len(self._uses) < PROMISES_LIMIT:
            return
        for promise in tuple(islice(self._uses, 2)):
            use = self._uses.pop(promise)
            turn = use.latest
            is_due = trio.current_time() < turn.get_deadline() < math.inf
            # What promises nothing cannot use up its promise. What is due no more may be forgotten:
            # a further ballot cannot give it more than the rate of its task.
            if promise in self._queues or (
                is_due and turn.is_wanted() and turn.promised_seconds < math.inf
            ):
                self._uses[promise] = use

    async def _wait(self, turn: Turn) -> bool:
        """Whether the piece whose turn came is done as promised work."""
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
        return waiting.is_promised

    def _call_next(self) -> None:
        if self._free and trio.current_time() >= self._drops_at:
            self._drops_at = trio.current_time() + DROP_SECONDS
            for promise in tuple(self._queues):
                if not self._queues[promise][0].turn.is_wanted():
                    self._drop(promise)
        while self._free and self._queues:
            ranks = {promise: self._rank(promise) for promise in self._queues}
            promise = min(ranks, key=ranks.__getitem__)
            if not self._queues[promise][0].turn.is_wanted():
                self._drop(promise)
                continue
            waiting = self._take_first(promise)
            if not waiting.is_cancelled:
                waiting.is_promised = ranks[promise][0] is Standing.PROMISED
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

    def _rank(self, promise: Hashable) -> tuple[Standing, float, float]:
        """The place in the order: promised work by deadline, then the rest by the time it used."""
        turn = self._queues[promise][0].turn
        use, deadline, now = self._find_use(turn), turn.get_deadline(), trio.current_time()
        used = use.used_seconds
        if used >= turn.promised_seconds or deadline <= now:
            return Standing.BEYOND, used, used
        paid_until = max(use.released_at, self._paid_until.get(turn.task, use.released_at))
        if turn.rate < math.inf:
            # Before the votes are due, so that a long piece of another task does no harm.
            deadline = paid_until + (turn.promised_seconds - used) / turn.rate
        return Standing.EARLY if now < use.released_at else Standing.PROMISED, deadline, used
