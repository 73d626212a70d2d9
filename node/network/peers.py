"""Whom to dial and when, and whom to shun (docs/spec/wire.md, section 3).

Time and chance are arguments, so that a test is a loop over numbers.
"""

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from chain.errors import RejectionReason
from chain.primitives import Address
from node.network.admission import get_address_group
from node.network.stream import PeerId
from node.network.wire import Head, peer_id_of_address
from pot_common.errors import OperatorError

TARGET_LIMIT: Final = 256
"""Addresses remembered; bootstrap and proven addresses are never pushed out by what peers tell."""

OWN_ADDRESS_LIMIT: Final = 4
"""Addresses that a peer may claim for itself: two networks, of two families."""

SOURCE_LIMIT: Final = 16
"""Addresses of others remembered from one peer until they are proven: one message of them."""

PEER_ADDRESS_LIMIT: Final = 4
"""Addresses of one peer remembered from others: lies about it leave room for the truth."""

GROUP_LIMIT: Final = 8
"""Learned addresses of one public IP address remembered: a site with several nodes behind it."""

GROUP_TOLD_LIMIT: Final = 2
"""Addresses of one public IP address in one message to others."""

RECORD_LIMIT: Final = 1024
"""Peers whose score is remembered; the one penalized longest ago is forgotten first."""

BACKOFF_FIRST_SECONDS: Final = 0.5
"""The wait after a first failure, before jitter."""

BACKOFF_LAST_SECONDS: Final = 30.0
"""The longest wait, before jitter: a restarted machine is back within half a minute."""

REFUSED_SECONDS: Final = 600.0
"""The wait before a learned peer that had no place for us is dialled again, before jitter; the
operator's addresses wait BACKOFF_LAST_SECONDS.
"""

LEARNED_FAILURES_LIMIT: Final = 6
"""Failures in a row after which an address that a peer told us is forgotten."""

FULL_SCORE: Final = 100.0
"""Where every peer starts; at 0 it is banned."""

RECOVERY_PER_SECOND: Final = 0.5
"""An honest peer's rare fault is forgotten in minutes."""

BAN_SECONDS: Final = 300.0
"""How long a banned peer is neither dialled nor served."""

PENALTIES: Final[dict[RejectionReason, float]] = {
    RejectionReason.MALFORMED: 50.0,
    RejectionReason.TOO_LARGE: 50.0,
    RejectionReason.BAD_SIGNATURE: 50.0,
    RejectionReason.CONTENT_MISMATCH: 50.0,
    RejectionReason.FALSE_HEAD: 50.0,
    # An operator's mistake: the connection ends, but nobody is banned for it.
    RejectionReason.WRONG_CHAIN: 0.0,
}
"""Points off for an input refused; what our own software never sends costs half of all points."""

DEFAULT_PENALTY: Final = 5.0
"""Points off where honest nodes may disagree for a moment, such as about a transaction's nonce."""


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """One connected peer, as RPC and metrics show it."""

    peer_id: PeerId
    validator: Address | None
    """None if the peer proved to be no validator's."""
    head: Head
    is_inbound: bool
    latency_seconds: float | None
    """The last ping's round trip; None before the first."""
    addresses: tuple[str, ...]
    score: float


@dataclass(slots=True)
class _Target:
    peer_id: PeerId
    source: PeerId | None
    """Who told us; None for the operator."""
    is_proven: bool = False
    """Whether a dial there found this peer id."""
    failures: int = 0
    next_dial_at: float = 0.0


@dataclass(slots=True)
class _Record:
    score: float
    updated_at: float
    banned_until: float = 0.0


