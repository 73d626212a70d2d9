"""Sessions with peers: handshake, limits, and end (docs/spec/wire.md, sections 1 and 3)."""

import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

import structlog
import trio
from cachetools import FIFOCache, LRUCache

from chain.errors import RejectedInputError
from chain.primitives import Address, Hash32
from node.network.budget import TokenBucket
from node.network.limits import Meter, SharedBudget, get_kind, get_limits
from node.network.metrics import NetworkMetrics
from node.network.peers import RECORD_LIMIT, PeerInfo, PeerTable
from node.network.pieces.links import PieceLinks
from node.network.protocols import status, transactions
from node.network.protocols.consensus import ConsensusLinks
from node.network.protocols.status import NodeIdentity, RemoteStatus
from node.network.protocols.transactions import TransactionExchange
from node.network.stream import FrameStream, Host, PeerId, StreamClosedError
from node.network.wire import ADDRESS_LIMIT, DisconnectReason, Head

SESSIONLESS_SECONDS: Final = 15.0
"""How long a connection may go without a session before it is closed."""

SWEEP_SECONDS: Final = 5.0
"""How often connections without a session are searched for."""

HANDSHAKES_PER_SECOND: Final = 0.5
"""Handshakes a second that one peer id is answered; a node that restarts does one."""

HANDSHAKES_BURST: Final = 8.0
"""Handshakes at once that one peer id is answered."""

RESERVED_OUTBOUND_SESSIONS: Final = 8
"""Sessions within `max_peers` that only non-validators dialled by this node get; a quarter of
`max_peers` where that is less.
"""

LASTING_REFUSALS: Final = frozenset(
    {
        DisconnectReason.WRONG_CHAIN,
        DisconnectReason.TOO_MANY_PEERS,
        DisconnectReason.MISBEHAVIOUR,
    }
)
"""Refusals that will last for minutes; each try would cost both sides a handshake of 25 ms."""

ANNOUNCED_LIMIT: Final = 256
"""Blobs that are remembered as announced by one peer: those of a few rounds."""

ANNOUNCERS_LIMIT: Final = 4
"""Peers that are asked before validators because they announced a blob: any peer may say so."""

GOODBYE_SECONDS: Final = 0.2
"""How long a banned peer has to read the reason before its connection is closed."""

_log = structlog.get_logger("node.network")


@dataclass(slots=True)
class Session:
    """A session with one peer, from the end of the handshake on."""

    stream: FrameStream
    remote: RemoteStatus
    is_inbound: bool
    scope: trio.CancelScope
    latency_seconds: float | None = None
    is_replaced: bool = False
    end_reason: str = "closed_here"
    """The label in metrics of why it ended; this one, unless something else happens."""
    meters: dict[str, Meter] = field(default_factory=dict)
    """The budgets of the streams that the peer opens, by kind of protocol."""
    served: Counter[str] = field(default_factory=Counter)
    """The number of the peer's streams being served, by kind of protocol."""
    announced: FIFOCache[Hash32, None] = field(default_factory=lambda: FIFOCache(ANNOUNCED_LIMIT))
    """The blobs that the peer says it holds."""

    @property
    def peer_id(self) -> PeerId:
        """The peer id of the other side."""
        return self.stream.peer_id

    @property
    def validator(self) -> Address | None:
        """The validator that the peer has proved to be; None if it claims none."""
        return self.remote.validator


SessionHandler = Callable[[FrameStream, Session], Awaitable[None]]
"""Serves one stream that a peer with a session opened."""


