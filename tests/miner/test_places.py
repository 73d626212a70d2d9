"""Room for a seat, as the contract gives it (docs/spec/contracts.md, section 6.1)."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from chain.contracts.miner_seats import ListedSeat
from chain.primitives import Address, TaskId
from miner.outcomes import NoRoomError
from miner.places import Place, Places
from tests.worlds.training import SPEC, miner_address

SMALL_SEAT, LARGE_SEAT, NEWCOMER = (miner_address(number) for number in (1, 2, 3))


def places(min_units: int, taken: dict[Address, int], ordinal: int = 100) -> Places:
    """Those of a task with eight units, in which all seats were taken before its first attempt."""
    seats = tuple(ListedSeat(miner, units, 1) for miner, units in taken.items())
    light = SimpleNamespace(
        progress=lambda task, miner: SimpleNamespace(attempt=SimpleNamespace(ordinal=ordinal)),
        network=SimpleNamespace(parameters=SimpleNamespace(seat_attempts=10)),
    )
    spec = replace(SPEC, reward=replace(SPEC.reward, min_miners=1, min_units=min_units))
    client = SimpleNamespace(read=lambda view: seats)
    return Places(client, light, NEWCOMER, TaskId(1), spec, lambda call: None)  # type: ignore[arg-type]


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


def test_newcomer_displaces_no_seat_within_its_term() -> None:
    with pytest.raises(NoRoomError):
        places(1, {LARGE_SEAT: 8}, ordinal=9).choose(4, is_returning=False)
