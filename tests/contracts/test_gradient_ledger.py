"""Phases, ballots, attempts and rounds (docs/spec/contracts.md, section 5)."""

from dataclasses import replace
from itertools import permutations

import pytest
from eth.db.atomic import AtomicDB

from chain.contracts import gradient_ledger, validator_set
from chain.contracts.addresses import VALIDATOR_SET
from chain.contracts.errors import ContractError
from chain.contracts.gradient_ledger import (
    AttemptOpened,
    AttemptPaid,
    AttemptVoided,
    BallotFailed,
    Deadline,
    GradientCommitted,
    LateVerdictPosted,
    Phase,
    ResultKind,
    ResultPosted,
    ResultVote,
    RoundSettled,
    VerdictPosted,
)
from chain.contracts.reward_distributor import RootSet
from chain.contracts.task_registry import (
    CloseReason,
    TaskClosed,
    TaskPaused,
    TaskResumed,
    TaskStatus,
)
from chain.crypto import get_address, keccak256
from chain.params import BOUNDS
from chain.primitives import ZERO_HASH, Address
from chain.types.validator_set import compute_max_faulty, compute_quorum
from tests.worlds.contracts import (
    BAD,
    BUDGET,
    CHANGE_BLOCKS,
    CHEAT,
    FLOOR,
    GRACE,
    MINERS,
    MISSING,
    OK,
    OPERATORS,
    POT,
    ROUND_COST,
    STAKE,
    STRANGER,
    TERMS,
    UNCHECKED,
    VALIDATORS,
    World,
    account,
    candidate_key,
    deploy_contracts,
    empty_result,
    new_world,
    new_world_with_floor,
    pack,
    payment,
    prove_join,
    refusal,
    result,
    started_world,
    with_terms,
)

SAID_BY_LIAR = (OK, BAD, CHEAT, MISSING, UNCHECKED)


@pytest.fixture
def world() -> World:
    return new_world()


@pytest.fixture
def started() -> World:
    """An attempt with two miners, in its commitment phase."""
    return started_world()


def wrong_phase(phase: Phase) -> ContractError:
    return ContractError("LedgerWrongPhase", (1, phase))


def about(name: str, who: bytes) -> ContractError:
    return ContractError(name, (1, "0x" + who.hex()))


def deadline(world: World) -> Deadline:
    return world.read(gradient_ledger.deadline(world.task))


def to_result_phase(world: World) -> None:
    world.commit_all()
    world.judge()
    assert world.phase is Phase.RESULT


# ---- registration and opening


def test_attempt_opens_by_a_call_of_its_own_with_the_minimum_of_miners(world: World) -> None:
    world.submit()
    world.ready()
    world.register(MINERS[0])
    assert (world.phase, world.round.open) == (Phase.WAITING, False)
    assert refusal(world.advance) == wrong_phase(Phase.WAITING)
    assert len(world.register(MINERS[1]).events) == 1
    assert (world.phase, world.round.open) == (Phase.STALLED, False)
    opened = world.advance().events[-1]
    assert opened == AttemptOpened(world.task, 0, 0, 1, 2, ROUND_COST)
    assert (world.money.reserved, world.money.refundable) == (ROUND_COST, BUDGET - ROUND_COST)


def test_no_attempt_opens_without_the_least_units(world: World) -> None:
    """Three seats of one unit used up a task in a minute, and its fees were paid whole."""
    world.submit(with_terms(min_units=6))
    world.ready()
    for miner in MINERS[:3]:
        world.register(miner, 1)
    assert (world.phase, world.round.open) == (Phase.WAITING, False)
    assert refusal(world.advance) == wrong_phase(Phase.WAITING)
    world.register(MINERS[3], 3)
    assert (world.phase, world.round.open) == (Phase.STALLED, False)
    assert AttemptOpened(world.task, 0, 0, 1, 4, ROUND_COST) in world.advance().events


def test_next_attempt_waits_if_a_miner_leaves_with_its_units(world: World) -> None:
    world.submit(with_terms(min_units=5))
    world.ready()
    for miner, units in zip(MINERS[:3], (2, 2, 1), strict=True):
        world.register(miner, units)
    world.advance()
    world.mine(1, 1)
    world.commit_all()
    world.leave(MINERS[2])
    world.commit(MINERS[2], 1)
    world.judge((OK, OK, OK))
    vote = world.agree(result("round", 5))
    assert RoundSettled(world.task, 0, 0, 0, vote) in world.settle(vote).events
    assert (world.phase, world.round.open) == (Phase.WAITING, False)
    world.register(MINERS[3], 1)
    assert world.phase is Phase.STALLED
    world.mine(1, 1)
    lease = world.lease
    world.leave(MINERS[0])
    world.at(lease.progress_block + lease.idle_blocks, lease.progress_time + lease.idle_seconds)
    assert TaskClosed(world.task, CloseReason.EXPIRED) in world.expire().events


def test_no_attempt_opens_without_the_cost_of_a_round(world: World) -> None:
    world.submit(budget=ROUND_COST)
    world.ready()
    for miner in MINERS[:2]:
        world.register(miner)
    world.advance()
    world.mine(1, 1)
    world.play_round()
    assert world.phase is Phase.WAITING
    assert world.fund(ROUND_COST).events[-1] == AttemptOpened(world.task, 1, 0, 2, 2, ROUND_COST)


def test_miner_takes_part_from_the_attempt_after_its_registration(world: World) -> None:
    world.submit()
    world.ready()
    for miner in MINERS[:2]:
        world.register(miner)
    world.advance()
    world.register(MINERS[2])
    assert (world.round.expected_commitments, world.phase) == (2, Phase.WAITING)
    assert [one.miner for one in world.participants()] == sorted(MINERS[:2])
    world.mine(1, 1)
    assert refusal(world.commit, MINERS[2]) == about("SeatsNotParticipating", MINERS[2])
    world.play_round()
    assert world.commit(MINERS[2]).events


# ---- commitments


def test_a_commitment_is_numbered(started: World) -> None:
    for index, miner in enumerate(MINERS[:2]):
        commitment = keccak256(b"commitment" + miner)
        assert started.commit(miner).events == (
            GradientCommitted(started.task, 0, miner, 0, index, 2, commitment),
        )
        assert started.seat(miner).committed_attempt == 1
    state = started.round
    assert (state.commitment_count, state.committed_units) == (2, 4)


def test_no_commitment_in_the_opening_block(world: World) -> None:
    world.submit()
    world.ready()
    for miner in MINERS[:2]:
        world.register(miner)
    world.advance()
    assert refusal(world.commit, MINERS[0]) == wrong_phase(Phase.WAITING)
    world.mine(1, 0)
    assert world.commit(MINERS[0]).events


