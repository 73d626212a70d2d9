"""Preparing for a new task: fetch its content, then dry-run it (docs/spec/training.md, 10)."""

import math
from collections.abc import Iterable
from typing import Final, assert_never

import structlog
import trio

from chain.contracts import task_registry
from chain.contracts.task_registry import TaskStatus
from chain.json_types import Json, JsonObject
from chain.primitives import TaskId
from chain.training.leases import READY_CODE
from chain.training.resources import (
    count_disk_bytes,
    count_rows_bytes,
    count_stored_bytes,
)
from chain.training.task_checks import (
    REFUSAL_CODES,
    UNCHECKED_CODES,
    Objection,
    ObjectionCode,
    Promise,
    compute_promise,
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
from chain.training.task_spec_codec import find_terms_objection
from node.chain.contract_reader import ContractReader
from node.clock import Clock
from node.storage.blobs import BlobQuotaError, BlobStore
from node.training.capacity import Capacity
from node.training.content import Content, Need, get_integer, list_shard_ids
from node.training.dry_runs import DryRunTurns, compute_dry_run_seconds
from node.training.fetch_turns import FetchTurns
from node.training.jobs import RETRY_SECONDS, Jobs
from node.training.readiness import ReadinessLog, ReadinessState
from node.training.rows import RowsFile, TaskRows
from node.training.turns import Turn
from node.training.work import JobKey, JobKind, ServedTask, UnavailableError
from node.training.worker_pool import (
    WorkerFailedError,
    WorkerFilesError,
    WorkerKilledError,
    WorkerPool,
    WorkerRefusedError,
    WorkerStalledError,
)

RETRY_LIMIT_SECONDS: Final = 30.0
"""The longest wait between two tries: each failure doubles the task's wait, up to this."""

PREPARING_LIMIT: Final = 16
"""The most tasks whose content is fetched at once; the others wait. There are fewer places to fetch
new content, since a task with a slow holder gives its place up only while another waits for it."""

DRY_RUN_TRIES: Final = 2
"""A new task is refused after so many dry runs that ended their worker, took too much processor
time, or took more than the task declares. Its fee pays for as many. A dry run that got too little
processor time, or that this machine ended, is none of them."""

_log = structlog.get_logger("node.training")


class TaskDelayedError(UnavailableError):
    """A task cannot be prepared now; `code` says why."""

    def __init__(self, code: ObjectionCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Preparation:
    """Fetches the content of tasks and dry-runs them; the outcome is kept in the task's work."""

    def __init__(
        self,
        *,
        blob_bytes_per_second: int,
        contracts: ContractReader,
        blobs: BlobStore,
        content: Content,
        rows: TaskRows,
        dry_runs: WorkerPool,
        dry_run_seconds: float,
        check_workers: int,
        capacity: Capacity,
        clock: Clock,
        jobs: Jobs,
        readiness: ReadinessLog,
    ) -> None:
        self._blob_bytes_per_second = blob_bytes_per_second
        self._contracts = contracts
        self._blobs = blobs
        self._content = content
        self._rows = rows
        self._dry_runs = dry_runs
        self._dry_run_seconds = dry_run_seconds
        self._check_workers = check_workers
        self._capacity = capacity
        self._clock = clock
        self._jobs = jobs
        self._readiness = readiness
        self._turns = FetchTurns(PREPARING_LIMIT)
        self._wait_seconds: dict[TaskId, float] = {}
        """The wait that follows the task's next failure."""
        self._dry_run_turns = DryRunTurns()
        self._paid: set[TaskId] = set()
        """The tasks whose terms on the chain are those of their specifications."""

    def claim(self, task: ServedTask) -> None:
        """Promise workers' time and disk to a task that is to be prepared, or let it wait for them.

        This is called for one task after another in the order of the chain, so that all validators
        promise the room that is left to the same tasks. A task that this validator has refused, and
        that is active all the same, is promised disk only. A task that pays for less than its
        specification declares is refused here, before it is promised anything or gets a turn.
        """
        is_active = task.history.status is not TaskStatus.PENDING
        if task.work.answer_code is None:
            unpaid = self._find_terms_objection(task)
            if unpaid is not None:
                self._refuse(task, unpaid)
        if _is_refused(task):
            return
        promise = compute_promise(task.spec)
        if task.work.is_accepted is False:
            disk_bytes = max(promise.disk_bytes, count_disk_bytes(task.spec))
            promise = Promise(0, 0, disk_bytes)
        self._capacity.claim(task.task_id, promise, is_active=is_active)

    def find_disk_objection(self, task_id: TaskId) -> str | None:
        """Why a task is promised no disk; None if it is."""
        if self._capacity.has_promise(task_id):
            return None
        shortage = self._capacity.find_objection(task_id)
        answer = self._readiness.get(task_id)
        reason = None if answer is None else answer.reason
        return shortage.reason if shortage is not None else reason or "the task is not examined yet"

    def release(self, task_id: TaskId) -> None:
        """End the promise to a closed or refused task, and wake the tasks that now have room."""
        self._paid.discard(task_id)
        self._wait_seconds.pop(task_id, None)
        self._dry_run_turns.forget(task_id)
        self._end_waits(self._capacity.release(task_id))

    def _end_waits(self, task_ids: Iterable[TaskId]) -> None:
        for each in task_ids:
            self._jobs.end_wait(JobKey(each, JobKind.PREPARE))

    async def prepare(self, task: ServedTask) -> None:
        """Fetch the content of a task, and dry-run it unless its answer on the chain tells enough.

        Few tasks are fetched at once, and one is dry-run. Each failure doubles the wait before the
        next try.

        Raises:
            UnavailableError: Content cannot be fetched, or other tasks leave no time to examine it.
            WorkerFailedError: The dry run did not finish.
        """
        if _is_refused(task):
            return
        # Disk becomes free when the content of a closed task is deleted, of which no event tells.
        self._end_waits(self._capacity.give_room())
        try:
            is_fetched: bool | None = None
            async with self._turns.take():
                is_fetched = await self._fetch(task)
            if is_fetched is None:
                raise UnavailableError("its content comes slowly, and other tasks wait for a turn")
            if is_fetched:
                await self._examine(task)
        except (UnavailableError, WorkerFailedError) as error:
            if task.work.is_accepted is not False:
                waiting = ReadinessState.WAITING
                self._readiness.object(task.task_id, waiting, _describe_delay(error))
            seconds = self._wait_seconds.get(task.task_id, RETRY_SECONDS)
            self._wait_seconds[task.task_id] = min(2 * seconds, RETRY_LIMIT_SECONDS)
            self._jobs.put_off(JobKey(task.task_id, JobKind.PREPARE), seconds)
            raise
        self._wait_seconds.pop(task.task_id, None)

    async def _fetch(self, task: ServedTask) -> bool:
        """Fetch what a task needs; False if it is refused.

        Raises:
            UnavailableError: Content cannot be fetched, or there is no room for the task.
        """
        spec, work = task.spec, task.work
        objection = self._find_objection(task) if work.answer_code is None else None
        if objection is not None:
            # Refused before anything is fetched: a submitter must not fill validators' disks.
            self._refuse(task, objection)
            return False
        busy = self._capacity.find_objection(task.task_id)
        if busy is not None:
            return self._wait_for_room(task, busy)
        if self._readiness.get(task.task_id) is None:
            self._readiness.set_state(task.task_id, ReadinessState.PREPARING)
        wanted = list_content(spec)
        missing = sum(
            count_stored_bytes(size)
            for content_id, size in wanted.items()
            if not self._blobs.has(content_id)
        )
        if self._rows.find(task) is None:
            missing += count_stored_bytes(count_rows_bytes(spec))
        if missing and not self._blobs.has_room_for_content(missing):
            return self._wait_for_room(
                task,
                Objection(
                    ObjectionCode.NO_ROOM,
                    f"the node has no room for data that takes {missing} bytes; its operator can "
                    "raise blobs.quota_bytes",
                ),
            )
        for content_id, size in sorted(wanted.items()):
            await self._content.ensure(content_id, size, Need(task.task_id), is_urgent=False)
        work.is_content_held = True
        return True

    def _wait_for_room(self, task: ServedTask, objection: Objection) -> bool:
        """Let a task wait; False if it is refused, because it is new and has waited too long.

        Raises:
            TaskDelayedError: It waits.
        """
        if task.history.status is TaskStatus.PENDING and self._is_too_late(task):
            self._refuse(task, objection)
            return False
        raise TaskDelayedError(objection.code, objection.reason)

    async def _examine(self, task: ServedTask) -> None:
        """Dry-run a task whose content is held, and decide whether to be ready for it.

        A validator that has said so does not ask again: noise is drawn anew each time. One that has
        refused a task that is active all the same learns only whether its workers can check. Rows
        are stored after a good dry run only, so one that holds them has made it before it started.

        Raises:
            TaskDelayedError: The dry run is to be repeated later.
            WorkerFailedError: The dry run did not finish.
        """
        spec, work = task.spec, task.work
        is_accepted = work.is_accepted is None and self._rows.is_examined(task)
        if work.answer_code == READY_CODE or is_accepted:
            self._accept(task)
            return
        if work.is_accepted is False and self._rows.find(task) is not None:
            work.can_check = True
        if work.is_accepted is False and work.can_check is not None:
            return
        try:
            # The turn includes all tries, because an answer pays for no longer examination.
            async with (
                self._dry_run_turns.take(
                    task.task_id, self._compute_declared(task), task.work.has_attempt
                ),
                self._rows.open(task) as rows,
            ):
                measured = await self._dry_run(task, rows)
                if measured is None:
                    return
                objection = find_noise_objection(spec, get_integer(measured, "noise_ppb"))
                work.can_check = True
                if objection is not None and work.is_accepted is None:
                    self._refuse(task, objection)
                    return
                await self._rows.keep(task, rows)
        except WorkerRefusedError as refusal:
            await self._check_content(task)
            self._refuse(task, Objection(ObjectionCode.DRY_RUN_REFUSED, str(refusal)))
            return
        except BlobQuotaError as error:
            raise TaskDelayedError(ObjectionCode.NO_ROOM, str(error)) from error
        if work.is_accepted is None:
            self._accept(task, **measured)

    def _accept(self, task: ServedTask, **measured: Json) -> None:
        """Be ready for a task."""
        _log.info("task accepted", task=task.task_id, **measured)
        task.work.is_accepted, task.work.answer_code = True, READY_CODE
        task.work.can_check = True
        self._readiness.set_state(task.task_id, ReadinessState.READY)

    async def _check_content(self, task: ServedTask) -> None:
        """Check that the disk did not damage what a dry run has read.

        Raises:
            UnavailableError: A blob is not held, or the disk damaged it.
        """
        rows_id = self._rows.find(task)
        stored = () if rows_id is None else (rows_id,)
        shard_ids = list_shard_ids(task.spec)
        await self._content.check_intact([task.spec.initial_weights, *shard_ids, *stored])

    async def _dry_run(self, task: ServedTask, rows: RowsFile) -> JsonObject | None:
        """What the dry run measured; None if the task was refused after enough failures.

        A new task is tried again at once, so that its examination takes no longer than its answer
        is paid for. Of a task that was refused before, it does not matter how much it takes.

        Raises:
            WorkerRefusedError: The content breaks a rule.
            WorkerFailedError: The dry run of an active task did not finish.
            TaskDelayedError: A file of this node failed; or its machine is too busy or killed the
                worker; or the window for answers is too short for the dry runs of a new task.
        """
        is_new = task.history.status is TaskStatus.PENDING
        if is_new:
            self._require_time(task)
        code, reason = ObjectionCode.DRY_RUN_FAILED, ""
        for _ in range(DRY_RUN_TRIES):
            try:
                answer = await self._ask_in_time(task, rows)
            except (WorkerStalledError, WorkerKilledError) as error:
                raise TaskDelayedError(ObjectionCode.VALIDATOR_BUSY, str(error)) from error
            except WorkerFilesError as error:
                # Says nothing about the task: it is fetched again if need be, and run again.
                await self._check_content(task)
                raise TaskDelayedError(ObjectionCode.CONTENT_UNAVAILABLE, str(error)) from error
            except WorkerFailedError as error:
                # Others are ready for an active task, so this machine may be at fault: it tries
                # again later.
                if not is_new:
                    raise
                code, reason = ObjectionCode.DRY_RUN_FAILED, str(error)
                continue
            measured = {name: value for name, value in answer.items() if name != "id"}
            exceeded = find_declared_objection(
                task.spec,
                unit_milliseconds=get_integer(measured, "unit_milliseconds"),
                evaluation_milliseconds=get_integer(measured, "evaluation_milliseconds"),
                peak_bytes=get_integer(measured, "peak_bytes"),
            )
            if exceeded is None or task.work.is_accepted is False:
                return measured
            task.work.can_check = True
            code, reason = exceeded.code, exceeded.reason
        self._refuse(task, Objection(code, f"{DRY_RUN_TRIES} dry runs failed: {reason}"))
        return None

    async def _ask_in_time(self, task: ServedTask, rows: RowsFile) -> JsonObject:
        """The answer to one dry run, which ends with the time for answers of a new task.

        Raises:
            WorkerStalledError: That time ended first.
        """
        is_new = task.history.status is TaskStatus.PENDING
        left = self._count_left(task)
        with trio.move_on_after(left if is_new else math.inf):
            return await self._dry_runs.ask(
                "dry_run",
                {**self._content.get_inputs(task, task.spec.initial_weights), **rows.members},
                Turn(),
                timeout_seconds=self._get_limit(task),
            )
        raise WorkerStalledError(f"no answer to dry_run in the {left} s that answers had left")

    def _require_time(self, task: ServedTask) -> None:
        """Begin no examination that could end too late to be paid."""
        if self._is_too_late(task):
            raise TaskDelayedError(
                ObjectionCode.TOO_MANY_TASKS,
                f"other tasks came first, and {self._count_left(task)} s are left to examine this "
                f"one, which may take {self._count_needed(task)} s",
            )

    def _is_too_late(self, task: ServedTask) -> bool:
        """Whether an examination that begins now could end after the time for answers."""
        return self._count_left(task) < self._count_needed(task)

    def _get_limit(self, task: ServedTask) -> float:
        """The most processor time of one dry run; others are ready for an active task."""
        if task.history.status is TaskStatus.ACTIVE:
            return self._dry_run_seconds
        return self._compute_declared(task)

    def _compute_declared(self, task: ServedTask) -> float:
        """The most processor time of one dry run, by what the task declares."""
        return compute_dry_run_seconds(task.spec, self._dry_run_seconds)

    def _count_needed(self, task: ServedTask) -> int:
        """The most processor seconds that an examination takes, rounded up."""
        return math.ceil(DRY_RUN_TRIES * self._get_limit(task))

    def _count_left(self, task: ServedTask) -> int:
        """The seconds until answers are over."""
        return task.history.lease.window_time - self._clock.now_ms() // 1000

    def _refuse(self, task: ServedTask, objection: Objection) -> None:
        work, code = task.work, REFUSAL_CODES[objection.code]
        if code in UNCHECKED_CODES:
            work.can_check = False
        if work.is_accepted is False:
            return  # the first answer stays
        _log.warning("task refused", task=task.task_id, reason=objection.reason)
        self._readiness.object(task.task_id, ReadinessState.REFUSED, objection)
        work.is_accepted, work.answer_code = False, code
        self.release(task.task_id)

    def _find_terms_objection(self, task: ServedTask) -> Objection | None:
        """The reason why the terms on the chain are not those of a task, which never change."""
        if task.task_id in self._paid:
            return None
        terms = self._contracts.read(task_registry.get_terms(task.task_id))
        resources = self._contracts.read(task_registry.get_resources(task.task_id))
        objection = find_terms_objection(task.spec, terms, resources)
        if objection is None:
            self._paid.add(task.task_id)
        return objection

    def _find_objection(self, task: ServedTask) -> Objection | None:
        """The reason why this node is not ready for a task; None before its dry run."""
        spec = task.spec
        return (
            find_size_objection(spec, self._blobs.quota_bytes)
            or find_disk_objection(spec, self._blobs.promised_share_bytes)
            or find_phase_objection(spec, self._blob_bytes_per_second)
            or find_commitment_objection(spec, self._blob_bytes_per_second)
            # Before the declared times: to declare more does not make the phase longer.
            or find_aggregation_objection(spec)
            or find_time_objection(spec, self._check_workers)
        )


def _is_refused(task: ServedTask) -> bool:
    """Whether nothing is done for a task. An active one is served all the same."""
    return task.work.is_accepted is False and task.history.status is TaskStatus.PENDING


def _describe_delay(error: UnavailableError | WorkerFailedError) -> Objection:
    match error:
        case TaskDelayedError():
            return Objection(error.code, str(error))
        case UnavailableError():
            return Objection(ObjectionCode.CONTENT_UNAVAILABLE, str(error))
        case WorkerFailedError():
            return Objection(ObjectionCode.DRY_RUN_FAILED, str(error))
        case _:
            assert_never(error)
