"""A miner that uploads at the genesis rate finds a place in time, whatever others do."""

import asyncio
from dataclasses import dataclass, field
from random import Random

import pytest

from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import TaskId
from chain.training.attempt import AttemptId
from node.rpc.http import HttpError
from node.rpc.upload_places import (
    FAST_BYTES_PER_SECOND,
    OWN_PLACES,
    Claim,
    Group,
    Place,
    UploadPlaces,
    compute_own_seconds,
)
from tests.worlds.clock import FakeClock

GENESIS_RATE = 1_000_000
"""`blob_bytes_per_second` of the genesis."""

VERDICT_SECONDS = 60
TICK_SECONDS = 0.5
"""How often a refused miner asks again."""


def attempt_of(task: int) -> Group:
    return AttemptId(TaskId(task), 0, 0), 0


@dataclass
class Uploader:
    """A client that asks again whenever it has no place."""

    claim: Claim
    rate: float
    place: Place | None = None
    sent: float = 0.0
    refused_seconds: float = 0.0
    ended_at: float | None = None
    lost: list[float] = field(default_factory=list)

    def step(self, places: UploadPlaces, clock: FakeClock) -> None:
        if self.ended_at is not None:
            return
        if self.place is not None and self.place.is_lost:
            self.lost.append(clock.now)
            self.place = None
        if self.place is None:
            try:
                self.place = places.admit(self.claim)
            except HttpError:
                self.refused_seconds += TICK_SECONDS
                return
            self.sent = 0.0
        self.sent += self.rate * TICK_SECONDS
        self.place.received_bytes = int(self.sent)

    def finish(self, places: UploadPlaces, clock: FakeClock) -> None:
        """End an upload whose bytes have all arrived within the last tick."""
        place = self.place
        if place is not None and not place.is_lost and self.sent >= self.claim.size_bytes:
            places.release(place)
            self.place, self.ended_at = None, clock.now


class Attacker(Uploader):
    """A client that never ends an upload: it drops each one before its last byte, or earlier."""

    def spoil(self, places: UploadPlaces, random: Random) -> None:
        if self.place is None or self.place.is_lost:
            return
        if self.sent >= self.claim.size_bytes or random.random() < 0.02:
            places.release(self.place)
            self.place = None


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("honest_count", [1, 3])
def test_miners_at_the_genesis_rate_find_places_in_time(seed: int, honest_count: int) -> None:
    random, clock = Random(seed), FakeClock()
    miner_count = random.choice((honest_count + 1, 6, 12))
    places = UploadPlaces(8, 4, pair_limit=1, clock=clock)
    # The most bytes with which validators accept a task of so many units.
    size = int(0.94 * GENESIS_RATE * VERDICT_SECONDS / miner_count)
    own_seconds = compute_own_seconds(VERDICT_SECONDS, miner_count)

    def claim_of(task: int, miner: int, address: str) -> Claim:
        return Claim(attempt_of(task), bytes([miner]), address, size, own_seconds)

    honest = [
        Uploader(claim_of(1, number, f"honest {number}"), GENESIS_RATE)
        for number in range(honest_count)
    ]
    # Other seats of the task, other tasks, and others who know the reveals of honest miners.
    attackers = [
        Attacker(
            claim_of(task, miner, f"{address}"),
            random.choice((1.02, 4, 40)) * FAST_BYTES_PER_SECOND,
        )
        for task, miners in ((1, range(miner_count)), (2, range(12)), (3, range(2)))
        for miner in miners
        for address in range(3)
    ]
    # The attackers are there first, but for those that need to have heard of an honest reveal.
    early = [each for each in attackers if each.claim.group != attempt_of(1)]
    early += [each for each in attackers[3 * honest_count :] if each.claim.group == attempt_of(1)]
    for each in early:
        each.step(places, clock)
    for each in honest:
        each.step(places, clock)
    while clock.now < VERDICT_SECONDS and any(each.ended_at is None for each in honest):
        clock.now += TICK_SECONDS
        for each in honest:
            each.finish(places, clock)
        random.shuffle(attackers)
        for attacker in attackers:
            attacker.spoil(places, random)
            attacker.step(places, clock)
        for each in honest:
            each.step(places, clock)

    others_seconds = (miner_count - 1) * own_seconds / OWN_PLACES
    assert max(each.refused_seconds for each in honest) <= others_seconds + TICK_SECONDS
    ends = [each.ended_at for each in honest if each.ended_at is not None]
    assert len(ends) == honest_count
    assert max(ends) <= 0.75 * VERDICT_SECONDS + 2 * TICK_SECONDS


