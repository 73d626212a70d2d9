"""Room for a seat, as the contract gives it (docs/spec/contracts.md, section 6.1)."""

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace

import pytest

from chain.contracts import miner_seats
from chain.contracts.miner_seats import ListedSeat, SeatState
from chain.primitives import Address, BlockNumber, TaskId
from miner.outcomes import NoRoomError
from miner.places import Place, Places, list_seats_to_take_back
from tests.worlds.training import SPEC, miner_address

TASK = TaskId(1)
SMALL_SEAT, LARGE_SEAT, NEWCOMER = (miner_address(number) for number in (1, 2, 3))


def places(
    min_units: int, taken: dict[Address, int], ordinal: int = 100, min_miners: int = 1
) -> Places:
    """Those of a task with eight units, in which all seats were taken before its first attempt."""
    seats = tuple(ListedSeat(miner, units, 1) for miner, units in taken.items())
    light = SimpleNamespace(
        progress=lambda task, miner: SimpleNamespace(attempt=SimpleNamespace(ordinal=ordinal)),
        network=SimpleNamespace(parameters=SimpleNamespace(seat_attempts=10)),
    )
    spec = replace(SPEC, reward=replace(SPEC.reward, min_miners=min_miners, min_units=min_units))
    client = SimpleNamespace(read=lambda view: seats)
    return Places(client, light, NEWCOMER, TASK, spec, lambda call: None)  # type: ignore[arg-type]


def test_newcomer_displaces_as_few_seats_as_it_needs() -> None:
    taken = {SMALL_SEAT: 2, LARGE_SEAT: 6}
    assert places(1, taken).choose(2, is_returning=False) == Place(2, (SMALL_SEAT,))
    assert places(1, taken).choose(4, is_returning=False) == Place(4, (SMALL_SEAT, LARGE_SEAT))


def test_newcomer_displaces_no_seat_without_whose_units_no_attempt_opens() -> None:
    taken = {SMALL_SEAT: 2, LARGE_SEAT: 6}
    assert places(7, taken).choose(4, is_returning=False) == Place(2, (SMALL_SEAT,))
    with pytest.raises(NoRoomError, match="other miners do all 8 units"):
        places(7, {LARGE_SEAT: 8}).choose(4, is_returning=False)
    assert places(4, {LARGE_SEAT: 8}).choose(4, is_returning=False) == Place(4, (LARGE_SEAT,))


def test_newcomer_displaces_no_seat_without_which_no_attempt_opens() -> None:
    """A miner that asked for much took the place of two others, and the task stood still."""
    third = miner_address(4)
    taken = {SMALL_SEAT: 3, LARGE_SEAT: 3, third: 2}
    wanted = places(4, taken, min_miners=3).choose(6, is_returning=False)
    assert wanted == Place(3, (SMALL_SEAT,))


def test_newcomer_displaces_no_seat_within_its_term() -> None:
    with pytest.raises(NoRoomError):
        places(1, {LARGE_SEAT: 8}, ordinal=9).choose(4, is_returning=False)


# ---- taking a seat back

DISPLACER = LARGE_SEAT
SEAT = SeatState(
    units=2,
    first_attempt=1,
    last_attempt=100,
    accounted_attempt=100,
    committed_attempt=100,
    position=0,
    miss_count=0,
    has_seat_bond=True,
    is_slashed=False,
    registered_block=BlockNumber(1),
    is_displaced=True,
    bond=1,
    bonded_from=1,
    has_displaced=False,
)
"""The seat of the miner itself, which was displaced in the last attempt."""


def back(
    seat: SeatState = SEAT,
    *,
    first_attempt: int = 101,
    has_displaced: bool = True,
    seat_count: int = 1,
    is_open: bool = False,
    can_return: bool = True,
    others: Mapping[Address, SeatState] | None = None,
) -> tuple[Address, ...]:
    """The seats to take back, if 100 attempts opened.

    Args:
        seat: That of the miner itself.
        first_attempt: That of another seat, which has seven of eight units.
        has_displaced: Whether that one has displaced miners.
        seat_count: The seats of the task.
        is_open: Whether an attempt is open.
        can_return: Whether the miner may take its seat again.
        others: The other seats, if they are not that one.
    """
    if others is None:
        other = replace(seat, units=7, first_attempt=first_attempt, has_displaced=has_displaced)
        others = {DISPLACER: other}
    seats = tuple(
        ListedSeat(each, found.units, found.first_attempt) for each, found in others.items()
    )
    answers = {
        miner_seats.list_seats(TASK).data: seats,
        miner_seats.get_seat(TASK, NEWCOMER).data: seat,
        **{miner_seats.get_seat(TASK, each).data: found for each, found in others.items()},
    }
    opening = SimpleNamespace(is_open=is_open, seat_count=seat_count, registered_units=7)
    light = SimpleNamespace(
        standing=lambda task, miner: SimpleNamespace(
            opening=opening, seat=SimpleNamespace(can_return=can_return)
        ),
        progress=lambda task, miner: SimpleNamespace(attempt=SimpleNamespace(ordinal=100)),
    )
    client = SimpleNamespace(read=lambda view: answers[view.data])
    spec = replace(SPEC, reward=replace(SPEC.reward, max_units=8, min_miners=2, min_units=4))
    return list_seats_to_take_back(client, light, NEWCOMER, TASK, spec, seat.units)  # type: ignore[arg-type]


def test_displaced_miner_takes_its_seat_back_if_no_attempt_opens() -> None:
    assert back() == (DISPLACER,)
    assert back(is_open=True) == ()
    assert back(seat_count=2) == ()
    assert back(can_return=False) == ()


def test_no_seat_is_taken_back_that_has_worked() -> None:
    assert back(first_attempt=100) == ()
    assert back(has_displaced=False) == (), "it worked in the last attempt, and has come back"
    assert back(replace(SEAT, last_attempt=99)) == ()
    assert back(replace(SEAT, units=1)) == (), "there is room for it"


def test_seats_that_displaced_miners_are_taken_back_first() -> None:
    """A second account took the room that a small newcomer left."""
    earlier, later = miner_address(4), miner_address(5)
    new = replace(SEAT, first_attempt=101, last_attempt=0, is_displaced=False)
    others = {
        earlier: replace(new, units=3, registered_block=BlockNumber(7)),
        later: replace(new, registered_block=BlockNumber(8)),
        DISPLACER: replace(new, registered_block=BlockNumber(6), has_displaced=True),
    }
    assert back(replace(SEAT, units=2), others=others) == (DISPLACER,)
    assert back(replace(SEAT, units=4), others=others) == (DISPLACER, later)
