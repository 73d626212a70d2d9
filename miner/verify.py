"""The verifier worker: `python -m miner.verify` (docs/spec/training.md, section 5).

A node starts the worker, writes requests to its standard input and reads answers from its standard
output (pot_common/framing.py). Large data is passed as paths. The worker limits its own memory: a
task that needs more ends the worker, not the node, and the node starts another. It ends when its
input ends.

Every request has `id`, `kind`, and the paths `spec`, `theta` and `shards` (an array). By kind:
    dry_run: answers parameter_count, unit_milliseconds, peak_bytes.
    evaluate: answers correct_count, row_count, loss_millinats.
    verify: the paths `payload` and `indices` (the samples, little-endian 64-bit) and `header`
        (round, chain_id, seed, miner, task, attempt); answers distance_ppb, exponents,
        milliseconds.
An answer has the request's `id`. If the request or its files break a rule, it has `error` and
`detail` and nothing else.
"""

import argparse
import resource
import sys
import time
from array import array
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import torch

from chain.crypto import content_id
from chain.errors import RejectedInputError, RejectionReason
from chain.hexadecimal import from_plain_hex
from chain.json_types import JsonObject
from chain.primitives import Address, Hash32, TaskId
from chain.training.architectures import count_parameters
from chain.training.attempt import AttemptId
from chain.training.encoding import GradientHeader, count_payload_bytes
from chain.training.optimizer import initial_state
from chain.training.state import FLOAT32_BYTES
from chain.training.task_spec import TaskSpec
from chain.training.task_spec_codec import MAX_SPEC_BYTES, decode_task_spec
from miner.data import read_file
from miner.devices import open_device
from miner.quiet import claim_stdout
from miner.trainer import Trainer, open_task
from pot_common.errors import OperatorError
from pot_common.framing import WORKER_ANSWERS, WORKER_QUESTIONS, FrameError

DEFAULT_MEMORY_BYTES: Final = 4 * 2**30
"""Four times what the digits example needs; the node sets another limit for larger models."""

MAX_OPEN_FILES: Final = 256
"""More than Python, torch and one input file at a time need."""

INDEX_BYTES: Final = 8
"""The length of a sample index in a file."""

