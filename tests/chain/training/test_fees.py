"""The price of the validators' time; tests/contracts/test_task_lease.py compares the contract."""

from dataclasses import replace

from chain.contracts.task_registry import Purchase
from chain.training.fees import (
    compute_attempts_time,
    compute_computation_fee,
    compute_promised_ppm,
    compute_promised_time,
)
from tests.worlds.training import SPEC


def test_promised_part_is_that_of_the_busier_phase_rounded_up() -> None:
    # Eight units of 100 ms in 20 s, or an evaluation of 200 ms in 30 s.
    assert compute_promised_ppm(SPEC) == 40_000
    evaluation = replace(SPEC.resources, evaluation_milliseconds=5_000)
    assert compute_promised_ppm(replace(SPEC, resources=evaluation)) == 166_667


def test_price_is_for_the_longer_of_promised_and_used_time() -> None:
    assert compute_promised_time(SPEC, 100) == 4_000_000
    assert compute_attempts_time(SPEC, 3) == 4_200_000

    def price(lifetime_seconds: int, attempts: int) -> int:
        bought = Purchase(lifetime_seconds, attempts)
        return compute_computation_fee(SPEC, bought, validator_count=4, second_price=1_000)

    assert (price(100, 3), price(100, 2), price(0, 0)) == (16_800, 16_000, 0)


def test_price_is_rounded_up() -> None:
    fee = compute_computation_fee(SPEC, Purchase(1, 0), validator_count=1, second_price=1)
    assert fee == 1
