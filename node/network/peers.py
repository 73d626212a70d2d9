"""Which addresses to dial and when, and which peers are banned (docs/spec/wire.md, section 3).

Time and chance are arguments, so that a test is a loop over numbers.
"""

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cachetools import FIFOCache

from chain.errors import RejectionReason
from chain.primitives import Address
from chain.validation import FORM_REASONS
from node.network.admission import get_address_group
from node.network.stream import PeerId
from node.network.wire import Head, peer_id_of_address
from pot_common.errors import OperatorError

TARGET_LIMIT: Final = 256
"""Addresses remembered; what peers tell never displaces a bootstrap or proven address."""

OWN_ADDRESS_LIMIT: Final = 4
"""Addresses that a peer may claim for itself: two networks, IPv4 and IPv6 on each."""

SOURCE_LIMIT: Final = 16
"""Unproven addresses of other nodes remembered from one peer: as many as one message holds."""

PEER_ADDRESS_LIMIT: Final = 4
"""Unproven addresses of one node remembered from other peers: false ones leave room for its own."""

GROUP_LIMIT: Final = 8
"""Learned addresses remembered of one address group: several nodes may share an IP address."""

GROUP_TOLD_LIMIT: Final = 2
"""Addresses of one address group in one message to a peer."""

RECORD_LIMIT: Final = 1024
"""Limit of peers with a remembered score; the one penalized longest ago is dropped first."""

BACKOFF_FIRST_SECONDS: Final = 0.5
"""The wait after a first failure, before jitter."""

BACKOFF_LAST_SECONDS: Final = 30.0
"""The longest wait, before jitter: a restarted machine is back within half a minute."""

REFUSED_SECONDS: Final = 600.0
"""The wait after a node refused a session, until its address is dialled again, without jitter.
It applies to addresses learned from peers. Those that the operator names wait BACKOFF_LAST_SECONDS.
"""

LEARNED_FAILURES_LIMIT: Final = 6
"""Failed dials in a row after which a learned address is forgotten."""

FULL_SCORE: Final = 100.0
"""The score of a new peer; a peer at 0 is banned."""

RECOVERY_PER_SECOND: Final = 0.5
"""Points that a peer regains a second: a rare fault is forgiven within minutes."""

BAN_SECONDS: Final = 300.0
"""How long a banned peer is neither dialled nor served."""

PENALTIES: Final[dict[RejectionReason, float]] = {
    **dict.fromkeys(FORM_REASONS, 50.0),
    RejectionReason.CONTENT_MISMATCH: 50.0,
    RejectionReason.FALSE_HEAD: 50.0,
    # An operator's mistake: the connection ends, but the peer is not banned.
    RejectionReason.WRONG_CHAIN: 0.0,
}
"""The points that a refused input costs; what this software never sends costs half of all."""

DEFAULT_PENALTY: Final = 5.0
"""The penalty where honest nodes may disagree for a moment, such as about a nonce."""


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """One connected peer, as RPC and metrics show it."""

    peer_id: PeerId
    validator: Address | None
    """The validator that the peer has proved to be; None if it claims none."""
    head: Head
    is_inbound: bool
    latency_seconds: float | None
    """The round trip of the last ping; None before the first."""
    addresses: tuple[str, ...]
    score: float


@dataclass(slots=True)
class _Target:
    peer_id: PeerId
    source: PeerId | None
    """The peer that told us the address; None for the operator's."""
    is_proven: bool = False
    """Whether a dial to the address has found this peer id."""
    failures: int = 0
    next_dial_at: float = 0.0


@dataclass(slots=True)
class _Record:
    score: float
    updated_at: float
    banned_until: float = 0.0


