"""One task on one device, for miners and verifiers (docs/spec/training.md, section 5)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from chain.training.acceptance import Measurement
from chain.training.architectures import count_parameters
from chain.training.encoding import (
    Float32Array,
    GradientHeader,
    decode_gradient,
    encode_gradient,
)
from chain.training.task_spec import TaskSpec
from miner.data import Dataset, load_dataset
from miner.gradient import (
    PartialGradient,
    clip,
    compute_gradient,
    compute_microbatch,
    continue_gradient,
)
from miner.loss import compute_loss_sum
from miner.measurement import measure
from miner.model import build_model, flatten, load_parameters, unflatten
from miner.noise import (
    Trial,
    build_reference,
    compute_noise_ppb,
    continue_trial,
    load_moved_parameters,
)

MAX_INTEGER: Final = 2**53 - 1
"""JSON's largest exact integer."""

SampleIndices = Sequence[int] | NDArray[np.uint64]
"""Indices of training samples."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well a model does on the held-out rows."""

    correct_count: int
    row_count: int
    loss_millinats: int
    """The mean over the rows in thousandths of a nat, rounded."""


@dataclass(frozen=True, slots=True)
class EvaluationPart:
    """How well a model does on some of the held-out rows; `loss` is their sum in nats."""

    correct_count: int
    row_count: int
    loss: float


@dataclass(frozen=True, slots=True, eq=False)
class PartialSum:
    """What the first `done` of the samples contribute to a gradient, in manifest order."""

    done: int
    values: Float32Array


SumStep = Callable[[torch.Tensor, torch.Tensor, PartialGradient], PartialGradient]
"""Adds the next samples to a sum; takes the features and labels of all samples."""


