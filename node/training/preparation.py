"""Preparing for a new task: fetch its content, then dry-run it (docs/spec/training.md, 10)."""

from collections.abc import Callable
from typing import Final

import structlog
import trio

from chain.contracts import task_registry
from chain.contracts.task_registry import TaskStatus
from chain.json_types import JsonObject
from chain.primitives import TaskId
from chain.training.architectures import count_parameters
from chain.training.encoding import count_payload_bytes
from chain.training.state import FLOAT32_BYTES
from chain.training.task_spec import TaskSpec
from chain.training.task_spec_codec import compute_terms
from node.chain.contract_reader import ContractReader
from node.clock import Clock
from node.storage.blobs import BlobStore
from node.training.content import Content, get_integer, list_shard_ids
from node.training.disk_budgets import DiskBudgets
from node.training.jobs import RETRY_SECONDS, Jobs
from node.training.work import JobKey, JobKind, ServedTask, UnavailableError
from node.training.worker_pool import WorkerFailedError, WorkerPool, WorkerRefusedError

RETRY_LIMIT_SECONDS: Final = 30.0
"""The longest wait between two tries: each failure doubles the task's wait, up to this."""

SERVED_TASKS_LIMIT: Final = 64
"""The most tasks that this node is ready for: its duties to each are listed after every block."""

PREPARING_LIMIT: Final = 4
"""The most tasks that are prepared at once. Submitting a task is nearly free, so any number may
wait."""

DRY_RUN_TRIES: Final = 2
"""A new task is refused after so many dry runs that killed their worker or took too long."""

NOISE_SHARE: Final = 10
"""The numerical noise of a task is at most its tolerance divided by this, or honest machines would
be taken for cheats."""

EVALUATION_SHARE: Final = 4
"""An evaluation takes at most the result phase divided by this, so that most of it is left."""

CONTENT_QUOTA_SHARE: Final = 8
"""Initial weights and data of one task take at most the blob quota divided by this."""

_log = structlog.get_logger("node.training")


