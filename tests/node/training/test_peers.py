"""Questions to all peers, some of which are silent."""

from collections.abc import Callable, Sequence
from pathlib import Path

import trio
from trio.testing import MockClock

from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import Address, Hash32, TaskId
from chain.training.attempt import AttemptId
from chain.training.reveal import Reveal
from chain.training.state import compute_state_root
from node.network.slow_peers import PATIENCE_SECONDS, SlowPeers
from node.network.stream import PeerId, UnreachablePeerError
from node.storage.blobs import BlobStore
from node.training.peers import SLOW_PEER_SECONDS, TrainingPeers

ATTEMPT = AttemptId(TaskId(1), 0, 0)
PARTS = (Hash32(b"p" * 32),)
REVEAL = Reveal(ATTEMPT, Address(bytes(20)), 1, Hash32(bytes(32)), Hash32(bytes(32)))


class FakeRequests:
    """Peers named for what they do."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.slow_peers = SlowPeers()
        self.told: list[str] = []

    def list_preferred(self) -> Sequence[PeerId]:
        return self.slow_peers.sort([PeerId(name) for name in self.names])

    async def request_state_parts(self, peer_id: PeerId, _root: Hash32) -> Sequence[Hash32]:
        return await self._answer(peer_id, PARTS, (Hash32(b"?" * 32),))

    async def request_reveals(self, peer_id: PeerId, _attempt: AttemptId) -> Sequence[Reveal]:
        return await self._answer(peer_id, (REVEAL,), ())

    async def announce_reveal(self, peer_id: PeerId, _reveal: Reveal) -> None:
        await self._answer(peer_id, (), ())
        self.told.append(peer_id)

    async def _answer(self, peer_id: PeerId, right, wrong):
        await trio.sleep(0.1)
        match peer_id.split()[0]:
            case "silent":
                await trio.sleep(30)
                raise UnreachablePeerError(peer_id)
            case "ignorant":
                return ()
            case "liar":
                return wrong
            case "broken":
                raise RejectedInputError(RejectionReason.MALFORMED)
        return right


def ask(path: Path, *names: str) -> tuple[TrainingPeers, FakeRequests]:
    requests = FakeRequests(*names)
    return TrainingPeers(requests, BlobStore(path / "blobs", quota_bytes=2**20)), requests


async def take_seconds(call: Callable[[], object]) -> float:
    start = trio.current_time()
    await call()
    return round(trio.current_time() - start, 3)


async def test_silent_and_lying_peers_do_not_delay_the_parts_of_a_state(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    silent = [f"silent {number}" for number in range(8)]
    peers, _ = ask(tmp_path, *silent, "liar", "ignorant", "broken", "holder")
    assert await peers.fetch_state_parts(compute_state_root(PARTS)) == PARTS
    assert trio.current_time() < 1


async def test_parts_are_asked_of_more_peers_than_the_first_sixteen(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    silent = [f"silent {number}" for number in range(20)]
    peers, _ = ask(tmp_path, *silent, "holder")
    start = trio.current_time()
    assert await peers.fetch_state_parts(compute_state_root(PARTS)) == PARTS
    assert round(trio.current_time() - start, 3) == PATIENCE_SECONDS + 0.1


async def test_parts_that_no_peer_knows_are_given_up_soon(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    peers, _ = ask(tmp_path, "silent", "liar", "ignorant")
    start = trio.current_time()
    assert await peers.fetch_state_parts(compute_state_root(PARTS)) is None
    assert trio.current_time() - start <= 10


async def test_silent_peer_delays_the_first_question_to_all_only(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    peers, requests = ask(tmp_path, "silent", "holder", "broken")
    assert await take_seconds(lambda: peers.fetch_reveals(ATTEMPT, ())) == 3
    assert await take_seconds(lambda: peers.fetch_reveals(ATTEMPT, ())) == 0.1 + SLOW_PEER_SECONDS
    assert await peers.fetch_reveals(ATTEMPT, ()) == [("holder", (REVEAL,))]
    assert await peers.fetch_reveals(ATTEMPT, ["holder"]) == []
    assert await take_seconds(lambda: peers.announce_reveal(REVEAL)) == 0.1 + SLOW_PEER_SECONDS
    assert requests.told == ["holder"]
