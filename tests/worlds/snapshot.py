"""A chain with training on it, peers that serve it or lie, and a fresh node that joins."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio

from chain.errors import InvalidMessage, RejectedInputError, RejectionReason
from chain.genesis import build_genesis
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.state.walk import END, START, VerifiedChunk, collect_chunk, verify_chunk
from chain.transition import apply_block
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from chain.types.header import Header
from chain.types.receipt import Receipt
from node.chain.executor import validate_body
from node.chain.finalizer import Finalizer
from node.chain.training_index import TrainingIndex
from node.network.peers import PeerInfo
from node.network.protocols import state
from node.network.protocols.state import TaskRecord
from node.network.stream import PeerId
from node.network.wire import Head
from node.storage.block_store import BlockStore
from node.storage.database import Database, open_database
from node.sync import snapshot_sync
from node.sync.snapshot_source import SnapshotSource
from node.sync.snapshot_sync import SnapshotSync
from tests.worlds.stored_chain import CHAIN_ID, VALIDATOR, StoredChain
from tests.worlds.training_chain import GENESIS_SET, TrainingChain
from tests.worlds.values import SMALL_MAP_BYTES

Answer = Callable[..., object]


class TrustingExecutor:
    """Accepts the certificate of the test chain, and no other."""

    def __init__(self, certificate: CommitCertificate) -> None:
        self._certificate = certificate

    def forget(self) -> None:
        pass

    def validate_body(self, block: Block) -> None:
        validate_body(block, block.header.gas_limit)

    def verify_certificate(
        self, certificate: CommitCertificate, number: BlockNumber, digest: Hash32
    ) -> None:
        if certificate != self._certificate:
            raise InvalidMessage(RejectionReason.BAD_CERTIFICATE)

    def verify_certificate_of(
        self,
        certificate: CommitCertificate,
        number: BlockNumber,
        digest: Hash32,
        validators: tuple[Address, ...],
    ) -> None:
        assert validators == GENESIS_SET.validators
        self.verify_certificate(certificate, number, digest)


class Server:
    """A peer that answers from a store."""

    def __init__(self, store: BlockStore, database: Database) -> None:
        self.store = store
        self.source = SnapshotSource(store, database, TrainingIndex(store))
        self.lies: dict[str, Callable[[object], object]] = {}
        """For each request with a false answer, the function that changes the answer."""
        self.asked: list[str] = []

    def answer(self, name: str, value: object) -> object:
        self.asked.append(name)
        return self.lies[name](value) if name in self.lies else value

    @property
    def head(self) -> Head:
        head = self.store.head()
        return Head(head.number, head.hash)


class MemoryNetwork:
    """The `SnapshotPeers` of the fresh node: peers by name."""

    def __init__(self, **servers: Server) -> None:
        self.servers = {PeerId(name): server for name, server in servers.items()}
        self.faults: list[tuple[PeerId, RejectionReason]] = []

    def peers(self) -> tuple[PeerInfo, ...]:
        return tuple(
            PeerInfo(
                peer_id=peer_id,
                validator=None,
                head=server.head,
                is_inbound=False,
                latency_seconds=0.001,
                addresses=(),
                score=100,
            )
            for peer_id, server in self.servers.items()
        )

    def report_fault(self, peer_id: PeerId, error: RejectedInputError) -> None:
        self.faults.append((peer_id, error.reason))

    async def _get(self, peer_id: PeerId, name: str, value: object):
        await trio.sleep(0.001)
        try:
            return self.servers[peer_id].answer(name, value)
        except RejectedInputError as error:
            self.report_fault(peer_id, error)  # as the real network does
            raise

    async def request_headers(
        self, peer_id: PeerId, first_number: BlockNumber, count: int
    ) -> tuple[tuple[Header, CommitCertificate | None], ...]:
        store = self.servers[peer_id].store
        numbers = range(first_number, first_number + count)
        found = [(store.header(n), store.certificate(n)) for n in map(BlockNumber, numbers)]
        return await self._get(peer_id, "headers", tuple(each for each in found if each[0]))

    async def request_blocks(
        self, peer_id: PeerId, first_number: BlockNumber, count: int
    ) -> tuple[tuple[Block, CommitCertificate], ...]:
        store = self.servers[peer_id].store
        found = [
            (store.block(n), store.certificate(n))
            for n in map(BlockNumber, range(first_number, first_number + count))
        ]
        return await self._get(peer_id, "blocks", tuple(each for each in found if each[0]))

    async def request_block_by_hash(self, peer_id: PeerId, block_hash: Hash32) -> Block | None:
        store = self.servers[peer_id].store
        number = store.number_of(block_hash)
        return await self._get(peer_id, "block", None if number is None else store.block(number))

    async def request_receipts(
        self, peer_id: PeerId, numbers: Sequence[BlockNumber]
    ) -> tuple[tuple[Receipt, ...], ...]:
        store = self.servers[peer_id].store
        found = []
        for number in numbers:
            receipts = store.receipts(number)
            if receipts is None:
                break
            found.append(receipts)
        return await self._get(peer_id, "receipts", tuple(found))

    async def request_state_chunk(
        self, peer_id: PeerId, number: BlockNumber, state_root: Hash32, start: bytes, end: bytes
    ) -> VerifiedChunk | None:
        source = self.servers[peer_id].source
        items = source.state_chunk(number, start, end, state.CHUNK_BYTES)
        items = await self._get(peer_id, "chunk", items)
        if items is None:
            return None
        frame = state.codec.encode(list(items))
        try:
            return state._verify_chunk(frame, state_root, start, end)
        except RejectedInputError as error:
            self.report_fault(peer_id, error)
            raise

    async def request_state_nodes(
        self, peer_id: PeerId, hashes: Sequence[Hash32]
    ) -> dict[bytes, bytes]:
        nodes = self.servers[peer_id].source.state_nodes(hashes, state.CHUNK_BYTES)
        pairs = zip(hashes, nodes, strict=True)
        return await self._get(peer_id, "nodes", {bytes(key): node for key, node in pairs if node})

    async def request_task_records(
        self, peer_id: PeerId, number: BlockNumber, first: TaskId, count: int, after: bytes
    ) -> tuple[TaskRecord, ...] | None:
        source = self.servers[peer_id].source
        limit = state.ACCOUNTS_LIMIT
        records = source.task_records(number, first, count, after, limit)
        records = await self._get(peer_id, "records", records)
        if records is None:
            return None
        frame = state.codec.encode([state._record_to_item(each) for each in records])
        return state._decode_records(frame, count)


class FreshNode:
    """A node that holds genesis, on a directory that outlives it."""

    def __init__(
        self, chain: StoredChain, directory: Path, network: MemoryNetwork, **options: object
    ) -> None:
        self.network = network
        self.database = open_database(directory, map_size_bytes=SMALL_MAP_BYTES)
        self.store = BlockStore(self.database)
        genesis = build_genesis(chain.config)
        self.store.initialize(genesis.header, genesis.delta, b"{}", GENESIS_SET)
        self.index = TrainingIndex(self.store)
        certificate = chain.store.certificate(chain.store.head_number())
        assert certificate is not None
        executor = TrustingExecutor(certificate)
        self.sync = SnapshotSync(
            store=self.store,
            database=self.database,
            executor=executor,
            network=network,
            finalizer=Finalizer(store=self.store, executor=executor, index=self.index),
            chain_id=CHAIN_ID,
            **{"mode": "snapshot", **options},
        )

    def follow(self, chain: StoredChain) -> None:
        """Execute the chain's blocks above the head."""
        for number in range(self.store.head_number() + 1, chain.store.head_number() + 1):
            block = chain.store.block(BlockNumber(number))
            certificate = chain.store.certificate(BlockNumber(number))
            assert block is not None
            assert certificate is not None
            result = apply_block(
                self.store.head(),
                block,
                self.database,
                chain.config,
                [VALIDATOR],
                lambda *_: None,
            )
            self.store.finalize(
                block,
                certificate,
                receipts=result.receipts,
                senders=result.senders,
                delta=result.delta,
                training_rows=self.index.compute_rows(block.header, result.receipts),
            )

    def collect_state(self) -> dict[bytes, bytes]:
        """All nodes of the head's state."""
        root = self.store.head().state_root
        items = collect_chunk(self.database.get, root, START, END, 2**40)
        return {item.hash: item.data for item in verify_chunk(root, START, END, items).items}


def build_world(directory: Path) -> tuple[TrainingChain, Server]:
    chain = TrainingChain(directory / "old")
    return chain, Server(chain.store, chain.local.database)


def small_numbers(
    monkeypatch: pytest.MonkeyPatch, *, chunk_bytes: int = 4_096, lag: int = 0
) -> None:
    """Make chunks small and the pivot the head, so that a short chain has many chunks."""
    monkeypatch.setattr(state, "CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(snapshot_sync, "PIVOT_LAG_BLOCKS", lag)
