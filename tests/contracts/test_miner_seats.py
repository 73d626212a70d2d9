"""Seats: bonds, terms, absence, leaving (docs/spec/contracts.md, section 6)."""

from collections.abc import Mapping

import pytest

from chain.contracts import ledger_storage, miner_seats, training_token
from chain.contracts.addresses import MINER_SEATS
from chain.contracts.errors import ContractError
from chain.contracts.gradient_ledger import Phase, ResultKind
from chain.contracts.miner_seats import (
    IDLE_BLOCKS,
    MAX_ENDED_SEATS,
    BondWithdrawn,
    ListedSeat,
    MinerAbsent,
    MinerLeft,
    MinerRegistered,
    Participant,
    SeatBondBurnt,
)
from chain.contracts.task_registry import TaskStatus
from chain.primitives import Address, TaskId
from tests.worlds.contracts import (
    BUDGET,
    MINERS,
    POT,
    SEAT_ATTEMPTS,
    SEAT_BOND,
    STRANGER,
    SUPPLY_EACH,
    TERMS,
    TREASURY,
    World,
    account,
    empty_result,
    new_world,
    refusal,
    result,
    started_world,
    with_terms,
)

MISS = POT // 4
"""An eighth of the pay for two units."""

EIGHTH = SEAT_BOND // 8
"""What a miss costs of the seat bond."""

BOND = 2 * POT + 2 * MISS
WINDOWS = 80 + 2 * 64
"""The blocks after an attempt until its miners can be fined no more. Late verdicts have twice the
40 seconds of the verdict phase, votes and slashes 64 blocks each."""


@pytest.fixture
def world() -> World:
    """An active task without miners."""
    world = new_world()
    world.submit()
    world.ready()
    return world


@pytest.fixture
def started() -> World:
    """An attempt with two miners, in its commitment phase."""
    return started_world()


def about(name: str, who: bytes) -> ContractError:
    return ContractError(name, (1, "0x" + who.hex()))


def skip_attempt(world: World, *present: Address) -> None:
    """Play an attempt in which only some miners commit and no validator votes, to the next one."""
    for miner in present:
        world.commit(miner)
    ordinal = world.round.attempt_count
    while world.round.open and world.round.attempt_count == ordinal:
        if world.phase is Phase.STALLED:
            world.advance()
        else:
            world.pass_phase()
    if world.money.status is TaskStatus.PAUSED:
        world.resume()
    world.mine(1, 1)


def serve(world: World, units: Mapping[Address, int], attempts: int) -> None:
    """Let miners with so many units work in the first attempts of a new task, until the next."""
    world.ready()
    for miner, count in units.items():
        world.register(miner, count)
    world.advance()
    world.mine(1, 1)
    for _ in range(attempts):
        play(world, units)


def play(world: World, units: Mapping[Address, int]) -> None:
    """Play an attempt in which some miners commit, as a void one, to the next one if it opens."""
    for miner, count in units.items():
        world.commit(miner, count)
    void_attempt(world, len(units))
    if world.money.status is TaskStatus.PAUSED:
        world.resume()
    world.mine(1, 1)


def void_attempt(world: World, commitments: int = 2) -> None:
    """Find all gradients of an attempt good, and settle it as a void one."""
    world.judge([0] * commitments)
    world.settle(world.agree(empty_result(ResultKind.VOID)))


# ---- registration


def test_seat_costs_a_bond_that_covers_two_misses_and_one_in_pot(world: World) -> None:
    answer = world.register(MINERS[0])
    assert answer.events == (MinerRegistered(world.task, MINERS[0], 2, BOND, SEAT_BOND),)
    seat = world.seat(MINERS[0])
    assert (seat.units, seat.first_attempt, seat.bond) == (2, 1, BOND)
    assert (seat.has_seat_bond, seat.position) == (True, 1)
    assert world.balance(MINER_SEATS) == BOND + SEAT_BOND
    assert world.read(miner_seats.list_seats(world.task)) == (ListedSeat(MINERS[0], 2, 1),)


def test_no_miss_is_free(world: World) -> None:
    world.submit(with_terms(unit_price=1, validator_fee=0))
    world.task = 2
    assert world.read(miner_seats.required_bond(world.task, 1)) == 3


