"""A fetch from peers that are silent, slow or without the blob, under a virtual clock."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.crypto import CHUNK_BYTES, chunk_hashes, content_id, merkle_node, merkle_root
from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import Hash32, TaskId
from node.network import wire
from node.network.fetch_pauses import FIRST_PAUSE_SECONDS
from node.network.metrics import NetworkMetrics
from node.network.protocols import blob_fetch
from node.network.protocols.blob_fetch import BlobUnavailableError
from node.network.protocols.blobs import BlobExchange
from node.network.slow_peers import PATIENCE_SECONDS
from node.network.stream import FrameStream, PeerId
from node.storage import blob_manifest
from node.storage.blob_manifest import BlobManifest
from node.storage.blobs import BlobStore
from tests.worlds.network import stream_pair

Serve = Callable[[FrameStream], Awaitable[None]]
BLOB = bytes(range(256)) * (5 * CHUNK_BYTES // 256) + b"end"

pytestmark = pytest.mark.usefixtures("inline_threads")


class World:
    """A node without blobs, and the peers that it asks."""

    def __init__(self, path: Path) -> None:
        self.holder = BlobExchange(BlobStore(path / "holder", quota_bytes=2**26), NetworkMetrics())
        self.without = BlobExchange(BlobStore(path / "none", quota_bytes=2**26), NetworkMetrics())
        self.store = BlobStore(path / "own", quota_bytes=2**26)
        self.own = BlobExchange(self.store, NetworkMetrics())
        self.wanted = self.put(BLOB)

    def put(self, data: bytes) -> Hash32:
        store = self.holder.store
        assert isinstance(store, BlobStore)
        return store.put(data)

    async def hold(self, stream: FrameStream) -> None:
        await self.holder.serve(stream, None)

    async def lack(self, stream: FrameStream) -> None:
        await self.without.serve(stream, None)

    async def be_silent(self, stream: FrameStream) -> None:
        await trio.sleep_forever()

    async def claim(self, stream: FrameStream) -> None:
        """Say that the blob is held, and nothing more."""
        await stream.read_frame(1_000)
        await stream.write_frame(b"\x01")
        await trio.sleep_forever()

    def drip(self, chunk_seconds: float) -> Serve:
        """A holder that sends a chunk every so many seconds."""

        async def send(stream: FrameStream, request: wire.RequestChunks) -> None:
            for index in range(request.first_index, request.first_index + request.count):
                await trio.sleep(chunk_seconds)
                chunk = self.holder.store.chunk(request.content_id, index)
                await stream.write_frame(b"\x01" + chunk)

        return self.send_by(send)

    def send_by(self, send: Callable[[FrameStream, wire.RequestChunks], Awaitable[None]]) -> Serve:
        """A holder that sends chunks in its own way."""

        async def serve(stream: FrameStream) -> None:
            while True:
                match wire.decode_blob_request(await stream.read_frame(1_000)):
                    case wire.RequestHave():
                        await stream.write_frame(b"\x01")
                    case wire.RequestManifest(blob_id):
                        manifest = self.holder.store.manifest(blob_id)
                        await stream.write_frame(wire.encode_manifest(manifest))
                    case wire.RequestChunks() as request:
                        await send(stream, request)

        return serve

    async def fetch(
        self,
        peers: Mapping[str, Serve],
        wanted: Hash32 | None = None,
        *,
        is_urgent: bool = True,
        task: int = 1,
        size_limit: int = wire.MAX_BLOB_BYTES,
        on_fault: blob_fetch.OnFault = lambda *fault: pytest.fail(str(fault)),
    ) -> float:
        """Fetch the blob from these peers, and return the seconds that it took."""
        start = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def serve(name: PeerId, stream: FrameStream) -> None:
                try:
                    await peers[name](stream)
                except blob_fetch.StreamClosedError:
                    await stream.reset()

            async def open_stream(peer_id: PeerId, protocol_id: str) -> FrameStream:
                asking, serving = stream_pair()
                nursery.start_soon(serve, peer_id, serving)
                return asking

            failure: BlobUnavailableError | None = None
            try:
                await self.own.fetch(
                    self.wanted if wanted is None else wanted,
                    [PeerId(name) for name in peers],
                    open_stream,
                    on_fault,
                    size_limit=size_limit,
                    is_urgent=is_urgent,
                    task_id=TaskId(task),
                )
            except BlobUnavailableError as error:
                failure = error
            seconds = trio.current_time() - start
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return seconds

    async def try_fetch(self, *arguments: object, **options: object) -> None:
        """Fetch again and again, as a job does."""
        while True:
            with suppress(BlobUnavailableError):
                await self.fetch(*arguments, **options)
                return
            await trio.sleep(0.5)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_silent_peers_do_not_delay_a_fetch(world: World, autojump_clock: MockClock) -> None:
    silent = {f"silent {number}": world.be_silent for number in range(15)}
    assert await world.fetch({**silent, "holder": world.hold}) == 0
    assert world.store.path(world.wanted).read_bytes() == BLOB


async def test_next_peers_are_asked_beside_silent_ones(
    world: World, autojump_clock: MockClock
) -> None:
    silent = {f"silent {number}": world.be_silent for number in range(40)}
    seconds = await world.fetch({**silent, "holder": world.hold})
    assert seconds == 2 * PATIENCE_SECONDS


async def test_holder_behind_sixteen_peers_without_the_blob_is_found(
    world: World, autojump_clock: MockClock
) -> None:
    without = {f"without {number}": world.lack for number in range(40)}
    assert await world.fetch({**without, "holder": world.hold}) == 0


async def test_peers_that_claim_a_blob_and_give_no_manifest_are_passed_by(
    world: World, autojump_clock: MockClock
) -> None:
    false = {f"false {number}": world.claim for number in range(16)}
    assert await world.fetch({**false, "holder": world.hold}) == PATIENCE_SECONDS


async def test_chunks_that_a_slow_holder_owes_are_asked_of_another(
    world: World, autojump_clock: MockClock
) -> None:
    seconds = await world.fetch({"slow": world.drip(20), "holder": world.hold})
    assert seconds <= PATIENCE_SECONDS
    assert world.store.path(world.wanted).read_bytes() == BLOB


async def test_slow_fetch_for_one_task_does_not_hold_back_another(
    world: World, autojump_clock: MockClock
) -> None:
    # An honest gradient can be computed in advance. Whoever named it in a task of its own, and sent
    # it slowly, made it come too late: the others did not hold it when that fetch began.
    peers = {"stranger": world.drip(15.0), **{f"validator {i}": world.lack for i in range(20)}}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(world.try_fetch, peers, task=2))
        await trio.sleep(30)
        peers["validator 19"] = world.hold
        seconds = await world.fetch(peers, task=1)
        nursery.cancel_scope.cancel()
    assert seconds < PATIENCE_SECONDS + 1
    assert world.store.has(world.wanted)


async def test_slow_holder_that_is_the_only_one_may_send_at_the_least_rate(
    world: World, autojump_clock: MockClock
) -> None:
    least = CHUNK_BYTES / blob_fetch.LEAST_BYTES_PER_SECOND
    assert await world.fetch({"slow": world.drip(least)}) == pytest.approx(6 * least)


async def test_holder_below_the_least_rate_is_given_up(
    world: World, autojump_clock: MockClock
) -> None:
    with pytest.raises(BlobUnavailableError, match="chunks missing"):
        await world.fetch({"slow": world.drip(20)})
    # Each chunk takes four seconds more than it may, and ten are forgiven.
    assert trio.current_time() == pytest.approx(58, abs=3)


async def test_peer_that_was_silent_is_asked_last_for_a_while(
    world: World, autojump_clock: MockClock
) -> None:
    slow, silent = world.own.slow_peers, PeerId("silent")
    with pytest.raises(BlobUnavailableError):
        await world.fetch({"silent": world.be_silent})
    assert slow.sort([silent, PeerId("other")]) == ("other", "silent")
    await trio.sleep(60)
    assert slow.sort([silent, PeerId("other")]) == ("silent", "other")


async def test_fetch_ends_soon_if_all_peers_are_silent(
    world: World, autojump_clock: MockClock
) -> None:
    with pytest.raises(BlobUnavailableError, match="no connected peer holds it"):
        await world.fetch({f"silent {number}": world.be_silent for number in range(16)})
    assert trio.current_time() == blob_fetch.HAVE_SECONDS


@pytest.mark.parametrize(("is_urgent", "task"), [(True, 1), (False, 2)])
async def test_fetches_that_drip_keep_no_place_from_a_prompt_one(
    world: World, autojump_clock: MockClock, is_urgent: bool, task: int
) -> None:
    junk = [world.put(bytes([number]) * (CHUNK_BYTES + 1)) for number in range(40)]
    async with trio.open_nursery() as nursery:
        for blob_id in junk:
            drip = partial(world.try_fetch, {"drip": world.drip(15)}, blob_id, is_urgent=is_urgent)
            nursery.start_soon(drip)
        await trio.sleep(10)
        peers = {"drip": world.drip(15), "holder": world.hold}
        seconds = await world.fetch(peers, is_urgent=is_urgent, task=task)
        nursery.cancel_scope.cancel()
    # At most a turn of 3 s for the place, and 2 s until the slow holder is passed by.
    assert seconds <= 6


async def test_fetch_that_a_live_round_needs_waits_for_no_place_of_new_content(
    world: World, autojump_clock: MockClock
) -> None:
    junk = [world.put(bytes([number]) * (CHUNK_BYTES + 1)) for number in range(4)]
    async with trio.open_nursery() as nursery:
        for blob_id in (*junk, world.wanted):
            peers = {"drip": world.drip(15)}
            fetch = partial(world.try_fetch, peers, blob_id, is_urgent=False, task=2)
            nursery.start_soon(fetch)
            await trio.sleep(0.1)
        assert await world.fetch({"holder": world.hold}) == 0
        nursery.cancel_scope.cancel()


async def test_blob_larger_than_wanted_reserves_nothing_and_is_left_to_others(
    world: World,
) -> None:
    """A miner may commit to another task's content, or to hashes of gigabytes that nobody has."""
    with pytest.raises(BlobUnavailableError):
        await world.fetch({"holder": world.hold}, size_limit=1_000)
    assert isinstance(world.own.store, BlobStore)
    assert world.own.store.used_bytes() == 0
    await trio.sleep(FIRST_PAUSE_SECONDS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.try_fetch, {"holder": world.drip(1)})
        await trio.sleep(0.1)
        with pytest.raises(BlobUnavailableError, match="more than 1000 bytes"):
            await world.fetch({"holder": world.hold}, is_urgent=True, size_limit=1_000)
    assert world.own.store.has(world.wanted)