def test_commitments_end_with_the_last_expected_one(started: World) -> None:
    started.commit(MINERS[0])
    assert started.phase is Phase.COMMITMENT
    started.mine(1, 1)
    started.commit(MINERS[1])
    assert started.phase is Phase.VERDICT
    state = started.round
    assert (state.verdict_block, state.verdict_time) == (started.number, started.timestamp)
    assert refusal(started.commit, MINERS[1]) == wrong_phase(Phase.VERDICT)


def test_a_phase_lasts_until_both_its_seconds_and_its_blocks_have_passed(started: World) -> None:
    started.commit(MINERS[0])
    state = started.round
    end = Deadline(state.open_block + FLOOR, state.open_time + TERMS.commit_seconds)
    assert deadline(started) == end
    started.at(end.block_number - 1, end.timestamp + 1000)
    assert started.phase is Phase.COMMITMENT
    started.at(end.block_number + 1000, end.timestamp - 1)
    assert started.phase is Phase.COMMITMENT
    started.at(end.block_number, end.timestamp)
    assert started.phase is Phase.STALLED
    assert refusal(started.commit, MINERS[1]) == wrong_phase(Phase.STALLED)
    assert started.advance().events == ()
    assert started.phase is Phase.VERDICT


def test_verdicts_begin_with_a_call_and_have_all_their_blocks(started: World) -> None:
    # Commitments ended by their deadline, long ago and many blocks after they had begun. Verdicts
    # began then, too. So they were over with the next block, before honest miners could reveal,
    # and these were fined.
    started.commit(MINERS[0])
    started.mine(100, TERMS.commit_seconds + 30)
    assert refusal(started.verdict, OPERATORS[0], (MISSING,)) == wrong_phase(Phase.STALLED)
    state = started.round
    assert (started.phase, deadline(started)) == (Phase.STALLED, Deadline(0, 0))
    assert (state.verdict_block, state.verdict_time) == (0, 0)
    assert started.advance().events == ()
    state = started.round
    assert (state.ballot, state.ballot_number) == (0, 1)
    assert (state.verdict_block, state.verdict_time) == (started.number, started.timestamp)
    assert refusal(started.advance) == wrong_phase(Phase.VERDICT)
    end = Deadline(started.number + FLOOR, started.timestamp + TERMS.verdict_seconds)
    assert deadline(started) == end
    started.at(end.block_number - 1, end.timestamp + 1000)
    assert started.phase is Phase.VERDICT


def test_a_commitment_is_refused_twice_and_for_units_it_does_not_have(started: World) -> None:
    assert refusal(started.commit, MINERS[0], 3) == ContractError("SeatsInvalidUnits", (3,))
    assert refusal(started.commit, MINERS[0], 1) == ContractError("SeatsInvalidUnits", (1,))
    assert refusal(started.commit, MINERS[0], 0) == ContractError("SeatsInvalidUnits", (0,))
    started.commit(MINERS[0])
    assert refusal(started.commit, MINERS[0]) == about("SeatsAlreadyCommitted", MINERS[0])
    assert refusal(started.commit, STRANGER) == about("SeatsNotParticipating", STRANGER)


def test_a_commitment_to_another_round_or_attempt_is_refused(started: World) -> None:
    current = ContractError("LedgerWrongRound", (0, 0, 0))
    assert refusal(started.commit, MINERS[0], round=1) == current
    assert refusal(started.commit, MINERS[0], attempt=1) == current
    started.play_round()
    # The same transaction as in the last round, sent again.
    replayed = refusal(started.commit, MINERS[0], round=0)
    assert replayed == ContractError("LedgerWrongRound", (1, 0, 0))
    assert started.commit(MINERS[0]).events


def test_an_attempt_without_a_commitment_is_void_and_the_next_one_opens(started: World) -> None:
    started.pass_phase()
    assert started.phase is Phase.STALLED
    assert refusal(started.commit, MINERS[0]) == wrong_phase(Phase.STALLED)
    assert refusal(started.verdict, OPERATORS[0], []) == wrong_phase(Phase.STALLED)
    assert started.advance().events == (
        AttemptVoided(started.task, 0, 0),
        AttemptOpened(started.task, 0, 1, 2, 2, ROUND_COST),
    )
    state = started.round
    assert (state.round, state.attempt, state.void_streak, state.ballot_number) == (0, 1, 0, 2)
    assert (state.open_block, started.money.paid) == (started.number, 0)
    started.mine(1, 1)
    assert refusal(started.commit, MINERS[0], attempt=0) == ContractError(
        "LedgerWrongRound", (0, 1, 0)
    )


# ---- verdicts


def test_a_verdict_counts_and_names_the_validator(started: World) -> None:
    started.commit_all()
    answer = started.verdict(OPERATORS[2], (OK, 3))
    assert answer.events == (
        VerdictPosted(started.task, 0, VALIDATORS[2], 0, 0, True, pack((OK, 3))),
    )
    assert started.round.verdict_count == 1


def test_verdicts_are_refused_before_their_phase(started: World) -> None:
    assert refusal(started.verdict, OPERATORS[0], []) == wrong_phase(Phase.COMMITMENT)
    started.commit(MINERS[0])
    assert refusal(started.verdict, OPERATORS[0], [OK]) == wrong_phase(Phase.COMMITMENT)


def test_verdicts_are_refused_from_others_twice_and_for_another_ballot(started: World) -> None:
    started.commit_all()
    assert refusal(started.verdict, MINERS[0], (OK, OK)) == ContractError(
        "ValidatorSetNotOperator", ("0x" + MINERS[0].hex(),)
    )
    # A consensus key signs nothing else.
    assert refusal(started.verdict, VALIDATORS[0], (OK, OK)) == ContractError(
        "ValidatorSetNotOperator", ("0x" + VALIDATORS[0].hex(),)
    )
    current = ContractError("LedgerWrongRound", (0, 0, 0))
    for place in ({"round": 1}, {"attempt": 1}, {"ballot": 1}):
        assert refusal(started.verdict, OPERATORS[0], (OK, OK), **place) == current
    started.verdict(OPERATORS[0], (OK, OK))
    assert refusal(started.verdict, OPERATORS[0], (OK, OK)) == ContractError(
        "LedgerAlreadyVoted", ("0x" + VALIDATORS[0].hex(),)
    )


