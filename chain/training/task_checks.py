"""Checks of a task that need only its specification and limits (docs/spec/training.md, 10.1).

Validators make them before they are ready for a task, submitters before they pay for one, and
miners before they place a bond.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from chain.amounts import format_amount
from chain.contracts.miner_seats import compute_least_units
from chain.primitives import Hash32
from chain.training.architectures import count_parameters
from chain.training.encoding import count_payload_bytes
from chain.training.fees import compute_promised_ppm
from chain.training.resources import (
    count_content_bytes,
    count_disk_bytes,
    count_gradients,
)
from chain.training.state import FLOAT32_BYTES
from chain.training.task_spec import PPB, TaskSpec

LOST_SECONDS: Final = 4
"""A phase can begin so long before its block reaches anyone, because a lying primary dates its
block back (docs/spec/state-transition.md, section 3). It is the most in view 0 with the default
timeouts. More takes several liars one after another, or slow blocks before the liar's turn."""

MIN_VERDICT_SECONDS: Final = 16
"""The shortest verdict phase. Promised checks are done after half of it, or a piece of another
task's work later, and validators vote after three quarters: a quarter is 4 s, as long as the
longest piece (docs/spec/training.md, section 10.2).

It also suffices for an honest miner's gradient to come in time. A liar can take `LOST_SECONDS`;
then a final block must reach the miner, and the gradient the validators: about 2 s at a block
interval of 1 s.
"""

BLOCK_SECONDS: Final = 1
"""The time until a block that begins a phase is final and known to a miner."""

NOISE_SHARE: Final = 10
"""The numerical noise of a task is at most its tolerance divided by this, or honest gradients would
not be paid."""

COMMITMENT_SHARE: Final = 2
"""A miner of the fewest units fetches the model and computes its gradient in at most the commitment
phase divided by this. The rest is for what a liar takes, for a final block to bring the attempt,
and for a block to take the commitment; at least `LOST_SECONDS` and twice `BLOCK_SECONDS`."""

TRANSFERS_SHARE: Final = 2
"""Bringing the gradients of a round to a validator takes at most the verdict phase divided by this.
Validators vote after three quarters of the phase. The quarter between is for what a liar takes and
for the final block with which uploads may begin; at least `LOST_SECONDS` and `BLOCK_SECONDS`."""

CHECKS_SHARE: Final = 2
"""Checking all gradients of a round takes at most the verdict phase divided by this. Gradients come
late, and validators vote after three quarters of the phase."""

EVALUATION_SHARE: Final = 4
"""An evaluation takes at most the result phase divided by this, so that most of it is left."""

CONTENT_QUOTA_SHARE: Final = 8
"""Initial weights and data of one task take at most a node's blob quota divided by this."""

AGGREGATION_SHARE: Final = 4
"""An aggregation takes at most the result phase divided by this, so that most of it is left."""

DISK_MARGIN: Final = 2
"""A task declares at most so many times the disk that it can take, because what is declared is kept
free of other tasks. What it can take is known exactly; the margin is for programs that count a
little more."""

SMALL_DISK_BYTES: Final = 64 * 2**20
"""Any task may declare as much disk as this. So 64 small tasks are promised 4 GiB, an eighth of all
that a node with the default quota promises."""

UPDATE_NANOSECONDS: Final = 100
"""The time to update one parameter of a state, 80 ns where it was measured."""

GRADIENT_NANOSECONDS: Final = 10
"""The time to add one parameter of a gradient, at most 5 ns where it was measured."""

UPDATE_MICROSECONDS: Final = 10_000
"""The time of an aggregation besides its parameters and gradients: the request to the worker, and
the files of the state. The worker took 1 ms where it was measured."""

GRADIENT_MICROSECONDS: Final = 500
"""The time to open and check the file of one gradient, 350 µs where it was measured."""