def test_registration_twice_or_of_impossible_units_is_refused(world: World) -> None:
    world.register(MINERS[0])
    assert refusal(world.register, MINERS[0]) == about("SeatsAlreadyRegistered", MINERS[0])
    assert refusal(world.register, MINERS[1], 0) == ContractError("SeatsTooFewUnits", (1,))


@pytest.mark.parametrize("status", ["pending", "closed"])
def test_only_an_active_or_paused_task_takes_miners(status: str) -> None:
    world = new_world() if status == "pending" else started_world()
    if status == "pending":
        world.submit()
    else:
        world.pass_phase()
        world.cancel()
        world.advance()
    assert world.money.status.name.lower() == status
    assert refusal(world.register, MINERS[2]) == ContractError("SeatsNotActive", (1,))


def test_registered_units_never_exceed_those_of_a_round(started: World) -> None:
    started.register(MINERS[2], units=4)
    assert refusal(started.register, MINERS[3], 1) == ContractError("SeatsTaskFull", (0,))
    started.leave(MINERS[0])
    assert refusal(started.register, MINERS[3], 3) == ContractError("SeatsTaskFull", (2,))
    started.register(MINERS[3], units=2)
    seats = started.read(miner_seats.list_seats(started.task))
    assert sum(each.units for each in seats) == TERMS.max_units


def test_small_seats_cannot_take_all_places_and_leave_units_free(world: World) -> None:
    world.submit(with_terms(max_units=65_536, unit_price=1, validator_fee=0))
    world.task = TaskId(2)
    world.ready()
    assert refusal(world.register, MINERS[0], 63) == ContractError("SeatsTooFewUnits", (64,))
    assert world.register(MINERS[0], 64).events


def test_first_seats_leave_room_for_those_without_which_no_attempt_opens(world: World) -> None:
    """One seat with all units would keep a task from opening any, and cost nothing."""
    assert refusal(world.register, MINERS[0], TERMS.max_units) == ContractError(
        "SeatsTaskFull", (TERMS.max_units - 1,)
    )
    world.register(MINERS[0], TERMS.max_units - 1)
    world.register(MINERS[1], 1)
    world.advance()
    assert world.round.open


def test_room_for_missing_seats_is_as_large_as_least_seats(world: World) -> None:
    world.submit(with_terms(max_units=4_000, min_miners=4, unit_price=1, validator_fee=0))
    world.task = TaskId(2)
    world.ready()
    full = ContractError("SeatsTaskFull", (4_000 - 3 * 4,))
    assert refusal(world.register, MINERS[0], 4_000) == full
    world.register(MINERS[0], 4_000 - 3 * 4)
    assert refusal(world.register, MINERS[1], 5) == ContractError("SeatsTaskFull", (4,))
    for miner in MINERS[1:]:
        world.register(miner, 4)
    world.advance()
    assert world.round.open


def test_units_that_are_too_few_for_a_seat_keep_no_task_from_opening(world: World) -> None:
    terms = with_terms(max_units=4_000, min_units=3_997, unit_price=1, validator_fee=0)
    world.submit(terms)
    world.task = TaskId(2)
    world.ready()
    world.register(MINERS[0], 2_000)
    world.register(MINERS[1], 1_996)
    assert world.phase is Phase.WAITING
    world.register(MINERS[2], 4)
    assert world.phase is Phase.STALLED
    world.task = TaskId(3)
    world.submit(terms)
    world.ready()
    world.register(MINERS[0], 2_000)
    world.register(MINERS[1], 1_997)
    assert refusal(world.register, MINERS[2], 3) == ContractError("SeatsTooFewUnits", (4,))
    assert world.phase is Phase.STALLED


def test_registration_without_allowance_leaves_nothing(world: World) -> None:
    refused = refusal(world.send, MINERS[0], miner_seats.register(world.task, 1))
    assert isinstance(refused, ContractError)
    assert refused.name == "ERC20InsufficientAllowance"
    assert world.participants() == ()


def test_only_the_ledger_notes_commitments(started: World) -> None:
    call = miner_seats.CONTRACT.call("noteCommitment", started.task, 1, MINERS[0], 2)
    refused = refusal(started.send, STRANGER, call)
    assert refused == ContractError("SeatsNotLedger", ("0x" + STRANGER.hex(),))


# ---- terms


