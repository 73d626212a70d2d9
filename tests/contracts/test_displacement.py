"""A newcomer that displaces miners owes an attempt (docs/spec/contracts.md, section 6.1)."""

from collections.abc import Sequence

from chain.contracts import miner_seats
from chain.contracts.errors import ContractError
from chain.contracts.gradient_ledger import ResultKind
from chain.contracts.miner_seats import IDLE_BLOCKS, ListedSeat, MinerLeft, MinerRegistered
from chain.contracts.task_registry import TaskStatus
from chain.primitives import Address
from tests.worlds.contracts import (
    MINERS,
    POT,
    ROUND_COST,
    SEAT_ATTEMPTS,
    SEAT_BOND,
    STRANGER,
    SUBMITTER,
    SUPPLY_EACH,
    World,
    empty_result,
    new_world,
    refusal,
    result,
    with_terms,
)
from tests.worlds.contracts import (
    TREASURY as NEWCOMER,
)

IDLE_SECONDS = 7 * 86_400


def about(name: str, who: Address) -> ContractError:
    return ContractError(name, (1, "0x" + who.hex()))


UNITS = (2, 2, 3, 1)
"""The units of four miners that have all units of a task."""

FIRST, SECOND, THIRD, LEAST = MINERS


def play(world: World, *miners: Address, is_paid: bool = False) -> None:
    """Have the participants of an attempt commit, and end it; as a void one if nobody is paid."""
    for miner in miners:
        world.commit(miner, world.seat(miner).units)
    world.judge([0] * len(miners))
    vote = result("paid", 8) if is_paid else empty_result(ResultKind.VOID)
    world.settle(world.agree(vote))
    world.mine(1, 1)


def full_world(*, units: Sequence[int] = UNITS, min_miners: int = 2, rounds: int = 40) -> World:
    """Miners past their term with all units of a task, of which an attempt is open.

    Args:
        units: The units of the four miners.
        min_miners: The seats without which no attempt opens.
        rounds: The rounds that the escrow pays for.
    """
    world = new_world()
    world.submit(with_terms(min_miners=min_miners, min_units=4), budget=rounds * ROUND_COST)
    world.ready()
    for miner, each in zip(MINERS, units, strict=True):
        world.register(miner, each)
    world.advance()
    world.mine(1, 1)
    for _ in range(SEAT_ATTEMPTS - 1):
        play(world, *MINERS)
        if world.money.status is TaskStatus.PAUSED:
            world.resume()
            world.mine(1, 1)
    assert world.round.open
    return world


def unfunded_world() -> World:
    """Such a task without money for an attempt, in which a newcomer has displaced three miners."""
    world = full_world(rounds=1)
    play(world, *MINERS, is_paid=True)
    assert not world.round.open
    world.register(NEWCOMER, 7, MINERS[:3])
    return world


def blocked_world() -> World:
    """A newcomer has displaced three miners, and the fourth has left, so no attempt opens."""
    world = full_world()
    world.register(NEWCOMER, 7, MINERS[:3])
    world.leave(LEAST)
    play(world, *MINERS)
    assert not world.round.open
    return world


def test_newcomer_leaves_the_seats_that_an_attempt_needs() -> None:
    """One seat with almost all units displaced all others; no attempt opened that it owed."""
    world = full_world(units=(2, 2, 2, 2))
    refused = refusal(world.register, NEWCOMER, 7, MINERS)
    assert refused == about("SeatsNotDisplaceable", FIRST)
    assert world.register(NEWCOMER, 6, MINERS[:3]).events
    play(world, *MINERS)
    assert {each.miner for each in world.participants()} == {NEWCOMER, LEAST}


def test_newcomer_takes_one_seat_if_an_attempt_needs_all() -> None:
    """A task stood still when one newcomer took the place of two of its four miners."""
    world = full_world(min_miners=4)
    refused = refusal(world.register, NEWCOMER, 4, MINERS[:2])
    assert refused == about("SeatsNotDisplaceable", FIRST)
    assert world.register(NEWCOMER, 2, MINERS[:1]).events


