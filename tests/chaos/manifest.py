"""What will go wrong, whom it hits and for how long, and how the set changes: drawn from a seed.

Faults run in lanes. A lane does one at a time, waits until its victim has recovered, and no two
lanes share a victim; there are at most f lanes of validators, so never more than f are faulty. The
last lane is the full node's.

In half of the runs a spare node joins the validators, and one of them goes later. f is that of
genesis's set: nobody goes before the spare has come, so no set in force has a smaller one. Whose
key was copied may be convicted and removed as well, but then it is faulty no longer.
"""

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Final


class FaultKind(StrEnum):
    """What can happen to a node."""

    LATE_START = "late_start"
    """It is not there at the start."""
    KILL = "kill"
    """SIGKILL, then started again."""
    RESTART = "restart"
    """SIGTERM, then started again."""
    PAUSE = "pause"
    """SIGSTOP, then SIGCONT: the kernel keeps its connections."""
    DISCONNECT = "disconnect"
    """There is no way to it; over proxies, connections end and new ones are refused."""
    SILENCE = "silence"
    """Its connections stay, and nothing comes through until the end."""
    WIPE = "wipe"
    """SIGKILL, all but the keys is lost, the signer guard too."""
    WIPE_KEEP_GUARD = "wipe_keep_guard"
    """SIGKILL, all but the keys and the signer guard is lost."""
    DISK_FULL = "disk_full"
    """No file can be written; then SIGKILL, and started again with room."""
    CLONE = "clone"
    """Its consensus key signs in a second node as well."""


class ChangeKind(StrEnum):
    """How the validator set can change."""

    JOIN = "join"
    """The spare node comes in by the votes of a quorum of operators."""
    LEAVE = "leave"
    """A member goes because its operator wants to."""
    REMOVE = "remove"
    """A member goes by the votes of a quorum of operators."""


DOWN_SECONDS: Final = (1, 6)
"""How long a victim of KILL, RESTART and the wipes is not there."""

OUTAGE_SECONDS: Final = 10
"""Of PAUSE, DISCONNECT, SILENCE and DISK_FULL: longer than a dozen views of a fast network."""

CLONE_SECONDS: Final = 25
"""A clone without a guard starts, synchronizes, and waits out what the key may have signed."""

PAUSE_SECONDS: Final = (2, 8)
"""Health between the faults of a lane."""

RECOVERY_SECONDS: Final = 10
"""Of a recovery, to see how many faults fit; the run waits for the real one."""

DECK: Final = tuple(
    kind for kind in FaultKind if kind not in (FaultKind.LATE_START, FaultKind.CLONE)
)
"""What may hit a validator at any time. LATE_START comes first in a lane, CLONE last: whoever signs
twice stays faulty."""

CHANGING_SHARE: Final = 0.5
"""Of the runs have a spare node."""

CHANGE_RUN_SECONDS: Final = 60
"""A shorter run has no time for two changes."""

CHANGE_PAUSE_SHARES: Final = (0.1, 0.25)
"""Of a run's time pass before each change."""

SPARE_FAULT_SHARE: Final = 0.3
"""Of the faults of the first lane hit the spare, if there is one."""

FULL_NODE_DECK: Final = (
    FaultKind.KILL,
    FaultKind.RESTART,
    FaultKind.PAUSE,
    FaultKind.DISCONNECT,
    FaultKind.SILENCE,
)
"""What may hit the full node, which signs nothing."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong."""

    kind: FaultKind
    node: int
    """Its index; the full node's is the number of validators."""
    pause_seconds: float
    """Health before it."""
    duration_seconds: float

    @property
    def expected_seconds(self) -> float:
        """From the end of the one before to its own."""
        return self.pause_seconds + self.duration_seconds + RECOVERY_SECONDS


@dataclass(frozen=True, slots=True)
class SetChange:
    """One change of the validator set."""

    kind: ChangeKind
    node: int
    """Who comes or goes."""
    pause_seconds: float
    """Before it."""
    voters: tuple[int, ...]
    """Whose operators vote, one after the other; the first proposes a removal."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A run."""

    seed: int
    seconds: float
    """How long it takes on a quiet machine; on a busy one recoveries take longer."""
    validator_count: int
    """In genesis."""
    lanes: tuple[tuple[Fault, ...], ...]
    changes: tuple[SetChange, ...] = ()
    """One at a time, each after the one before is in force."""

    @property
    def full_node(self) -> int:
        """It signs nothing."""
        return self.validator_count

    @property
    def spare(self) -> int | None:
        """Who follows until it joins; None: nobody joins."""
        return self.validator_count + 1 if self.changes else None

    @property
    def node_count(self) -> int:
        """The validators, the full node, and the spare if there is one."""
        return self.validator_count + (1 if self.spare is None else 2)

    @property
    def late_nodes(self) -> frozenset[int]:
        """Those that are not there at the start."""
        faults = (fault for lane in self.lanes for fault in lane)
        return frozenset(fault.node for fault in faults if fault.kind is FaultKind.LATE_START)

    def to_json(self) -> dict[str, object]:
        """As the report shows it."""
        return asdict(self)


def compute_max_faulty(validator_count: int) -> int:
    """f, with arithmetic of our own."""
    return (validator_count - 1) // 3


