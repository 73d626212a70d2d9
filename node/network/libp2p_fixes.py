"""Work-arounds for the defects of the pinned py-libp2p, in one place.

Each function of `FIXES` cures one defect of `SUPPORTED_VERSION` by replacing a private name; its
docstring says what goes wrong without it ("Stock" is libp2p as it is installed). `apply` runs them
all once, before a host is built, and refuses any other version, because its private names have not
been read. tests/node/network has a scenario for each that fails without it. Pubsub is not used, so
its defects need no cure.
"""

# ruff: noqa: SLF001 - replacing private names is what this module is for

import math
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Final
from weakref import WeakKeyDictionary

import libp2p
import libp2p.io.msgio as msgio
import libp2p.io.trio as trio_io
import libp2p.network.swarm as swarm
import libp2p.protocol_muxer.multiselect_communicator as multiselect
import libp2p.stream_muxer.yamux.yamux as yamux
import libp2p.transport.tcp.tcp as tcp
import structlog
import trio
from libp2p.abc import IMuxedConn, IMuxedStream, INetStream, IRawConnection, ISecureConn
from libp2p.exceptions import ParseError
from libp2p.host.basic_host import BasicHost
from libp2p.host.ping import PingService
from libp2p.io.abc import Reader
from libp2p.io.exceptions import IncompleteReadError, IOException
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.connection.exceptions import RawConnError
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.utils.varint import decode_uvarint_from_stream
from multiaddr import Multiaddr

from node.network.budget import TokenBucket

_log = structlog.get_logger("node.network")

SUPPORTED_VERSION: Final = "0.8.1"
"""The only version that these replacements were written and measured for."""

WINDOW_BYTES: Final = 2**20
"""The receive window of a stream that is being read: 20 MB/s at a round trip of 50 ms."""

INBOUND_STREAM_LIMIT: Final = 64
"""Streams that the peer of one connection may hold open."""

CONNECTION_BUFFER_BYTES: Final = 8 * 2**20
"""Unread bytes of all streams of a connection; only a slow disk or a busy node leaves any."""

FRAMES_PER_SECOND: Final = 4_000.0
"""Yamux frames read from a connection: 128 MiB/s in frames of FRAME_BODY_BYTES, but no flood of
empty frames, which take as much time each.
"""

NEGOTIATION_LINE_BYTES: Final = 1_024
"""The longest line of a protocol negotiation; protocol ids have under 100 bytes."""

NEGOTIATION_LINES: Final = 32
"""Lines that a peer may send in one negotiation; other nodes offer a dozen protocols at most."""

WRITE_STALL_SECONDS: Final = 30.0
"""How long a writer waits for window: a reader may pause while its disk stores what it read."""

FRAME_BODY_BYTES: Final = 2**15
"""The most that one stream sends in a row: a vote waits for at most 32 KiB of each blob."""

SOCKET_STALL_SECONDS: Final = 10.0
"""How long TCP may take for one frame before the connection ends; pings usually notice first."""

GO_AWAY_SECONDS: Final = 0.5
"""How long the farewell of a closing connection may take: the peer may be the reason to close."""


class UnsupportedLibp2pError(Exception):
    """The installed py-libp2p is not the version that these work-arounds were written for."""


class FlowControlError(trio.TooSlowError):
    """The peer sent more than its window, or opened too many streams.

    It is a TooSlowError because Yamux's reader closes the connection on one.
    """


def _replace(owner: object, name: str, replacement: object) -> None:
    """Replace the attribute `name` of libp2p's `owner`; it must exist."""
    assert hasattr(owner, name) or isinstance(replacement, property)
    setattr(owner, name, replacement)


