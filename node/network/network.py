"""The network of a node: its parts, and the handlers of all protocols (docs/spec/wire.md)."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from chain.primitives import Address, Hash32
from chain.training.reveal import Reveal
from node.network.dialler import Dialler
from node.network.metrics import NetworkMetrics
from node.network.peer_file import load_records, save_records
from node.network.peers import PeerInfo, PeerTable
from node.network.pieces import links as pieces
from node.network.pieces.links import PieceLinks
from node.network.protocols import (
    blobs,
    blocks,
    consensus,
    state,
    status,
    training,
    transactions,
)
from node.network.protocols.blobs import BlobExchange, BlobRepository
from node.network.protocols.blocks import BlockSource
from node.network.protocols.consensus import ConsensusHandler, ConsensusLinks
from node.network.protocols.state import StateServer, StateSource
from node.network.protocols.status import NodeIdentity
from node.network.protocols.training import TrainingSource
from node.network.protocols.transactions import TransactionExchange, TransactionPool
from node.network.requests import PeerRequests
from node.network.sessions import Session, SessionHandler, Sessions
from node.network.stream import FrameStream, Host, PeerId
from node.network.wire import Head
from node.trio_types import TaskStatus

SAVE_SECONDS: Final = 60.0
"""How often scores and bans are saved."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The settings of the operator."""

    bootstrap: tuple[str, ...] = ()
    """Full multiaddresses that are redialled for ever."""
    max_peers: int = 64
    """The most sessions with non-validators; validators are always admitted."""
    accept_private_addresses: bool = False
    """Whether to learn loopback and private addresses: for a network on one machine or one LAN."""
    peer_file: Path | None = None
    """The file in which scores and bans outlive a restart; None for no file."""