def test_newcomer_to_a_full_task_displaces_seats_after_their_term(started: World) -> None:
    started.register(MINERS[2])
    started.register(MINERS[3])
    for played in range(1, SEAT_ATTEMPTS):
        not_yet = refusal(started.register, TREASURY, 2, [MINERS[0]])
        assert not_yet == about("SeatsNotDisplaceable", MINERS[0])
        skip_attempt(started, *(MINERS[:2] if played == 1 else MINERS))
    assert started.round.attempt_count == SEAT_ATTEMPTS
    events = started.register(TREASURY, 2, [MINERS[0]]).events
    assert MinerLeft(started.task, MINERS[0]) in events
    # It finishes the attempt in progress.
    assert started.commit(MINERS[0]).events
    assert started.seat(MINERS[0]).last_attempt == SEAT_ATTEMPTS


def test_no_seat_is_displaced_while_there_is_room(started: World) -> None:
    for _ in range(SEAT_ATTEMPTS):
        skip_attempt(started, *MINERS[:2])
    refused = refusal(started.register, MINERS[2], 4, [MINERS[0]])
    assert refused == about("SeatsNotDisplaceable", MINERS[0])
    # The first makes enough room, so the second is not needed.
    refused = refusal(started.register, MINERS[2], 6, [MINERS[0], MINERS[1]])
    assert refused == about("SeatsNotDisplaceable", MINERS[1])
    assert started.register(MINERS[2], 6, [MINERS[0]]).events


def test_small_newcomers_do_not_displace_large_seats(world: World) -> None:
    """One unit took the place of eight, and the task trained an eighth of them."""
    world.submit(with_terms(min_miners=1), budget=20 * BUDGET)
    world.task = TaskId(2)
    serve(world, {MINERS[0]: 5, MINERS[1]: 3}, SEAT_ATTEMPTS)
    too_large = ContractError("SeatsNotDisplaceable", (2, "0x" + MINERS[0].hex()))
    assert refusal(world.register, MINERS[2], 2, [MINERS[0]]) == too_large
    # Both together are too large, too.
    assert refusal(world.register, MINERS[2], 3, [MINERS[1], MINERS[0]]).name == (
        "SeatsNotDisplaceable"
    )
    assert world.register(MINERS[2], 3, [MINERS[0]]).events
    assert world.register(MINERS[3], 3, [MINERS[1]]).events


def test_newcomer_leaves_the_units_that_an_attempt_needs(world: World) -> None:
    """Else it could stop the task at no cost: it would owe no attempt, because none opened."""
    world.submit(with_terms(min_units=7), budget=20 * BUDGET)
    world.task = TaskId(2)
    serve(world, {MINERS[0]: 6, MINERS[1]: 2}, SEAT_ATTEMPTS)
    refused = refusal(world.register, MINERS[2], 4, [MINERS[0]])
    assert refused == ContractError("SeatsNotDisplaceable", (2, "0x" + MINERS[0].hex()))
    assert world.register(MINERS[2], 5, [MINERS[0]]).events
    assert world.read(miner_seats.registered_units(world.task)) == 7


# ---- taking a seat again


def full_world(attempts: int) -> World:
    """Two miners that have all units of a task, and have worked in so many attempts."""
    world = new_world()
    world.submit(budget=20 * BUDGET)
    serve(world, dict.fromkeys(MINERS[:2], 4), attempts)
    return world


def displaced_world() -> World:
    """Two miners past their term that newcomers with half of their units have displaced.

    The newcomers have worked in one attempt, and the next one is open.
    """
    world = full_world(attempts=SEAT_ATTEMPTS - 1)
    for newcomer, miner in zip(MINERS[2:], MINERS[:2], strict=True):
        world.register(newcomer, 3, [miner])
    play(world, dict.fromkeys(MINERS[:2], 4))
    play(world, dict.fromkeys(MINERS[2:], 3))
    return world


