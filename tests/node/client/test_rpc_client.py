import json
from collections.abc import Callable

import httpx
import pytest

from chain.crypto import chunk_hashes, content_id
from chain.primitives import Address, PrivateKey
from node.client import rpc_client
from node.client.rpc_client import (
    RpcClient,
    get_integer,
    get_objects,
    get_text,
)
from pot_common.errors import OperatorError
from pot_common.rpc_client import ContentUnavailableError

KEY = PrivateKey(b"\x11" * 32)
TO = Address(b"\x22" * 20)
BLOB = bytes(range(256)) * 3_000


def client_of(answer: Callable[[httpx.Request], httpx.Response]) -> RpcClient:
    return RpcClient("http://node/", httpx.MockTransport(answer))


def answering(results: dict[str, object], calls: list[tuple[str, list[object]]]) -> RpcClient:
    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        calls.append((body["method"], body["params"]))
        return httpx.Response(200, json={"id": 1, "result": results[body["method"]]})

    return client_of(answer)


def message_of(answer: Callable[[httpx.Request], httpx.Response]) -> str:
    with pytest.raises(OperatorError) as failure:
        client_of(answer).call("eth_chainId")
    message = str(failure.value)
    assert "\n" not in message
    return message


def test_url_without_a_scheme_is_refused() -> None:
    with pytest.raises(OperatorError, match="--rpc"):
        RpcClient("127.0.0.1:8545")


def test_unreachable_node_error_names_the_setting() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    assert "--rpc" in message_of(refuse)
    assert "HTTP 502" in message_of(lambda _: httpx.Response(502))
    assert "JSON-RPC" in message_of(lambda _: httpx.Response(200, json=[]))
    assert "JSON-RPC" in message_of(lambda _: httpx.Response(200, text="<html>"))
    for body in (b"[" * 200_000, b'{"message": "\xff"}'):
        assert "JSON-RPC" in message_of(lambda _, body=body: httpx.Response(200, content=body))
        assert "HTTP 500" in message_of(lambda _, body=body: httpx.Response(500, content=body))


def test_logs_are_asked_for_in_ranges_that_nodes_answer() -> None:
    calls: list[tuple[str, list[object]]] = []
    client = answering({"eth_getLogs": [{"data": "0x"}]}, calls)
    assert len(list(client.logs([TO], [None], 1, 12_000))) == 3
    ranges = [(query["fromBlock"], query["toBlock"]) for _, (query,) in calls]  # type: ignore[index]
    assert ranges == [("0x1", "0x1388"), ("0x1389", "0x2710"), ("0x2711", "0x2ee0")]


def test_blob_arrives_as_sent_and_progress_counts_its_bytes() -> None:
    stored: dict[str, bytes] = {}

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            body = request.read()
            assert request.headers["content-length"] == str(len(body))
            hashes = b"".join(chunk_hashes(BLOB))
            assert body.startswith(hashes)
            stored[request.url.path] = body.removeprefix(hashes)
            return httpx.Response(201)
        if request.url.path not in stored:
            return httpx.Response(404, json={"error": "not_found", "message": "not here"})
        return httpx.Response(200, content=stored[request.url.path])

    client, name = client_of(answer), content_id(BLOB)
    with pytest.raises(ContentUnavailableError, match="not here"):
        client.get_blob(name, len(BLOB))
    sent: list[int] = []
    received: list[int] = []
    client.put_blob(name, BLOB, sent.append)
    assert client.get_blob(name, len(BLOB), received.append) == BLOB
    assert sum(sent) == sum(received) == len(BLOB)


class Clock:
    """Time that passes only when the client waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.waits: list[float] = []
        monkeypatch.setattr(rpc_client.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(rpc_client.time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def test_upload_waits_for_a_busy_node_and_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    answers = [
        httpx.Response(503, headers={"retry-after": "2"}),
        httpx.Response(503, headers={"retry-after": "99"}),
        httpx.Response(507, json={"error": "quota", "message": "no room"}),
        httpx.WriteError("closed"),
        httpx.Response(201),
    ]

    def answer(request: httpx.Request) -> httpx.Response:
        request.read()
        given = answers.pop(0)
        if isinstance(given, Exception):
            raise given
        return given

    sent: list[int] = []
    notes: list[str] = []
    client_of(answer).put_blob(content_id(BLOB), BLOB, sent.append, notes.append)
    assert clock.waits == [2, 5, 5, 1]
    assert sum(sent) == len(BLOB), "what is sent again is not counted twice"
    assert [note.split(",")[0] for note in notes] == [
        "http://node is too busy to check whether it may take the data; trying again for 60 s",
        "http://node has no room for the data until tasks are closed",
        "http://node cut the upload off (closed); trying again for 60 s",
    ]


def test_upload_that_finds_no_room_ends_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    client = client_of(lambda _: httpx.Response(507))
    with pytest.raises(OperatorError, match=r"blobs.quota_bytes.* another node with --rpc"):
        client.put_blob(content_id(BLOB), BLOB, lambda _: None)
    assert clock.now == 60
    # Any other refusal is final.
    clock.waits.clear()
    client = client_of(lambda _: httpx.Response(403, json={"message": "takes no part"}))
    with pytest.raises(OperatorError, match="takes no part"):
        client.put_blob(content_id(BLOB), BLOB, lambda _: None)
    assert clock.waits == []


@pytest.mark.parametrize("forgery", [b"", BLOB[:-1], BLOB + b"!", b"!" + BLOB[1:]])
def test_forged_blob_is_refused(forgery: bytes) -> None:
    client = client_of(lambda _: httpx.Response(200, content=forgery))
    with pytest.raises(OperatorError, match="do not trust this node"):
        client.get_blob(content_id(BLOB), len(BLOB))


def test_answers_are_read_by_path_or_refused_by_name() -> None:
    answer = {"account": {"paid": "12", "count": 3}, "list": [{"a": 1}]}
    assert get_integer(answer, "account", "paid") == 12
    assert get_integer(answer, "account", "count") == 3
    assert get_objects(answer, "list") == [{"a": 1}]
    for read, path in (
        (get_text, ("account", "count")),
        (get_integer, ("account",)),
        (get_objects, ("account", "list")),
        (get_text, ("list", "a")),
    ):
        with pytest.raises(OperatorError, match=r"not understood"):
            read(answer, *path)
