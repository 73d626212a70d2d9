"""One request to one node over HTTP (pot_common/http_exchange.py)."""

import gzip
import json
from collections.abc import Iterator

import httpx
import pytest

from chain.contracts.abi import compute_selector
from chain.hexadecimal import to_hex
from chain.json_types import Json
from pot_common.http_exchange import exchange, open_http, send_request
from pot_common.rpc_client import RpcCallError


def ask(answer: httpx.Response) -> Json:
    http = open_http(1.0, httpx.MockTransport(lambda request: answer))
    return exchange(http, "http://node", "eth_call", ["0x1"])


def test_exchange_is_json_rpc_2_over_post() -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json={"jsonrpc": "2.0", "id": 1, "result": {"a": 1}})

    http = open_http(1.0, httpx.MockTransport(answer))
    assert exchange(http, "http://node", "eth_call", ["0x1"]) == {"a": 1}
    (request,) = requests
    call = {"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": ["0x1"]}
    assert (request.method, json.loads(request.content)) == ("POST", call)


def test_known_revert_is_explained_and_keeps_its_code() -> None:
    data = compute_selector("TaskUnknown", ["uint256"]) + (9).to_bytes(32, "big")
    error = {"code": 3, "message": "execution reverted", "data": to_hex(data)}
    with pytest.raises(RpcCallError, match="there is no task 9; `pot task list`") as refused:
        ask(httpx.Response(200, json={"error": error}))
    assert refused.value.code == 3


@pytest.mark.parametrize("data", ["no hex", "0x0", "0x00 00"])
def test_error_with_data_that_is_not_hex_is_refused(data: str) -> None:
    error = {"code": 3, "message": "execution reverted", "data": data}
    with pytest.raises(ValueError, match="hex"):
        ask(httpx.Response(200, json={"error": error}))


@pytest.mark.parametrize("response", [httpx.Response(200, json=[]), httpx.Response(200, text="<")])
def test_answer_that_is_not_json_rpc_is_refused(response: httpx.Response) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is the parser's, or ours
        ask(response)


def test_answer_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pot_common.http_exchange.ANSWER_LIMIT_BYTES", 1_000)
    with pytest.raises(ValueError, match="larger than 1000 bytes"):
        ask(httpx.Response(200, content=iter(lambda: b" " * 100, b"")))


@pytest.mark.parametrize(
    ("head_seconds", "body_seconds", "is_taken"),
    [(0.0, 1.9, True), (1.9, 0.0, True), (0.0, 3.85, False), (1.0, 1.5, False)],
)
def test_time_of_an_answer_has_one_limit_however_it_is_divided(
    monkeypatch: pytest.MonkeyPatch, head_seconds: float, body_seconds: float, is_taken: bool
) -> None:
    now = [1_000.0]
    monkeypatch.setattr("pot_common.http_exchange.time.monotonic", lambda: now[0])
    body = b'{"jsonrpc":"2.0","id":1,"result":"0x1"}'

    def trickle() -> Iterator[bytes]:
        for each in body:
            now[0] += body_seconds / len(body)
            yield bytes([each])

    def answer(request: httpx.Request) -> httpx.Response:
        now[0] += head_seconds
        return httpx.Response(200, content=trickle())

    http = open_http(2.0, httpx.MockTransport(answer))
    if is_taken:
        assert exchange(http, "http://node", "eth_chainId", []) == "0x1"
    else:
        with pytest.raises(ValueError, match="longer than 2 seconds"):
            exchange(http, "http://node", "eth_chainId", [])
        assert now[0] < 1_002.1


def test_answer_to_an_upload_has_its_time_from_the_end_of_the_upload(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1_000.0]
    monkeypatch.setattr("pot_common.http_exchange.time.monotonic", lambda: now[0])

    def answer(request: httpx.Request) -> httpx.Response:
        now[0] += 300
        return httpx.Response(201, content=b"taken")

    http = open_http(2.0, httpx.MockTransport(answer))
    request = http.build_request("PUT", "http://node/v1/blobs/x", content=b"blob")
    assert send_request(http, request).content == b"taken"


def test_packed_answer_is_not_unpacked() -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(
            200, headers={"content-encoding": "gzip"}, content=gzip.compress(b'{"result": 1}')
        )

    http = open_http(1.0, httpx.MockTransport(answer))
    with pytest.raises(ValueError, match="compressed"):
        exchange(http, "http://node", "eth_call", [])
    assert [request.headers["accept-encoding"] for request in requests] == ["identity"]