class ObjectionCode(StrEnum):
    """Why a validator is not ready for a task. RPC shows the values."""

    SPEC_INVALID = "spec_invalid"
    """The submitted bytes are no specification, or break one of its bounds."""
    TERMS_DIFFER = "terms_differ"
    """The terms on the chain are not those of the specification."""
    CONTENT_TOO_LARGE = "content_too_large"
    """Weights and data are more than the node holds for one task."""
    DISK_TOO_LARGE = "disk_too_large"
    """Content, rows, states and gradients take more than the node keeps for all tasks."""
    TOO_NOISY = "too_noisy"
    """Honest machines would compute gradients that differ too much."""
    EVALUATION_TOO_SLOW = "evaluation_too_slow"
    """An evaluation takes too much of the result phase."""
    VERDICT_PHASE_TOO_SHORT = "verdict_phase_too_short"
    """Honest gradients cannot be fetched, or not be checked, in the verdict phase."""
    AGGREGATION_TOO_SLOW = "aggregation_too_slow"
    """Combining the gradients of a round takes too much of the result phase."""
    WORKERS_BUSY = "workers_busy"
    """The task's work does not fit beside that of the tasks that the validator serves."""
    COMMITMENT_PHASE_TOO_SHORT = "commitment_phase_too_short"
    """An honest miner cannot commit in time, not even to a gradient of one unit."""
    RESOURCES_EXCEEDED = "resources_exceeded"
    """The task takes more than it declares, and so more than its fee pays for."""
    DRY_RUN_REFUSED = "dry_run_refused"
    """The worker found that the content breaks a rule."""
    DRY_RUN_FAILED = "dry_run_failed"
    """The worker ran out of memory or processor time, as often as a task is tried."""
    CONTENT_UNAVAILABLE = "content_unavailable"
    """Weights or data cannot be fetched yet; the task is tried again."""
    NO_ROOM = "no_room"
    """The task does not fit on the disk beside what the validator promised to others, or holds."""
    DECLARES_TOO_MUCH = "declares_too_much"
    """The task declares far more disk than it can ever take."""
    VALIDATOR_BUSY = "validator_busy"
    """The validator's machine is too busy for the dry run, or ended it; the task is tried again."""
    TOO_MANY_TASKS = "too_many_tasks"
    """Other tasks leave no time to examine this one; the task is tried again."""


REFUSAL_CODES: Final[Mapping[ObjectionCode, int]] = {
    ObjectionCode.SPEC_INVALID: 1,
    ObjectionCode.TERMS_DIFFER: 2,
    ObjectionCode.CONTENT_TOO_LARGE: 3,
    ObjectionCode.DISK_TOO_LARGE: 4,
    ObjectionCode.VERDICT_PHASE_TOO_SHORT: 5,
    ObjectionCode.EVALUATION_TOO_SLOW: 6,
    ObjectionCode.TOO_NOISY: 7,
    ObjectionCode.RESOURCES_EXCEEDED: 8,
    ObjectionCode.DRY_RUN_REFUSED: 9,
    ObjectionCode.DRY_RUN_FAILED: 10,
    ObjectionCode.AGGREGATION_TOO_SLOW: 11,
    ObjectionCode.WORKERS_BUSY: 12,
    ObjectionCode.COMMITMENT_PHASE_TOO_SHORT: 13,
    ObjectionCode.NO_ROOM: 14,
    ObjectionCode.DECLARES_TOO_MUCH: 15,
}
"""The numbers with which validators refuse on the chain. The other objections are no answers: the
validator tries again."""


UNCHECKED_CODES: Final = frozenset(
    REFUSAL_CODES[each] for each in (ObjectionCode.DRY_RUN_REFUSED, ObjectionCode.DRY_RUN_FAILED)
)
"""With these answers a validator has found that its workers cannot check the task's gradients: the
content breaks a rule, or a check takes more memory or time than a worker has."""

