"""What a dry run finds out about the noise of a task (docs/spec/training.md, section 10.1).

The task's author knows the samples and may make the first ones harmless. So a dry run makes trials
of units that the author cannot foresee, and of one with the largest features.
"""

import time
from math import prod
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from miner.measurement import MAX_DISTANCE_PPB
from miner.noise import EXAMINATION_TRIALS, SEED_BYTES
from miner.trainer import Trainer

MEASURED_SAMPLES: Final = 1_024
"""The most samples on which a dry run measures times; they grow in proportion beyond that."""

TRIAL_SAMPLES: Final = 256
"""The most samples of a trial: all trials of a unit take several times as long as a check."""

TRIED_UNITS: Final = 5
"""One unit with the rows of the largest features, and random ones."""

TRIAL_SECONDS: Final = 10.0
"""After so long no further unit is tried. The first one is always tried."""

SCANNED_FEATURES: Final = 2**22
"""The features among which the largest are looked for at once: 16 MiB, so that a dry run needs no
more memory for wide rows than a check does."""


def examine_noise_ppb(trainer: Trainer, theta: bytes, seed: bytes) -> int:
    """The noise of a task at `theta`, in parts per billion.

    It is the distance that a quarter of the trials exceed: in a small model a single ReLU at its
    edge moves a gradient by more than the tolerance, and this happens in healthy tasks, too. It is
    `MAX_DISTANCE_PPB` if one of the trials is not finite.

    Args:
        trainer: The task.
        theta: The parameters.
        seed: Random bytes.
    """
    start = time.monotonic()
    generator = np.random.Generator(np.random.PCG64([*seed]))
    size = min(trainer.spec.samples_per_unit, TRIAL_SAMPLES)
    distances: list[int] = []
    for number in range(TRIED_UNITS):
        if number and time.monotonic() - start > TRIAL_SECONDS:
            break
        samples = generator.choice(trainer.spec.sample_count, size, replace=False)
        if number == 0:
            extreme = _find_extreme_samples(trainer, (size + 1) // 2)
            samples[: len(extreme)] = extreme
        distances += trainer.measure_noise_ppb(
            theta, samples.astype(np.uint64), EXAMINATION_TRIALS, generator.bytes(SEED_BYTES)
        )
    distances.sort()
    return MAX_DISTANCE_PPB if MAX_DISTANCE_PPB in distances else distances[3 * len(distances) // 4]


def _find_extreme_samples(trainer: Trainer, count: int) -> NDArray[np.uint64]:
    """The samples with the largest features, in magnitude."""
    held_out, row_count = trainer.spec.held_out, trainer.spec.data.row_count
    size = max(1, SCANNED_FEATURES // prod(trainer.spec.data.sample_shape))
    largest = torch.cat(
        [
            _find_largest(trainer, start, min(start + size, row_count))
            for start in range(0, row_count, size)
        ]
    )
    end = held_out.first_row + held_out.row_count
    samples = torch.cat([largest[: held_out.first_row], largest[end:]]).topk(count).indices
    return samples.cpu().numpy().astype(np.uint64)


def _find_largest(trainer: Trainer, start: int, stop: int) -> torch.Tensor:
    """The largest feature, in magnitude, of each row from `start` to before `stop`."""
    features, _ = trainer.dataset.take(np.arange(start, stop))
    return features.flatten(1).abs().amax(1)
