"""The checks of a validator, made by a submitter before money moves (docs/spec/training.md, 10.1).

The limits are a node's defaults. An operator may have set lower ones, so a task that passes may
still be refused by single validators; `pot task show` then says why.
"""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Final

from chain.contracts.task_registry import TaskResources
from chain.json_types import JsonObject
from chain.primitives import Hash32
from chain.training.resources import count_disk_bytes, count_rows_bytes
from chain.training.task_checks import (
    compute_aggregation_milliseconds,
    find_aggregation_objection,
    find_commitment_objection,
    find_declared_objection,
    find_disk_objection,
    find_noise_objection,
    find_phase_objection,
    find_size_objection,
    find_time_objection,
    list_content,
)
from chain.training.task_spec_codec import encode_task_spec
from node.client.rpc_client import get_integer
from node.client.task_bundle import TaskBundle
from node.config import BlobsSection, VerifierSection
from node.storage.blobs import PROMISED_SHARE
from pot_common.errors import OperatorError
from pot_common.framing import WORKER_ANSWERS, WORKER_QUESTIONS, FrameError
from pot_common.worker import FILES_FAULT

TIME_MARGIN: Final = 4
"""A task declares this many times the time that its dry run took here."""

MEMORY_MARGIN: Final = 2
"""A task declares this many times the memory that its dry run took here."""

INFLATED: Final = 16
"""A submitter is warned if it declares more than this many times what its dry run took. A quarter
of that is enough for machines that are four times as slow."""

MIN_MILLISECONDS: Final = 50
"""The least time that is declared: the shortest times are mostly noise."""

PATIENCE: Final = 10
"""A dry run may take this many times its processor time by the clock, as at a validator."""

UNPAID: Final = "nothing was paid"
"""The end of each refusal, so that a submitter knows where its money is."""


@dataclass(frozen=True, slots=True)
class TaskMeasurement:
    """What the dry run measured."""

    unit_milliseconds: int
    evaluation_milliseconds: int
    peak_bytes: int


def declare_resources(bundle: TaskBundle, measured: TaskMeasurement) -> TaskBundle:
    """The task with a declaration of what it takes, several times what was measured here.

    A validator refuses a task that takes more than it declares. Its machine may be slower than this
    one, or busy, so the declaration leaves room.
    """
    resources = TaskResources(
        unit_milliseconds=max(MIN_MILLISECONDS, TIME_MARGIN * measured.unit_milliseconds),
        evaluation_milliseconds=max(
            MIN_MILLISECONDS,
            TIME_MARGIN * measured.evaluation_milliseconds,
            compute_aggregation_milliseconds(bundle.spec),
        ),
        # Validators have no more memory for it, so a larger declaration would only be dearer.
        peak_bytes=max(
            measured.peak_bytes,
            min(MEMORY_MARGIN * measured.peak_bytes, VerifierSection().memory_limit_bytes),
        ),
        disk_bytes=count_disk_bytes(bundle.spec),
    )
    return replace(bundle, spec=replace(bundle.spec, resources=resources), is_measured=True)


