"""The aggregation worker: `python -m node.training.aggregation_worker`.

It combines the accepted gradients of a round and computes the next training state, so that the node
process holds none of them in memory (pot_common/worker.py, docs/spec/training.md, 6 to 8).

Every request has `kind`, the path `spec`, the paths `outputs`, existing files of the right length
that the worker fills, and `progress`, empty at first. After about a second the worker answers
`progress`, with which the node asks again at the task's next turn; `done` counts its steps. At last
it answers `part_ids`, the content ids of the outputs. A file that is read is an object with its
`path` and `content_id`. By kind:
    begin: the file `theta`, the initial weights; the outputs are the optimizer's initial tensors.
    advance: the files `state`, theta first; `header` (round, chain_id, seed, theta_root, task,
        attempt); `gradients`, files that have `units` and `miner` as well; the outputs are the
        parts of the next state.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from chain.hexadecimal import from_plain_hex
from chain.json_types import Json, JsonObject
from chain.primitives import Address, Hash32, TaskId
from chain.training.architectures import count_parameters
from chain.training.attempt import AttemptId
from chain.training.encoding import GradientHeader
from chain.training.task_spec import TaskSpec
from chain.training.task_spec_codec import MAX_SPEC_BYTES, decode_task_spec
from node.training.streamed_update import (
    Progress,
    StoredFile,
    StoredGradient,
    advance_state,
    begin_state,
)
from pot_common.framing import FrameError
from pot_common.worker import (
    MACHINE_STATUS,
    Answer,
    WorkerRequest,
    bad_request,
    claim_stdout,
    limit_process,
    serve,
)

MEMORY_BYTES: Final = 2**29
"""Three times what a slice of a state takes; more gradients or parameters take no more."""

PART_SECONDS: Final = 1.0
"""How long a part of an update takes, and a step more at most. Other tasks have their turns between
two parts."""


def answer(request: WorkerRequest) -> Answer:
    """The answer to a request.

    Raises:
        RejectedInputError: The request or its files break a rule.
        OSError: A file cannot be read or written.
    """
    with request.path("spec").open("rb") as file:
        spec = decode_task_spec(file.read(MAX_SPEC_BYTES + 1))
    outputs = request.paths("outputs")
    step: Callable[[Progress], Progress]
    match kind := request.text("kind"):
        case "begin":
            step = partial(begin_state, spec, _take_file(request.child("theta")), outputs)
        case "advance":
            fields = request.child("header")
            step = partial(
                advance_state,
                spec,
                fields.integer("round"),
                [_take_file(each) for each in request.children("state")],
                [_take_gradient(spec, fields, each) for each in request.children("gradients")],
                outputs,
            )
        case _:
            raise bad_request(f"kind {kind!r} is unknown")
    progress, end = _take_progress(request.child("progress")), time.monotonic() + PART_SECONDS
    while True:
        progress = step(progress)
        if len(progress.part_ids) >= len(outputs) or time.monotonic() >= end:
            break
    part_ids: list[Json] = [each.hex() for each in progress.part_ids]
    if len(part_ids) == len(outputs):
        return {"part_ids": part_ids}
    norms: list[Json] = [f"{each:x}" for each in progress.norms]
    counts = {"checked": progress.checked_count, "slices": progress.slice_count}
    done: JsonObject = {**counts, "norms": norms, "part_ids": part_ids}
    return {"progress": done, "done": progress.step_count}


def _take_progress(fields: WorkerRequest) -> Progress:
    if not fields.members:
        return Progress()
    try:
        return Progress(
            fields.integer("checked"),
            tuple(int(each, 16) for each in fields.texts("norms")),
            fields.integer("slices"),
            tuple(Hash32(from_plain_hex(each)) for each in fields.texts("part_ids")),
        )
    except ValueError as error:
        raise bad_request("norms and part_ids must be hexadecimal") from error


def _take_file(request: WorkerRequest) -> StoredFile:
    return StoredFile(request.path("path"), Hash32(request.digest("content_id", 32)))


def _take_gradient(spec: TaskSpec, fields: WorkerRequest, request: WorkerRequest) -> StoredGradient:
    header = GradientHeader(
        attempt_id=AttemptId(
            TaskId(fields.integer("task")), fields.integer("round"), fields.integer("attempt")
        ),
        parameter_count=count_parameters(spec.model),
        chain_id=fields.integer("chain_id"),
        theta_root=Hash32(fields.digest("theta_root", 32)),
        seed=Hash32(fields.digest("seed", 32)),
        miner=Address(request.digest("miner", 20)),
    )
    return StoredGradient(_take_file(request), header, request.integer("units"))


def main() -> int:
    """Run the worker on standard input and output."""
    parser = argparse.ArgumentParser(
        prog="python -m node.training.aggregation_worker", description=__doc__
    )
    parser.add_argument("--memory-bytes", type=int, default=MEMORY_BYTES)
    options = parser.parse_args()
    answers = claim_stdout()
    try:
        limit_process(options.memory_bytes)
        serve(answer, sys.stdin.buffer, answers)
    except FrameError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - read by the node that started it
        return MACHINE_STATUS
    except (KeyboardInterrupt, BrokenPipeError):
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
