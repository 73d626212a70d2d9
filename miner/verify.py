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
        has `done` 0, each further one the `done` of the answer before. `done` counts samples and
        comparisons; those of a trial count again.
"""

import argparse
import gc
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

import numpy as np
import torch

from chain.crypto import content_id
from chain.errors import RejectedInputError, RejectionReason
from chain.json_types import JsonObject
from chain.primitives import Address, Hash32, TaskId
from chain.training.architectures import count_parameters
from chain.training.attempt import AttemptId
from chain.training.encoding import (
    CODE_MAX,
    GradientHeader,
    count_payload_bytes,
    decode_gradient,
    encode_gradient,
    from_codes,
)
from chain.training.optimizer import initial_state
from chain.training.resources import count_dataset_bytes
from chain.training.state import FLOAT32_BYTES
from chain.training.task_spec import TaskSpec
from chain.training.task_spec_codec import MAX_SPEC_BYTES, decode_task_spec
from miner.check import Check, begin_sums, load_sums
from miner.data import read_file, store_rows
from miner.devices import open_device
from miner.examination import MEASURED_SAMPLES, examine_noise_ppb
from miner.gradient import clip, compute_microbatch
from miner.noise import SEED_BYTES
from miner.trainer import open_stored_task, to_micronats
from pot_common.errors import OperatorError
from pot_common.framing import FrameError
from pot_common.samples import Samples
from pot_common.worker import (
    MACHINE_STATUS,
    Answer,
    WorkerRequest,
    bad_request,
    claim_stdout,
    get_peak_memory_bytes,
    limit_process,
    serve,
)

DEFAULT_MEMORY_BYTES: Final = 4 * 2**30
"""Four times what the digits example needs; the node sets another limit for larger models."""

DATASET_SHARE: Final = 2
"""The rows of a task take at most the memory limit divided by this."""

IDLE_SECONDS: Final = 60.0
"""After so long without a request a worker closes its task: a mapped file that the node deletes
keeps its room on the disk."""

PART_SECONDS: Final = 1.0
"""How long a part of an evaluation or a check takes. Work of other tasks goes in between."""


@dataclass(slots=True)
class Worker:
    """Answers requests.

    Between two of them it keeps the last task open, and a check that is not over: pieces of one
    check mostly follow each other. It frees both before it opens anything else, and when it idles.

    Attributes:
        device: The device that computes.
        memory_bytes: The limit of this process.
        processor_seconds: The most processor time that a request may take; None for no limit. A
            request that takes more ends the process. It may ask for less: `processor_milliseconds`.
    """

    device: torch.device
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    processor_seconds: float | None = None
    _task: "_OpenTask | None" = field(default=None, init=False)
    _check: "_OpenCheck | None" = field(default=None, init=False)

    def answer(self, request: WorkerRequest) -> Answer:
        """The answer to `request`.

        Raises:
            RejectedInputError: The request or its files break a rule.
            OSError: A file cannot be read or written.
        """
        if self.processor_seconds is not None:
            signal.setitimer(signal.ITIMER_PROF, self._get_processor_seconds(request))
        start = time.monotonic()
        if self._check is not None and not self._check.is_continued_by(request):
            self._check = None
        if "shards" in request.members:
            self._task = None
            self._store_rows(request)
        match kind := request.text("kind"):
            case "store_rows":
                return {}
            case "dry_run":
                self._task = None
                return _dry_run(request, self.device)
            case "evaluate":
                task = self._get_task(request)
                return dict(asdict(task.trainer.evaluate(task.theta)))
            case "evaluate_part":
                return _evaluate_part(self._get_task(request), request.integer("first"), start)
            case "verify":
                return self._verify(request, start)
            case _:
                raise bad_request(f"kind {kind!r} is unknown")

    def close(self) -> None:
        """Close all files."""
        self._task = self._check = None
        gc.collect()

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

    def _get_task(self, request: WorkerRequest) -> "_OpenTask":
        files = _identify_files(request)
        if self._task is None or self._task.files != files:
            self._task = None
            self._task = _OpenTask(request, self.device)
        return self._task

    def _verify(self, request: WorkerRequest, start: float) -> Answer:
        opened = self._check or _OpenCheck(self._get_task(request), request)
        self._check = None
        measurement = opened.check.advance(_compute_end(start))
        if measurement is None:
            with request.path("partial").open("wb") as file:
                opened.check.save(file)
            self._check = opened
            return {"done": opened.check.done}
        return {
            "distance_ppb": measurement.distance_ppb,
            "exponents": measurement.exponents.value,
            "noise_ppb": measurement.noise_ppb,
        }


class _OpenTask:
    """A task and a model. To open them takes as long as to read the model."""

    def __init__(self, request: WorkerRequest, device: torch.device) -> None:
        self.files: Final = _identify_files(request)
        spec = _read_spec(request)
        self.trainer: Final = open_stored_task(spec, request.path("rows"), device)
        self.theta: Final = read_file(
            request.path("theta"), count_parameters(spec.model) * FLOAT32_BYTES
        )
        self.theta_root: Final = content_id(self.theta)


class _OpenCheck:
    """A check, and the request that it answers."""

    def __init__(self, task: _OpenTask, request: WorkerRequest) -> None:
        self._members = _drop_progress(request)
        self.check: Final = _open_check(task, request)

    def is_continued_by(self, request: WorkerRequest) -> bool:
        """Whether a request is about the same check, at the place where it stands."""
        is_same = _drop_progress(request) == self._members
        return is_same and request.members.get("done") == self.check.done


def _drop_progress(request: WorkerRequest) -> JsonObject:
    return {key: value for key, value in request.members.items() if key not in ("id", "done")}


def _identify_files(request: WorkerRequest) -> tuple[tuple[str, int, int], ...]:
    """Which files a task is opened from. A file that the disk damaged is replaced by another."""
    paths = [request.path(name) for name in ("spec", "rows", "theta")]
    stats = [path.stat() for path in paths]
    return tuple(
        (str(path), stat.st_ino, stat.st_mtime_ns) for path, stat in zip(paths, stats, strict=True)
    )


def _compute_end(start: float) -> float:
    """When a piece is to end: a second after it began, or when half of it was work."""
    now = time.monotonic()
    return max(start + PART_SECONDS, now + (now - start))


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
    payload = _build_any_payload(_OpenTask(request, device))
    # A check or an evaluation may have to open the task again.
    timer = _Timer(device)
    task = _OpenTask(request, device)
    opening_milliseconds = timer.read(1, 1)
    trainer, theta, spec = task.trainer, task.theta, task.trainer.spec
    header, sample_count = _build_any_header(spec), _count_measured(spec)
    timer = _Timer(device)
    trainer.verify_payload(payload, header, theta, _draw_samples(spec, sample_count))
    work_milliseconds = timer.read(spec.samples_per_unit, sample_count)
    # Each second of a check ends a piece, whose sums are saved.
    pauses = int(work_milliseconds / 1_000 / PART_SECONDS)
    saving_milliseconds = _check_largest_step(task, payload, device, request.path("rows").parent)
    timer = _Timer(device)
    rows = trainer.evaluate(theta, MEASURED_SAMPLES).row_count
    evaluation_milliseconds = opening_milliseconds + timer.read(spec.held_out.row_count, rows)
    return {
        "parameter_count": count_parameters(spec.model),
        "unit_milliseconds": opening_milliseconds
        + work_milliseconds
        + pauses * saving_milliseconds,
        "evaluation_milliseconds": evaluation_milliseconds,
        "noise_ppb": examine_noise_ppb(trainer, theta, secrets.token_bytes(SEED_BYTES)),
        "peak_bytes": get_peak_memory_bytes(),
    }


def _check_largest_step(
    task: _OpenTask, payload: bytes, device: torch.device, directory: Path
) -> int:
    """Do what takes the most memory in any check, and return the milliseconds to save its sums.

    That is a step of as many samples as any has, which may be those of several units. The gradient
    is false, so that a trial is made as well, and the sums are read again as by another worker.
    """
    trainer, spec = task.trainer, task.trainer.spec
    seat_samples = min(spec.reward.max_units * spec.samples_per_unit, spec.sample_count)
    # With two samples at least, there is a pause between steps.
    count = min(max(2, compute_microbatch(spec.model)), seat_samples)
    samples = _draw_samples(spec, count)
    honest = decode_gradient(payload, _build_any_header(spec))
    codes = np.where(honest.codes > 0, -CODE_MAX, CODE_MAX).astype(np.int8)
    false = from_codes(honest.exponents, codes)
    check = Check(trainer, task.theta, false, samples, begin_sums(trainer))
    with TemporaryFile(dir=directory) as file:
        check.advance(0)
        done = check.done
        timer = _Timer(device)
        check.save(file)
        milliseconds = timer.read(1, 1)
        del check
        file.seek(0)
        sums = load_sums(file, trainer, done, count)
        check = Check(trainer, task.theta, false, samples, sums)
        # The comparison, and one trial.
        while check.done < 2 * (count + 1) and check.advance(0) is None:
            pass
    return milliseconds


def _build_any_payload(task: _OpenTask) -> bytes:
    """A gradient at the initial weights. It is not timed: the first call also loads kernels."""
    trainer, theta, spec = task.trainer, task.theta, task.trainer.spec
    if task.theta_root != spec.initial_weights:
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


def _evaluate_part(task: _OpenTask, first: int, start: float) -> Answer:
    count = task.trainer.spec.held_out.row_count
    if first >= count:
        raise bad_request(f"there are {count} held-out rows")
    end, correct, rows, loss = _compute_end(start), 0, 0, 0.0
    for part in task.trainer.evaluate_parts(task.theta, first):
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


def _read_header(task: _OpenTask, fields: WorkerRequest) -> GradientHeader:
    """The header that the payload of a request must have."""
    return GradientHeader(
        parameter_count=count_parameters(task.trainer.spec.model),
        attempt_id=AttemptId(
            task_id=TaskId(fields.integer("task")),
            round_number=fields.integer("round"),
            attempt_number=fields.integer("attempt"),
        ),
        chain_id=fields.integer("chain_id"),
        theta_root=task.theta_root,
        seed=Hash32(fields.digest("seed", 32)),
        miner=Address(fields.digest("miner", 20)),
    )


def _open_check(task: _OpenTask, request: WorkerRequest) -> Check:
    trainer = task.trainer
    header = _read_header(task, request.child("header"))
    payload = read_file(request.path("payload"), count_payload_bytes(header.parameter_count))
    sample_count = trainer.spec.sample_count
    first, count = request.integer("first"), request.integer("count")
    if count == 0 or first + count > sample_count:
        raise bad_request(f"the samples are no part of the {sample_count} there are")
    samples = Samples(header.seed, sample_count, first, count)
    gradient = decode_gradient(payload, header)
    done = request.integer("done")
    if not done:
        return Check(trainer, task.theta, gradient, samples, begin_sums(trainer))
    with request.path("partial").open("rb") as file:
        sums = load_sums(file, trainer, done, count)
    return Check(trainer, task.theta, gradient, samples, sums)


def _close_when_idle(worker: Worker, idle_seconds: float) -> Callable[[WorkerRequest], Answer]:
    """What answers requests, and has the worker close its files after a while without one."""
    signal.signal(signal.SIGALRM, lambda *_: worker.close())

    def answer(request: WorkerRequest) -> Answer:
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            return worker.answer(request)
        finally:
            signal.setitimer(signal.ITIMER_REAL, idle_seconds)

    return answer


def main() -> int:
    """Run the worker on standard input and output."""
    parser = argparse.ArgumentParser(prog="python -m miner.verify", description=__doc__)
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--memory-bytes", type=int, default=DEFAULT_MEMORY_BYTES)
    parser.add_argument("--processor-seconds", type=float, help="the processor time of one request")
    parser.add_argument("--idle-seconds", type=float, default=IDLE_SECONDS, help="then files close")
    options = parser.parse_args()
    answers = claim_stdout()
    try:
        device = open_device(options.device, options.threads)
        limit_process(options.memory_bytes)
        worker = Worker(device, options.memory_bytes, options.processor_seconds)
        serve(_close_when_idle(worker, options.idle_seconds), sys.stdin.buffer, answers)
    except (OperatorError, FrameError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - read by the node that started it
        return MACHINE_STATUS
    except MemoryError:
        print("error: the memory limit is reached", file=sys.stderr)  # noqa: T201
        return 1
    except RuntimeError as error:
        # A task of a stranger can need more memory than the limit, or be too much for a kernel of
        # torch. Subclasses such as RecursionError are faults of this program.
        if type(error) not in (RuntimeError, torch.OutOfMemoryError):
            raise
        (problem, *_) = str(error).splitlines() or [""]
        print(f"error: torch cannot work on this task: {problem}", file=sys.stderr)  # noqa: T201
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
