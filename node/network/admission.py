"""Which inbound connections are admitted before their handshake (docs/spec/wire.md, section 1).

An address is refused only for its current rate and number of connections, never banned: honest
nodes may share it. Time is an argument, so that a test is a loop over numbers.
"""

import ipaddress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cachetools import FIFOCache, LRUCache

from node.network.budget import Allowance

SESSIONLESS_LIMIT: Final = 64
"""Inbound connections without a session. For one more, another of them is closed."""

ADDRESS_CONNECTION_LIMIT: Final = 16
"""Connections from one address, validators not counted: several nodes may share an address."""

ADDRESS_PER_SECOND: Final = 1.0
"""New connections a second from one address."""

ADDRESS_BURST: Final = 16.0
"""New connections at once from one address."""

TOTAL_PER_SECOND: Final = 16.0
"""New connections a second from all addresses: at 25 ms a handshake, 0.4 of a core at most."""

TOTAL_BURST: Final = 64.0
"""New connections at once from all addresses."""

ADDRESS_RECORD_LIMIT: Final = 4_096
"""Limit of addresses with a remembered budget; the one that connected longest ago is dropped
first."""

TRUSTED_PER_SECOND: Final = 8.0
"""New connections a second from an address of a validator, in place of the two budgets above."""

TRUSTED_BURST: Final = 64.0
"""New connections at once from there: all nodes of one address may restart together."""

TRUSTED_LIMIT: Final = 256
"""Addresses of validators that are remembered."""

Endpoint = tuple[str, int]
"""IP address and port of the other side of a connection."""


class RefusalReason(StrEnum):
    """Why a connection is closed before its handshake."""

    ADDRESS_FULL = "address_full"
    ADDRESS_TOO_FAST = "address_too_fast"
    TOO_FAST = "too_fast"


@dataclass(slots=True)
class _Connection:
    group: str
    is_kept: bool = False
    is_validator: bool = False


class Admission:
    """The inbound connections by endpoint; every table is bounded."""

    def __init__(self, *, accept_private_addresses: bool) -> None:
        """Start with no connections.

        Args:
            accept_private_addresses: exempts private addresses from the limits by address and by
                second, because a whole network may run on one machine.
        """
        self._accept_private_addresses = accept_private_addresses
        self._connections: dict[Endpoint, _Connection] = {}
        self._budgets: LRUCache[str, Allowance] = LRUCache(ADDRESS_RECORD_LIMIT)
        self._total = Allowance(per_second=TOTAL_PER_SECOND, burst=TOTAL_BURST)
        self._trusted: FIFOCache[str, Allowance] = FIFOCache(TRUSTED_LIMIT)

    def admit(self, endpoint: Endpoint, now: float) -> RefusalReason | None:
        """Admit a connection, or return the reason to refuse it."""
        address = ipaddress.ip_address(endpoint[0].split("%")[0])
        group = get_address_group(address)
        is_free = self._accept_private_addresses and not address.is_global
        refusal = None if is_free else self._find_refusal(group, now)
        if refusal is None:
            self._connections[endpoint] = _Connection(group)
        return refusal

    def find_surplus(self) -> Endpoint | None:
        """The connection to close if too many have no session: the newest of the busiest group."""
        sessionless = [
            (endpoint, each.group)
            for endpoint, each in self._connections.items()
            if not each.is_kept
        ]
        if len(sessionless) <= SESSIONLESS_LIMIT:
            return None
        counts: dict[str, int] = {}
        for _, group in sessionless:
            counts[group] = counts.get(group, 0) + 1
        busiest = max(counts, key=lambda group: counts[group])
        return next(endpoint for endpoint, group in reversed(sessionless) if group == busiest)

    def keep(self, endpoint: Endpoint, *, is_validator: bool) -> None:
        """Mark a connection as one with a session; outbound connections are not counted here."""
        connection = self._connections.get(endpoint)
        if connection is None:
            return
        connection.is_kept = True
        connection.is_validator = is_validator
        if is_validator:
            # An assignment makes an address the newest, a look-up does not.
            self._trusted[connection.group] = self._trusted.get(connection.group) or Allowance(
                per_second=TRUSTED_PER_SECOND, burst=TRUSTED_BURST
            )

    def release(self, endpoint: Endpoint) -> None:
        """Forget a connection that has ended."""
        self._connections.pop(endpoint, None)

    def count(self) -> int:
        """The number of open inbound connections, handshakes in progress included."""
        return len(self._connections)

    def _find_refusal(self, group: str, now: float) -> RefusalReason | None:
        if trusted := self._trusted.get(group):
            # A flood from all other addresses must not keep a validator out.
            return None if trusted.take(now) else RefusalReason.ADDRESS_TOO_FAST
        count = sum(
            each.group == group and not each.is_validator for each in self._connections.values()
        )
        if count >= ADDRESS_CONNECTION_LIMIT:
            return RefusalReason.ADDRESS_FULL
        budget = self._budgets.setdefault(
            group, Allowance(per_second=ADDRESS_PER_SECOND, burst=ADDRESS_BURST)
        )
        if not budget.take(now):
            return RefusalReason.ADDRESS_TOO_FAST
        if not self._total.take(now):
            return RefusalReason.TOO_FAST
        return None


def get_address_group(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """What counts as one address: an IPv4 address or an IPv6 /64, the usual size of a subnet."""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