def release_inbound_slots() -> None:
    """Release the slot of an inbound connection when the connection ends.

    Stock, the slot is held until the whole swarm ends: after `max_connections` accepted
    connections in its life, a node refuses all others for ever.
    """
    upgrade = swarm.Swarm.upgrade_inbound_raw_conn

    async def upgrade_and_wait(
        self: swarm.Swarm, raw_connection: IRawConnection, address: Multiaddr
    ) -> None:
        muxed = await upgrade(self, raw_connection, address)
        assert isinstance(muxed, yamux.Yamux)
        await muxed.event_closed.wait()
        # The caller handles this by closing the socket and returning, which frees the slot.
        raise SwarmException("the inbound connection ended")

    _replace(swarm.Swarm, "upgrade_inbound_raw_conn", upgrade_and_wait)


def contain_handler_errors() -> None:
    """Keep exceptions of a stream handler, or of the negotiation before it, away from the swarm.

    Stock, any of them ends the process, so any peer that can cause one can stop a node.
    """
    handle = BasicHost._swarm_stream_handler

    async def handle_contained(self: BasicHost, stream: INetStream) -> None:
        try:
            await handle(self, stream)
        except Exception as error:  # noqa: BLE001 - past here is the swarm's nursery
            # Any peer can cause these, so they are not logged as warnings.
            _log.debug("stream handler failed", error=repr(error))
            with suppress(Exception):
                await stream.reset()

    _replace(BasicHost, "_swarm_stream_handler", handle_contained)


def disable_dial_ban() -> None:
    """Do not ban a peer from being dialled: stock does for 60 s after one failed dial."""
    _replace(swarm._NegativePeerCache.__init__, "__defaults__", (0.0, 1))


def disable_dial_delay() -> None:
    """Return from a dial when it succeeds.

    Stock, every dial waits 250 ms for other transports, of which there are none.
    """
    _replace(swarm, "_HAPPY_EYEBALLS_DELAY", 0.0)


def disable_auto_connector() -> None:
    """Leave dialling to `Dialler`.

    Stock also dials known peers by itself, up to half of the high watermark, ignoring the backoff
    and bans of the peer table.
    """

    async def connect_to_none(_: AutoConnector) -> None:
        await trio.lowlevel.checkpoint()

    _replace(AutoConnector, "maybe_connect", connect_to_none)


def drop_state_of_disconnected_peers() -> None:
    """Drop what libp2p keeps of a peer when it disconnects.

    Stock keeps an entry for each peer id that ever disconnected, and one for each that ever
    pinged: half a kilobyte of memory for each handshake with a new key.
    """

    def record_nothing(_: AutoConnector, _peer_id: ID) -> None:
        """Only the auto connector reads these entries, and it is disabled."""

    _replace(AutoConnector, "record_disconnect", record_nothing)

    handle = PingService.handle_ping

    async def handle_and_drop(self: PingService, stream: INetStream) -> None:
        try:
            await handle(self, stream)
        finally:
            peer_id = stream.muxed_conn.peer_id
            if not self._inbound_streams.get(peer_id, True):
                del self._inbound_streams[peer_id]

    _replace(PingService, "handle_ping", handle_and_drop)


def disable_port_sharing() -> None:
    """Let a second listener on a port fail.

    Stock sets SO_REUSEPORT: two nodes on one port would each get half of the connections.
    """

    def set_reuse_address(listener: trio.socket.SocketType) -> None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    _replace(tcp, "_set_reuse_flags", set_reuse_address)


def lift_short_read_limit() -> None:
    """Read until the bytes are there or the stream ends.

    Stock gives up after 101 short reads; a slow path with small packets needs more of them for one
    64 KiB frame.
    """
    _replace(yamux, "read_exactly", read_exactly)
    _replace(msgio, "read_exactly", read_exactly)


async def read_exactly(reader: Reader, count: int, retry_count: int = 0) -> bytes:
    """The next `count` bytes, after any number of short reads."""
    del retry_count
    data = bytearray()
    while len(data) < count:
        piece = await reader.read(count - len(data))
        if not piece:
            raise IncompleteReadError(
                "connection closed", expected_bytes=count, received_bytes=len(data)
            )
        data += piece
    return bytes(data)