def check_task(bundle: TaskBundle, blob_bytes_per_second: int) -> None:
    """Check what needs no dry run.

    Args:
        bundle: The task.
        blob_bytes_per_second: What a validator can download, a parameter of the network.

    Raises:
        OperatorError: Validators would refuse the task.
    """
    for content_id, size in list_content(bundle.spec).items():
        blob = bundle.blobs.get(content_id)
        if blob is None or len(blob) != size:
            raise OperatorError(
                f"the task names content 0x{content_id.hex()} of {size} bytes, which is not among "
                f"its weights and data; {UNPAID}"
            )
    quota_bytes = BlobsSection().quota_bytes
    objection = (
        find_size_objection(bundle.spec, quota_bytes)
        or find_disk_objection(bundle.spec, quota_bytes // PROMISED_SHARE)
        or find_phase_objection(bundle.spec, blob_bytes_per_second)
        or find_aggregation_objection(bundle.spec)
    )
    if objection is not None:
        raise OperatorError(f"validators would refuse the task: {objection.reason}; {UNPAID}")


def check_times(bundle: TaskBundle, blob_bytes_per_second: int) -> None:
    """Check that what the task declares fits into its phases, and into a worker's memory.

    Args:
        bundle: The task.
        blob_bytes_per_second: What a miner can download, a parameter of the network.

    Raises:
        OperatorError: Validators would refuse the task.
    """
    objection = find_commitment_objection(
        bundle.spec, blob_bytes_per_second
    ) or find_time_objection(bundle.spec, VerifierSection().workers)
    if objection is not None:
        raise OperatorError(
            f"validators would refuse the task: {objection.reason}; make its phases longer, or "
            f"declare less in [resources]; {UNPAID}"
        )
    limit_bytes = VerifierSection().memory_limit_bytes
    if bundle.spec.resources.peak_bytes > limit_bytes:
        raise OperatorError(
            f"peak_bytes declares {bundle.spec.resources.peak_bytes} bytes of memory, and a worker "
            f"of a validator has {limit_bytes}: declare less in [resources]; {UNPAID}"
        )


def find_inflated(resources: TaskResources, measured: TaskMeasurement) -> list[str]:
    """A sentence for each resource of which a task declares, and so pays for, far too much."""
    pairs = (
        ("unit_milliseconds", resources.unit_milliseconds, measured.unit_milliseconds),
        (
            "evaluation_milliseconds",
            resources.evaluation_milliseconds,
            measured.evaluation_milliseconds,
        ),
        ("peak_bytes", resources.peak_bytes, measured.peak_bytes),
    )
    return [
        f"{name} declares {declared}, and the dry run took {taken}: the fee pays for what is "
        "declared"
        for name, declared, taken in pairs
        # The shortest times are mostly noise.
        if declared > INFLATED * (taken if name == "peak_bytes" else max(MIN_MILLISECONDS, taken))
    ]


def measure_task(bundle: TaskBundle) -> TaskMeasurement:
    """Run the task as a validator's worker does, with a node's default limits.

    Raises:
        OperatorError: The task cannot be run, or exceeds the limits.
    """
    limits = VerifierSection()
    with TemporaryDirectory(prefix="pot-dry-run-") as directory:
        question = _write_task(bundle, Path(directory))
        command = [sys.executable, "-m", "miner.verify"]
        command += ["--memory-bytes", str(limits.memory_limit_bytes)]
        command += ["--processor-seconds", str(limits.timeout_seconds)]
        try:
            result = subprocess.run(
                command,
                input=WORKER_QUESTIONS.encode(question),
                capture_output=True,
                check=False,
                timeout=PATIENCE * limits.timeout_seconds,
            )
            answer = WORKER_ANSWERS.read(BytesIO(result.stdout))
        except subprocess.TimeoutExpired as error:
            raise OperatorError(
                f"the dry run did not end in {PATIENCE * limits.timeout_seconds:g} s: this machine "
                f"is too busy; try again later, or on another one; {UNPAID}"
            ) from error
        except FrameError as error:
            raise OperatorError(f"the dry run failed: {error}; {UNPAID}") from error
    if result.returncode == -signal.SIGPROF:
        raise OperatorError(
            f"the dry run takes more than the {limits.timeout_seconds:g} s of processor time that "
            f"validators allow it: make units or the model smaller; {UNPAID}"
        )
    if answer is None:
        raise OperatorError(
            f"the dry run ended without an answer; it may need more than the "
            f"{limits.memory_limit_bytes} bytes of memory that validators allow it: make units or "
            f"the model smaller; {UNPAID}"
        )
    if answer.get("error") == FILES_FAULT:
        raise OperatorError(
            f"the dry run failed: {answer.get('detail')}; make room in {gettempdir()}; {UNPAID}"
        )
    if "error" in answer:
        detail = answer.get("detail") or answer["error"]
        raise OperatorError(
            f"validators would refuse the task: {detail}; mend the task file or its data; {UNPAID}"
        )
    objection = find_noise_objection(bundle.spec, get_integer(answer, "noise_ppb"))
    if objection is not None:
        raise OperatorError(f"validators would refuse the task: {objection.reason}; {UNPAID}")
    measured = TaskMeasurement(
        get_integer(answer, "unit_milliseconds"),
        get_integer(answer, "evaluation_milliseconds"),
        get_integer(answer, "peak_bytes"),
    )
    if bundle.is_measured:
        exceeded = find_declared_objection(
            bundle.spec,
            unit_milliseconds=measured.unit_milliseconds,
            evaluation_milliseconds=measured.evaluation_milliseconds,
            peak_bytes=measured.peak_bytes,
        )
        if exceeded is not None:
            raise OperatorError(f"validators would refuse the task: {exceeded.reason}; {UNPAID}")
    return measured


def _write_task(bundle: TaskBundle, directory: Path) -> JsonObject:
    """Write the files of a dry run, and return the question to the worker."""
    spec = bundle.spec

    def write(name: str, data: bytes) -> str:
        (directory / name).write_bytes(data)
        return str(directory / name)

    def write_blob(content_id: Hash32) -> str:
        return write(content_id.hex(), bundle.blobs[content_id])

    rows = directory / "rows"
    rows.touch()
    os.truncate(rows, count_rows_bytes(spec))
    return {
        "id": 0,
        "kind": "dry_run",
        "rows": str(rows),
        "spec": write("spec.json", encode_task_spec(spec)),
        "theta": write_blob(spec.initial_weights),
        "shards": [write_blob(shard.content_id) for shard in spec.data.shards],
    }
