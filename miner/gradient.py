"""The gradient of a mean loss, for miner and verifier alike (docs/spec/training.md, section 5)."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from chain.training.architectures import Model, count_forward_flops
from chain.training.encoding import Float32Array, Float64Array
from chain.training.task_spec import Loss
from miner.loss import compute_loss_sum
from miner.model import ordered_parameters

MAX_MICROBATCH: Final = 512
"""More samples in one step would be no faster, and their activations need memory."""

STEP_FORWARD_FLOPS: Final = 2**33
"""The most operations of a step's forward pass, if it has more than one sample. With the backward
pass this takes about a second on a core of 30 GFLOP/s, and so does a piece of a check."""


def compute_microbatch(model: Model) -> int:
    """The samples whose gradient is computed in one step, a power of two.

    Steps are summed in the order of the samples. The sum depends on the split, so miners and
    validators take the same, and it follows from nothing but the model.
    """
    fitting = max(1, STEP_FORWARD_FLOPS // count_forward_flops(model))
    return int(min(MAX_MICROBATCH, 1 << (fitting.bit_length() - 1)))


@dataclass(frozen=True, slots=True)
class PartialGradient:
    """What the first `done` of the samples contribute to a gradient."""

    done: int
    total: tuple[Tensor, ...]


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
    """The partial gradient after one more step, whose samples are given, of `count` in all."""
    parameters = ordered_parameters(module)
    mean = compute_loss_sum(loss, module(features), labels) / count
    gradients = torch.autograd.grad(mean, parameters)
    total = tuple(sum_ + gradient for sum_, gradient in zip(partial.total, gradients, strict=True))
    return PartialGradient(partial.done + len(labels), total)


def clip(gradient: Float32Array | Float64Array) -> Float32Array:
    """`gradient` in float32, scaled to L2 norm 1 if it is longer; zeros if a value is not finite.

    A diverged model then gives a gradient that changes nothing, instead of an error. A verifier
    treats such a gradient of its own as one that it cannot know (docs/spec/training.md, section 5).
    """
    if not np.all(np.isfinite(gradient)):
        return np.zeros(len(gradient), np.float32)
    wide = gradient.astype(np.float64)
    norm = float(np.sqrt(np.sum(wide * wide)))
    return (wide / norm).astype(np.float32) if norm > 1 else gradient.astype(np.float32, copy=False)
