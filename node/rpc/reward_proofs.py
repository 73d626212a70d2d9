"""Trees of rewards that reward proofs are taken from (docs/spec/training.md, section 9).

A task that has paid many accounts has a tree that takes seconds and much memory. So small trees do
not wait for large ones, and none is forgotten for another as long as there is room.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from chain.contracts.addresses import REWARD_DISTRIBUTOR
from chain.primitives import Address, BlockNumber, TaskId
from chain.training.history import TaskHistory
from chain.training.rewards import RewardTree, build_reward_tree
from node.chain.training_index import TrainingIndex
from node.training.reward_trees import SMALL_ACCOUNTS

LARGE_LIMIT: Final = 4
"""The most large trees that are kept, each of 1 kB for each account that its task has paid."""

SMALL_LIMIT: Final = 16
"""The most small trees that are kept, in all 64 MB."""


@dataclass(frozen=True, slots=True)
class PaidTree:
    """A task's rewards and their tree after a payment."""

    paid_block: BlockNumber
    rewards: Mapping[Address, int]
    tree: RewardTree


@dataclass(slots=True)
class _Size:
    """The trees of one size: those that are kept, the latest used last."""

    limit: int
    building: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while one is built: trees take memory, and slow other threads."""
    kept: OrderedDict[TaskId, PaidTree] = field(default_factory=OrderedDict)

    def find(self, task_id: TaskId, paid_block: BlockNumber) -> PaidTree | None:
        known = self.kept.get(task_id)
        if known is None or known.paid_block < paid_block:
            return None
        self.kept.move_to_end(task_id)
        return known


class RewardProofs:
    """Builds the tree of a task once after each payment."""

    def __init__(self, index: TrainingIndex, chain_id: int) -> None:
        self._index = index
        self._chain_id = chain_id
        self._small, self._large = _Size(SMALL_LIMIT), _Size(LARGE_LIMIT)

    async def find_tree(self, history: TaskHistory) -> PaidTree:
        """A task's rewards and their tree, at the head or later."""
        task_id, paid_block = history.task_id, history.lease.progress_block
        known = self._small.find(task_id, paid_block) or self._large.find(task_id, paid_block)
        if known is not None:
            return known
        is_large = await asyncio.to_thread(self._index.has_more_rewards, task_id, SMALL_ACCOUNTS)
        size = self._large if is_large else self._small
        async with size.building:
            # A request that waited before this one may have been for the same tree.
            known = size.find(task_id, paid_block)
            if known is None:
                known = await asyncio.to_thread(self._build, task_id, paid_block)
                size.kept.pop(task_id, None)
                size.kept[task_id] = known
                if len(size.kept) > size.limit:
                    size.kept.popitem(last=False)
        return known

    def _build(self, task_id: TaskId, paid_block: BlockNumber) -> PaidTree:
        rewards = self._index.rewards(task_id)
        tree = build_reward_tree(self._chain_id, REWARD_DISTRIBUTOR, task_id, rewards)
        return PaidTree(paid_block, rewards, tree)
