"""What a node serves of its state to nodes that join by snapshot (docs/spec/wire.md, section 9)."""

from collections.abc import Sequence
from typing import Final

from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.state.trie import MissingTrieNodeError
from chain.state.walk import collect_chunk
from chain.training.history import TaskHistory, compute_outcome
from node.chain.training_index import TrainingIndex
from node.network.protocols.state import TaskRecord
from node.storage.block_store import BlockStore
from node.storage.database import Database, Table

ROUNDS_BACK_LIMIT: Final = 1_000
"""Settled rounds that are taken back to tell of an older block: a snapshot is of a recent one."""


class SnapshotSource:
    """Reads for other nodes; each holds a view of the database for one answer only."""

    def __init__(self, store: BlockStore, database: Database, index: TrainingIndex) -> None:
        self._store = store
        self._database = database
        self._index = index

    def state_chunk(
        self, number: BlockNumber, start: bytes, end: bytes, limit_bytes: int
    ) -> tuple[bytes, ...] | None:
        """Items of the state after a block; None if it is not held."""
        header = self._store.header(number)
        if header is None or number > self._store.head_number():
            return None
        with self._database.read() as reader:
            try:
                return collect_chunk(
                    lambda key: reader.get(Table.STATE, key),
                    header.state_root,
                    start,
                    end,
                    limit_bytes,
                )
            except MissingTrieNodeError:
                return None

    def state_nodes(self, hashes: Sequence[Hash32], limit_bytes: int) -> tuple[bytes, ...]:
        """The nodes or code of these hashes, empty where one is not held or has no room."""
        found = []
        with self._database.read() as reader:
            for node_hash in hashes:
                node = reader.get(Table.STATE, node_hash) or b""
                limit_bytes -= len(node)
                found.append(node if limit_bytes >= 0 else b"")
        return tuple(found)

    def task_records(
        self, number: BlockNumber, first: TaskId, count: int
    ) -> tuple[TaskRecord, ...] | None:
        """What the tasks from `first` on were as of a block; None if that is not known."""
        if not self._store.first_held() <= number <= self._store.head_number():
            return None
        records = []
        for task_id in range(first, first + count):
            history = self._index.history(TaskId(task_id))
            rewards = None if history is None else self._get_rewards(history, number)
            if history is None or rewards is None:
                return None
            records.append(TaskRecord(history.spec, rewards))
        return tuple(records)

    def _get_rewards(
        self, history: TaskHistory, number: BlockNumber
    ) -> tuple[tuple[Address, int], ...] | None:
        """What was earned as of a block: what rounds settled since have added is taken off."""
        earned = self._index.rewards(history.task_id)
        spec = self._index.spec(history)
        for back in range(history.rounds_settled):
            if back == ROUNDS_BACK_LIMIT:
                return None
            settled = self._index.settled_round(history.task_id, history.rounds_settled - 1 - back)
            if settled is None or settled.block_number <= number:
                break  # not held: settled before our own snapshot, so before the block asked for
            assert spec is not None, "a task with settled rounds has a specification"
            outcome = compute_outcome(settled.attempt, spec, self._index.validator_set)
            for account, pay in outcome.payouts:
                earned[account] -= pay
        return tuple(sorted((account, pay) for account, pay in earned.items() if pay))