def limit_negotiations() -> None:
    """Limit the length and the number of negotiation lines.

    Stock, before any handshake, any client of the port can announce a line of any length, which is
    then kept in memory, or ask for unknown protocols without end.
    """

    async def read_line(self: multiselect.MultiselectCommunicator) -> str:
        lines = self.__dict__["lines_read"] = self.__dict__.get("lines_read", 0) + 1
        try:
            if lines > NEGOTIATION_LINES:
                raise ParseError(f"more than {NEGOTIATION_LINES} lines")
            length = await decode_uvarint_from_stream(self.read_writer)
            if not 0 < length <= NEGOTIATION_LINE_BYTES:
                raise ParseError(f"a line of {length} bytes")
            line = await read_exactly(self.read_writer, length)
            if not line.endswith(b"\n"):
                raise ParseError("a line without its end")
            return line[:-1].decode()
        except (ParseError, IOException, UnicodeDecodeError) as error:
            raise MultiselectCommunicatorError("no line of a negotiation") from error

    _replace(multiselect.MultiselectCommunicator, "read", read_line)


def disable_identify() -> None:
    """Answer identify requests, but send none and accept no pushes.

    Stock asks every peer that connects and keeps its answer and its pushes: up to 1 MiB of unused
    addresses each, for a thousand peers, disconnected ones included.
    """

    def schedule_nothing(_: BasicHost, peer_id: ID, *, reason: str) -> None:
        del peer_id, reason

    _replace(BasicHost, "_schedule_identify", schedule_nothing)


def read_ipv6_remote_addresses() -> None:
    """Read the address of IPv6 peers: stock expects two fields of a socket's name, not four."""

    def get_remote_address(self: trio_io.TrioTCPStream) -> tuple[str, int] | None:
        if self._cached_remote_address is None:
            with suppress(OSError):
                host, port, *_ = self.stream.socket.getpeername()
                self._cached_remote_address = (str(host), int(port))
        return self._cached_remote_address

    _replace(trio_io.TrioTCPStream, "get_remote_address", get_remote_address)


