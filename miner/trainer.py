"""One task on one device, for miners and verifiers (docs/spec/training.md, section 5)."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

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
from miner.data import Rows, load_dataset, map_rows
from miner.gradient import (
    PartialGradient,
    begin_gradient,
    clip,
    compute_microbatch,
    continue_gradient,
)
from miner.loss import compute_loss_sum
from miner.measurement import measure
from miner.model import build_model, flatten, load_parameters
from miner.noise import (
    Trial,
    build_reference,
    compute_noise_ppb,
    continue_trial,
    load_moved_parameters,
)
from pot_common.samples import Places, Samples

MAX_INTEGER: Final = 2**53 - 1
"""JSON's largest exact integer."""

SampleIndices = Sequence[int] | NDArray[np.uint64] | Samples
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


SumStep = Callable[[torch.Tensor, torch.Tensor, PartialGradient], PartialGradient]
"""Adds the next samples to a sum; takes their features and labels."""

Part = TypeVar("Part")

FindPlaces = Callable[[int, int], Places]
"""The places of the samples that are summed as the ones from one number to before another."""


@dataclass(frozen=True, slots=True, eq=False)
class Trainer:
    """Computes, verifies and evaluates for one task.

    Attributes:
        spec: The task.
        module: The model. Every method first loads the parameters that it is given.
        dataset: The rows.
    """

    spec: TaskSpec
    module: nn.Module
    dataset: Rows

    def compute_gradient(self, theta: bytes, sample_indices: SampleIndices) -> Float32Array:
        """The clipped gradient, float32[parameters], at `theta` over these samples."""
        return clip(self.compute_unclipped_gradient(theta, sample_indices))

    def compute_unclipped_gradient(
        self, theta: bytes, sample_indices: SampleIndices
    ) -> Float32Array:
        """The gradient, float32[parameters], at `theta` over these samples."""
        sums = self.sum_gradients(theta, sample_indices, begin_gradient(self.module))
        return flatten(_get_last(sums).total)

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
            sums = self.sum_trial(theta, sample_indices, begin_gradient(self.module), trial, seed)
            moved = flatten(_get_last(sums).total)
            distances.append(compute_noise_ppb(self.module, encoded, moved))
        return tuple(distances)

    def sum_gradients(
        self, theta: bytes, sample_indices: SampleIndices, before: PartialGradient
    ) -> Iterator[PartialGradient]:
        """Yield the unclipped gradient over ever more of the samples.

        The last sum has the bits of `compute_unclipped_gradient`, wherever a check was interrupted.

        Args:
            theta: The model.
            sample_indices: The samples.
            before: The sum so far.
        """
        count = len(sample_indices)

        def step(
            features: torch.Tensor, labels: torch.Tensor, partial: PartialGradient
        ) -> PartialGradient:
            return continue_gradient(self.module, self.spec.loss, features, labels, partial, count)

        load_parameters(self.module, theta)
        size = compute_microbatch(self.spec.model)
        return self._sum(sample_indices, before, size, np.arange, step)

    def sum_trial(
        self,
        theta: bytes,
        sample_indices: SampleIndices,
        before: PartialGradient,
        trial: Trial,
        seed: bytes,
    ) -> Iterator[PartialGradient]:
        """Yield the scaled gradient of a trial over ever more of the samples."""
        size = trial.compute_step(compute_microbatch(self.spec.model))
        count = len(sample_indices)

        def step(
            features: torch.Tensor, labels: torch.Tensor, partial: PartialGradient
        ) -> PartialGradient:
            return continue_trial(
                self.module, self.spec.loss, features, labels, partial, count, trial, seed
            )

        def find_places(start: int, stop: int) -> Places:
            return trial.find_places(start, stop, count)

        load_moved_parameters(self.module, theta, trial, seed)
        return self._sum(sample_indices, before, size, find_places, step)

    def _sum(
        self,
        sample_indices: SampleIndices,
        partial: PartialGradient,
        size: int,
        find_places: FindPlaces,
        step: SumStep,
    ) -> Iterator[PartialGradient]:
        """Yield the sum after each step. Only what a step takes is read: pieces have few steps."""
        samples = _to_indexable(sample_indices)
        while partial.done < len(samples):
            places = find_places(partial.done, min(partial.done + size, len(samples)))
            partial = step(*self._take(samples, places), partial)
            yield partial

    def _take(
        self, samples: NDArray[np.uint64] | Samples, places: Places
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The features and labels of samples, from the rows of `TaskSpec.row_of_sample`."""
        indices = samples[places].astype(np.int64)
        held_out = self.spec.held_out
        skipped = np.where(indices >= held_out.first_row, held_out.row_count, 0)
        return self.dataset.take(indices + skipped)

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
            features, labels = self.dataset.take(np.arange(start, min(start + microbatch, end)))
            with torch.no_grad():
                logits = self.module(features)
                loss = float(compute_loss_sum(self.spec.loss, logits.double(), labels))
            yield EvaluationPart(int((logits.argmax(dim=1) == labels).sum()), len(labels), loss)


def to_micronats(nats: float) -> int:
    """A loss in millionths of a nat, rounded; the largest integer of JSON if it is infinite."""
    return _to_integer(1_000_000 * nats)


def _to_integer(value: float) -> int:
    # A diverged model has an infinite or undefined loss, which JSON and the contract cannot hold.
    return round(value) if value < MAX_INTEGER else MAX_INTEGER


def _get_last(parts: Iterator[Part]) -> Part:
    """The last of `parts`; those before, each as large as the model, are not kept."""
    return deque(parts, maxlen=1).pop()


def _to_indexable(sample_indices: SampleIndices) -> NDArray[np.uint64] | Samples:
    if isinstance(sample_indices, Samples):
        return sample_indices
    return np.asarray(sample_indices, np.uint64)


def open_stored_task(spec: TaskSpec, rows: Path, device: torch.device) -> Trainer:
    """The trainer of `spec` on `device`, with the rows in a file. This takes no time for them.

    Raises:
        RejectedInputError: The file has another length than the rows.
        OSError: The file cannot be read.
    """
    return Trainer(spec, build_model(spec.model, device), map_rows(spec, rows, device))


def open_task(spec: TaskSpec, shards: Iterable[bytes], device: torch.device) -> Trainer:
    """The trainer of `spec` on `device`, from the bytes of its shards in manifest order.

    The shards are taken one at a time.

    Raises:
        RejectedInputError: A shard is not as the manifest announces.
    """
    dataset = load_dataset(spec, shards, device)
    return Trainer(spec, build_model(spec.model, device), dataset)
