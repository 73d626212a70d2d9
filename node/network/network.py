"""Sessions with peers, and what the rest of the node asks of them (docs/spec/wire.md)."""

import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import structlog
import trio

from chain.errors import RejectedInputError
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.state.walk import VerifiedChunk
from chain.training.reveal import Reveal
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from chain.types.header import Header
from chain.types.receipt import Receipt
from node.network.budget import TokenBucket
from node.network.limits import CrowdBudget, Meter, get_kind, get_limits
from node.network.metrics import NetworkMetrics
from node.network.peer_file import load_records, save_records
from node.network.peers import RECORD_LIMIT, PeerInfo, PeerTable
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
from node.network.protocols.status import Identity, RemoteStatus
from node.network.protocols.training import TrainingSource
from node.network.protocols.transactions import TransactionExchange, TransactionPool
from node.network.stream import (
    FrameStream,
    Host,
    PeerId,
    StreamClosedError,
    StreamHandler,
    UnreachablePeerError,
)
from node.network.wire import ADDRESS_LIMIT, DisconnectReason, Head

if TYPE_CHECKING:
    # The stubs that py-libp2p's dependency installs hide trio's own types from the checker.
    from trio_typing import TaskStatus

log = structlog.get_logger()

DIAL_TICK_SECONDS: Final = 0.2
"""How often the dial list is looked at."""

CONCURRENT_DIALS_LIMIT: Final = 8
"""Dials under way at a time to addresses that are known to be good, and as many to those that peers
told us, so that lies delay only one another; a handshake costs 25 ms of processor time.
"""

REQUEST_SECONDS: Final = 30.0
"""How long an answer of at most 8 MiB may take."""

STRANGER_SECONDS: Final = 15.0
"""A connection without a session for so long is closed."""

SWEEP_SECONDS: Final = 5.0
"""How often connections without a session are looked for."""

HANDSHAKES_PER_SECOND: Final = 0.5
"""Handshakes of one peer id that are answered; a node that restarts does one."""

HANDSHAKES_BURST: Final = 8.0
"""Handshakes of one peer id at once."""

OUTBOUND_PLACES: Final = 8
"""Of `max_peers`, kept for strangers whom we dialled; a quarter where that is less."""

SETTLED_SESSIONS: Final = 16
"""Sessions with which a node stops dialling whom it was told of."""

REFUSALS: Final = frozenset(
    {
        DisconnectReason.WRONG_CHAIN,
        DisconnectReason.TOO_MANY_PEERS,
        DisconnectReason.MISBEHAVIOUR,
    }
)
"""Reasons that will hold for minutes; each try would cost both sides a handshake of 25 ms."""

GOODBYE_SECONDS: Final = 0.2
"""What a peer gets to read why it is let go."""

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


