"""The defects of libp2p, one function for each; it returns True if the defect does not show.

Run as a program with `stock` or `fixed`; prints the outcomes as JSON.
"""

# ruff: noqa: BLE001, ASYNC110 - any exception of stock libp2p is a finding, and it offers no event

import json
import logging
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import trio
import trio.testing
from libp2p import new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host import ping
from libp2p.io import msgio
from libp2p.io.exceptions import IncompleteReadError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.config import ConnectionConfig
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL_ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux import yamux
from multiaddr import Multiaddr

from node.network import libp2p_fixes

ECHO = TProtocol("/echo/1")


def build_host(listen: str = "/ip4/127.0.0.1/tcp/0", max_connections: int = 50) -> IHost:
    key = create_new_key_pair()
    noise = NoiseTransport(key, noise_privkey=create_noise_key_pair().private_key)
    host = new_host(
        key_pair=key,
        sec_opt={TProtocol(NOISE_PROTOCOL_ID): noise},
        muxer_opt={TProtocol(yamux.PROTOCOL_ID): yamux.Yamux},
        listen_addrs=[Multiaddr(listen)],
        connection_config=ConnectionConfig(
            max_connections=max_connections,
            high_watermark=max_connections,
            low_watermark=0,
            min_connections=0,
        ),
    )
    host.get_network().set_resource_manager(None)
    return host


@asynccontextmanager
async def running(host: IHost, listen: str = "/ip4/127.0.0.1/tcp/0") -> AsyncIterator[IHost]:
    async with host.run(listen_addrs=[Multiaddr(listen)]):
        yield host


def address_of(host: IHost) -> Multiaddr:
    return host.get_transport_addrs()[0]


async def connect(host: IHost, other: IHost) -> None:
    network = host.get_network()
    network.peerstore.add_addr(other.get_id(), address_of(other), 60)
    with trio.fail_after(5):
        await network.dial_peer(other.get_id())


async def echo(stream: INetStream) -> None:
    while True:
        await stream.write(await stream.read(65536))


async def release_inbound_slots() -> bool:
    server = build_host(max_connections=2)
    async with running(server):
        for _ in range(4):
            client = build_host()
            async with running(client):
                try:
                    await connect(client, server)
                except Exception:
                    return False
                await client.get_network().close_peer(server.get_id())
            with trio.fail_after(5):
                while server.get_network().get_connections(client.get_id()):
                    await trio.sleep(0.01)
    return True


async def contain_handler_errors() -> bool:
    async def fail(_: INetStream) -> None:
        raise ValueError("a handler's bug")

    server, client = build_host(), build_host()
    server.set_stream_handler(TProtocol("/fail/1"), fail)
    server.set_stream_handler(ECHO, echo)
    async with running(server), running(client):
        await connect(client, server)
        await client.new_stream(server.get_id(), [TProtocol("/fail/1")])
        await trio.sleep(0.2)
        stream = await client.new_stream(server.get_id(), [ECHO])
        await stream.write(b"alive")
        with trio.fail_after(2):
            return await stream.read(5) == b"alive"


async def disable_dial_ban() -> bool:
    server, client = build_host(), build_host()
    async with running(client):
        network = client.get_network()
        network.retry_config.max_retries = 0
        network.peerstore.add_addr(server.get_id(), Multiaddr("/ip4/127.0.0.1/tcp/1"), 60)
        try:
            await network.dial_peer(server.get_id())
        except Exception:
            network.peerstore.clear_addrs(server.get_id())
        async with running(server):
            try:
                await connect(client, server)
            except Exception:
                return False
    return True


async def disable_dial_delay() -> bool:
    server, client = build_host(), build_host()
    async with running(server), running(client):
        start = trio.current_time()
        await connect(client, server)
        return trio.current_time() - start < 0.25


async def disable_auto_connector() -> bool:
    server, client = build_host(), build_host()
    async with running(server), running(client):
        network = client.get_network()
        network.peerstore.add_addr(server.get_id(), address_of(server), 60)
        await network.auto_connector.maybe_connect()
        await trio.sleep(0.5)
        return not network.connections


async def drop_state_of_disconnected_peers() -> bool:
    server, client = build_host(), build_host()
    network = server.get_network()
    ping_service = server.get_mux().handlers[ping.ID].__self__
    async with running(server), running(client):
        await connect(client, server)
        await ping.PingService(client).ping(server.get_id())
        await client.get_network().close_peer(server.get_id())
        with trio.fail_after(5):
            while network.connections:
                await trio.sleep(0.01)
        await trio.sleep(0.1)
    return not network.auto_connector._recent_disconnects and not ping_service._inbound_streams