UNSERVED_CODES: Final = frozenset(
    REFUSAL_CODES[each] for each in (ObjectionCode.SPEC_INVALID, ObjectionCode.TERMS_DIFFER)
)
"""With these answers there is no specification by which a validator could do duties to the task."""


def describe_refusal(code: int) -> str:
    """The name of a code with which validators refused; the number if this version has none."""
    found = find_code(code)
    return str(code) if found is None else found.value


def find_code(number: int) -> ObjectionCode | None:
    """The reason that a validator's answer stands for; None if this version has none."""
    return next((each for each, code in REFUSAL_CODES.items() if code == number), None)


@dataclass(frozen=True, slots=True)
class Objection:
    """A reason for not being ready for a task."""

    code: ObjectionCode
    reason: str
    """One sentence for people, with the numbers that were compared."""


def list_content(spec: TaskSpec) -> Mapping[Hash32, int]:
    """The length in bytes of the initial weights and of each data shard, by content id."""
    wanted = {spec.initial_weights: FLOAT32_BYTES * count_parameters(spec.model)}
    wanted.update((shard.content_id, shard.byte_count) for shard in spec.data.shards)
    return wanted


def find_phase_objection(spec: TaskSpec, blob_bytes_per_second: int) -> Objection | None:
    """The reason why honest gradients could come too late for a verdict; None if there is none.

    Args:
        spec: The task's specification.
        blob_bytes_per_second: What a validator can download, a parameter of the network.
    """
    seconds = spec.phases.verdict_seconds
    if seconds < MIN_VERDICT_SECONDS:
        return Objection(
            ObjectionCode.VERDICT_PHASE_TOO_SHORT,
            f"verdict_seconds is {seconds}: gradients could come too late for the verdicts; at "
            f"least {MIN_VERDICT_SECONDS} are needed",
        )
    # A miner uploads its own first; then a validator has all of them to download.
    gradient_count = count_gradients(spec)
    transfer_bytes = count_payload_bytes(count_parameters(spec.model)) * (1 + gradient_count)
    milliseconds = 1_000 * transfer_bytes // blob_bytes_per_second
    left = compute_transfer_milliseconds(seconds)
    if 1_000 * transfer_bytes > left * blob_bytes_per_second:
        return Objection(
            ObjectionCode.VERDICT_PHASE_TOO_SHORT,
            f"bringing {gradient_count} gradients to a validator takes {milliseconds} ms, and "
            f"verdict_seconds {seconds} leaves {left} ms for it",
        )
    return None


def compute_transfer_milliseconds(verdict_seconds: int) -> int:
    """The time for uploading a gradient and bringing all of them to a validator.

    It is half of the phase, or what is left of three quarters once a liar has taken its part.
    """
    half = 1_000 * verdict_seconds // TRANSFERS_SHARE
    return min(half, 750 * verdict_seconds - 1_000 * (LOST_SECONDS + BLOCK_SECONDS))


def compute_work_milliseconds(commit_seconds: int) -> int:
    """The time for fetching a model and computing a gradient: half of the phase, or less.

    In a short phase it is what is left once a liar has taken its part and a block has brought the
    attempt, less the time for a block to take the commitment.
    """
    half = 1_000 * commit_seconds // COMMITMENT_SHARE
    return max(0, min(half, 1_000 * (commit_seconds - LOST_SECONDS - 2 * BLOCK_SECONDS)))


