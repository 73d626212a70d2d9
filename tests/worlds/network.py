"""Hosts in memory, and factories, for the network's tests."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from chain.crypto import get_address, keccak256, sign
from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import (
    Address,
    BlockNumber,
    Hash32,
    PrivateKey,
    Signature,
    TaskId,
    ValidatorIndex,
    View,
)
from chain.training.attempt import AttemptId
from chain.training.reveal import Reveal
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from chain.types.receipt import Receipt, encode_receipts
from node.network.network import Network, NetworkConfig
from node.network.protocols.blob_fetch import Download
from node.network.protocols.state import StateSource, TaskRecord
from node.network.protocols.status import NodeIdentity
from node.network.stream import (
    FrameStream,
    PeerId,
    StreamClosedError,
    StreamHandler,
    UnreachablePeerError,
)
from node.network.wire import Head
from node.storage.blob_manifest import BlobManifest
from node.storage.blobs import BlobStore
from tests.worlds.values import make_header

GENESIS_HASH = keccak256(b"genesis")
CHAIN_ID = 7331
ALICE = PeerId("alice")
BOB = PeerId("bob")
HEAD = Head(BlockNumber(5), keccak256(b"head"))


def private_key(index: int) -> PrivateKey:
    return PrivateKey(keccak256(b"validator %d" % index))


def validator_address(index: int) -> Address:
    return get_address(private_key(index))


def identity(index: int | None, *, chain_id: int = CHAIN_ID) -> NodeIdentity:
    if index is None:
        return NodeIdentity(chain_id, GENESIS_HASH, None)
    key = private_key(index)
    return NodeIdentity(
        chain_id, GENESIS_HASH, (get_address(key), lambda digest: sign(digest, key))
    )


class MemoryStream:
    """One end of a pipe of bytes with 256 KiB of window."""

    def __init__(
        self,
        send: trio.MemorySendChannel[bytes],
        receive: trio.MemoryReceiveChannel[bytes],
    ) -> None:
        self._send = send
        self._receive = receive
        self._rest = b""

    async def receive_some(self, max_bytes: int) -> bytes:
        if not self._rest:
            try:
                self._rest = await self._receive.receive()
            except trio.EndOfChannel:
                return b""
            except trio.ClosedResourceError as error:
                raise StreamClosedError from error
        data, self._rest = self._rest[:max_bytes], self._rest[max_bytes:]
        return data

    async def send_all(self, data: bytes) -> None:
        try:
            for start in range(0, len(data), 2**15):
                await self._send.send(data[start : start + 2**15])
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamClosedError from error

    async def close(self) -> None:
        self._send.close()

    async def reset(self) -> None:
        self._send.close()
        self._receive.close()


def stream_pair(first: PeerId = ALICE, second: PeerId = BOB) -> tuple[FrameStream, FrameStream]:
    """The two ends of a stream: that of `first`, and that of `second`."""
    to_second, from_first = trio.open_memory_channel[bytes](8)
    to_first, from_second = trio.open_memory_channel[bytes](8)
    return (
        FrameStream(MemoryStream(to_second, from_second), second),
        FrameStream(MemoryStream(to_first, from_first), first),
    )


@dataclass
class MemoryInternet:
    """The running hosts by peer id."""

    hosts: dict[PeerId, "MemoryHost"] = field(default_factory=dict)


class MemoryHost:
    """A `Host` whose streams are memory channels."""

    def __init__(self, internet: MemoryInternet, index: int) -> None:
        self.peer_id = PeerId(f"12D3KooW{'ABCDEFGHJK'[index] * 44}")
        self._internet = internet
        self._handlers: dict[str, StreamHandler] = {}
        self._connected: set[PeerId] = set()
        self._streams: dict[PeerId, list[FrameStream]] = {}
        self._index = index
        self.is_reachable = True
        self.dials = 0
        self.errors: list[Exception] = []
        self.kept: list[tuple[PeerId, bool]] = []

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._internet.hosts[self.peer_id] = self
            try:
                yield
            finally:
                del self._internet.hosts[self.peer_id]
                nursery.cancel_scope.cancel()

    def listen_addresses(self) -> tuple[str, ...]:
        return (f"/ip4/10.0.0.{self._index + 1}/tcp/9000/p2p/{self.peer_id}",)

    def connected_peers(self) -> tuple[PeerId, ...]:
        return tuple(sorted(self._connected))

    def keep(self, peer_id: PeerId, *, is_validator: bool) -> None:
        self.kept.append((peer_id, is_validator))

    def inbound_connections(self) -> tuple[int, dict[str, int]]:
        return len(self._connected), {}

    def set_handler(self, protocol_id: str, handler: StreamHandler) -> None:
        self._handlers[protocol_id] = handler

    async def dial(self, peer_id: PeerId, address: str) -> None:
        self.dials += 1
        await trio.sleep(0.01)
        other = self._internet.hosts.get(peer_id)
        if other is None or not other.is_reachable:
            raise UnreachablePeerError(address)
        self._connected.add(peer_id)
        other._connected.add(self.peer_id)

    async def open_stream(self, peer_id: PeerId, protocol_id: str) -> FrameStream:
        await trio.sleep(0.001)
        other = self._internet.hosts.get(peer_id)
        if other is None or peer_id not in self._connected or protocol_id not in other._handlers:
            raise UnreachablePeerError(peer_id)
        mine, theirs = stream_pair(self.peer_id, peer_id)
        self._streams.setdefault(peer_id, []).append(mine)
        other._streams.setdefault(self.peer_id, []).append(theirs)
        other._nursery.start_soon(other._serve, other._handlers[protocol_id], theirs)
        return mine

    async def disconnect(self, peer_id: PeerId) -> None:
        other = self._internet.hosts.get(peer_id)
        for host, peer in ((self, peer_id), (other, self.peer_id)):
            if host is not None:
                host._connected.discard(peer)
                for stream in host._streams.pop(peer, []):
                    await stream.reset()

    async def _serve(self, handler: StreamHandler, stream: FrameStream) -> None:
        try:
            await handler(stream)
        except Exception as error:  # noqa: BLE001 - the tests look at what it was
            self.errors.append(error)
            await stream.reset()
        else:
            await stream.close()


@dataclass
class Received:
    """The frames that the consensus handler of a node was given."""

    frames: list[tuple[Address, bytes]] = field(default_factory=list)
    arrived: trio.Event = field(default_factory=trio.Event)

    async def handle(self, validator: Address, payload: bytes) -> None:
        self.frames.append((validator, payload))
        self.arrived.set()
        self.arrived = trio.Event()

    async def wait_for(self, count: int) -> None:
        while len(self.frames) < count:
            await self.arrived.wait()


@dataclass
class MemoryPool:
    """Transactions by hash; those that start with the name of a reason are refused for it."""

    held: dict[Hash32, bytes] = field(default_factory=dict)
    submissions: int = 0
    announce: Callable[[Sequence[Hash32]], None] = lambda hashes: None

    def add(self, *raws: bytes) -> list[Hash32]:
        hashes = [keccak256(raw) for raw in raws]
        self.held.update(zip(hashes, raws, strict=True))
        return hashes

    def contains(self, transaction_hash: Hash32) -> bool:
        return transaction_hash in self.held

    def get_raw(self, transaction_hash: Hash32) -> bytes | None:
        return self.held.get(transaction_hash)

    def hashes(self) -> list[Hash32]:
        return list(self.held)

    async def submit(self, raw: bytes) -> Hash32:
        self.submissions += 1
        for reason in RejectionReason:
            if raw.startswith(reason.encode()):
                raise RejectedInputError(reason)
        hashes = self.add(raw)
        self.announce(hashes)
        return hashes[0]


@dataclass
class MemoryChain:
    """Blocks by number; each is committed by a certificate of one signature."""

    blocks: dict[BlockNumber, Block] = field(default_factory=dict)
    executed: dict[BlockNumber, tuple[Receipt, ...]] = field(default_factory=dict)
    certified: set[BlockNumber] | None = None
    """The blocks whose certificate is held; None for all."""
    first: int = 0

    def encoded_block(self, number: BlockNumber) -> tuple[bytes, bytes] | None:
        block = self.blocks.get(number)
        is_certified = self.certified is None or number in self.certified
        return (block.encode(), CERTIFICATE.encode()) if block and is_certified else None

    def encoded_header(self, number: BlockNumber) -> tuple[bytes, bytes] | None:
        block = self.blocks.get(number)
        is_certified = self.certified is None or number in self.certified
        return block and (block.header.encode(), CERTIFICATE.encode() if is_certified else b"")

    def encoded_receipts(self, number: BlockNumber) -> bytes | None:
        receipts = self.executed.get(number)
        return None if receipts is None else encode_receipts(receipts)

    def first_held(self) -> BlockNumber:
        return BlockNumber(self.first)

    def find_block(self, block_hash: Hash32) -> bytes | None:
        found = (each.encode() for each in self.blocks.values() if each.hash == block_hash)
        return next(found, None)


class NoTraining:
    """A node without training data."""

    async def list_reveals(self, attempt_id: AttemptId) -> tuple[Reveal, ...]:
        return ()

    async def get_state_parts(self, state_root: Hash32) -> None:
        return None

    def on_announced_reveal(self, reveal: Reveal) -> None:
        pass


class NoStates:
    """A node without states and tasks."""

    def state_chunk(
        self, number: BlockNumber, start: bytes, end: bytes, limit_bytes: int
    ) -> tuple[bytes, ...] | None:
        return None

    def state_nodes(self, hashes: Sequence[Hash32], limit_bytes: int) -> tuple[bytes, ...]:
        return tuple(b"" for _ in hashes)

    def task_records(
        self, number: BlockNumber, first: TaskId, count: int, after: bytes, accounts_limit: int
    ) -> tuple[TaskRecord, ...] | None:
        return None


CERTIFICATE = CommitCertificate(View(0), ((ValidatorIndex(0), Signature(bytes(65))),))


def build_block(number: int, *, size_bytes: int = 100) -> Block:
    return Block(
        make_header(number), (bytes(min(size_bytes, 2**17)),) * max(1, size_bytes // 2**17), None
    )


@dataclass
class Node:
    """A network on a host in memory, and what it holds."""

    network: Network
    host: MemoryHost
    received: Received
    pool: MemoryPool
    chain: MemoryChain
    blobs: BlobStore | None


def build_node(
    internet: MemoryInternet,
    index: int,
    *,
    bootstrap: tuple[str, ...] = (),
    is_validator: bool = True,
    chain_id: int = CHAIN_ID,
    max_peers: int = 64,
    blobs: BlobStore | None = None,
    peer_file: Path | None = None,
    states: StateSource | None = None,
) -> Node:
    host = MemoryHost(internet, index)
    received, pool, chain = Received(), MemoryPool(), MemoryChain()
    network = Network(
        host=host,
        config=NetworkConfig(
            bootstrap=bootstrap,
            max_peers=max_peers,
            accept_private_addresses=True,
            peer_file=peer_file,
        ),
        identity=identity(index if is_validator else None, chain_id=chain_id),
        get_head=lambda: HEAD,
        handle_consensus=received.handle,
        transaction_pool=pool,
        block_source=chain,
        blob_store=blobs or NO_BLOBS,
        training_source=NoTraining(),
        state_source=states or NoStates(),
        random=lambda: 0.5,
    )
    pool.announce = network.announce_transactions
    return Node(network, host, received, pool, chain, blobs)


class _NoBlobs:
    def has(self, content_id: Hash32) -> bool:
        return False

    def manifest(self, content_id: Hash32) -> BlobManifest:
        raise KeyError(content_id)

    def chunk(self, content_id: Hash32, index: int) -> bytes:
        raise KeyError(content_id)

    def download(self, manifest: BlobManifest) -> AbstractContextManager[Download]:
        raise AssertionError


NO_BLOBS = _NoBlobs()


def build_nodes(internet: MemoryInternet, count: int, blobs_at: Path | None = None) -> list[Node]:
    """One validator set, whose members all know the address of the first."""
    first = MemoryHost(internet, 0).listen_addresses()
    stores = [
        blobs_at and BlobStore(blobs_at / str(index), quota_bytes=2**26) for index in range(count)
    ]
    nodes = [
        build_node(internet, index, bootstrap=first, blobs=stores[index]) for index in range(count)
    ]
    for node in nodes:
        node.network.set_validators(validator_address(index) for index in range(count))
    return nodes


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(node.network.run)
        yield
        nursery.cancel_scope.cancel()
