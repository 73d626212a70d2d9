"""What a submitter is told before it pays for a task that validators would refuse."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from chain.crypto import content_id
from chain.training.architectures import Mlp, count_parameters
from chain.training.resources import count_content_bytes, count_disk_bytes
from chain.training.task_spec import TaskSpec
from node.client import task_checks
from node.client.task_bundle import TaskBundle
from node.client.task_checks import TaskMeasurement, check_task, measure_task
from node.config import BlobsSection
from node.storage.blobs import PROMISED_SHARE
from pot_common.errors import OperatorError
from pot_common.framing import WORKER_ANSWERS
from tests.worlds.training_node import MEASURED, SHARDS, SPEC

BYTES_PER_SECOND = 10**9
SMALL_QUOTA = PROMISED_SHARE * count_disk_bytes(SPEC)
"""The smallest quota of a node that keeps all files of the task."""
DISK = SPEC.resources.disk_bytes
UNIT_MS = SPEC.resources.unit_milliseconds
EVALUATION_MS = SPEC.resources.evaluation_milliseconds
PEAK = SPEC.resources.peak_bytes


def build_bundle(spec: TaskSpec) -> TaskBundle:
    """The task with weights of its model's size, and with what its files take of the disk."""
    weights = bytes(4 * count_parameters(spec.model))
    blobs = {content_id(data): data for data in (weights, *SHARDS)}
    spec = replace(spec, initial_weights=content_id(weights))
    resources = replace(spec.resources, disk_bytes=count_disk_bytes(spec))
    return TaskBundle(replace(spec, resources=resources), blobs)


def with_disk(spec: TaskSpec, disk_bytes: int) -> TaskBundle:
    bundle = build_bundle(spec)
    resources = replace(spec.resources, disk_bytes=disk_bytes)
    return replace(bundle, spec=replace(bundle.spec, resources=resources))


def set_quota(monkeypatch: pytest.MonkeyPatch, quota_bytes: int) -> None:
    section = BlobsSection.model_construct(quota_bytes=quota_bytes)
    monkeypatch.setattr(task_checks, "BlobsSection", lambda: section)


def test_task_that_just_fits_the_limits_is_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    set_quota(monkeypatch, SMALL_QUOTA)
    check_task(build_bundle(SPEC), BYTES_PER_SECOND)


MANY_UNITS = replace(
    SPEC,
    model=Mlp(inputs=64, hidden=(700,), classes=10),
    phases=replace(SPEC.phases, result_seconds=4),
    reward=replace(SPEC.reward, max_units=1_024),
)
SHORT = replace(SPEC, phases=replace(SPEC.phases, verdict_seconds=15))


@pytest.mark.parametrize(
    ("bundle", "quota_bytes", "reason"),
    [
        (build_bundle(SPEC), 8 * count_content_bytes(SPEC) - 1, "weights and data have "),
        (build_bundle(SPEC), SMALL_QUOTA - 1, "a validator keeps at most"),
        (with_disk(SPEC, DISK - 1), 2**36, f"takes up to {DISK} bytes of disk, and declares"),
        (with_disk(SPEC, 2**26 + 1), 2**36, f"takes {DISK} at most; declare no more"),
        (build_bundle(SHORT), 2**36, "verdict_seconds is 15: gradients could come too late"),
        (build_bundle(MANY_UNITS), 2**36, "1065 ms, more than a quarter of result_seconds 4"),
        (TaskBundle(SPEC, {}), 2**36, "which is not among its weights and data"),
    ],
)
def test_task_beyond_a_limit_of_validators_is_refused_unpaid(
    monkeypatch: pytest.MonkeyPatch, bundle: TaskBundle, quota_bytes: int, reason: str
) -> None:
    set_quota(monkeypatch, quota_bytes)
    with pytest.raises(OperatorError, match=reason) as refusal:
        check_task(bundle, BYTES_PER_SECOND)
    assert str(refusal.value).endswith("nothing was paid")


def answer_dry_runs(monkeypatch: pytest.MonkeyPatch, answer: Mapping[str, int]) -> None:
    """Let a worker that computes nothing answer dry runs."""

    def run(command: Sequence[str], **_options: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, 0, WORKER_ANSWERS.encode({"id": 0, **answer}))

    monkeypatch.setattr(task_checks.subprocess, "run", run)


MOST = {
    "unit_milliseconds": UNIT_MS,
    "evaluation_milliseconds": EVALUATION_MS,
    "noise_ppb": SPEC.verification.tolerance_ppb // 10,
    "peak_bytes": PEAK,
}
"""The most that the dry run of the task may measure."""


def test_dry_run_may_take_what_the_task_declares(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_dry_runs(monkeypatch, {**MEASURED, **MOST})
    measured = TaskMeasurement(UNIT_MS, EVALUATION_MS, PEAK)
    assert measure_task(build_bundle(SPEC)) == measured


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("unit_milliseconds", f"is {UNIT_MS + 1} in the dry run, and {UNIT_MS} is declared"),
        ("evaluation_milliseconds", f"in the dry run, and {EVALUATION_MS} is declared"),
        ("peak_bytes", f"peak_bytes is {PEAK + 1} in the dry run"),
        ("noise_ppb", "rounding moves its gradients by 0.000010001, more than a tenth"),
    ],
)
def test_task_whose_dry_run_takes_too_much_is_refused_unpaid(
    monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    answer_dry_runs(monkeypatch, {**MEASURED, **MOST, name: MOST[name] + 1})
    with pytest.raises(OperatorError, match=reason) as refusal:
        measure_task(build_bundle(SPEC))
    assert str(refusal.value).endswith("nothing was paid")