class Preparation:
    """Fetches the content of tasks and dry-runs them; the outcome is kept in the task's work."""

    def __init__(
        self,
        *,
        blob_bytes_per_second: int,
        contracts: ContractReader,
        blobs: BlobStore,
        content: Content,
        dry_runs: WorkerPool,
        budgets: DiskBudgets,
        clock: Clock,
        jobs: Jobs,
        count_served: Callable[[], int],
    ) -> None:
        self._blob_bytes_per_second = blob_bytes_per_second
        self._contracts = contracts
        self._blobs = blobs
        self._content = content
        self._dry_runs = dry_runs
        self._budgets = budgets
        self._clock = clock
        self._jobs = jobs
        self._count_served = count_served
        self._turns = trio.CapacityLimiter(PREPARING_LIMIT)
        self._wait_seconds: dict[TaskId, float] = {}
        """The wait that follows the task's next failure."""
        self._failed_dry_runs: dict[TaskId, int] = {}

    async def prepare(self, task: ServedTask) -> None:
        """Fetch the content of a task and dry-run it.

        Few tasks are prepared at once, and each failure doubles the wait before the next try.

        Raises:
            UnavailableError: Content cannot be fetched, or too many tasks are served.
            WorkerFailedError: The dry run did not finish.
        """
        try:
            async with self._turns:
                served = self._count_served()
                if task.history.status is TaskStatus.PENDING and served >= SERVED_TASKS_LIMIT:
                    raise UnavailableError(f"this node serves {served} tasks already")
                await self._prepare_in_budget(task)
        except (UnavailableError, WorkerFailedError):
            seconds = self._wait_seconds.get(task.task_id, RETRY_SECONDS)
            self._wait_seconds[task.task_id] = min(2 * seconds, RETRY_LIMIT_SECONDS)
            self._jobs.put_off(JobKey(task.task_id, JobKind.PREPARE), seconds)
            raise
        self._wait_seconds.pop(task.task_id, None)
        self._failed_dry_runs.pop(task.task_id, None)

    async def _prepare_in_budget(self, task: ServedTask) -> None:
        spec = task.spec
        objection = self._budgets.find_objection(task.task_id, spec, self._clock.now_ms() // 1000)
        if objection is not None:
            if self._budgets.is_too_large(spec):
                self._refuse(task, objection)
                return
            raise UnavailableError(objection)
        is_new = not self._budgets.has(task.task_id)
        self._budgets.promise(task.task_id, spec)
        try:
            await self._prepare(task)
        finally:
            if is_new and task.work.is_accepted is not True:
                self._budgets.withdraw(task.task_id)

    def _refuse(self, task: ServedTask, reason: str) -> None:
        _log.warning("task refused", task=task.task_id, reason=reason)
        task.work.is_accepted = False
        task.work.is_content_held = True

    async def _prepare(self, task: ServedTask) -> None:
        spec, work = task.spec, task.work
        wanted = {spec.initial_weights: FLOAT32_BYTES * count_parameters(spec.model)}
        wanted.update((shard.content_id, shard.byte_count) for shard in spec.data.shards)
        objection = self._find_objection(task, sum(wanted.values()))
        if objection is not None:
            # Refused before anything is fetched: a submitter must not fill validators' disks.
            self._refuse(task, objection)
            return
        missing = sum(
            size for content_id, size in wanted.items() if not self._blobs.has(content_id)
        )
        # The directory may hold hundreds of thousands of files.
        if missing and not await trio.to_thread.run_sync(self._blobs.has_room_for_content, missing):
            raise UnavailableError(
                f"no room for {missing} bytes of content; raise blobs.quota_bytes"
            )
        for content_id, size in sorted(wanted.items()):
            await self._content.ensure(content_id, size)
        work.is_content_held = True
        try:
            answer = await self._dry_runs.ask(
                "dry_run", self._content.get_inputs(task, spec.initial_weights)
            )
        except WorkerRefusedError as refusal:
            await self._content.check_intact([spec.initial_weights, *list_shard_ids(spec)])
            self._refuse(task, str(refusal))
            return
        except WorkerFailedError as error:
            failures = self._failed_dry_runs.get(task.task_id, 0) + 1
            self._failed_dry_runs[task.task_id] = failures
            # Others are ready for an active task, so this machine may be at fault: it tries again.
            if failures < DRY_RUN_TRIES or task.history.status is not TaskStatus.PENDING:
                raise
            self._refuse(task, f"{failures} dry runs failed: {error}")
            return
        measured = {name: value for name, value in answer.items() if name != "id"}
        objection = _find_measured_objection(spec, answer)
        if objection is not None:
            self._refuse(task, objection)
            return
        _log.info("task accepted", task=task.task_id, **measured)
        work.is_accepted = True

    def _find_objection(self, task: ServedTask, content_bytes: int) -> str | None:
        """The reason why this node takes no part in a task; None if it takes part."""
        spec = task.spec
        if self._contracts.read(task_registry.get_terms(task.task_id)) != compute_terms(spec):
            return "terms differ from the spec"
        limit = self._blobs.quota_bytes // CONTENT_QUOTA_SHARE
        if content_bytes > limit:
            return f"content of {content_bytes} bytes, blobs.quota_bytes allows a task {limit}"
        payload_bytes = count_payload_bytes(count_parameters(spec.model))
        needed_seconds = payload_bytes * spec.reward.max_units // self._blob_bytes_per_second
        if needed_seconds > spec.phases.verdict_seconds:
            return (
                f"verdict_seconds {spec.phases.verdict_seconds} is too short to fetch "
                f"{spec.reward.max_units} gradients, which takes {needed_seconds} s"
            )
        return None


def _find_measured_objection(spec: TaskSpec, measured: JsonObject) -> str | None:
    """The reason why a task that was dry-run cannot be served; None if it can.

    Raises:
        WorkerFailedError: The worker has not measured everything.
    """
    noise_ppb = get_integer(measured, "noise_ppb")
    tolerance_ppb = spec.verification.tolerance_ppb
    if noise_ppb > tolerance_ppb // NOISE_SHARE:
        return (
            f"two ways to compute its gradient differ by {noise_ppb} parts per billion; its "
            f"tolerance of {tolerance_ppb} allows a tenth of it"
        )
    milliseconds = get_integer(measured, "evaluation_milliseconds")
    if milliseconds > 1_000 * spec.phases.result_seconds // EVALUATION_SHARE:
        return (
            f"an evaluation takes {milliseconds} ms, more than a quarter of result_seconds "
            f"{spec.phases.result_seconds}"
        )
    return None
