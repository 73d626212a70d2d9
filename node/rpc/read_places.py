"""Places for blobs that are being sent, shared by address (docs/spec/rpc.md, section 6).

A miner that cannot fetch the model cannot commit, and misses the attempt. So no client keeps a
place for as long as it likes: a slow client gives way, and so does one of the address with the
most.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from node.rpc.http import HttpError

KEPT_SECONDS: Final = 1.0
"""How long a slow client keeps its place although another one has none."""

FAST_BYTES_PER_SECOND: Final = 65_536.0
"""A client that reads at this rate is not slow."""

RETRY_SECONDS: Final = 2
"""After this time a refused client should ask again."""


class ReadPlace:
    """The place of one blob that is being sent."""

    def __init__(self, address: str, now: float) -> None:
        self.address = address
        self.began_at = now
        self.sent_bytes = 0
        """The bytes handed to the connection; the last part may not be sent yet."""
        self._timer: asyncio.Timeout | None = None
        self._is_lost = False

    def begin(self, timer: asyncio.Timeout) -> None:
        """Take the timer of the response, which ends if the place is lost."""
        self._timer = timer
        if self._is_lost:
            self.lose()

    def lose(self) -> None:
        """End the response, because another client gets its place."""
        self._is_lost = True
        if self._timer is not None:
            self._timer.reschedule(asyncio.get_running_loop().time())

    def compute_rate(self, now: float) -> float:
        """The bytes a second that the client has taken."""
        return self.sent_bytes / max(now - self.began_at, KEPT_SECONDS)

    def is_slow(self, now: float) -> bool:
        """Whether the client had time to show its rate, and is slow."""
        is_slow = self.compute_rate(now) < FAST_BYTES_PER_SECOND
        return is_slow and now >= self.began_at + KEPT_SECONDS


class ReadPlaces:
    """Places for blobs that are being sent."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._taken: list[ReadPlace] = []

    def take(self, address: str) -> ReadPlace:
        """Give a place to a client, if need be that of another one.

        Raises:
            HttpError: 503: There is no place.
        """
        now = self._clock()
        if len(self._taken) >= self._limit:
            weaker = [place for place in self._taken if place.is_slow(now)]
            weaker = weaker or self._list_crowded(address)
            if not weaker:
                raise HttpError(
                    503,
                    "busy",
                    "too many transfers at the same time: try again",
                    retry_after_seconds=RETRY_SECONDS,
                )
            slowest = min(weaker, key=lambda place: place.compute_rate(now))
            self.release(slowest)
            slowest.lose()
        place = ReadPlace(address, now)
        self._taken.append(place)
        return place

    def release(self, place: ReadPlace) -> None:
        """End the use of a place; nothing happens if it was lost."""
        if place in self._taken:
            self._taken.remove(place)

    def _list_crowded(self, address: str) -> list[ReadPlace]:
        """The places of the addresses with the most, if these have two more than this one."""
        counts = Counter(place.address for place in self._taken)
        most = max(counts.values(), default=0)
        if most < counts[address] + 2:
            return []
        return [place for place in self._taken if counts[place.address] == most]