@dataclass(frozen=True, slots=True, eq=False)
class Trainer:
    """Computes, verifies and evaluates for one task.

    Attributes:
        spec: The task.
        module: The model. Every method first loads the parameters that it is given.
        dataset: The rows, on the device.
    """

    spec: TaskSpec
    module: nn.Module
    dataset: Dataset

    def compute_gradient(self, theta: bytes, sample_indices: SampleIndices) -> Float32Array:
        """The clipped gradient, float32[parameters], at `theta` over these samples."""
        return clip(self.compute_unclipped_gradient(theta, sample_indices))

    def compute_unclipped_gradient(
        self, theta: bytes, sample_indices: SampleIndices
    ) -> Float32Array:
        """The gradient, float32[parameters], at `theta` over these samples."""
        rows = self._find_rows(sample_indices)
        load_parameters(self.module, theta)
        features, labels = self.dataset.features[rows], self.dataset.labels[rows]
        microbatch = compute_microbatch(self.spec.model)
        return compute_gradient(self.module, self.spec.loss, features, labels, microbatch)

    def measure_noise_ppb(
        self,
        theta: bytes,
        sample_indices: SampleIndices,
        trials: Sequence[Trial],
        seed: bytes,
    ) -> tuple[int, ...]:
        """The cell distance, in parts per billion, of the gradient from that of each trial."""
        encoded = build_reference(self.compute_unclipped_gradient(theta, sample_indices))
        distances = []
        for trial in trials:
            *_, last = self.sum_trial(theta, sample_indices, self.begin_sum(), trial, seed)
            distances.append(compute_noise_ppb(self.module, encoded, last.values))
        return tuple(distances)

    def begin_sum(self) -> PartialSum:
        """The sum before the first sample."""
        return PartialSum(0, np.zeros(count_parameters(self.spec.model), np.float32))

    def sum_gradients(
        self, theta: bytes, sample_indices: SampleIndices, before: PartialSum
    ) -> Iterator[PartialSum]:
        """Yield the unclipped gradient over ever more of the samples.

        The last sum has the bits of `compute_unclipped_gradient`, wherever a check was interrupted.

        Args:
            theta: The model.
            sample_indices: The samples.
            before: The sum so far.
        """
        microbatch = compute_microbatch(self.spec.model)

        def step(
            features: torch.Tensor, labels: torch.Tensor, partial: PartialGradient
        ) -> PartialGradient:
            return continue_gradient(
                self.module, self.spec.loss, features, labels, partial, microbatch
            )

        load_parameters(self.module, theta)
        return self._sum(sample_indices, before, step)

    def sum_trial(
        self,
        theta: bytes,
        sample_indices: SampleIndices,
        before: PartialSum,
        trial: Trial,
        seed: bytes,
    ) -> Iterator[PartialSum]:
        """Yield the scaled gradient of a trial over ever more of the samples."""
        size = trial.compute_step(compute_microbatch(self.spec.model))

        def step(
            features: torch.Tensor, labels: torch.Tensor, partial: PartialGradient
        ) -> PartialGradient:
            return continue_trial(
                self.module, self.spec.loss, features, labels, partial, size, trial, seed
            )

        load_moved_parameters(self.module, theta, trial, seed)
        indices = np.asarray(sample_indices)[trial.order(len(sample_indices))]
        return self._sum(indices, before, step)

    def _sum(
        self, sample_indices: SampleIndices, before: PartialSum, step: SumStep
    ) -> Iterator[PartialSum]:
        rows = self._find_rows(sample_indices)
        features, labels = self.dataset.features[rows], self.dataset.labels[rows]
        partial = PartialGradient(before.done, unflatten(self.module, before.values))
        while partial.done < len(labels):
            partial = step(features, labels, partial)
            yield PartialSum(partial.done, flatten(partial.total))

    def _find_rows(self, sample_indices: SampleIndices) -> torch.Tensor:
        """The row of each sample, as `TaskSpec.row_of_sample` has it."""
        indices = np.asarray(sample_indices, np.int64)
        held_out = self.spec.held_out
        rows = indices + np.where(indices >= held_out.first_row, held_out.row_count, 0)
        return torch.from_numpy(rows).to(self.dataset.labels.device)

    def build_payload(
        self, header: GradientHeader, theta: bytes, sample_indices: SampleIndices
    ) -> bytes:
        """The encoded gradient at `theta` over the samples, for the place that `header` names."""
        assert header.parameter_count == count_parameters(self.spec.model)
        return encode_gradient(header, self.compute_gradient(theta, sample_indices))

    def verify_payload(
        self, payload: bytes, header: GradientHeader, theta: bytes, sample_indices: SampleIndices
    ) -> Measurement:
        """The distance of `payload` from the gradient that this method computes.

        Raises:
            InvalidGradient: The payload does not follow the format, or has another header.
        """
        gradient = decode_gradient(payload, header)
        return measure(gradient, self.compute_gradient(theta, sample_indices))

    def evaluate(self, theta: bytes, row_limit: int | None = None) -> Evaluation:
        """Accuracy and loss of `theta` on the held-out rows, at most on about `row_limit`."""
        correct, rows, loss = 0, 0, 0.0
        for part in self.evaluate_parts(theta):
            correct += part.correct_count
            rows += part.row_count
            loss += part.loss
            if row_limit is not None and rows >= row_limit:
                break
        return Evaluation(correct, rows, _to_integer(1_000 * (loss / rows)))

    def evaluate_parts(self, theta: bytes, first: int = 0) -> Iterator[EvaluationPart]:
        """Yield how `theta` does on the held-out rows from `first` on, some rows at a time."""
        load_parameters(self.module, theta)
        held_out = self.spec.held_out
        end = held_out.first_row + held_out.row_count
        microbatch = compute_microbatch(self.spec.model)
        for start in range(held_out.first_row + first, end, microbatch):
            part = slice(start, min(start + microbatch, end))
            labels = self.dataset.labels[part]
            with torch.no_grad():
                logits = self.module(self.dataset.features[part])
                loss = float(compute_loss_sum(self.spec.loss, logits.double(), labels))
            yield EvaluationPart(
                int((logits.argmax(dim=1) == labels).sum()), part.stop - part.start, loss
            )


def to_micronats(nats: float) -> int:
    """A loss in millionths of a nat, rounded; the largest integer of JSON if it is infinite."""
    return _to_integer(1_000_000 * nats)


def _to_integer(value: float) -> int:
    # A diverged model has an infinite or undefined loss, which JSON and the contract cannot hold.
    return round(value) if value < MAX_INTEGER else MAX_INTEGER


def open_task(spec: TaskSpec, shards: Iterable[bytes], device: torch.device) -> Trainer:
    """The trainer of `spec` on `device`, from the bytes of its shards in manifest order.

    The shards are taken one at a time.

    Raises:
        RejectedInputError: A shard is not as the manifest announces.
    """
    dataset = load_dataset(spec, shards, device)
    return Trainer(spec, build_model(spec.model).to(device), dataset)
