"""No honest gradient is a cheat, whatever the order in which a machine sums."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.training.acceptance import Verdict, compute_verdict
from chain.training.architectures import Cnn, Mlp, Model, count_parameters
from chain.training.encoding import from_codes, quantize
from miner.examination import examine_noise_ppb
from miner.gradient import compute_microbatch
from miner.measurement import measure
from miner.noise import CHECK_TRIALS
from miner.trainer import Trainer
from tests.miner.crafted import (
    CraftedTask,
    compute_in_other_order,
    craft,
    craft_absorption,
    craft_edge,
    craft_learned,
    craft_overflow,
)


def judge(
    trainer: Trainer, theta: bytes, samples: Sequence[int], gradient: np.ndarray
) -> tuple[Verdict, Verdict]:
    """The verdicts on a clipped gradient without and with the noise of the trials."""
    measurement = measure(from_codes(*quantize(gradient)), trainer.compute_gradient(theta, samples))
    noise_ppb = max(trainer.measure_noise_ppb(theta, samples, CHECK_TRIALS, b"a seed"))
    tolerance_ppb = trainer.spec.verification.tolerance_ppb
    return (
        compute_verdict(measurement, tolerance_ppb),
        compute_verdict(replace(measurement, noise_ppb=noise_ppb), tolerance_ppb),
    )


@pytest.mark.parametrize("craft_task", [craft_overflow, craft_absorption, craft_edge])
def test_honest_miner_of_another_order_is_never_a_cheat(
    craft_task: Callable[[], CraftedTask],
) -> None:
    task = craft_task()
    trainer, size = task.open(), task.spec.samples_per_unit
    generator = np.random.Generator(np.random.PCG64(1))
    judged = [
        judge(trainer, task.theta, samples, compute_in_other_order(trainer, task.theta, samples, i))
        for i in range(40)
        for samples in [generator.choice(task.spec.sample_count, size, replace=False).tolist()]
    ]
    # Without the noise some are, so the tasks are what they claim to be.
    assert any(before is Verdict.CHEAT for before, _ in judged)
    assert all(after is not Verdict.CHEAT for _, after in judged)


def test_gradient_of_learned_samples_is_noise() -> None:
    """Machines whose exponentials differ in the last bit differ by as much as is left."""
    task = craft_learned()
    assert examine_noise_ppb(task.open(), task.theta, b"seed") > 10**8


@pytest.mark.parametrize(
    ("model", "microbatch"),
    [
        (Mlp(64, (32,), 10), 512),
        (Mlp(2**12, (2**11,), 8), 256),
        (Mlp(2**13, (2**13,), 2**13), 32),
        (Cnn((2**9, 2**6, 2**6), (2**9,), 2), 1),
        # Few operations, but many values: a step of 512 samples took 18 s.
        (Cnn((1, 2**9, 2**9), (1,), 2), 16),
        (Cnn((1, 2**11, 2**11), (1,), 2), 1),
    ],
)
def test_microbatch_follows_from_the_cost_of_a_sample(model: Model, microbatch: int) -> None:
    assert compute_microbatch(model) == microbatch


MAGNITUDES = [0.0, 1.0, 3.0, 2.0**20, 2.0**20 - 1, 2.0**-5, 2.0**-20, 2.0**-60, 2.0**-100, 0.3]
VALUES = st.sampled_from([*MAGNITUDES, *(-each for each in MAGNITUDES if each)]) | st.floats(
    -4, 4, width=32, allow_subnormal=False
).map(lambda value: value if abs(value) > 2**-90 else 0.0)


@st.composite
def tasks(draw: st.DrawFn) -> tuple[CraftedTask, int]:
    inputs, classes = draw(st.integers(1, 4)), draw(st.integers(2, 3))
    model = Mlp(inputs, tuple(draw(st.lists(st.integers(1, 3), max_size=3))), classes)
    size = count_parameters(model)
    theta = draw(st.lists(VALUES, min_size=size, max_size=size))
    rows = draw(st.integers(1, 12))
    features = draw(st.lists(VALUES, min_size=rows * inputs, max_size=rows * inputs))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows))
    task = craft(model, theta, np.reshape(features, (rows, inputs)), labels, samples_per_unit=1)
    return task, rows


@given(tasks(), st.integers(0, 2**32))
def test_no_order_of_an_honest_gradient_is_a_cheat(
    task: tuple[CraftedTask, int], seed: int
) -> None:
    crafted, rows = task
    trainer, samples = crafted.open(), range(rows)
    gradient = compute_in_other_order(trainer, crafted.theta, samples, seed)
    _, verdict = judge(trainer, crafted.theta, samples, gradient)
    assert verdict is not Verdict.CHEAT
