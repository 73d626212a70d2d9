"""The libp2p host: TCP, Noise, Yamux and Ed25519, behind `Host` (docs/spec/wire.md, section 1)."""

import os
import resource
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary, WeakSet

import structlog
import trio
from libp2p import new_host
from libp2p.abc import IMuxedConn, INetStream
from libp2p.crypto.ed25519 import Ed25519PrivateKey, create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.io.trio import TrioTCPStream
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.stream.exceptions import StreamClosed, StreamEOF, StreamError, StreamReset
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStoreError
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL_ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_PROTOCOL_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from chain.errors import RejectedInputError
from node.network import libp2p_fixes
from node.network.admission import Admission, Endpoint
from node.network.budget import TokenBucket
from node.network.stream import (
    FrameStream,
    PeerId,
    StreamClosedError,
    StreamHandler,
    UnreachablePeerError,
)
from node.trio_types import TaskStatus
from pot_common.atomic_file import write_atomically
from pot_common.errors import OperatorError

_log = structlog.get_logger("node.network")

HOST_KEY_BYTES: Final = 32
"""An Ed25519 seed, stored raw."""

DIAL_SECONDS: Final = 10.0
"""TCP, Noise and Yamux across the world take three round trips; the rest is a busy peer."""

SHUTDOWN_SECONDS: Final = 2.0
"""How long the closing of all connections may take."""

SPARE_DESCRIPTORS: Final = 128
"""Open files besides connections: database, blobs in use, sockets of RPC and metrics."""

PEER_STREAM_LIMIT: Final = 32
"""Streams of one peer that are served at a time: one a protocol, and concurrent requests."""

STREAMS_PER_SECOND: Final = 50.0
"""Streams a second that one peer may open; each costs 3 ms of processor time."""

STREAMS_BURST: Final = 100.0
"""Streams at once that one peer may open."""

SHARED_STREAMS_PER_SECOND: Final = 100.0
"""Streams a second that all non-validators together may open."""