def claim(task: int, miner: bytes, address: str = "192.0.2.1") -> Claim:
    return Claim(attempt_of(task), miner, address, size_bytes=10_000_000, own_seconds=10.0)


def fill(places: UploadPlaces, task: int, miners: range) -> list[Place]:
    """Fast uploads of so many miners of a task."""
    taken = [places.admit(claim(task, bytes([number]), f"{number}")) for number in miners]
    for place in taken:
        place.received_bytes = 10**9
    return taken


def test_each_task_has_two_places_that_no_other_task_takes() -> None:
    places = UploadPlaces(4, 4, clock=FakeClock())
    fill(places, 1, range(6))
    with pytest.raises(HttpError, match="no place") as refusal:
        places.admit(claim(1, b"seventh"))
    assert (refusal.value.status, refusal.value.retry_after_seconds) == (503, 5)
    fill(places, 2, range(2))


def test_lent_places_are_shared_equally_among_tasks() -> None:
    places = UploadPlaces(4, 4, clock=FakeClock())
    first = fill(places, 1, range(6))
    fill(places, 2, range(4))
    assert [place.is_lost for place in first].count(True) == 2
    with pytest.raises(HttpError, match="no place"):
        places.admit(claim(2, b"fifth"))


def test_upload_with_time_left_is_not_the_one_that_its_task_loses() -> None:
    clock = FakeClock()
    places = UploadPlaces(2, 4, clock=clock)
    used_up = fill(places, 1, range(2))
    clock.now += 9
    lent = fill(places, 1, range(2, 4))
    clock.now += 2
    fill(places, 2, range(3))
    assert [place.is_lost for place in (*used_up, *lent)].count(True) == 1
    assert not any(place.is_lost for place in lent)


def test_miner_that_used_its_time_gives_way_however_often_it_begins_again() -> None:
    clock = FakeClock()
    places = UploadPlaces(0, 4, pair_limit=1, clock=clock)
    for _ in range(5):
        taken = fill(places, 1, range(2))
        clock.now += 1.99
        with pytest.raises(HttpError, match="no place"):
            places.admit(claim(1, b"waiting"))
        for place in taken:
            places.release(place)
    first, second = fill(places, 1, range(2))
    clock.now += 0.1
    places.admit(claim(1, b"waiting"))
    assert (first.is_lost, second.is_lost) == (True, False)


def test_further_ballot_gives_each_miner_its_time_again() -> None:
    clock = FakeClock()
    places = UploadPlaces(0, 4, clock=clock)
    place = places.admit(claim(1, b"miner"))
    clock.now += 11
    places.release(place)
    with pytest.raises(HttpError, match="no place"):
        places.admit(claim(1, b"miner"))
    again = Claim((AttemptId(TaskId(1), 0, 0), 1), b"miner", "192.0.2.1", 1_000, 10.0)
    assert not places.admit(again).is_lost


def test_others_do_not_use_up_the_time_of_a_miner() -> None:
    clock = FakeClock()
    places = UploadPlaces(1, 4, pair_limit=1, clock=clock)
    own = places.admit(claim(1, b"miner", "own"))
    places.release(own)
    copy = places.admit(claim(1, b"miner", "copied"))
    copy.received_bytes = 10**9
    clock.now += 100
    own = places.admit(claim(1, b"miner", "own"))
    assert own.own_since is not None
    assert copy.own_since is None


def test_sender_of_another_blob_does_not_keep_the_time_of_a_miner() -> None:
    places = UploadPlaces(0, 4, pair_limit=1)

    async def send_another_blob() -> None:
        async with places.take(claim(1, b"miner", "liar")):
            raise RejectedInputError(RejectionReason.CONTENT_MISMATCH, "another blob")

    with pytest.raises(RejectedInputError):
        asyncio.run(send_another_blob())
    assert places.admit(claim(1, b"miner", "own")).own_since is not None


def test_upload_that_loses_its_place_is_told_to_try_again() -> None:
    places = UploadPlaces(0, 4)

    async def hold() -> None:
        async with places.take(claim(1, b"copied", "first to ask")) as place:
            place.account.address = "owner"
            places.admit(claim(1, b"first"))
            places.admit(claim(1, b"second"))
            await asyncio.sleep(5)

    with pytest.raises(HttpError, match="another upload took this place") as ended:
        asyncio.run(hold())
    assert (ended.value.status, ended.value.retry_after_seconds) == (503, 1)
