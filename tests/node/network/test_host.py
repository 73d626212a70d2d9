"""Real hosts on loopback under hostile peers and broken handlers."""

import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.errors import InvalidMessage, RejectionReason
from node.network import admission
from node.network import host as host_module
from node.network.host import (
    SHARED_STREAMS_PER_SECOND,
    STREAMS_BURST,
    STREAMS_PER_SECOND,
    LibP2PHost,
    compute_peer_id,
    create_host_key,
    load_or_create_host_key,
)
from node.network.stream import FrameStream, PeerId, StreamClosedError, UnreachablePeerError
from pot_common.errors import OperatorError
from tests.worlds.waiting import until

ECHO = "/echo/1"


async def echo(stream: FrameStream) -> None:
    while True:
        await stream.write_frame(await stream.read_frame(2**20))


def build_host(listen: str = "/ip4/127.0.0.1/tcp/0") -> LibP2PHost:
    host = LibP2PHost(
        key=create_host_key(),
        listen_addresses=[listen],
        max_connections=20,
        accept_private_addresses=True,
    )
    host.set_handler(ECHO, echo)
    return host


@asynccontextmanager
async def connected_pair() -> AsyncIterator[tuple[LibP2PHost, LibP2PHost]]:
    first, second = build_host(), build_host()
    async with first.run(), second.run():
        await first.dial(second.peer_id, second.listen_addresses()[0])
        yield first, second


async def check_alive(host: LibP2PHost) -> None:
    """Check that a new peer gets an answer."""
    client = build_host()
    async with client.run():
        with trio.fail_after(5):
            await client.dial(host.peer_id, host.listen_addresses()[0])
            stream = await client.open_stream(host.peer_id, ECHO)
            await stream.write_frame(b"alive")
            assert await stream.read_frame(100) == b"alive"


def test_host_key_is_stored_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "host.key"
    key = load_or_create_host_key(path)
    assert compute_peer_id(load_or_create_host_key(path)) == compute_peer_id(key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with pytest.raises(OperatorError, match="chmod 600"):
        load_or_create_host_key(path)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(OperatorError, match="5 bytes instead of 32"):
        load_or_create_host_key(path)


def test_invalid_listen_address_is_reported() -> None:
    with pytest.raises(OperatorError, match=r"network\.listen: '0\.0\.0\.0:9000'"):
        build_host("0.0.0.0:9000")


async def test_port_in_use_is_reported() -> None:
    first = build_host()
    async with first.run():
        taken = first.listen_addresses()[0].split("/p2p/")[0]
        second = build_host(taken)
        with pytest.raises(OperatorError, match="the port is in use"):
            async with second.run():
                pytest.fail("two hosts listen on one port")


async def test_wrong_peer_id_and_closed_port_are_unreachable() -> None:
    first, second = build_host(), build_host()
    unknown = compute_peer_id(create_host_key())
    async with first.run(), second.run():
        address = second.listen_addresses()[0]
        for peer_id, target in (
            (unknown, address),
            (unknown, "/ip4/127.0.0.1/tcp/1"),
            (PeerId("not base58!"), address),
        ):
            with pytest.raises(UnreachablePeerError):
                await first.dial(peer_id, target)
        with pytest.raises(UnreachablePeerError):
            await first.open_stream(unknown, ECHO)
        await first.dial(second.peer_id, address)
        with pytest.raises(UnreachablePeerError):
            await first.open_stream(second.peer_id, "/unknown/1")
        assert first.connected_peers() == (second.peer_id,)
        await first.disconnect(second.peer_id)
        await until(lambda: first.connected_peers() == second.connected_peers() == ())


@pytest.mark.parametrize(
    "error",
    [
        ValueError("our bug"),
        ExceptionGroup("of a nursery", [KeyError("our bug")]),
        InvalidMessage(RejectionReason.MALFORMED),
        StreamClosedError("gone"),
    ],
)
async def test_exception_in_a_handler_ends_only_its_stream(error: Exception) -> None:
    async def fail(stream: FrameStream) -> None:
        raise error

    first, second = build_host(), build_host()
    second.set_handler("/fail/1", fail)
    async with first.run(), second.run():
        await first.dial(second.peer_id, second.listen_addresses()[0])
        stream = await first.open_stream(second.peer_id, "/fail/1")
        with pytest.raises(StreamClosedError), trio.fail_after(5):
            await stream.read_frame(100)
        echoed = await first.open_stream(second.peer_id, ECHO)
        await echoed.write_frame(b"alive")
        assert await echoed.read_frame(100) == b"alive"


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\x00" * 1000,
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x13/multistream/1.0.0\n\x07/noise\n" + b"\xff" * 70_000,
        b"\x13/multistream/1.0.0\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_garbage_on_the_port_does_not_stop_the_host(garbage: bytes) -> None:
    host = build_host()
    async with host.run():
        port = int(host.listen_addresses()[0].split("/")[4])
        for closes in (True, False):
            raw = await trio.open_tcp_stream("127.0.0.1", port)
            await raw.send_all(garbage)
            if closes:
                await raw.aclose()
        await check_alive(host)
        await raw.aclose()


async def test_address_above_its_rate_is_refused_before_the_handshake() -> None:
    host = LibP2PHost(
        key=create_host_key(), listen_addresses=["/ip4/127.0.0.1/tcp/0"], max_connections=50
    )
    async with host.run():
        port = int(host.listen_addresses()[0].split("/")[4])
        silent = [
            await trio.open_tcp_stream("127.0.0.1", port)
            for _ in range(admission.ADDRESS_CONNECTION_LIMIT)
        ]
        await until(lambda: host._admission.count() == admission.ADDRESS_CONNECTION_LIMIT)
        late = await trio.open_tcp_stream("127.0.0.1", port)
        with trio.fail_after(2):
            assert await late.receive_some(1) == b""
        assert host.inbound_connections() == (len(silent), {"address_full": 1})
        for stream in (*silent, late):
            await stream.aclose()
        await until(lambda: host._admission.count() == 0)


async def test_connections_without_a_session_make_room_for_new_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "SESSIONLESS_LIMIT", 3)
    host, client = build_host(), build_host()
    async with host.run(), client.run():
        port = int(host.listen_addresses()[0].split("/")[4])
        await client.dial(host.peer_id, host.listen_addresses()[0])
        await until(lambda: host.connected_peers() == (client.peer_id,))
        host.keep(client.peer_id, is_validator=True)
        silent = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(4)]
        await until(lambda: host._refused["no_session"] == 1)
        await until(lambda: host._admission.count() == 4)
        assert host.connected_peers() == (client.peer_id,)
        for stream in silent:
            await stream.aclose()


