"""Tasks whose gradients depend on the order of float32 sums, and honest miners of other orders."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from chain.crypto import content_id
from chain.training.architectures import Mlp, count_parameters
from chain.training.encoding import Float32Array
from chain.training.task_spec import FeatureType, Loss, Shard, TaskSpec
from miner.devices import open_device
from miner.gradient import begin_gradient, clip, continue_gradient
from miner.model import flatten, load_parameters, ordered_parameters
from miner.trainer import Trainer, open_task
from node.client.task_file import encode_npz
from tests.worlds.training import SPEC

HELD_OUT = 8


def compute_gradient(
    module: nn.Module,
    loss: Loss,
    features: torch.Tensor,
    labels: torch.Tensor,
    microbatch: int,
) -> Float32Array:
    """The gradient of the mean loss over all samples, a microbatch at a time."""
    partial = begin_gradient(module)
    for start in range(0, len(labels), microbatch):
        part = slice(start, start + microbatch)
        partial = continue_gradient(
            module, loss, features[part], labels[part], partial, len(labels)
        )
    return flatten(partial.total)


@dataclass(frozen=True)
class CraftedTask:
    """A task of an attacker, with its content."""

    spec: TaskSpec
    theta: bytes
    shard: bytes

    def open(self) -> Trainer:
        return open_task(self.spec, [self.shard], open_device("cpu"))


def craft(
    model: Mlp,
    theta: Sequence[float],
    features: np.ndarray,
    labels: Sequence[int],
    samples_per_unit: int = 4,
    unit_milliseconds: int = 2_000,
) -> CraftedTask:
    """A task of these samples, and of held-out rows that do no harm."""
    x = np.concatenate([features, np.ones((HELD_OUT, model.inputs))]).astype(np.float32)
    y = np.concatenate([labels, np.zeros(HELD_OUT)]).astype(np.uint8)
    shard = encode_npz({"x": x, "y": y})
    weights = np.asarray(theta, "<f4").tobytes()
    spec = replace(
        SPEC,
        model=model,
        initial_weights=content_id(weights),
        data=replace(
            SPEC.data,
            feature_type=FeatureType.FLOAT32,
            sample_shape=(model.inputs,),
            shards=(Shard(content_id(shard), len(shard), len(x)),),
        ),
        held_out=replace(SPEC.held_out, first_row=len(features), row_count=HELD_OUT),
        samples_per_unit=samples_per_unit,
        reward=replace(
            SPEC.reward, max_units=len(features) // samples_per_unit, min_miners=1, min_units=1
        ),
        resources=replace(SPEC.resources, unit_milliseconds=unit_milliseconds),
    )
    return CraftedTask(spec, weights, shard)


def craft_chain(bias: float, factors: Sequence[float], features: np.ndarray) -> CraftedTask:
    """A chain of single units that ignores its input and multiplies its gradient by `factors`.

    The first unit is on because of its bias, so each sample's gradient by the first weights is its
    features times the product of all factors, times the error of its probability.
    """
    *hidden, last = factors
    model = Mlp(inputs=features.shape[1], hidden=(1,) * (len(hidden) + 1), classes=2)
    theta = [bias, *[0.0] * model.inputs]
    for factor in hidden:
        theta += [0.0, factor]
    theta += [0.0, 0.0, last, -last]
    assert len(theta) == count_parameters(model)
    return craft(model, theta, features, [1] * len(features))


def craft_overflow() -> CraftedTask:
    """The sum of four samples overflows in some orders; the first four samples are harmless."""
    generator = np.random.Generator(np.random.PCG64(3))
    size = 0.45 * 2.0**128 * 4 / 2.0**110
    hostile = generator.choice([-size, size], (64, 4))
    return craft_chain(1.0, [2.0**18] * 5 + [2.0**19], np.concatenate([np.ones((4, 4)), hostile]))


def craft_absorption() -> CraftedTask:
    """Small features are lost beside large ones that cancel each other, in some orders."""
    generator = np.random.Generator(np.random.PCG64(3))
    hostile = generator.choice([0.2, 0.2, 2.0**20, -(2.0**20)], (256, 1))
    return craft_chain(2.0**-21, [16.0] * 5 + [1.0], np.concatenate([np.ones((4, 1)), hostile]))


def craft_edge() -> CraftedTask:
    """The input of a ReLU is 0 or 2**-5, as the order of its sum has it."""
    model = Mlp(inputs=3, hidden=(1,), classes=2)
    features = np.tile([2.0**20, 2.0**-5, -(2.0**20)], (16, 1))
    return craft(model, [0, 1, 1, 1, 0, 0, 1, -1], features, [1] * 16, samples_per_unit=1)


def craft_learned() -> CraftedTask:
    """Of the loss of each sample only rounding is left."""
    model = Mlp(inputs=1, hidden=(), classes=2)
    return craft(model, [0, 0, 8.3, -8.3], np.ones((16, 1)), [0] * 16)


def compute_in_other_order(
    trainer: Trainer, theta: bytes, samples: Sequence[int], seed: int
) -> Float32Array:
    """The clipped gradient of an honest miner whose machine sums in another order.

    Samples and inputs are permuted at random, and so is the number of samples of a step.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    order, inputs = (
        generator.permutation(len(samples)),
        generator.permutation(trainer.spec.model.inputs),
    )
    load_parameters(trainer.module, theta)
    first = trainer.module.layers[0].weight
    with torch.no_grad():
        first.copy_(first[:, inputs].clone())
    rows = np.array([trainer.spec.row_of_sample(int(samples[i])) for i in order])
    features, labels = trainer.dataset.take(rows)
    values = compute_gradient(
        trainer.module,
        trainer.spec.loss,
        features[:, inputs],
        labels,
        int(generator.integers(1, len(samples) + 1)),
    )
    # Back into the order of the manifest.
    places, start = np.arange(len(values)), 0
    for parameter in ordered_parameters(trainer.module):
        if parameter is first:
            part = start + np.arange(parameter.numel()).reshape(first.shape)[:, inputs]
            places[start : start + parameter.numel()] = part.ravel()
        start += parameter.numel()
    restored = np.empty_like(values)
    restored[places] = values
    return clip(restored)