def test_displaced_miners_come_back_at_once_when_newcomers_leave() -> None:
    """Newcomers put all seats out, worked once and left; then the task stood still for hours."""
    world = displaced_world()
    stored = ledger_storage.read_seat(world.state.get_storage, world.task, MINERS[0])
    assert stored.is_displaced, "a miner knows by a proof that it has not left"
    for newcomer in MINERS[2:]:
        world.leave(newcomer)
    before = [world.balance(miner) for miner in MINERS[:2]]
    for miner in MINERS[:2]:
        assert refusal(world.withdraw_bond, miner) == about("SeatsBondLocked", miner)
        bond = 4 * POT + 4 * MISS
        assert world.register(miner, 4).events == (
            MinerRegistered(world.task, miner, 4, bond, SEAT_BOND),
        )
    assert [world.balance(miner) for miner in MINERS[:2]] == before, "their bonds still stand"
    stored = ledger_storage.read_seat(world.state.get_storage, world.task, MINERS[0])
    assert (stored.is_displaced, stored.registered_block) == (False, world.number)
    play(world, dict.fromkeys(MINERS[2:], 3))
    assert world.round.open
    assert world.participants() == tuple(Participant(each, 4) for each in sorted(MINERS[:2]))
    # They have a new term.
    refused = refusal(world.register, TREASURY, 8, [MINERS[0]])
    assert refused == about("SeatsNotDisplaceable", MINERS[0])


def test_displaced_miner_finishes_its_attempt_before_it_comes_back(started: World) -> None:
    started.leave(MINERS[0])
    assert refusal(started.register, MINERS[0]) == about("SeatsAlreadyRegistered", MINERS[0])
    started.register(MINERS[2])
    started.play_round()
    assert started.register(MINERS[0]).events
    # Not yet in the attempt that opened without it, so it misses nothing there.
    assert refusal(started.commit, MINERS[0]) == about("SeatsNotParticipating", MINERS[0])
    started.commit_all(MINERS[1:3])
    assert started.phase is Phase.VERDICT
    started.judge()
    started.settle(started.agree(result("second")))
    started.mine(1, 1)
    answer = started.commit(MINERS[0])
    assert [type(event).__name__ for event in answer.events] == ["GradientCommitted"]


def test_seat_is_taken_again_with_the_same_units_and_needs_room(started: World) -> None:
    started.leave(MINERS[0])
    started.register(MINERS[2], 5)
    started.play_round()
    assert refusal(started.register, MINERS[0], 1) == ContractError("SeatsInvalidUnits", (1,))
    assert refusal(started.register, MINERS[0]) == ContractError("SeatsTaskFull", (1,))


def test_misses_count_on_when_a_seat_is_taken_again(started: World) -> None:
    started.register(MINERS[2])
    started.leave(MINERS[0])
    skip_attempt(started, MINERS[1])
    events = started.register(MINERS[0]).events
    assert events == (
        MinerAbsent(started.task, MINERS[0], 1, MISS),
        SeatBondBurnt(started.task, MINERS[0], EIGHTH),
        MinerRegistered(started.task, MINERS[0], 2, BOND - MISS, SEAT_BOND - EIGHTH),
    )
    skip_attempt(started, *MINERS[1:3])
    skip_attempt(started, *MINERS[1:3])
    assert SeatBondBurnt(started.task, MINERS[0], SEAT_BOND - 2 * EIGHTH) in (
        started.end_seats(MINERS[0]).events
    )
    skip_attempt(started, *MINERS[1:3])
    assert refusal(started.register, MINERS[0]) == about("SeatsAlreadyRegistered", MINERS[0])


def test_bonds_of_a_seat_taken_again_answer_for_its_earlier_attempts(started: World) -> None:
    """It takes part in no further attempt, and its bonds are locked for the last one it had."""
    started.leave(MINERS[0])
    started.register(MINERS[2])
    started.play_round()
    free_block = started.number - 1 + WINDOWS + 1
    started.register(MINERS[0])
    started.leave(MINERS[0])
    seat = started.seat(MINERS[0])
    assert (seat.last_attempt, seat.first_attempt, seat.bonded_from) == (1, 3, 1)
    assert refusal(started.withdraw_bond, MINERS[0]) == about("SeatsBondLocked", MINERS[0])
    started.mine(free_block - started.number)
    assert started.withdraw_bond(MINERS[0]).events == (
        BondWithdrawn(started.task, MINERS[0], BOND, SEAT_BOND),
    )


def test_seat_taken_again_after_a_missed_last_attempt_saves_no_bond(started: World) -> None:
    started.leave(MINERS[0])
    started.register(MINERS[2])
    skip_attempt(started, MINERS[1])
    started.register(MINERS[0])
    started.leave(MINERS[0])
    started.mine(WINDOWS)
    assert started.withdraw_bond(MINERS[0]).events[-1] == BondWithdrawn(
        started.task, MINERS[0], BOND - MISS, 0
    )


