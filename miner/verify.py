"""The verifier worker: `python -m miner.verify` (docs/spec/training.md, section 5).

Every request has `id`, `kind` and the paths `spec` and `rows`, and `theta` unless its kind is
store_rows (pot_common/worker.py). `rows` is a file of the length of the task's rows. If a request
has `shards`, an array of paths, the worker first fills that file from them. That takes a time which
depends on the data, so a duty to a round has no shards. By kind:
    store_rows: answers nothing.
    dry_run: answers parameter_count, unit_milliseconds (the check of a gradient of one unit),
        evaluation_milliseconds, noise_ppb, peak_bytes.
    evaluate: answers correct_count, row_count, loss_millinats.
    evaluate_part: `first`, a held-out row; evaluates rows from there on for a short while. Answers
        correct_count, row_count (the rows evaluated), loss_micronats (their sum).
    verify: the path `payload`; `first` and `count`, the stretch of the attempt's permutation that
        holds the miner's samples; `header` (round, chain_id, seed, miner, task, attempt). Works
        for a short while. If the check is not over then, answers `done`, which is greater than that
        of the request, and writes the sums so far to the path `partial`. At the end answers
        distance_ppb, exponents, noise_ppb (0 unless the verdict depends on it). The first request
        has `done` 0, each further one the `done` of the answer before. `done` counts samples; those
        of a trial count again.
"""

import argparse
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

from chain.crypto import content_id
from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import Address, Hash32, TaskId
from chain.training.acceptance import Verdict, compute_verdict
from chain.training.architectures import count_parameters
from chain.training.attempt import AttemptId
from chain.training.encoding import (
    GradientHeader,
    count_payload_bytes,
    decode_gradient,
    encode_gradient,
)
from chain.training.optimizer import initial_state
from chain.training.resources import count_dataset_bytes
from chain.training.state import FLOAT32_BYTES
from chain.training.task_spec import TaskSpec
from chain.training.task_spec_codec import MAX_SPEC_BYTES, decode_task_spec
from miner.data import read_file, store_rows
from miner.devices import open_device
from miner.examination import MEASURED_SAMPLES, examine_noise_ppb
from miner.gradient import clip
from miner.measurement import MAX_DISTANCE_PPB, measure
from miner.noise import CHECK_TRIALS, SEED_BYTES, build_reference, compute_noise_ppb
from miner.samples import Samples
from miner.trainer import PartialSum, Trainer, open_stored_task, to_micronats
from pot_common.errors import OperatorError
from pot_common.framing import FrameError
from pot_common.worker import (
    MACHINE_STATUS,
    Answer,
    WorkerRequest,
    bad_request,
    claim_stdout,
    get_peak_memory_bytes,
    limit_process,
    serve,
    set_lowest_priority,
)

DEFAULT_MEMORY_BYTES: Final = 4 * 2**30
"""Four times what the digits example needs; the node sets another limit for larger models."""

DATASET_SHARE: Final = 2
"""The rows of a task take at most the memory limit divided by this."""

PART_SECONDS: Final = 1.0
"""How long a part of an evaluation or a check takes. Work of other tasks goes in between."""