def test_newcomer_that_has_displaced_waits_for_the_attempt_that_it_owes() -> None:
    """It waited 256 blocks in a task without money, and left; miners lost seats for nothing."""
    world = unfunded_world()
    world.mine(IDLE_BLOCKS)
    assert refusal(world.leave, NEWCOMER) == about("SeatsAttemptOwed", NEWCOMER)
    # Money is all that is missing, and any account can bring it, so no seat is taken back.
    refused = refusal(world.register, FIRST, 2, [NEWCOMER])
    assert refused == about("SeatsNotDisplaceable", NEWCOMER)
    world.fund(ROUND_COST)
    assert {each.miner for each in world.participants()} == {NEWCOMER, LEAST}
    world.mine(1, 1)
    assert world.leave(NEWCOMER).events == (MinerLeft(world.task, NEWCOMER),)
    assert refusal(world.withdraw_bond, NEWCOMER) == about("SeatsBondLocked", NEWCOMER)


def test_newcomer_that_has_displaced_is_free_when_the_task_is_idle() -> None:
    """That is its longest wait, because any account may close an idle task."""
    world = unfunded_world()
    world.mine(IDLE_SECONDS // 5, IDLE_SECONDS)
    assert refusal(world.leave, NEWCOMER) == about("SeatsAttemptOwed", NEWCOMER)
    world.expire(NEWCOMER)
    world.withdraw_bond(NEWCOMER)
    assert world.balance(NEWCOMER) == SUPPLY_EACH


def test_displaced_miners_take_their_seats_back_if_seats_are_missing() -> None:
    """A further account left the task short of a seat, so the displacement cost nothing."""
    world = blocked_world()
    assert refusal(world.register, FIRST, 2) == ContractError("SeatsTaskFull", (1,))
    before = world.balance(FIRST)
    assert world.register(FIRST, 2, [NEWCOMER]).events == (
        MinerLeft(world.task, NEWCOMER),
        MinerRegistered(world.task, FIRST, 2, 2 * POT + POT // 2, SEAT_BOND),
    )
    assert world.balance(FIRST) == before
    world.register(SECOND, 2)
    world.register(THIRD, 3)
    world.advance()
    assert {each.miner for each in world.participants()} == {FIRST, SECOND, THIRD}
    # The newcomer has lost nothing, and the others have a new term.
    world.withdraw_bond(NEWCOMER)
    assert world.balance(NEWCOMER) == SUPPLY_EACH
    world.mine(1, 1)
    assert refusal(world.register, NEWCOMER, 7, [FIRST]) == about("SeatsNotDisplaceable", FIRST)


def test_displaced_miners_take_their_seats_back_while_the_task_is_paused() -> None:
    """A newcomer displaced miners just before a pause, and no attempt opened that it owed."""
    world = full_world()
    play(world, *MINERS)
    play(world, *MINERS)
    world.register(NEWCOMER, 7, MINERS[:3])
    play(world, *MINERS)
    assert world.money.status is TaskStatus.PAUSED
    assert world.register(FIRST, 2, [NEWCOMER]).events[0] == MinerLeft(world.task, NEWCOMER)


def test_newcomer_may_leave_if_no_seat_is_taken_back() -> None:
    world = blocked_world()
    world.mine(IDLE_BLOCKS - 2)
    assert refusal(world.leave, NEWCOMER) == about("SeatsAttemptOwed", NEWCOMER)
    world.mine(1)
    world.leave(NEWCOMER)
    world.withdraw_bond(NEWCOMER)
    assert world.balance(NEWCOMER) == SUPPLY_EACH


def test_only_the_last_displacement_is_taken_back() -> None:
    world = blocked_world()
    # A miner that was not displaced, or has a new bond, is a newcomer to the seat.
    assert refusal(world.register, LEAST, 1, [NEWCOMER]) == about("SeatsNotDisplaceable", NEWCOMER)
    assert refusal(world.register, STRANGER, 2, [NEWCOMER]) == about(
        "SeatsNotDisplaceable", NEWCOMER
    )
    # Once the newcomer takes part in an attempt, it has its seat for a term.
    world.register(LEAST, 1)
    world.advance()
    world.mine(1, 1)
    world.leave(LEAST)
    play(world, NEWCOMER, LEAST)
    assert not world.round.open
    assert refusal(world.register, FIRST, 2, [NEWCOMER]) == about("SeatsNotDisplaceable", NEWCOMER)


def laundered_world() -> World:
    """A small newcomer has displaced a large miner, and a second account took the rest of its room.

    Two further miners have left, so the task has three of four seats.
    """
    world = full_world(units=(4, 1, 2, 1), min_miners=4)
    world.register(NEWCOMER, 2, [FIRST])
    world.leave(SECOND)
    world.leave(THIRD)
    world.register(SUBMITTER, 4)
    play(world, *MINERS)
    assert not world.round.open
    return world


def test_displaced_miner_takes_back_room_that_a_second_account_took() -> None:
    """The second account had displaced nobody, so the displaced miner was shut out for nothing."""
    world = laundered_world()
    assert refusal(world.register, FIRST, 4) == ContractError("SeatsTaskFull", (1,))
    before = world.balance(FIRST), world.balance(SUBMITTER)
    events = world.register(FIRST, 4, [NEWCOMER, SUBMITTER]).events
    assert events[:2] == (MinerLeft(world.task, NEWCOMER), MinerLeft(world.task, SUBMITTER))
    assert world.read(miner_seats.list_seats(world.task)) == (
        ListedSeat(LEAST, 1, 1),
        ListedSeat(FIRST, 4, SEAT_ATTEMPTS + 1),
    )
    # Those whose seats ended have lost nothing.
    world.withdraw_bond(NEWCOMER)
    world.withdraw_bond(SUBMITTER)
    assert world.balance(NEWCOMER) == SUPPLY_EACH
    assert world.balance(FIRST) == before[0]
    bonds = SEAT_BOND + world.read(miner_seats.required_bond(world.task, 4))
    assert world.balance(SUBMITTER) == before[1] + bonds


def test_second_account_of_a_newcomer_does_not_outlast_it() -> None:
    """Seats that displaced none end only after those that did, whoever took which room."""
    world = laundered_world()
    refused = refusal(world.register, FIRST, 4, [SUBMITTER, NEWCOMER])
    assert refused == about("SeatsNotDisplaceable", SUBMITTER)
    # The newcomer is free to leave in the end; the second account cannot hold the room then.
    world.mine(IDLE_BLOCKS)
    world.leave(NEWCOMER)
    assert refusal(world.register, FIRST, 4) == ContractError("SeatsTaskFull", (2,))
    assert world.register(FIRST, 4, [SUBMITTER]).events


def test_displaced_miner_ends_no_seat_that_worked_in_the_last_attempt() -> None:
    """All that worked in it fit beside each other, so none of them needs another's room."""
    world = full_world()
    play(world, *MINERS)
    play(world, *MINERS)
    world.register(NEWCOMER, 1, [FIRST])
    world.leave(THIRD)
    play(world, *MINERS)
    assert world.money.status is TaskStatus.PAUSED
    world.register(THIRD, 3)
    world.register(SUBMITTER, 1)
    refused = refusal(world.register, FIRST, 2, [NEWCOMER, THIRD])
    assert refused == about("SeatsNotDisplaceable", THIRD)
    refused = refusal(world.register, FIRST, 2, [NEWCOMER, SECOND])
    assert refused == ContractError("SeatsNotActive", (1,)), "its term is over"
    ended = world.register(FIRST, 2, [NEWCOMER, SUBMITTER]).events[:2]
    assert ended == tuple(MinerLeft(world.task, each) for each in (NEWCOMER, SUBMITTER))


def test_displaced_miners_do_not_take_seats_back_from_each_other() -> None:
    world = full_world()
    play(world, *MINERS)
    play(world, *MINERS)
    world.register(NEWCOMER, 2, [FIRST])
    world.register(SUBMITTER, 2, [SECOND])
    play(world, *MINERS)
    assert world.money.status is TaskStatus.PAUSED
    world.register(FIRST, 2, [SUBMITTER])
    assert refusal(world.register, SECOND, 2, [FIRST]) == about("SeatsNotDisplaceable", FIRST)
    assert world.register(SECOND, 2, [NEWCOMER]).events
    assert refusal(world.register, NEWCOMER, 2, [FIRST]) == about("SeatsNotDisplaceable", FIRST)


def test_seat_that_displaced_none_is_not_taken_back() -> None:
    world = full_world()
    play(world, *MINERS)
    play(world, *MINERS)
    world.register(NEWCOMER, 2, [FIRST])
    world.leave(SECOND)
    world.register(SUBMITTER, 2)
    play(world, *MINERS)
    assert world.money.status is TaskStatus.PAUSED
    refused = refusal(world.register, FIRST, 2, [SUBMITTER])
    assert refused == about("SeatsNotDisplaceable", SUBMITTER)
    world.register(FIRST, 2, [NEWCOMER])
    # The newcomer has no right to a seat that was taken back from it.
    assert refusal(world.register, NEWCOMER, 2, [FIRST]) == about("SeatsNotDisplaceable", FIRST)
