"""The gradient of a mean loss, for miner and verifier alike (docs/spec/training.md, section 5)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from chain.training.architectures import Model, count_activations, count_forward_flops
from chain.training.encoding import Float32Array, Float64Array
from chain.training.task_spec import Loss
from miner.loss import compute_loss_sum
from miner.model import ordered_parameters

MAX_MICROBATCH: Final = 512
"""More samples in one step would be no faster, and their activations need memory."""

VALUES_AT_ONCE: Final = 2**20
"""The values that are computed with in float64 at a time, 8 MiB."""

STEP_FORWARD_FLOPS: Final = 2**33
"""The most operations of a step's forward pass, if it has more than one sample. With the backward
pass this takes about a second on a core of 30 GFLOP/s, and so does a piece of a check."""

STEP_ACTIVATIONS: Final = 2**24
"""The most values of a step, if it has more than one sample. Layers with few channels are bound by
memory: these took 0.3 to 1.1 s, in steps of far fewer operations."""


def compute_microbatch(model: Model) -> int:
    """The samples whose gradient is computed in one step, a power of two.

    Steps are summed in the order of the samples. The sum depends on the split, so miners and
    validators take the same, and it follows from nothing but the model.
    """
    fitting = min(
        STEP_FORWARD_FLOPS // count_forward_flops(model),
        STEP_ACTIVATIONS // count_activations(model),
    )
    fitting = max(1, fitting)
    return int(min(MAX_MICROBATCH, 1 << (fitting.bit_length() - 1)))


@dataclass(frozen=True, slots=True)
class PartialGradient:
    """What the first `done` of the samples contribute to a gradient.

    The next step adds to `total` in place: a second sum of a large model would need much memory.
    """

    done: int
    total: tuple[Tensor, ...]

    def add(self, gradients: Iterable[Tensor], count: int) -> "PartialGradient":
        """The sum with the gradients of `count` more samples; it takes the place of this one."""
        for sum_, gradient in zip(self.total, gradients, strict=True):
            sum_.add_(gradient)
        return PartialGradient(self.done + count, self.total)


def begin_gradient(module: nn.Module) -> PartialGradient:
    """The partial gradient before the first sample."""
    parameters = ordered_parameters(module)
    return PartialGradient(0, tuple(torch.zeros_like(parameter) for parameter in parameters))


def continue_gradient(
    module: nn.Module,
    loss: Loss,
    features: Tensor,
    labels: Tensor,
    partial: PartialGradient,
    count: int,
) -> PartialGradient:
    """The partial gradient after one more step, whose samples are given, of `count` in all.

    It has the sums of `partial`, which is of no use any more.
    """
    parameters = ordered_parameters(module)
    mean = compute_loss_sum(loss, module(features), labels) / count
    gradients = torch.autograd.grad(mean, parameters)
    return partial.add(gradients, len(labels))


def clip(gradient: Float32Array | Float64Array) -> Float32Array:
    """`gradient` in float32, scaled to L2 norm 1 if it is longer; zeros if a value is not finite.

    A diverged model then gives a gradient that changes nothing, instead of an error. A verifier
    treats such a gradient of its own as one that it cannot know (docs/spec/training.md, section 5).
    """
    if not np.all(np.isfinite(gradient)):
        return np.zeros(len(gradient), np.float32)
    parts = [
        slice(start, start + VALUES_AT_ONCE) for start in range(0, len(gradient), VALUES_AT_ONCE)
    ]
    norm = math.sqrt(sum(float(np.square(gradient[p], dtype=np.float64).sum()) for p in parts))
    if norm <= 1:
        return gradient.astype(np.float32, copy=False)
    clipped = np.empty(len(gradient), np.float32)
    for part in parts:
        clipped[part] = gradient[part].astype(np.float64) / norm
    return clipped