async def disable_port_sharing() -> bool:
    first = build_host()
    async with running(first):
        port = address_of(first).value_for_protocol("tcp")
        taken = f"/ip4/127.0.0.1/tcp/{port}"
        second = build_host(taken)
        async with running(second, taken):
            return not second.get_network().listeners


async def lift_short_read_limit() -> bool:
    class OneByteAtATime:
        async def read(self, n: int | None = None) -> bytes:
            return b"x"

    try:
        for read_exactly in (msgio.read_exactly, yamux.read_exactly):
            await read_exactly(OneByteAtATime(), 300)
    except IncompleteReadError:
        return False
    return True


async def limit_negotiations() -> bool:
    """A line of 64 KiB before the handshake ends the connection, and so do endless requests."""
    return await _refuses_long_lines() and await _refuses_many_lines()


async def _refuses_long_lines() -> bool:
    server = build_host()
    async with running(server):
        port = int(address_of(server).value_for_protocol("tcp"))
        client = await trio.open_tcp_stream("127.0.0.1", port)
        await client.send_all(b"\x80\x80\x04" + bytes(1000))
        return await _is_closed(client)


async def _refuses_many_lines() -> bool:
    server = build_host()
    async with running(server):
        port = int(address_of(server).value_for_protocol("tcp"))
        client = await trio.open_tcp_stream("127.0.0.1", port)
        await client.send_all(b"\x13/multistream/1.0.0\n" + b"\x03no\n" * 100)
        return await _is_closed(client)


async def _is_closed(stream: trio.SocketStream) -> bool:
    with trio.move_on_after(2):
        try:
            while await stream.receive_some(65536):
                pass
        except trio.BrokenResourceError:
            pass
        return True
    return False


async def disable_identify() -> bool:
    """The addresses that a connected peer pushes are not kept."""
    server, client = build_host(), build_host()
    async with running(server), running(client):
        await connect(client, server)
        await trio.sleep(0.3)
        store = server.get_peerstore()
        known = store.has_peer(client.get_id()) and store.get_protocols(client.get_id())
        return not known


async def read_ipv6_remote_addresses() -> bool:
    class Socket:
        def getpeername(self) -> tuple[str, int, int, int]:
            return ("2001:db8::1", 9000, 0, 0)

    class Stream:
        socket = Socket()

    return TrioTCPStream(Stream()).get_remote_address() == ("2001:db8::1", 9000)


async def limit_connections() -> bool:
    """Too many unread bytes, a huge frame, endless streams and wrong stream ids are all refused."""
    return (
        await _refuses_bytes()
        and await _refuses_huge_frame()
        and await _refuses_streams(first_id=1001)
        and await _refuses_streams(first_id=1000)
    )


async def _refuses_bytes() -> bool:
    async def never_read(_: INetStream) -> None:
        await trio.sleep_forever()

    server, client = build_host(), build_host()
    server.set_stream_handler(ECHO, never_read)
    async with running(server), running(client):
        await connect(client, server)
        stream = await client.new_stream(server.get_id(), [ECHO])
        connection = stream.muxed_conn
        header = struct.pack(
            yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_DATA, 0, stream.muxed_stream.stream_id, 2**15
        )
        try:
            for _ in range(200):
                await connection._write_frame(header + bytes(2**15))
            await trio.sleep(0.5)
        except Exception:
            return True
        return client.get_id() not in server.get_network().connections


async def _refuses_huge_frame() -> bool:
    """A frame longer than any window is refused by its header."""
    server, client = build_host(), build_host()
    server.set_stream_handler(ECHO, echo)
    async with running(server), running(client):
        await connect(client, server)
        stream = await client.new_stream(server.get_id(), [ECHO])
        header = struct.pack(
            yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_DATA, 0, stream.muxed_stream.stream_id, 2**23
        )
        await stream.muxed_conn._write_frame(header)
        await trio.sleep(0.5)
        return client.get_id() not in server.get_network().connections