def test_a_verdict_has_four_bits_a_commitment_and_zero_padding(started: World) -> None:
    started.commit_all()
    wrong = ((0, 1), (3, 1))
    for verdicts, (length, expected) in (([], wrong[0]), ([OK] * 5, wrong[1])):
        assert refusal(started.verdict, OPERATORS[0], verdicts) == ContractError(
            "LedgerInvalidVerdicts", (length, expected)
        )
    for unknown in range(5, 16):
        assert refusal(started.verdict, OPERATORS[0], (OK, unknown)) == ContractError(
            "LedgerUnknownVerdict", ()
        )
    assert started.verdict(OPERATORS[0], (3, 4)).events


def test_padding_of_an_odd_number_of_verdicts_is_zero(started: World) -> None:
    started.commit(MINERS[0])
    started.pass_phase()
    started.advance()
    assert refusal(started.verdict, OPERATORS[0], (OK, CHEAT)) == ContractError(
        "LedgerInvalidVerdicts", (1, 1)
    )
    assert started.verdict(OPERATORS[0], (CHEAT,)).events


def test_verdict_phase_ends_when_all_have_voted(started: World) -> None:
    started.commit_all()
    started.judge(operators=OPERATORS[:3])
    assert started.phase is Phase.VERDICT
    assert refusal(started.result, OPERATORS[0], result()) == wrong_phase(Phase.VERDICT)
    started.mine(1, 1)
    started.judge(operators=OPERATORS[3:])
    state = started.round
    assert started.phase is Phase.RESULT
    assert (state.result_block, state.result_time) == (started.number, started.timestamp)


def test_quorum_of_verdicts_waits_a_few_blocks_for_the_others(started: World) -> None:
    started.commit_all()
    begin = started.number, started.timestamp
    started.mine(2, 8)
    started.judge(operators=OPERATORS[:3])
    started.mine(GRACE, 1)
    assert started.phase is Phase.VERDICT, "a quarter of the 8 s that the quorum took is 2 s"
    started.mine(0, 1)
    assert (started.phase, started.round.result_block) == (Phase.STALLED, 0)
    assert started.advance().events == ()
    state = started.round
    assert started.phase is Phase.RESULT
    assert (state.result_block, state.result_time) == (started.number, started.timestamp)
    assert (state.verdict_block, state.verdict_time) == begin


def test_results_begin_with_a_call_and_have_all_their_blocks(started: World) -> None:
    """They began where verdicts ended, and quick blocks then left only one for results."""
    started.commit_all()
    started.mine(1, 20)
    started.judge(operators=OPERATORS[:3])
    started.mine(50, TERMS.verdict_seconds)
    assert started.phase is Phase.STALLED
    assert refusal(started.result, OPERATORS[0], result()) == wrong_phase(Phase.STALLED)
    assert not started.verdict(OPERATORS[3], (OK, OK)).events[0].timely
    started.mine(1, 1_000)
    started.advance()
    begin = started.number, started.timestamp
    assert deadline(started) == Deadline(begin[0] + FLOOR, begin[1] + TERMS.result_seconds)
    started.at(begin[0] + FLOOR - 1, begin[1] + TERMS.result_seconds)
    assert started.phase is Phase.RESULT
    started.mine(1)
    assert started.phase is Phase.STALLED
    assert started.advance().events == (BallotFailed(started.task, 0, 0, 0),)


def test_payment_begins_with_a_call_and_has_all_its_blocks(started: World) -> None:
    to_last_ballot(started)
    started.mine(50, TERMS.result_seconds)
    assert started.phase is Phase.STALLED
    assert refusal(started.result, OPERATORS[0], payment()) == wrong_phase(Phase.STALLED)
    started.mine(1, 1_000)
    assert started.advance().events == ()
    begin = started.number, started.timestamp
    assert deadline(started) == Deadline(begin[0] + FLOOR, begin[1] + TERMS.result_seconds)
    started.at(begin[0] + FLOOR - 1, begin[1] + TERMS.result_seconds)
    assert started.phase is Phase.PAYMENT
    started.mine(1)
    assert started.phase is Phase.STALLED
    assert AttemptVoided(started.task, 0, 0) in started.advance().events
    started.mine(1, 1)
    started.commit_all()
    started.judge()
    assert started.phase is Phase.RESULT, "the next attempt begins anew"


def test_quorum_that_took_long_waits_a_quarter_of_its_blocks() -> None:
    world = new_world_with_floor(100)
    world.start_round()
    world.commit_all()
    world.mine(41, 1)
    world.judge(operators=OPERATORS[:3])
    world.mine(10, 1)
    assert world.phase is Phase.VERDICT
    world.mine(1, 1)
    assert world.phase is Phase.STALLED


def test_the_wait_lasts_no_longer_than_the_seconds_of_the_phase(started: World) -> None:
    started.commit_all()
    end = deadline(started)
    started.mine(1, TERMS.verdict_seconds - 1)
    started.judge(operators=OPERATORS[:3])
    started.mine(GRACE, 1)
    assert (started.phase, started.timestamp) == (Phase.STALLED, end.timestamp)


def new_world_of(count: int) -> tuple[World, tuple[Address, ...]]:
    """A verdict phase of 20 s with so many validators and two commitments; their operators."""
    world = World(AtomicDB())
    operators = tuple(account(f"operator {index}") for index in range(count))
    validators = tuple(sorted(account(f"validator {index}") for index in range(count)))
    deploy_contracts(world, validators, operators, floor=8)
    world.submit(with_terms(verdict_seconds=20))
    world.ready(operators[: compute_quorum(count)])
    for miner in MINERS[:2]:
        world.register(miner)
    world.advance()
    world.mine(1, 1)
    world.commit_all()
    return world, operators


def test_quorum_that_checked_too_little_waits_until_the_deadline(started: World) -> None:
    """A liar, one that cannot check and a fast one used up three ballots in seconds.

    The fourth validator was still checking gradients that honest miners had revealed.
    """
    started.commit_all()
    end = deadline(started)
    started.judge((UNCHECKED, UNCHECKED), operators=OPERATORS[:2])
    started.judge(operators=OPERATORS[2:3])
    started.at(end.block_number - 1, end.timestamp)
    assert started.phase is Phase.VERDICT
    started.at(end.block_number, end.timestamp - 1)
    assert started.phase is Phase.VERDICT
    started.mine(0, 1)
    assert started.phase is Phase.STALLED
    started.advance()
    assert started.phase is Phase.RESULT, "a quorum of any words counts at the deadline"