class PeerTable:
    """Addresses to dial with their backoff, and scores with bans; every table is bounded."""

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
            own_peer_id: of this node, which it never dials.
            bootstrap: full multiaddresses, redialled for ever.
            random: uniform in [0, 1), for jitter.
            accept_private: whether loopback and private addresses are learned from peers.

        Raises:
            OperatorError: A bootstrap address is not a full multiaddress.
        """
        self._own_peer_id = own_peer_id
        self._random = random
        self._accept_private = accept_private
        self._targets: dict[str, _Target] = {}
        self._records: FIFOCache[PeerId, _Record] = FIFOCache(RECORD_LIMIT)
        for address in bootstrap:
            self.add_persistent(address)

    def add_persistent(self, address: str) -> None:
        """Add an address that is redialled for ever.

        Raises:
            OperatorError: It is not a full multiaddress.
        """
        peer_id = peer_id_of_address(address)
        if peer_id is None:
            raise OperatorError(
                f"network.bootstrap: {address!r} is not like /ip4/192.0.2.1/tcp/9000/p2p/12D3K..."
            )
        if peer_id != self._own_peer_id:
            self._targets[address] = _Target(PeerId(peer_id), source=None)

    def learn(self, addresses: Iterable[str], source: PeerId) -> None:
        """Remember addresses that the peer `source` told us, within its limits.

        An address counts as proven only after a dial has found its peer id there.
        A full table drops an unproven address of the peer that told most.
        An address group has at most GROUP_LIMIT addresses, proven or not; a table full of proven
        addresses drops one of the largest group.
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
        """Make sure that the table has room for an address from `source`; False if it has none.

        A full table drops an unproven address of the peer that told most, unless that is `source`.
        If all are proven, it drops one of the largest address group.
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
        """Addresses of the given peers to tell others: one of each peer, sorted, at most `limit`.

        Proven addresses come before those that a peer claims for itself; chance decides among
        equals, so that every address is told in time. No address group fills the answer.
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
        """Whether the operator configured an address of the peer."""
        return any(
            target.source is None for target in self._targets.values() if target.peer_id == peer_id
        )

    def due(
        self, now: float, connected: Iterable[PeerId], *, only_persistent: bool = False
    ) -> tuple[tuple[PeerId, str], ...]:
        """Peers to dial now, one address each; the next dial is scheduled as if this one failed.

        The operator's addresses come first, then proven ones, then those that a peer claims for
        itself, then those that other peers told. With `only_persistent`, all but the operator's
        are left out.
        """
        taken = set(connected)
        chosen = []
        for address, target in sorted(self._targets.items(), key=lambda item: _rank(item[1])):
            if target.peer_id in taken or target.next_dial_at > now:
                continue
            if only_persistent and target.source is not None:
                continue
            if self.is_banned(target.peer_id, now):
                continue
            taken.add(target.peer_id)
            self._back_off(target, now)
            chosen.append((target.peer_id, address))
        return tuple(chosen)

    def is_proven(self, address: str) -> bool:
        """Whether the address is the operator's, or a dial has found its peer there."""
        target = self._targets.get(address)
        return target is not None and (target.source is None or target.is_proven)

    def session_refused(self, peer_id: PeerId, now: float) -> None:
        """Postpone the next dial of a peer that has refused a session with us."""
        for target in self._targets.values():
            if target.peer_id == peer_id:
                wait = BACKOFF_LAST_SECONDS if target.source is None else REFUSED_SECONDS
                target.next_dial_at = now + wait * (0.5 + self._random())

    def dial_succeeded(self, address: str) -> None:
        """Mark an address as proven: the peer id in it answered there."""
        if target := self._targets.get(address):
            target.is_proven = True

    def dial_failed(self, address: str) -> None:
        """Forget a learned address that keeps failing."""
        target = self._targets.get(address)
        if target and target.source is not None and target.failures >= LEARNED_FAILURES_LIMIT:
            del self._targets[address]

    def connected(self, peer_id: PeerId) -> None:
        """Reset the backoff of a peer's addresses."""
        for target in self._targets.values():
            if target.peer_id == peer_id:
                target.failures = 0
                target.next_dial_at = 0.0

    def penalize(self, peer_id: PeerId, reason: RejectionReason, now: float) -> bool:
        """Take points off a peer; True if it is banned now."""
        record = _Record(self.score(peer_id, now), now)
        record.score = max(0.0, record.score - PENALTIES.get(reason, DEFAULT_PENALTY))
        if is_ban := record.score == 0:
            record.banned_until = now + BAN_SECONDS
        self._records[peer_id] = record
        return is_ban

    def export_records(self, now: float) -> dict[str, tuple[float, float]]:
        """The score and the remaining seconds of the ban of each peer with a fault."""
        return {
            peer_id: (self.score(peer_id, now), max(0.0, record.banned_until - now))
            for peer_id, record in self._records.items()
            if self.score(peer_id, now) < FULL_SCORE or record.banned_until > now
        }

    def import_records(
        self, records: Mapping[str, tuple[float, float]], *, age_seconds: float, now: float
    ) -> None:
        """Load records exported `age_seconds` ago, with the recovery of that time applied."""
        for peer_id, (score, ban_seconds) in list(records.items())[:RECORD_LIMIT]:
            ban_left = min(ban_seconds, BAN_SECONDS) - age_seconds
            self._records[PeerId(peer_id)] = _Record(
                min(FULL_SCORE, max(score, 0.0) + age_seconds * RECOVERY_PER_SECOND),
                now,
                now + max(0.0, ban_left),
            )

    def score(self, peer_id: PeerId, now: float) -> float:
        """The points that a peer has left, of FULL_SCORE."""
        record = self._records.get(peer_id)
        if record is None:
            return FULL_SCORE
        return min(FULL_SCORE, record.score + (now - record.updated_at) * RECOVERY_PER_SECOND)

    def is_banned(self, peer_id: PeerId, now: float) -> bool:
        """Whether the peer is banned at `now`."""
        record = self._records.get(peer_id)
        return record is not None and now < record.banned_until

    def _back_off(self, target: _Target, now: float) -> None:
        wait = min(BACKOFF_LAST_SECONDS, BACKOFF_FIRST_SECONDS * 2 ** min(target.failures, 16))
        target.failures += 1
        # Half to one and a half times: otherwise two nodes would dial each other at once again.
        target.next_dial_at = now + wait * (0.5 + self._random())


def _rank(target: _Target) -> tuple[int, int]:
    if target.source is None:
        return (0, target.failures)
    if target.is_proven:
        return (1, target.failures)
    return (2 if target.source == target.peer_id else 3, target.failures)


@lru_cache(4 * TARGET_LIMIT)
def get_group(address: str) -> str:
    """The group of a multiaddress: that of a public IP; a private address is a group of its own."""
    _, kind, host, *_ = address.split("/")
    if kind in ("ip4", "ip6"):
        with suppress(ValueError):
            parsed = ipaddress.ip_address(host)
            return get_address_group(parsed) if parsed.is_global else address
    return address


def is_dialable(address: str, *, accept_private: bool) -> bool:
    """Whether an address that a peer told us may be dialled.

    Without `accept_private` only public IP addresses are, so that a peer cannot make this node
    connect to services inside its operator's network.
    """
    _, kind, host, _, port, *_ = address.split("/")
    if kind not in ("ip4", "ip6") or not 0 < int(port) < 2**16:
        return False
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return False
    return parsed.is_global or (accept_private and not parsed.is_multicast)
