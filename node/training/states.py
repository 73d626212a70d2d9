"""Saving training states, and restoring them from peers (docs/spec/training.md, 8 and 10)."""

import trio

from chain.primitives import Hash32, TaskId
from chain.training.architectures import count_parameters
from chain.training.optimizer import initial_state
from chain.training.state import (
    FLOAT32_BYTES,
    TrainingState,
    build_training_state,
    compute_layout,
    compute_part_ids,
    compute_state_root,
)
from node.storage.blobs import BlobStore
from node.training.content import Content
from node.training.state_parts import StatePartStore
from node.training.work import ServedTask, TrainingPeers, UnavailableError


class TrainingStates:
    """The training states of all tasks, as blobs."""

    def __init__(
        self,
        blobs: BlobStore,
        state_parts: StatePartStore,
        content: Content,
        peers: TrainingPeers,
    ) -> None:
        self._blobs = blobs
        self._state_parts = state_parts
        self._content = content
        self._peers = peers

    async def restore(self, task: ServedTask) -> None:
        """Load the state that the round in progress starts from into the task's work.

        Raises:
            UnavailableError: A part of it cannot be fetched.
        """
        spec, history = task.spec, task.history
        if history.rounds_settled == 0:
            size = FLOAT32_BYTES * count_parameters(spec.model)
            await self._content.ensure(spec.initial_weights, size)
            theta = await self._content.read(spec.initial_weights)
            state = initial_state(spec.optimizer, theta)
            root = await self.save(task, 0, state)
        else:
            root = history.training_state_root
            state = await self._load(task, root)
        task.work.state, task.work.state_root = state, root

    async def save(self, task: ServedTask, rounds_settled: int, state: TrainingState) -> Hash32:
        """Save the state of a task after that many rounds, and return its root.

        Raises:
            BlobQuotaError: The blob quota has no room for it.
            BlobDiskError: The disk refused it.
        """
        return await trio.to_thread.run_sync(self._save, task.task_id, rounds_settled, state)

    def _save(self, task_id: TaskId, rounds_settled: int, state: TrainingState) -> Hash32:
        # The record is written first: blobs without a record may be collected.
        root = self._state_parts.put(task_id, rounds_settled, compute_part_ids(state))
        for part in state.parts:
            self._blobs.put(part)
        return root

    async def _load(self, task: ServedTask, root: Hash32) -> TrainingState:
        spec = task.spec
        part_ids = self._state_parts.get(root)
        if part_ids is None:
            answer = await self._peers.fetch_state_parts(root)
            if answer is None or compute_state_root(answer) != root:
                raise UnavailableError(f"training state {root.hex()[:16]} cannot be fetched")
            part_ids = tuple(answer)
        layout = compute_layout(spec.optimizer, count_parameters(spec.model))
        if len(part_ids) != len(layout):
            raise UnavailableError(f"training state {root.hex()[:16]} has {len(part_ids)} parts")
        self._state_parts.put(task.task_id, task.history.rounds_settled, part_ids)
        for part_id, size in zip(part_ids, layout, strict=True):
            await self._content.ensure(part_id, size)
        parts = [await self._content.read(part_id) for part_id in part_ids]
        return build_training_state(parts, spec, root)
