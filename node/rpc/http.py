"""HTTP over ASGI: bounded bodies, streams, and access rules (docs/spec/rpc.md, section 4).

No other module uses the ASGI protocol.
"""

import asyncio
import ipaddress
import math
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Mapping,
    MutableMapping,
)
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, TypeVar
from urllib.parse import parse_qsl

import structlog

from chain.json_types import JsonObject
from node.network.admission import get_address_group
from node.rpc.held_bytes import HeldBytes, Holding, NoRoomError
from node.rpc.metrics import RpcMetrics
from pot_common.json_text import dump_json

Message = MutableMapping[str, object]
"""An ASGI message or scope."""

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

RECEIVE_TIMEOUT_SECONDS: Final = 30.0
"""Limit between two parts of a body, so that a stalled client does not keep its connection."""

SEND_TIMEOUT_SECONDS: Final = 30.0
"""How long a client may take for one part of a body, at most 256 KiB. It is cut off then."""

PART_BYTES: Final = 65_536
"""The parts in which a whole body is sent. The server keeps what it is given until it is sent, so
it is given the next part only when the client has taken the one before."""

BUSY_SECONDS: Final = 2
"""After this time a client that found no room should ask again."""

GRACE_SECONDS: Final = 10.0
"""How long the first part of a body may take, whatever the least rate is."""

LEAST_BYTES_PER_SECOND: Final = 16_384.0
"""A slower body is not read to its end, so that its connection and place are free for others."""

QUERY_LIMIT_FIELDS: Final = 32
"""Limit of fields in a query string; no resource here has more than ten."""

ABORT_EXTENSION: Final = "abort_connection"
"""The key in the extensions of an ASGI scope under which a server gives the function that ends the
connection at once. ASGI only has an orderly close, which waits for a client that reads nothing."""

_T = TypeVar("_T")

_log = structlog.get_logger("node.rpc")


class HttpError(Exception):
    """A request is answered with an error; `reason` is for programs, `message` for people."""

    def __init__(
        self, status: int, reason: str, message: str, *, retry_after_seconds: int | None = None
    ) -> None:
        """Make an error.

        Args:
            status: The HTTP status.
            reason: The reason, for programs.
            message: The reason, for people.
            retry_after_seconds: When the client should ask again; None if it is not told.
        """
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_seconds = retry_after_seconds


