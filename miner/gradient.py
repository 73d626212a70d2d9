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
from miner.model import flatten, ordered_parameters

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


def compute_gradient(
    module: nn.Module, loss: Loss, features: Tensor, labels: Tensor, microbatch: int
) -> Float32Array:
    """The gradient, float32[parameters] in manifest order, of the mean loss over the samples.

    Args:
        module: The model, with the parameters at which the gradient is taken.
        loss: The loss of one sample.
        features: (B, ...), on the module's device.
        labels: (B,).
        microbatch: The samples of a step.
    """
    partial = begin_gradient(module)
    while partial.done < len(labels):
        partial = continue_gradient(module, loss, features, labels, partial, microbatch)
    return flatten(partial.total)


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
    microbatch: int,
) -> PartialGradient:
    """The partial gradient after one more step."""
    parameters = ordered_parameters(module)
    part = slice(partial.done, partial.done + microbatch)
    mean = compute_loss_sum(loss, module(features[part]), labels[part]) / len(labels)
    gradients = torch.autograd.grad(mean, parameters)
    total = tuple(sum_ + gradient for sum_, gradient in zip(partial.total, gradients, strict=True))
    return PartialGradient(min(part.stop, len(labels)), total)


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