def test_seat_is_not_taken_again_with_a_bond_that_was_withdrawn(started: World) -> None:
    started.leave(MINERS[0])
    started.register(MINERS[2])
    started.play_round()
    started.mine(WINDOWS)
    started.send(MINERS[0], miner_seats.withdraw_seat_bond(started.task))
    assert refusal(started.register, MINERS[0]) == about("SeatsAlreadyRegistered", MINERS[0])


# ---- leaving


def test_newcomer_leaves_while_an_attempt_without_it_takes_commitments(started: World) -> None:
    """One late commitment held newcomers, without work and pay, for phases of 20 hours."""
    started.register(MINERS[2])
    assert started.leave(MINERS[2]).events == (MinerLeft(started.task, MINERS[2]),)
    started.withdraw_bond(MINERS[2])
    assert started.balance(MINERS[2]) == SUPPLY_EACH
    # Once the next attempt may open at any time, room that it takes is owed.
    started.register(MINERS[2])
    started.commit_all()
    assert started.phase is Phase.VERDICT
    assert refusal(started.leave, MINERS[2]) == about("SeatsAttemptOwed", MINERS[2])


def test_newcomer_that_has_displaced_a_seat_owes_an_attempt() -> None:
    world = displaced_world()
    for _ in range(SEAT_ATTEMPTS):
        play(world, dict.fromkeys(MINERS[2:], 3))
    world.register(TREASURY, 5, [MINERS[2]])
    assert world.phase is Phase.COMMITMENT
    assert refusal(world.leave, TREASURY) == about("SeatsAttemptOwed", TREASURY)


def test_newcomer_to_a_paused_task_displaces_no_seat() -> None:
    """It waited 256 blocks, left for nothing, and the task had no miners when it was resumed."""
    world = full_world(attempts=SEAT_ATTEMPTS)
    while world.money.status is TaskStatus.ACTIVE:
        for miner in MINERS[:2]:
            world.commit(miner, 4)
        void_attempt(world)
        world.mine(1, 1)
    assert world.money.status is TaskStatus.PAUSED
    refused = refusal(world.register, MINERS[2], 4, [MINERS[0]])
    assert refused == ContractError("SeatsNotActive", (world.task,))
    world.resume()
    world.mine(1, 1)
    assert world.register(MINERS[2], 4, [MINERS[0]]).events


def test_miner_that_leaves_finishes_the_attempt_but_not_the_next(started: World) -> None:
    assert started.leave(MINERS[0]).events == (MinerLeft(started.task, MINERS[0]),)
    assert started.round.expected_commitments == 2
    started.register(MINERS[2])
    started.play_round()
    assert refusal(started.commit, MINERS[0]) == about("SeatsNotParticipating", MINERS[0])
    assert started.commit(MINERS[2]).events
    assert refusal(started.leave, MINERS[0]) == about("SeatsNotRegistered", MINERS[0])


def test_no_seat_ends_in_the_block_that_opens_an_attempt(world: World) -> None:
    for miner in MINERS[:2]:
        world.register(miner)
    world.advance()
    opening = ContractError("SeatsAttemptOpening", (world.task,))
    assert refusal(world.leave, MINERS[0]) == opening
    assert refusal(world.register, MINERS[2], 8, [MINERS[0]]) == opening
    assert refusal(world.end_seats, MINERS[0]) == opening
    assert world.participants() == tuple(Participant(each, 2) for each in sorted(MINERS[:2]))
    world.mine(1, 1)
    assert world.leave(MINERS[0]).events
    assert world.commit(MINERS[0]).events


def test_register_and_leave_reserves_no_escrow(world: World) -> None:
    """A newcomer owes one attempt, so no attempt opens in which nobody can commit."""
    for miner in MINERS[:2]:
        world.register(miner)
        assert refusal(world.leave, miner) == about("SeatsAttemptOwed", miner)
    world.advance()
    world.mine(1, 1)
    for miner in MINERS[:2]:
        world.leave(miner)
    # Both owe this attempt; it costs them a miss, and the next one does not open.
    world.pass_phase()
    world.advance()
    assert (world.round.open, world.money.reserved) == (False, 0)
    world.mine(WINDOWS + 1)
    world.withdraw_bond(MINERS[0])
    # Who leaves after a miss has missed its last attempt.
    assert world.balance(MINERS[0]) == SUPPLY_EACH - MISS - SEAT_BOND