@dataclass(frozen=True, slots=True)
class Worker:
    """Answers requests. It keeps nothing between two of them.

    Attributes:
        device: The device that computes.
        memory_bytes: The limit of this process.
        processor_seconds: The most processor time that a request may take; None for no limit. A
            request that takes more ends the process. It may ask for less: `processor_milliseconds`.
    """

    device: torch.device
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    processor_seconds: float | None = None

    def answer(self, request: WorkerRequest) -> Answer:
        """The answer to `request`.

        Raises:
            RejectedInputError: The request or its files break a rule.
            OSError: A file cannot be read or written.
        """
        if self.processor_seconds is not None:
            signal.setitimer(signal.ITIMER_PROF, self._get_processor_seconds(request))
        if "shards" in request.members:
            self._store_rows(request)
        match kind := request.text("kind"):
            case "store_rows":
                return {}
            case "dry_run":
                return _dry_run(request, self.device)
            case "evaluate":
                piece = _Piece(request, self.device)
                return dict(asdict(piece.trainer.evaluate(piece.theta)))
            case "evaluate_part":
                return _evaluate_part(_Piece(request, self.device), request.integer("first"))
            case "verify":
                return _verify(_Piece(request, self.device), request)
            case _:
                raise bad_request(f"kind {kind!r} is unknown")

    def _get_processor_seconds(self, request: WorkerRequest) -> float:
        assert self.processor_seconds is not None
        if "processor_milliseconds" not in request.members:
            return self.processor_seconds
        # A timer of 0 would be none.
        wanted = max(1, request.integer("processor_milliseconds")) / 1_000
        return min(self.processor_seconds, wanted)

    def _store_rows(self, request: WorkerRequest) -> None:
        spec = _read_spec(request)
        needed, limit = count_dataset_bytes(spec), self.memory_bytes // DATASET_SHARE
        if needed > limit:
            raise RejectedInputError(
                RejectionReason.TOO_LARGE,
                f"the rows take {needed} bytes of memory, the worker allows {limit}",
            )
        store_rows(spec, _read_shards(spec, request), request.path("rows"))


class _Piece:
    """A task that is opened for one request, which is a piece of work of about a second.

    To open it takes as long as to read its model. Its rows are read when they are used.
    """

    def __init__(self, request: WorkerRequest, device: torch.device) -> None:
        self._start = time.monotonic()
        spec = _read_spec(request)
        self.trainer: Final = open_stored_task(spec, request.path("rows"), device)
        self.theta: Final = read_file(
            request.path("theta"), count_parameters(spec.model) * FLOAT32_BYTES
        )
        self.theta_root: Final = content_id(self.theta)

    def compute_end(self) -> float:
        """When the piece is to end: a second after it began, or when half of it was work."""
        now = time.monotonic()
        return max(self._start + PART_SECONDS, now + (now - self._start))


def _read_spec(request: WorkerRequest) -> TaskSpec:
    with request.path("spec").open("rb") as file:
        return decode_task_spec(file.read(MAX_SPEC_BYTES + 1))


def _read_shards(spec: TaskSpec, request: WorkerRequest) -> Iterator[bytes]:
    paths = request.paths("shards")
    if len(paths) != len(spec.data.shards):
        raise bad_request(f"shards must be {len(spec.data.shards)} paths")
    for path, shard in zip(paths, spec.data.shards, strict=True):
        yield read_file(path, shard.byte_count)


def _dry_run(request: WorkerRequest, device: torch.device) -> Answer:
    payload = _build_any_payload(_Piece(request, device))
    # Each piece of a check or an evaluation opens the task again.
    timer = _Timer(device)
    piece = _Piece(request, device)
    opening_milliseconds = timer.read(1, 1)
    trainer, theta, spec = piece.trainer, piece.theta, piece.trainer.spec
    header, sample_count = _build_any_header(spec), _count_measured(spec)
    timer = _Timer(device)
    trainer.verify_payload(payload, header, theta, _draw_samples(spec, sample_count))
    unit_milliseconds = opening_milliseconds + timer.read(spec.samples_per_unit, sample_count)
    timer = _Timer(device)
    rows = trainer.evaluate(theta, MEASURED_SAMPLES).row_count
    evaluation_milliseconds = opening_milliseconds + timer.read(spec.held_out.row_count, rows)
    return {
        "parameter_count": count_parameters(spec.model),
        "unit_milliseconds": unit_milliseconds,
        "evaluation_milliseconds": evaluation_milliseconds,
        "noise_ppb": examine_noise_ppb(trainer, theta, secrets.token_bytes(SEED_BYTES)),
        "peak_bytes": get_peak_memory_bytes(),
    }


