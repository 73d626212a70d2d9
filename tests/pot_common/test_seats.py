import pytest

from pot_common.seats import SeatReply, describe_ended_seat


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("left", "this account has left task 3; "),
        (
            "displaced",
            "the seat of this account in task 3 has ended, because another miner took its place",
        ),
        ("misses", "the seat of this account in task 3 has ended, because it missed 2 attempts; "),
    ],
)
def test_ended_seat_is_told_with_its_own_reason(reason: str, told: str) -> None:
    seat = SeatReply.model_construct(
        task=3,
        token=bytes(20),
        bond=0,
        bond_paid=0,
        seat_bond=0,
        seat_bond_paid=0,
        misses=2,
        end_reason=reason,
        locked_blocks=0,
        locked_seconds=0,
        losses=(),
        owes_attempt=False,
    )
    assert describe_ended_seat(seat).startswith(told)
