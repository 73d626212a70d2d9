"""A full HTTP port still accepts clients from other addresses, and heads have limits."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import uvicorn
from uvicorn.server import ServerState

from node.rpc.connections import (
    FIELD_LIMIT,
    HEAD_LIMIT_BYTES,
    HEAD_SECONDS,
    PIPELINE_LIMIT,
    SharedConnection,
    choose_connection,
)
from node.rpc.http import get_client_group


@dataclass(eq=False)
class FakeConnection:
    group: str
    opened_at: float
    is_busy: bool = False


def choose(newcomer: FakeConnection, *others: FakeConnection) -> FakeConnection:
    return choose_connection(others, newcomer)


def test_address_with_the_most_connections_loses_its_oldest_idle_one() -> None:
    busy = FakeConnection("many", 1, is_busy=True)
    young, old = FakeConnection("many", 3), FakeConnection("many", 2)
    other = FakeConnection("other", 0)
    assert choose(FakeConnection("new", 9), busy, young, old, other) is old


def test_address_without_idle_connections_loses_its_newest_request() -> None:
    first, last = (FakeConnection("many", at, is_busy=True) for at in (1, 2))
    assert choose(FakeConnection("new", 9), first, last, FakeConnection("other", 0)) is last


def test_address_with_the_most_connections_takes_none_of_another() -> None:
    busy = [FakeConnection("many", at, is_busy=True) for at in range(3)]
    newcomer = FakeConnection("many", 9)
    assert choose(newcomer, *busy, FakeConnection("other", 0)) is newcomer


def test_idle_connection_gives_way_if_all_addresses_have_one() -> None:
    busy = [FakeConnection(str(at), at, is_busy=True) for at in range(3)]
    idle, newcomer = FakeConnection("idle", 5), FakeConnection("new", 9)
    assert choose(newcomer, *busy, idle) is idle
    assert choose(newcomer, *busy) is newcomer


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:0:1:ff::1", "2001:db8:0:1::/64"),
        ("", ""),
    ],
)
def test_ipv6_network_counts_as_one_client(address: str, group: str) -> None:
    assert get_client_group(address) == group


class FakeTransport(asyncio.Transport):
    """What a client has got on a connection."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Client:
    """A connection whose requests are never answered."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        async def never_answer(_scope: object, _receive: object, _send: object) -> None:
            await asyncio.Event().wait()

        config = uvicorn.Config(never_answer, http=SharedConnection, log_config=None)
        config.load()
        self.transport = FakeTransport()
        self.connection = SharedConnection(config, ServerState(), {}, loop)
        self.connection.connection_made(self.transport)

    def send(self, data: bytes) -> int:
        """Send until the node ends the connection; how many bytes it took, 4 096 at a time."""
        for start in range(0, len(data), 4_096):
            if self.transport.is_closed:
                return start
            self.connection.data_received(data[start : start + 4_096])
        return len(data)


@pytest.fixture
def client() -> Iterator[Client]:
    loop = asyncio.new_event_loop()
    yield Client(loop)
    loop.run_until_complete(asyncio.sleep(0))
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


POST = b"POST / HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize(
    ("head", "endless"),
    [
        (b"GET /", b"a" * 2**20),
        (b"", b"G" * 2**20),
        (POST, b"a:b\r\n" * 2**18),
        (POST + b"a:", b"b" * 2**20),
        (POST, b"a" * 2**20),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 2**20),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n5;a=", b"b" * 2**20),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"a:b\r\n" * 2**18),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\na:", b"b" * 2**20),
    ],
)
def test_head_or_trailer_without_an_end_ends_the_connection(
    client: Client, head: bytes, endless: bytes
) -> None:
    assert client.send(head + endless) <= 2 * HEAD_LIMIT_BYTES
    assert client.transport.is_closed


def test_number_of_fields_has_a_limit(client: Client) -> None:
    fields = b"".join(b"f%d: v\r\n" % number for number in range(FIELD_LIMIT))
    client.send(POST + fields + b"\r\n")
    assert client.transport.written.startswith(b"HTTP/1.1 400")


def test_request_within_the_limits_is_taken(client: Client) -> None:
    fields = b"".join(b"f%d: v\r\n" % number for number in range(FIELD_LIMIT - 10))
    body = b"x" * 2**20
    client.send(POST + fields + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert not client.transport.is_closed
    assert client.connection.is_busy


def test_chunked_body_of_tiny_chunks_is_taken(client: Client) -> None:
    chunks = b"1\r\nx\r\n" * 2**16
    client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    assert not client.transport.is_closed


def test_requests_that_wait_on_a_connection_have_a_limit(client: Client) -> None:
    client.send((POST + b"\r\n") * (PIPELINE_LIMIT + 1))
    assert not client.transport.is_closed
    client.send(POST + b"\r\n")
    assert client.transport.is_closed


@pytest.mark.parametrize("sent", [b"", POST])
def test_head_that_takes_long_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch, client: Client, sent: bytes
) -> None:
    loop = client.connection.loop
    client.send(sent)
    now = loop.time()
    for seconds, is_closed in ((HEAD_SECONDS - 1, False), (HEAD_SECONDS + 1, True)):
        monkeypatch.setattr(loop, "time", lambda at=now + seconds: at)
        loop.run_until_complete(asyncio.sleep(0))
        assert client.transport.is_closed is is_closed


def test_request_that_runs_long_ends_no_connection(
    monkeypatch: pytest.MonkeyPatch, client: Client
) -> None:
    loop = client.connection.loop
    client.send(POST + b"\r\n" + POST)
    later = loop.time() + 5 * HEAD_SECONDS
    monkeypatch.setattr(loop, "time", lambda: later)
    loop.run_until_complete(asyncio.sleep(0))
    assert not client.transport.is_closed