def compute_quorum(validator_count: int) -> int:
    """q, with arithmetic of our own."""
    return -(-2 * validator_count // 3)


def draw_manifest(seed: int, seconds: float) -> Manifest:
    """The run of a seed: 4 to 7 validators, a full node, and what happens to them."""
    manifest = _draw_faults(seed, seconds)
    # A source of its own: what goes wrong does not depend on whether the set changes.
    source = random.Random(f"{seed}/changes")
    if seconds < CHANGE_RUN_SECONDS or source.random() >= CHANGING_SHARE:
        return manifest
    return _share_faults(source, replace(manifest, changes=_draw_changes(source, manifest)))


def _draw_faults(seed: int, seconds: float) -> Manifest:
    source = random.Random(seed)
    count = source.randint(4, 7)
    victims = list(range(count))
    source.shuffle(victims)
    lane_count = compute_max_faulty(count)
    deck = _deal(source, DECK)
    lanes = [
        _draw_lane(source, victims[lane::lane_count], seconds, deck, is_first=lane == 0)
        for lane in range(lane_count)
    ]
    follower = Fault(FaultKind.LATE_START, count, 0.0, source.uniform(0.1, 0.4) * seconds)
    later = _fill(
        source, [count], seconds, follower.expected_seconds, _deal(source, FULL_NODE_DECK)
    )
    return Manifest(seed, seconds, count, (*lanes, (follower, *later)))


def _deal(source: random.Random, kinds: tuple[FaultKind, ...]) -> Iterator[FaultKind]:
    """Every kind once, in any order, again and again: a long run has them all."""
    while True:
        yield from source.sample(kinds, len(kinds))


def _draw_lane(
    source: random.Random,
    victims: list[int],
    seconds: float,
    deck: Iterator[FaultKind],
    *,
    is_first: bool,
) -> tuple[Fault, ...]:
    lane: list[Fault] = []
    if is_first and source.random() < 0.5:
        lane.append(Fault(FaultKind.LATE_START, victims[0], 0.0, source.uniform(5, 20)))
    room = seconds
    clone = None
    if is_first and source.random() < 0.5:
        pause = source.uniform(*PAUSE_SECONDS)
        clone = Fault(FaultKind.CLONE, source.choice(victims), pause, CLONE_SECONDS)
        room -= clone.expected_seconds
    spent = sum(fault.expected_seconds for fault in lane)
    lane += _fill(source, victims, room, spent, deck)
    return (*lane, *(() if clone is None else (clone,)))


def _fill(
    source: random.Random,
    victims: list[int],
    seconds: float,
    spent: float,
    deck: Iterator[FaultKind],
) -> list[Fault]:
    """Faults until the time is over."""
    faults: list[Fault] = []
    while True:
        kind = next(deck)
        is_down = kind in (
            *(FaultKind.KILL, FaultKind.RESTART, FaultKind.WIPE, FaultKind.WIPE_KEEP_GUARD),
        )
        duration = source.uniform(*DOWN_SECONDS) if is_down else float(OUTAGE_SECONDS)
        fault = Fault(kind, source.choice(victims), source.uniform(*PAUSE_SECONDS), duration)
        spent += fault.expected_seconds
        if spent > seconds:
            return faults
        faults.append(fault)


def _draw_changes(source: random.Random, manifest: Manifest) -> tuple[SetChange, ...]:
    """The spare joins; then somebody goes, unless evidence against a copied key sees to that."""
    count, seconds = manifest.validator_count, manifest.seconds
    spare = count + 1
    faults = [fault for lane in manifest.lanes for fault in lane]
    copied = {fault.node for fault in faults if fault.kind is FaultKind.CLONE}
    pause = source.uniform(*CHANGE_PAUSE_SHARES) * seconds
    voters = source.sample(sorted(set(range(count)) - copied), compute_quorum(count))
    join = SetChange(ChangeKind.JOIN, spare, pause, tuple(voters))
    if copied:
        return (join,)
    members = [*range(count), spare]
    leaver = source.choice(members)
    pause = source.uniform(*CHANGE_PAUSE_SHARES) * seconds
    members.remove(leaver)
    if source.random() < 0.5:
        return join, SetChange(ChangeKind.LEAVE, leaver, pause, ())
    voters = source.sample(members, compute_quorum(count + 1))
    return join, SetChange(ChangeKind.REMOVE, leaver, pause, tuple(voters))


def _share_faults(source: random.Random, manifest: Manifest) -> Manifest:
    """Let some of the first lane's faults hit the spare instead."""
    spare = manifest.spare
    assert spare is not None
    lane = [
        replace(fault, node=spare)
        if fault.kind in DECK and source.random() < SPARE_FAULT_SHARE
        else fault
        for fault in manifest.lanes[0]
    ]
    # What a guard must say that was kept is known of members only.
    movers = {change.node for change in manifest.changes}
    return replace(
        manifest,
        lanes=tuple(
            tuple(
                replace(fault, kind=FaultKind.WIPE)
                if fault.kind is FaultKind.WIPE_KEEP_GUARD and fault.node in movers
                else fault
                for fault in each
            )
            for each in (lane, *manifest.lanes[1:])
        ),
    )