Answer = dict[str, str | int]
"""The members of an answer without its id."""


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """One request; a member is checked when it is read."""

    members: JsonObject

    def text(self, key: str) -> str:
        """The string `key`."""
        value = self.members.get(key)
        if not isinstance(value, str):
            raise _bad_request(f"{key} must be a string")
        return value

    def integer(self, key: str) -> int:
        """The integer `key`, not negative."""
        value = self.members.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**64:
            raise _bad_request(f"{key} must be an integer from 0 to 2**64 - 1")
        return value

    def path(self, key: str) -> Path:
        """The path `key`."""
        return Path(self.text(key))

    def paths(self, key: str) -> tuple[Path, ...]:
        """The array of paths `key`."""
        value = self.members.get(key)
        paths = [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
        if paths != value:
            raise _bad_request(f"{key} must be an array of strings")
        return tuple(Path(item) for item in paths)

    def digest(self, key: str, byte_count: int) -> bytes:
        """The hexadecimal bytes `key`."""
        try:
            value = from_plain_hex(self.text(key))
        except ValueError as error:
            raise _bad_request(f"{key} must be hexadecimal") from error
        if len(value) != byte_count:
            raise _bad_request(f"{key} must be {byte_count} bytes")
        return value

    def child(self, key: str) -> "VerifyRequest":
        """The object `key`."""
        value = self.members.get(key)
        if not isinstance(value, dict):
            raise _bad_request(f"{key} must be an object")
        return VerifyRequest(value)


@dataclass(slots=True)
class Worker:
    """Answers requests, and keeps the last task open.

    Attributes:
        device: The device that computes.
        task_hash: The content id of the specification that `trainer` is for.
        trainer: The open task; None before the first request.
    """

    device: torch.device
    task_hash: Hash32 | None = field(default=None)
    trainer: Trainer | None = field(default=None)

    def answer(self, request: VerifyRequest) -> Answer:
        """The answer to `request`, which is an error if the request or its files break a rule."""
        try:
            trainer = self._open(request)
            theta_size = count_parameters(trainer.spec.model) * FLOAT32_BYTES
            theta = read_file(request.path("theta"), theta_size)
            match kind := request.text("kind"):
                case "dry_run":
                    return _dry_run(trainer, theta)
                case "evaluate":
                    return dict(asdict(trainer.evaluate(theta)))
                case "verify":
                    return _verify(trainer, theta, request)
                case _:
                    raise _bad_request(f"kind {kind!r} is unknown")
        except RejectedInputError as refusal:
            return {"error": refusal.reason.value, "detail": refusal.detail}
        except OSError as error:
            return {"error": RejectionReason.CONTENT_MISMATCH.value, "detail": str(error)}

    def _open(self, request: VerifyRequest) -> Trainer:
        with request.path("spec").open("rb") as file:
            data = file.read(MAX_SPEC_BYTES + 1)
        task_hash = content_id(data)
        if self.trainer is None or task_hash != self.task_hash:
            # Free the old task's data first: both tasks may not fit into memory.
            self.trainer, self.task_hash = None, None
            spec = decode_task_spec(data)
            self.trainer = open_task(spec, _read_shards(spec, request), self.device)
            self.task_hash = task_hash
        return self.trainer


def _read_shards(spec: TaskSpec, request: VerifyRequest) -> list[bytes]:
    paths = request.paths("shards")
    if len(paths) != len(spec.data.shards):
        raise _bad_request(f"shards must be {len(spec.data.shards)} paths")
    return [
        read_file(path, shard.byte_count)
        for path, shard in zip(paths, spec.data.shards, strict=True)
    ]


def _dry_run(trainer: Trainer, theta: bytes) -> Answer:
    spec = trainer.spec
    if content_id(theta) != spec.initial_weights:
        raise RejectedInputError(RejectionReason.CONTENT_MISMATCH, "not the initial weights")
    initial_state(spec.optimizer, theta)
    samples = range(spec.samples_per_unit)
    trainer.compute_gradient(theta, samples)  # not timed: the first call also loads kernels
    start = time.monotonic()
    trainer.compute_gradient(theta, samples)
    return {
        "parameter_count": count_parameters(spec.model),
        "unit_milliseconds": _milliseconds_since(start),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _verify(trainer: Trainer, theta: bytes, request: VerifyRequest) -> Answer:
    start = time.monotonic()
    parameter_count = count_parameters(trainer.spec.model)
    fields = request.child("header")
    header = GradientHeader(
        parameter_count=parameter_count,
        attempt_id=AttemptId(
            task_id=TaskId(fields.integer("task")),
            round_number=fields.integer("round"),
            attempt_number=fields.integer("attempt"),
        ),
        chain_id=fields.integer("chain_id"),
        theta_root=content_id(theta),
        seed=Hash32(fields.digest("seed", 32)),
        miner=Address(fields.digest("miner", 20)),
    )
    payload = read_file(request.path("payload"), count_payload_bytes(parameter_count))
    indices = _read_indices(request.path("indices"), trainer.spec.sample_count)
    measurement = trainer.verify_payload(payload, header, theta, indices)
    return {
        "distance_ppb": measurement.distance_ppb,
        "exponents": measurement.exponents.value,
        "milliseconds": _milliseconds_since(start),
    }


def _read_indices(path: Path, sample_count: int) -> "array[int]":
    with path.open("rb") as file:
        data = file.read(sample_count * INDEX_BYTES + 1)
    if not data or len(data) % INDEX_BYTES or len(data) > sample_count * INDEX_BYTES:
        raise _bad_request(f"indices must be 1 to {sample_count} 64-bit integers")
    indices = array("Q", data)
    if sys.byteorder == "big":
        indices.byteswap()
    if max(indices) >= sample_count:
        raise _bad_request(f"an index is not below the number of samples, {sample_count}")
    return indices


def _milliseconds_since(start: float) -> int:
    return round(1000 * (time.monotonic() - start))


def _bad_request(problem: str) -> RejectedInputError:
    return RejectedInputError(RejectionReason.MALFORMED, problem)


def limit_process(memory_bytes: int) -> None:
    """Limit the memory and the open files of this process, and turn off core dumps.

    The limit is RLIMIT_DATA: RLIMIT_AS counts address space that CUDA and allocators only reserve.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def serve(worker: Worker, questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer questions until their stream ends.

    Raises:
        FrameError: A frame breaks the protocol; the node that wrote it is at fault.
    """
    while (members := WORKER_QUESTIONS.read(questions)) is not None:
        answer = worker.answer(VerifyRequest(members))
        answers.write(WORKER_ANSWERS.encode({"id": members.get("id"), **answer}))
        answers.flush()


def main() -> int:
    """Run the worker on standard input and output."""
    parser = argparse.ArgumentParser(prog="python -m miner.verify", description=__doc__)
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--memory-bytes", type=int, default=DEFAULT_MEMORY_BYTES)
    options = parser.parse_args()
    answers = claim_stdout()
    try:
        worker = Worker(open_device(options.device, options.threads))
        limit_process(options.memory_bytes)
        serve(worker, sys.stdin.buffer, answers)
    except (OperatorError, FrameError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - read by the node that started it
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
