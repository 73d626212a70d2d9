"""The gradient of a mean loss, for miner and verifier alike (docs/spec/training.md, section 5)."""

from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from chain.training.encoding import Float32Array
from chain.training.task_spec import Loss
from miner.loss import compute_loss_sum
from miner.model import flatten, ordered_parameters

MICROBATCH: Final = 512
"""How many samples' activations are in memory at once; the split moves a gradient by about 1e-6."""


def compute_gradient(
    module: nn.Module, loss: Loss, features: Tensor, labels: Tensor
) -> Float32Array:
    """The gradient, float32[parameters] in manifest order, of the mean loss over the samples.

    Args:
        module: The model, with the parameters at which the gradient is taken.
        loss: The loss of one sample.
        features: (B, ...), on the module's device.
        labels: (B,).
    """
    parameters = ordered_parameters(module)
    total = tuple(torch.zeros_like(parameter) for parameter in parameters)
    for start in range(0, len(labels), MICROBATCH):
        part = slice(start, start + MICROBATCH)
        mean = compute_loss_sum(loss, module(features[part]), labels[part]) / len(labels)
        gradients = torch.autograd.grad(mean, parameters)
        total = tuple(sum_ + gradient for sum_, gradient in zip(total, gradients, strict=True))
    return flatten(total)


def clip(gradient: Float32Array) -> Float32Array:
    """`gradient`, scaled to L2 norm 1 if it is longer; all zeros if any value is not finite.

    A diverged model then gives a gradient that changes nothing, instead of an error.
    """
    if not np.all(np.isfinite(gradient)):
        return np.zeros_like(gradient)
    wide = gradient.astype(np.float64)
    norm = float(np.sqrt(np.sum(wide * wide)))
    return (wide / norm).astype(np.float32) if norm > 1 else gradient
