from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.training.aggregation import GradientSum, aggregate, compute_weights, flush
from chain.training.encoding import (
    Gradient,
    decode_gradient,
    encode_gradient,
    from_codes,
)
from chain.training.task_spec import (
    Aggregator,
)
from tests.worlds.training import dequantize, header_of, random_gradient

SIZE = 1_300


def gradient(seed: int, norm: float = 1.0) -> Gradient:
    header = header_of(seed, SIZE)
    return decode_gradient(encode_gradient(header, random_gradient(seed, SIZE, norm)), header)


def test_mean_is_the_exact_weighted_mean_rounded_twice() -> None:
    parts = [(3, gradient(1)), (1, gradient(2, 0.01)), (2, gradient(3, 0.5))]
    then = aggregate(Aggregator.MEAN, SIZE, parts)
    values = [dequantize(part, SIZE) for _, part in parts]
    for position in range(0, SIZE, 7):
        exact = sum(
            Fraction(float(value[position])) * units
            for (units, _), value in zip(parts, values, strict=True)
        ) / Fraction(6)
        if abs(exact) >= Fraction(1, 2**100):
            assert abs(Fraction(float(then[position])) / exact - 1) < Fraction(1, 2**22)
        else:
            assert then[position] == 0


def test_order_of_arrival_does_not_matter() -> None:
    parts = [(3, gradient(1)), (1, gradient(2, 0.01)), (2, gradient(3, 0.5))]
    for aggregator in Aggregator:
        results = {aggregate(aggregator, SIZE, order).tobytes() for order in permutations(parts)}
        assert len(results) == 1


def test_one_miner_split_into_many_changes_nothing() -> None:
    honest, other = gradient(1), gradient(2, 0.3)
    for aggregator in Aggregator:
        whole = aggregate(aggregator, SIZE, [(4, honest), (3, other)])
        split = aggregate(aggregator, SIZE, [*[(1, honest)] * 4, (1, other), (2, other)])
        assert whole.tobytes() == split.tobytes()


def test_clip_mean_weighs_down_norms_above_the_median_by_units() -> None:
    one = 1 << 60
    given_ = [(1, one), (1, 4 * one), (1, 16 * one), (1, 2 * one)]
    assert compute_weights(Aggregator.CLIP_MEAN, given_) == (256, 181, 90, 256)
    # Two thirds of the units now stand at the largest norm, so the median is there.
    assert compute_weights(Aggregator.CLIP_MEAN, [(1, one), (2, 16 * one)]) == (256, 256)
    assert compute_weights(Aggregator.MEAN, given_) == (256,) * 4
    assert compute_weights(Aggregator.CLIP_MEAN, [(2, 0), (1, one)]) == (256, 0)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 1 << 74)), min_size=1, max_size=9))
def test_a_clipped_norm_never_exceeds_the_median(given_: list[tuple[int, int]]) -> None:
    weights = compute_weights(Aggregator.CLIP_MEAN, given_)
    ordered = sorted(norm for units, norm in given_ for _ in range(units))
    median = ordered[(len(ordered) - 1) // 2]
    for weight, (_, norm) in zip(weights, given_, strict=True):
        assert weight * weight * norm <= max(median, norm * (weight == 256)) << 16
        assert weight == 256 or norm > median


def test_gradient_of_norm_two_moves_clip_mean_no_more_than_honest_one() -> None:
    honest = [(1, gradient(seed, 0.1)) for seed in range(1, 5)]
    attacker = (1, gradient(9, 1.0))
    clipped = aggregate(Aggregator.CLIP_MEAN, SIZE, [*honest, attacker])
    without = aggregate(Aggregator.CLIP_MEAN, SIZE, honest)
    assert np.linalg.norm(clipped * 5 - without * 4) <= 0.11


def test_the_largest_sum_fits() -> None:
    codes = np.zeros((1, 256), np.int8)
    codes[0, 0] = 127
    largest = from_codes(np.array([-6], np.int8), codes)
    total = GradientSum(256)
    total.add(largest, 65_536, 256)
    assert total.mean()[0] == np.float32(127 / 64)
    with pytest.raises(AssertionError):
        total.add(largest, 1, 256)


def test_flush_replaces_small_values_and_minus_zero_by_plus_zero() -> None:
    given_ = np.array([2.0**-100, -(2.0**-100), 2.0**-101, -(2.0**-120), -0.0, 1.0], np.float32)
    assert (
        flush(given_).tobytes()
        == np.array([2.0**-100, -(2.0**-100), 0, 0, 0, 1], np.float32).tobytes()
    )