def reserve_descriptors(connections: int) -> None:
    """Raise this process's limit of open files to what this many connections need.

    Raises:
        OperatorError: The operating system's limit is lower.
    """
    wanted = connections + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        return
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise OperatorError(
            f"network.max_peers: {connections} connections need {wanted} open files, and the limit "
            f"of this process is {hard}: raise it (`ulimit -n {wanted}`, or LimitNOFILE={wanted} "
            "in the service file), or set fewer peers"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def load_or_create_host_key(path: Path) -> KeyPair:
    """The Ed25519 host key stored at `path`; a missing one is created, readable by its owner only.

    Raises:
        OperatorError: The file is not a key, or other users may read it.
    """
    if not path.exists():
        write_atomically(path, os.urandom(HOST_KEY_BYTES))
    if path.stat().st_mode & 0o077:
        raise OperatorError(f"host key {path} is readable by others: run `chmod 600 {path}`")
    seed = path.read_bytes()
    if len(seed) != HOST_KEY_BYTES:
        raise OperatorError(
            f"host key {path} holds {len(seed)} bytes instead of {HOST_KEY_BYTES}: restore it, or "
            "delete it to get a new peer id"
        )
    return host_key_from_seed(seed)


def host_key_from_seed(seed: bytes) -> KeyPair:
    """The Ed25519 key pair of a 32-byte seed."""
    private_key = Ed25519PrivateKey.from_bytes(seed)
    return KeyPair(private_key, private_key.get_public_key())


def create_host_key() -> KeyPair:
    """A new Ed25519 key pair, not stored."""
    return create_new_key_pair()


def compute_peer_id(key: KeyPair) -> PeerId:
    """The peer id of a host key."""
    return PeerId(ID.from_pubkey(key.public_key).to_base58())


class _LibP2PStream:
    """A libp2p stream as a ByteStream: StreamClosedError for every way to end."""

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream

    async def receive_some(self, max_bytes: int) -> bytes:
        try:
            return bytes(await self._stream.read(max_bytes))
        except StreamEOF:
            return b""
        except (StreamReset, StreamClosed, StreamError) as error:
            raise StreamClosedError("the peer reset the stream") from error

    async def send_all(self, data: bytes) -> None:
        try:
            await self._stream.write(data)
        except (StreamReset, StreamClosed, StreamError) as error:
            raise StreamClosedError("the peer reset the stream") from error

    async def close(self) -> None:
        # libp2p passes on any error of a broken connection; the stream has ended either way.
        with suppress(Exception):
            await self._stream.close()

    async def reset(self) -> None:
        with suppress(Exception):
            await self._stream.reset()


class LibP2PHost:
    """A host on TCP, Noise and Yamux. No input of a peer raises out of it."""

    def __init__(
        self,
        *,
        key: KeyPair,
        listen_addresses: Sequence[str],
        announce_addresses: Sequence[str] = (),
        max_connections: int,
        accept_private_addresses: bool = False,
    ) -> None:
        """Build a host that listens once `run` is entered.

        Args:
            key: the Ed25519 host key.
            listen_addresses: multiaddresses such as /ip4/0.0.0.0/tcp/9000; port 0 picks one.
            announce_addresses: what peers are told instead, without the /p2p part.
            max_connections: inbound and outbound connections together.
            accept_private_addresses: exempts private addresses from limits on connections.

        Raises:
            OperatorError: An address is not a TCP multiaddress, or the operating system allows
                fewer open files than connections.
            UnsupportedLibp2pError: Another version of libp2p is installed.
        """
        libp2p_fixes.apply()
        reserve_descriptors(max_connections)
        self._refused = Counter[str]()
        self._admission = Admission(accept_private_addresses=accept_private_addresses)
        self._inbound: dict[Endpoint, TrioTCPStream] = {}
        self._listen_addresses = [_parse_listen_address(text) for text in listen_addresses]
        self._announce_addresses = [_parse_listen_address(text) for text in announce_addresses]
        self._served: Counter[PeerId] = Counter()
        self._stream_budgets: WeakKeyDictionary[IMuxedConn, TokenBucket] = WeakKeyDictionary()
        self._shared_streams = TokenBucket(
            per_second=SHARED_STREAMS_PER_SECOND, burst=2 * SHARED_STREAMS_PER_SECOND
        )
        self._validator_connections: WeakSet[IMuxedConn] = WeakSet()
        noise = NoiseTransport(
            libp2p_keypair=key, noise_privkey=create_noise_key_pair().private_key
        )
        self._host = new_host(
            key_pair=key,
            sec_opt={TProtocol(NOISE_PROTOCOL_ID): noise},
            muxer_opt={TProtocol(YAMUX_PROTOCOL_ID): Yamux},
            listen_addrs=self._listen_addresses,
            connection_config=ConnectionConfig(
                max_connections=max_connections,
                high_watermark=max_connections,
                low_watermark=0,
                min_connections=0,
                max_connections_per_peer=2,
                dial_timeout=DIAL_SECONDS,
            ),
        )
        network = self._host.get_network()
        assert isinstance(network, Swarm)
        # The limits of this folder replace the default resource manager, which allows only 250
        # inbound connections in the life of a node, and 10 a second from an address.
        network.set_resource_manager(None)
        network.retry_config = RetryConfig(max_retries=0)
        libp2p_fixes.guard_inbound_connections(network, self._guard_inbound)
        libp2p_fixes.pace_inbound_streams(network, self._pace_stream)
        # The status handshake tells what a node needs to know of a peer.
        self._host.remove_stream_handler(ID_PUSH)

    @property
    def peer_id(self) -> PeerId:
        """The peer id of this node."""
        return PeerId(self._host.get_id().to_base58())

    def listen_addresses(self) -> tuple[str, ...]:
        """The full multiaddresses of this node, with the `/p2p/` part."""
        addresses = self._announce_addresses or self._host.get_transport_addrs()
        suffix = f"/p2p/{self.peer_id}"
        return tuple(sorted(f"{address}".removesuffix(suffix) + suffix for address in addresses))

    def connected_peers(self) -> tuple[PeerId, ...]:
        """Peers with at least one open connection, sorted."""
        return tuple(sorted(PeerId(peer.to_base58()) for peer in self._host.get_connected_peers()))

    def inbound_connections(self) -> tuple[int, Mapping[str, int]]:
        """The number of open ones, and of those closed without a session, by reason."""
        return self._admission.count(), self._refused

    def set_handler(self, protocol_id: str, handler: StreamHandler) -> None:
        """Serve a protocol; called before the host runs."""

        async def serve(stream: INetStream) -> None:
            await self._serve(stream, handler)

        self._host.set_stream_handler(TProtocol(protocol_id), serve)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Listen while the `with` block runs.

        Raises:
            OperatorError: A listen address is in use, or not one of this machine.
        """
        async with trio.open_nursery() as nursery:
            stop = trio.Event()
            is_listening = await nursery.start(self._run_until, stop)
            try:
                if is_listening:
                    yield
            finally:
                stop.set()
        if not is_listening:
            addresses = ", ".join(str(address) for address in self._listen_addresses)
            raise OperatorError(
                f"network.listen: cannot listen on {addresses}: the port is in use "
                "or the address is not this machine's; choose another"
            )

    async def _run_until(
        self, stop: trio.Event, task_status: TaskStatus[bool] = trio.TASK_STATUS_IGNORED
    ) -> None:
        # libp2p leaks its sockets when it is cancelled, so a stop event ends it instead.
        with trio.CancelScope(shield=True):
            async with self._host.run(listen_addrs=self._listen_addresses):
                listeners = self._host.get_network().listeners
                task_status.started(len(listeners) == len(self._listen_addresses))
                await stop.wait()
                with trio.move_on_after(SHUTDOWN_SECONDS):
                    async with trio.open_nursery() as nursery:
                        for peer_id in self.connected_peers():
                            nursery.start_soon(self.disconnect, peer_id)

    async def dial(self, peer_id: PeerId, address: str) -> None:
        """Connect to `peer_id` at a full multiaddress.

        Raises:
            UnreachablePeerError: No node with that peer id answers there.
        """
        network = self._host.get_network()
        try:
            peer = ID.from_base58(peer_id)
            # libp2p dials one of the TCP addresses that it knows: leave it only this one.
            with suppress(PeerStoreError):
                network.peerstore.clear_addrs(peer)
            network.peerstore.add_addr(peer, Multiaddr(address.split("/p2p/")[0]), 3600)
            with trio.fail_after(DIAL_SECONDS):
                await network.dial_peer(peer)
        except Exception as error:  # libp2p raises many types, ValueError and OSError among them
            raise UnreachablePeerError(f"{address}: {error}") from error

    async def open_stream(self, peer_id: PeerId, protocol_id: str) -> FrameStream:
        """A new stream over an existing connection.

        Raises:
            UnreachablePeerError: No connection, or the peer does not speak the protocol.
        """
        peer = ID.from_base58(peer_id)
        if not self._host.get_network().get_connections(peer):
            raise UnreachablePeerError(f"not connected to {peer_id}")
        try:
            with trio.fail_after(DIAL_SECONDS):
                stream = await self._host.new_stream(peer, [TProtocol(protocol_id)])
        except Exception as error:
            raise UnreachablePeerError(f"no {protocol_id} stream to {peer_id}: {error}") from error
        return FrameStream(_LibP2PStream(stream), peer_id)

    def keep(self, peer_id: PeerId, *, is_validator: bool) -> None:
        """Mark the peer as one with a session, so that its connection is not closed for others."""
        for connection in self._host.get_network().get_connections(ID.from_base58(peer_id)):
            muxed = connection.muxed_conn
            assert isinstance(muxed, Yamux)
            if endpoint := muxed.get_remote_address():
                self._admission.keep(endpoint, is_validator=is_validator)
            if is_validator:
                self._validator_connections.add(muxed)
            else:
                self._validator_connections.discard(muxed)

    async def disconnect(self, peer_id: PeerId) -> None:
        """Close every connection to the peer; never raises."""
        with suppress(Exception):
            await self._host.get_network().close_peer(ID.from_base58(peer_id))

    @asynccontextmanager
    async def _guard_inbound(self, connection: TrioTCPStream) -> AsyncIterator[bool]:
        """Enclose the life of an inbound connection; False if it is not admitted."""
        endpoint = connection.get_remote_address()
        if endpoint is None or endpoint in self._inbound:
            # The connection has ended, or one socket is connected to two of our ports.
            yield False
            return
        refusal = self._admission.admit(endpoint, trio.current_time())
        if refusal is not None:
            self._refused[refusal] += 1
            yield False
            return
        self._inbound[endpoint] = connection
        try:
            if surplus := self._admission.find_surplus():
                self._refused["no_session"] += 1
                await self._inbound[surplus].close()
            yield True
        finally:
            del self._inbound[endpoint]
            self._admission.release(endpoint)

    async def _pace_stream(self, connection: IMuxedConn) -> None:
        """Wait while this peer, or all non-validators together, open streams too fast."""
        if connection not in self._stream_budgets:
            self._stream_budgets[connection] = TokenBucket(
                per_second=STREAMS_PER_SECOND, burst=STREAMS_BURST
            )
        await self._stream_budgets[connection].take(1)
        if connection not in self._validator_connections:
            await self._shared_streams.take(1)

    async def _serve(self, raw_stream: INetStream, handler: StreamHandler) -> None:
        peer_id = PeerId(raw_stream.muxed_conn.peer_id.to_base58())
        stream = FrameStream(_LibP2PStream(raw_stream), peer_id)
        if self._served[peer_id] >= PEER_STREAM_LIMIT:
            await stream.reset()
            return
        self._served[peer_id] += 1
        try:
            await handler(stream)
        except (StreamClosedError, RejectedInputError):
            await stream.reset()
        except Exception:  # noqa: BLE001 - a bug of ours ends this stream only
            _log.exception("stream handler failed", peer_id=peer_id)
            await stream.reset()
        else:
            await stream.close()
        finally:
            self._served[peer_id] -= 1
            if not self._served[peer_id]:
                del self._served[peer_id]


def _parse_listen_address(text: str) -> Multiaddr:
    try:
        address = Multiaddr(text)
        address.value_for_protocol("tcp")
    except Exception as error:
        raise OperatorError(
            f"network.listen: {text!r} is not like /ip4/0.0.0.0/tcp/9000"
        ) from error
    return address
