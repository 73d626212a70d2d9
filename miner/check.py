"""A check of a gradient, which goes on in pieces (docs/spec/training.md, section 5).

Between two pieces a check stays in memory. Its sums are in a file as well, from which any worker
goes on, without a change of a bit: a piece ends between two steps, or between a sum and what is
done with it. What is done with sums takes as long as some steps if the model is large.
"""

import secrets
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BufferedIOBase
from typing import Final

import numpy as np

from chain.errors import RejectedInputError, RejectionReason
from chain.training.acceptance import ExponentRule, Measurement, Verdict, compute_verdict
from chain.training.architectures import count_parameters
from chain.training.encoding import Gradient
from miner.gradient import PartialGradient, begin_gradient, clip
from miner.measurement import MAX_DISTANCE_PPB, measure
from miner.model import flatten, unflatten
from miner.noise import CHECK_TRIALS, SEED_BYTES, build_reference, compute_noise_ppb
from miner.trainer import Trainer
from pot_common.samples import Samples
from pot_common.worker import bad_request

_MEASURED: Final = struct.Struct("<QB")
"""The distance, and the place of the exponent rule in its enumeration."""


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """How far a check has come.

    Attributes:
        reference: The gradient in the order of the specification.
        measurement: Its comparison with the miner's; None before it is compared.
        trial_index: The trials that are over.
        trial: The sum of the trial in progress; None before its first step.
        seed: The seed of the draws of all trials; no other validator has it.
    """

    reference: PartialGradient
    measurement: Measurement | None
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
        """The samples that are done; those of a trial count again, and so does each comparison."""
        sums, stage_count = self._sums, len(self._samples) + 1
        if sums.measurement is None:
            return sums.reference.done
        trial_done = 0 if sums.trial is None else sums.trial.done
        return (1 + sums.trial_index) * stage_count + trial_done

    def advance(self, end: float) -> Measurement | None:
        """Work until `end`, but for one step at least; None if the check is not over then."""
        for measurement in self._steps:
            if measurement is not None or time.monotonic() > end:
                return measurement
        raise AssertionError("a check that is over does not go on")

    def save(self, file: BufferedIOBase) -> None:
        """Write the sums."""
        sums, measured = self._sums, bytes(_MEASURED.size)
        if sums.measurement is not None:
            rule = tuple(ExponentRule).index(sums.measurement.exponents)
            measured = _MEASURED.pack(sums.measurement.distance_ppb, rule)
        file.write(sums.seed + measured)
        file.write(flatten(sums.reference.total).data)
        if sums.trial is not None:
            file.write(flatten(sums.trial.total).data)

    def _compute(self) -> Iterator[Measurement | None]:
        """Yield None after each step, comparison and trial, and at last the result."""
        trainer, tolerance_ppb = self._trainer, self._trainer.spec.verification.tolerance_ppb
        if self._sums.reference.done < len(self._samples):
            for partial in trainer.sum_gradients(self._theta, self._samples, self._sums.reference):
                self._sums = replace(self._sums, reference=partial)
                yield None
        measurement = self._sums.measurement
        if measurement is None:
            measurement = self._compare()
            if compute_verdict(measurement, tolerance_ppb) is Verdict.CHEAT:
                self._sums = replace(self._sums, measurement=measurement)
                yield None
        encoded: Gradient | None = None
        while compute_verdict(
            measurement, tolerance_ppb
        ) is Verdict.CHEAT and self._sums.trial_index < len(CHECK_TRIALS):
            for partial in self._sum_trial():
                self._sums = replace(self._sums, trial=partial)
                yield None
            trial = self._sums.trial
            assert trial is not None, "a check has one sample at least"
            if encoded is None:
                encoded = build_reference(flatten(self._sums.reference.total))
            # The noise of earlier trials is not kept: even with it, the gradient was still a cheat.
            noise_ppb = compute_noise_ppb(trainer.module, encoded, flatten(trial.total))
            measurement = replace(measurement, noise_ppb=noise_ppb)
            index = self._sums.trial_index + 1
            self._sums = replace(self._sums, trial_index=index, trial=None)
            del trial
            if index < len(CHECK_TRIALS):
                yield None
        yield measurement

    def _compare(self) -> Measurement:
        """The comparison of the two gradients, with an infinite noise if the sum is not finite."""
        values = flatten(self._sums.reference.total)
        measurement = measure(self._gradient, clip(values))
        if np.all(np.isfinite(values)):
            return measurement
        return replace(measurement, noise_ppb=MAX_DISTANCE_PPB)

    def _sum_trial(self) -> Iterator[PartialGradient]:
        """Yield the sum of the trial in progress after each step that is left."""
        sums = self._sums
        if sums.trial is not None and sums.trial.done == len(self._samples):
            return iter(())
        before = sums.trial or begin_gradient(self._trainer.module)
        trial = CHECK_TRIALS[sums.trial_index]
        return self._trainer.sum_trial(self._theta, self._samples, before, trial, sums.seed)


def begin_sums(trainer: Trainer) -> Sums:
    """The sums of a check that has done nothing yet."""
    return Sums(begin_gradient(trainer.module), None, 0, None, secrets.token_bytes(SEED_BYTES))


def load_sums(file: BufferedIOBase, trainer: Trainer, done: int, count: int) -> Sums:
    """The sums of a check of `count` samples, of which `done` were done.

    Raises:
        RejectedInputError: The file is of another check, or no such check goes on.
    """
    stage, rest = divmod(done, count + 1)
    if stage > len(CHECK_TRIALS):
        raise bad_request(f"a check of {count} samples is over before {done} are done")
    seed, measured = file.read(SEED_BYTES), file.read(_MEASURED.size)
    reference = _read_sum(file, trainer, min(done, count))
    trial = _read_sum(file, trainer, rest) if stage and rest else None
    if file.read(1):
        raise _refusal()
    measurement = _read_measurement(measured) if stage else None
    return Sums(reference, measurement, max(0, stage - 1), trial, seed)


def _read_measurement(data: bytes) -> Measurement:
    distance_ppb, rule = _MEASURED.unpack(data)
    rules = tuple(ExponentRule)
    if rule >= len(rules):
        raise _refusal()
    return Measurement(distance_ppb, rules[rule], 0)


def _read_sum(file: BufferedIOBase, trainer: Trainer, done: int) -> PartialGradient:
    values = np.empty(count_parameters(trainer.spec.model), np.float32)
    if file.readinto(values.data.cast("B")) != values.nbytes:
        raise _refusal()
    return PartialGradient(done, unflatten(trainer.module, values))


def _refusal() -> RejectedInputError:
    return RejectedInputError(RejectionReason.CONTENT_MISMATCH, "the sums have another length")