async def _refuses_streams(first_id: int) -> bool:
    server, client = build_host(), build_host()
    async with running(server), running(client):
        await connect(client, server)
        [connection] = client.get_network().get_connections(server.get_id())
        try:
            for index in range(300):
                header = struct.pack(
                    yamux.YAMUX_HEADER_FORMAT,
                    0,
                    yamux.TYPE_WINDOW_UPDATE,
                    yamux.FLAG_SYN,
                    first_id + 2 * index,
                    0,
                )
                await connection.muxed_conn._write_frame(header)
            await trio.sleep(0.5)
        except Exception:
            return True
        return client.get_id() not in server.get_network().connections


async def send_fewer_window_updates() -> bool:
    """To read a MiB in small pieces takes a handful of WINDOW_UPDATEs, not one for each."""
    updates = 0
    send = yamux.YamuxStream.send_window_update

    async def count(self: yamux.YamuxStream, increment: int, skip_lock: bool = False) -> None:
        nonlocal updates
        updates += 1
        await send(self, increment, skip_lock)

    yamux.YamuxStream.send_window_update = count  # type: ignore[method-assign]
    done = trio.Event()

    async def read_all(stream: INetStream) -> None:
        left = 2**20
        while left:
            left -= len(await stream.read(1000))
        done.set()

    server, client = build_host(), build_host()
    server.set_stream_handler(ECHO, read_all)
    try:
        async with running(server), running(client):
            await connect(client, server)
            stream = await client.new_stream(server.get_id(), [ECHO])
            await stream.write(bytes(2**20))
            with trio.fail_after(10):
                await done.wait()
    finally:
        yamux.YamuxStream.send_window_update = send  # type: ignore[method-assign]
    return updates < 20


async def wait_for_slow_readers() -> bool:
    """A stream whose reader pauses for 8 s (of a mock clock) is not reset."""

    class Connection:
        written = 0

        async def _write_frame(self, frame: bytes) -> None:
            self.written += len(frame)

    connection = Connection()
    stream = yamux.YamuxStream(1, connection, True)
    stream.send_window = 0

    async def resume() -> None:
        await trio.sleep(8)
        stream.send_window = 1000

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(resume)
            await stream.write(bytes(1000))
    except BaseExceptionGroup as errors:
        if errors.subgroup(MuxedStreamError):
            return False
        raise
    return connection.written > 1000


async def write_whole_frames() -> bool:
    """After a writer was cancelled in the middle of a frame, other streams still work."""
    server, client = build_host(), build_host()
    server.set_stream_handler(ECHO, echo)
    async with running(server), running(client):
        await connect(client, server)
        victim = await client.new_stream(server.get_id(), [ECHO])
        other = await client.new_stream(server.get_id(), [ECHO])
        [connection] = client.get_network().get_connections(server.get_id())
        raw = connection.muxed_conn.secured_conn
        write = raw.write
        is_first = True

        async def write_slowly(data: bytes) -> None:
            nonlocal is_first
            if is_first and len(data) > 1000:
                is_first = False
                with trio.CancelScope() as scope:
                    # The socket blocks for a moment, in which the writer is cancelled.
                    victim_scope.cancel()
                    await trio.lowlevel.checkpoint()
                    assert not scope.cancelled_caught
            await write(data)

        raw.write = write_slowly
        with trio.CancelScope() as victim_scope:
            await victim.write(bytes(5000))
        # Either the frame was sent whole, or the window it used is lost for ever.
        await other.write(b"alive")
        with trio.fail_after(2):
            if await other.read(5) != b"alive":
                return False
        received = 0
        with trio.move_on_after(1):
            while received < 5000:
                received += len(await victim.read(65536))
        return received == 5000


async def main_of(scenario: Callable[[], Awaitable[bool]]) -> bool:
    with trio.fail_after(30):
        return await scenario()


def run(scenario: Callable[[], Awaitable[bool]]) -> str:
    clock = (
        trio.testing.MockClock(autojump_threshold=0) if scenario is wait_for_slow_readers else None
    )
    try:
        return "sound" if trio.run(main_of, scenario, clock=clock) else "defect"
    except BaseException as error:
        return f"defect: {error!r}"


def main() -> None:
    logging.disable(logging.CRITICAL)
    if sys.argv[1] == "fixed":
        libp2p_fixes.apply()
    names = [fix.__name__ for fix in libp2p_fixes.FIXES]
    with ThreadPoolExecutor(max_workers=4) as threads:  # a scenario waits most of its time
        outcomes = dict(
            zip(names, threads.map(run, [globals()[name] for name in names]), strict=True)
        )
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
