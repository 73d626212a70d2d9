"""The world of a seed, and its run: faults, then health, then the end of the task."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Final

from chain.contracts import task_registry, training_token, validator_set
from chain.contracts.addresses import TRAINING_TOKEN, VALIDATOR_SET
from chain.contracts.task_registry import Purchase
from chain.crypto import get_address
from chain.params import ChainParameters
from chain.primitives import Address, TaskId
from chain.training.leases import is_lifetime_over
from chain.training.task_spec import Phases, TaskSpec
from chain.types.validator_set import compute_max_faulty, compute_quorum
from tests.training_simulation import liars, miners, submitters
from tests.training_simulation.chain import JOINER, JOINING_KEY, SUBMITTERS
from tests.training_simulation.checkers import (
    END,
    PROGRESS,
    Checkers,
)
from tests.training_simulation.cluster import LONG, Cluster, Newcomer, OtherTask, World
from tests.training_simulation.formats import (
    DISPLACED_PER_UNIT,
    PRICES,
    compute_attempt_seconds,
)
from tests.training_simulation.liars import Lie
from tests.training_simulation.miners import HONEST, Miner
from tests.training_simulation.submitters import Stranger, Submitter, submit_junk
from tests.training_simulation.validators import Validator
from tests.training_simulation.values import (
    MAIN_SPEC,
    OTHER_TOKEN,
    Cost,
    compute_junk_purchase,
    compute_round_cost,
)
from tests.worlds.contracts import POT, STAKE, prove_join

JUNK_MS: Final = 8_000
"""When the tasks that no miner trains are submitted: the main task is active by then."""

SUBMISSION_MS: Final = 20_000
"""A submission is on a healthy chain after this time."""

SETTLE_BLOCKS: Final = 24
"""How many blocks a closed task is watched at least: fines are approved and imposed by then."""


def draw_world(seed: int) -> tuple[str, World]:
    """The family and the world of a seed."""
    random, later = Random(f"training world {seed}"), Random(f"later training world {seed}")
    flights = Random(f"training world with flights {seed}")
    if flights.randrange(100) < FLIGHTS_SHARE:
        return "flights", draw_flights(flights)
    displacers = Random(f"training world with displacers {seed}")
    if displacers.randrange(100) < DISPLACERS_SHARE:
        return "displacers", draw_displacers(displacers)
    unfit = Random(f"unfit training world {seed}")
    if unfit.randrange(100) < UNFIT_SHARE:
        return "unfit", draw_unfit(unfit)
    # What was added later has draws of its own: all other seeds have the worlds that they had,
    # and the table of mutants, in which their numbers are, stays true.
    share = sum(weight for _, weight in LATER_FAMILIES.values())
    is_later = later.randrange(100) < share
    families = LATER_FAMILIES if is_later else FIRST_FAMILIES
    random = later if is_later else random
    (family,) = random.choices(list(families), [weight for _, weight in families.values()])
    draw, _ = families[family]
    world = draw(random)
    if family in ("lies", "storm") and later.random() < 0.2:
        world = replace(world, others=draw_others(later, world.miners, 1))
    return family, world


GUILTY: Final = ("cheats", "withholds", "is malformed")
"""Habits of miners that are fined wherever they train."""


def draw_n(random: Random) -> int:
    """The size of a validator set."""
    return random.choice((4, 4, 4, 4, 5, 6, 7))


def draw_miners(random: Random, nuisances: int) -> tuple[str, ...]:
    """Two or three honest miners, which are enough for an attempt, and some others."""
    habits = [HONEST] * random.randint(2, 3)
    habits += random.choices(miners.HABITS, k=nuisances)
    random.shuffle(habits)
    return tuple(habits)


def draw_liars(random: Random, n: int) -> tuple[str, ...]:
    """The habits of f liars; often they all have the same."""
    count = compute_max_faulty(n)
    if random.random() < 0.5:
        return (random.choice(liars.HABITS),) * count
    return tuple(random.choices(liars.HABITS, k=count))


def draw_plain(random: Random) -> World:
    """A healthy network with slow blocks, miners that exceed the capacity, or an odd submitter."""
    return World(
        n=draw_n(random),
        miners=draw_miners(random, random.randint(0, 1)),
        block_ms=random.choice((500, 1_000, 2_000)),
        faulty_ms=20_000,
        habits_of_submitter=tuple(random.sample(submitters.HABITS, random.randint(0, 2))),
        attacks=0.2,
        units=random.choice((1, 2, 5)),
    )


def draw_nuisances(random: Random) -> World:
    """Miners with every bad habit."""
    return World(
        n=draw_n(random),
        miners=draw_miners(random, random.randint(1, 3)),
        faulty_ms=30_000,
        units=random.choice((1, 2, 2, 4)),
    )


def draw_lies(random: Random) -> World:
    """A world with f lying validators, and miners with bad habits."""
    n = draw_n(random)
    return World(
        n=n,
        miners=draw_miners(random, random.randint(0, 2)),
        liars=draw_liars(random, n),
        compute_ms=random.choice((1_500, 6_000)),
        block_ms=random.choice((1_000, 2_000)),
        faulty_ms=30_000,
        units=random.choice((2, 2, 4)),
    )


def draw_storm(random: Random) -> World:
    """A world with splits, crashes, lost calls, and perhaps liars."""
    n = draw_n(random)
    return World(
        n=n,
        miners=draw_miners(random, random.randint(0, 2)),
        liars=draw_liars(random, n) if random.random() < 0.5 else (),
        faulty_ms=random.choice((40_000, 80_000)),
        block_ms=random.choice((500, 1_000, 2_000)),
        max_delay_ms=random.choice((150, 1_500)),
        compute_ms=random.choice((1_500, 6_000)),
        loss=random.choice((0.0, 0.05, 0.2)),
        crashes=random.choice((0.0, 0.02, 0.05)),
        crashes_after_verdict=random.choice((0.0, 0.0, 0.5, 0.8)),
        down_ms=random.choice((6_000, 25_000, 90_000)),
        cuts=random.choice((0.0, 0.05, 0.15)),
        cut_ms=random.choice((6_000, 25_000)),
        stalls=random.choice((0.0, 0.0, 0.03)),
        phases=random.choice(((8, 16, 8), (8, 16, 8), (15, 30, 15))),
        habits_of_submitter=tuple(random.sample(submitters.HABITS, random.randint(0, 1))),
        attacks=0.05,
    )


def draw_outage(random: Random) -> World:
    """A world in which so few validators train that ballots fail and attempts are void."""
    n = draw_n(random)
    return World(
        n=n,
        miners=draw_miners(random, random.randint(0, 1)),
        liars=draw_liars(random, n) if random.random() < 0.3 else (),
        compute_ms=random.choice((1_500, 6_000)),
        empty_block_ms=1_000,
        outages=random.choice((0.05, 0.3)),
        crashes_after_verdict=random.choice((0.0, 0.5)),
        down_ms=random.choice((30_000, 90_000, 300_000)),
        faulty_ms=random.choice((60_000, 150_000)),
    )


def draw_slow(random: Random) -> World:
    """A world in which validators cannot check all gradients within the verdict phase."""
    n = draw_n(random)
    return World(
        n=n,
        miners=draw_miners(random, 1),
        liars=draw_liars(random, n) if random.random() < 0.3 else (),
        check_ms=random.choice((3_000, 6_000, 20_000)),
        faulty_ms=60_000,
    )


def draw_late(random: Random) -> World:
    """A world in which validators see different gradients in time, and liars use that.

    Blocks are quick: only then are the windows for late verdicts and fines over in time.
    """
    n = draw_n(random)
    guilty = random.choice(("withholds", "withholds", "cheats"))
    habits = [HONEST, HONEST, "reveals just in time", "reveals just in time", guilty]
    habit = random.choice(("takes back its ok", "is late", "is silent", "calls all unchecked"))
    if habit == "takes back its ok":
        # Often one word more would prove the cheat of one of them.
        habits += ["is near a proven cheat"] * 2
    return World(
        n=n,
        miners=tuple(habits),
        units=1,
        liars=(habit,) * compute_max_faulty(n),
        download_ms=random.choice((1_000, 4_000)),
        max_delay_ms=random.choice((150, 1_500)),
        check_ms=random.choice((300, 1_500)),
        cuts=random.choice((0.05, 0.15)),
        cut_ms=random.choice((6_000, 25_000)),
        stalls=random.choice((0.0, 0.03)),
        crashes=random.choice((0.0, 0.02)),
        down_ms=6_000,
        faulty_ms=random.choice((60_000, 140_000)),
        empty_block_ms=1_000,
        rounds=16,
        attacks=random.choice((0.0, 0.2)),
    )


def draw_long(random: Random) -> World:
    """A world of many short rounds, with a miner that misses some that are far apart."""
    return World(
        miners=(HONEST, HONEST, "is away now and then", *draw_miners(random, 0)[2:]),
        rounds=24,
        block_ms=500,
        empty_block_ms=1_000,
        compute_ms=1_000,
        faulty_ms=random.choice((30_000, 90_000)),
        attacks=random.choice((0.0, 0.05)),
        units=random.choice((1, 2)),
    )


def draw_tight(random: Random) -> World:
    """A world whose task has phases that are hardly longer than the time between two blocks."""
    n = draw_n(random)
    return World(
        n=n,
        miners=draw_miners(random, random.randint(0, 1)),
        block_ms=random.choice((1_000, 2_000, 3_000)),
        phases=random.choice(((5, 8, 5), (4, 4, 4), (8, 4, 8))),
        floor=random.choice((1, 2, 4, 8)),
    )


def draw_change(random: Random) -> World:
    """A world whose validator set changes, with as many liars as both sets tolerate."""
    # Most of these changes also change f or q.
    n, change = random.choice(
        ((4, "join"), (5, "join"), (6, "join"), (4, "leave"), (5, "leave"), (7, "leave"))
    )
    guilty = random.choice((("withholds", "cheats"), miners.HABITS))
    count = compute_max_faulty(n if change == "join" else n - 1)
    return World(
        n=n,
        miners=(*draw_miners(random, random.randint(0, 1)), random.choice(guilty)),
        liars=draw_liars(random, n)[:count],
        set_change=change,
        check_ms=random.choice((300, 3_000)),
        faulty_ms=40_000,
        empty_block_ms=1_000,
        compute_ms=random.choice((1_500, 6_000)),
        crashes_after_verdict=random.choice((0.0, 0.0, 0.5)),
        crashes=random.choice((0.0, 0.02)),
        down_ms=random.choice((6_000, 25_000)),
        attacks=0.2,
    )


def draw_junk(random: Random) -> World:
    """A world with many tasks that no miner trains; some of their dry runs take long."""
    junk, dry_run_ms = random.choice(((20, 100), (40, 5_000), (63, 150_000)))
    return World(
        miners=draw_miners(random, 0),
        junk=junk,
        junk_dry_run_ms=dry_run_ms,
        junk_waves=random.choice((1, 2)),
        faulty_ms=40_000,
        attacks=random.choice((0.0, 0.05)),
    )


def draw_lease(random: Random) -> World:
    """A world in which the lifetime or the attempts of the main task do not last."""
    n, empty_block_ms = draw_n(random), random.choice((1_000, 4_000))
    floor = ChainParameters().phase_floor_blocks
    seconds = compute_attempt_seconds(MAIN_SPEC, n, floor, empty_block_ms)
    seconds += random.choice((40, 100, 250))
    purchase = random.choice((Purchase(seconds, 50), Purchase(seconds, 50), Purchase(14_400, 2)))
    liars = random.choice(((), draw_liars(random, n), ("refuses tasks",) * compute_max_faulty(n)))
    return World(
        n=n,
        miners=draw_miners(random, random.randint(0, 1)),
        liars=liars,
        rounds=40,
        purchase=purchase,
        habits_of_submitter=random.choice(((), ("extends",), ("pays for one round",))),
        empty_block_ms=empty_block_ms,
        stalls=random.choice((0.0, 0.02)),
        outages=random.choice((0.0, 0.3)),
        blackouts=random.random() < 0.7,
        down_ms=600_000,
        faulty_ms=random.choice((60_000, *[1_000 * (seconds + 200)] * 3)),
        attacks=random.choice((0.0, 0.2, 0.2)),
    )


def draw_others(random: Random, members: tuple[str, ...], count: int) -> tuple[OtherTask, ...]:
    """Further tasks, each with miners of its own and some of those of the main task."""
    names = (("second", 8), ("third", 12))[:count]
    return tuple(draw_other(random, name, first, members) for name, first in names)


def draw_other(random: Random, name: str, first: int, members: tuple[str, ...]) -> OtherTask:
    """A further task: a healthy one, one with bad miners only, or one whose checks take long."""
    kind = random.choice(("healthy", "healthy", "bad", "slow"))
    bad = (*miners.HABITS, *GUILTY * 3)
    own = random.randint(2, 3)
    habits = random.choices(bad, k=own) if kind == "bad" else [HONEST] * own
    shared = random.sample(range(len(members)), random.randint(1, 2))
    others = tuple(
        # An account may be honest in one task and guilty in another.
        (index, random.choice((members[index], members[index], HONEST, random.choice(bad))))
        for index in shared
    )
    return OtherTask(
        name=name,
        miners=(*enumerate(habits, first), *others),
        starts_ms=random.randrange(500, 12_000),
        is_paid_in_pot=random.random() < 0.5,
        phases=random.choice(((8, 12, 8), (5, 8, 5), (15, 30, 15))),
        rounds=random.choice((1, 4, 12)),
        min_miners=random.choice((1, 2)),
        max_units=random.choice((4, 8)),
        unit_price=random.choice((1, POT, 3 * POT // 7)),
        units=random.choice((1, 2)),
        check_ms=random.choice((3_000, 20_000)) if kind == "slow" else 300,
        unit_milliseconds=100 if kind == "slow" else 200,
        habits_of_submitter=tuple(random.sample(submitters.HABITS, random.randint(0, 1))),
    )


def draw_many(random: Random) -> World:
    """A world with two or three tasks that are trained at the same time."""
    n, habits = draw_n(random), [HONEST, HONEST, random.choice((HONEST, *GUILTY))]
    habits += random.choices(miners.HABITS, k=random.randint(0, 1))
    members = tuple(random.sample(habits, len(habits)))
    others = draw_others(random, members, random.choice((1, 1, 2)))
    junk = random.choice((0, 0, 0, 10))
    if junk:
        # They are submitted first: a new task waits for the dry runs of earlier ones.
        others = tuple(replace(each, starts_ms=500) for each in others)
    return World(
        n=n,
        miners=members,
        others=others,
        junk=junk,
        junk_dry_run_ms=random.choice((100, 150_000)),
        liars=draw_liars(random, n) if random.random() < 0.4 else (),
        block_ms=random.choice((500, 1_000)),
        # The submitter pays for no dry run that a crash interrupts.
        crashes=0.0 if junk else random.choice((0.0, 0.0, 0.02)),
        crashes_after_verdict=0.0 if junk else random.choice((0.0, 0.0, 0.5)),
        rounds=random.choice((4, 12)),
        faulty_ms=random.choice((30_000, 50_000)),
        attacks=random.choice((0.0, 0.1)),
        habits_of_submitter=tuple(random.sample(submitters.HABITS, random.randint(0, 1))),
    )


def draw_seats(random: Random) -> World:
    """A world whose full task has short terms, and newcomers that displace its miners."""
    n, units = draw_n(random), random.choice((2, 2, 4, 3))
    count = MAIN_SPEC.reward.max_units // units
    faulty_ms = random.choice((20_000, 30_000, 40_000, 40_000, 120_000))
    habits = [HONEST] * max(2, count - 1) + random.choices((HONEST, *miners.HABITS), k=1)
    members = tuple(random.sample(habits[:count], count))
    newcomers = tuple(
        Newcomer(
            habit=HONEST if random.random() < 0.7 else random.choice(miners.HABITS),
            units=random.choice((1, 2, 2, 3, 4, 6)),
            starts_ms=random.randrange(5_000, faulty_ms * 3 // 4),
            misnaming=random.choice(("", *miners.MISNAMINGS)),
        )
        for _ in range(random.randint(2, 4))
    )
    world = World(
        n=n,
        miners=members,
        units=units,
        newcomers=newcomers,
        seat_attempts=random.choice((2, 3, 4)),
        rounds=100,
        block_ms=500,
        empty_block_ms=500,
        faulty_ms=faulty_ms,
        liars=draw_liars(random, n) if random.random() < 0.3 else (),
        loss=random.choice((0.0, 0.05)),
        crashes=random.choice((0.0, 0.0, 0.02)),
        others=draw_others(random, members, 1) if random.random() < 0.2 else (),
    )
    # Drawn last, so that all else is as it was before these were added.
    misnamings = [
        miners.TOO_LARGE if DISPLACED_PER_UNIT * each.units < units else each.misnaming
        for each in newcomers
    ]
    return replace(
        world,
        newcomers=tuple(
            replace(each, misnaming=misnaming)
            for each, misnaming in zip(newcomers, misnamings, strict=True)
        ),
        are_greedy=random.random() < 0.5,
        # Some tasks need all units for an attempt; this takes no draw from other worlds.
        min_units=count * units if len(newcomers) == 3 else 2,
    )


def draw_flights(random: Random) -> World:
    """A world in which votes are cast while a block is on its way, which may have an old time.

    A validator may then see a phase end by its clock before a further timely vote is final.
    """
    n = draw_n(random)
    habit = random.choice((liars.LAST_MOMENT, liars.LAST_MOMENT, "is late"))
    return World(
        n=n,
        miners=draw_miners(random, random.randint(0, 1)),
        liars=(habit,) * compute_max_faulty(n),
        block_ms=500,
        empty_block_ms=1_500,
        tick_ms=200,
        flight_ms=1_400,
        old_times=random.choice((0.0, 0.3)),
        # Verdicts that take long are followed by a wait that ends by the clock.
        check_ms=random.choice((5_000, 7_000)),
        evaluate_ms=100,
        phases=(8, 60, 12),
        rounds=12,
        faulty_ms=200_000,
    )


def draw_unfit(random: Random) -> World:
    """A world in which some validators cannot check, others are much slower, and the rest lie."""
    n = draw_n(random)
    max_faulty = compute_max_faulty(n)
    habit = random.choice((*liars.SPEAKERS, "is silent", *["calls all unchecked"] * 4))
    return World(
        n=n,
        miners=draw_miners(random, random.randint(0, 1)),
        liars=(habit,) * max_faulty,
        unfit=random.randint(1, min(max_faulty, n - compute_quorum(n))),
        paces=tuple(random.choices((1, 3, 6), k=n - 2)),
        check_ms=random.choice((300, 1_500)),
        phases=(8, 60, 8),
        faulty_ms=100_000,
    )


def draw_displacers(random: Random) -> World:
    """A world in which newcomers displace miners of a small task, and want it to stand still.

    Miners make way until an attempt lacks seats or units, and a second newcomer takes the rest.
    """
    sizes = random.choice(((4, 1, 2, 1), (4, 1, 1, 2), (3, 2, 2, 1), (4, 2, 2)))
    habits = [
        HONEST,
        *random.sample((miners.MAKES_WAY,) * (len(sizes) - 2) + (HONEST,), len(sizes) - 1),
    ]
    members = [Newcomer(*each, starts_ms=0) for each in zip(habits, sizes, strict=True)]
    starts_ms = random.randrange(7_000, 12_000)
    newcomers = (
        Newcomer(HONEST, (sizes[0] + 1) // 2, starts_ms, aim=miners.LARGEST),
        Newcomer(HONEST, 1, starts_ms, aim=miners.REST),
        Newcomer(HONEST, 2, starts_ms + random.randrange(-2_000, 15_000), miners.TOO_MANY),
    )
    return World(
        n=4,
        miners=(),
        newcomers=(*members, *newcomers),
        seat_attempts=2,
        min_miners=len(sizes),
        min_units=random.choice((4, 4, 6)),
        rounds=100,
        block_ms=500,
        empty_block_ms=500,
        faulty_ms=30_000,
        loss=random.choice((0.0, 0.0, 0.05)),
    )


UNFIT_SHARE: Final = 4
"""The share of a hundred seeds that the family "unfit" has; its seeds have draws of their own."""

DISPLACERS_SHARE: Final = 3
"""That of the family "displacers"."""

FLIGHTS_SHARE: Final = 4
"""The share of a hundred seeds that the family "flights" has; its seeds have draws of their own."""

FIRST_FAMILIES: Final[Mapping[str, tuple[Callable[[Random], World], int]]] = {
    "plain": (draw_plain, 15),
    "nuisances": (draw_nuisances, 20),
    "lies": (draw_lies, 24),
    "storm": (draw_storm, 24),
    "outage": (draw_outage, 10),
    "slow": (draw_slow, 4),
    "late": (draw_late, 8),
    "long": (draw_long, 3),
    "tight": (draw_tight, 3),
    "change": (draw_change, 8),
    "junk": (draw_junk, 3),
    "lease": (draw_lease, 14),
}
"""Families of worlds, each with its weight."""

LATER_FAMILIES: Final[Mapping[str, tuple[Callable[[Random], World], int]]] = {
    "many": (draw_many, 8),
    "seats": (draw_seats, 7),
}
"""Families that were added later, each with its share of a hundred seeds."""

FAMILIES: Final = {*FIRST_FAMILIES, *LATER_FAMILIES, "flights", "unfit", "displacers"}

KNOWN: Final[Mapping[str, frozenset[str]]] = {
    "plain": frozenset(),
    "nuisances": frozenset(),
    "lies": frozenset(),
    "storm": frozenset(),
    "outage": frozenset(),
    "slow": frozenset(),
    "late": frozenset(),
    "long": frozenset(),
    "tight": frozenset(),
    "change": frozenset(),
    "junk": frozenset(),
    "lease": frozenset(),
    "many": frozenset(),
    "seats": frozenset(),
    "flights": frozenset(),
    "unfit": frozenset(),
    "displacers": frozenset(),
}
"""The properties that the rules break in a family; test_known_faults.py has a seed for each."""


def build(
    seed: int,
    world: World,
    trace: Callable[[str], None] = lambda line: None,
    without: frozenset[str] = frozenset(),
) -> Cluster:
    """The cluster of a world before its first event."""
    cluster = Cluster(seed, world, trace)
    cluster.checkers = Checkers(cluster, without)
    cluster.costs[MAIN_SPEC.name] = Cost(dry_run_ms=1_000, check_ms=world.check_ms)
    for number in range(world.junk):
        cluster.costs[f"junk {number}"] = Cost(world.junk_dry_run_ms, world.check_ms)
    liar_indices = cluster.random.sample(range(world.n), len(world.liars))
    lies = dict(zip(liar_indices, world.liars, strict=True))
    first = cluster.chain.validator_set
    for index, accounts in enumerate(zip(first.validators, first.operators, strict=True)):
        lie = Lie(lies[index]) if index in lies else None
        cluster.validators.append(Validator(cluster, f"validator {index}", accounts, lie))
    for validator in cluster.honest[: world.slow]:
        validator.is_slow = True
    for validator in cluster.honest[len(cluster.honest) - world.unfit :]:
        validator.is_unfit = True
    for validator, pace in zip(cluster.honest, world.paces, strict=False):
        validator.pace = pace
    if world.set_change == "join":
        accounts = (get_address(JOINING_KEY), JOINER)
        cluster.validators.append(Validator(cluster, "validator that joins", accounts))
    if world.set_change:
        change_ms = cluster.random.randrange(1_000, world.faulty_ms // 2)
        cluster.after(change_ms, lambda: change_set(cluster))
    for index, habit in enumerate(world.miners):
        miner = Miner(cluster, index, habit)
        miner.is_greedy = world.are_greedy
        cluster.miners.append(miner)
    for index, newcomer in enumerate(world.newcomers, len(world.miners)):
        miner = Miner(cluster, index, newcomer.habit)
        miner.units, miner.misnaming = newcomer.units, newcomer.misnaming
        miner.starts_ms, miner.aim = newcomer.starts_ms, newcomer.aim
        cluster.miners.append(miner)
    reward = replace(MAIN_SPEC.reward, min_miners=world.min_miners, min_units=world.min_units)
    phases = Phases(*world.phases)
    spec = replace(MAIN_SPEC, phases=phases, round_count=world.rounds, reward=reward)
    submitter = Submitter(
        cluster, "submitter", SUBMITTERS[0], spec, world.habits_of_submitter, world.purchase
    )
    cluster.submitters.append(submitter)
    for other, account in zip(world.others, SUBMITTERS[2:], strict=False):
        add_task(cluster, other, account)
    if world.attacks:
        cluster.strangers.append(Stranger(cluster))
    cluster.after(JUNK_MS, lambda: submit_junk(cluster, world.junk, world.junk_waves))
    for validator in cluster.random.sample(cluster.validators, world.n // 2 + 1):
        validator.disk.content.add(TaskId(1))
    submitter.submit(1 if "pays for one round" in world.habits_of_submitter else world.rounds)
    return cluster


def add_task(cluster: Cluster, other: OtherTask, account: Address) -> None:
    """Add another task with its submitter and its miners."""
    spec = build_other_spec(other)
    cluster.costs[spec.name] = Cost(dry_run_ms=1_000, check_ms=other.check_ms)
    name = f"submitter of {spec.name}"
    submitter = Submitter(cluster, name, account, spec, other.habits_of_submitter, LONG)
    cluster.submitters.append(submitter)
    for index, habit in other.miners:
        miner = Miner(cluster, index, habit, spec.name)
        miner.units = other.units
        cluster.miners.append(miner)
    rounds = 1 if "pays for one round" in other.habits_of_submitter else other.rounds
    cluster.after(other.starts_ms, lambda: submitter.submit(rounds))
    cluster.after(other.starts_ms, submitter.hand_out_content)


def build_other_spec(other: OtherTask) -> TaskSpec:
    """The specification of another task."""
    reward = replace(
        MAIN_SPEC.reward,
        token=TRAINING_TOKEN if other.is_paid_in_pot else OTHER_TOKEN,
        unit_price=other.unit_price,
        max_units=other.max_units,
        min_miners=other.min_miners,
        min_units=other.min_miners,
    )
    resources = replace(MAIN_SPEC.resources, unit_milliseconds=other.unit_milliseconds)
    return replace(
        MAIN_SPEC,
        name=other.name,
        phases=Phases(*other.phases),
        round_count=other.rounds,
        reward=reward,
        resources=resources,
    )


def change_set(cluster: Cluster) -> None:
    """Let all members vote for a change of the validator set; it takes effect some blocks later."""
    chain = cluster.chain
    operators = chain.validator_set.operators
    if cluster.world.set_change == "join":
        approve = training_token.approve(TRAINING_TOKEN, VALIDATOR_SET, STAKE)
        chain.execute_at_once(JOINER, approve)
        proof = prove_join(JOINING_KEY, JOINER)
        join = validator_set.propose_join(get_address(JOINING_KEY), proof)
        chain.execute_at_once(JOINER, join)
        voters = operators
    else:
        honest = [each for each in cluster.honest if each.is_member]
        removed = cluster.random.choice(honest)
        chain.execute_at_once(operators[0], validator_set.propose_removal(removed.address))
        voters = operators[1:]
    for operator in voters[: chain.validator_set.quorum - len(operators) + len(voters)]:
        chain.execute_at_once(operator, validator_set.vote_on_proposal(1))
    cluster.trace(f"the validator set is to change: {cluster.world.set_change}")
    cluster.counts["set changes"] += 1


def run(cluster: Cluster) -> None:
    """Run the faulty time, then require settled rounds, then end the tasks and share them out."""
    world, chain = cluster.world, cluster.chain
    cluster.start()
    cluster.run_until(cluster.start_ms + world.faulty_ms)
    cluster.heal()
    _require_progress(cluster)
    if not chain.view.histories:
        return
    for submitter in cluster.submitters:
        history = chain.view.histories.get(submitter.task_id)
        if history is not None and not history.is_closed:
            submitter.cancel()
    began_ms = cluster.now_ms
    for submitter in cluster.submitters:
        task_id = submitter.task_id
        if task_id and not chain.view.histories[task_id].is_closed:
            limit_ms = began_ms + compute_recovery_ms(cluster, task_id)
            is_closed = cluster.run_until(
                limit_ms, lambda task_id=task_id: chain.view.histories[task_id].is_closed
            )
            text = f"the cancelled task {task_id} does not close"
            cluster.checkers.require(PROGRESS, is_closed, text)
    run_until_all_ended(cluster)
    number = chain.view.number
    limit_ms = cluster.now_ms + SETTLE_BLOCKS * world.empty_block_ms * 2
    cluster.run_until(limit_ms, lambda: chain.view.number >= number + SETTLE_BLOCKS)
    _run_closing_votes(cluster)
    cluster.checkers.on_end()


def _require_progress(cluster: Cluster) -> None:
    """Require of each task that a healthy network settles a round of it within its time."""
    chain = cluster.chain
    histories = chain.view.histories
    waiting = {each.spec.name: 0 for each in cluster.submitters}
    for submitter in cluster.submitters:
        if submitter.task_id:
            waiting[submitter.spec.name] = histories[submitter.task_id].rounds_settled
    began_ms = cluster.now_ms
    if len(cluster.submitters) > 1:
        # A submission may have waited until the network was whole again.
        is_known = all(each.task_id for each in cluster.submitters)
        cluster.run_until(
            began_ms + SUBMISSION_MS, lambda: all(each.task_id for each in cluster.submitters)
        )
        began_ms = began_ms if is_known else cluster.now_ms
    limits = {each: compute_recovery_ms(cluster, each.task_id) for each in cluster.submitters}
    for submitter in sorted(limits, key=lambda each: limits[each]):

        def is_settled_or_closed(submitter: Submitter = submitter) -> bool:
            history = histories.get(submitter.task_id)
            before = waiting[submitter.spec.name]
            return history is not None and (history.is_closed or history.rounds_settled > before)

        limit_ms = began_ms + limits[submitter]
        is_settled = is_settled_or_closed() or cluster.run_until(limit_ms, is_settled_or_closed)
        history = histories.get(submitter.task_id)
        shown = None if history is None else (history.status.name, history.attempt)
        is_excused = is_settled or is_hopeless(cluster, submitter)
        cluster.checkers.require(PROGRESS, is_excused, f"{submitter.spec.name}: {shown}")


def run_until_all_ended(cluster: Cluster) -> None:
    """Run until every junk task is over; a checker sees if one is not in time."""
    world, histories = cluster.world, cluster.chain.view.histories
    if not world.junk:
        return
    recovery_ms = compute_recovery_ms(cluster, cluster.submitters[0].task_id)
    n = len(cluster.chain.validator_set.validators)
    bought = compute_junk_purchase(n, world.floor, world.empty_block_ms)
    wave_ms = 1_000 * (PRICES.pending_seconds + bought.lifetime_seconds) + 2 * recovery_ms
    count = world.junk * world.junk_waves + len(cluster.submitters)

    def is_over() -> bool:
        found = list(cluster.chain.view.histories.values())
        return len(found) >= count and all(each.is_closed for each in found)

    is_ended = cluster.run_until(cluster.now_ms + world.junk_waves * wave_ms, is_over)
    cluster.checkers.require(END, is_ended, f"{len(histories)} tasks, not all are closed")


def _run_closing_votes(cluster: Cluster) -> None:
    """Go to the end of the windows in which the fines of the last attempts may change."""
    chain = cluster.chain
    while pending := [
        each
        for task_id in chain.view.histories
        for each in chain.view.list_ended(task_id)
        if chain.view.number <= each.voted_until and cluster.checkers.is_closing_due(each)
    ]:
        # Nothing happens meanwhile but empty blocks.
        first = min(each.late_until for each in pending)
        chain.view.number = max(chain.view.number, first - 1)
        number = chain.view.number
        limit_ms = cluster.now_ms + 2 * SETTLE_BLOCKS * cluster.world.empty_block_ms
        cluster.run_until(limit_ms, lambda number=number: chain.view.number >= number + 24)
        if chain.view.number < number + SETTLE_BLOCKS:
            return


def is_hopeless(cluster: Cluster, submitter: Submitter) -> bool:
    """Whether the task cannot go on: too few miners or units take part, or the escrow is small."""
    task_id, spec = submitter.task_id, submitter.spec
    history = cluster.chain.view.histories.get(task_id)
    if history is None:
        return True  # its submission was lost
    miners = [each for each in cluster.miners if each.task_name == spec.name]
    registrations = cluster.chain.registrations
    taking_part = [each for each in miners if registrations.get((task_id, each.address), False)]
    honest = [each for each in taking_part if each.is_honest]
    account = cluster.chain.contracts.read(task_registry.get_account(task_id))
    is_poor = account.reserved == 0 and account.refundable < compute_round_cost(spec)
    lease = history.lease
    is_used_up = lease.attempts_left == 0 or is_lifetime_over(
        lease,
        cluster.chain.view.number + cluster.checkers.blocks_of(lease.attempt_seconds),
        cluster.now + lease.attempt_seconds,
    )
    is_poor = is_poor or (account.reserved == 0 and is_used_up)
    # A task that takes more time than it declares has the workers when no other task wants them.
    promised_ms = spec.reward.max_units * spec.resources.unit_milliseconds
    took_ms = len(taking_part) * cluster.cost(spec).check_ms
    if spec.name != MAIN_SPEC.name and took_ms > promised_ms:
        return True
    lacks_units = cluster.checkers.count_units(task_id) < spec.reward.min_units
    lacks_miners = len(taking_part) < spec.reward.min_miners or not honest
    return lacks_miners or lacks_units or is_poor


def compute_recovery_ms(cluster: Cluster, task_id: TaskId) -> int:
    """The longest time until a healthy network settles a round, whatever came before."""
    known = task_id in cluster.chain.view.histories
    seconds = 2 * cluster.checkers.attempt_seconds(task_id) if known else 0
    return (seconds + 30) * 1000


def simulate(
    seed: int,
    trace: Callable[[str], None] = lambda line: None,
    without: frozenset[str] | None = None,
) -> Cluster:
    """Run one seed with every checker except those of `without`, which are KNOWN by default.

    Raises:
        AssertionError: A checker found a violation.
    """
    family, world = draw_world(seed)
    cluster = build(seed, world, trace, KNOWN[family] if without is None else without)
    cluster.trace(f"seed {seed} {family} {world}")
    run(cluster)
    return cluster