class Request:
    """An HTTP request; its body is read on demand."""

    def __init__(self, scope: Message, receive: Receive, holding: Holding) -> None:
        """Make a request.

        Args:
            scope: The ASGI scope.
            receive: Gives the parts of the body.
            holding: The memory that the request may take.
        """
        self.holding = holding
        self.method = str(scope["method"])
        self.path = str(scope["path"])
        raw_headers = scope["headers"]
        assert isinstance(raw_headers, list | tuple)
        self.headers: Mapping[str, str] = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw_headers
        }
        query = scope["query_string"]
        assert isinstance(query, bytes)
        self._query_string = query.decode("latin-1")
        self._receive = receive
        self._is_body_read = False
        self.client = holding.client
        """The IP address that the request comes from, or its IPv6 network; empty if unknown."""

    @property
    def query(self) -> Mapping[str, str]:
        """The fields of the query string by name; the last value if a name is repeated.

        Raises:
            HttpError: 400: There are too many fields.
        """
        try:
            return dict(
                parse_qsl(
                    self._query_string, keep_blank_values=True, max_num_fields=QUERY_LIMIT_FIELDS
                )
            )
        except ValueError as error:
            raise HttpError(400, "malformed", "too many query fields") from error

    @property
    def has_unread_body(self) -> bool:
        """Whether the client may still be sending its body."""
        has_body = self.headers.get("content-length", "0") != "0"
        return (has_body or "transfer-encoding" in self.headers) and not self._is_body_read

    @property
    def content_type(self) -> str:
        """The media type of the body, without parameters."""
        return self.headers.get("content-type", "").split(";")[0].strip().lower()

    def content_length(self) -> int | None:
        """The announced length of the body in bytes; None if the client did not announce one.

        Raises:
            HttpError: 400: The header is not a number.
        """
        value = self.headers.get("content-length")
        if value is None:
            return None
        if not value.isascii() or not value.isdigit() or len(value) > 18:
            raise HttpError(400, "malformed", "content-length is not a number")
        return int(value)

    async def chunks(
        self, limit_bytes: int, *, least_rate: float = 0.0, seconds: float = math.inf
    ) -> AsyncIterator[bytes]:
        """Yield the parts of the body as they arrive.

        Args:
            limit_bytes: The longest body.
            least_rate: The bytes a second that must arrive on average, after GRACE_SECONDS.
            seconds: How long the whole body may take.

        Raises:
            HttpError: 413: The body exceeds `limit_bytes`; if the client announced its length, no
                part is read. 408: The client stalls, or is too slow. 400: The client disconnects.
        """
        if (self.content_length() or 0) > limit_bytes:
            raise HttpError(413, "too_large", f"content length too large, limit {limit_bytes}")
        received = 0
        start = time.monotonic()
        while True:
            allowed = seconds
            if least_rate > 0:
                allowed = min(seconds, GRACE_SECONDS + received / least_rate)
            rest = start + allowed - time.monotonic()
            try:
                async with asyncio.timeout(min(RECEIVE_TIMEOUT_SECONDS, rest)):
                    message = await self._receive()
            except TimeoutError as error:
                raise HttpError(408, "timeout", "the body arrives too slowly") from error
            if message["type"] != "http.request":
                raise HttpError(400, "malformed", "the body ended early")
            part = message.get("body", b"")
            assert isinstance(part, bytes)
            received += len(part)
            if received > limit_bytes:
                raise HttpError(413, "too_large", f"content length too large, limit {limit_bytes}")
            self._is_body_read = not message.get("more_body", False)
            if part:
                yield part
            if self._is_body_read:
                return

    async def body(self, limit_bytes: int) -> bytes:
        """The whole body.

        Raises:
            HttpError: As for `chunks`.
            NoRoomError: There is no room for it.
        """
        body = bytearray()
        async for part in self.chunks(limit_bytes, least_rate=LEAST_BYTES_PER_SECOND):
            self.holding.add(len(part))
            body += part
        return bytes(body)

    async def finish(self, work: Coroutine[object, object, _T]) -> _T:
        """The result of `work`, which is cancelled if the client disconnects.

        Call this only after the body was read.

        Raises:
            HttpError: 400: The client disconnects.
        """
        task, gone = asyncio.ensure_future(work), asyncio.ensure_future(self._receive())
        try:
            await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise HttpError(400, "malformed", "the client disconnected")
            return task.result()
        finally:
            for each in (task, gone):
                each.cancel()


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response, with its whole body or with a stream."""

    status: int
    body: bytes | AsyncGenerator[bytes, None] = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    length_bytes: int | None = None
    """The length of the stream, or of the body that a response to HEAD leaves out; else None."""
    on_start: Callable[[asyncio.Timeout], None] | None = None
    """Is given the timer that ends the stream; None if nothing else may end it."""


def json_response(value: JsonObject, status: int = 200) -> Response:
    """The response with a JSON object as its body."""
    return Response(status, dump_json(value))


def error_response(error: HttpError) -> Response:
    """The response for an error, with the body `{"error": reason, "message": ...}`."""
    headers = {}
    if error.retry_after_seconds is not None:
        headers["retry-after"] = str(error.retry_after_seconds)
    return Response(
        error.status, dump_json({"error": error.reason, "message": error.message}), headers=headers
    )


@dataclass(frozen=True, slots=True)
class AccessRules:
    """The web pages that may read responses, and the host names by which clients may connect."""

    allowed_origins: frozenset[str] = frozenset()
    """Origins of web pages that may read responses; "*" allows all."""
    allowed_hosts: frozenset[str] = frozenset({"localhost"})
    """Names allowed in the Host header, besides IP addresses; "*" allows all.

    This stops DNS rebinding: if the domain of a foreign web page resolves to this machine, requests
    of that page carry the name of the domain.
    """

    def check_host(self, request: Request) -> None:
        """Refuse a request with a Host header that is not allowed.

        Raises:
            HttpError: 403: The name is not allowed.
        """
        host = request.headers.get("host")
        if host is None or "*" in self.allowed_hosts:
            return
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        name = name.removeprefix("[").removesuffix("]").lower()
        if name not in self.allowed_hosts and not _is_address(name):
            raise HttpError(
                403,
                "host_not_allowed",
                "invalid host specified: add it to rpc.allowed_hosts of the node",
            )

    def cross_origin_headers(self, request: Request) -> dict[str, str]:
        """The headers that let the requesting web page read the response; none if it may not."""
        origin = request.headers.get("origin")
        if origin is None or not self.allowed_origins & {origin, "*"}:
            return {}
        return {
            "access-control-allow-origin": "*" if "*" in self.allowed_origins else origin,
            "vary": "origin",
        }

    def answer_preflight(self) -> Response:
        """The response to a preflight request, by which a browser asks before a page's request."""
        return Response(
            204,
            headers={
                "access-control-allow-methods": "GET, HEAD, POST, PUT",
                "access-control-allow-headers": "content-type, range",
                "access-control-max-age": "600",
            },
        )


