"""The world of a seed, and its run from the first fault to recovery (docs/spec/consensus.md)."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Final

from chain.consensus.inputs import Timing
from chain.types.validator_set import compute_max_faulty
from tests.simulation.adversary import CLOCK_HABITS, HABITS
from tests.simulation.cluster import (
    BOOT_MS,
    HEALED_DELAY_MS,
    TIMING,
    Cluster,
    Recorder,
    World,
)
from tests.simulation.histories import scatter, scatter_with_locks

STRICT_EVERY: Final = 100
"""One seed in this many is a strict world."""

SETS_EVERY: Final = 20
"""One seed in this many has a changing validator set."""

CLOCKS_EVERY: Final = 20
"""One seed in this many has liars that give their blocks a false time."""

DISK_ACCIDENTS: Final = ("log", "flip", "cut", "guard", "wiped", "full")


def draw_world(seed: int) -> tuple[str, World]:
    """The family and the world of a seed."""
    random = Random(f"world {seed}")
    if seed % STRICT_EVERY == STRICT_EVERY - 1:
        return "strict", World(
            n=4,
            faulty_ms=5_000,
            loss=random.choice((0.0, 0.1)),
            crash=0.002,
            liars=1,
            habits=("malleate", random.choice(("mutate", "equivocate", "replay"))),
            is_strict=True,
        )
    if seed % SETS_EVERY == SETS_EVERY // 2:
        return "sets", draw_sets(random)
    if seed % CLOCKS_EVERY == 3:
        return "clocks", draw_clocks(random)
    (family,) = random.choices(list(FAMILIES), [weight for _, weight in FAMILIES.values()])
    draw, _ = FAMILIES[family]
    return family, draw(random)


def draw_storm(random: Random) -> World:
    """A world with every network fault, and perhaps twins or dead validators."""
    n = random.choice((4, 4, 5, 7))
    faulty = compute_max_faulty(n)
    twins = random.choice((0, 0, 1))
    dead = random.choice((0, 0, 1)) if faulty > twins else 0
    return World(
        n=n,
        timing=draw_timing(random),
        loss=random.choice((0.0, 0.0, 0.1, 0.3)),
        duplication=random.choice((0.0, 0.1)),
        max_delay_ms=random.choice((30, HEALED_DELAY_MS, 400, 800)),
        crash=random.choice((0.0, 0.0005, 0.003)),
        partitions=random.choice((0.0, 0.3, 0.7)),
        restarts=random.choice((0.0, 0.0, 0.1, 0.4)),
        twins=twins,
        dead=dead,
        skew_ms=random.choice((0, 300)),
        outage_ms=random.choice((0, 0, 0, 20_000)),
        is_cold=random.random() < 0.2,
    )


def draw_locks(random: Random) -> World:
    """A world in which few nodes get each certificate, and one of these is faulty."""
    n = random.choice((4, 4, 5, 7))
    faulty = compute_max_faulty(n)
    role = random.choice(("none", "gone", "dead", "liars", "twins"))
    return World(
        n=n,
        faulty_ms=12_000,
        mask="locks",
        loss=random.choice((0.0, 0.1)),
        crash=random.choice((0.0, 0.001)),
        restarts=random.choice((0.0, 0.1)),
        dead=faulty if role == "dead" else 0,
        gone=faulty if role == "gone" else 0,
        is_cold=random.random() < 0.3,
        twins=1 if role == "twins" else 0,
        liars=faulty if role == "liars" else 0,
        habits=draw_habits(random),
    )


def draw_twins(random: Random) -> World:
    """A world of twins: a partition for every view, with one validator in both halves."""
    return World(
        n=random.choice((4, 4, 4, 5)),
        faulty_ms=8_000,
        mask="twins",
        twins=1,
        max_delay_ms=random.choice((10, HEALED_DELAY_MS)),
        restarts=random.choice((0.0, 0.1)),
    )


def draw_liars(random: Random) -> World:
    """A world with f colluding liars."""
    n = random.choice((4, 4, 5, 7, 10))
    return World(
        n=n,
        faulty_ms=8_000 if n < 10 else 4_000,
        liars=compute_max_faulty(n),
        habits=draw_habits(random),
        loss=random.choice((0.0, 0.1)),
        max_delay_ms=random.choice((30, HEALED_DELAY_MS, 400)),
        partitions=random.choice((0.0, 0.3)),
        crash=random.choice((0.0, 0.001)),
        skew_ms=200,
    )


def draw_abandoned(random: Random) -> World:
    """A world in which a primary sends its NEW-VIEW and stays away; the others restart."""
    n = random.choice((4, 4, 5, 7))
    return World(
        n=n,
        faulty_ms=random.randrange(2_000, 12_000),
        mask="hold",
        max_delay_ms=random.choice((HEALED_DELAY_MS, 200, 400)),
        kills=random.choice((0.4, 0.8)),
        gone=compute_max_faulty(n),
        is_cold=True,
    )


def draw_starved(random: Random) -> World:
    """A world in which one node never gets one kind, or with a star, a ring or a one-way link."""
    return World(
        n=4,
        faulty_ms=8_000,
        mask="starve",
        restarts=random.choice((0.0, 0.1)),
        loss=random.choice((0.0, 0.1)),
    )


def draw_disks(random: Random) -> World:
    """A world with crashes at every boundary, and disks that lose durable records."""
    n = random.choice((4, 4, 5, 7))
    return World(
        n=n,
        faulty_ms=12_000,
        crash=random.choice((0.002, 0.005, 0.01)),
        loss=random.choice((0.0, 0.1)),
        restarts=random.choice((0.0, 0.2)),
        max_delay_ms=random.choice((HEALED_DELAY_MS, 400)),
        accidents=tuple(random.sample(DISK_ACCIDENTS, random.randint(1, 6))),
        victims=compute_max_faulty(n),
    )


def draw_scattered(random: Random) -> World:
    """A world of diverged views without locks, with loss and f dead or lying validators."""
    n = random.choice((4, 4, 5, 7, 10))
    top = random.choice((3, 12, 40))
    views: list[int | None] = [random.randrange(top) for _ in range(n)]
    views[random.randrange(n)] = random.choice((None, 0, top, 2 * top))
    is_lying = None not in views and random.random() < 0.3
    return World(
        n=n,
        timing=draw_timing(random),
        faulty_ms=random.choice((0, 0, 4_000)),
        loss=random.choice((0.0, 0.1)),
        restarts=random.choice((0.0, 0.3)),
        views=tuple(views),
        liars=compute_max_faulty(n) if is_lying else 0,
        habits=("flood",) if is_lying else (),
    )


def draw_locked(random: Random) -> World:
    """A world of diverged views with lone, conflicting and committed certificates."""
    n = random.choice((4, 4, 5, 7))
    role = random.choice(("none", "liars"))
    return World(
        n=n,
        timing=draw_timing(random),
        faulty_ms=random.choice((0, 0, 3_000)),
        loss=random.choice((0.0, 0.1)),
        mask=random.choice(("none", "locks")),
        restarts=random.choice((0.0, 0.3)),
        liars=compute_max_faulty(n) if role == "liars" else 0,
        habits=draw_habits(random) if role == "liars" else (),
    )


def draw_large(random: Random) -> World:
    """A world of 31 validators for a few blocks."""
    return World(
        n=31,
        faulty_ms=2_500,
        loss=random.choice((0.0, 0.05)),
        dead=random.choice((0, 10)),
        max_delay_ms=random.choice((30, HEALED_DELAY_MS)),
        restarts=random.choice((0.0, 0.2)),
    )


def draw_sets(random: Random) -> World:
    """A world in which validators join and leave with each block, with every network fault."""
    role = random.choice(("none", "dead", "liars", "liars", "twins"))
    return World(
        n=random.choice((4, 5)),
        spares=random.choice((1, 3)),
        timing=draw_timing(random),
        faulty_ms=20_000,
        loss=random.choice((0.0, 0.1)),
        max_delay_ms=random.choice((30, HEALED_DELAY_MS, 200)),
        partitions=random.choice((0.0, 0.3)),
        crash=random.choice((0.0, 0.001)),
        restarts=random.choice((0.0, 0.05)),
        dead=role == "dead",
        twins=role == "twins",
        liars=role == "liars",
        habits=draw_habits(random) if role == "liars" else (),
        is_cold=random.random() < 0.2,
    )


def draw_clocks(random: Random) -> World:
    """A world with liars that date blocks back or ahead, skewed clocks, and slow links."""
    n = random.choice((4, 4, 7, 10))
    habit = random.choice(CLOCK_HABITS)
    other = random.choice(("mute", "equivocate", "skip", None, None, None, None))
    # To date blocks ahead pays if there are many, and to date them back if there are few.
    is_busy = habit == "ahead"
    return World(
        n=n,
        timing=replace(draw_timing(random), min_block_interval_ms=50 if is_busy else 200),
        faulty_ms=15_000 if n < 10 else 8_000,
        liars=compute_max_faulty(n),
        habits=(habit,) if other is None else (habit, other),
        loss=random.choice((0.0, 0.1)),
        max_delay_ms=random.choice((10, HEALED_DELAY_MS) if is_busy else (HEALED_DELAY_MS, 800)),
        partitions=random.choice((0.0, 0.5)),
        execution_ms=0 if is_busy else random.choice((0, 0, 100, 300)),
        skew_ms=random.choice((100, 500)),
        outage_ms=random.choice((0, 5_000, 20_000)),
        is_busy=is_busy,
    )


def draw_timing(random: Random) -> Timing:
    """The usual timing with another cap."""
    return Timing(
        min_block_interval_ms=TIMING.min_block_interval_ms,
        empty_block_interval_ms=TIMING.empty_block_interval_ms,
        view_timeout_base_ms=TIMING.view_timeout_base_ms,
        view_timeout_cap_ms=random.choice((1_600, 3_000, 3_000, 6_000)),
        resend_interval_ms=TIMING.resend_interval_ms,
    )


def draw_habits(random: Random) -> tuple[str, ...]:
    """One to three ways to lie."""
    return tuple(random.sample(HABITS, random.randint(1, 3)))


FAMILIES: Final[Mapping[str, tuple[Callable[[Random], World], int]]] = {
    "storm": (draw_storm, 15),
    "locks": (draw_locks, 18),
    "twins": (draw_twins, 10),
    "liars": (draw_liars, 14),
    "starved": (draw_starved, 5),
    "abandoned": (draw_abandoned, 8),
    "disks": (draw_disks, 11),
    "scattered": (draw_scattered, 12),
    "locked": (draw_locked, 9),
    "large": (draw_large, 1),
}
"""The families of worlds, each with its approximate share of a hundred seeds."""


def start(
    seed: int,
    family: str,
    world: World,
    trace: Callable[[str], None] | None,
    recorder: Recorder | None = None,
) -> Cluster:
    """The cluster of a world before its first event."""
    cluster = Cluster(seed, world, trace, recorder)
    if world.views:
        scatter(cluster)
    if family == "locked":
        scatter_with_locks(cluster)
    return cluster


def simulate(
    seed: int,
    trace: Callable[[str], None] | None = None,
    recorder: Recorder | None = None,
) -> Cluster:
    """Run one seed: faults, then health, with every checker on.

    Raises:
        AssertionError: A checker found a violation.
    """
    family, world = draw_world(seed)
    cluster = start(seed, family, world, trace, recorder)
    cluster.trace(f"* seed {seed} {family} {world}")
    run(cluster)
    return cluster


def run(cluster: Cluster) -> None:
    """Run the faulty time, then require a block within the limit, then three more."""
    cluster.run_faulty()
    for node in cluster.honest:
        if node.state is not None:
            cluster.checkers.check_memory(node.name, node.state)
    cluster.heal()
    # All processes are up before the promised time begins.
    cluster.run_until(cluster.now_ms + BOOT_MS)
    promised_ms = cluster.compute_promised_recovery_ms()
    took_ms = cluster.run_to_block(1, cluster.compute_recovery_limit_ms())
    cluster.counts["recoveries as if all were honest"] += took_ms <= promised_ms
    cluster.run_to_block(3, 90_000)