@pytest.mark.parametrize("said", [MISSING, UNCHECKED])
def test_verdict_that_leaves_out_one_gradient_is_not_complete(started: World, said: int) -> None:
    started.commit_all()
    started.judge(operators=OPERATORS[:2])
    started.verdict(OPERATORS[2], (OK, said))
    started.mine(GRACE, 1)
    assert started.phase is Phase.VERDICT
    started.verdict(OPERATORS[3], (OK, OK))
    assert started.phase is Phase.RESULT


@pytest.mark.parametrize("said", SAID_BY_LIAR)
@pytest.mark.parametrize("silent", [False, True])
def test_no_order_of_verdicts_ends_a_phase_before_gradients_are_decided(
    said: int, silent: bool
) -> None:
    """Whatever one liar says and whenever, two honest validators that can check are heard.

    Between two verdicts goes so much time that a wait for the others is over. In the ballots before
    this one a validator may have been silent, so that it is not waited for.
    """
    first = started_world()
    for _ in range(2 if silent else 0):
        first.commit_all()
        first.judge(operators=OPERATORS[:3])
        first.mine(GRACE, 1)
        first.advance()
        first.settle(first.agree())
        first.mine(1, 1)
    first.commit_all()
    liar, lame, *able = OPERATORS
    words = {liar: (said, said), lame: (UNCHECKED, UNCHECKED)} | dict.fromkeys(able, (OK, OK))
    for order in permutations(OPERATORS):
        world = first.copy()
        heard = set[Address]()
        for operator in order:
            if world.phase is Phase.VERDICT:
                world.verdict(operator, words[operator])
                heard.add(operator)
                world.mine(GRACE, TERMS.verdict_seconds // 5)
        assert heard >= set(able), order


@pytest.mark.parametrize("count", [4, 5, 6, 7, 10])
def test_phase_ends_early_after_a_quorum_with_enough_complete_verdicts(count: int) -> None:
    """With 2f + 1 of them, f + 1 are of honest validators, and f others may leave out gradients."""
    world, operators = new_world_of(count)
    max_faulty, quorum = compute_max_faulty(count), compute_quorum(count)
    needed = 2 * max_faulty + 1
    world.judge((UNCHECKED, UNCHECKED), operators=operators[needed:quorum])
    world.judge(operators=operators[: needed - 1])
    world.verdict(operators[quorum], (OK, MISSING))
    world.mine(max(GRACE, max_faulty + 2), 1)
    assert world.phase is Phase.VERDICT
    if count > quorum + 1:
        world.verdict(operators[needed - 1], (OK, OK))
        assert world.phase is Phase.VERDICT
        world.mine(max(GRACE, max_faulty + 2), 1)
        assert world.phase is Phase.STALLED


def test_second_quorum_makes_no_phase_longer() -> None:
    """Each of two quorums just before the deadline could else add blocks of its own."""
    world, operators = new_world_of(6)
    end = deadline(world)
    world.at(end.block_number - 1, end.timestamp - 1)
    world.judge((OK, UNCHECKED), operators=operators[:2])
    world.judge(operators=operators[2:4])
    world.mine(GRACE - 1, 1)
    assert world.phase is Phase.VERDICT, "a quorum of any words has blocks for the others, too"
    world.verdict(operators[4], (OK, OK))
    world.mine(1, 1)
    assert (world.phase, world.number) == (Phase.STALLED, end.block_number - 1 + GRACE)


def test_validator_silent_in_two_ballots_is_not_waited_for(started: World) -> None:
    present = OPERATORS[:3]
    for _ in range(2):
        started.commit_all()
        started.judge(operators=present)
        assert started.phase is Phase.VERDICT
        started.mine(GRACE, 1)
        started.advance()
        started.settle(started.agree())
        started.mine(1, 1)
    started.commit_all()
    started.judge(operators=present)
    assert started.phase is Phase.RESULT


def test_late_verdict_makes_the_next_ballot_wait_again(started: World) -> None:
    started.commit_all()
    started.judge(operators=OPERATORS[:3])
    started.mine(GRACE, 1)
    started.verdict(OPERATORS[3], (OK, OK))
    started.advance()
    started.settle(started.agree())
    started.mine(1, 1)
    started.commit_all()
    started.judge(operators=OPERATORS[:3])
    assert started.phase is Phase.VERDICT
    started.judge(operators=OPERATORS[3:])
    assert started.phase is Phase.RESULT


def test_votes_have_the_time_for_f_faulty_primaries_in_a_row() -> None:
    world = new_world_with_floor(1)
    world.start_round()
    world.commit_all()
    begin = world.round.verdict_block
    assert deadline(world).block_number == begin + 4  # 2 (f + 1) for n = 4


def test_a_verdict_after_the_phase_is_recorded_but_not_timely(started: World) -> None:
    started.commit_all()
    started.judge(operators=OPERATORS[:3])
    started.mine(GRACE, 1)
    late = started.verdict(OPERATORS[3], (OK, OK)).events
    assert late == (VerdictPosted(started.task, 0, VALIDATORS[3], 0, 0, False, pack((OK, OK))),)
    assert started.round.verdict_count == 3


def test_too_few_verdicts_at_the_deadline_start_the_next_ballot(started: World) -> None:
    started.commit_all()
    started.judge(operators=OPERATORS[:2])
    started.pass_phase()
    assert started.phase is Phase.STALLED
    assert refusal(started.result, OPERATORS[0], result()) == wrong_phase(Phase.STALLED)
    assert started.advance().events == (BallotFailed(started.task, 0, 0, 0),)
    state = started.round
    assert (state.ballot, state.ballot_number, state.verdict_count) == (1, 2, 0)
    assert (state.verdict_block, state.verdict_time) == (started.number, started.timestamp)
    assert started.phase is Phase.VERDICT
    # Assignment and commitments stay, votes are cast again.
    assert (state.attempt, state.commitment_count) == (0, 2)
    assert started.verdict(OPERATORS[0], (OK, OK)).events[0].timely


def test_late_verdict_is_taken_once_for_twice_the_seconds_of_the_phase(started: World) -> None:
    started.commit_all()
    started.judge(operators=OPERATORS[:3])
    started.pass_phase()
    started.advance()
    started.settle(started.agree())
    started.mine(2 * TERMS.verdict_seconds, 1)
    late = gradient_ledger.post_late_verdict(started.task, 1, pack((OK, CHEAT)))
    assert started.send(OPERATORS[3], late).events == (
        LateVerdictPosted(started.task, VALIDATORS[3], 1, pack((OK, CHEAT))),
    )
    again = ContractError("LedgerAlreadyVoted", ("0x" + VALIDATORS[3].hex(),))
    assert refusal(started.send, OPERATORS[3], late) == again
    # A validator that voted in time may give a late verdict where it said unchecked.
    assert started.send(OPERATORS[0], late).events
    started.mine(1, 1)
    too_late = ContractError("LedgerTooLate", (started.task, 1))
    assert refusal(started.send, OPERATORS[1], late) == too_late


def test_no_late_verdict_before_the_end_or_of_another_length(started: World) -> None:
    started.commit_all()
    started.judge(operators=OPERATORS[:3])
    late = gradient_ledger.post_late_verdict(started.task, 1, pack((OK, CHEAT)))
    assert refusal(started.send, OPERATORS[3], late) == ContractError(
        "LedgerTooLate", (started.task, 1)
    )
    started.mine(GRACE, 1)
    started.advance()
    started.settle(started.agree())
    short = gradient_ledger.post_late_verdict(started.task, 1, b"")
    assert refusal(started.send, OPERATORS[3], short) == ContractError(
        "LedgerInvalidVerdicts", (0, 1)
    )
    refused = refusal(started.send, STRANGER, late)
    assert refused == ContractError("ValidatorSetNotOperator", ("0x" + STRANGER.hex(),))


# ---- results and settlement


def test_a_quorum_of_equal_results_settles_the_round(started: World) -> None:
    to_result_phase(started)
    vote = replace(result(), timely_voters=0b1111)
    posted = [started.result(operator, vote) for operator in OPERATORS[:3]]
    assert posted[0].events == (ResultPosted(started.task, 0, VALIDATORS[0], 0, 0, vote, 350, 120),)
    assert started.phase is Phase.SETTLEABLE
    settled = started.settle(vote)
    share = TERMS.validator_fee // 4
    payout = 4 * POT + 4 * share
    assert settled.events == (
        RoundSettled(started.task, 0, 0, 0, vote),
        RootSet(started.task, vote.rewards_root, payout),
        AttemptOpened(started.task, 1, 0, 2, 2, ROUND_COST),
    )
    state = started.round
    assert (state.round, state.attempt, state.ballot, state.ballot_number) == (1, 0, 0, 2)
    assert (state.training_state_root, state.model_root) == (
        vote.training_state_root,
        vote.model_root,
    )
    assert (state.paid_total, state.open_block) == (payout, started.number)
    # The fee's remainder and the unused units can be refunded again.
    money = started.money
    assert (money.paid, money.reserved) == (payout, ROUND_COST)
    assert money.refundable == BUDGET - payout - ROUND_COST


def test_attempt_without_an_accepted_gradient_is_void_and_costs_nothing(started: World) -> None:
    to_result_phase(started)
    vote = started.agree(empty_result(ResultKind.VOID))
    assert started.phase is Phase.SETTLEABLE
    assert started.settle(vote).events == (
        AttemptVoided(started.task, 0, 0),
        AttemptOpened(started.task, 0, 1, 2, 2, ROUND_COST),
    )
    assert (started.money.paid, started.round.void_streak) == (0, 1)


def test_quorum_that_a_ballot_failed_begins_the_next_at_once(started: World) -> None:
    to_result_phase(started)
    vote = started.agree(empty_result(ResultKind.FAILED))
    assert started.phase is Phase.STALLED
    assert refusal(started.settle, vote) == wrong_phase(Phase.STALLED)
    assert started.advance().events == (BallotFailed(started.task, 0, 0, 0),)
    assert (started.phase, started.round.ballot) == (Phase.VERDICT, 1)


def to_last_ballot(world: World) -> None:
    """Fail two ballots, and go to the result phase of the third."""
    to_result_phase(world)
    for _ in range(2):
        world.agree(empty_result(ResultKind.FAILED))
        world.advance()
        world.mine(1, 1)
        world.judge()


def test_accepted_units_are_paid_if_the_last_result_fails(started: World) -> None:
    to_last_ballot(started)
    started.agree(operators=OPERATORS[:2])
    invalid = ContractError("LedgerInvalidResult", (ResultKind.PAID_ONLY,))
    assert refusal(started.result, OPERATORS[0], payment()) == invalid
    started.pass_phase()
    started.advance()
    assert started.phase is Phase.PAYMENT
    vote = started.agree(payment())
    before = started.round
    assert started.settle(vote).events == (
        AttemptPaid(started.task, 0, 0, 2, vote),
        RootSet(started.task, vote.rewards_root, vote.payout),
        AttemptVoided(started.task, 0, 0),
        AttemptOpened(started.task, 0, 1, 2, 2, ROUND_COST),
    )
    after = started.round
    assert (started.money.paid, after.paid_total) == (vote.payout, vote.payout)
    assert (after.round, after.model_root) == (0, before.model_root)


def test_result_may_still_be_found_while_payment_is_voted_on(started: World) -> None:
    to_last_ballot(started)
    started.agree(operators=OPERATORS[:2])
    started.pass_phase()
    started.advance()
    started.result(OPERATORS[0], payment())
    vote = started.agree(operators=(OPERATORS[0], OPERATORS[2]))
    assert started.settle(vote).events[0] == RoundSettled(started.task, 0, 0, 2, vote)


def test_attempt_is_void_if_payment_finds_no_quorum(started: World) -> None:
    to_last_ballot(started)
    started.pass_phase()
    started.advance()
    started.agree(payment(), operators=OPERATORS[:2])
    started.pass_phase()
    assert started.phase is Phase.STALLED
    started.advance()
    assert (started.round.attempt, started.money.paid) == (1, 0)


@pytest.mark.parametrize(
    "vote",
    [
        result(accepted_units=0),
        replace(empty_result(ResultKind.VOID), payout=1),
        replace(empty_result(ResultKind.VOID), accepted_units=1),
        replace(empty_result(ResultKind.VOID), model_root=keccak256(b"model")),
        replace(empty_result(ResultKind.VOID), rewards_root=keccak256(b"rewards")),
        replace(empty_result(ResultKind.FAILED), training_state_root=keccak256(b"state")),
        payment(),
    ],
)
def test_a_result_that_contradicts_its_kind_is_refused(started: World, vote: ResultVote) -> None:
    to_result_phase(started)
    refused = refusal(started.result, OPERATORS[0], vote)
    assert isinstance(refused, ContractError)
    assert refused.name in ("LedgerInvalidResult", "LedgerPayoutTooLarge")


def test_result_from_before_the_last_timely_verdict_is_refused(started: World) -> None:
    started.commit_all()
    started.mine(2, 8)
    started.judge(operators=OPERATORS[:3])
    started.mine(GRACE, 2)
    assert started.phase is Phase.STALLED, "so it is for a node whose clock shows this second"
    early = started.complete(result())
    # The next block was built a second before that, or by a primary that says so.
    started.at(started.number, started.timestamp - 1)
    voted = started.verdict(OPERATORS[3], (OK, OK)).events[0]
    started.mine(1, 1)
    assert (voted.timely, started.phase) == (True, Phase.RESULT)
    assert early.timely_voters == 0b0111
    other = ContractError("LedgerOtherVoters", (0b1111,))
    assert [refusal(started.result, each, early) for each in OPERATORS] == [other] * 4
    assert refusal(started.settle, early) == ContractError("LedgerNoQuorum", (0, 3))
    vote = replace(early, timely_voters=0b1111)
    assert started.settle(started.agree(vote)).events[0] == RoundSettled(
        started.task, 0, 0, 0, vote
    )


@pytest.mark.parametrize("timely_voters", [0b0001, 0b0110, 0b1111, 2**104 - 1])
def test_no_kind_of_result_may_count_other_verdicts(started: World, timely_voters: int) -> None:
    started.commit_all()
    started.judge(operators=OPERATORS[:3])
    started.mine(GRACE, 1)
    started.verdict(OPERATORS[3], (OK, OK))
    started.advance()
    votes = [result(), empty_result(ResultKind.VOID), empty_result(ResultKind.FAILED)]
    wrong = [replace(each, timely_voters=timely_voters) for each in votes]
    other = ContractError("LedgerOtherVoters", (0b0111,))
    assert [refusal(started.result, OPERATORS[0], each) for each in wrong] == [other] * 3
    for vote in votes:
        started.result(OPERATORS[0], vote)


def test_payment_may_not_count_other_verdicts(started: World) -> None:
    to_last_ballot(started)
    started.pass_phase()
    started.advance()
    wrong = replace(payment(), timely_voters=0b0111)
    other = ContractError("LedgerOtherVoters", (0b1111,))
    assert refusal(started.result, OPERATORS[0], wrong) == other
    started.agree(payment())
    assert started.phase is Phase.SETTLEABLE


def test_last_ballot_cannot_be_voted_to_fail(started: World) -> None:
    to_last_ballot(started)
    refused = refusal(started.result, OPERATORS[0], empty_result(ResultKind.FAILED))
    assert refused == ContractError("LedgerInvalidResult", (ResultKind.FAILED,))


def test_a_round_is_not_settled_without_a_quorum(started: World) -> None:
    to_result_phase(started)
    vote = started.agree(operators=OPERATORS[:2])
    assert refusal(started.settle, vote) == ContractError("LedgerNoQuorum", (2, 3))
    started.result(OPERATORS[2], result("other"))
    assert refusal(started.settle, vote) == ContractError("LedgerNoQuorum", (2, 3))
    started.result(OPERATORS[3], vote)
    assert refusal(started.settle, result("other")) == ContractError("LedgerNoQuorum", (1, 3))
    assert started.settle(vote).events


def test_a_result_differs_in_any_of_its_parts(started: World) -> None:
    to_result_phase(started)
    vote = started.agree(operators=OPERATORS[:2])
    others = (
        replace(vote, training_state_root=ZERO_HASH),
        replace(vote, model_root=ZERO_HASH),
        replace(vote, rewards_root=ZERO_HASH),
        replace(vote, accepted_units=3, payout=vote.payout - POT),
        replace(vote, payout=vote.payout - 1),
    )
    for number, other in enumerate(others):
        started.result(OPERATORS[2 + number % 2], other)
        assert started.phase is Phase.RESULT
    started.result(OPERATORS[2], vote)
    assert started.phase is Phase.SETTLEABLE


def test_a_result_can_be_replaced_and_then_counts_once(started: World) -> None:
    to_result_phase(started)
    first, second = result("first"), result("second")
    for operator in OPERATORS[:3]:
        started.result(operator, first)
    assert (started.phase, started.round.result_count) == (Phase.SETTLEABLE, 3)
    started.result(OPERATORS[0], second)
    assert (started.phase, started.round.result_count) == (Phase.RESULT, 3)
    assert refusal(started.settle, first) == ContractError("LedgerNoQuorum", (2, 3))
    for operator in OPERATORS[1:]:
        started.result(operator, second)
    assert refusal(started.settle, first) == ContractError("LedgerNoQuorum", (0, 3))
    assert started.settle(second).events


def voted_already(validator_index: int) -> ContractError:
    return ContractError("LedgerAlreadyVoted", ("0x" + VALIDATORS[validator_index].hex(),))


def test_result_that_changes_nothing_is_refused(started: World) -> None:
    to_result_phase(started)
    first, second = result("first"), result("second")
    started.result(OPERATORS[0], first, is_evaluated=False)
    for vote, is_evaluated in ((first, True), (second, False), (second, True)):
        started.result(OPERATORS[0], vote, is_evaluated=is_evaluated)
        again = refusal(started.result, OPERATORS[0], vote, is_evaluated=False)
        assert again == voted_already(0)
    assert refusal(started.result, OPERATORS[0], second) == voted_already(0)
    # The evaluation did not count as another vote.
    started.result(OPERATORS[1], second)
    assert started.phase is Phase.RESULT
    started.result(OPERATORS[2], second)
    assert started.phase is Phase.SETTLEABLE


def test_validator_posts_four_results_in_a_ballot(started: World) -> None:
    to_last_ballot(started)
    votes = [result(str(number)) for number in range(5)]
    for vote in votes[:4]:
        started.result(OPERATORS[0], vote)
    assert refusal(started.result, OPERATORS[0], votes[4]) == voted_already(0)
    started.result(OPERATORS[1], votes[4])
    # The last one that was taken counts, and no earlier one.
    for operator in OPERATORS[1:3]:
        started.result(operator, votes[3])
    assert started.phase is Phase.SETTLEABLE
    assert refusal(started.settle, votes[0]) == ContractError("LedgerNoQuorum", (0, 3))
    started.settle(votes[3])
    started.mine(1, 1)
    to_result_phase(started)
    started.result(OPERATORS[0], votes[0])


def test_honest_validators_results_of_a_last_ballot_are_taken(started: World) -> None:
    to_last_ballot(started)
    started.result(OPERATORS[0], result("mistake"), is_evaluated=False)
    started.result(OPERATORS[0], result(), is_evaluated=False)
    started.result(OPERATORS[0], result())
    started.pass_phase()
    started.advance()
    started.agree(payment())
    assert started.phase is Phase.SETTLEABLE


def test_results_are_refused_from_others_and_for_another_ballot(started: World) -> None:
    to_result_phase(started)
    assert refusal(started.result, STRANGER, result()) == ContractError(
        "ValidatorSetNotOperator", ("0x" + STRANGER.hex(),)
    )
    for place in ({"round": 1}, {"attempt": 1}, {"ballot": 1}):
        assert refusal(started.result, OPERATORS[0], result(), **place) == ContractError(
            "LedgerWrongRound", (0, 0, 0)
        )


def test_a_result_of_more_units_than_were_committed_gathers_no_vote(started: World) -> None:
    to_result_phase(started)
    assert refusal(started.result, OPERATORS[0], result(accepted_units=5)) == ContractError(
        "LedgerTooManyUnits", (5, 4)
    )
    limit = 4 * POT + TERMS.validator_fee
    too_much = replace(result(), payout=limit + 1)
    assert refusal(started.result, OPERATORS[0], too_much) == ContractError(
        "LedgerPayoutTooLarge", (limit + 1, limit)
    )


def test_a_settled_round_cannot_be_settled_again(started: World) -> None:
    to_result_phase(started)
    vote = started.agree()
    started.settle(vote)
    assert refusal(started.settle, vote) == wrong_phase(Phase.WAITING)
    started.mine(1, 1)
    assert refusal(started.settle, vote) == wrong_phase(Phase.COMMITMENT)
    # Nor do its votes count in the next round.
    to_result_phase(started)
    assert refusal(started.settle, vote) == ContractError("LedgerNoQuorum", (0, 3))
    started.result(OPERATORS[0], vote)
    assert refusal(started.settle, vote) == ContractError("LedgerNoQuorum", (1, 3))


def test_without_equal_results_in_time_the_ballot_fails(started: World) -> None:
    to_result_phase(started)
    started.agree(operators=OPERATORS[:2])
    started.pass_phase()
    assert started.phase is Phase.STALLED
    assert refusal(started.result, OPERATORS[2], result()) == wrong_phase(Phase.STALLED)
    assert refusal(started.settle, result()) == wrong_phase(Phase.STALLED)
    started.advance()
    assert (started.phase, started.round.ballot) == (Phase.VERDICT, 1)
    started.mine(1, 1)
    started.judge()
    started.agree(operators=OPERATORS[1:3])
    assert started.phase is Phase.RESULT
    started.result(OPERATORS[0], result())
    settled = started.settle(result()).events[0]
    assert (settled.attempt, settled.ballot) == (0, 1)


def test_a_quorum_stays_settleable_after_the_deadline(started: World) -> None:
    to_result_phase(started)
    end = deadline(started)
    vote = started.agree()
    started.at(end.block_number + 100, end.timestamp + 10_000)
    assert started.phase is Phase.SETTLEABLE
    assert refusal(started.advance) == wrong_phase(Phase.SETTLEABLE)
    assert started.settle(vote).events


def test_three_failed_ballots_void_the_attempt(started: World) -> None:
    started.commit_all()
    for ballot in range(3):
        assert started.round.ballot == ballot
        started.pass_phase()
        events = started.advance().events
    assert events == (
        BallotFailed(started.task, 0, 0, 2),
        AttemptVoided(started.task, 0, 0),
        AttemptOpened(started.task, 0, 1, 2, 2, ROUND_COST),
    )
    assert started.money.paid == 0


def test_three_void_attempts_pause_the_task_until_it_is_resumed(started: World) -> None:
    for _ in range(2):
        started.void_round()
    assert started.void_round().events == (
        AttemptVoided(started.task, 0, 2),
        TaskPaused(started.task),
    )
    assert (started.phase, started.money.status) == (Phase.INACTIVE, TaskStatus.PAUSED)
    assert (started.round.void_streak, started.money.reserved) == (3, 0)
    assert refusal(started.advance) == wrong_phase(Phase.INACTIVE)
    started.fund(1)
    assert not started.round.open
    # A newcomer is ready for the attempt that opens at once.
    started.register(MINERS[2])

    assert started.resume().events == (
        TaskResumed(started.task),
        AttemptOpened(started.task, 0, 3, 4, 3, ROUND_COST),
    )
    assert started.round.void_streak == 0
    assert refusal(started.resume) == ContractError(
        "TaskWrongStatus", (started.task, TaskStatus.ACTIVE)
    )


def test_a_settled_round_ends_a_streak_of_void_attempts(started: World) -> None:
    for _ in range(2):
        started.void_round()
    assert started.round.void_streak == 2
    started.play_round()
    assert (started.round.void_streak, started.round.attempt) == (0, 0)


def test_absent_miners_pause_no_task_and_use_up_no_attempt(started: World) -> None:
    left = started.lease.attempts_left
    for _ in range(2):
        started.void_round()
    for miner in MINERS[2:]:
        started.register(miner)
    started.pass_phase()
    assert started.advance().events == (
        AttemptVoided(started.task, 0, 2),
        AttemptOpened(started.task, 0, 3, 4, 4, ROUND_COST),
    )
    assert (started.round.void_streak, started.lease.attempts_left) == (2, left - 2)
    assert started.lease.progress_time == started.timestamp
    started.mine(1, 1)
    started.commit_all(MINERS)
    started.judge([OK] * 4)
    voided = started.settle(started.agree(empty_result(ResultKind.VOID))).events
    assert voided[-1] == TaskPaused(started.task)


@pytest.mark.parametrize(("count", "floor"), [(4, 8), (13, 10), (31, 22)])
def test_commitments_have_blocks_for_each_liar_to_leave_them_out(count: int, floor: int) -> None:
    """Each of f faulty primaries in a row may leave commitments out of its block."""
    world = World(AtomicDB())
    operators = tuple(account(f"operator {index}") for index in range(count))
    validators = tuple(sorted(account(f"validator {index}") for index in range(count)))
    deploy_contracts(world, validators, operators, floor=8)
    world.submit(with_terms(commit_seconds=4))
    world.ready(operators[: -(-2 * count // 3)])
    for miner in MINERS[:2]:
        world.register(miner)
    world.advance()
    opened = world.number
    world.mine(1, 0)
    assert deadline(world).block_number == opened + floor
    world.mine(floor - 2, 100)
    assert world.phase is Phase.COMMITMENT
    world.commit(MINERS[0])
    world.mine(1)
    world.advance()
    assert deadline(world).block_number == opened + 2 * floor
    assert world.phase is Phase.VERDICT


@pytest.mark.parametrize("count", [4, 10, 22])
def test_f_lying_proposers_in_a_row_leave_no_verdict_out(count: int) -> None:
    """After the block with the q-th verdict, f blocks have none, and the next one has the rest."""
    world, operators = new_world_of(count)
    faulty, quorum = compute_max_faulty(count), compute_quorum(count)
    world.mine(1, 1)
    world.judge(operators=operators[:quorum])
    world.mine(faulty + 1, 1)
    events = [world.verdict(each, (OK, OK)).events[0] for each in operators[quorum:]]
    assert [event.timely for event in events] == [True] * (count - quorum)


def test_a_paused_task_can_be_cancelled(started: World) -> None:
    for _ in range(3):
        started.void_round()
    assert started.cancel().events == (TaskClosed(started.task, CloseReason.CANCELLED),)
    started.refund()
    assert started.money.refunded == BUDGET


def test_the_last_round_closes_the_task(started: World) -> None:
    for _ in range(TERMS.rounds):
        settled = started.play_round()
    assert settled.events[-1] == TaskClosed(started.task, CloseReason.COMPLETED)
    assert (started.phase, started.round.round) == (Phase.INACTIVE, TERMS.rounds)
    started.refund()
    assert started.money.refunded == BUDGET - started.money.paid


def test_a_completed_task_is_completed_even_if_it_was_cancelled(world: World) -> None:
    world.submit(with_terms(rounds=1))
    world.ready()
    for miner in MINERS[:2]:
        world.register(miner)
    world.advance()
    world.mine(1, 1)
    world.cancel()
    assert world.play_round().events[-1] == TaskClosed(world.task, CloseReason.COMPLETED)


def test_nothing_advances_while_a_phase_is_running(started: World) -> None:
    assert refusal(started.advance) == wrong_phase(Phase.COMMITMENT)
    started.commit_all()
    assert refusal(started.advance) == wrong_phase(Phase.VERDICT)
    started.judge()
    assert refusal(started.advance) == wrong_phase(Phase.RESULT)
    started.settle(started.agree())
    assert refusal(started.advance) == wrong_phase(Phase.WAITING)


def test_a_chain_that_stood_still_costs_no_ballot_before_verdicts(started: World) -> None:
    started.commit(MINERS[0])
    started.mine(100, 7 * 86_400)
    started.advance()
    assert (started.phase, started.round.ballot) == (Phase.VERDICT, 0)
    started.judge((OK,))
    assert started.settle(started.agree(result(accepted_units=2))).events


def test_phases_without_an_end_have_no_deadline(world: World) -> None:
    none = Deadline(0, 0)
    world.submit()
    assert (deadline(world), world.phase) == (none, Phase.INACTIVE)
    world.ready()
    for miner in MINERS[:2]:
        world.register(miner)
    assert (deadline(world), world.phase) == (none, Phase.STALLED)
    world.advance()
    assert (deadline(world), world.phase) == (none, Phase.WAITING)
    world.mine(1, 1)
    to_result_phase(world)
    world.agree()
    assert (deadline(world), world.phase) == (none, Phase.SETTLEABLE)


def test_the_floor_is_what_genesis_said(world: World) -> None:
    answer = world.read(gradient_ledger.CONTRACT.view("phaseFloorBlocks", returns=int))
    assert answer == FLOOR


@pytest.mark.parametrize("floor", BOUNDS["phase_floor_blocks"])
def test_phase_lasts_any_floor_that_genesis_allows(floor: int) -> None:
    world = new_world_with_floor(floor)
    world.start_round()
    deadline = world.read(gradient_ledger.deadline(world.task))
    # Each of f faulty primaries in a row may leave calls out, whatever genesis says: 2 (f + 1).
    assert deadline.block_number - world.round.open_block == max(floor, 4)


def test_two_tasks_do_not_touch_each_other(started: World) -> None:
    started.submit()
    started.commit_all()
    other = started_world()
    other.commit_all()
    assert started.round == other.round
    started.task = 2
    assert (started.phase, started.round.ballot_number) == (Phase.INACTIVE, 0)
    assert refusal(started.commit, MINERS[0]) == ContractError(
        "LedgerWrongPhase", (2, Phase.INACTIVE)
    )


# ---- a changing validator set


def with_a_fifth_validator(world: World) -> None:
    """Let a fifth validator join; its operator is a miner's account."""
    joiner = MINERS[3]
    world.approve(joiner, VALIDATOR_SET, STAKE)
    key = candidate_key("validator 5")
    call = validator_set.propose_join(get_address(key), prove_join(key, joiner))
    world.send(joiner, call)
    for operator in OPERATORS[:3]:
        world.send(operator, validator_set.vote_on_proposal(1))
    world.mine(CHANGE_BLOCKS)


def test_judges_of_a_ballot_are_fixed_by_its_first_verdict() -> None:
    world = started_world()
    world.commit_all()
    world.verdict(OPERATORS[0], (OK, OK))
    with_a_fifth_validator(world)
    refused = refusal(world.verdict, MINERS[3], (OK, OK))
    assert refused == ContractError("ValidatorSetNotOperator", ("0x" + MINERS[3].hex(),))
    world.judge(operators=OPERATORS[1:])
    # The fourth of four verdicts ends the phase, and three equal results are a quorum.
    assert world.phase is Phase.RESULT
    world.agree()
    assert world.phase is Phase.SETTLEABLE


def test_a_set_that_changed_before_the_first_verdict_judges() -> None:
    world = started_world()
    with_a_fifth_validator(world)
    world.commit_all()
    world.judge(operators=OPERATORS)
    assert world.phase is Phase.VERDICT
    world.verdict(MINERS[3], (OK, OK))
    assert world.phase is Phase.RESULT
    world.agree()
    assert world.phase is Phase.RESULT
    world.agree(operators=(MINERS[3],))
    assert world.phase is Phase.SETTLEABLE


def test_validator_that_left_still_judges_its_open_ballot() -> None:
    world = started_world()
    world.commit_all()
    world.verdict(OPERATORS[0], (OK, CHEAT))
    world.send(OPERATORS[1], validator_set.leave_set())
    world.mine(CHANGE_BLOCKS)
    world.judge((OK, CHEAT), operators=OPERATORS[1:3])
    world.mine(GRACE, 3)
    world.advance()
    vote = world.agree(result("r", 2))
    assert world.settle(vote).events


def test_ballot_after_a_failed_one_has_the_set_of_its_own_time() -> None:
    world = started_world()
    world.commit_all()
    world.verdict(OPERATORS[0], (OK, OK))
    with_a_fifth_validator(world)
    world.pass_phase()
    world.advance()
    world.verdict(MINERS[3], (OK, OK))
    world.judge()
    assert world.phase is Phase.RESULT
