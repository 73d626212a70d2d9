"""Places for uploads of gradients, shared by ballot and by miner (docs/spec/rpc.md, section 6).

A miner that finds no place for its gradient is fined. So places are not simply given in the order
of arrival. Each ballot of an attempt is a group with places of its own that no other group takes.
On these a claimant, which is a miner, has a certain time in all, however often it begins again.
When that is used up, the claimant gives way to every claimant of its group with time left. All
other places are lent, and shared among the groups; time on them costs nothing.

So a claimant with time left is refused only while OWN_PLACES others of its group use up theirs. It
waits at most for the time of all others together, divided by OWN_PLACES. No other group, no number
of addresses and no order of arrival changes that.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from cachetools import LRUCache

from chain.errors import RejectedInputError
from chain.training.attempt import AttemptId
from node.rpc.http import HttpError

OWN_PLACES: Final = 2
"""The places that each group has for itself. With two, the time of a miner (`compute_own_seconds`)
is a verdict phase divided by the number of miners, and the last miner of a group has a place after
half of the phase."""

KEPT_SECONDS: Final = 1.0
"""How long a slow upload keeps its place although another one has none."""

FAST_BYTES_PER_SECOND: Final = 65_536.0
"""An upload of this rate is not slow, even if it does not end in its own time."""

REMEMBERED_GROUPS: Final = 4_096
"""The most groups of which the used time is remembered: more than there are tasks in progress."""

REMEMBERED_CLAIMANTS: Final = 4_096
"""The most claimants of a group that are remembered: more than an attempt has miners."""

LONGEST_WAIT_SECONDS: Final = 5
"""The longest wait that a refused client is told. A lent place may become free at any time."""

Group = tuple[AttemptId, int]
"""The gradients of one ballot of an attempt."""


def compute_own_seconds(verdict_seconds: int, miner_count: int) -> float:
    """The time that a miner has on its group's own places.

    With the times of all miners, the own places are taken for half of the verdict phase. A
    gradient that arrives at the rate by which the task was accepted (training.md, section 10.1)
    needs less than its miner's time, because a task has no more miners than units.
    """
    return OWN_PLACES * verdict_seconds / (2 * max(1, miner_count))


@dataclass(frozen=True, slots=True)
class Claim:
    """An upload that asks for a place."""

    group: Group
    claimant: bytes
    address: str
    """The IP address of the client."""
    size_bytes: int
    own_seconds: float
    """The time that each claimant of the group has on its own places, from now on."""


@dataclass(slots=True)
class _Account:
    """What one claimant of a group has used."""

    address: str | None
    """The only address that uses the claimant's time: the first one that asked. Others may know the
    reveal of a miner, and must not use up its time. None after that address has sent another blob,
    so that the next one that asks takes its part."""
    used_seconds: float = 0.0
    running: list[float] = field(default_factory=list)
    """Since when each of its uploads has been on an own place."""

    def compute_used(self, now: float) -> float:
        """The seconds on own places so far."""
        return self.used_seconds + sum(now - since for since in self.running)


class _Share:
    """What is remembered of a group."""

    def __init__(self) -> None:
        self.own_seconds = math.inf
        self.accounts: LRUCache[bytes, _Account] = LRUCache(REMEMBERED_CLAIMANTS)


class Place:
    """The place of one upload."""

    def __init__(self, claim: Claim, share: _Share, account: _Account, now: float) -> None:
        self.claim = claim
        self.share = share
        self.account = account
        self.began_at = now
        self.own_since: float | None = None
        """Since when this is an own place of its group; None while it is lent."""
        self.received_bytes = 0
        self.is_lost = False
        self.on_lost: Callable[[], None] = lambda: None

    def compute_rate(self, now: float) -> float:
        """The bytes a second that have arrived."""
        return self.received_bytes / max(now - self.began_at, KEPT_SECONDS)

    def is_slow(self, now: float, least_rate: float) -> bool:
        """Whether the upload had time to show its rate, and is slower than `least_rate`."""
        return now >= self.began_at + KEPT_SECONDS and self.compute_rate(now) < least_rate


class UploadPlaces:
    """Places for the uploads of gradients to one process."""

    def __init__(
        self,
        lent_limit: int,
        claimant_limit: int,
        *,
        pair_limit: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with all places free.

        Args:
            lent_limit: The places besides the groups' own ones.
            claimant_limit: The most uploads of one claimant at the same time.
            pair_limit: The most of these from one address; None for no limit.
            clock: Tells the time in seconds.
        """
        self._lent_limit = lent_limit
        self._claimant_limit = claimant_limit
        self._pair_limit = claimant_limit if pair_limit is None else pair_limit
        self._clock = clock
        self._taken: list[Place] = []
        self._shares: LRUCache[Group, _Share] = LRUCache(REMEMBERED_GROUPS)

    @asynccontextmanager
    async def take(self, claim: Claim) -> AsyncIterator[Place]:
        """Hold a place until the upload ends.

        Raises:
            HttpError: 503: There is no place, or another upload took it later.
        """
        place = self.admit(claim)
        try:
            async with asyncio.timeout(None) as timer:
                loop = asyncio.get_running_loop()
                place.on_lost = lambda: timer.reschedule(loop.time())
                yield place
        except TimeoutError as error:
            if not place.is_lost:
                raise
            raise _build_busy_error("another upload took this place: try again", 1) from error
        except RejectedInputError:
            # The claimant would have sent the right blob, so this address is not the claimant's.
            place.account.address = None
            raise
        finally:
            self.release(place)

    def admit(self, claim: Claim) -> Place:
        """Give a place to an upload, if need be that of another one.

        Raises:
            HttpError: 503: There is no place.
        """
        place = self._build_place(claim)
        self._make_room_beside_claimant(place)
        self._promote(claim.group)
        if self._make_room_on_own(place):
            self._enter_own(place)
        else:
            self._make_room_on_lent(place)
        self._taken.append(place)
        return place

    def release(self, place: Place) -> None:
        """End the use of a place; nothing happens if it was lost."""
        if place in self._taken:
            self._taken.remove(place)
            self._leave_own(place)
            self._promote(place.claim.group)

    def _build_place(self, claim: Claim) -> Place:
        share = self._shares.get(claim.group)
        if share is None:
            share = self._shares[claim.group] = _Share()
        share.own_seconds = claim.own_seconds
        account = share.accounts.get(claim.claimant)
        if account is None:
            account = share.accounts[claim.claimant] = _Account(claim.address)
        account.address = account.address or claim.address
        return Place(claim, share, account, self._clock())

    def _lose(self, place: Place) -> None:
        """End an upload, because another one gets its place."""
        place.is_lost = True
        self.release(place)
        place.on_lost()

    def _enter_own(self, place: Place) -> None:
        place.own_since = self._clock()
        place.account.running.append(place.own_since)

    def _leave_own(self, place: Place) -> None:
        if place.own_since is not None:
            place.account.running.remove(place.own_since)
            place.account.used_seconds += self._clock() - place.own_since
            place.own_since = None

    def _compute_left(self, place: Place) -> float:
        """The seconds that the upload may stay on an own place; 0 if it has no right to one."""
        if place.account.address != place.claim.address:
            return 0.0
        return max(0.0, place.share.own_seconds - place.account.compute_used(self._clock()))

    def _is_entitled(self, place: Place) -> bool:
        return self._compute_left(place) > 0.0

    def _list_own(self, group: Group) -> list[Place]:
        return [p for p in self._taken if p.claim.group == group and p.own_since is not None]

    def _rank(self, place: Place) -> tuple[bool, float]:
        """The order in which uploads lose their places, the first one first."""
        return self._is_entitled(place), place.compute_rate(self._clock())

    def _make_room_beside_claimant(self, place: Place) -> None:
        """Keep the uploads of one claimant below their limits.

        Raises:
            HttpError: 503: There are too many, and none of them gives way.
        """
        claim, now = place.claim, self._clock()
        pairs = [p for p in self._list_alike(claim) if p.claim.address == claim.address]
        if len(pairs) >= self._pair_limit:
            # A client that comes again after its connection broke replaces its own upload.
            self._take_from([p for p in pairs if p.is_slow(now, FAST_BYTES_PER_SECOND)], place)
        alike = self._list_alike(claim)
        if len(alike) >= self._claimant_limit:
            self._take_from(self._list_weaker(place, alike), place)

    def _list_alike(self, claim: Claim) -> list[Place]:
        """The uploads of one claimant."""
        key = claim.group, claim.claimant
        return [p for p in self._taken if (p.claim.group, p.claim.claimant) == key]

    def _make_room_on_own(self, place: Place) -> bool:
        """Whether an own place of the group is free for an upload, or is given up for it."""
        if not self._is_entitled(place):
            return False
        own = self._list_own(place.claim.group)
        weaker = self._list_weaker(place, own)
        if len(own) >= OWN_PLACES and weaker:
            first = min(weaker, key=self._rank)
            self._leave_own(first)
            if len(self._list_lent()) > self._lent_limit:
                self._lose(first)
        return len(self._list_own(place.claim.group)) < OWN_PLACES

    def _make_room_on_lent(self, place: Place) -> None:
        """Free a lent place for an upload.

        Raises:
            HttpError: 503: There is none, and no upload gives way.
        """
        lent = self._list_lent()
        if len(lent) < self._lent_limit:
            return
        counts = Counter(each.claim.group for each in lent)
        group = max(counts, key=lambda each: counts[each], default=place.claim.group)
        if counts[group] >= counts[place.claim.group] + 2:
            # The uploads of the group that have a right to an own place are not to lose it.
            self._promote(group)
            weaker = [each for each in self._list_lent() if each.claim.group == group]
        else:
            now, own_group = self._clock(), place.claim.group
            weaker = [
                *self._list_weaker(place, [p for p in lent if p.claim.group == own_group]),
                *(p for p in lent if p.is_slow(now, FAST_BYTES_PER_SECOND)),
            ]
        self._take_from(weaker, place)

    def _list_lent(self) -> list[Place]:
        return [place for place in self._taken if place.own_since is None]

    def _list_weaker(self, place: Place, others: list[Place]) -> list[Place]:
        """The other uploads of a group that give way to one: slow ones, those without time left."""
        now, is_entitled = self._clock(), self._is_entitled(place)
        weaker = []
        for each in others:
            has_time, least_rate = self._is_entitled(each), FAST_BYTES_PER_SECOND
            if has_time and each.own_since is not None:
                # It keeps its place if it will end in its own time.
                needed = each.claim.size_bytes / each.share.own_seconds
                least_rate = min(least_rate, needed)
            is_slow = each.is_slow(now, least_rate)
            if (is_entitled and (is_slow or not has_time)) or (is_slow and not has_time):
                weaker.append(each)
        return weaker

    def _take_from(self, weaker: list[Place], place: Place) -> None:
        if not weaker:
            raise _build_busy_error(
                "no place for this upload now: try again", self._compute_wait(place)
            )
        self._lose(min(weaker, key=self._rank))

    def _compute_wait(self, place: Place) -> int:
        """After how many seconds a refused client should ask again."""
        if not self._is_entitled(place):
            return LONGEST_WAIT_SECONDS
        left = [self._compute_left(each) for each in self._list_own(place.claim.group)]
        return min(LONGEST_WAIT_SECONDS, max(1, math.ceil(min(left, default=0.0))))

    def _promote(self, group: Group) -> None:
        """Give the own places of a group to its lent uploads with time left, the oldest first."""
        waiting = [
            place
            for place in self._list_lent()
            if place.claim.group == group and self._is_entitled(place)
        ]
        for place in waiting:
            own = self._list_own(group)
            ending = [each for each in own if not self._is_entitled(each)]
            if len(own) >= OWN_PLACES:
                if not ending:
                    return
                self._leave_own(ending[0])
            self._enter_own(place)


def _build_busy_error(message: str, wait_seconds: int) -> HttpError:
    return HttpError(503, "busy", message, retry_after_seconds=wait_seconds)
