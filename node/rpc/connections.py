"""The connections of the HTTP port, shared by address (docs/spec/rpc.md, section 4).

A connection costs a client nothing, and a miner that finds no connection is fined. So a full port
still accepts a client from another address: the address with the most connections loses one, if
possible one without a running request.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from node.rpc.http import get_client_group

CONNECTION_LIMIT: Final = 512
"""The most connections at the same time."""


class CountedConnection(Protocol):
    """What is known of a connection."""

    group: str
    """The address that the connection counts for."""
    opened_at: float

    @property
    def is_busy(self) -> bool:
        """Whether a request runs on the connection."""


Connection = TypeVar("Connection", bound=CountedConnection)


class SharedConnection(HttpToolsProtocol):
    """A connection that may have to give way to one from another address."""

    group = ""
    opened_at = 0.0
    is_ended = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection, and end one if there are too many."""
        super().connection_made(transport)
        self.group = "" if self.client is None else get_client_group(self.client[0])
        self.opened_at = self.loop.time()
        others = [
            each
            for each in self.connections
            if isinstance(each, SharedConnection) and each is not self and not each.is_ended
        ]
        if len(others) >= CONNECTION_LIMIT:
            choose_connection(others, self).end()

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
