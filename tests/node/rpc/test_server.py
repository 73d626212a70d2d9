"""The HTTP port: routes, limits and access rules."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from chain.crypto import CHUNK_BYTES, merkle_leaf
from node.rpc import http
from node.rpc.blobs import CONCURRENT_TRANSFERS, BlobReads
from node.rpc.held_bytes import HeldBytes, NoRoomError
from node.rpc.http import (
    ABORT_EXTENSION,
    PART_BYTES,
    AccessRules,
    HttpApplication,
    HttpError,
    Message,
    Request,
    Response,
    error_response,
)
from node.storage.blobs import BlobStore
from tests.worlds.rpc import RpcHarness, rpc_harness

CALL = {"jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber"}
_POST = {"method": "POST", "path": "/", "headers": [], "query_string": b""}


@pytest.fixture(scope="module")
def rpc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RpcHarness]:
    with rpc_harness(tmp_path_factory.mktemp("rpc")) as harness:
        yield harness


def test_json_rpc_errors_are_http_200(rpc: RpcHarness) -> None:
    json_type = {"content-type": "application/json; charset=utf-8"}
    response = rpc.http("POST", "/", content=b"{", headers=json_type)
    assert (response.status_code, response.json()["error"]["code"]) == (200, -32700)
    assert rpc.http("POST", "/", json={**CALL, "method": "no"}).status_code == 200


def test_notification_has_no_body(rpc: RpcHarness) -> None:
    response = rpc.http("POST", "/", json={"jsonrpc": "2.0", "method": "eth_blockNumber"})
    assert (response.status_code, response.content) == (204, b"")


def test_form_of_a_foreign_web_page_cannot_call(rpc: RpcHarness) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", ""):
        headers = {"content-type": content_type}
        assert rpc.http("POST", "/", content=b"{}", headers=headers).status_code == 415


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8545", 200),
        ("127.0.0.1:8545", 200),
        ("192.168.1.7", 200),
        ("[::1]:8545", 200),
        ("[::1]", 200),
        ("node.example:1", 200),
        ("attacker.example", 403),
        ("localhost.attacker.example:8545", 403),
        ("127.0.0.1.attacker.example", 403),
        ("", 403),
    ],
)
def test_only_allowed_host_names_are_answered(rpc: RpcHarness, host: str, status: int) -> None:
    assert rpc.http("POST", "/", json=CALL, headers={"host": host}).status_code == status


def test_only_configured_web_pages_may_read_answers(rpc: RpcHarness) -> None:
    wallet, foreign = {"origin": "https://wallet.example"}, {"origin": "https://other.example"}
    allowed = rpc.http("POST", "/", json=CALL, headers=wallet)
    assert allowed.headers["access-control-allow-origin"] == "https://wallet.example"
    preflight = rpc.http("OPTIONS", "/", headers=wallet)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "https://wallet.example"
    assert "content-type" in preflight.headers["access-control-allow-headers"]
    for response in (
        rpc.http("POST", "/", json=CALL, headers=foreign),
        rpc.http("OPTIONS", "/", headers=foreign),
        rpc.http("POST", "/", json=CALL),
    ):
        assert "access-control-allow-origin" not in response.headers


def test_all_web_pages_may_read_answers_if_configured() -> None:
    rules = AccessRules(frozenset({"*"}))
    headers = rules.cross_origin_headers(request(headers={"origin": "https://any.example"}))
    assert headers["access-control-allow-origin"] == "*"


def test_liveness_is_served_and_unknown_paths_are_refused(rpc: RpcHarness) -> None:
    assert rpc.http("GET", "/liveness").json() == {"status": "UP"}
    assert rpc.http("HEAD", "/liveness").content == b""
    for method, path, status in (
        ("GET", "/", 405),
        ("POST", "/liveness", 405),
        ("GET", "/nothing", 404),
        ("GET", "/v1/nothing", 404),
        ("DELETE", "/v1/blobs/" + "00" * 32, 405),
    ):
        response = rpc.http(method, path)
        assert response.status_code == status
        assert set(response.json()) == {"error", "message"}


def test_readiness_needs_peers_and_a_recent_head(rpc: RpcHarness) -> None:
    node = rpc.node
    assert rpc.http("GET", "/readiness").json() == {
        "status": "UP",
        "head": 0,
        "best": 0,
        "peers": 3,
    }
    assert rpc.http("GET", "/readiness?minPeers=4").status_code == 503
    node.best_ahead = 3
    assert rpc.http("GET", "/readiness").status_code == 503
    assert rpc.http("GET", "/readiness?maxBlocksBehind=3").status_code == 200
    node.best_ahead = 0
    rpc.link.is_connected = False
    assert rpc.http("GET", "/readiness").status_code == 503
    rpc.link.is_connected = True
    assert rpc.http("GET", "/readiness?minPeers=x").status_code == 400
    assert rpc.http("GET", "/readiness?" + "a=1&" * 40).status_code == 400


def test_blob_is_served_whole_in_ranges_and_by_chunks(rpc: RpcHarness) -> None:
    content = bytes(range(256)) * 1500
    content_id = BlobStore(rpc.options.blobs, quota_bytes=2**30).put(content)
    path = f"/v1/blobs/0x{content_id.hex()}"
    whole = rpc.http("GET", path)
    assert (whole.status_code, whole.content) == (200, content)
    head = rpc.http("HEAD", path)
    assert (head.headers["content-length"], head.content) == (str(len(content)), b"")
    for header, first, last in (
        ("bytes=0-0", 0, 0),
        ("bytes=1000-400000", 1000, len(content) - 1),
        ("bytes=300000-", 300000, len(content) - 1),
        ("bytes=-5", len(content) - 5, len(content) - 1),
    ):
        part = rpc.http("GET", path, headers={"range": header})
        assert (part.status_code, part.content) == (206, content[first : last + 1])
        assert part.headers["content-range"] == f"bytes {first}-{last}/{len(content)}"
    for header in ("bytes=500000-", "bytes=5-4", "bytes=-0"):
        assert rpc.http("GET", path, headers={"range": header}).status_code == 416
    assert rpc.http("GET", path, headers={"range": "lines=1-2"}).status_code == 200
    assert rpc.http("GET", path + "/chunks").json() == {
        "contentId": "0x" + content_id.hex(),
        "bytes": len(content),
        "chunkBytes": CHUNK_BYTES,
        "chunks": [
            "0x" + merkle_leaf(content[start : start + CHUNK_BYTES]).hex()
            for start in (0, CHUNK_BYTES)
        ],
    }


def test_blob_that_the_node_does_not_hold_is_not_found(rpc: RpcHarness) -> None:
    for path in ("/v1/blobs/" + "11" * 32, "/v1/blobs/0x" + "11" * 32 + "/chunks"):
        assert rpc.http("GET", path).status_code == 404


def test_empty_blob_is_served(rpc: RpcHarness) -> None:
    content_id = BlobStore(rpc.options.blobs, quota_bytes=2**30).put(b"")
    response = rpc.http("GET", f"/v1/blobs/{content_id.hex()}")
    assert (response.status_code, response.content) == (200, b"")


def request(headers: dict[str, str], parts: tuple[bytes, ...] = ()) -> Request:
    """A request with a body that arrives in `parts`."""
    arriving = list(parts)

    async def receive() -> Message:
        part = arriving.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(arriving)}

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"method": "POST", "path": "/", "headers": raw, "query_string": b""}
    return Request(scope, receive, HeldBytes().open(""))


def test_body_is_bounded_before_and_while_it_arrives() -> None:
    announced = request({"content-length": "11"}, parts=())
    with pytest.raises(HttpError, match="too large"):
        asyncio.run(announced.body(10))
    growing = request({}, parts=(b"12345", b"67890", b"1", b"never read"))
    with pytest.raises(HttpError, match="too large"):
        asyncio.run(growing.body(10))
    assert asyncio.run(request({}, parts=(b"12345", b"", b"67890")).body(10)) == b"1234567890"
    with pytest.raises(HttpError, match="not a number"):
        asyncio.run(request({"content-length": "-1"}).body(10))


def test_work_is_cancelled_when_the_client_disconnects() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.sleep(3_600)
        finally:
            ended.append(True)

    async def leave() -> Message:
        return {"type": "http.disconnect"}

    async def run() -> list[bool]:
        with pytest.raises(HttpError, match="disconnected"):
            await Request(_POST, leave, HeldBytes().open("")).finish(work())
        await asyncio.sleep(0)
        return list(ended)  # copied now, because the end of the loop cancels all tasks

    assert asyncio.run(run()) == [True]


def test_work_is_answered_if_the_client_stays_connected() -> None:
    async def work() -> str:
        return "answer"

    async def stay() -> Message:
        await asyncio.sleep(3_600)
        raise AssertionError

    async def run() -> str:
        return await Request(_POST, stay, HeldBytes().open("")).finish(work())

    assert asyncio.run(run()) == "answer"


def test_too_large_body_is_status_413(rpc: RpcHarness) -> None:
    json_type = {"content-type": "application/json"}
    response = rpc.http("POST", "/", content=b" " * (5 * 2**20 + 1), headers=json_type)
    assert (response.status_code, response.headers["connection"]) == (413, "close")


def test_call_that_arrives_too_slowly_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "GRACE_SECONDS", 0.05)

    async def receive() -> Message:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b" ", "more_body": True}

    with pytest.raises(HttpError, match="too slowly"):
        asyncio.run(Request({**_POST}, receive, HeldBytes().open("")).body(2**20))


def test_client_sends_no_more_of_a_body_that_is_not_read(rpc: RpcHarness) -> None:
    for path in ("/v1/nothing", "/liveness"):
        response = rpc.http("POST", path, content=b"body")
        assert response.headers["connection"] == "close"
    assert "connection" not in rpc.http("POST", "/", json=CALL).headers
    assert "connection" not in rpc.http("GET", "/liveness").headers


def test_refused_client_is_told_when_to_ask_again() -> None:
    response = error_response(HttpError(503, "busy", "no place", retry_after_seconds=3))
    assert response.headers == {"retry-after": "3"}
    assert error_response(HttpError(503, "busy", "no place")).headers == {}


class Readers:
    """Clients that fetch one blob, each from its own address if it names one."""

    def __init__(self, directory: Path) -> None:
        store = BlobStore(directory, quota_bytes=2**22)
        blob = store.put(bytes(2 * CHUNK_BYTES))
        reads = BlobReads(store)
        self._application = HttpApplication(
            lambda request: reads.answer(request, blob, chunks=False), AccessRules()
        )

    async def get(self, client: str, *, reads_nothing: bool = False) -> tuple[int, int]:
        """The status, and the bytes that a client has read in the end."""
        status, read_bytes = 0, 0

        async def send(message: Message) -> None:
            nonlocal status, read_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
                return
            if reads_nothing and message.get("more_body"):
                await asyncio.sleep(3_600)
            read_bytes += len(message["body"])

        async def receive() -> Message:
            return {"type": "http.disconnect"}

        scope = {**_POST, "type": "http", "method": "GET", "client": (client, 1)}
        await self._application(scope, receive, send)
        return status, read_bytes


WHOLE = (200, 2 * CHUNK_BYTES)


def test_client_that_reads_nothing_loses_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "SEND_TIMEOUT_SECONDS", 0.05)
    readers = Readers(tmp_path)

    async def run() -> tuple[int, int]:
        slow = [readers.get("192.0.2.1", reads_nothing=True) for _ in range(CONCURRENT_TRANSFERS)]
        assert await asyncio.gather(*slow) == [(200, 0)] * CONCURRENT_TRANSFERS
        return await readers.get("192.0.2.1")

    assert asyncio.run(run()) == WHOLE


def test_readers_at_few_addresses_keep_no_other_client_out(tmp_path: Path) -> None:
    readers = Readers(tmp_path)

    async def run() -> tuple[tuple[int, int], int]:
        held = [
            asyncio.create_task(readers.get(f"192.0.2.{number % 4}", reads_nothing=True))
            for number in range(CONCURRENT_TRANSFERS)
        ]
        await asyncio.sleep(0.05)
        other = await readers.get("203.0.113.7")
        ended = sum(task.done() for task in held)
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        return other, ended

    assert asyncio.run(run()) == (WHOLE, 1)


class SilentReader:
    """A connection whose client takes a number of parts, and nothing more."""

    def __init__(self, takes: int, client: str = "192.0.2.1") -> None:
        self.parts: list[int] = []
        self.is_aborted = False
        self._takes = takes
        self.scope: Message = {
            **_POST,
            "type": "http",
            "client": (client, 1),
            "extensions": {ABORT_EXTENSION: self._abort},
        }

    def _abort(self) -> None:
        self.is_aborted = True

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            if len(self.parts) >= self._takes:
                await asyncio.sleep(3_600)
            body = message["body"]
            assert isinstance(body, bytes)
            self.parts.append(len(body))

    async def receive(self) -> Message:
        return {"type": "http.disconnect"}


def test_answer_is_given_in_parts_to_a_client_that_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "SEND_TIMEOUT_SECONDS", 0.05)
    silent, reading = SilentReader(takes=1), SilentReader(takes=9)
    held = HeldBytes()

    async def answer(_request: Request) -> Response:
        return Response(200, bytes(2 * PART_BYTES + 1))

    async def run() -> None:
        application = HttpApplication(answer, AccessRules(), held=held)
        for each in (silent, reading):
            await application(each.scope, each.receive, each.send)

    asyncio.run(run())
    assert (silent.parts, silent.is_aborted) == ([PART_BYTES], True)
    assert (reading.parts, reading.is_aborted) == ([PART_BYTES, PART_BYTES, 1, 0], False)
    assert held.total == 0


def test_unread_answers_have_a_limit_and_give_way_to_others() -> None:
    size = 10 * PART_BYTES
    held = HeldBytes(3 * size)
    many = [SilentReader(takes=1, client="192.0.2.9") for _ in range(8)]
    other = SilentReader(takes=99)

    async def answer(_request: Request) -> Response:
        return Response(200, bytes(size))

    async def run() -> tuple[int, int]:
        application = HttpApplication(answer, AccessRules(), held=held)

        def begin(reader: SilentReader) -> "asyncio.Task[None]":
            return asyncio.create_task(application(reader.scope, reader.receive, reader.send))

        tasks = [begin(each) for each in many]
        await asyncio.sleep(0.01)
        full = held.total
        await begin(other)
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return full, held.total

    assert asyncio.run(run()) == (3 * size, 0)
    assert (sum(other.parts), other.is_aborted) == (size, False)
    assert sum(each.is_aborted for each in many) == 1
    assert sum(each.parts[0] < PART_BYTES for each in many) == 5, "answered 503 busy"


def test_body_that_finds_no_room_is_status_503() -> None:
    held = HeldBytes(10)
    with pytest.raises(NoRoomError):
        asyncio.run(Request(_POST, endless, held.open("")).body(100))
    assert held.total == 8


async def endless() -> Message:
    return {"type": "http.request", "body": b"1234", "more_body": True}
