"""How far rounding can move a gradient (docs/spec/training.md, section 5).

A *trial* computes a gradient again, in another order, after each value that enters a sum was moved
by a random amount, larger than its rounding error. The values of a trial are scaled up by powers
of two, which changes no digit; so a trial overflows if another order of the same sums might.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chain.training.acceptance import ExponentRule
from chain.training.encoding import Float32Array, Gradient, from_codes, quantize
from chain.training.task_spec import PPB, Loss
from miner.gradient import PartialGradient, clip
from miner.loss import compute_logit_gradient
from miner.measurement import MAX_DISTANCE_PPB, measure
from miner.model import ordered_parameters, set_parameters
from pot_common.samples import Places

SEED_BYTES: Final = 16
"""The length of the seed of a check's draws: the author of a task must not guess it."""

CHECK_MOVE: Final = 2.0**-18
"""The largest relative move in a check: 64 rounding errors of float32, because those of long sums
add up. With 256, every tenth gradient of a healthy model has a ReLU that turns on or off."""

EXAMINATION_MOVE: Final = 2.0**-22
"""The largest relative move in a dry run, about what rounding moves: it must not refuse a wide
model because one ReLU of many turns on or off."""

PROBABILITY_MOVE: Final = 2.0**-21
"""The largest relative move of a class's probability: exponentials differ by few rounding errors,
which is all that is left of the loss of a sample that the model has learned."""

HEADROOM_BITS: Final = 32
"""Activations and their gradients are scaled by this power of two. If no partial sum in one order
overflows with it, none does in any order of up to 2**31 terms without it, because each term is at
most twice the largest partial sum."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A way to compute a gradient again.

    Attributes:
        move: The largest relative move of a parameter, a feature and a sample's share of the loss.
        pair: Selects the order and the draws, which both trials of a pair share.
        sign: 1 or -1. The trials of a pair move each value in opposite directions, so a ReLU that
            is at its edge is on in one of them and off in the other.
    """

    move: float
    pair: int
    sign: int

    def find_places(self, start: int, stop: int, count: int) -> Places:
        """The places of the samples that the trial sums as the ones from `start` to `stop` - 1.

        They are those of all `count` samples in reverse, or from the middle on.
        """
        turns = np.arange(start, stop)
        return count - 1 - turns if self.pair == 0 else (turns - count // 2) % count

    def compute_step(self, microbatch: int) -> int:
        """The samples of one step: half or a quarter of the microbatch."""
        return max(1, microbatch >> (self.pair + 1))


CHECK_TRIALS: Final = tuple(Trial(CHECK_MOVE, pair, sign) for pair in (0, 1) for sign in (1, -1))
"""The trials of a gradient that would be a cheat, in the order in which they are made."""

EXAMINATION_TRIALS: Final = tuple(replace(trial, move=EXAMINATION_MOVE) for trial in CHECK_TRIALS)
"""The trials of a unit in a dry run."""


def load_moved_parameters(module: nn.Module, theta: bytes, trial: Trial, seed: bytes) -> None:
    """Set the parameters of `module` to those of `theta`, moved and scaled for a trial."""
    values = np.frombuffer(theta, "<f4")
    moved = _draw_factors(trial, [*seed, 0], values.shape, trial.move).numpy()
    moved[_find_biases(module)] *= np.float32(2.0**HEADROOM_BITS)
    # A parameter that overflows here makes the trial say so.
    with np.errstate(over="ignore", invalid="ignore"):
        moved *= values
    set_parameters(module, moved)


def continue_trial(
    module: nn.Module,
    loss: Loss,
    features: Tensor,
    labels: Tensor,
    partial: PartialGradient,
    count: int,
    trial: Trial,
    seed: bytes,
) -> PartialGradient:
    """The partial gradient of a trial, scaled, after one more step.

    Args:
        module: The model, with moved parameters.
        loss: The loss of one sample.
        features: (B, ...), of the samples of the step, in the order of the trial.
        labels: (B,).
        partial: The sum so far.
        count: The number of all samples.
        trial: The trial.
        seed: The seed of the draws of this check.
    """
    parameters = ordered_parameters(module)

    def draw(kind: int, shape: tuple[int, ...], move: float) -> Tensor:
        return _draw_factors(trial, [*seed, kind, partial.done], shape, move).to(features.device)

    moved = features * draw(1, tuple(features.shape), trial.move) * 2.0**HEADROOM_BITS
    logits = module(moved) * 2.0**-HEADROOM_BITS
    by_logit = compute_logit_gradient(
        loss, logits.detach(), labels, draw(2, tuple(logits.shape), PROBABILITY_MOVE)
    )
    shares = draw(3, (len(labels),), trial.move) * (2.0 ** (2 * HEADROOM_BITS) / count)
    gradients = torch.autograd.grad(logits, parameters, by_logit * shares.unsqueeze(1))
    return partial.add(gradients, len(labels))


def compute_noise_ppb(module: nn.Module, encoded: Gradient | None, moved: Float32Array) -> int:
    """The cell distance of a gradient from that of a trial, in parts per billion.

    It is at least 1 (a billion parts) if their exponents differ by more than the rule allows, and
    `MAX_DISTANCE_PPB` if one of the two is not finite.

    Args:
        module: The model.
        encoded: The gradient in the order of the specification; None if it is not finite.
        moved: The scaled gradient of the trial.
    """
    if encoded is None or not np.all(np.isfinite(moved)):
        return MAX_DISTANCE_PPB
    scaled = moved * np.float32(4.0**-HEADROOM_BITS)
    biases = _find_biases(module)
    scaled[biases] = moved[biases] * np.float32(2.0**-HEADROOM_BITS)
    measurement = measure(encoded, clip(scaled))
    least = 0 if measurement.exponents is ExponentRule.KEPT else PPB
    return max(least, measurement.distance_ppb)


def build_reference(gradient: Float32Array) -> Gradient | None:
    """The unclipped gradient as a payload would hold it; None if a value is not finite."""
    return from_codes(*quantize(clip(gradient))) if np.all(np.isfinite(gradient)) else None


def _draw_factors(trial: Trial, words: list[int], shape: tuple[int, ...], move: float) -> Tensor:
    """Random factors from 1 - move to 1 + move, none of them 1.

    The other trial of the pair draws the same distances from 1, in the opposite direction.
    """
    generator = np.random.Generator(np.random.PCG64([trial.pair, *words]))
    drawn = np.frombuffer(bytearray(generator.bytes(math.prod(shape))), np.int8)
    odd = torch.from_numpy(drawn).to(torch.float32).mul_(2).add_(1)
    return odd.mul_(trial.sign * move / 256).add_(1).view(shape)


def _find_biases(module: nn.Module) -> NDArray[np.bool_]:
    """Whether each parameter, in manifest order, belongs to a bias."""
    return np.concatenate(
        [
            np.full(parameter.numel(), name.endswith("bias"))
            for name, parameter in sorted(module.named_parameters())
        ]
    )