def test_seat_in_a_task_that_stands_still_may_leave(world: World) -> None:
    world.register(MINERS[0])
    world.mine(IDLE_BLOCKS - 1)
    assert refusal(world.leave, MINERS[0]) == about("SeatsAttemptOwed", MINERS[0])
    world.mine(1)
    world.leave(MINERS[0])
    world.withdraw_bond(MINERS[0])
    assert world.balance(MINERS[0]) == SUPPLY_EACH


def test_the_list_of_participants_survives_departures_in_any_order(world: World) -> None:
    for miner in MINERS:
        world.register(miner)
    world.advance()
    world.mine(1, 1)
    for miner in (MINERS[1], MINERS[3], MINERS[0]):
        world.leave(miner)
    assert [one.miner for one in world.participants()] == [MINERS[2]]


# ---- absence


def test_absence_costs_an_eighth_of_the_pay_and_twice_the_seat(started: World) -> None:
    skip_attempt(started, MINERS[0])
    skip_attempt(started, MINERS[0])
    assert started.read(miner_seats.list_over(started.task, 8)) == (MINERS[1],)
    before = started.balance(MINER_SEATS)
    assert started.end_seats(MINERS[1]).events == (
        MinerAbsent(started.task, MINERS[1], 1, MISS),
        SeatBondBurnt(started.task, MINERS[1], EIGHTH),
        MinerAbsent(started.task, MINERS[1], 2, MISS),
        SeatBondBurnt(started.task, MINERS[1], EIGHTH),
        SeatBondBurnt(started.task, MINERS[1], SEAT_BOND - 2 * EIGHTH),
        MinerLeft(started.task, MINERS[1]),
    )
    assert started.balance(MINER_SEATS) == before, "burnt amounts stay in the contract"
    assert started.seat(MINERS[1]).bond == 2 * POT
    assert started.read(miner_seats.list_over(started.task, 8)) == ()


def test_absence_in_void_attempts_counts_and_is_found_by_a_commitment(started: World) -> None:
    skip_attempt(started)
    assert started.commit(MINERS[1]).events[0] == MinerAbsent(started.task, MINERS[1], 1, MISS)
    seat = started.seat(MINERS[1])
    assert (seat.miss_count, seat.accounted_attempt, seat.bond) == (1, 2, BOND - MISS)


def test_misses_more_than_eight_attempts_apart_burn_no_seat_bond(started: World) -> None:
    skip_attempt(started, MINERS[0])
    for _ in range(7):
        skip_attempt(started, *MINERS[:2])
    skip_attempt(started, MINERS[0])
    assert started.end_seats(MINERS[1]).events == (
        MinerAbsent(started.task, MINERS[1], 9, MISS),
        SeatBondBurnt(started.task, MINERS[1], EIGHTH),
        # Its bond covers no further miss.
        MinerLeft(started.task, MINERS[1]),
    )
    assert started.seat(MINERS[1]).has_seat_bond
    # It takes part in the attempt in progress, and is not over by a miss if it commits.
    skip_attempt(started, *MINERS[:2])
    started.mine(WINDOWS)
    answer = started.withdraw_bond(MINERS[1])
    assert answer.events[-1] == BondWithdrawn(
        started.task, MINERS[1], 2 * POT, SEAT_BOND - 2 * EIGHTH
    )


def test_two_misses_in_eight_attempts_burn_the_seat_bond(started: World) -> None:
    skip_attempt(started, MINERS[0])
    for _ in range(6):
        skip_attempt(started, *MINERS[:2])
    skip_attempt(started, MINERS[0])
    events = started.end_seats(MINERS[1]).events
    assert SeatBondBurnt(started.task, MINERS[1], SEAT_BOND - 2 * EIGHTH) in events