class Network:
    """Serves every protocol to peers with a session; holds sessions, dialler and requests."""

    def __init__(
        self,
        *,
        host: Host,
        config: NetworkConfig,
        identity: NodeIdentity,
        get_head: Callable[[], Head],
        handle_consensus: ConsensusHandler,
        transaction_pool: TransactionPool,
        block_source: BlockSource,
        blob_store: BlobRepository,
        training_source: TrainingSource,
        state_source: StateSource,
        random: Callable[[], float],
    ) -> None:
        """Build a network that does nothing until it runs.

        Args:
            host: the libp2p host.
            config: the settings of the operator.
            identity: what this node tells and proves of itself.
            get_head: returns the highest finalized block.
            handle_consensus: is given every frame of another validator; it may wait.
            transaction_pool: holds the transactions to announce, and takes fetched ones.
            block_source: holds the blocks served to syncing peers.
            blob_store: holds the blobs to serve, and takes fetched ones.
            training_source: holds the reveals and state parts to serve.
            state_source: holds the state served to nodes that join by snapshot.
            random: uniform in [0, 1), for the jitter of redialling and the order of questions.

        Raises:
            OperatorError: A bootstrap address is not a full multiaddress.
        """
        self.metrics = NetworkMetrics()
        self._host = host
        self._peer_file = config.peer_file
        self._block_source = block_source
        self._training_source = training_source
        own_address = identity.validator and identity.validator[0]
        self._table = PeerTable(
            own_peer_id=host.peer_id,
            bootstrap=config.bootstrap,
            random=random,
            accept_private=config.accept_private_addresses,
        )
        self._links = ConsensusLinks(
            own_address=own_address, handle=handle_consensus, metrics=self.metrics
        )
        self._pieces = PieceLinks(
            own_address=own_address, handle=handle_consensus, metrics=self.metrics
        )
        self._transactions = TransactionExchange(transaction_pool, self.metrics)
        self._blobs = BlobExchange(blob_store, self.metrics)
        self._state_server = StateServer(state_source)
        self._sessions = Sessions(
            host=host,
            identity=identity,
            get_head=get_head,
            table=self._table,
            max_peers=config.max_peers,
            links=self._links,
            pieces=self._pieces,
            transactions=self._transactions,
            metrics=self.metrics,
            random=random,
        )
        self.requests = PeerRequests(self._sessions, self._blobs)
        self._dialler = Dialler(
            host=host,
            table=self._table,
            sessions=self._sessions,
            is_validator=own_address is not None,
            metrics=self.metrics,
        )
        host.set_handler(status.PROTOCOL_ID, self._sessions.serve)
        self._set_handler(consensus.PROTOCOL_ID, self._serve_consensus)
        self._set_handler(pieces.PROTOCOL_ID, self._serve_pieces)
        self._set_handler(transactions.PROTOCOL_ID, self._serve_transactions)
        self._set_handler(blocks.PROTOCOL_ID, self._serve_blocks)
        self._set_handler(blobs.PROTOCOL_ID, self._serve_blobs)
        self._set_handler(training.PROTOCOL_ID, self._serve_training)
        self._set_handler(state.PROTOCOL_ID, self._serve_state)

    @property
    def peer_id(self) -> PeerId:
        """The peer id of this node."""
        return self._host.peer_id

    def listen_addresses(self) -> tuple[str, ...]:
        """The full multiaddresses of this node; known once the network runs."""
        return self._host.listen_addresses()

    def peers(self) -> tuple[PeerInfo, ...]:
        """The peers that have a session, by peer id."""
        return self._sessions.peers()

    def inbound_connections(self) -> tuple[int, Mapping[str, int]]:
        """The number of open ones, and of those closed without a session, by reason."""
        return self._host.inbound_connections()

    def waiting_consensus(self) -> tuple[int, int]:
        """The number and bytes of consensus messages queued for validators."""
        return self._links.count_waiting()

    def set_validators(self, addresses: Iterable[Address]) -> None:
        """Set the current validators; consensus streams of other peers are closed."""
        self._sessions.set_validators(addresses)

    def broadcast_consensus(self, payload: bytes) -> None:
        """Queue a consensus message for every other validator; never waits."""
        if not self._pieces.broadcast(payload):
            self._links.broadcast(payload)

    def send_consensus(self, validator: Address, payload: bytes) -> None:
        """Queue a consensus message for one validator; never waits.

        A large message that is being broadcast in coded pieces is not sent again.
        """
        if not self._pieces.is_spreading(payload):
            self._links.send(validator, payload)

    def announce_transactions(self, hashes: Iterable[Hash32]) -> None:
        """Announce transactions of the pool to every peer; never waits."""
        self._transactions.announce(hashes)

    async def run(self, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, dial and serve until cancelled; reported as started once the node listens.

        Raises:
            OperatorError: A listen address is in use, or not one of this machine.
        """
        async with self._host.run(), trio.open_nursery() as nursery:
            nursery.start_soon(self._sessions.sweep)
            nursery.start_soon(self._dialler.run)
            nursery.start_soon(self._pieces.run)
            if self._peer_file is not None:
                nursery.start_soon(self._keep_records, self._peer_file)
            task_status.started()

    async def _keep_records(self, path: Path) -> None:
        """Load scores and bans, and save them every SAVE_SECONDS and at the end."""
        records, age_seconds = load_records(path)
        self._table.import_records(records, age_seconds=age_seconds, now=trio.current_time())
        try:
            while True:
                await trio.sleep(SAVE_SECONDS)
                records = self._table.export_records(trio.current_time())
                await trio.to_thread.run_sync(save_records, path, records)
        finally:
            save_records(path, self._table.export_records(trio.current_time()))

    def _set_handler(self, protocol_id: str, serve: SessionHandler) -> None:
        """Serve a protocol to peers that have a session, within its limits."""

        async def serve_peer(stream: FrameStream) -> None:
            await self._sessions.serve_within_limits(stream, protocol_id, serve)

        self._host.set_handler(protocol_id, serve_peer)

    async def _serve_consensus(self, stream: FrameStream, session: Session) -> None:
        if session.validator is not None:
            await self._links.serve(stream, session.validator)

    async def _serve_pieces(self, stream: FrameStream, session: Session) -> None:
        if session.validator is not None:
            await self._pieces.serve(stream, session.validator)

    async def _serve_transactions(self, stream: FrameStream, session: Session) -> None:
        shared = self._sessions.get_shared_budget(session)
        await self._transactions.serve(stream, None if shared is None else shared.transactions)

    async def _serve_blocks(self, stream: FrameStream, _: Session) -> None:
        await blocks.serve(stream, self._block_source, self.metrics)

    async def _serve_blobs(self, stream: FrameStream, session: Session) -> None:
        is_validator = self._links.is_validator(session.validator)
        await self._blobs.serve(stream, session.validator if is_validator else None)

    async def _serve_training(self, stream: FrameStream, session: Session) -> None:
        def on_announced(reveal: Reveal) -> None:
            self._sessions.note_announced(session.peer_id, reveal.gradient_root)
            self._blobs.pauses.note_announced(reveal.gradient_root, session.peer_id)
            self._training_source.on_announced_reveal(reveal)

        await training.serve(stream, self._training_source, on_announced)

    async def _serve_state(self, stream: FrameStream, _: Session) -> None:
        await self._state_server.serve(stream)
