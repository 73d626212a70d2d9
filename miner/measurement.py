"""How far a payload is from the re-executed gradient (docs/spec/training.md, section 5).

Each code stands for a cell of values. The cell distance E is how far the re-executed gradient lies
outside the cells, relative to its own norm, so rounding to codes costs an honest miner nothing. A
coarser exponent would widen the cells; so exponents must be the encoder's, up to a slack.
The floats here only accept or reject a gradient; none is hashed.
"""

import math
from typing import Final

import numpy as np

from chain.training.acceptance import CHEAT_FACTOR, ExponentRule, Measurement
from chain.training.encoding import (
    BLOCK_VALUES,
    BLOCKS_AT_ONCE,
    Float32Array,
    Float64Array,
    Gradient,
    Int8Array,
    compute_exponents,
    pad_blocks,
)
from chain.training.task_spec import PPB

MAX_DISTANCE_PPB: Final = 2**53 - 1
"""The result for every larger distance, infinity included: JSON's largest exact integer."""

BLOCK_SLACK: Final = 1e-3
"""The allowed error of a block's maximum, relative to it. Honest machines differ by up to 2e-5."""

NORM_SLACK: Final = 1e-5
"""The allowed error of a block's maximum, relative to the gradient's norm: for tiny blocks."""


def measure(gradient: Gradient, reference: Float32Array) -> Measurement:
    """The measurement of a decoded payload against the clipped `reference`, float32[parameters].

    Some blocks are compared at a time: in float64, all of a large model would need gigabytes.
    """
    block_count = len(gradient.exponents)
    maxima = np.empty(block_count)
    squared_norm = squared_distance = 0.0
    for first in range(0, block_count, BLOCKS_AT_ONCE):
        some = slice(first, first + BLOCKS_AT_ONCE)
        values = reference[first * BLOCK_VALUES : (first + BLOCKS_AT_ONCE) * BLOCK_VALUES]
        blocks = pad_blocks(values).astype(np.float64)
        maxima[some] = np.abs(blocks).max(axis=1)
        squared_norm += float(np.sum(blocks * blocks))
        squared_distance += _compute_squared_distance(
            gradient.exponents[some], gradient.codes[some], blocks
        )
    norm, distance = math.sqrt(squared_norm), math.sqrt(squared_distance)
    return Measurement(
        distance_ppb=_compute_ratio_ppb(distance, norm),
        exponents=_judge_exponents(gradient, maxima, norm),
    )


def _compute_squared_distance(
    exponents: Int8Array, codes: Int8Array, blocks: Float64Array
) -> float:
    """The square of the distance of some blocks from the cells of their codes."""
    steps = np.ldexp(1.0, exponents.astype(np.int32))[:, np.newaxis]
    outside = np.maximum(np.abs(blocks - codes.astype(np.float64) * steps) - steps / 2, 0.0)
    return float(np.sum(outside * outside))


def _compute_ratio_ppb(distance: float, norm: float) -> int:
    if distance == 0:
        return 0
    if norm == 0:
        return MAX_DISTANCE_PPB
    return min(math.ceil(distance / norm * PPB), MAX_DISTANCE_PPB)


def _judge_exponents(gradient: Gradient, maxima: Float64Array, norm: float) -> ExponentRule:
    for factor, broken in ((CHEAT_FACTOR, ExponentRule.BROKEN_TENFOLD), (1, ExponentRule.BROKEN)):
        slack = factor * (BLOCK_SLACK * maxima + NORM_SLACK * norm)
        lowest = compute_exponents(np.maximum(maxima - slack, 0.0))
        highest = compute_exponents(maxima + slack)
        if np.any((gradient.exponents < lowest) | (gradient.exponents > highest)):
            return broken
    return ExponentRule.KEPT
