"""Which validators hold a gradient, as a node finds out for a miner."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.primitives import Address, Hash32
from node.storage.blobs import BlobStore
from node.training.holders import FIND_SECONDS, FRESH_SECONDS, QUESTIONS_LIMIT, RevealHolders
from node.training.reveal_store import RevealStore
from tests.worlds.training import GENESIS_SET
from tests.worlds.training_node import ATTEMPT, PAYLOADS, REVEALS

pytestmark = pytest.mark.usefixtures("inline_threads")

OWN, HOLDER, LACKING, SILENT = GENESIS_SET.validators
MINER = REVEALS[0].miner


@dataclass
class Peer:
    peer_id: str
    validator: Address | None


@dataclass
class FakeRequests:
    """Three validators and a node without one; HOLDER and that node have the gradient."""

    revealed: set[Hash32] = field(default_factory=lambda: {REVEALS[0].gradient_root})
    asked: list[str] = field(default_factory=list)
    busy: int = 0
    busiest: int = 0

    def peers(self) -> tuple[Peer, ...]:
        validators = {"holder": HOLDER, "lacking": LACKING, "silent": SILENT, "follower": None}
        return tuple(Peer(*each) for each in validators.items())

    async def has_blob(self, peer_id: str, content_id: Hash32) -> bool:
        assert content_id in self.revealed
        self.asked.append(peer_id)
        self.busy += 1
        self.busiest = max(self.busy, self.busiest)
        try:
            await trio.sleep(3_600 if peer_id == "silent" else 0.01)
        finally:
            self.busy -= 1
        return peer_id in ("holder", "follower")


@pytest.fixture
def requests() -> FakeRequests:
    return FakeRequests()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs", quota_bytes=2**26)


@pytest.fixture
def holders(tmp_path: Path, requests: FakeRequests, blobs: BlobStore) -> RevealHolders:
    reveals = RevealStore(tmp_path / "reveals")
    reveals.put(REVEALS[0])
    return RevealHolders(reveals, blobs, requests, OWN)


async def test_validators_that_hold_the_gradient_are_named(
    autojump_clock: MockClock, holders: RevealHolders, requests: FakeRequests, blobs: BlobStore
) -> None:
    assert await holders.find(ATTEMPT, MINER) == (HOLDER,)
    blobs.put(PAYLOADS[0])
    await trio.sleep(FRESH_SECONDS + 0.1)
    assert await holders.find(ATTEMPT, MINER) == tuple(sorted((OWN, HOLDER)))
    assert sorted(set(requests.asked)) == ["holder", "lacking", "silent"]


async def test_no_peer_is_asked_for_a_gradient_not_revealed_here(
    autojump_clock: MockClock, holders: RevealHolders, requests: FakeRequests
) -> None:
    assert await holders.find(ATTEMPT, REVEALS[1].miner) == ()
    assert requests.asked == []


async def test_many_questions_for_one_gradient_ask_validators_a_few_times(
    autojump_clock: MockClock, holders: RevealHolders, requests: FakeRequests
) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(100 * QUESTIONS_LIMIT):
            nursery.start_soon(holders.find, ATTEMPT, MINER)
    assert requests.busiest <= 3 * QUESTIONS_LIMIT
    assert len(requests.asked) <= 2 * 3 * QUESTIONS_LIMIT


async def test_search_ends_in_time_however_many_gradients_are_asked_about(
    tmp_path: Path, autojump_clock: MockClock, requests: FakeRequests, blobs: BlobStore
) -> None:
    reveals = RevealStore(tmp_path / "many")
    many = [
        replace(REVEALS[0], miner=Address(bytes([n]) * 20), gradient_root=Hash32(bytes([n]) * 32))
        for n in range(1, 10 * QUESTIONS_LIMIT)
    ]
    for each in many:
        reveals.put(each)
    requests.revealed = {each.gradient_root for each in many}
    holders = RevealHolders(reveals, blobs, requests, OWN)
    began_at = trio.current_time()
    async with trio.open_nursery() as nursery:
        for each in many:
            nursery.start_soon(holders.find, ATTEMPT, each.miner)
    assert trio.current_time() <= began_at + FIND_SECONDS + 0.1
