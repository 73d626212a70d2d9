"""Sessions with peers, and what the rest of the node asks of them (docs/spec/wire.md)."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from chain.errors import RejectedInputError
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.state.walk import VerifiedChunk
from chain.training.reveal import Reveal
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from chain.types.header import Header
from chain.types.receipt import Receipt
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
from node.network.protocols.blobs import BlobExchange, BlobStore
from node.network.protocols.blocks import BlockSource
from node.network.protocols.consensus import ConsensusHandler, ConsensusLinks
from node.network.protocols.state import StateServer, StateSource, TaskRecord
from node.network.protocols.status import Identity
from node.network.protocols.training import TrainingSource
from node.network.protocols.transactions import TransactionExchange, TransactionPool
from node.network.sessions import Session, SessionHandler, Sessions
from node.network.stream import (
    FrameStream,
    Host,
    PeerId,
    StreamClosedError,
    UnreachablePeerError,
)
from node.network.wire import Head

if TYPE_CHECKING:
    # The stubs that py-libp2p's dependency installs hide trio's own types from the checker.
    from trio_typing import TaskStatus

REQUEST_SECONDS: Final = 30.0
"""How long an answer of at most 8 MiB may take."""

SAVE_SECONDS: Final = 60.0
"""How often scores and bans are written to the disk."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """What an operator decides about the network."""

    bootstrap: tuple[str, ...] = ()
    """Full multiaddresses, dialled for ever."""
    max_peers: int = 64
    """Sessions with nodes that are no validators; validators are always let in."""
    accept_private_addresses: bool = False
    """Whether peers may tell us of loopback and private addresses: in a laboratory, they must."""
    peer_file: Path | None = None
    """Where scores and bans outlive a restart; None forgets them."""


_Answer = TypeVar("_Answer")


class Network:
    """Every peer is one session of /pot/status/1; the other protocols are served within it."""

    def __init__(
        self,
        *,
        host: Host,
        config: NetworkConfig,
        identity: Identity,
        get_head: Callable[[], Head],
        handle_consensus: ConsensusHandler,
        transaction_pool: TransactionPool,
        block_source: BlockSource,
        blob_store: BlobStore,
        training_source: TrainingSource,
        state_source: StateSource,
        random: Callable[[], float],
    ) -> None:
        """Build a network that does nothing until it runs.

        Args:
            host: the libp2p host.
            config: the operator's decisions.
            identity: what this node says of itself.
            get_head: the highest finalized block.
            handle_consensus: given every frame of another validator; it may wait.
            transaction_pool: what is announced, and where fetched transactions go.
            block_source: what is served to syncing peers.
            blob_store: what is served, and where fetched blobs go.
            training_source: reveals and state parts that are served.
            state_source: the chain's state, as it is served to nodes that join by snapshot.
            random: uniform in [0, 1), for the jitter of redialling.

        Raises:
            OperatorError: a bootstrap address is not a full multiaddress.
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
        )
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
        """Our own peer id."""
        return self._host.peer_id

    def listen_addresses(self) -> tuple[str, ...]:
        """Our full multiaddresses; known once the network runs."""
        return self._host.listen_addresses()

    def peers(self) -> tuple[PeerInfo, ...]:
        """The peers we have a session with, by peer id."""
        return self._sessions.peers()

    def inbound_connections(self) -> tuple[int, Mapping[str, int]]:
        """How many are open, and how many were closed without a session, by reason."""
        return self._host.inbound_connections()

    def waiting_consensus(self) -> tuple[int, int]:
        """Consensus messages that wait for some validator, and their bytes."""
        return self._links.count_waiting()

    def set_validators(self, addresses: Iterable[Address]) -> None:
        """Say who takes part in consensus now; others' consensus streams are closed."""
        self._sessions.set_validators(addresses)

    def broadcast_consensus(self, payload: bytes) -> None:
        """Queue a consensus message for every other validator; never waits."""
        if not self._pieces.broadcast(payload):
            self._links.broadcast(payload)

    def send_consensus(self, validator: Address, payload: bytes) -> None:
        """Queue a consensus message for one validator; never waits.

        A large one that everybody is being sent in pieces is not sent to it once more.
        """
        if not self._pieces.is_spreading(payload):
            self._links.send(validator, payload)

    def announce_transactions(self, hashes: Iterable[Hash32]) -> None:
        """Tell every peer of transactions in our pool; never waits."""
        self._transactions.announce(hashes)

    async def request_blocks(
        self, peer_id: PeerId, first_number: BlockNumber, count: int
    ) -> tuple[tuple[Block, CommitCertificate], ...]:
        """Blocks from `first_number` on with the certificate of each; fewer if there are no more.

        Raises:
            UnreachablePeerError: no connection, no answer in time, or the stream ended.
            RejectedInputError: the answer breaks the rules; the peer has been penalized.
        """
        return await self._request(
            peer_id, lambda stream: blocks.request_blocks(stream, first_number, count)
        )

    async def request_headers(
        self, peer_id: PeerId, first_number: BlockNumber, count: int
    ) -> tuple[tuple[Header, CommitCertificate | None], ...]:
        """Headers from `first_number` on with the certificate of each block, where it is held.

        Raises:
            UnreachablePeerError: no connection, no answer in time, or the stream ended.
            RejectedInputError: the answer breaks the rules; the peer has been penalized.
        """
        return await self._request(
            peer_id, lambda stream: blocks.request_headers(stream, first_number, count)
        )

    async def request_receipts(
        self, peer_id: PeerId, numbers: Sequence[BlockNumber]
    ) -> tuple[tuple[Receipt, ...], ...]:
        """The receipts of these blocks, unverified; of the first of them if not all have room.

        Raises:
            UnreachablePeerError: no connection, no answer in time, or the stream ended.
            RejectedInputError: the answer breaks the rules; the peer has been penalized.
        """
        return await self._request(peer_id, lambda stream: blocks.request_receipts(stream, numbers))

    async def request_state_chunk(
        self, peer_id: PeerId, number: BlockNumber, state_root: Hash32, start: bytes, end: bytes
    ) -> VerifiedChunk | None:
        """The state after a block from one position to before another; None if not held there.

        Raises:
            UnreachablePeerError: no connection, no answer in time, or the stream ended.
            RejectedInputError: the answer is not of that state; the peer has been penalized.
        """
        return await self._request(
            peer_id,
            lambda stream: state.request_chunk(stream, number, state_root, start, end),
            state.PROTOCOL_ID,
        )

    async def request_state_nodes(
        self, peer_id: PeerId, hashes: Sequence[Hash32]
    ) -> dict[bytes, bytes]:
        """Those of the trie nodes and code that the peer holds, by hash.

        Raises:
            UnreachablePeerError: no connection, no answer in time, or the stream ended.
            RejectedInputError: the answer breaks the rules; the peer has been penalized.
        """
        return await self._request(
            peer_id, lambda stream: state.request_nodes(stream, hashes), state.PROTOCOL_ID
        )

    async def request_task_records(
        self, peer_id: PeerId, number: BlockNumber, first: TaskId, count: int
    ) -> tuple[TaskRecord, ...] | None:
        """What tasks were as of a block, unverified; None if the peer does not know.

        Raises:
            UnreachablePeerError: no connection, no answer in time, or the stream ended.
            RejectedInputError: the answer breaks the rules; the peer has been penalized.
        """
        return await self._request(
            peer_id,
            lambda stream: state.request_records(stream, number, first, count),
            state.PROTOCOL_ID,
        )

    async def request_block_by_hash(self, peer_id: PeerId, block_hash: Hash32) -> Block | None:
        """A block that the peer holds, finalized or not; None if it does not hold it.

        Raises:
            UnreachablePeerError: no connection, no answer in time, or the stream ended.
            RejectedInputError: the answer breaks the rules; the peer has been penalized.
        """
        return await self._request(
            peer_id, lambda stream: blocks.request_block_by_hash(stream, block_hash)
        )

    async def fetch_blob(self, content_id: Hash32, prefer: Sequence[PeerId] = ()) -> None:
        """Get a blob into the blob store, from any peers that hold it.

        Args:
            content_id: the blob; nothing happens if it is here.
            prefer: peers to ask first.

        Raises:
            BlobUnavailableError: not all of it could be had; what came is kept for the next try.
            OperatorError: the disk refused, or the quota is used up.
        """
        preferred = [peer_id for peer_id in prefer if peer_id in self._sessions.peer_ids()]
        others = [peer_id for peer_id in self._sessions.peer_ids() if peer_id not in preferred]
        await self._blobs.fetch(
            content_id,
            [*preferred, *others],
            self._sessions.open_stream,
            self._sessions.report_fault,
        )

    async def request_reveals(
        self, peer_id: PeerId, task_id: TaskId, round_number: int, attempt: int
    ) -> tuple[Reveal, ...]:
        """The reveals of an attempt that a peer holds, unchecked.

        Raises:
            UnreachablePeerError: no connection, no answer in time, or the stream ended.
            RejectedInputError: the answer breaks the rules; the peer has been penalized.
        """
        return await self._request(
            peer_id,
            lambda stream: training.request_reveals(stream, task_id, round_number, attempt),
            training.PROTOCOL_ID,
        )

    async def request_state_parts(self, peer_id: PeerId, root: Hash32) -> tuple[Hash32, ...]:
        """The content ids below a training state root, unchecked; empty if unknown there.

        Raises:
            UnreachablePeerError: no connection, no answer in time, or the stream ended.
            RejectedInputError: the answer breaks the rules; the peer has been penalized.
        """
        return await self._request(
            peer_id,
            lambda stream: training.request_state_parts(stream, root),
            training.PROTOCOL_ID,
        )

    async def announce_reveal(self, peer_id: PeerId, reveal: Reveal) -> None:
        """Tell a peer of a reveal that is held here with its gradient.

        Raises:
            UnreachablePeerError: no connection, or the stream ended.
        """
        await self._request(
            peer_id,
            lambda stream: training.announce_reveal(stream, reveal),
            training.PROTOCOL_ID,
        )

    def report_fault(self, peer_id: PeerId, error: RejectedInputError) -> None:
        """Take points off a peer whose well-formed data proved to be wrong, such as a block."""
        self._sessions.report_fault(peer_id, error)

    async def _request(
        self,
        peer_id: PeerId,
        ask: Callable[[FrameStream], Awaitable[_Answer]],
        protocol_id: str = blocks.PROTOCOL_ID,
    ) -> _Answer:
        stream = await self._sessions.open_stream(peer_id, protocol_id)
        try:
            with trio.fail_after(REQUEST_SECONDS):
                return await ask(stream)
        except (StreamClosedError, trio.TooSlowError) as error:
            raise UnreachablePeerError(f"{peer_id} did not answer") from error
        except RejectedInputError as error:
            self._sessions.report_fault(peer_id, error)
            raise
        finally:
            with trio.CancelScope(shield=True):
                await stream.reset()

    async def run(self, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, dial and serve until cancelled; started once we listen.

        Raises:
            OperatorError: a listen address is in use or not ours.
        """
        async with self._host.run(), trio.open_nursery() as nursery:
            nursery.start_soon(self._sessions.sweep)
            nursery.start_soon(self._dialler.run)
            nursery.start_soon(self._pieces.run)
            if self._peer_file is not None:
                nursery.start_soon(self._keep_records, self._peer_file)
            task_status.started()

    async def _keep_records(self, path: Path) -> None:
        """Load scores and bans, and save them now and then, and at the end."""
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
        crowd = self._sessions.get_crowd(session)
        await self._transactions.serve(stream, None if crowd is None else crowd.transactions)

    async def _serve_blocks(self, stream: FrameStream, _: Session) -> None:
        await blocks.serve(stream, self._block_source, self.metrics)

    async def _serve_blobs(self, stream: FrameStream, _: Session) -> None:
        await self._blobs.serve(stream)

    async def _serve_training(self, stream: FrameStream, _: Session) -> None:
        await training.serve(stream, self._training_source)

    async def _serve_state(self, stream: FrameStream, _: Session) -> None:
        await self._state_server.serve(stream)
