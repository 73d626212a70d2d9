"""A network of real consensus hosts in one process; only the wire and the clock are fakes."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

import trio

from chain.consensus.guard import GuardState
from chain.consensus.messages import (
    Committed,
    Message,
    MessageKind,
    NewView,
    PrePrepare,
    SigningDomain,
    Status,
    ViewChange,
    ViewChangeVote,
    Vote,
    decode_message,
)
from chain.contracts.set_reader import read_genesis_set
from chain.crypto import get_address, keccak256, sign
from chain.errors import RejectedInputError
from chain.genesis import GenesisConfig, GenesisState, build_genesis
from chain.primitives import Address, BlockNumber, Hash32, PrivateKey, Signature
from chain.types.block import Block, decode_block
from chain.types.certificate import CommitCertificate
from chain.types.header import Header
from chain.types.transaction import Transaction
from node.chain.contract_reader import ContractReader
from node.chain.executor import Executor
from node.chain.finalizer import Finalizer, NewHead
from node.chain.training_index import TrainingIndex
from node.consensus.evidence_store import EvidenceStore
from node.consensus.guard_file import GuardFile
from node.consensus.host import ConsensusHost
from node.consensus.served_blocks import ServedBlocks
from node.consensus.signer import ConsensusSigner
from node.consensus.wal import WriteAheadLog
from node.mempool.head_rules import HeadRules
from node.mempool.pool import Mempool
from node.metrics.registry import NodeMetrics
from node.network.peers import PeerInfo
from node.network.stream import PeerId
from node.network.wire import Head
from node.storage.block_store import BlockStore
from node.storage.database import open_database
from node.sync.block_sync import BlockSync
from tests.worlds.chain import genesis_config
from tests.worlds.values import SMALL_MAP_BYTES

KEYS = tuple(
    sorted((PrivateKey(keccak256(b"validator %d" % i)) for i in range(4)), key=get_address)
)
VALIDATORS = tuple(get_address(key) for key in KEYS)
TIMESTAMP = 1_700_000_000
ONE_WAY_SECONDS = 0.005


@cache
def network_genesis() -> tuple[GenesisConfig, GenesisState]:
    config = genesis_config(
        validators=VALIDATORS,
        min_block_interval_ms=200,
        empty_block_interval_ms=1_000,
        view_timeout_base_ms=2_000,
        view_timeout_cap_ms=8_000,
    )
    return config, build_genesis(config)


def domain(genesis: tuple[GenesisConfig, GenesisState] | None = None) -> SigningDomain:
    config, state = genesis or network_genesis()
    return SigningDomain(config.chain_id, state.header.hash, 1)


class VirtualClock:
    """A wall clock that follows trio's clock."""

    def __init__(self, ahead_ms: int = 0) -> None:
        self.ahead_ms = ahead_ms

    def now_ms(self) -> int:
        return TIMESTAMP * 1000 + int(trio.current_time() * 1000) + self.ahead_ms


class Killed(BaseException):
    """The process is killed at this point."""


@dataclass
class Fuse:
    """Raises `Killed` before the n-th durable or visible effect."""

    left: int | None = None

    def burn(self) -> None:
        if self.left is None:
            return
        if self.left == 0:
            self.left = None
            raise Killed
        self.left -= 1


class FusedLog(WriteAheadLog):
    def __init__(self, path: Path, fuse: Fuse, fsync: Callable[[int], None]) -> None:
        super().__init__(path, fsync=fsync)
        self._fuse = fuse

    def append(self, number: BlockNumber, payload: bytes) -> None:
        self._fuse.burn()
        super().append(number, payload)


class FusedGuard(GuardFile):
    def __init__(self, path: Path, fuse: Fuse) -> None:
        super().__init__(path)
        self._fuse = fuse

    def save(self, state: GuardState) -> None:
        self._fuse.burn()
        super().save(state)
        self._fuse.burn()


class FusedStore(BlockStore):
    fuse = Fuse()

    def finalize(self, block: Block, certificate: CommitCertificate, **rest: object) -> None:
        self.fuse.burn()
        super().finalize(block, certificate, **rest)  # type: ignore[arg-type]  # passed on
        self.fuse.burn()


@dataclass
class Wire:
    """The nodes, every frame that they sent, and the rule which frames are lost."""

    genesis: tuple[GenesisConfig, GenesisState] = field(default_factory=network_genesis)
    keys: Sequence[PrivateKey] = KEYS
    nodes: "list[ClusterNode]" = field(default_factory=list)
    frames: list[tuple[int, bytes]] = field(default_factory=list)
    rejections: list[tuple[int, RejectedInputError]] = field(default_factory=list)
    """The index of each node that refused a message, with the reason."""
    lost: Callable[[int, int, bytes], bool] = lambda _sender, _receiver, _payload: False

    def messages(self, *indices: int) -> list[Message]:
        """The messages of these validators in order; of all if none is named."""
        chosen = indices or range(len(self.nodes))
        return [decode_message(payload) for sender, payload in self.frames if sender in chosen]


