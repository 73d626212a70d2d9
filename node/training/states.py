"""Training states: made, kept, and restored from peers by their root.

docs/spec/training.md, sections 8 and 10.
"""

import trio

from chain.primitives import Hash32
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
from chain.training.task_spec import TaskSpec
from node.blobs import BlobStore
from node.state_parts import StatePartStore
from node.training.content import Content
from node.training.work import ServedTask, TrainingPeers, Unavailable


class TrainingStates:
    """The states of all tasks, as blobs."""

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
        """Have the state that the round in progress starts from.

        Raises:
            Unavailable: it is not to be had.
        """
        spec, history = task.spec, task.history
        if history.rounds_settled == 0:
            size = FLOAT32_BYTES * count_parameters(spec.model)
            await self._content.ensure(spec.initial_weights, size)
            theta = await self._content.read(spec.initial_weights)
            state = initial_state(spec.optimizer, theta)
            root = await self.save(state)
        else:
            root = history.training_state_root
            state = await self._load(spec, root)
        task.work.state, task.work.state_root = state, root

    async def save(self, state: TrainingState) -> Hash32:
        """Keep a state; its root.

        Raises:
            BlobQuotaExceeded, BlobDiskFailed: there is no room for it.
        """
        return await trio.to_thread.run_sync(self._save, state)

    def _save(self, state: TrainingState) -> Hash32:
        for part in state.parts:
            self._blobs.put(part)
        part_ids = compute_part_ids(state)
        root = compute_state_root(part_ids)
        self._state_parts.put(root, part_ids)
        return root

    async def _load(self, spec: TaskSpec, root: Hash32) -> TrainingState:
        part_ids = self._state_parts.get(root)
        if part_ids is None:
            answer = await self._peers.fetch_state_parts(root)
            if answer is None or compute_state_root(answer) != root:
                raise Unavailable(f"training state {root.hex()[:16]} is not to be had")
            part_ids = tuple(answer)
        layout = compute_layout(spec.optimizer, count_parameters(spec.model))
        if len(part_ids) != len(layout):
            raise Unavailable(f"training state {root.hex()[:16]} has {len(part_ids)} parts")
        for part_id, size in zip(part_ids, layout, strict=True):
            await self._content.ensure(part_id, size)
        parts = [await self._content.read(part_id) for part_id in part_ids]
        state = build_training_state(parts, spec, root)
        self._state_parts.put(root, part_ids)
        return state