class PeerTable:
    """Dial targets with backoff, and scores with bans; every table is bounded."""

    def __init__(
        self,
        *,
        own_peer_id: PeerId,
        bootstrap: Iterable[str],
        random: Callable[[], float],
        accept_private: bool,
    ) -> None:
        """Start with the operator's addresses.

        Args:
            own_peer_id: never dialled.
            bootstrap: full multiaddresses, redialled for ever.
            random: uniform in [0, 1), for jitter.
            accept_private: whether peers may tell us loopback and private addresses.

        Raises:
            OperatorError: a bootstrap address is not a full multiaddress.
        """
        self._own_peer_id = own_peer_id
        self._random = random
        self._accept_private = accept_private
        self._targets: dict[str, _Target] = {}
        self._records: dict[PeerId, _Record] = {}
        for address in bootstrap:
            self.add_persistent(address)

    def add_persistent(self, address: str) -> None:
        """Dial this address for ever.

        Raises:
            OperatorError: it is not a full multiaddress.
        """
        peer_id = peer_id_of_address(address)
        if peer_id is None:
            raise OperatorError(
                f"network.bootstrap: {address!r} is not like /ip4/192.0.2.1/tcp/9000/p2p/12D3K..."
            )
        if peer_id != self._own_peer_id:
            self._targets[address] = _Target(PeerId(peer_id), source=None)

    def learn(self, addresses: Iterable[str], source: PeerId) -> None:
        """Remember addresses that the peer `source` told us, as far as it may have us remember.

        None is believed before a dial has proven it, and who tells many pushes out his own. Proven
        or not, one site has GROUP_LIMIT of them, and makes room when the table is full of proven.
        """
        for address in addresses:
            peer_id = peer_id_of_address(address)
            if peer_id is None or peer_id == self._own_peer_id or address in self._targets:
                continue
            if not is_dialable(address, accept_private=self._accept_private):
                continue
            if self._count_groups()[get_group(address)] >= GROUP_LIMIT:
                continue
            if self._has_room(PeerId(peer_id), source):
                self._targets[address] = _Target(PeerId(peer_id), source)

    def _has_room(self, peer_id: PeerId, source: PeerId) -> bool:
        unproven = [
            (address, target)
            for address, target in self._targets.items()
            if target.source is not None and not target.is_proven
        ]
        own = sum(target.source == target.peer_id == peer_id for _, target in unproven)
        if peer_id == source:
            return own < OWN_ADDRESS_LIMIT and self._make_room(unproven, source)
        told = sum(target.source == source != target.peer_id for _, target in unproven)
        others = sum(target.peer_id == peer_id for _, target in unproven) - own
        return (
            told < SOURCE_LIMIT
            and others < PEER_ADDRESS_LIMIT
            and self._make_room(unproven, source)
        )

    def _make_room(self, unproven: list[tuple[str, _Target]], source: PeerId) -> bool:
        """Forget an address of whoever told most, if the table is full and that is not `source`.

        Where all are proven, one of the site with most.
        """
        if len(self._targets) < TARGET_LIMIT:
            return True
        counts = Counter(target.source for _, target in unproven)
        if not counts:
            groups = self._count_groups()
            group, _ = max(groups.items(), key=lambda item: item[1], default=("", 0))
            learned = [a for a in self._list_learned() if get_group(a) == group]
            if learned:
                del self._targets[learned[0]]
            return bool(learned)
        busiest, count = counts.most_common(1)[0]
        if busiest == source or counts[source] + 1 >= count:
            return False
        del self._targets[next(a for a, target in unproven if target.source == busiest)]
        return True

    def _list_learned(self) -> list[str]:
        return [address for address, target in self._targets.items() if target.source is not None]

    def _count_groups(self) -> Counter[str]:
        return Counter(map(get_group, self._list_learned()))

    def known_addresses(self, peer_ids: Iterable[PeerId], limit: int) -> tuple[str, ...]:
        """Addresses of the given peers to tell others, one of each, sorted, at most `limit`.

        Those that our own dial has proven, before what a peer with a session says of itself; among
        equals chance decides, so that all are told in time, and no site is told as if it were many.
        """
        wanted = set(peer_ids)
        candidates = sorted(
            (not target.is_proven, self._random(), address, target.peer_id)
            for address, target in self._targets.items()
            if target.peer_id in wanted and (target.is_proven or target.source == target.peer_id)
        )
        told: dict[PeerId, str] = {}
        groups: Counter[str] = Counter()
        for _, _, address, peer_id in candidates:
            group = get_group(address)
            if len(told) < limit and peer_id not in told and groups[group] < GROUP_TOLD_LIMIT:
                told[peer_id] = address
                groups[group] += 1
        return tuple(sorted(told.values()))

    def is_persistent(self, peer_id: PeerId) -> bool:
        """Whether the operator named an address of the peer."""
        return any(
            target.source is None for target in self._targets.values() if target.peer_id == peer_id
        )

    def due(
        self, now: float, connected: Iterable[PeerId], *, is_settled: bool = False
    ) -> tuple[tuple[PeerId, str], ...]:
        """Peers to dial now, one address each; their next turn is set as if this dial fails.

        With `is_settled`, only the operator's addresses.

        The operator's addresses come first, then proven ones, then what a peer says of itself.
        """
        taken = set(connected)
        chosen = []
        for address, target in sorted(self._targets.items(), key=lambda item: _rank(item[1])):
            if target.peer_id in taken or target.next_dial_at > now:
                continue
            if is_settled and target.source is not None:
                continue
            if self.is_banned(target.peer_id, now):
                continue
            taken.add(target.peer_id)
            self._back_off(target, now)
            chosen.append((target.peer_id, address))
        return tuple(chosen)

    def is_proven(self, address: str) -> bool:
        """Whether it is the operator's address, or a dial there has found its peer."""
        target = self._targets.get(address)
        return target is not None and (target.source is None or target.is_proven)

    def turned_away(self, peer_id: PeerId, now: float) -> None:
        """The peer said why it keeps no session with us: come back in minutes, not at once."""
        for target in self._targets.values():
            if target.peer_id == peer_id:
                wait = BACKOFF_LAST_SECONDS if target.source is None else REFUSED_SECONDS
                target.next_dial_at = now + wait * (0.5 + self._random())

    def dial_succeeded(self, address: str) -> None:
        """The peer id that belongs to the address answered there."""
        if target := self._targets.get(address):
            target.is_proven = True

    def dial_failed(self, address: str) -> None:
        """Forget a learned address that keeps failing."""
        target = self._targets.get(address)
        if target and target.source is not None and target.failures >= LEARNED_FAILURES_LIMIT:
            del self._targets[address]

    def connected(self, peer_id: PeerId) -> None:
        """Start the backoff of a peer's addresses anew."""
        for target in self._targets.values():
            if target.peer_id == peer_id:
                target.failures = 0
                target.next_dial_at = 0.0

    def penalize(self, peer_id: PeerId, reason: RejectionReason, now: float) -> bool:
        """Take points off; True if the peer is banned now."""
        record = _Record(self.score(peer_id, now), now)
        record.score = max(0.0, record.score - PENALTIES.get(reason, DEFAULT_PENALTY))
        if is_ban := record.score == 0:
            record.banned_until = now + BAN_SECONDS
        self._records.pop(peer_id, None)
        self._records[peer_id] = record
        if len(self._records) > RECORD_LIMIT:
            del self._records[next(iter(self._records))]
        return is_ban

    def export_records(self, now: float) -> dict[str, tuple[float, float]]:
        """What is held against peers: score, and seconds that a ban still lasts."""
        return {
            peer_id: (self.score(peer_id, now), max(0.0, record.banned_until - now))
            for peer_id, record in self._records.items()
            if self.score(peer_id, now) < FULL_SCORE or record.banned_until > now
        }

    def import_records(
        self, records: Mapping[str, tuple[float, float]], *, age_seconds: float, now: float
    ) -> None:
        """Take over what was exported `age_seconds` ago, as decayed as it would be by now."""
        for peer_id, (score, ban_seconds) in list(records.items())[:RECORD_LIMIT]:
            ban_left = min(ban_seconds, BAN_SECONDS) - age_seconds
            self._records[PeerId(peer_id)] = _Record(
                min(FULL_SCORE, max(score, 0.0) + age_seconds * RECOVERY_PER_SECOND),
                now,
                now + max(0.0, ban_left),
            )

    def score(self, peer_id: PeerId, now: float) -> float:
        """The points a peer has left, of 100."""
        record = self._records.get(peer_id)
        if record is None:
            return FULL_SCORE
        return min(FULL_SCORE, record.score + (now - record.updated_at) * RECOVERY_PER_SECOND)

    def is_banned(self, peer_id: PeerId, now: float) -> bool:
        """Whether the peer is shunned at `now`."""
        record = self._records.get(peer_id)
        return record is not None and now < record.banned_until

    def _back_off(self, target: _Target, now: float) -> None:
        wait = min(BACKOFF_LAST_SECONDS, BACKOFF_FIRST_SECONDS * 2 ** min(target.failures, 16))
        target.failures += 1
        # Half to one and a half times: two nodes that dial each other at once part ways.
        target.next_dial_at = now + wait * (0.5 + self._random())


def _rank(target: _Target) -> tuple[int, int]:
    if target.source is None:
        return (0, target.failures)
    if target.is_proven:
        return (1, target.failures)
    return (2 if target.source == target.peer_id else 3, target.failures)


@lru_cache(4 * TARGET_LIMIT)
def get_group(address: str) -> str:
    """What counts as one place on the internet; every private address with its port is one."""
    _, kind, host, *_ = address.split("/")
    if kind in ("ip4", "ip6"):
        with suppress(ValueError):
            parsed = ipaddress.ip_address(host)
            return get_address_group(parsed) if parsed.is_global else address
    return address


def is_dialable(address: str, *, accept_private: bool) -> bool:
    """Whether an address that a peer told us may be dialled.

    Without `accept_private` only public IP addresses are, so that nobody points us at services
    inside an operator's network.
    """
    _, kind, host, _, port, *_ = address.split("/")
    if kind not in ("ip4", "ip6") or not 0 < int(port) < 2**16:
        return False
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return False
    return parsed.is_global or (accept_private and not parsed.is_multicast)