class ClusterNode:
    """A validator whose process can be killed and started again on the same directory."""

    def __init__(self, wire: Wire, index: int, directory: Path) -> None:
        self.index = index
        self.private_key = wire.keys[index]
        self.address = get_address(self.private_key)
        self.directory = directory
        self.clock = VirtualClock()
        self.fuse = Fuse()
        self.fsync: Callable[[int], None] = lambda _descriptor: None
        self.is_signer = True
        self.is_running = False
        self.faults: list[tuple[PeerId, RejectedInputError]] = []
        self.claimed_head: Head | None = None
        """The head that peers see instead of the true one."""
        self.finalized: list[Block] = []
        self.after_finalized: Callable[[Block], None] = lambda _block: None
        self.has_sync = True
        self._wire = wire
        self._scope = trio.CancelScope()
        wire.nodes.append(self)

    def open(self) -> None:
        """Build all parts of the process from its directory."""
        config, genesis = self._wire.genesis
        self.database = open_database(self.directory / "database", map_size_bytes=SMALL_MAP_BYTES)
        self.store = FusedStore(self.database)
        self.store.fuse = self.fuse
        validator_set = read_genesis_set(config, genesis)
        self.store.initialize(genesis.header, genesis.delta, b"{}", validator_set)
        self.wal = FusedLog(self.directory / "wal", self.fuse, self.fsync)
        guard = FusedGuard(self.directory / "guard", self.fuse)
        key = partial(sign, private_key=self.private_key)
        self.signer = ConsensusSigner(self.address, key, guard, self.wal)
        contracts = ContractReader(self.store, self.database, config, self.clock)
        self.mempool = Mempool(
            HeadRules(
                store=self.store,
                database=self.database,
                config=config,
                contracts=contracts,
            )
        )
        self.metrics = NodeMetrics()
        self.executor = Executor(
            database=self.database,
            store=self.store,
            config=config,
            domain=domain(self._wire.genesis),
            clock=self.clock,
            build_seconds=60,
            metrics=self.metrics,
        )
        self.evidence = EvidenceStore(self.directory / "evidence")
        self.finalizer = Finalizer(
            store=self.store,
            executor=self.executor,
            index=TrainingIndex(self.store),
            truncate_log=self.signer.truncate_log,
        )
        self.served = ServedBlocks(self.store)
        self.host = ConsensusHost(
            domain=domain(self._wire.genesis),
            parameters=config.parameters,
            signer=self.signer if self.is_signer else None,
            store=self.store,
            executor=self.executor,
            finalizer=self.finalizer,
            mempool=self.mempool,
            network=self,
            peers=self,
            clock=self.clock,
            evidence=self.evidence,
            served=self.served,
            metrics=self.metrics,
        )
        self.finalizer.add_listener(self.mempool.on_new_head)
        self.finalizer.add_listener(self.host.on_new_head)
        self.finalizer.add_listener(self._on_new_head)
        self.finalizer.add_listener(self.host.begin_next)
        self.sync = BlockSync(
            store=self.store,
            executor=self.executor,
            network=self,
            finalizer=self.finalizer,
            own_validator=self.address if self.is_signer else None,
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the process until `kill`, or until the fuse is burnt."""
        self.open()
        self.is_running = True
        self._inbox, self._incoming = trio.open_memory_channel[tuple[int, bytes]](10_000)
        self._scope = trio.CancelScope()
        try:
            with suppress_killed(), self._scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self.host.run)
                    nursery.start_soon(self._receive)
                    if self.has_sync:
                        nursery.start_soon(self.sync.run)
                    task_status.started()
        finally:
            self.is_running = False
            self.wal.close()
            self.database.close()

    def kill(self) -> None:
        self._scope.cancel()

    def submit(self, transaction: Transaction) -> None:
        self.mempool.add(transaction)
        self.host.on_transaction(transaction.hash)

    def _on_new_head(self, head: NewHead) -> None:
        self.finalized.append(head.block)
        self.after_finalized(head.block)

    async def _receive(self) -> None:
        async for sender, payload in self._incoming:
            try:
                await self.host.handle_message(self._wire.nodes[sender].address, payload)
            except RejectedInputError as error:
                self._wire.rejections.append((self.index, error))

    # The network as the host sees it.

    def deliver(self, sender: int, payload: bytes) -> None:
        with suppress(trio.WouldBlock):
            self._inbox.send_nowait((sender, payload))

    def broadcast_consensus(self, payload: bytes) -> None:
        members = self.store.next_validator_set().validators
        for node in self._wire.nodes:
            if node is not self and node.address in members:
                self._send(node, payload)
        self._wire.frames.append((self.index, payload))
        self.fuse.burn()

    def send_consensus(self, validator: Address, payload: bytes) -> None:
        self._wire.frames.append((self.index, payload))
        node = next(each for each in self._wire.nodes if each.address == validator)
        self._send(node, payload)

    def _send(self, node: "ClusterNode", payload: bytes) -> None:
        if node.is_running and not self._wire.lost(self.index, node.index, payload):
            node.deliver(self.index, payload)

    def announce_transactions(self, hashes: Sequence[Hash32]) -> None:
        pass

    def peers(self) -> tuple[PeerInfo, ...]:
        return tuple(
            PeerInfo(
                peer_id=PeerId(f"node {node.index}"),
                validator=node.address if node.is_signer else None,
                head=node.claimed_head or Head(node.store.head().number, node.store.head().hash),
                is_inbound=False,
                latency_seconds=0.001 * (1 + node.index),
                addresses=(),
                score=100,
            )
            for node in self._wire.nodes
            if node is not self and node.is_running
        )

    def _peer(self, peer_id: PeerId) -> "ClusterNode":
        return self._wire.nodes[int(peer_id.split()[1])]

    async def request_block_by_hash(self, peer_id: PeerId, block_hash: Hash32) -> Block | None:
        await trio.sleep(ONE_WAY_SECONDS)
        node = self._peer(peer_id)
        encoded = node.served.find_block(block_hash)
        return None if encoded is None else decode_block(encoded)

    async def request_blocks(
        self, peer_id: PeerId, first_number: BlockNumber, count: int
    ) -> tuple[tuple[Block, CommitCertificate], ...]:
        await trio.sleep(ONE_WAY_SECONDS)
        return self._peer(peer_id).serve_blocks(first_number, count)

    async def request_headers(
        self, peer_id: PeerId, first_number: BlockNumber, count: int
    ) -> tuple[tuple[Header, CommitCertificate | None], ...]:
        await trio.sleep(ONE_WAY_SECONDS)
        store = self._peer(peer_id).store
        numbers = map(BlockNumber, range(first_number, first_number + count))
        found = [(store.header(number), store.certificate(number)) for number in numbers]
        return tuple((header, each) for header, each in found if header is not None)

    def serve_blocks(
        self, first_number: BlockNumber, count: int
    ) -> tuple[tuple[Block, CommitCertificate], ...]:
        found = []
        for number in range(first_number, first_number + count):
            block = self.store.block(BlockNumber(number))
            certificate = self.store.certificate(BlockNumber(number))
            if block is None or certificate is None:
                break
            found.append((block, certificate))
        return tuple(found)

    def report_fault(self, peer_id: PeerId, error: RejectedInputError) -> None:
        self.faults.append((peer_id, error))


class suppress_killed:  # noqa: N801 - a context manager, as contextlib names its own
    """Ends a process at `Killed`, also if exception groups enclose it."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _traceback: object) -> bool:
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        return isinstance(error, Killed)


def build_cluster(
    directory: Path,
    count: int = 4,
    wire: Wire | None = None,
    node_class: type[ClusterNode] = ClusterNode,
) -> Wire:
    wire = wire or Wire()
    for index in range(count):
        (directory / str(index)).mkdir(parents=True, exist_ok=True)
        node_class(wire, index, directory / str(index))
    return wire


def heads(nodes: Iterable[ClusterNode]) -> list[int]:
    return [node.store.head_number() for node in nodes]


SignedPlace = tuple[int, MessageKind, int, int]
"""Author, kind, number and view; an honest validator signs at most one thing for each."""


def list_signed(messages: Iterable[Message]) -> dict[SignedPlace, set[tuple[object, Signature]]]:
    """The digests and signatures in these messages, by author, kind, number and view."""
    found: dict[SignedPlace, set[tuple[object, Signature]]] = {}

    def add_vote(vote: Vote) -> None:
        place = (vote.author, vote.kind, vote.number, vote.view)
        found.setdefault(place, set()).add((vote.digest, vote.signature))

    def add_view_change(vote: ViewChangeVote) -> None:
        place = (vote.author, MessageKind.VIEW_CHANGE, vote.number, vote.view)
        found.setdefault(place, set()).add((vote.prepared, vote.signature))

    for message in messages:
        match message:
            case Vote():
                add_vote(message)
            case PrePrepare():
                add_vote(message.vote)
            case NewView():
                add_vote(message.pre_prepare.vote)
                for vote in message.view_changes:
                    add_view_change(vote)
            case ViewChange():
                add_view_change(message.vote)
            case Status() | Committed():
                pass
    return found


def with_body(block: Block, *transactions: bytes) -> Block:
    """The header of a block with another body, which has the same hash."""
    return replace(block, transactions=transactions)