def get_client(scope: Message) -> str:
    """The client of an ASGI scope; empty if it is unknown."""
    client = scope.get("client")
    return get_client_group(str(client[0])) if isinstance(client, list | tuple) and client else ""


def get_client_group(address: str) -> str:
    """What counts as one client: an IPv4 address or an IPv6 /64; other texts are unchanged."""
    try:
        return get_address_group(ipaddress.ip_address(address))
    except ValueError:
        return address


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


Handler = Callable[[Request], Awaitable[Response]]
"""A function from a request to its response; it raises HttpError to refuse the request."""


class HttpApplication:
    """The ASGI application around one handler."""

    def __init__(
        self,
        handler: Handler,
        rules: AccessRules,
        metrics: RpcMetrics | None = None,
        held: HeldBytes | None = None,
    ) -> None:
        """Make the application.

        Args:
            handler: Answers requests.
            rules: Who may ask.
            metrics: Counts responses.
            held: The memory of all requests; None for one with the usual limit.
        """
        self._handler = handler
        self._rules = rules
        self._metrics = metrics or RpcMetrics()
        self._held = held or HeldBytes()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request, as ASGI calls it."""
        if scope["type"] != "http":
            return
        try:
            async with asyncio.timeout(None) as timer:

                def end() -> None:
                    timer.reschedule(asyncio.get_running_loop().time())

                with self._held.open(get_client(scope), end) as holding:
                    await self._serve(Request(scope, receive, holding), send)
        except TimeoutError:
            # The client reads nothing, lost its place, or holds what another one needs.
            await _abort(scope)

    async def _serve(self, request: Request, send: Send) -> None:
        response = await self._respond(request)
        self._metrics.on_response(response.status)
        extra = self._rules.cross_origin_headers(request)
        if request.has_unread_body:
            # The client is to send no more of it, and it must not be parsed as the next request.
            extra["connection"] = "close"
        await _send_response(request, response, extra, send)

    async def _respond(self, request: Request) -> Response:
        try:
            self._rules.check_host(request)
            if request.method == "OPTIONS":
                return self._rules.answer_preflight()
            response = await self._handler(request)
            if isinstance(response.body, bytes):
                request.holding.resize(len(response.body))
            return response
        except NoRoomError as error:
            refusal = HttpError(503, "busy", str(error), retry_after_seconds=BUSY_SECONDS)
            return error_response(refusal)
        except HttpError as error:
            return error_response(error)
        except Exception:  # noqa: BLE001 - a bug in a handler must not end the service
            _log.exception("http request failed", path=request.path)
            return error_response(HttpError(500, "internal", "internal error"))


async def _send_response(
    request: Request, response: Response, extra: Mapping[str, str], send: Send
) -> None:
    """Send a response.

    Raises:
        TimeoutError: The client takes too long for a part, or lost its place.
    """
    body = response.body
    length = len(body) if isinstance(body, bytes) else response.length_bytes
    if request.method == "HEAD" and response.length_bytes is not None:
        length = response.length_bytes
    headers = {
        "content-type": response.content_type,
        "x-content-type-options": "nosniff",
        **({} if length is None else {"content-length": str(length)}),
        **response.headers,
        **extra,
    }
    if response.status == 204:
        del headers["content-length"], headers["content-type"]
    await _send(
        send,
        {
            "type": "http.response.start",
            "status": response.status,
            "headers": [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()],
        },
    )
    if request.method == "HEAD":
        body = b""
    if isinstance(body, bytes):
        for start in range(0, len(body), PART_BYTES):
            await _send_part(send, body[start : start + PART_BYTES])
    else:
        async with asyncio.timeout(None) as timer, aclosing(body):
            if response.on_start is not None:
                response.on_start(timer)
            async for part in body:
                await _send_part(send, part)
    await _send(send, {"type": "http.response.body", "body": b""})


async def _send_part(send: Send, part: bytes) -> None:
    await _send(send, {"type": "http.response.body", "body": part, "more_body": True})


async def _send(send: Send, message: Message) -> None:
    async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
        await send(message)


async def _abort(scope: Message) -> None:
    extensions = scope.get("extensions")
    abort = extensions.get(ABORT_EXTENSION) if isinstance(extensions, dict) else None
    if abort is not None:
        abort()
        await asyncio.sleep(0)  # so that the server notices before this request ends
