"""/pot/blob/1 between nodes whose hosts are in memory, on real blob directories."""

import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio

from chain.crypto import CHUNK_BYTES, content_id
from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import Address, Hash32, TaskId
from chain.training.attempt import AttemptId
from chain.training.reveal import Reveal
from node.network import wire
from node.network.metrics import NetworkMetrics
from node.network.protocols import blobs
from node.network.protocols.blob_fetch import BlobUnavailableError, list_ranges
from node.network.protocols.blobs import BlobExchange
from node.network.stream import FrameStream, PeerId, StreamClosedError
from node.storage import blob_files, blob_manifest
from node.storage.blob_manifest import BlobManifest
from node.storage.blobs import BlobStore
from pot_common.errors import OperatorError
from tests.worlds.network import MemoryInternet, Node, build_nodes, running, stream_pair
from tests.worlds.waiting import until

MODEL = os.urandom(37 * CHUNK_BYTES + 5)


def store_of(node: Node) -> BlobStore:
    assert node.blobs is not None
    return node.blobs


async def test_blob_is_fetched_from_its_holders(tmp_path: Path) -> None:
    nodes = build_nodes(MemoryInternet(), 4, tmp_path)
    wanted = store_of(nodes[1]).put(MODEL)
    store_of(nodes[2]).put(MODEL)
    async with running(*nodes):
        await until(lambda: len(nodes[0].network.peers()) == 3)
        await nodes[0].network.requests.fetch_blob(wanted)
    assert store_of(nodes[0]).path(wanted).read_bytes() == MODEL
    served = [node.network.metrics.blob_chunks_served for node in nodes]
    assert sum(served) == 38
    assert served[1] > 0
    assert served[2] > 0


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1])
async def test_blobs_of_every_size_are_fetched(size: int, tmp_path: Path) -> None:
    nodes = build_nodes(MemoryInternet(), 2, tmp_path)
    wanted = store_of(nodes[1]).put(MODEL[:size])
    async with running(*nodes):
        await until(lambda: len(nodes[0].network.peers()) == 1)
        async with trio.open_nursery() as nursery:
            # Two concurrent calls are one fetch.
            nursery.start_soon(nodes[0].network.requests.fetch_blob, wanted)
            nursery.start_soon(nodes[0].network.requests.fetch_blob, wanted)
    assert store_of(nodes[0]).path(wanted).read_bytes() == MODEL[:size]
    assert nodes[1].network.metrics.blob_chunks_served == max(1, -(-size // CHUNK_BYTES))


async def test_blob_that_no_peer_holds_is_unavailable(tmp_path: Path) -> None:
    nodes = build_nodes(MemoryInternet(), 2, tmp_path)
    async with running(*nodes):
        await until(lambda: len(nodes[0].network.peers()) == 1)
        with pytest.raises(BlobUnavailableError, match="no connected peer holds it"):
            await nodes[0].network.requests.fetch_blob(content_id(MODEL))


async def test_blob_is_asked_for_again_once_a_peer_announces_it(tmp_path: Path) -> None:
    nodes = build_nodes(MemoryInternet(), 2, tmp_path)
    own, holder = (node.network for node in nodes)
    wanted = content_id(MODEL)
    async with running(*nodes):
        await until(lambda: len(own.peers()) == 1)
        with pytest.raises(BlobUnavailableError, match="no connected peer holds it"):
            await own.requests.fetch_blob(wanted)
        store_of(nodes[1]).put(MODEL)
        own._blobs.pauses.note_empty(wanted, None)
        own._blobs.pauses.note_empty(wanted, None)
        with pytest.raises(BlobUnavailableError, match="nothing came of it lately"):
            await own.requests.fetch_blob(wanted)
        reveal = Reveal(
            AttemptId(TaskId(1), 0, 0), Address(b"\x01" * 20), 1, Hash32(bytes(32)), wanted
        )
        await holder.requests.announce_reveal(nodes[0].host.peer_id, reveal)
        await own.requests.fetch_blob(wanted)
    assert store_of(nodes[0]).path(wanted).read_bytes() == MODEL


async def test_interrupted_fetch_resumes(tmp_path: Path) -> None:
    nodes = build_nodes(MemoryInternet(), 2, tmp_path)
    wanted = store_of(nodes[1]).put(MODEL)
    metrics = nodes[0].network.metrics
    async with running(*nodes):
        await until(lambda: len(nodes[0].network.peers()) == 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(nodes[0].network.requests.fetch_blob, wanted)
            await until(lambda: metrics.blob_chunks_received >= 10)
            nursery.cancel_scope.cancel()
        assert not store_of(nodes[0]).has(wanted)
        await nodes[0].network.requests.fetch_blob(wanted)
    assert store_of(nodes[0]).path(wanted).read_bytes() == MODEL
    # Only the chunk in transit when the fetch was interrupted may be sent twice.
    assert metrics.blob_chunks_received in (38, 39)


async def test_sender_of_wrong_chunks_is_penalized_and_replaced(tmp_path: Path) -> None:
    nodes = build_nodes(MemoryInternet(), 3, tmp_path)
    wanted = store_of(nodes[1]).put(MODEL)
    liar = nodes[2].host

    async def lie(stream: FrameStream) -> None:
        while True:
            match wire.decode_blob_request(await stream.read_frame(1000)):
                case wire.RequestHave():
                    await stream.write_frame(b"\x01")
                case wire.RequestManifest():
                    manifest = store_of(nodes[1]).manifest(wanted)
                    await stream.write_frame(wire.encode_manifest(manifest))
                case wire.RequestChunks(_, _, count):
                    await stream.write_frames([b"\x01" + bytes(CHUNK_BYTES)] * count)

    liar.set_handler(blobs.PROTOCOL_ID, lie)
    async with running(*nodes):
        await until(lambda: len(nodes[0].network.peers()) == 2)
        await nodes[0].network.requests.fetch_blob(wanted)
        [suspect] = [peer for peer in nodes[0].network.peers() if peer.peer_id == liar.peer_id]
        assert suspect.score < 100
    assert store_of(nodes[0]).path(wanted).read_bytes() == MODEL
    rejections = nodes[0].network.metrics.rejections
    assert rejections[RejectionReason.CONTENT_MISMATCH] == 1


async def test_validator_is_served_while_peers_read_nothing(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs", quota_bytes=2**26)
    wanted = store.put(MODEL)
    exchange = BlobExchange(store, NetworkMetrics())
    request = wire.encode_blob_request(wire.RequestChunks(wanted, 0, 2))

    async def ask(nursery: trio.Nursery, validator: Address | None) -> FrameStream:
        client, served = stream_pair()
        nursery.start_soon(partial(exchange.serve, served, validator=validator))
        await client.write_frame(request)
        return client

    async with trio.open_nursery() as nursery:
        for _ in range(blobs.SERVED_STREAMS_LIMIT + 1):
            await ask(nursery, None)
        silent = Address(b"\x01" * 20)
        for _ in range(blobs.VALIDATOR_STREAMS_LIMIT + 1):
            await ask(nursery, silent)
        await trio.sleep(0.1)
        client = await ask(nursery, Address(b"\x02" * 20))
        with trio.fail_after(5):
            chunks = [await client.read_frame(wire.CHUNK_FRAME_LIMIT_BYTES) for _ in range(2)]
        nursery.cancel_scope.cancel()
    assert b"".join(chunk[1:] for chunk in chunks) == MODEL[: 2 * CHUNK_BYTES]


class HeldThreads:
    """Holds threads that call a function, until it is released."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function
        self.released = threading.Event()
        self.count = 0

    def __call__(self, *arguments: object) -> object:
        self.count += 1
        self.released.wait(10)
        return self.function(*arguments)


Serve = Callable[[FrameStream], Awaitable[None]]


async def fetch_from(exchange: BlobExchange, wanted: Hash32, serve: Serve) -> None:
    """Fetch a blob for a live round from one peer."""
    async with trio.open_nursery() as nursery:

        async def answer(stream: FrameStream) -> None:
            with suppress(StreamClosedError):
                await serve(stream)

        async def open_stream(*_: str) -> FrameStream:
            asking, serving = stream_pair()
            nursery.start_soon(answer, serving)
            return asking

        def on_fault(_: PeerId, error: RejectedInputError) -> None:
            pytest.fail(str(error))

        await exchange.fetch(wanted, [PeerId("p")], open_stream, on_fault, is_urgent=True)
        nursery.cancel_scope.cancel()


def withhold(manifest: BlobManifest) -> Serve:
    """A peer that sends no chunk."""

    async def serve(stream: FrameStream) -> None:
        while True:
            match wire.decode_blob_request(await stream.read_frame(1000)):
                case wire.RequestHave():
                    await stream.write_frame(b"\x01")
                case wire.RequestManifest():
                    await stream.write_frame(wire.encode_manifest(manifest))
                case wire.RequestChunks():
                    await stream.write_frame(b"")

    return serve


async def test_fetch_waits_for_no_reading_of_what_is_withheld(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given unfinished downloads of an earlier process, more than there are threads,
    holder = BlobExchange(BlobStore(tmp_path / "holder", quota_bytes=2**26), NetworkMetrics())
    assert isinstance(holder.store, BlobStore)
    wanted = holder.store.put(b"honest")
    leaves = [content_id(f"{number}".encode()) for number in range(8)]
    withheld = [BlobManifest(6 * CHUNK_BYTES, (leaf,) * 6) for leaf in leaves]
    for manifest in withheld:
        BlobStore(tmp_path / "own", quota_bytes=2**26).download(manifest).__exit__()
    own = BlobExchange(BlobStore(tmp_path / "own", quota_bytes=2**26), NetworkMetrics())
    reading = HeldThreads(blob_files.merkle_leaf)
    monkeypatch.setattr(blob_files, "merkle_leaf", reading)
    # when they are read, then a blob of one chunk comes all the same.
    async with trio.open_nursery() as nursery:
        for manifest in withheld:
            nursery.start_soon(fetch_from, own, manifest.content_id, withhold(manifest))
        await until(lambda: reading.count > 0)
        with trio.move_on_after(5):
            await fetch_from(own, wanted, partial(holder.serve, validator=None))
        is_held = own.store.has(wanted)
        nursery.cancel_scope.cancel()
        reading.released.set()
    assert is_held


@pytest.mark.parametrize("asker", [None, Address(b"\x01" * 20)], ids=["stranger", "validator"])
async def test_fetch_waits_for_nothing_that_is_served(
    asker: Address | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = BlobExchange(BlobStore(tmp_path / "holder", quota_bytes=2**26), NetworkMetrics())
    assert isinstance(holder.store, BlobStore)
    wanted = holder.store.put(b"honest")
    store = BlobStore(tmp_path / "own", quota_bytes=2**26)
    own = BlobExchange(store, NetworkMetrics())
    reading = HeldThreads(store.manifest)
    monkeypatch.setattr(store, "manifest", reading)
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            client, served = stream_pair()
            nursery.start_soon(own.serve, served, asker)
            await client.write_frame(wire.encode_blob_request(wire.RequestManifest(wanted)))
        await until(lambda: reading.count > 0)
        with trio.move_on_after(5):
            await fetch_from(own, wanted, partial(holder.serve, validator=None))
        is_held = store.has(wanted)
        nursery.cancel_scope.cancel()
        reading.released.set()
    assert is_held


async def test_manifests_are_verified_beside_consensus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = BlobExchange(BlobStore(tmp_path / "holder", quota_bytes=2**26), NetworkMetrics())
    assert isinstance(holder.store, BlobStore)
    wanted = holder.store.put(MODEL)
    own = BlobExchange(BlobStore(tmp_path / "own", quota_bytes=2**26), NetworkMetrics())
    main_thread, threads = threading.current_thread(), []
    compute = blob_manifest.content_id_of_chunks

    def note_thread(size_bytes: int, leaves: tuple[Hash32, ...]) -> Hash32:
        threads.append(threading.current_thread())
        return compute(size_bytes, leaves)

    monkeypatch.setattr(blob_manifest, "content_id_of_chunks", note_thread)
    await fetch_from(own, wanted, partial(holder.serve, validator=None))
    assert own.store.has(wanted)
    assert len(threads) == 2
    assert main_thread not in threads


async def test_full_disk_is_reported_to_the_operator_not_blamed_on_peers(tmp_path: Path) -> None:
    nodes = build_nodes(MemoryInternet(), 2, tmp_path)
    wanted = store_of(nodes[1]).put(MODEL)
    store_of(nodes[0])._quota_bytes = 1000
    async with running(*nodes):
        await until(lambda: len(nodes[0].network.peers()) == 1)
        with pytest.raises(OperatorError, match=r"blobs\.quota_bytes"):
            await nodes[0].network.requests.fetch_blob(wanted)
        assert nodes[0].network.peers()[0].score == 100


def test_ranges_are_consecutive_and_bounded() -> None:
    assert list_ranges([0, 1, 2, 5, 6, 9]) == [(0, 3), (5, 2), (9, 1)]
    assert list_ranges(range(40)) == [(0, 16), (16, 16), (32, 8)]
    assert list_ranges([]) == []
