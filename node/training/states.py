"""Saving training states, and restoring them from peers (docs/spec/training.md, 8 and 10).

A state can take hundreds of megabytes. Its parts are blobs that the aggregation worker reads and
writes; this process knows their content ids only.
"""

from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import trio

from chain.json_types import JsonObject
from chain.primitives import Hash32
from chain.training.architectures import count_parameters
from chain.training.state import FLOAT32_BYTES, compute_layout, compute_state_root
from chain.training.task_checks import compute_aggregation_milliseconds, compute_promise
from node.storage.blobs import BlobStore
from node.training.content import Content, Need, get_integer
from node.training.state_parts import StatePartStore
from node.training.turns import Turn, compute_rate
from node.training.work import ServedTask, TrainingPeers, UnavailableError
from node.training.worker_pool import WorkerFailedError, WorkerPool


class TrainingStates:
    """The training states of all tasks, as blobs."""

    def __init__(
        self,
        blobs: BlobStore,
        state_parts: StatePartStore,
        content: Content,
        peers: TrainingPeers,
        aggregator: WorkerPool,
    ) -> None:
        self._blobs = blobs
        self._state_parts = state_parts
        self._content = content
        self._peers = peers
        self._aggregator = aggregator

    async def restore(self, task: ServedTask) -> None:
        """Have the state that the round in progress starts from, and tell the task's work of it.

        Raises:
            UnavailableError: A part of it cannot be fetched.
            WorkerFailedError: The worker did not finish.
            WorkerRefusedError: The worker refused the initial weights.
        """
        if task.history.rounds_settled == 0:
            part_ids = await self._begin(task)
        else:
            part_ids = await self._fetch(task, task.history.training_state_root)
        task.work.state, task.work.state_root = part_ids, compute_state_root(part_ids)

    async def _begin(self, task: ServedTask) -> tuple[Hash32, ...]:
        spec = task.spec
        await self._content.ensure(
            spec.initial_weights,
            FLOAT32_BYTES * count_parameters(spec.model),
            Need(task.task_id),
        )
        await self._content.check_intact([spec.initial_weights], is_urgent=True)
        _, *sizes = compute_layout(spec.optimizer, count_parameters(spec.model))
        if not sizes:
            part_ids = (spec.initial_weights,)
            await self.record(task, 0, part_ids)
            return part_ids
        members: JsonObject = {"theta": self._content.get_file(spec.initial_weights)}
        promise = (task.task_id, "begin")
        return await self.compute(
            task, 0, "begin", members, promise, lambda: True, held=[spec.initial_weights]
        )

    async def compute(
        self,
        task: ServedTask,
        rounds_settled: int,
        kind: str,
        members: JsonObject,
        promise: Hashable,
        is_wanted: Callable[[], bool],
        *,
        held: Sequence[Hash32] = (),
    ) -> tuple[Hash32, ...]:
        """Have the aggregation worker compute a state, store it, and return its parts.

        It computes for about a second; then another task has its turn if its rate pays for it
        first (node/training/turns.py).

        Args:
            task: The task.
            rounds_settled: The state is that after so many rounds.
            kind: The kind of the request (node/training/aggregation_worker.py).
            members: What the request has besides specification and outputs.
            promise: Identifies what the time is counted against. Each has the time of one
                aggregation.
            is_wanted: Whether the state is still needed.
            held: The first parts of the state, which are stored already.

        Raises:
            WorkOverError: The state was not needed any more.
            WorkerFailedError: The worker did not finish.
            WorkerRefusedError: The worker refused a file.
            BlobQuotaError: The blob quota has no room for the state.
            BlobDiskError: The disk refused the state.
        """
        spec = task.spec
        sizes = compute_layout(spec.optimizer, count_parameters(spec.model))[len(held) :]
        with ExitStack() as stack:
            uploads = [
                stack.enter_context(await trio.to_thread.run_sync(self._blobs.upload, size))
                for size in sizes
            ]
            request: JsonObject = {
                "spec": self._content.get_spec_path(task),
                "outputs": [str(upload.path) for upload in uploads],
                **members,
            }
            turn = Turn(
                promise,
                task.work.get_promised_seconds(compute_aggregation_milliseconds(spec)),
                task.task_id,
                compute_rate(compute_promise(spec).aggregation_ppm),
                lambda: task.work.due_at,
                is_wanted,
            )
            answer: JsonObject = {"progress": {}, "done": 0}
            while "progress" in answer:
                done, progress = get_integer(answer, "done"), answer["progress"]
                answer = await self._aggregator.ask(kind, {**request, "progress": progress}, turn)
                turn = replace(turn, is_begun=True)
                if "progress" in answer and get_integer(answer, "done") <= done:
                    raise WorkerFailedError("the update makes no progress")
            computed = _take_part_ids(answer, len(uploads))
            part_ids = (*held, *computed)
            # The record is written first: blobs without a record may be collected.
            await self.record(task, rounds_settled, part_ids)
            for upload, part_id in zip(uploads, computed, strict=True):
                await trio.to_thread.run_sync(upload.finish_written, part_id)
        return part_ids

    async def record(
        self, task: ServedTask, rounds_settled: int, part_ids: Sequence[Hash32]
    ) -> Hash32:
        """Record the parts of a task's state after that many rounds, and return its root."""
        return await trio.to_thread.run_sync(
            self._state_parts.put, task.task_id, rounds_settled, part_ids
        )

    def holds(self, part_ids: Sequence[Hash32]) -> bool:
        """Whether all parts of a state are stored; they are then kept for a while."""
        return all(self._blobs.renew(part_id) for part_id in part_ids)

    async def _fetch(self, task: ServedTask, root: Hash32) -> tuple[Hash32, ...]:
        part_ids = self._state_parts.get(root)
        if part_ids is None:
            answer = await self._peers.fetch_state_parts(root)
            if answer is None or compute_state_root(answer) != root:
                raise UnavailableError(f"training state {root.hex()[:16]} cannot be fetched")
            part_ids = tuple(answer)
        layout = compute_layout(task.spec.optimizer, count_parameters(task.spec.model))
        if len(part_ids) != len(layout):
            raise UnavailableError(f"training state {root.hex()[:16]} has {len(part_ids)} parts")
        await self.record(task, task.history.rounds_settled, part_ids)
        for part_id, size in zip(part_ids, layout, strict=True):
            await self._content.ensure(part_id, size, Need(task.task_id))
            if self._content.get_size(part_id) != size:
                raise UnavailableError(f"training state {root.hex()[:16]} has a part of other size")
        await self._content.check_intact(part_ids, is_urgent=True)
        return part_ids


def _take_part_ids(answer: JsonObject, count: int) -> list[Hash32]:
    part_ids = answer.get("part_ids")
    if not isinstance(part_ids, list) or len(part_ids) != count:
        raise WorkerFailedError(f"part_ids is {part_ids!r}")
    return [Hash32(bytes.fromhex(str(each))) for each in part_ids]
