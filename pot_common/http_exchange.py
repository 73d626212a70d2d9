"""One request to one node over HTTP, and its whole answer in memory (docs/spec/rpc.md)."""

import time
from collections.abc import Sequence
from typing import Final

import httpx

from chain.contracts.errors import decode_error
from chain.contracts.reverts import describe_revert
from chain.hexadecimal import from_hex
from chain.json_types import Json, JsonObject
from pot_common.json_text import parse_json
from pot_common.rpc_client import RpcCallError

CONNECT_SECONDS: Final = 3.0
"""A node that does not accept a connection within this is taken to be down."""

ANSWER_LIMIT_BYTES: Final = 32 * 2**20
"""More than a node of this project answers (`node.rpc.dispatch.RESPONSE_LIMIT_BYTES`). Whoever
answers without an end must not fill the memory of the caller."""


def open_http(answer_seconds: float, transport: httpx.BaseTransport | None = None) -> httpx.Client:
    """An HTTP client that waits for an answer as long as `answer_seconds`."""
    return httpx.Client(
        timeout=httpx.Timeout(answer_seconds, connect=CONNECT_SECONDS), transport=transport
    )


def send_request(
    http: httpx.Client, request: httpx.Request, started: float | None = None
) -> httpx.Response:
    """The answer to a request, complete and in memory.

    Args:
        http: Its read timeout is the time for the whole answer.
        request: The request.
        started: When that time began, by the monotonic clock; None for the head of the answer,
            because an upload takes a time of its own.

    Raises:
        httpx.HTTPError: The node does not answer.
        ValueError: The answer is too large, or takes too long.
    """
    request.headers["accept-encoding"] = "identity"
    response = http.send(request, stream=True)
    try:
        return receive(response, http.timeout.read, started)
    finally:
        response.close()


def receive(
    response: httpx.Response, wait_seconds: float | None, started: float | None = None
) -> httpx.Response:
    """An answer whose head is there, with its body in memory and, of its headers, Retry-After.

    Args:
        response: The answer.
        wait_seconds: The time for it; None for any.
        started: When that time began, by the monotonic clock; None for now.

    Raises:
        httpx.HTTPError: The connection broke.
        ValueError: The body is compressed, too large, or takes too long.
    """
    if "content-encoding" in response.headers:
        raise ValueError("the answer is compressed, and was not asked to be")
    started = time.monotonic() if started is None else started
    body = bytearray()
    for part in response.iter_bytes():
        body += part
        if len(body) > ANSWER_LIMIT_BYTES:
            raise ValueError(f"the answer is larger than {ANSWER_LIMIT_BYTES} bytes")
        if wait_seconds is not None and time.monotonic() - started > wait_seconds:
            raise ValueError(f"the answer takes longer than {wait_seconds:g} seconds")
    kept = {name: value for name, value in response.headers.items() if name == "retry-after"}
    return httpx.Response(
        response.status_code, headers=kept, content=bytes(body), request=response.request
    )


def exchange(http: httpx.Client, url: str, method: str, params: Sequence[Json]) -> Json:
    """The result of a JSON-RPC method at one node.

    Raises:
        RpcCallError: The node answered with an error.
        httpx.HTTPError: The node does not answer, or with an HTTP error.
        ValueError: The answer is not JSON-RPC, too large or too slow.
    """
    call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
    request = http.build_request("POST", url, json=call)
    response = send_request(http, request, time.monotonic())
    response.raise_for_status()
    body = parse_json(response.content)
    if not isinstance(body, dict):
        raise ValueError("the answer is not a JSON-RPC response")
    error = body.get("error")
    if isinstance(error, dict):
        raise _build_call_error(error)
    result: Json = body.get("result")
    return result


def _build_call_error(error: JsonObject) -> RpcCallError:
    """The error with the node's message, or, for a revert that is known, with the meaning."""
    code, data = error.get("code"), error.get("data")
    revert = decode_error(from_hex(data)) if isinstance(data, str) else None
    message = str(error.get("message", "unknown error"))
    if revert is not None:
        message = describe_revert(revert)
    return RpcCallError(code if isinstance(code, int) else 0, message)


def describe_failure(error: Exception) -> str:
    """An error of `exchange` in one line."""
    return str(error) or type(error).__name__