def _build_any_payload(piece: _Piece) -> bytes:
    """A gradient at the initial weights. It is not timed: the first call also loads kernels."""
    trainer, theta, spec = piece.trainer, piece.theta, piece.trainer.spec
    if piece.theta_root != spec.initial_weights:
        raise RejectedInputError(RejectionReason.CONTENT_MISMATCH, "not the initial weights")
    initial_state(spec.optimizer, theta)
    # The same samples at all validators, so that they refuse the task for the same reason.
    gradient = trainer.compute_unclipped_gradient(theta, range(_count_measured(spec)))
    if not np.all(np.isfinite(gradient)):
        raise RejectedInputError(
            RejectionReason.BAD_SPEC, "the gradient at the initial weights is not finite"
        )
    return encode_gradient(_build_any_header(spec), clip(gradient))


def _count_measured(spec: TaskSpec) -> int:
    return min(spec.samples_per_unit, MEASURED_SAMPLES)


def _draw_samples(spec: TaskSpec, count: int) -> Samples:
    """Random samples, which lie as far apart in the file of rows as those of an attempt."""
    return Samples(Hash32(secrets.token_bytes(32)), spec.sample_count, 0, count)


def _evaluate_part(piece: _Piece, first: int) -> Answer:
    count = piece.trainer.spec.held_out.row_count
    if first >= count:
        raise bad_request(f"there are {count} held-out rows")
    end, correct, rows, loss = piece.compute_end(), 0, 0, 0.0
    for part in piece.trainer.evaluate_parts(piece.theta, first):
        correct, rows, loss = correct + part.correct_count, rows + part.row_count, loss + part.loss
        if time.monotonic() > end:
            break
    return {"correct_count": correct, "row_count": rows, "loss_micronats": to_micronats(loss)}


def _build_any_header(spec: TaskSpec) -> GradientHeader:
    """A header for a gradient that no miner has computed."""
    return GradientHeader(
        attempt_id=AttemptId(TaskId(0), 0, 0),
        parameter_count=count_parameters(spec.model),
        chain_id=0,
        theta_root=spec.initial_weights,
        seed=Hash32(bytes(32)),
        miner=Address(bytes(20)),
    )