def limit_connections() -> None:
    """Close a connection that ignores flow control or opens too many streams, and pace its frames.

    Stock, Yamux buffers all that arrives (100 MB for a stream that is not read), reads frames of
    16 MiB into memory, and accepts any number of streams and frames.
    """
    initialize = yamux.Yamux.__init__

    def initialize_bounded(
        self: yamux.Yamux,
        secured_conn: ISecureConn,
        peer_id: ID,
        is_initiator: bool | None = None,
        on_close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        initialize(self, secured_conn, peer_id, is_initiator, on_close)
        self.stream_buffers = _StreamBuffers(self)

    async def read_paced(reader: Reader, count: int) -> bytes:
        if count == yamux.HEADER_SIZE:
            budget = _frame_budgets.get(reader)
            if budget is None:
                budget = TokenBucket(per_second=FRAMES_PER_SECOND, burst=FRAMES_PER_SECOND)
                _frame_budgets[reader] = budget
            await budget.take(1)
        return await read_exactly(reader, count)

    _replace(yamux.Yamux, "__init__", initialize_bounded)
    _replace(yamux, "read_exactly", read_paced)
    _replace(yamux, "MAX_WINDOW_SIZE", WINDOW_BYTES)


_frame_budgets: WeakKeyDictionary[Reader, TokenBucket] = WeakKeyDictionary()


class _StreamBuffer(bytearray):
    """Bytes received and not yet read, at most the window granted to the peer."""

    def __init__(self, data: bytearray, buffers: "_StreamBuffers") -> None:
        super().__init__(data)
        self.limit_bytes = yamux.DEFAULT_WINDOW_SIZE
        self._buffers = buffers

    def extend(self, data: bytes) -> None:  # type: ignore[override]  # Yamux only passes bytes
        if len(self) + len(data) > self.limit_bytes:
            raise FlowControlError(f"more than {self.limit_bytes} unread bytes on a stream")
        if self._buffers.count_bytes() + len(data) > CONNECTION_BUFFER_BYTES:
            raise FlowControlError(f"more than {CONNECTION_BUFFER_BYTES} unread bytes")
        super().extend(data)


class _StreamBuffers(dict[int, bytearray]):
    """The buffers of a connection by stream id; the peer opens at most INBOUND_STREAM_LIMIT."""

    def __init__(self, connection: yamux.Yamux) -> None:
        super().__init__()
        self._connection = connection

    def count_bytes(self) -> int:
        return sum(map(len, self.values()))

    def __setitem__(self, stream_id: int, buffer: bytearray) -> None:
        # Streams of the initiator have odd ids; our own have ascending ids.
        own_parity = 1 if self._connection.is_initiator_value else 0
        if stream_id % 2 == own_parity:
            if stream_id != self._connection.next_stream_id - 2:
                raise FlowControlError(f"stream {stream_id} is not the peer's to open")
        elif sum(open_id % 2 != own_parity for open_id in self) >= INBOUND_STREAM_LIMIT:
            raise FlowControlError(f"more than {INBOUND_STREAM_LIMIT} streams")
        super().__setitem__(stream_id, _StreamBuffer(buffer, self))


def send_fewer_window_updates() -> None:
    """Send a window update only after half a window was read; enlarge the window of a busy stream.

    Stock sends an encrypted WINDOW_UPDATE for every read, which takes 13 % of a receiver's time,
    and lets windows grow to 16 MiB.
    """

    async def credit(stream: yamux.YamuxStream, *, bytes_read: int = 0) -> None:
        stream._pending_recv_release += bytes_read
        if stream._pending_recv_release < yamux.DEFAULT_WINDOW_SIZE // 2:
            return
        credit_bytes = stream._pending_recv_release
        stream._pending_recv_release = 0
        if stream.target_recv_window < WINDOW_BYTES:
            credit_bytes += WINDOW_BYTES - stream.target_recv_window
            stream.target_recv_window = WINDOW_BYTES
            if isinstance(
                buffer := stream.conn.stream_buffers.get(stream.stream_id), _StreamBuffer
            ):
                buffer.limit_bytes = WINDOW_BYTES
        stream.recv_window += credit_bytes
        await stream.send_window_update(credit_bytes)

    _replace(yamux.YamuxStream, "_auto_tune_and_send_window_update", credit)


def wait_for_slow_readers() -> None:
    """Wait up to WRITE_STALL_SECONDS for window, and resume as soon as it comes.

    Unmended libp2p asks every 10 ms for window, and resets the stream after 5 s without any.
    """

    async def write(stream: yamux.YamuxStream, data: bytes) -> None:
        view = memoryview(data)
        while view:
            await _wait_for_window(stream)
            if stream.closed or stream.send_closed:
                raise MuxedStreamError("the stream is closed for sending")
            piece = view[: min(stream.send_window, FRAME_BODY_BYTES)]
            view = view[len(piece) :]
            stream.send_window -= len(piece)
            header = struct.pack(
                yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_DATA, 0, stream.stream_id, len(piece)
            )
            await stream.conn._write_frame(header + piece)

    _replace(yamux.YamuxStream, "write", write)
    _replace(yamux.YamuxStream, "send_window", _waking_attribute("send_window"))
    _replace(yamux.YamuxStream, "closed", _waking_attribute("closed"))


def _waking_attribute(name: str) -> property:
    """An attribute of a YamuxStream that wakes the waiting writer when it is set."""

    def get_value(stream: object) -> object:
        return stream.__dict__[name]

    def set_value(stream: object, value: object) -> None:
        stream.__dict__[name] = value
        if "writer_wake_up" in stream.__dict__:
            stream.__dict__.pop("writer_wake_up").set()

    return property(get_value, set_value)


async def _wait_for_window(stream: yamux.YamuxStream) -> None:
    deadline = trio.current_time() + WRITE_STALL_SECONDS
    while stream.send_window <= 0 and not stream.closed:
        wake_up = stream.__dict__.setdefault("writer_wake_up", trio.Event())
        with trio.move_on_at(deadline) as waiting:
            await wake_up.wait()
        if waiting.cancelled_caught:
            raise MuxedStreamError(f"the peer has read nothing for {WRITE_STALL_SECONDS} s")


def write_whole_frames() -> None:
    """Never leave a partial frame on the connection.

    Stock, cancelling one stream's writer, as a timeout does, can cut a frame and thereby break all
    streams of the connection; and a peer that reads nothing blocks the closing of its connection.
    """

    async def write_frame(connection: yamux.Yamux, data: bytes) -> None:
        is_go_away = data[1] == yamux.TYPE_GO_AWAY
        patience = GO_AWAY_SECONDS if is_go_away else SOCKET_STALL_SECONDS
        with trio.move_on_after(GO_AWAY_SECONDS if is_go_away else math.inf):
            await connection._write_lock.acquire()
            try:
                deadline = trio.current_time() + patience
                with trio.CancelScope(shield=True, deadline=deadline) as sending:
                    await connection.secured_conn.write(data)
            finally:
                connection._write_lock.release()
            if not sending.cancelled_caught:
                return
        # Part of a frame may be sent, after which the ciphers of the two sides disagree. Yamux's
        # reader finds the socket closed and cleans up.
        await connection.secured_conn.close()
        raise RawConnError("connection closed: the peer takes no bytes")

    _replace(yamux.Yamux, "_write_frame", write_frame)


InboundGuard = Callable[[trio_io.TrioTCPStream], AbstractAsyncContextManager[bool]]
"""Encloses the life of an inbound connection; yields False if it must be closed at once."""


def guard_inbound_connections(network: swarm.Swarm, guard: InboundGuard) -> None:
    """Enter `guard` before the handshake of each inbound connection; leave it when that ends."""
    handle = network._handle_inbound_connection

    async def handle_guarded(connection: trio_io.TrioTCPStream, address: Multiaddr) -> None:
        async with guard(connection) as is_admitted:
            if is_admitted:
                await handle(connection, address)
            else:
                await connection.close()

    _replace(network, "_handle_inbound_connection", handle_guarded)


StreamGate = Callable[[IMuxedConn], Awaitable[None]]
"""Waits until the next stream that the peer of a connection opened may be served."""


def pace_inbound_streams(network: swarm.Swarm, wait: StreamGate) -> None:
    """Call `wait` before each stream that a peer opens is negotiated.

    While streams wait, the connection queues a few more, then it is not read and the peer waits.
    """
    add_connection = network.add_conn

    async def add_paced(connection: IMuxedConn, direction: str = "unknown") -> SwarmConn:
        accept = connection.accept_stream

        async def accept_paced() -> IMuxedStream:
            stream = await accept()
            await wait(connection)
            return stream

        _replace(connection, "accept_stream", accept_paced)
        return await add_connection(connection, direction)

    _replace(network, "add_conn", add_paced)


FIXES: Final[tuple[Callable[[], None], ...]] = (
    release_inbound_slots,
    contain_handler_errors,
    disable_dial_ban,
    disable_dial_delay,
    disable_auto_connector,
    drop_state_of_disconnected_peers,
    disable_port_sharing,
    lift_short_read_limit,
    limit_negotiations,
    disable_identify,
    read_ipv6_remote_addresses,
    limit_connections,
    send_fewer_window_updates,
    wait_for_slow_readers,
    write_whole_frames,
)
"""All work-arounds, one for each defect."""

_applied: list[str] = []


def apply() -> None:
    """Apply all work-arounds; later calls do nothing.

    Raises:
        UnsupportedLibp2pError: Another version is installed.
    """
    installed = libp2p.__version__
    if installed != SUPPORTED_VERSION:
        raise UnsupportedLibp2pError(
            f"libp2p {installed} is installed, but this node works around defects of "
            f"{SUPPORTED_VERSION} only: run `pip install libp2p=={SUPPORTED_VERSION}`"
        )
    if _applied:
        return
    for fix in FIXES:
        fix()
        _applied.append(fix.__name__)