def test_leaving_between_two_misses_saves_no_seat_bond(started: World) -> None:
    skip_attempt(started, MINERS[0])
    assert started.leave(MINERS[1]).events[0] == MinerAbsent(started.task, MINERS[1], 1, MISS)
    skip_attempt(started, MINERS[0])
    started.mine(WINDOWS + 1)
    answer = started.withdraw_bond(MINERS[1])
    assert SeatBondBurnt(started.task, MINERS[1], SEAT_BOND - 2 * EIGHTH) in answer.events
    assert answer.events[-1] == BondWithdrawn(started.task, MINERS[1], 2 * POT, 0)


@pytest.mark.parametrize("is_seat_bond_alone", [False, True])
def test_leaving_saves_no_seat_bond_after_a_miss(started: World, is_seat_bond_alone: bool) -> None:
    started.leave(MINERS[1])
    started.register(MINERS[2])
    skip_attempt(started, MINERS[0])
    started.mine(WINDOWS)
    if is_seat_bond_alone:
        call = miner_seats.withdraw_seat_bond(started.task)
        none = ContractError("SeatsNothingToWithdraw", ())
        assert refusal(started.send, MINERS[1], call) == none
    assert started.withdraw_bond(MINERS[1]).events == (
        MinerAbsent(started.task, MINERS[1], 1, MISS),
        SeatBondBurnt(started.task, MINERS[1], EIGHTH),
        SeatBondBurnt(started.task, MINERS[1], SEAT_BOND - EIGHTH),
        BondWithdrawn(started.task, MINERS[1], BOND - MISS, 0),
    )


def test_displacement_saves_no_seat_bond_after_a_miss(started: World) -> None:
    for _ in range(SEAT_ATTEMPTS - 1):
        skip_attempt(started, *MINERS[:2])
    started.register(MINERS[2], 6, [MINERS[0]])
    skip_attempt(started, MINERS[1])
    started.mine(WINDOWS)
    assert started.withdraw_bond(MINERS[0]).events[-1] == BondWithdrawn(
        started.task, MINERS[0], BOND - MISS, 0
    )


def test_seat_that_commits_once_more_after_a_miss_keeps_its_bond(started: World) -> None:
    """The least that a wasted attempt of a seat costs: an eighth of both."""
    skip_attempt(started, MINERS[0])
    started.commit(MINERS[1])
    started.leave(MINERS[1])
    skip_attempt(started, MINERS[0])
    started.mine(WINDOWS)
    answer = started.withdraw_bond(MINERS[1])
    assert answer.events == (
        BondWithdrawn(started.task, MINERS[1], BOND - MISS, SEAT_BOND - EIGHTH),
    )


def test_squatters_in_turn_pause_no_task_and_lose_their_seat_bonds(world: World) -> None:
    """Six accounts with all units, two at a time, each away for one attempt."""
    squatters = [account(f"squatter {index}") for index in range(6)]
    for squatter in squatters:
        world.send(TREASURY, training_token.CONTRACT.call("transfer", squatter, 100 * POT))
    left = world.lease.attempts_left
    for squatter in squatters[:2]:
        world.register(squatter, units=4)
    world.advance()
    world.mine(1, 1)
    for first in (0, 2, 4):
        for squatter in squatters[first : first + 2]:
            world.leave(squatter)
        for squatter in squatters[first + 2 : first + 4]:
            world.register(squatter, units=4)
        world.pass_phase()
        world.advance()
        world.mine(1, 1)
    # The task has room again, and has lost nothing that its submitter paid for.
    assert (world.money.status, world.round.void_streak) == (TaskStatus.ACTIVE, 0)
    assert world.lease.attempts_left == left
    world.register(MINERS[0], 4)
    world.register(MINERS[1], 4)
    world.mine(WINDOWS)
    for squatter in squatters:
        world.withdraw_bond(squatter)
        assert world.balance(squatter) == 100 * POT - SEAT_BOND - POT // 2


def test_seats_that_are_not_over_cannot_be_ended(started: World) -> None:
    skip_attempt(started, MINERS[0])
    none = ContractError("SeatsNoneOver", (started.task,))
    assert refusal(started.end_seats, MINERS[0], MINERS[1], STRANGER) == none
    many = [STRANGER] * (MAX_ENDED_SEATS + 1)
    refused = refusal(started.end_seats, *many)
    assert refused == ContractError("SeatsListTooLong", (65, MAX_ENDED_SEATS))