class _Timer:
    """Measures work on the device of a task.

    On the CPU it takes processor time if that is less: other processes must not make a task look
    slower than it is.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cpu = device.type == "cpu"
        self._start = time.monotonic()
        self._processor_start = time.process_time()

    def read(self, wanted: int, measured: int) -> int:
        """The milliseconds that `wanted` items take, if `measured` took the time until now."""
        seconds = time.monotonic() - self._start
        if self._is_cpu:
            seconds = min(seconds, time.process_time() - self._processor_start)
        return -(-round(1_000_000 * seconds) * wanted // (1_000 * measured))


def _read_header(piece: _Piece, fields: WorkerRequest) -> GradientHeader:
    """The header that the payload of a request must have."""
    return GradientHeader(
        parameter_count=count_parameters(piece.trainer.spec.model),
        attempt_id=AttemptId(
            task_id=TaskId(fields.integer("task")),
            round_number=fields.integer("round"),
            attempt_number=fields.integer("attempt"),
        ),
        chain_id=fields.integer("chain_id"),
        theta_root=piece.theta_root,
        seed=Hash32(fields.digest("seed", 32)),
        miner=Address(fields.digest("miner", 20)),
    )


def _verify(piece: _Piece, request: WorkerRequest) -> Answer:
    trainer, theta = piece.trainer, piece.theta
    header = _read_header(piece, request.child("header"))
    payload = read_file(request.path("payload"), count_payload_bytes(header.parameter_count))
    sample_count = trainer.spec.sample_count
    first, count = request.integer("first"), request.integer("count")
    if count == 0 or first + count > sample_count:
        raise bad_request(f"the samples are no part of the {sample_count} there are")
    samples = Samples(header.seed, sample_count, first, count)
    gradient = decode_gradient(payload, header)
    path, done = request.path("partial"), request.integer("done")
    sums = _load_sums(path, trainer, done, count)
    end = piece.compute_end()
    if sums.reference.done < count:
        reference = _sum_until(
            end, sums.reference, trainer.sum_gradients(theta, samples, sums.reference)
        )
        sums = replace(sums, reference=reference)
        if reference.done < count:
            _save_sums(path, sums)
            return {"done": reference.done}
    encoded = build_reference(sums.reference.values)
    measurement = measure(gradient, clip(sums.reference.values))
    if encoded is None:
        measurement = replace(measurement, noise_ppb=MAX_DISTANCE_PPB)
    tolerance_ppb = trainer.spec.verification.tolerance_ppb
    while compute_verdict(measurement, tolerance_ppb) is Verdict.CHEAT and sums.trial_index < len(
        CHECK_TRIALS
    ):
        trial = CHECK_TRIALS[sums.trial_index]
        parts = trainer.sum_trial(theta, samples, sums.trial, trial, sums.seed)
        sums = replace(sums, trial=_sum_until(end, sums.trial, parts))
        if sums.trial.done < count:
            _save_sums(path, sums)
            return {"done": (1 + sums.trial_index) * count + sums.trial.done}
        # The noise of earlier trials is not kept: even with it, the gradient was still a cheat.
        noise_ppb = compute_noise_ppb(trainer.module, encoded, sums.trial.values)
        measurement = replace(measurement, noise_ppb=noise_ppb)
        sums = replace(sums, trial_index=sums.trial_index + 1, trial=trainer.begin_sum())
    return {
        "distance_ppb": measurement.distance_ppb,
        "exponents": measurement.exponents.value,
        "noise_ppb": measurement.noise_ppb,
    }


@dataclass(frozen=True, slots=True, eq=False)
class _Sums:
    """A check in progress.

    Attributes:
        reference: The gradient in the order of the specification.
        trial_index: The trials that are over.
        trial: The sum of the trial in progress.
        seed: The seed of the draws of all trials; no other validator has it.
    """

    reference: PartialSum
    trial_index: int
    trial: PartialSum
    seed: bytes


def _sum_until(end: float, partial: PartialSum, parts: Iterator[PartialSum]) -> PartialSum:
    """The last of `parts` before `end`, but at least the first."""
    for after in parts:
        partial = after
        if time.monotonic() > end:
            break
    return partial


def _load_sums(path: Path, trainer: Trainer, done: int, count: int) -> _Sums:
    """The sums of a check of which `done` samples were done."""
    stage, rest = divmod(done, count)
    if stage > len(CHECK_TRIALS):
        raise bad_request(f"a check of {count} samples is over before {done} are done")
    empty = trainer.begin_sum()
    if not done:
        return _Sums(empty, 0, empty, secrets.token_bytes(SEED_BYTES))
    size = empty.values.nbytes
    data = read_file(path, SEED_BYTES + (2 * size if stage else size))
    seed, reference, trial = data[:SEED_BYTES], data[SEED_BYTES:][:size], data[SEED_BYTES + size :]
    return _Sums(
        PartialSum(min(done, count), np.frombuffer(reference, np.float32).copy()),
        max(0, stage - 1),
        PartialSum(rest, np.frombuffer(trial, np.float32).copy()) if stage else empty,
        seed,
    )


def _save_sums(path: Path, sums: _Sums) -> None:
    with path.open("wb") as file:
        file.write(sums.seed)
        file.write(sums.reference.values.data)
        if sums.trial.done:
            file.write(sums.trial.values.data)


def main() -> int:
    """Run the worker on standard input and output."""
    parser = argparse.ArgumentParser(prog="python -m miner.verify", description=__doc__)
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--memory-bytes", type=int, default=DEFAULT_MEMORY_BYTES)
    parser.add_argument("--processor-seconds", type=float, help="the processor time of one request")
    parser.add_argument(
        "--background", action="store_true", help="run only when the processor is free"
    )
    options = parser.parse_args()
    answers = claim_stdout()
    if options.background:
        set_lowest_priority()
    try:
        device = open_device(options.device, options.threads)
        limit_process(options.memory_bytes)
        worker = Worker(device, options.memory_bytes, options.processor_seconds)
        serve(worker.answer, sys.stdin.buffer, answers)
    except (OperatorError, FrameError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - read by the node that started it
        return MACHINE_STATUS
    except MemoryError:
        print("error: the memory limit is reached", file=sys.stderr)  # noqa: T201
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
