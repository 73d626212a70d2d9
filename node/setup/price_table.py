"""What the cheapest way to waste something costs on a network (docs/prices.md).

The table follows from the parameters of genesis, so whoever chooses prices sees what they mean.
"""

from dataclasses import dataclass
from typing import Final

from chain.contracts.miner_seats import MISS_SHARE
from chain.params import ChainParameters
from chain.primitives import TOKEN_UNIT
from chain.training.fees import PROMISED_SHARE

DAY_SECONDS: Final = 86_400

EXAMINATION_SECONDS: Final = 240
"""The time of a validator's worker that an answer to a new task pays for."""

SHORT_EXAMINATION_SECONDS: Final = 120
"""The longest time in which validators examine a task that declares nearly nothing."""

PROMISED_GIB: Final = 32
"""The disk that a validator with the default blobs.quota_bytes promises to all tasks together."""

PRICE_STEPS: Final = 8
"""The price of a slot doubles with each of so many equal parts of the slots."""

SQUATTED_ATTEMPTS: Final = 3
"""The attempts that wait for a miner that never commits. It is charged for the first two, which
burn all of its seat bond, and its seat ends while the third is open."""


@dataclass(frozen=True, slots=True)
class PriceRow:
    """One way to waste something."""

    role: str
    """The role of the account that wastes it: submitter or miner."""
    what: str
    """What is wasted."""
    amount: int
    """The least that it costs, in base units of POT."""


def list_prices(parameters: ChainParameters, validator_count: int) -> tuple[PriceRow, ...]:
    """The price of each kind of waste, with so many validators.

    Args:
        parameters: The parameters of the network.
        validator_count: The number of validators.
    """
    slots, pending = parameters.task_slots, parameters.pending_seconds
    rates = [parameters.slot_price << PRICE_STEPS * taken // slots for taken in range(slots)]
    answer = parameters.examination_fee + EXAMINATION_SECONDS * parameters.second_price
    examination = validator_count * answer
    in_turn = min(slots, -(-pending // EXAMINATION_SECONDS))
    short_in_turn = min(slots, -(-pending // SHORT_EXAMINATION_SECONDS))
    rows = (
        ("a slot for a day, the first", rates[0] * DAY_SECONDS),
        ("a slot for a day, the last", rates[-1] * DAY_SECONDS),
        ("all slots for a day", sum(rates) * DAY_SECONDS),
        ("all slots while one new task is pending", sum(rates) * pending),
        ("a GiB of one validator for a day", parameters.byte_price),
        (
            "a day of one validator's worker, in attempts or promised",
            parameters.second_price * DAY_SECONDS,
        ),
        (
            "a day of all the time that one-worker validators promise",
            rates[0] * DAY_SECONDS
            + validator_count * parameters.second_price * DAY_SECONDS // PROMISED_SHARE,
        ),
        (
            "a day of all the disk that validators with 64 GiB promise",
            rates[0] * DAY_SECONDS + validator_count * parameters.byte_price * PROMISED_GIB,
        ),
        (
            "a day of one validator's worker, in examinations",
            -(-answer * DAY_SECONDS // EXAMINATION_SECONDS),
        ),
        ("a task's record in all databases, cancelled at once", rates[0] * pending),
        ("a new task that validators refuse", rates[0] * pending + examination),
        (
            "new tasks that delay long dry runs for a pending time",
            sum(rates[:in_turn]) * pending + in_turn * examination,
        ),
        (
            "new tasks that delay short dry runs for a pending time",
            sum(rates[:short_in_turn]) * pending + short_in_turn * examination,
        ),
    )
    seat_bond = parameters.seat_bond_pot * TOKEN_UNIT
    return (
        *(PriceRow("submitter", what, amount) for what, amount in rows),
        PriceRow(
            "miner",
            "a seat in an attempt, by miners that never commit",
            -(-seat_bond // SQUATTED_ATTEMPTS),
        ),
        PriceRow(
            "miner",
            "a seat in an attempt, by miners that skip every other",
            seat_bond // MISS_SHARE,
        ),
    )
