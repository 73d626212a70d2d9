"""The connections of the HTTP port, shared by address (docs/spec/rpc.md, section 4).

A connection costs a client nothing, and a miner that finds no connection is fined. So a full port
still accepts a client from another address: the address with the most connections loses one, if
possible one without a running request.

A request's head has limits of bytes, fields and time, because the HTTP parser has none: it takes
24 MiB of memory for each MiB of header fields, and quadratic time for a long target.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from node.rpc.http import ABORT_EXTENSION, get_client_group

CONNECTION_LIMIT: Final = 512
"""The most connections at the same time."""

HEAD_LIMIT_BYTES: Final = 2**14
"""The longest head of a request, its target and fields together. Also the most that a connection
may send without that the parser can use it, such as an extension of a chunk or half a trailer."""

FIELD_LIMIT: Final = 100
"""The most header fields of a request, trailers included."""

HEAD_SECONDS: Final = 10.0
"""How long a client may take for a head, from the connection or from its first byte."""

PIPELINE_LIMIT: Final = 8
"""The most requests that wait on a connection for the one that runs."""


class CountedConnection(Protocol):
    """What is known of a connection."""

    group: str
    """The address that the connection counts for."""
    opened_at: float

    @property
    def is_busy(self) -> bool:
        """Whether a request runs on the connection."""


Connection = TypeVar("Connection", bound=CountedConnection)


class HeadLimitError(Exception):
    """A head has too many bytes or fields: the parser ends, and the client is answered 400."""


class SharedConnection(HttpToolsProtocol):
    """A connection that may have to give way to one from another address."""

    group = ""
    opened_at = 0.0
    is_ended = False
    _head_bytes = 0
    _field_count = 0
    _unused_bytes = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection, and end one if there are too many."""
        super().connection_made(transport)
        self.group = "" if self.client is None else get_client_group(self.client[0])
        self.opened_at = self.loop.time()
        self._limit_head()
        others = [
            each
            for each in self.connections
            if isinstance(each, SharedConnection) and each is not self and not each.is_ended
        ]
        if len(others) >= CONNECTION_LIMIT:
            choose_connection(others, self).end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._end_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Give the data to the parser, and end the connection if it can use none for long."""
        self._unused_bytes += len(data)
        super().data_received(data)
        if self._unused_bytes > HEAD_LIMIT_BYTES or len(self.pipeline) > PIPELINE_LIMIT:
            self.end()

    def on_message_begin(self) -> None:
        """Begin to count the head of a request."""
        self._head_bytes = self._field_count = 0
        self._limit_head()
        super().on_message_begin()
        self.scope["extensions"] = {ABORT_EXTENSION: self.end}  # type: ignore[dict-item]

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head, or of the trailers."""
        self._field_count += 1
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._unused_bytes = 0
        self._end_deadline()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._unused_bytes = 0
        super().on_body(body)

    def _count(self, size: int) -> None:
        self._unused_bytes = 0
        self._head_bytes += size
        if self._head_bytes > HEAD_LIMIT_BYTES or self._field_count > FIELD_LIMIT:
            raise HeadLimitError

    def _limit_head(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._end_slow_head)

    def _end_slow_head(self) -> None:
        self._deadline = None
        if self.is_busy:
            # Nothing is read from a connection while requests wait on it.
            self._limit_head()
        else:
            self.end()

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    @property
    def is_busy(self) -> bool:
        """Whether a request runs on the connection."""
        # uvicorn sets `cycle` with the first request.
        return bool(self.cycle) and not self.cycle.response_complete

    def end(self) -> None:
        """Close the connection at once."""
        self.is_ended = True
        self.transport.abort()


def choose_connection(others: Sequence[Connection], newcomer: Connection) -> Connection:
    """The connection that gives way, of the address with the most.

    It is the oldest one without a request, or else the newest one. The newcomer is refused rather
    than a running request of an address with as few connections as its own.
    """
    counts = Counter(each.group for each in (*others, newcomer))
    most = max(counts.values())
    crowded = [each for each in others if counts[each.group] == most]
    idle = [each for each in crowded if not each.is_busy]
    if idle:
        return min(idle, key=lambda each: each.opened_at)
    if counts[newcomer.group] == most:
        return newcomer
    return max(crowded, key=lambda each: each.opened_at)
