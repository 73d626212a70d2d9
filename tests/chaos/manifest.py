"""The plan of a chaos run: which faults hit which node for how long, and how the set changes.

It is drawn from a seed. Faults run in lanes: a lane runs one fault at a time and waits until the
node has recovered, and no two lanes hit the same node. There are at most f lanes of validators, so
never more than f are faulty. The last lane is that of the full node.

In half of the runs a spare node joins the validators, and one of them goes later. f is that of the
genesis set: no validator leaves before the spare has joined, so no set in force has a smaller f. A
validator with a copied key may be convicted and removed too, and then no longer counts as faulty.
"""

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Final


class FaultKind(StrEnum):
    """The faults of a node."""

    LATE_START = "late_start"
    """The node starts later than the others."""
    KILL = "kill"
    """SIGKILL, then started again."""
    RESTART = "restart"
    """SIGTERM, then started again."""
    PAUSE = "pause"
    """SIGSTOP, then SIGCONT: the kernel keeps its connections."""
    DISCONNECT = "disconnect"
    """The node cannot be reached; proxies end its connections and refuse new ones."""
    SILENCE = "silence"
    """The node's connections stay open, and nothing passes until the end of the fault."""
    WIPE = "wipe"
    """SIGKILL; everything but the keys is lost, the signer guard too."""
    WIPE_KEEP_GUARD = "wipe_keep_guard"
    """SIGKILL; everything but the keys and the signer guard is lost."""
    DISK_FULL = "disk_full"
    """No file can be written; then SIGKILL, and a new start with room on the disk."""
    CLONE = "clone"
    """A second node signs with the same consensus key."""


class ChangeKind(StrEnum):
    """How the validator set can change."""

    JOIN = "join"
    """The spare node joins by the votes of a quorum of operators."""
    LEAVE = "leave"
    """A member leaves at its operator's request."""
    REMOVE = "remove"
    """A member is removed by the votes of a quorum of operators."""


DOWN_SECONDS: Final = (1, 6)
"""How long KILL, RESTART and the wipes keep a node down."""

OUTAGE_SECONDS: Final = 10
"""The length of PAUSE, DISCONNECT, SILENCE and DISK_FULL: over a dozen views of a fast network."""

CLONE_SECONDS: Final = 25
"""The length of CLONE: the clone has no guard, so it synchronizes and waits before it signs."""

PAUSE_SECONDS: Final = (2, 8)
"""The pause between two faults of a lane."""

RECOVERY_SECONDS: Final = 10
"""The expected time of a recovery, to fit faults into the run; the run waits for the real one."""

DECK: Final = tuple(
    kind for kind in FaultKind if kind not in (FaultKind.LATE_START, FaultKind.CLONE)
)
"""The faults that may hit a validator at any time.

LATE_START can only be the first of a lane. CLONE is the last: a validator that signs twice stays
faulty.
"""

CHANGING_SHARE: Final = 0.5
"""The share of the runs that have a spare node."""

CHANGE_RUN_SECONDS: Final = 60
"""A shorter run has no time for two changes."""

CHANGE_PAUSE_SHARES: Final = (0.1, 0.25)
"""The shares of a run's time that pass before each change."""

SPARE_FAULT_SHARE: Final = 0.3
"""The share of the first lane's faults that hit the spare, if there is one."""

FULL_NODE_DECK: Final = (
    FaultKind.KILL,
    FaultKind.RESTART,
    FaultKind.PAUSE,
    FaultKind.DISCONNECT,
    FaultKind.SILENCE,
)
"""The faults that may hit the full node, which signs nothing."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of one node."""

    kind: FaultKind
    node: int
    """The index of the node; that of the full node is the number of validators."""
    pause_seconds: float
    """The pause before the fault."""
    duration_seconds: float

    @property
    def expected_seconds(self) -> float:
        """The expected time from the end of the previous fault to the end of this one."""
        return self.pause_seconds + self.duration_seconds + RECOVERY_SECONDS


@dataclass(frozen=True, slots=True)
class SetChange:
    """One change of the validator set."""

    kind: ChangeKind
    node: int
    """The index of the node that joins or leaves."""
    pause_seconds: float
    """The pause before the change."""
    voters: tuple[int, ...]
    """The nodes whose operators vote, one after the other; the first proposes a removal."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The plan of a run."""

    seed: int
    seconds: float
    """The length of the run on a quiet machine; on a busy one recoveries take longer."""
    validator_count: int
    """The number of validators in genesis."""
    lanes: tuple[tuple[Fault, ...], ...]
    changes: tuple[SetChange, ...] = ()
    """The changes, one at a time; each begins when the previous one is in force."""

    @property
    def full_node(self) -> int:
        """The index of the full node, which signs nothing."""
        return self.validator_count

    @property
    def spare(self) -> int | None:
        """The index of the node that follows until it joins; None if there is none."""
        return self.validator_count + 1 if self.changes else None

    @property
    def node_count(self) -> int:
        """The validators, the full node, and the spare if there is one."""
        return self.validator_count + (1 if self.spare is None else 2)

    @property
    def late_nodes(self) -> frozenset[int]:
        """The nodes that start late."""
        faults = (fault for lane in self.lanes for fault in lane)
        return frozenset(fault.node for fault in faults if fault.kind is FaultKind.LATE_START)

    def to_json(self) -> dict[str, object]:
        """The manifest in the report."""
        return asdict(self)


def compute_max_faulty(validator_count: int) -> int:
    """f, computed apart from the product's code."""
    return (validator_count - 1) // 3


def compute_quorum(validator_count: int) -> int:
    """The quorum, computed apart from the product's code."""
    return -(-2 * validator_count // 3)


def draw_manifest(seed: int, seconds: float) -> Manifest:
    """The plan of a seed: 4 to 7 validators, a full node, and their faults."""
    manifest = _draw_faults(seed, seconds)
    # A random source of its own: the faults do not depend on whether the set changes.
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
    """The kinds in random order, repeatedly: each once before any comes again."""
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
    """Faults until the time of the run is over."""
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
    """The spare joins; then a member goes, unless evidence against a copied key removes one."""
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
    # The content of a guard that was kept is only checked for members.
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
