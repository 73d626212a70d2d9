"""Turns in which new tasks fetch their content (docs/spec/training.md, section 10.1).

A hostile submitter serves its content as slowly as it likes. So a turn lasts as long as it takes
only while no other task waits for one.
"""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

TURN_SECONDS: Final = 30.0
"""How long a turn lasts at least: longer than a fetch keeps its place against others (24 s). What
was fetched is kept."""


class FetchTurns:
    """A bounded number of turns; a long one ends if another task waits."""

    def __init__(self, limit: int) -> None:
        self._limiter = trio.CapacityLimiter(limit)
        self._begun: dict[trio.CancelScope, float] = {}
        """When the turns in progress began, the earliest first."""

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Wait for a turn; the block is cancelled, without an exception, when the turn is over."""
        if not self._limiter.available_tokens:
            self._end_longest()
        async with self._limiter:
            scope = trio.CancelScope()
            now = trio.current_time()
            if self._limiter.statistics().tasks_waiting:
                scope.deadline = now + TURN_SECONDS
            self._begun[scope] = now
            try:
                with scope:
                    yield
            finally:
                del self._begun[scope]

    def _end_longest(self) -> None:
        """Have the turn end that began first, of those whose end is open."""
        for scope, begun in self._begun.items():
            if scope.deadline == math.inf:
                scope.deadline = max(trio.current_time(), begun + TURN_SECONDS)
                return
