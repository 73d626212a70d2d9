"""Preparing for a new task: fetch its content, then dry-run it (docs/spec/training.md, 10)."""

from collections.abc import Callable
from typing import Final

import structlog
import trio

from chain.contracts import task_registry
from chain.contracts.task_registry import TaskStatus
from chain.primitives import TaskId
from chain.training.architectures import count_parameters
from chain.training.encoding import count_payload_bytes
from chain.training.state import FLOAT32_BYTES
from chain.training.task_spec_codec import compute_terms
from node.chain.contract_reader import ContractReader
from node.storage.blobs import BlobStore
from node.training.content import Content, list_shard_ids
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
        verifier: WorkerPool,
        jobs: Jobs,
        count_served: Callable[[], int],
    ) -> None:
        self._blob_bytes_per_second = blob_bytes_per_second
        self._contracts = contracts
        self._blobs = blobs
        self._content = content
        self._verifier = verifier
        self._jobs = jobs
        self._count_served = count_served
        self._turns = trio.CapacityLimiter(PREPARING_LIMIT)
        self._wait_seconds: dict[TaskId, float] = {}
        """The wait that follows the task's next failure."""

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
                await self._prepare(task)
        except (UnavailableError, WorkerFailedError):
            seconds = self._wait_seconds.get(task.task_id, RETRY_SECONDS)
            self._wait_seconds[task.task_id] = min(2 * seconds, RETRY_LIMIT_SECONDS)
            self._jobs.put_off(JobKey(task.task_id, JobKind.PREPARE), seconds)
            raise
        self._wait_seconds.pop(task.task_id, None)

    async def _prepare(self, task: ServedTask) -> None:
        spec, work = task.spec, task.work
        wanted = {spec.initial_weights: FLOAT32_BYTES * count_parameters(spec.model)}
        wanted.update((shard.content_id, shard.byte_count) for shard in spec.data.shards)
        objection = self._find_objection(task, sum(wanted.values()))
        if objection is not None:
            # Refused before anything is fetched: a submitter must not fill validators' disks.
            _log.warning("task refused", task=task.task_id, reason=objection)
            work.is_accepted = False
            work.is_content_held = True
            return
        missing = sum(
            size for content_id, size in wanted.items() if not self._blobs.has(content_id)
        )
        if missing and not self._blobs.has_room_for_content(missing):
            raise UnavailableError(
                f"no room for {missing} bytes of content; raise blobs.quota_bytes"
            )
        for content_id, size in sorted(wanted.items()):
            await self._content.ensure(content_id, size)
        work.is_content_held = True
        try:
            answer = await self._verifier.ask(
                "dry_run", self._content.get_inputs(task, spec.initial_weights)
            )
        except WorkerRefusedError as refusal:
            await self._content.check_intact([spec.initial_weights, *list_shard_ids(spec)])
            _log.warning("task refused", task=task.task_id, reason=str(refusal))
            work.is_accepted = False
            return
        measured = {name: value for name, value in answer.items() if name != "id"}
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
