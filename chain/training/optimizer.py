"""The optimizer: it applies a round's mean gradient to theta (docs/spec/training.md, section 7).

Every operation is one correctly rounded float32 operation of numpy (+ - * / sqrt), in the order
written, so all machines agree on every bit. Nothing here goes through torch, whose square root is
not IEEE 754's, or through BLAS, exp, log or pow, whose bits depend on the processor.
"""

from typing import Final, assert_never

import numpy as np

from chain.errors import RejectedInputError, RejectionReason
from chain.training.aggregation import FLUSH_BELOW, flush
from chain.training.encoding import Float32Array
from chain.training.state import TrainingState
from chain.training.task_spec import (
    PPB,
    AdamW,
    Optimizer,
    Sgd,
)

LITTLE_FLOAT32: Final = np.dtype("<f4")
"""The byte order of everything that is hashed."""

GRADIENT_FLOOR: Final = np.float32(2.0**-50)
"""Smaller gradients count as 0 in AdamW, because their squares would be subnormal."""

MAX_INITIAL_MAGNITUDE: Final = np.float32(2.0**20)
"""The largest initial parameter. No real network starts beyond it, and updates cannot overflow."""

ONE: Final = np.float32(1)
"""1.0 as float32, the type of all values here."""


def float32_from_bits(bits: int) -> np.float32:
    """The float32 with the bit pattern `bits`."""
    return np.uint32(bits).view(np.float32)


def float32_from_ppb(parts: int) -> np.float32:
    """The float32 nearest to the float64 nearest to `parts` / 10**9."""
    return np.float32(np.float64(parts) / np.float64(PPB))


def initial_state(optimizer: Optimizer, theta: bytes) -> TrainingState:
    """The state at round 0: the given parameters and an optimizer without history.

    Raises:
        RejectedInputError: A parameter is not finite, larger than 2**20, -0, or so small that an
            update would flush it.
    """
    values = _load(theta)
    magnitudes = np.abs(values)
    # The comparison is written so that NaN fails it.
    if not np.all(magnitudes <= MAX_INITIAL_MAGNITUDE):
        raise RejectedInputError(
            RejectionReason.BAD_SPEC, "an initial weight is not finite or exceeds 2**20"
        )
    if flush(values).tobytes() != values.tobytes():
        raise RejectedInputError(
            RejectionReason.BAD_SPEC, f"an initial weight is -0 or below {FLUSH_BELOW} in magnitude"
        )
    zeros = bytes(len(theta))
    match optimizer:
        case Sgd(momentum_bits):
            return TrainingState(theta, (zeros,) if momentum_bits else ())
        case AdamW():
            return TrainingState(theta, (zeros, zeros, _save(np.ones(2, np.float32))))
        case _:
            assert_never(optimizer)


def apply_update(
    optimizer: Optimizer, learning_rate_ppb: int, state: TrainingState, mean: Float32Array
) -> TrainingState:
    """The state after a round with the aggregated gradient `mean`, float32[parameters]."""
    rate = float32_from_ppb(learning_rate_ppb)
    match optimizer:
        case Sgd():
            return _apply_sgd(optimizer, rate, state, mean)
        case AdamW():
            return _apply_adamw(optimizer, rate, state, mean)
        case _:
            assert_never(optimizer)


def _apply_sgd(
    optimizer: Sgd, rate: np.float32, state: TrainingState, mean: Float32Array
) -> TrainingState:
    theta = _load(state.theta)
    if not optimizer.momentum_bits:
        return TrainingState(_save(flush(theta - mean * rate)), ())
    momentum = float32_from_bits(optimizer.momentum_bits)
    velocity = flush(_load(state.tensors[0]) * momentum + mean)
    theta = flush(theta - (mean + velocity * momentum) * rate)
    return TrainingState(_save(theta), (_save(velocity),))


def _apply_adamw(
    optimizer: AdamW, rate: np.float32, state: TrainingState, mean: Float32Array
) -> TrainingState:
    beta1 = float32_from_bits(optimizer.beta1_bits)
    beta2 = float32_from_bits(optimizer.beta2_bits)
    epsilon = float32_from_bits(optimizer.epsilon_bits)
    decay = float32_from_bits(optimizer.weight_decay_bits)
    theta, first, second, powers = (_load(part) for part in state.parts)
    gradient = np.where(np.abs(mean) < GRADIENT_FLOOR, np.float32(0), mean)
    powers = flush(powers * np.array([beta1, beta2], np.float32))
    first = flush(first * beta1 + gradient * (ONE - beta1))
    second = flush(second * beta2 + (gradient * gradient) * (ONE - beta2))
    direction = (first / (ONE - powers[0])) / (np.sqrt(second / (ONE - powers[1])) + epsilon)
    theta = flush(theta - (direction + theta * decay) * rate)
    return TrainingState(_save(theta), (_save(first), _save(second), _save(powers)))


def _load(data: bytes) -> Float32Array:
    return np.frombuffer(data, LITTLE_FLOAT32).astype(np.float32)


def _save(values: Float32Array) -> bytes:
    return values.astype(LITTLE_FLOAT32).tobytes()