class Sessions:
    """The sessions with all peers, at most one with each."""

    def __init__(
        self,
        *,
        host: Host,
        identity: NodeIdentity,
        get_head: Callable[[], Head],
        table: PeerTable,
        max_peers: int,
        links: ConsensusLinks,
        pieces: PieceLinks,
        transactions: TransactionExchange,
        metrics: NetworkMetrics,
        random: Callable[[], float],
    ) -> None:
        """Start without sessions.

        Args:
            host: the libp2p host.
            identity: what this node tells and proves of itself.
            get_head: returns the highest finalized block.
            table: scores and addresses of peers.
            max_peers: the most sessions with non-validators.
            links: sends votes to a validator while its session lasts.
            pieces: sends coded pieces to a validator while its session lasts.
            transactions: announces transactions to a peer while its session lasts.
            metrics: counts sessions, frames and faults.
            random: uniform in [0, 1), for the order in which peers are asked.
        """
        self._host = host
        self._identity = identity
        self._get_head = get_head
        self._table = table
        self._max_peers = max_peers
        self._links = links
        self._pieces = pieces
        self._transactions = transactions
        self._metrics = metrics
        self._random = random
        self._shared = SharedBudget()
        self._sessions: dict[PeerId, Session] = {}
        self._opened = trio.Event()
        self._first_seen: dict[PeerId, float] = {}
        self._handshakes: LRUCache[PeerId, TokenBucket] = LRUCache(RECORD_LIMIT)

    def peer_ids(self) -> tuple[PeerId, ...]:
        """The peers that have a session."""
        return tuple(self._sessions)

    def list_preferred(self, content_id: Hash32 | None = None) -> tuple[PeerId, ...]:
        """The peers that have a session, in the order in which they are asked for training data.

        A few peers that announced the blob come first, then validators, then peers that the
        operator named, then all others; chance decides among equals. So strangers, however many
        and however old their sessions are, come before no validator.

        Args:
            content_id: the blob; None if no blob is wanted.
        """

        def get_rank(session: Session) -> int:
            if self._links.is_validator(session.validator):
                return 1
            return 2 if self._table.is_persistent(session.peer_id) else 3

        shuffled = sorted(self._sessions.values(), key=lambda _: self._random())
        ranked = sorted(shuffled, key=get_rank)
        first = [each for each in ranked if content_id in each.announced][:ANNOUNCERS_LIMIT]
        return tuple(dict.fromkeys(each.peer_id for each in (*first, *ranked)))

    def note_announced(self, peer_id: PeerId, content_id: Hash32) -> None:
        """Remember that a peer says it holds a blob."""
        if session := self._sessions.get(peer_id):
            session.announced[content_id] = None

    def peers(self) -> tuple[PeerInfo, ...]:
        """The peers that have a session, by peer id."""
        now = trio.current_time()
        return tuple(
            PeerInfo(
                peer_id=peer_id,
                validator=session.validator,
                head=session.remote.head,
                is_inbound=session.is_inbound,
                latency_seconds=session.latency_seconds,
                addresses=session.remote.addresses,
                score=self._table.score(peer_id, now),
            )
            for peer_id, session in sorted(self._sessions.items())
        )

    def has_all_validators(self) -> bool:
        """Whether every other validator of the current set has a session."""
        return self._links.are_among({session.validator for session in self._sessions.values()})

    def set_validators(self, addresses: Iterable[Address]) -> None:
        """Set the current validators; consensus streams of other peers are closed."""
        validators = tuple(addresses)
        were_validators = {
            peer_id
            for peer_id, session in self._sessions.items()
            if self._links.is_validator(session.validator)
        }
        self._links.set_validators(validators)
        self._pieces.set_validators(validators)
        for peer_id, session in self._sessions.items():
            is_validator = self._links.is_validator(session.validator)
            if is_validator != (peer_id in were_validators):
                # The limits of its streams differ from now on.
                session.meters.clear()
                self._host.keep(peer_id, is_validator=is_validator)

    async def serve(self, stream: FrameStream) -> None:
        """Run a session on a stream that a peer opened for it.

        Raises:
            RejectedInputError: The peer breaks the rules; it has been penalized.
            StreamClosedError: The peer left.
        """
        if self._table.is_banned(stream.peer_id, trio.current_time()):
            await self._turn_away(stream)
            return
        # A handshake costs a signature and a recovery: a peer that repeats it must wait.
        budget = self._handshakes.setdefault(
            stream.peer_id, TokenBucket(per_second=HANDSHAKES_PER_SECOND, burst=HANDSHAKES_BURST)
        )
        await budget.take(1)
        try:
            await self.run(stream, is_inbound=True)
        except RejectedInputError as error:
            self.report_fault(stream.peer_id, error)
            raise

    async def run(self, stream: FrameStream, *, is_inbound: bool) -> None:
        """Shake hands, then run the session unless it is refused; returns when it has ended.

        Raises:
            RejectedInputError: The peer breaks the rules.
            StreamClosedError: The peer left.
        """
        peer_id = stream.peer_id
        remote: RemoteStatus | None = None
        with trio.move_on_after(status.HANDSHAKE_SECONDS):
            remote = await status.shake_hands(
                stream,
                self._identity,
                own_peer_id=self._host.peer_id,
                head=self._get_head(),
                addresses=self._host.listen_addresses()[:ADDRESS_LIMIT],
                nonce=Hash32(secrets.token_bytes(32)),
            )
        if remote is None:
            raise StreamClosedError("the peer did not finish its handshake")
        refusal = self._find_refusal(peer_id, remote, is_inbound=is_inbound)
        if refusal is not None:
            self._metrics.disconnects[f"refused_{refusal.name.lower()}"] += 1
            await status.say_goodbye(stream, refusal)
            return
        with trio.CancelScope() as scope:
            session = Session(stream, remote, is_inbound, scope)
            self._open(session)
            try:
                await self._keep(session)
            finally:
                self._close(session)
                if not session.is_replaced:
                    with trio.CancelScope(shield=True):
                        if self._table.is_banned(peer_id, trio.current_time()):
                            await self._turn_away(stream)
                        else:
                            await self._host.disconnect(peer_id)

    async def _turn_away(self, stream: FrameStream) -> None:
        """Tell a banned peer the reason, and close its connection."""
        await status.say_goodbye(stream, DisconnectReason.MISBEHAVIOUR)
        # Closing at once would discard the goodbye before the peer has read it.
        await trio.sleep(GOODBYE_SECONDS)
        await self._host.disconnect(stream.peer_id)

    def _find_refusal(
        self, peer_id: PeerId, remote: RemoteStatus, *, is_inbound: bool
    ) -> DisconnectReason | None:
        if self._table.is_banned(peer_id, trio.current_time()):
            return DisconnectReason.MISBEHAVIOUR
        existing = self._sessions.get(peer_id)
        if existing is not None:
            # Two nodes that dial each other at once must keep the same session: the one that the
            # smaller peer id opened. A second session from the same side: the first is dead.
            own_peer_id = self._host.peer_id
            opener = peer_id if is_inbound else own_peer_id
            if is_inbound != existing.is_inbound and opener > min(peer_id, own_peer_id):
                return DisconnectReason.DUPLICATE
            return None
        if self._links.is_validator(remote.validator) or self._table.is_persistent(peer_id):
            return None
        non_validators = sum(
            not self._links.is_validator(session.validator) for session in self._sessions.values()
        )
        limit = self._max_peers
        if is_inbound:
            limit -= min(RESERVED_OUTBOUND_SESSIONS, limit // 4)
        return DisconnectReason.TOO_MANY_PEERS if non_validators >= limit else None

    def _open(self, session: Session) -> None:
        peer_id = session.peer_id
        if existing := self._sessions.get(peer_id):
            existing.is_replaced = True
            existing.scope.cancel()
        validator = session.validator
        for other in self._sessions.values():
            if validator is not None and other.validator == validator:
                # The validator is back with another host key; only one session gets its votes.
                other.scope.cancel()
        self._sessions[peer_id] = session
        self._metrics.sessions_opened += 1
        self._table.connected(peer_id)
        is_validator = self._links.is_validator(validator)
        self._host.keep(peer_id, is_validator=is_validator)
        session.stream.meter = Meter("status", self._metrics, None)
        own_addresses = (a for a in session.remote.addresses if a.endswith(f"/p2p/{peer_id}"))
        self._table.learn(own_addresses, peer_id)
        self._opened.set()
        self._opened = trio.Event()
        if existing is None:
            _log.info(
                "peer connected",
                peer_id=peer_id,
                validator=validator,
                head=session.remote.head.number,
            )

    def _close(self, session: Session) -> None:
        self._metrics.sessions_closed += 1
        reason = "replaced" if session.is_replaced else session.end_reason
        self._metrics.disconnects[reason] += 1
        if self._sessions.get(session.peer_id) is session:
            del self._sessions[session.peer_id]
            _log.info("peer disconnected", peer_id=session.peer_id, reason=reason)

    async def _keep(self, session: Session) -> None:
        """Send to the peer, and watch whether it is alive, until one of the two ends."""
        peer_id = session.peer_id

        async def open_stream(protocol_id: str) -> FrameStream:
            stream = await self.open_stream(peer_id, protocol_id)
            if protocol_id == transactions.PROTOCOL_ID:
                # Here the peer sends requests on a stream that this node opens, so limits apply.
                stream.meter = self.get_meter(session, transactions.PROTOCOL_ID)
            return stream

        def on_fault(error: RejectedInputError) -> None:
            self.report_fault(peer_id, error)

        fault: RejectedInputError | StreamClosedError | None = None
        async with trio.open_nursery() as nursery:
            if (validator := session.validator) is not None:
                nursery.start_soon(self._links.run_outbound, validator, open_stream)
                nursery.start_soon(self._pieces.run_outbound, validator, open_stream)
            nursery.start_soon(self._transactions.run_outbound, peer_id, open_stream, on_fault)
            try:
                both = self._identity.validator and session.validator
                pace = status.VALIDATORS if both else status.OTHERS
                reason = await status.keep_alive(session.stream, self, pace)
            except RejectedInputError as error:
                fault, session.end_reason = error, "fault"
            except StreamClosedError as error:
                fault, session.end_reason = error, "lost"
            else:
                session.end_reason = reason.name.lower()
                if reason in LASTING_REFUSALS:
                    self._table.session_refused(peer_id, trio.current_time())
                self._metrics.peers_silent += reason is DisconnectReason.SILENT
            nursery.cancel_scope.cancel()
        if fault is not None:
            raise fault

    async def open_stream(self, peer_id: PeerId, protocol_id: str) -> FrameStream:
        """A stream on which this node asks; its frames are counted, not limited.

        Raises:
            UnreachablePeerError: No connection, or the peer does not speak the protocol.
        """
        stream = await self._host.open_stream(peer_id, protocol_id)
        stream.meter = Meter(get_kind(protocol_id), self._metrics, None)
        return stream

    async def serve_within_limits(
        self, stream: FrameStream, protocol_id: str, serve: SessionHandler
    ) -> None:
        """Serve a stream of a peer that has a session, within the limits of its protocol.

        Raises:
            RejectedInputError: The peer breaks the rules; it has been penalized.
            StreamClosedError: The peer left, has no session, or has too many such streams.
        """
        session = await self._wait_for_session(stream.peer_id)
        kind = get_kind(protocol_id)
        if session.served[kind] >= get_limits(kind).streams:
            self._metrics.streams_refused += 1
            raise StreamClosedError(f"too many {kind} streams of one peer")
        session.served[kind] += 1
        stream.meter = self.get_meter(session, protocol_id)
        try:
            await serve(stream, session)
        except RejectedInputError as error:
            self.report_fault(stream.peer_id, error)
            raise
        finally:
            session.served[kind] -= 1

    async def _wait_for_session(self, peer_id: PeerId) -> Session:
        # The peer may finish the handshake a moment before this node does.
        with trio.move_on_after(status.HANDSHAKE_SECONDS):
            while peer_id not in self._sessions:
                await self._opened.wait()
        session = self._sessions.get(peer_id)
        if session is None:
            raise StreamClosedError("the peer has no session")
        return session

    def get_meter(self, session: Session, protocol_id: str) -> Meter:
        """The meter of a protocol that all streams of a session share."""
        kind = get_kind(protocol_id)
        if kind not in session.meters:
            shared = self.get_shared_budget(session)
            session.meters[kind] = Meter(kind, self._metrics, get_limits(kind), shared)
        return session.meters[kind]

    def get_shared_budget(self, session: Session) -> SharedBudget | None:
        """The budget that the peer shares with other non-validators; None for a validator."""
        return None if self._links.is_validator(session.validator) else self._shared

    def report_fault(self, peer_id: PeerId, error: RejectedInputError | StreamClosedError) -> None:
        """Count a fault of a peer and take points off; end the session if that bans the peer."""
        _log.debug("stream ended", peer_id=peer_id, error=str(error))
        if isinstance(error, StreamClosedError):
            return
        self._metrics.rejections[error.reason] += 1
        _log.warning("peer broke a rule", peer_id=peer_id, error=str(error))
        if self._table.penalize(peer_id, error.reason, trio.current_time()):
            self._metrics.peers_banned += 1
            _log.warning("peer banned", peer_id=peer_id)
            if session := self._sessions.get(peer_id):
                session.end_reason = "banned"
                session.scope.cancel()

    async def sweep(self) -> None:
        """Close connections that have had no session for SESSIONLESS_SECONDS, until cancelled."""
        while True:
            now = trio.current_time()
            self._first_seen = {
                peer_id: self._first_seen.get(peer_id, now)
                for peer_id in self._host.connected_peers()
                if peer_id not in self._sessions
            }
            for peer_id, first_seen in self._first_seen.items():
                if now - first_seen >= SESSIONLESS_SECONDS:
                    await self._host.disconnect(peer_id)
            await trio.sleep(SWEEP_SECONDS)

    # What the status stream of a session asks and tells (status.StatusHost).

    def get_head(self) -> Head:
        """The highest finalized block of this node."""
        return self._get_head()

    def known_addresses(self) -> tuple[str, ...]:
        """Addresses of peers that have a session, for others to dial."""
        return self._table.known_addresses(self._sessions, ADDRESS_LIMIT)

    def on_head(self, peer_id: PeerId, head: Head) -> None:
        """Remember the head that a peer told."""
        if session := self._sessions.get(peer_id):
            session.remote = replace(session.remote, head=head)

    def on_latency(self, peer_id: PeerId, seconds: float) -> None:
        """Remember the round trip of a peer's last ping."""
        if session := self._sessions.get(peer_id):
            session.latency_seconds = seconds

    def on_addresses(self, peer_id: PeerId, addresses: tuple[str, ...]) -> None:
        """Remember the addresses of other nodes that a peer told."""
        self._table.learn(addresses, peer_id)
