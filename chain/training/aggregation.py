"""The exact mean of a round's accepted gradients (docs/spec/training.md, section 6).

Everything is summed in int64, so the order of arrival does not matter and nothing is rounded before
the last two operations. `clip_mean` weighs down gradients above the median norm, the median counted
by units, so that splitting one miner into many changes nothing.
"""

import math
from collections.abc import Sequence
from typing import Final, assert_never

import numpy as np

from chain.training.encoding import (
    BLOCK_VALUES,
    EXPONENT_MIN,
    Float32Array,
    Float64Array,
    Gradient,
    count_blocks,
)
from chain.training.task_spec import (
    MAX_UNITS,
    Aggregator,
)

WEIGHT_ONE: Final = 256
"""A weight of 1: weights are integers with 8 fractional bits."""

FLUSH_BELOW: Final = np.float32(2.0**-100)
"""Smaller magnitudes become +0, so that processes that flush subnormals compute equal bits."""

SLICE_BLOCKS: Final = 4_096
"""How many blocks are scaled at a time: bounds the temporary int64 copies to 24 MB."""


def flush(values: Float32Array | Float64Array) -> Float32Array:
    """`values` with everything below 2**-100 in magnitude, and -0, replaced by +0."""
    # numpy's stubs give float32 arithmetic the type float64; the assertion corrects it.
    assert values.dtype == np.float32
    return np.where(np.abs(values) < FLUSH_BELOW, np.float32(0), values)


def compute_weights(
    aggregator: Aggregator, contributions: Sequence[tuple[int, int]]
) -> tuple[int, ...]:
    """The weight of every gradient, in 1/256, in the order of `contributions`.

    Args:
        aggregator: The aggregator that the task names.
        contributions: The units and the squared norm of every accepted gradient.
    """
    match aggregator:
        case Aggregator.MEAN:
            return (WEIGHT_ONE,) * len(contributions)
        case Aggregator.CLIP_MEAN:
            median = _lower_median(contributions)
            return tuple(
                # The floor of 256 times the square root of median / norm.
                WEIGHT_ONE if norm <= median else math.isqrt((median << 16) // norm)
                for _, norm in contributions
            )
        case _:
            assert_never(aggregator)


def _lower_median(contributions: Sequence[tuple[int, int]]) -> int:
    """The least squared norm such that gradients up to it hold at least half of the units."""
    total = sum(units for units, _ in contributions)
    reached = 0
    for norm, units in sorted((norm, units) for units, norm in contributions):
        reached += units
        if 2 * reached >= total:
            return norm
    raise AssertionError("a round without accepted gradients is not aggregated")


class GradientSum:
    """The sum of a round's accepted gradients so far, which may be added in any order.

    It takes 8 bytes of memory a parameter.
    """

    def __init__(self, parameter_count: int) -> None:
        self._parameter_count = parameter_count
        self._sum = np.zeros((count_blocks(parameter_count), BLOCK_VALUES), np.int64)
        self._units = 0

    def add(self, gradient: Gradient, units: int, weight: int) -> None:
        """Add one gradient with its accepted units and its weight in 1/256."""
        assert units > 0
        assert 0 <= weight <= WEIGHT_ONE
        self._units += units
        assert self._units <= MAX_UNITS  # |sum| <= 127 * 256 * 2**30 * 2**16 < 2**61
        shifts = gradient.exponents.astype(np.int64) - EXPONENT_MIN
        factors = (np.int64(weight * units) << shifts)[:, np.newaxis]
        for start in range(0, len(factors), SLICE_BLOCKS):
            part = slice(start, start + SLICE_BLOCKS)
            self._sum[part] += gradient.codes[part].astype(np.int64) * factors[part]

    def mean(self) -> Float32Array:
        """The weighted mean per unit, float32[parameters], flushed."""
        assert self._units > 0
        scale = np.float32(math.ldexp(1.0, EXPONENT_MIN) / (WEIGHT_ONE * self._units))
        values = self._sum.reshape(-1)[: self._parameter_count].astype(np.float32)
        return flush(values * scale)


def aggregate(
    aggregator: Aggregator, parameter_count: int, gradients: Sequence[tuple[int, Gradient]]
) -> Float32Array:
    """The mean, float32[parameter_count], of gradients held in memory, each with its units."""
    weights = compute_weights(
        aggregator, [(units, gradient.squared_norm) for units, gradient in gradients]
    )
    total = GradientSum(parameter_count)
    for (units, gradient), weight in zip(gradients, weights, strict=True):
        total.add(gradient, units, weight)
    return total.mean()