async def test_fetch_of_larger_blob_is_disturbed_once_by_a_wish_for_a_smaller(
    world: World, autojump_clock: MockClock
) -> None:
    async def hold_later(stream: FrameStream) -> None:
        await trio.sleep(1)
        await world.hold(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(world.try_fetch, {"holder": hold_later}, is_urgent=False))
        await trio.sleep(0.1)
        for reason in ("no connected peer", "more than 1000 bytes", "more than 1000 bytes"):
            with pytest.raises(BlobUnavailableError, match=reason):
                await world.fetch({"holder": world.hold}, size_limit=1_000)
            await trio.sleep(0.6)
    assert world.store.has(world.wanted)
    assert trio.current_time() < 3


def count_hashed_leaves(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of chunk hashes of which content ids are computed from now on."""
    counts: list[int] = []
    compute = blob_manifest.content_id_of_chunks

    def count(size_bytes: int, leaves: tuple[Hash32, ...]) -> Hash32:
        counts.append(len(leaves))
        return compute(size_bytes, leaves)

    monkeypatch.setattr(blob_manifest, "content_id_of_chunks", count)
    return counts


async def test_manifest_longer_than_the_wanted_blob_allows_is_not_hashed(
    world: World, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of 16 GiB takes 62 ms, and peers may send as many as they like."""
    manifest = BlobManifest(1_000 * CHUNK_BYTES, (Hash32(b"\x07" * 32),) * 1_000)
    frame = wire.encode_manifest(manifest)
    counts = count_hashed_leaves(monkeypatch)

    async def send_long(stream: FrameStream) -> None:
        for answer in (b"\x01", frame):
            await stream.read_frame(1_000)
            await stream.write_frame(answer)
        await trio.sleep_forever()

    peers = {f"peer {number}": send_long for number in range(16)}
    # No fault is reported: the miner that named the blob is at fault.
    with pytest.raises(BlobUnavailableError):
        await world.fetch(peers, Hash32(b"\x08" * 32), size_limit=4_000)
    assert counts == []


async def test_one_manifest_is_verified_of_many_that_come_at_once(
    world: World, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = count_hashed_leaves(monkeypatch)

    async def hold_together(stream: FrameStream) -> None:
        await trio.sleep(1)
        await world.hold(stream)

    await world.fetch({f"peer {number}": hold_together for number in range(16)})
    assert world.store.has(world.wanted)
    assert counts == [6, 6], "the holder has verified it, and the fetch"


async def test_peers_that_send_nothing_are_asked_ever_more_rarely(
    world: World, autojump_clock: MockClock
) -> None:
    asked_at = []

    async def withhold(stream: FrameStream) -> None:
        asked_at.append(trio.current_time())
        while True:
            match wire.decode_blob_request(await stream.read_frame(1_000)):
                case wire.RequestHave():
                    await stream.write_frame(b"\x01")
                case wire.RequestManifest(blob_id):
                    manifest = world.holder.store.manifest(blob_id)
                    await stream.write_frame(wire.encode_manifest(manifest))
                case wire.RequestChunks():
                    await stream.write_frame(b"")

    with trio.move_on_after(40):
        await world.try_fetch({"withholder": withhold})
    assert asked_at == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 23.5, 31.5, 39.5]
    # Another task does not wait, and the same one no longer once another peer says it holds it.
    with pytest.raises(BlobUnavailableError, match="6 chunks missing"):
        await world.fetch({"withholder": withhold}, task=2)
    with pytest.raises(BlobUnavailableError, match="nothing came"):
        await world.fetch({"holder": world.hold})
    world.own.pauses.note_announced(world.wanted, PeerId("holder"))
    await world.fetch({"holder": world.hold})
    assert world.store.has(world.wanted)


async def test_node_without_peers_fetches_once_it_has_some(world: World) -> None:
    with pytest.raises(BlobUnavailableError):
        await world.fetch({})
    await world.fetch({"holder": world.hold})
    assert world.store.has(world.wanted)


async def test_fetch_that_gets_a_chunk_in_each_try_is_not_paused(
    world: World, autojump_clock: MockClock
) -> None:
    async def send_one(stream: FrameStream, request: wire.RequestChunks) -> None:
        chunk = world.holder.store.chunk(request.content_id, request.first_index)
        await stream.write_frames([b"\x01" + chunk, b""])

    holder = world.send_by(send_one)
    for _ in range(5):
        with pytest.raises(BlobUnavailableError, match="chunks missing"):
            await world.fetch({"holder": holder})
    await world.fetch({"holder": holder})
    assert world.store.has(world.wanted)


LEAVES = chunk_hashes(BLOB)
PAIRS = tuple(merkle_node(*LEAVES[index : index + 2]) for index in (0, 2, 4))
ROOT = merkle_root(LEAVES)


@pytest.mark.parametrize(
    ("size_bytes", "leaves"),
    [
        (len(BLOB) - 1, LEAVES),
        (len(BLOB) + 1, LEAVES),
        (6 * CHUNK_BYTES, LEAVES),
        (2 * CHUNK_BYTES + 3, PAIRS),
        (1_000, (ROOT,)),
        (1_000, (content_id(BLOB),)),
        (len(BLOB), (*LEAVES[:4], LEAVES[5], LEAVES[4])),
        (len(b"other"), chunk_hashes(b"other")),
    ],
    ids=["short", "long", "full", "inner nodes", "root", "content id", "order", "another blob"],
)
async def test_only_the_giver_of_a_false_manifest_is_blamed(
    world: World, autojump_clock: MockClock, size_bytes: int, leaves: tuple[Hash32, ...]
) -> None:
    """A stranger that answers first could otherwise have validators ban each other."""
    faults = []

    async def lie(stream: FrameStream) -> None:
        await stream.read_frame(1_000)
        await stream.write_frame(b"\x01")
        await stream.read_frame(1_000)
        await stream.write_frame(wire.encode_manifest(BlobManifest(size_bytes, leaves)))
        await trio.sleep_forever()

    async def hold_later(stream: FrameStream) -> None:
        await trio.sleep(0.005)
        await world.hold(stream)

    def on_fault(peer_id: PeerId, error: RejectedInputError) -> None:
        faults.append((peer_id, error.reason))

    validators = {f"validator {number}": hold_later for number in range(3)}
    await world.fetch({"stranger": lie, **validators}, size_limit=len(BLOB), on_fault=on_fault)
    assert world.store.path(world.wanted).read_bytes() == BLOB
    assert faults == [("stranger", RejectionReason.CONTENT_MISMATCH)]