def test_too_low_limit_of_open_files_is_reported_with_the_cure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = [(256, 400)]
    monkeypatch.setattr(host_module.resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(host_module.resource, "setrlimit", lambda _, given: limits.append(given))
    host_module.reserve_descriptors(128)
    host_module.reserve_descriptors(200)
    assert limits == [(256, 400), (328, 400)]
    with pytest.raises(OperatorError, match=r"network\.max_peers.*ulimit -n 1128"):
        host_module.reserve_descriptors(1000)


async def test_half_open_and_idle_streams_do_not_stop_the_host() -> None:
    async with connected_pair() as (first, second):
        for _ in range(10):
            await first.open_stream(second.peer_id, ECHO)
        half_closed = await first.open_stream(second.peer_id, ECHO)
        await half_closed.close()
        await check_alive(second)


async def test_streams_of_one_peer_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "PEER_STREAM_LIMIT", 3)
    async with connected_pair() as (first, second):
        streams = [await first.open_stream(second.peer_id, ECHO) for _ in range(4)]
        answered = 0
        for stream in streams:
            try:
                await stream.write_frame(b"x")
                answered += await stream.read_frame(100) == b"x"
            except StreamClosedError:
                continue
        assert answered == 3
        await streams[0].reset()
        await until(lambda: second._served[first.peer_id] == 2)
        stream = await first.open_stream(second.peer_id, ECHO)
        await stream.write_frame(b"again")
        assert await stream.read_frame(100) == b"again"


class Connection:
    """A fake connection of a peer."""


async def test_stream_rate_is_limited_by_connection_and_by_shared_budget(
    autojump_clock: MockClock,
) -> None:
    host = build_host()
    connections = [Connection() for _ in range(20)]
    host._validator_connections.add(connections[0])
    taken = [0] * len(connections)

    async def flood(index: int) -> None:
        while True:
            await host._pace_stream(connections[index])
            taken[index] += 1

    async with trio.open_nursery() as nursery:
        for index in range(len(connections)):
            nursery.start_soon(flood, index)
        await trio.sleep(30)
        nursery.cancel_scope.cancel()
    validators, *non_validators = taken
    assert validators == pytest.approx(30 * STREAMS_PER_SECOND + STREAMS_BURST, abs=2)
    assert sum(non_validators) == pytest.approx(32 * SHARED_STREAMS_PER_SECOND, rel=0.01)
    assert max(non_validators) <= min(non_validators) + STREAMS_BURST


async def test_streams_that_come_too_fast_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "STREAMS_PER_SECOND", 10.0)
    monkeypatch.setattr(host_module, "STREAMS_BURST", 5.0)
    async with connected_pair() as (first, second):
        start = trio.current_time()
        for _ in range(15):
            stream = await first.open_stream(second.peer_id, ECHO)
            await stream.reset()
        # The burst of five, and one or two streams that the host itself opened.
        assert trio.current_time() - start >= 0.9


async def test_cancelled_writer_does_not_break_the_connection() -> None:
    async with connected_pair() as (first, second):
        for attempt in range(10):
            stream = await first.open_stream(second.peer_id, ECHO)
            with trio.move_on_after(0.001 * attempt):
                await stream.write_frame(bytes(2**20))
            await stream.reset()
        stream = await first.open_stream(second.peer_id, ECHO)
        await stream.write_frame(b"alive")
        with trio.fail_after(5):
            assert await stream.read_frame(100) == b"alive"
