"""A check of a gradient, which goes on in pieces (docs/spec/training.md, section 5).

Between two pieces a check stays in memory. Its sums are in a file as well, from which any worker
goes on, without a change of a bit: a piece ends between two steps.
"""

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BufferedIOBase

import numpy as np

from chain.errors import RejectedInputError, RejectionReason
from chain.training.acceptance import Measurement, Verdict, compute_verdict
from chain.training.architectures import count_parameters
from chain.training.encoding import Gradient
from miner.gradient import PartialGradient, begin_gradient, clip
from miner.measurement import MAX_DISTANCE_PPB, measure
from miner.model import flatten, unflatten
from miner.noise import CHECK_TRIALS, SEED_BYTES, build_reference, compute_noise_ppb
from miner.trainer import Trainer
from pot_common.samples import Samples
from pot_common.worker import bad_request


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """How far a check has come.

    Attributes:
        reference: The gradient in the order of the specification.
        trial_index: The trials that are over.
        trial: The sum of the trial in progress; None before its first step.
        seed: The seed of the draws of all trials; no other validator has it.
    """

    reference: PartialGradient
    trial_index: int
    trial: PartialGradient | None
    seed: bytes


class Check:
    """A gradient that is computed again and compared.

    Until it is over, nothing else may set the parameters of the trainer's model.
    """

    def __init__(
        self, trainer: Trainer, theta: bytes, gradient: Gradient, samples: Samples, sums: Sums
    ) -> None:
        self._trainer = trainer
        self._theta = theta
        self._gradient = gradient
        self._samples = samples
        self._sums = sums
        self._steps = self._compute()

    @property
    def done(self) -> int:
        """The samples that are done; those of a trial count again."""
        sums, count = self._sums, len(self._samples)
        if sums.reference.done < count:
            return sums.reference.done
        trial_done = 0 if sums.trial is None else sums.trial.done
        return (1 + sums.trial_index) * count + trial_done

    def advance(self, end: float) -> Measurement | None:
        """Work until `end`, but for one step at least; None if the check is not over then."""
        for measurement in self._steps:
            if measurement is not None or time.monotonic() > end:
                return measurement
        raise AssertionError("a check that is over does not go on")

    def save(self, file: BufferedIOBase) -> None:
        """Write the sums."""
        file.write(self._sums.seed)
        file.write(flatten(self._sums.reference.total).data)
        if self._sums.trial is not None:
            file.write(flatten(self._sums.trial.total).data)

    def _compute(self) -> Iterator[Measurement | None]:
        """Yield None after each step that does not end a sum, and at last the result."""
        trainer, count = self._trainer, len(self._samples)
        if self._sums.reference.done < count:
            for partial in trainer.sum_gradients(self._theta, self._samples, self._sums.reference):
                self._sums = replace(self._sums, reference=partial)
                if partial.done < count:
                    yield None
        values = flatten(self._sums.reference.total)
        encoded = build_reference(values)
        measurement = measure(self._gradient, clip(values))
        del values
        if encoded is None:
            measurement = replace(measurement, noise_ppb=MAX_DISTANCE_PPB)
        tolerance_ppb = trainer.spec.verification.tolerance_ppb
        while compute_verdict(
            measurement, tolerance_ppb
        ) is Verdict.CHEAT and self._sums.trial_index < len(CHECK_TRIALS):
            trial = CHECK_TRIALS[self._sums.trial_index]
            before = self._sums.trial or begin_gradient(trainer.module)
            steps = trainer.sum_trial(self._theta, self._samples, before, trial, self._sums.seed)
            del before
            for partial in steps:
                self._sums = replace(self._sums, trial=partial)
                if partial.done < count:
                    yield None
            # The noise of earlier trials is not kept: even with it, the gradient was still a cheat.
            noise_ppb = compute_noise_ppb(trainer.module, encoded, flatten(partial.total))
            measurement = replace(measurement, noise_ppb=noise_ppb)
            index = self._sums.trial_index + 1
            self._sums = replace(self._sums, trial_index=index, trial=None)
            del partial
        yield measurement


def begin_sums(trainer: Trainer) -> Sums:
    """The sums of a check that has done nothing yet."""
    return Sums(begin_gradient(trainer.module), 0, None, secrets.token_bytes(SEED_BYTES))


def load_sums(file: BufferedIOBase, trainer: Trainer, done: int, count: int) -> Sums:
    """The sums of a check of `count` samples, of which `done` were done.

    Raises:
        RejectedInputError: The file is of another check, or no such check goes on.
    """
    stage, rest = divmod(done, count)
    if stage > len(CHECK_TRIALS):
        raise bad_request(f"a check of {count} samples is over before {done} are done")
    seed = file.read(SEED_BYTES)
    reference = _read_sum(file, trainer, min(done, count))
    trial = _read_sum(file, trainer, rest) if stage else None
    if file.read(1):
        raise _refusal()
    return Sums(reference, max(0, stage - 1), trial, seed)


def _read_sum(file: BufferedIOBase, trainer: Trainer, done: int) -> PartialGradient:
    values = np.empty(count_parameters(trainer.spec.model), np.float32)
    if file.readinto(values.data.cast("B")) != values.nbytes:
        raise _refusal()
    return PartialGradient(done, unflatten(trainer.module, values))


def _refusal() -> RejectedInputError:
    return RejectedInputError(RejectionReason.CONTENT_MISMATCH, "the sums have another length")