@dataclass(slots=True)
class _Session:
    stream: FrameStream
    remote: RemoteStatus
    is_inbound: bool
    scope: trio.CancelScope
    latency_seconds: float | None = None
    is_replaced: bool = False
    end_reason: str = "closed_here"
    """What metrics call the end of it, if nothing else happens."""
    meters: dict[str, Meter] = field(default_factory=dict)
    """The budgets of what the peer opens, by kind of protocol."""
    served: Counter[str] = field(default_factory=Counter)
    """Streams of the peer being served, by kind."""


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
        self._crowd = CrowdBudget()
        self._config = config
        self._identity = identity
        self._get_head = get_head
        self._sessions: dict[PeerId, _Session] = {}
        self._session_opened = trio.Event()
        self._dialling: set[PeerId] = set()
        self._first_seen: dict[PeerId, float] = {}
        self._handshakes: dict[PeerId, TokenBucket] = {}
        self._table = PeerTable(
            own_peer_id=host.peer_id,
            bootstrap=config.bootstrap,
            random=random,
            accept_private=config.accept_private_addresses,
        )
        self._links = ConsensusLinks(
            own_address=identity.validator and identity.validator[0],
            handle=handle_consensus,
            metrics=self.metrics,
        )
        self._pieces = PieceLinks(
            own_address=identity.validator and identity.validator[0],
            handle=handle_consensus,
            metrics=self.metrics,
        )
        self._transactions = TransactionExchange(transaction_pool, self.metrics)
        self._block_source = block_source
        self._blobs = BlobExchange(blob_store, self.metrics)
        self._training_source = training_source
        self._state_server = StateServer(state_source)
        host.set_handler(status.PROTOCOL_ID, self._serve_status)
        self._set_peer_handler(consensus.PROTOCOL_ID, self._serve_consensus)
        self._set_peer_handler(pieces.PROTOCOL_ID, self._serve_pieces)
        self._set_peer_handler(transactions.PROTOCOL_ID, self._serve_transactions)
        self._set_peer_handler(blocks.PROTOCOL_ID, self._serve_blocks)
        self._set_peer_handler(blobs.PROTOCOL_ID, self._blobs.serve)
        self._set_peer_handler(training.PROTOCOL_ID, self._serve_training)
        self._set_peer_handler(state.PROTOCOL_ID, self._state_server.serve)

    @property
    def peer_id(self) -> PeerId:
        """Our own peer id."""
        return self._host.peer_id

    def listen_addresses(self) -> tuple[str, ...]:
        """Our full multiaddresses; known once the network runs."""
        return self._host.listen_addresses()

    def peers(self) -> tuple[PeerInfo, ...]:
        """The peers we have a session with, by peer id."""
        now = trio.current_time()
        return tuple(
            PeerInfo(
                peer_id=peer_id,
                validator=session.remote.validator,
                head=session.remote.head,
                is_inbound=session.is_inbound,
                latency_seconds=session.latency_seconds,
                addresses=session.remote.addresses,
                score=self._table.score(peer_id, now),
            )
            for peer_id, session in sorted(self._sessions.items())
        )

    def inbound_connections(self) -> tuple[int, Mapping[str, int]]:
        """How many are open, and how many were closed without a session, by reason."""
        return self._host.inbound_connections()

    def waiting_consensus(self) -> tuple[int, int]:
        """Consensus messages that wait for some validator, and their bytes."""
        return self._links.count_waiting()

    def set_validators(self, addresses: Iterable[Address]) -> None:
        """Say who takes part in consensus now; others' consensus streams are closed."""
        validators = tuple(addresses)
        crowd = {peer_id: self._get_crowd(session) for peer_id, session in self._sessions.items()}
        self._links.set_validators(validators)
        self._pieces.set_validators(validators)
        for peer_id, session in self._sessions.items():
            if self._get_crowd(session) is not crowd[peer_id]:
                # Its next streams are served as a validator's, or no longer.
                session.meters.clear()
                self._host.keep(peer_id, is_validator=self._get_crowd(session) is None)

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
        preferred = [peer_id for peer_id in prefer if peer_id in self._sessions]
        others = [peer_id for peer_id in self._sessions if peer_id not in preferred]
        await self._blobs.fetch(
            content_id, [*preferred, *others], self._open_stream, self._on_fault
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
        self._on_fault(peer_id, error)

    async def _request(
        self,
        peer_id: PeerId,
        ask: Callable[[FrameStream], Awaitable[_Answer]],
        protocol_id: str = blocks.PROTOCOL_ID,
    ) -> _Answer:
        stream = await self._open_stream(peer_id, protocol_id)
        try:
            with trio.fail_after(REQUEST_SECONDS):
                return await ask(stream)
        except (StreamClosedError, trio.TooSlowError) as error:
            raise UnreachablePeerError(f"{peer_id} did not answer") from error
        except RejectedInputError as error:
            self._on_fault(peer_id, error)
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
            nursery.start_soon(self._sweep_strangers)
            nursery.start_soon(self._dial_peers)
            nursery.start_soon(self._pieces.run)
            if self._config.peer_file is not None:
                nursery.start_soon(self._keep_records, self._config.peer_file)
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

    async def _dial_peers(self) -> None:
        proven = trio.CapacityLimiter(CONCURRENT_DIALS_LIMIT)
        unproven = trio.CapacityLimiter(CONCURRENT_DIALS_LIMIT)
        async with trio.open_nursery() as nursery:
            while True:
                busy = self._sessions.keys() | self._dialling
                now = trio.current_time()
                for peer_id, address in self._table.due(now, busy, is_settled=self._is_settled()):
                    self._dialling.add(peer_id)
                    limiter = proven if self._table.is_proven(address) else unproven
                    nursery.start_soon(self._dial, peer_id, address, limiter)
                await trio.sleep(DIAL_TICK_SECONDS)

    def _is_settled(self) -> bool:
        """Whether only the operator's addresses are still dialled.

        A validator looks for the others as long as one is missing; who is none has enough peers
        at some point, and leaves the places of full nodes to others.
        """
        if len(self._sessions) < SETTLED_SESSIONS:
            return False
        present = {session.remote.validator for session in self._sessions.values()}
        return self._identity.validator is None or self._links.are_among(present)

    async def _dial(self, peer_id: PeerId, address: str, limiter: trio.CapacityLimiter) -> None:
        try:
            async with limiter:
                self.metrics.dials += 1
                await self._host.dial(peer_id, address)
                self._table.dial_succeeded(address)
                stream = await self._host.open_stream(peer_id, status.PROTOCOL_ID)
        except UnreachablePeerError as error:
            self.metrics.dial_failures += 1
            self._table.dial_failed(address)
            self._dialling.discard(peer_id)
            log.debug("dial failed", address=address, error=str(error))
            return
        try:
            await self._run_session(stream, is_inbound=False)
        except (StreamClosedError, RejectedInputError) as error:
            self._on_fault(peer_id, error)
        except Exception:
            log.exception("session failed", peer_id=peer_id)
        finally:
            self._dialling.discard(peer_id)
            with trio.CancelScope(shield=True):
                await stream.reset()

    async def _serve_status(self, stream: FrameStream) -> None:
        if self._table.is_banned(stream.peer_id, trio.current_time()):
            await self._turn_away(stream)
            return
        # A handshake has us sign and recover: a peer that shakes hands for ever must wait.
        budget = self._handshakes.pop(stream.peer_id, None) or TokenBucket(
            per_second=HANDSHAKES_PER_SECOND, burst=HANDSHAKES_BURST
        )
        self._handshakes[stream.peer_id] = budget
        if len(self._handshakes) > RECORD_LIMIT:
            del self._handshakes[next(iter(self._handshakes))]
        await budget.take(1)
        try:
            await self._run_session(stream, is_inbound=True)
        except RejectedInputError as error:
            self._on_fault(stream.peer_id, error)
            raise

    async def _turn_away(self, stream: FrameStream) -> None:
        """Tell a banned peer why, and close its connection."""
        await status.say_goodbye(stream, DisconnectReason.MISBEHAVIOUR)
        # A closed connection takes with it what its reader has not read.
        await trio.sleep(GOODBYE_SECONDS)
        await self._host.disconnect(stream.peer_id)

    async def _run_session(self, stream: FrameStream, *, is_inbound: bool) -> None:
        """Shake hands, and keep the session unless it is to be refused."""
        peer_id = stream.peer_id
        remote: RemoteStatus | None = None
        with trio.move_on_after(status.HANDSHAKE_SECONDS):
            remote = await status.shake_hands(
                stream,
                self._identity,
                own_peer_id=self.peer_id,
                head=self._get_head(),
                addresses=self._host.listen_addresses()[:ADDRESS_LIMIT],
                nonce=Hash32(secrets.token_bytes(32)),
            )
        if remote is None:
            raise StreamClosedError("the peer did not finish its handshake")
        refusal = self._find_refusal(peer_id, remote, is_inbound=is_inbound)
        if refusal is not None:
            self.metrics.disconnects[f"refused_{refusal.name.lower()}"] += 1
            await status.say_goodbye(stream, refusal)
            return
        with trio.CancelScope() as scope:
            session = _Session(stream, remote, is_inbound, scope)
            self._open_session(session)
            try:
                await self._keep_session(session)
            finally:
                self._close_session(session)
                if not session.is_replaced:
                    with trio.CancelScope(shield=True):
                        if self._table.is_banned(peer_id, trio.current_time()):
                            await self._turn_away(stream)
                        else:
                            await self._host.disconnect(peer_id)

    def _find_refusal(
        self, peer_id: PeerId, remote: RemoteStatus, *, is_inbound: bool
    ) -> DisconnectReason | None:
        if self._table.is_banned(peer_id, trio.current_time()):
            return DisconnectReason.MISBEHAVIOUR
        existing = self._sessions.get(peer_id)
        if existing is not None:
            # Two nodes that dial each other at once must keep the same session: the one that the
            # smaller peer id opened. A second one from the same side means that the first is dead.
            opener = peer_id if is_inbound else self.peer_id
            if is_inbound != existing.is_inbound and opener > min(peer_id, self.peer_id):
                return DisconnectReason.DUPLICATE
            return None
        if self._links.is_validator(remote.validator) or self._table.is_persistent(peer_id):
            return None
        strangers = sum(
            not self._links.is_validator(session.remote.validator)
            for session in self._sessions.values()
        )
        limit = self._config.max_peers
        if is_inbound:
            limit -= min(OUTBOUND_PLACES, limit // 4)
        return DisconnectReason.TOO_MANY_PEERS if strangers >= limit else None

    def _open_session(self, session: _Session) -> None:
        peer_id = session.stream.peer_id
        if existing := self._sessions.get(peer_id):
            existing.is_replaced = True
            existing.scope.cancel()
        validator = session.remote.validator
        for other in self._sessions.values():
            if validator is not None and other.remote.validator == validator:
                # The validator has come back with another host key: one node takes its votes.
                other.scope.cancel()
        self._sessions[peer_id] = session
        self._dialling.discard(peer_id)
        self.metrics.sessions_opened += 1
        self._table.connected(peer_id)
        is_validator = self._links.is_validator(validator)
        self._host.keep(peer_id, is_validator=is_validator)
        session.stream.meter = Meter("status", self.metrics, None)
        own_addresses = (a for a in session.remote.addresses if a.endswith(f"/p2p/{peer_id}"))
        self._table.learn(own_addresses, peer_id)
        self._session_opened.set()
        self._session_opened = trio.Event()
        if existing is None:
            log.info(
                "peer connected",
                peer_id=peer_id,
                validator=validator,
                head=session.remote.head.number,
            )

    def _close_session(self, session: _Session) -> None:
        peer_id = session.stream.peer_id
        self.metrics.sessions_closed += 1
        reason = "replaced" if session.is_replaced else session.end_reason
        self.metrics.disconnects[reason] += 1
        if self._sessions.get(peer_id) is session:
            del self._sessions[peer_id]
            log.info("peer disconnected", peer_id=peer_id)

    async def _keep_session(self, session: _Session) -> None:
        """Run everything that lives as long as a session does."""
        peer_id = session.stream.peer_id

        async def open_stream(protocol_id: str) -> FrameStream:
            stream = await self._open_stream(peer_id, protocol_id)
            if protocol_id == transactions.PROTOCOL_ID:
                # We open it, and the peer asks.
                stream.meter = self._get_meter(session, transactions.PROTOCOL_ID)
            return stream

        def on_fault(error: RejectedInputError) -> None:
            self._on_fault(peer_id, error)

        fault: RejectedInputError | StreamClosedError | None = None
        async with trio.open_nursery() as nursery:
            if session.remote.validator is not None:
                validator = session.remote.validator
                nursery.start_soon(self._links.run_outbound, validator, open_stream)
                nursery.start_soon(self._pieces.run_outbound, validator, open_stream)
            nursery.start_soon(self._transactions.run_outbound, peer_id, open_stream, on_fault)
            try:
                both = self._identity.validator and session.remote.validator
                pace = status.VALIDATORS if both else status.OTHERS
                reason = await status.keep_alive(session.stream, self, pace)
            except RejectedInputError as error:
                fault, session.end_reason = error, "fault"
            except StreamClosedError as error:
                fault, session.end_reason = error, "lost"
            else:
                session.end_reason = reason.name.lower()
                if reason in REFUSALS:
                    self._table.turned_away(peer_id, trio.current_time())
                self.metrics.peers_silent += reason is DisconnectReason.SILENT
                log.info("session ends", peer_id=peer_id, reason=session.end_reason)
            nursery.cancel_scope.cancel()
        if fault is not None:
            raise fault

    async def _open_stream(self, peer_id: PeerId, protocol_id: str) -> FrameStream:
        """A stream on which we ask; its frames are counted."""
        stream = await self._host.open_stream(peer_id, protocol_id)
        stream.meter = Meter(get_kind(protocol_id), self.metrics, None)
        return stream

    def _get_meter(self, session: _Session, protocol_id: str) -> Meter:
        """The budget of a protocol that all streams of a session share."""
        kind = get_kind(protocol_id)
        if kind not in session.meters:
            crowd = self._get_crowd(session)
            session.meters[kind] = Meter(kind, self.metrics, get_limits(kind), crowd)
        return session.meters[kind]

    def _get_crowd(self, session: _Session) -> CrowdBudget | None:
        """What the peer shares with others, unless it is a validator."""
        return None if self._links.is_validator(session.remote.validator) else self._crowd

    def _set_peer_handler(self, protocol_id: str, serve: StreamHandler) -> None:
        """Serve a protocol to peers that have a session, and hold them to its rules and limits."""
        kind = get_kind(protocol_id)

        async def serve_peer(stream: FrameStream) -> None:
            session = await self._wait_for_session(stream.peer_id)
            if session.served[kind] >= get_limits(kind).streams:
                self.metrics.streams_refused += 1
                raise StreamClosedError(f"too many {kind} streams of one peer")
            session.served[kind] += 1
            stream.meter = self._get_meter(session, protocol_id)
            try:
                await serve(stream)
            except RejectedInputError as error:
                self._on_fault(stream.peer_id, error)
                raise
            finally:
                session.served[kind] -= 1

        self._host.set_handler(protocol_id, serve_peer)

    async def _wait_for_session(self, peer_id: PeerId) -> _Session:
        # The peer may have finished the handshake a moment before we do.
        with trio.move_on_after(status.HANDSHAKE_SECONDS):
            while peer_id not in self._sessions:
                await self._session_opened.wait()
        session = self._sessions.get(peer_id)
        if session is None:
            raise StreamClosedError("the peer has no session")
        return session

    async def _serve_transactions(self, stream: FrameStream) -> None:
        crowd = self._get_crowd(await self._wait_for_session(stream.peer_id))
        await self._transactions.serve(stream, None if crowd is None else crowd.transactions)

    async def _serve_consensus(self, stream: FrameStream) -> None:
        session = self._sessions.get(stream.peer_id)
        if session is not None and session.remote.validator is not None:
            await self._links.serve(stream, session.remote.validator)

    async def _serve_pieces(self, stream: FrameStream) -> None:
        session = self._sessions.get(stream.peer_id)
        if session is not None and session.remote.validator is not None:
            await self._pieces.serve(stream, session.remote.validator)

    async def _serve_blocks(self, stream: FrameStream) -> None:
        await blocks.serve(stream, self._block_source, self.metrics)

    async def _serve_training(self, stream: FrameStream) -> None:
        await training.serve(stream, self._training_source)

    def _on_fault(self, peer_id: PeerId, error: RejectedInputError | StreamClosedError) -> None:
        """Count what a peer did wrong, and end its session if that was the last straw."""
        log.debug("stream ended", peer_id=peer_id, error=str(error))
        if isinstance(error, StreamClosedError):
            return
        self.metrics.rejections[error.reason] += 1
        log.warning("peer refused", peer_id=peer_id, error=str(error))
        if self._table.penalize(peer_id, error.reason, trio.current_time()):
            self.metrics.peers_banned += 1
            log.warning("peer banned", peer_id=peer_id)
            if session := self._sessions.get(peer_id):
                session.end_reason = "banned"
                session.scope.cancel()

    async def _sweep_strangers(self) -> None:
        """Close connections whose peer never opened a session, or lost it."""
        while True:
            now = trio.current_time()
            connected = self._host.connected_peers()
            self._first_seen = {
                peer_id: self._first_seen.get(peer_id, now)
                for peer_id in connected
                if peer_id not in self._sessions
            }
            for peer_id, first_seen in self._first_seen.items():
                if now - first_seen >= STRANGER_SECONDS:
                    await self._host.disconnect(peer_id)
            await trio.sleep(SWEEP_SECONDS)

    # What a status session asks of the node (status.StatusHost).

    def get_head(self) -> Head:
        """Our highest finalized block."""
        return self._get_head()

    def known_addresses(self) -> tuple[str, ...]:
        """Addresses of peers we have a session with."""
        return self._table.known_addresses(self._sessions, ADDRESS_LIMIT)

    def on_head(self, peer_id: PeerId, head: Head) -> None:
        """Remember a peer's head."""
        if session := self._sessions.get(peer_id):
            session.remote = replace(session.remote, head=head)

    def on_latency(self, peer_id: PeerId, seconds: float) -> None:
        """Remember a peer's last round trip."""
        if session := self._sessions.get(peer_id):
            session.latency_seconds = seconds

    def on_addresses(self, peer_id: PeerId, addresses: tuple[str, ...]) -> None:
        """Remember whom else to dial."""
        self._table.learn(addresses, peer_id)
