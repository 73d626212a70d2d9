"""No course of an attempt takes longer than the registry says, whatever the pace of blocks."""

from bisect import bisect_left
from dataclasses import dataclass, replace
from itertools import count

from eth.db.atomic import AtomicDB
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.contracts import gradient_ledger, task_registry
from chain.contracts.gradient_ledger import Phase
from chain.contracts.task_registry import Purchase
from chain.params import BOUNDS, ChainParameters, compute_attempt_seconds
from chain.types.validator_set import compute_quorum
from tests.worlds.contracts import (
    MINERS,
    OK,
    PRICES,
    UNCHECKED,
    World,
    account,
    deploy_contracts,
    with_terms,
)

HIGHEST_LIFETIME = 2**32 - 1
"""The longest that fits its field."""


@dataclass(frozen=True)
class Ballot:
    """How the blocks of a ballot come.

    Attributes:
        quick_verdicts: So many blocks come at first, and end just before the deadline of verdicts.
            All others are as slow as those of a healthy chain may be.
        said: The verdict of a quorum that comes then; None if none comes. A verdict that is not
            complete lets the phase last to its deadline.
        quick_results: As the first one, in the result phase.
    """

    quick_verdicts: int = 1_200
    said: int | None = OK
    quick_results: int = 0


@dataclass(frozen=True)
class Course:
    """A network, a task, and the pace of the blocks of an attempt."""

    validator_count: int = 4
    floor: int = 8
    grace: int = 3
    interval_ms: int = 5_000
    phases: tuple[int, int, int] = (30, 600, 30)
    quick_commitments: int = 0
    ballots: tuple[Ballot, ...] = (Ballot(), Ballot(), Ballot())


BLOCKS = st.sampled_from((0, 1, 7, 1_200, 10**6))
BALLOTS = st.builds(Ballot, BLOCKS, st.sampled_from((None, OK, UNCHECKED)), BLOCKS)
SECONDS = st.sampled_from((4, 5, 30, 600, 86_400))

COURSES = st.builds(
    Course,
    st.sampled_from((4, 10)),
    st.sampled_from((1, 8, 100, BOUNDS["phase_floor_blocks"][1])),
    st.sampled_from((1, 3, BOUNDS["grace_blocks"][1])),
    st.sampled_from((BOUNDS["empty_block_interval_ms"][0], 999, 5_000, 600_000)),
    st.tuples(SECONDS, SECONDS, SECONDS),
    BLOCKS,
    st.tuples(BALLOTS, BALLOTS, BALLOTS),
)


class SlowWorld:
    """A world in which each block comes as late as a healthy chain allows, unless it is quick."""

    def __init__(self, course: Course) -> None:
        places = range(course.validator_count)
        self.interval_ms = course.interval_ms
        self.turn_blocks = 2 * len(places)
        self.operators = [account(f"slow operator {i}") for i in places]
        self.quorum = compute_quorum(len(places))
        self.world = World(AtomicDB())
        prices = replace(
            PRICES,
            max_lifetime_seconds=HIGHEST_LIFETIME,
            empty_block_milliseconds=course.interval_ms,
            phase_floor_blocks=course.floor,
        )
        validators = sorted(account(f"slow validator {i}") for i in places)
        deploy_contracts(
            self.world,
            validators,
            self.operators,
            floor=course.floor,
            grace=course.grace,
            prices=prices,
        )
        self.start = self.world.timestamp
        self.now_ms = 0
        """The time since then; a block has whole seconds only."""

    def mine_slowly(self, blocks: int) -> None:
        self.now_ms += blocks * self.interval_ms
        self.world.at(self.world.number + blocks, self.start + self.now_ms // 1_000)

    def mine_quickly(self, blocks: int) -> None:
        """Come to the last moment before the deadline by so many blocks, if they may be as slow."""
        deadline = self.world.read(gradient_ledger.deadline(self.world.task))
        then_ms = 1_000 * (deadline.timestamp - self.start) - 1
        if self.now_ms < then_ms <= self.now_ms + blocks * self.interval_ms:
            self.now_ms = then_ms
            self.world.at(self.world.number + blocks, self.start + then_ms // 1_000)

    def end_phase(self, phase: Phase) -> None:
        """Let slow blocks pass until a phase is over."""

        def is_over(blocks: int) -> bool:
            self.mine_slowly(blocks)
            try:
                return self.world.phase is not phase
            finally:
                self.mine_slowly(-blocks)

        enough = next(blocks for i in count() if is_over(blocks := 2**i))
        self.mine_slowly(bisect_left(range(enough), True, key=is_over))

    def advance_late(self) -> None:
        """Send the call of the last operator in turn, after the block that shows that it is due."""
        self.mine_slowly(self.turn_blocks - 1)
        self.world.advance()


def run_attempt(course: Course) -> None:
    """Assert that an attempt of which all ballots fail ends within the lifetime that it needs."""
    slow = SlowWorld(course)
    world, (commit, verdict, result) = slow.world, course.phases
    phases = {"commit_seconds": commit, "verdict_seconds": verdict, "result_seconds": result}
    terms = with_terms(**phases)
    needed = world.read(task_registry.get_attempt_seconds(terms))
    parameters = ChainParameters(
        phase_floor_blocks=course.floor,
        grace_blocks=course.grace,
        empty_block_interval_ms=course.interval_ms,
    )
    assert needed == compute_attempt_seconds(parameters, course.validator_count, **phases)
    world.submit(terms, purchase=Purchase(needed, 1))
    world.ready(slow.operators[: slow.quorum])
    for miner in MINERS[:2]:
        world.register(miner)
    world.advance()
    assert world.round.open, "what is left of the lifetime covers the attempt"
    slow.mine_slowly(1)
    world.commit(MINERS[0])
    slow.mine_quickly(course.quick_commitments)
    slow.end_phase(Phase.COMMITMENT)
    slow.advance_late()
    for ballot, pace in enumerate(course.ballots):
        slow.mine_quickly(pace.quick_verdicts)
        if pace.said is not None:
            # Another validator is missing each time, so that it is waited for.
            world.judge(
                (pace.said,), (slow.operators[ballot:] + slow.operators[:ballot])[: slow.quorum]
            )
        slow.end_phase(Phase.VERDICT)
        slow.advance_late()
        for phase in (Phase.RESULT, Phase.PAYMENT):
            if world.phase is phase:
                slow.mine_quickly(pace.quick_results)
                slow.end_phase(phase)
                slow.advance_late()
    assert not world.round.open
    assert world.timestamp <= world.lease.end_time


def test_quick_blocks_before_a_quorum_make_no_attempt_longer() -> None:
    """A quorum waited for a quarter of its blocks: 300 slow ones, 25 minutes in each ballot."""
    run_attempt(Course())


@settings(deadline=None, max_examples=10)
@given(COURSES)
def test_no_attempt_lasts_longer_than_the_registry_says(course: Course) -> None:
    run_attempt(course)
