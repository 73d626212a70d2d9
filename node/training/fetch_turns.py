"""Turns in which new tasks fetch their content (docs/spec/training.md, section 10.1).

A hostile submitter can serve its content as slowly as it likes. So a turn may last longer than
`TURN_SECONDS` only while no other task waits for one.
"""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

TURN_SECONDS: Final = 30.0
"""The least time of a turn: longer than a fetch keeps its place against others (24 s). What was
fetched in a turn is kept for the next one."""


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
        """Set the end of the turn that began first, among the turns without an end."""
        for scope, begun in self._begun.items():
            if scope.deadline == math.inf:
                scope.deadline = max(trio.current_time(), begun + TURN_SECONDS)
                return