def compute_model_milliseconds(spec: TaskSpec, blob_bytes_per_second: int) -> int:
    """The time to download the model of a round, rounded up."""
    model_bytes = FLOAT32_BYTES * count_parameters(spec.model)
    return -(-1_000 * model_bytes // blob_bytes_per_second)


def find_commitment_objection(spec: TaskSpec, blob_bytes_per_second: int) -> Objection | None:
    """The reason why no honest miner commits in time; None if one with the fewest units does.

    The fewest are the least units of a seat (`compute_least_units`). In a task that breaks this
    rule every miner would miss its attempts and lose its bonds. The rule uses the time that the
    task declares for a unit. A task whose units take longer is refused after the dry run.

    Args:
        spec: The task's specification.
        blob_bytes_per_second: What a miner can download, a parameter of the network.
    """
    seconds = spec.phases.commit_seconds
    units = compute_least_units(spec.reward.max_units)
    computation = units * spec.resources.unit_milliseconds
    model = compute_model_milliseconds(spec, blob_bytes_per_second)
    left = compute_work_milliseconds(seconds)
    if model + computation <= left:
        return None
    work = "a unit" if units == 1 else f"the {units} units of a seat"
    return Objection(
        ObjectionCode.COMMITMENT_PHASE_TOO_SHORT,
        f"a miner needs up to {model} ms to fetch the model and {computation} ms to compute "
        f"{work}, as declared, and commit_seconds {seconds} leaves {left} ms for both",
    )


def find_size_objection(spec: TaskSpec, quota_bytes: int) -> Objection | None:
    """The reason why a node cannot hold the task's content; None if it can.

    Args:
        spec: The task's specification.
        quota_bytes: The node's quota for all blobs.
    """
    content_bytes = count_content_bytes(spec)
    limit = quota_bytes // CONTENT_QUOTA_SHARE
    if content_bytes > limit:
        return Objection(
            ObjectionCode.CONTENT_TOO_LARGE,
            f"weights and data have {content_bytes} bytes, and blobs.quota_bytes of a validator "
            f"allows a task {limit}",
        )
    return None


def find_disk_objection(spec: TaskSpec, limit_bytes: int) -> Objection | None:
    """The reason why a node cannot keep all files of the task; None if it can.

    Args:
        spec: The task's specification.
        limit_bytes: What the node keeps for all tasks together.
    """
    needed, declared = count_disk_bytes(spec), spec.resources.disk_bytes
    if needed > declared:
        return Objection(
            ObjectionCode.RESOURCES_EXCEEDED,
            f"the task takes up to {needed} bytes of disk, and declares {declared}",
        )
    most = max(DISK_MARGIN * needed, SMALL_DISK_BYTES)
    if declared > most:
        return Objection(
            ObjectionCode.DECLARES_TOO_MUCH,
            f"the task declares {declared} bytes of disk, but takes {needed} at most; declare no "
            f"more than {most}",
        )
    if declared <= limit_bytes:
        return None
    return Objection(
        ObjectionCode.DISK_TOO_LARGE,
        f"the task takes up to {declared} bytes of disk, a validator keeps at most {limit_bytes} "
        "for all tasks",
    )


def compute_aggregation_milliseconds(spec: TaskSpec) -> int:
    """The time in which a worker combines the gradients of a round and updates the state.

    It is rounded up, and 10 ms at least: a task of a few parameters takes the worker, too, and many
    such tasks together take much of it.
    """
    gradient_count = count_gradients(spec)
    nanoseconds = UPDATE_NANOSECONDS + GRADIENT_NANOSECONDS * gradient_count
    microseconds = UPDATE_MICROSECONDS + GRADIENT_MICROSECONDS * gradient_count
    return -(-(count_parameters(spec.model) * nanoseconds + 1_000 * microseconds) // 1_000_000)


def find_aggregation_objection(spec: TaskSpec) -> Objection | None:
    """The reason why the result of a round would come too late; None if there is none."""
    milliseconds, seconds = compute_aggregation_milliseconds(spec), spec.phases.result_seconds
    if milliseconds <= 1_000 * seconds // AGGREGATION_SHARE:
        return None
    return Objection(
        ObjectionCode.AGGREGATION_TOO_SLOW,
        f"combining the gradients of a round takes {milliseconds} ms, more than a quarter of "
        f"result_seconds {seconds}",
    )


@dataclass(frozen=True, slots=True)
class Promise:
    """What a validator promises to a task while it is open."""

    check_ppm: int
    """Millionths of the time of a worker that checks gradients and evaluates models."""
    aggregation_ppm: int
    """Millionths of the time of the worker that combines gradients."""
    disk_bytes: int
    """For content, rows, states and gradients."""


def compute_promise(spec: TaskSpec) -> Promise:
    """What a validator promises to a task: what the task declares and pays for."""
    aggregation = -(-1_000 * compute_aggregation_milliseconds(spec) // spec.phases.result_seconds)
    return Promise(compute_promised_ppm(spec), aggregation, spec.resources.disk_bytes)


def find_time_objection(spec: TaskSpec, workers: int) -> Objection | None:
    """The reason why the declared times do not fit into the phases; None if they do.

    The declared times count here, and not those that a dry run measures, because a task is promised
    the time that it declares and pays for. An aggregation may take at most the time that is
    declared for an evaluation, because the task pays for both by that number.

    Args:
        spec: The task's specification.
        workers: The workers that check gradients side by side.
    """
    declared = spec.resources
    units, seconds = spec.reward.max_units, spec.phases.verdict_seconds
    checks_milliseconds = -(-units * declared.unit_milliseconds // workers)
    if checks_milliseconds > 1_000 * seconds // CHECKS_SHARE:
        return Objection(
            ObjectionCode.VERDICT_PHASE_TOO_SHORT,
            f"checking {units} units takes up to {checks_milliseconds} ms, as declared, more than "
            f"half of verdict_seconds {seconds}",
        )
    if declared.evaluation_milliseconds > 1_000 * spec.phases.result_seconds // EVALUATION_SHARE:
        return Objection(
            ObjectionCode.EVALUATION_TOO_SLOW,
            f"an evaluation takes up to {declared.evaluation_milliseconds} ms, as declared, more "
            f"than a quarter of result_seconds {spec.phases.result_seconds}",
        )
    aggregation_milliseconds = compute_aggregation_milliseconds(spec)
    if aggregation_milliseconds > declared.evaluation_milliseconds:
        return Objection(
            ObjectionCode.RESOURCES_EXCEEDED,
            f"combining the gradients of a round takes {aggregation_milliseconds} ms, and "
            f"evaluation_milliseconds declares {declared.evaluation_milliseconds}",
        )
    return None


def find_declared_objection(
    spec: TaskSpec, *, unit_milliseconds: int, evaluation_milliseconds: int, peak_bytes: int
) -> Objection | None:
    """The reason why a dry run took more than the task declares; None if it did not.

    Args:
        spec: The task's specification.
        unit_milliseconds: The time of checking a gradient of one unit.
        evaluation_milliseconds: The time of an evaluation of the held-out rows.
        peak_bytes: The memory that the worker needed.
    """
    declared = spec.resources
    for name, measured, limit in (
        ("unit_milliseconds", unit_milliseconds, declared.unit_milliseconds),
        ("evaluation_milliseconds", evaluation_milliseconds, declared.evaluation_milliseconds),
        ("peak_bytes", peak_bytes, declared.peak_bytes),
    ):
        if measured > limit:
            return Objection(
                ObjectionCode.RESOURCES_EXCEEDED,
                f"{name} is {measured} in the dry run, and {limit} is declared",
            )
    return None


def find_noise_objection(spec: TaskSpec, noise_ppb: int) -> Objection | None:
    """The reason why honest machines would not agree on a task's gradients; None if they would.

    Args:
        spec: The task's specification.
        noise_ppb: How far rounding moves its gradients, in parts per billion.
    """
    tolerance_ppb = spec.verification.tolerance_ppb
    if noise_ppb <= tolerance_ppb // NOISE_SHARE:
        return None
    return Objection(
        ObjectionCode.TOO_NOISY,
        f"rounding moves its gradients by {format_amount(noise_ppb * PPB)}, more than a tenth of "
        f"its tolerance, {format_amount(tolerance_ppb * PPB)}",
    )
