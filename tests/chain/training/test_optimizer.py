import struct

import numpy as np
import pytest

from chain.errors import RejectedInputError
from chain.training.optimizer import (
    apply_update,
    float32_from_bits,
    float32_from_ppb,
    initial_state,
)
from chain.training.state import TrainingState, compute_layout
from chain.training.task_spec import (
    Optimizer,
    Sgd,
)
from tests.worlds.training import ADAMW, random_gradient

THETA = random_gradient(5, 1_000, 3.0) + np.float32(0.25)
ALL: tuple[Optimizer, ...] = (Sgd(0), Sgd(0x3F666666), ADAMW)
RATE_PPB = 20_000_000


def floats(data: bytes) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.frombuffer(data, "<f4").astype(np.float64)


def run(optimizer: Optimizer, rounds: int) -> TrainingState:
    state = initial_state(optimizer, THETA.tobytes())
    for i in range(rounds):
        state = apply_update(optimizer, RATE_PPB, state, random_gradient(i, 1_000))
    return state


def test_constants_come_from_bits_and_parts_per_billion() -> None:
    assert float32_from_bits(0x3F666666) == np.float32(0.9)
    assert float32_from_ppb(20_000_000) == np.float32(0.02)


@pytest.mark.parametrize("optimizer", ALL)
def test_every_part_has_the_length_of_the_layout(optimizer: Optimizer) -> None:
    layout = compute_layout(optimizer, 1_000)
    for rounds in (0, 2):
        assert tuple(len(part) for part in run(optimizer, rounds).parts) == layout


def test_sgd_is_theta_minus_rate_times_mean() -> None:
    then = floats(run(Sgd(0), 1).theta)
    expected = THETA.astype(np.float64) - 0.02 * random_gradient(0, 1_000).astype(np.float64)
    np.testing.assert_allclose(then, expected, rtol=1e-6)


def test_momentum_is_nesterovs() -> None:
    theta, velocity = THETA.astype(np.float64), np.zeros(1_000)
    for i in range(5):
        mean = random_gradient(i, 1_000).astype(np.float64)
        velocity = 0.9 * velocity + mean
        theta = theta - 0.02 * (mean + 0.9 * velocity)
    np.testing.assert_allclose(floats(run(Sgd(0x3F666666), 5).theta), theta, rtol=2e-6)


def test_adamw_follows_its_paper() -> None:
    theta = THETA.astype(np.float64)
    first = second = np.zeros(1_000)
    for i in range(5):
        mean = random_gradient(i, 1_000).astype(np.float64)
        first = 0.9 * first + 0.1 * mean
        second = 0.999 * second + 0.001 * mean * mean
        unbiased = (first / (1 - 0.9 ** (i + 1)), second / (1 - 0.999 ** (i + 1)))
        theta = theta - 0.02 * (unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8) + 0.01 * theta)
    np.testing.assert_allclose(floats(run(ADAMW, 5).theta), theta, rtol=2e-4, atol=2e-5)


def test_adamw_rounds_each_operation_in_the_specified_order() -> None:
    def f(value: float) -> float:
        """Round to float32: double arithmetic then one rounding is exact for + - * / sqrt."""
        return float(struct.unpack("<f", struct.pack("<f", value))[0])

    theta, mean, rate = 0.75, f(0.3), f(0.02)
    beta1, beta2, epsilon, decay = f(0.9), f(0.999), f(1e-8), f(0.01)
    first, second = f(mean * f(1 - beta1)), f(f(mean * mean) * f(1 - beta2))
    direction = f(f(first / f(1 - beta1)) / f(f(f(second / f(1 - beta2)) ** 0.5) + epsilon))
    expected = f(theta - f(f(direction + f(theta * decay)) * rate))
    state = initial_state(ADAMW, np.array([theta], np.float32).tobytes())
    then = apply_update(ADAMW, RATE_PPB, state, np.array([mean], np.float32))
    assert struct.unpack("<f", then.theta)[0] == expected
    assert struct.unpack("<2f", then.tensors[2]) == (beta1, beta2)


@pytest.mark.parametrize("optimizer", ALL)
def test_no_gradient_leaves_theta_but_for_weight_decay(optimizer: Optimizer) -> None:
    state = initial_state(optimizer, THETA.tobytes())
    then = apply_update(optimizer, RATE_PPB, state, np.zeros(1_000, np.float32))
    decay = 1 - 0.02 * 0.01 if optimizer == ADAMW else 1
    np.testing.assert_allclose(floats(then.theta), THETA * decay, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**21, -0.0, 2.0**-101, -(2.0**-149)])
def test_initial_weights_that_an_update_would_flush_are_refused(value: float) -> None:
    theta = np.array([0.5, value], np.float32).tobytes()
    with pytest.raises(RejectedInputError, match="an initial weight"):
        initial_state(Sgd(0), theta)
