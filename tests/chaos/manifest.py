"""What will go wrong, whom it hits and for how long: all drawn from a seed.

Faults run in lanes. A lane does one at a time, waits until its victim has recovered, and no two
lanes share a victim; there are at most f lanes of validators, so never more than f are faulty. The
last lane is the full node's.
"""

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
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
    """Its connections end, and new ones are refused."""
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
class Manifest:
    """A run."""

    seed: int
    seconds: float
    """How long it takes on a quiet machine; on a busy one recoveries take longer."""
    validator_count: int
    lanes: tuple[tuple[Fault, ...], ...]

    @property
    def node_count(self) -> int:
        """The validators and the full node."""
        return self.validator_count + 1

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


def draw_manifest(seed: int, seconds: float) -> Manifest:
    """The run of a seed: 4 to 7 validators, a full node, and what happens to them."""
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
