"""Answers of the node process that clients share for a moment (docs/spec/rpc.md, section 7)."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from chain.json_types import Json

KEPT_SECONDS: Final = 0.2
"""How long an answer is kept: no longer than the shortest block interval. With 100 validators the
node takes 1 ms for one, in the thread in which consensus runs, and any client may ask often."""


@dataclass(slots=True, eq=False)
class _Kept:
    answer: "asyncio.Future[Json]"
    until: float = math.inf


class KeptAnswers:
    """Asks each question without parameters once at a time, and keeps its answer for a moment."""

    def __init__(
        self,
        ask: Callable[[str], Awaitable[Json]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin without answers.

        Args:
            ask: Asks the node process a question by its name.
            clock: The time in seconds.
        """
        self._ask = ask
        self._clock = clock
        self._kept: dict[str, _Kept] = {}

    async def get(self, method: str) -> Json:
        """The answer to a question; what `ask` raises is raised to all that wait for it."""
        kept = self._kept.get(method)
        if kept is None or self._clock() >= kept.until:
            kept = self._kept[method] = _Kept(asyncio.ensure_future(self._ask(method)))
            kept.answer.add_done_callback(lambda _: self._note_end(method))
        # Shielded, because one client may leave while others wait for the same answer.
        return await asyncio.shield(kept.answer)

    def _note_end(self, method: str) -> None:
        kept = self._kept[method]
        if kept.answer.cancelled() or kept.answer.exception() is not None:
            del self._kept[method]
        else:
            kept.until = self._clock() + KEPT_SECONDS
