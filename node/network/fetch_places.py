"""Which blobs are fetched at a time (docs/spec/wire.md, section 7).

A fetch may take long, and a hostile holder makes it so. So a place is not kept until the fetch
ends: while others wait, the slowest fetch gives its place up and goes on later from what it has.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final

import trio
from cachetools import FIFOCache

from chain.primitives import Hash32, TaskId
from node.network.stream import PeerId

TURN_SECONDS: Final = 3.0
"""How long a fetch keeps its place at least, however slow it is. If its place was taken before, a
fetch keeps it twice as long each time against fetches that are no better, so that a slow but honest
holder gets a whole chunk through."""

TURN_DOUBLINGS_LIMIT: Final = 3
"""The longest turn is 24 s: a chunk at the least rate takes 16."""

LONGEST_TURN_SECONDS: Final = TURN_SECONDS * 2**TURN_DOUBLINGS_LIMIT
"""How long a fast fetch keeps the only place of its task if another task has none."""

CROWDED_SECONDS: Final = 0.5
"""The turn of a slow fetch if its only holders serve more than their share of all fetches."""

HOLDER_SHARE: Final = 4
"""A peer's share is one part in this many of the places."""

FAST_BYTES_PER_SECOND: Final = 65_536.0
"""A fetch of this rate keeps its place, unless its task has two places more than one that waits, or
one that waits has none."""

CHECK_SECONDS: Final = 0.5
"""How often a waiting fetch looks whether another has to give up its place."""

PAUSE_SECONDS: Final = 0.05
"""The least time between two such looks: a thousand fetches may wait, and consensus runs in the
same thread."""

REMEMBERED_LIMIT: Final = 4_096
"""The most blobs whose fetches are remembered as slow."""


class Place:
    """The place of one fetch, or its wait for one."""

    def __init__(self, content_id: Hash32, task_id: TaskId | None, number: int) -> None:
        self.content_id = content_id
        self.task_id = task_id
        self.number = number
        self.granted = trio.Event()
        self.scope = trio.CancelScope()
        self.granted_at = 0.0
        self.received_bytes = 0
        self.list_holders: Callable[[], Iterable[PeerId]] = tuple

    def count(self, size_bytes: int) -> None:
        """Count bytes that have arrived."""
        self.received_bytes += size_bytes

    def compute_rate(self) -> float:
        """The bytes a second since the place was granted."""
        return self.received_bytes / max(trio.current_time() - self.granted_at, CROWDED_SECONDS)


class FetchPlaces:
    """Places for fetches, shared by task and by holder."""

    def __init__(self, limit: int) -> None:
        """Begin with `limit` free places."""
        self._limit = limit
        self._held: list[Place] = []
        self._waiting: list[Place] = []
        self._number = 0
        self._checked_at = 0.0
        self._given_up: FIFOCache[Hash32, int] = FIFOCache(REMEMBERED_LIMIT)
        """How often the fetch of a blob gave its place up."""

    @asynccontextmanager
    async def take(self, content_id: Hash32, task_id: TaskId | None) -> AsyncIterator[Place]:
        """Wait for a place, and hold it; the block is cancelled if the place is to be given up.

        Tasks with fewer places come first, then blobs that are not known to be slow.

        Args:
            content_id: the blob.
            task_id: the task that needs it; None if that is not known.
        """
        self._number += 1
        place = Place(content_id, task_id, self._number)
        self._waiting.append(place)
        try:
            self._grant()
            while not place.granted.is_set():
                with trio.move_on_after(CHECK_SECONDS):
                    await place.granted.wait()
                self._take_from_slow()
            with place.scope:
                yield place
            if not place.scope.cancel_called:
                self._given_up.pop(content_id, None)
        finally:
            for places in (self._waiting, self._held):
                if place in places:
                    places.remove(place)
            self._grant()

    def _grant(self) -> None:
        while self._waiting and len(self._held) < self._limit:
            counts = Counter(place.task_id for place in self._held)
            place = self._choose_next(self._waiting, counts)
            self._waiting.remove(place)
            place.granted_at = trio.current_time()
            self._held.append(place)
            place.granted.set()

    def _count_given_up(self, place: Place) -> int:
        return self._given_up.get(place.content_id, 0)

    def _choose_next(self, waiting: list[Place], counts: Counter[TaskId | None]) -> Place:
        return min(
            waiting,
            key=lambda each: (counts[each.task_id], self._count_given_up(each), each.number),
        )

    def _take_from_slow(self) -> None:
        """Have slow fetches give up their places, one for each that waits."""
        now = trio.current_time()
        if now < self._checked_at + PAUSE_SECONDS:
            return
        self._checked_at = now
        staying = [place for place in self._held if not place.scope.cancel_called]
        counts = Counter(place.task_id for place in staying)
        waiting = list(self._waiting)
        ending_count = len(self._held) - len(staying)
        for number in range(len(waiting)):
            next_place = self._choose_next(waiting, counts)
            waiting.remove(next_place)
            if number >= ending_count:
                slow = self._find_slow(staying, next_place, counts)
                if slow is None:
                    return
                if slow.compute_rate() < FAST_BYTES_PER_SECOND:
                    self._given_up[slow.content_id] = self._count_given_up(slow) + 1
                slow.scope.cancel()
                staying.remove(slow)
                counts[slow.task_id] -= 1
            counts[next_place.task_id] += 1

    def _find_slow(
        self, staying: list[Place], next_place: Place, counts: Counter[TaskId | None]
    ) -> Place | None:
        """The slowest fetch whose turn is over; None if there is none."""
        by_holder = Counter(peer for place in staying for peer in place.list_holders())
        share = max(1, self._limit // HOLDER_SHARE)
        most = max(counts.values(), default=0)
        for place in sorted(staying, key=Place.compute_rate):
            is_slow = place.compute_rate() < FAST_BYTES_PER_SECOND
            is_unfair = counts[place.task_id] == most >= counts[next_place.task_id] + 2
            # With more tasks than places, the tasks without one take turns.
            is_last_resort = most == 1 and counts[next_place.task_id] == 0
            holders = list(place.list_holders())
            is_crowded = bool(holders) and all(by_holder[peer] > share for peer in holders)
            turn = TURN_SECONDS
            if is_slow and is_crowded:
                turn = CROWDED_SECONDS
            elif self._count_given_up(next_place) >= self._count_given_up(place) and not is_unfair:
                turn *= 2 ** min(self._count_given_up(place), TURN_DOUBLINGS_LIMIT)
            if is_last_resort and not is_slow:
                turn = LONGEST_TURN_SECONDS
            if (
                is_slow or is_unfair or is_last_resort
            ) and trio.current_time() >= place.granted_at + turn:
                return place
        return None