def test_squatter_costs_three_slow_attempts_and_pays_both_bonds(started: World) -> None:
    """One seat that never commits makes attempts last to their deadlines until operators end it."""
    for _ in range(2):
        skip_attempt(started, MINERS[0])
    started.end_seats(MINERS[1])
    skip_attempt(started, MINERS[0])
    assert started.round.open is False, "the task waits for its second miner"
    started.register(MINERS[2])
    started.advance()
    started.mine(1, 1)
    started.commit_all((MINERS[0], MINERS[2]))
    assert started.phase is Phase.VERDICT


def test_one_unit_identities_pay_a_seat_bond_each(world: World) -> None:
    world.submit(with_terms(unit_price=1, validator_fee=0, max_units=4, min_miners=1))
    world.task = TaskId(2)
    world.ready()
    for miner in MINERS:
        world.register(miner, units=1)
    world.advance()
    world.mine(1, 1)
    for _ in range(2):
        skip_attempt(world)
    world.end_seats(*MINERS)
    skip_attempt(world)
    world.mine(WINDOWS + 1)
    for miner in MINERS:
        world.withdraw_bond(miner)
        # All but the part of the bond that answers for fraud is burnt.
        assert world.balance(miner) == SUPPLY_EACH - SEAT_BOND - 2


# ---- bonds


def test_bonds_are_locked_until_the_last_attempt_can_be_fined_no_more(started: World) -> None:
    locked = about("SeatsBondLocked", MINERS[0])
    assert refusal(started.withdraw_bond, MINERS[0]) == locked
    started.leave(MINERS[0])
    started.register(MINERS[2])
    assert refusal(started.withdraw_bond, MINERS[0]) == locked
    started.play_round()
    started.mine(WINDOWS - 1)
    assert refusal(started.withdraw_bond, MINERS[0]) == locked
    started.mine(1)
    assert started.withdraw_bond(MINERS[0]).events == (
        BondWithdrawn(started.task, MINERS[0], BOND, SEAT_BOND),
    )
    assert started.balance(MINERS[0]) == SUPPLY_EACH
    assert started.seat(MINERS[0]).units == 0
    assert refusal(started.withdraw_bond, MINERS[0]) == about("SeatsNotRegistered", MINERS[0])
    assert started.register(MINERS[0]).events


def test_attempts_that_follow_fast_do_not_free_a_bond(started: World) -> None:
    started.register(MINERS[2])
    started.leave(MINERS[0])
    play(started, dict.fromkeys(MINERS[:2], 2))
    first_end = started.number - 1
    for _ in range(12):
        play(started, dict.fromkeys(MINERS[1:3], 2))
    assert started.round.attempt_count == 14
    assert refusal(started.withdraw_bond, MINERS[0]) == about("SeatsBondLocked", MINERS[0])
    started.mine(first_end + WINDOWS - started.number)
    assert refusal(started.withdraw_bond, MINERS[0]) == about("SeatsBondLocked", MINERS[0])
    started.mine(1)
    assert started.withdraw_bond(MINERS[0]).events


def test_bonds_of_a_closed_task_need_no_leaving(started: World) -> None:
    started.cancel()
    started.play_round()
    started.mine(WINDOWS - 1)
    assert refusal(started.withdraw_bond, MINERS[0]) == about("SeatsBondLocked", MINERS[0])
    started.mine(1)
    started.withdraw_bond(MINERS[0])
    assert started.balance(MINERS[0]) == SUPPLY_EACH
    assert [one.miner for one in started.participants()] == [MINERS[1]]


def test_seat_bond_comes_back_alone(started: World) -> None:
    started.cancel()
    started.play_round()
    started.mine(WINDOWS)
    call = miner_seats.withdraw_seat_bond(started.task)
    assert started.send(MINERS[0], call).events[-1] == BondWithdrawn(
        started.task, MINERS[0], 0, SEAT_BOND
    )
    assert refusal(started.send, MINERS[0], call) == ContractError("SeatsNothingToWithdraw", ())
    assert started.withdraw_bond(MINERS[0]).events == (
        BondWithdrawn(started.task, MINERS[0], BOND, 0),
    )


def test_unregistered_account_cannot_leave_or_withdraw(started: World) -> None:
    assert refusal(started.leave, STRANGER) == about("SeatsNotRegistered", STRANGER)
    assert refusal(started.withdraw_bond, STRANGER) == about("SeatsNotRegistered", STRANGER)
