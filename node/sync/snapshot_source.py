"""What a node serves of its state to nodes that join by snapshot (docs/spec/wire.md, section 9)."""

from collections.abc import Sequence
from itertools import islice

from chain.primitives import BlockNumber, Hash32, TaskId
from chain.state.trie import MissingTrieNodeError
from chain.state.walk import collect_chunk
from node.chain.training_index import TrainingIndex
from node.network.protocols.state import TaskRecord
from node.storage.block_store import BlockStore
from node.storage.database import Database, Table


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
        self, number: BlockNumber, first: TaskId, count: int, after: bytes, accounts_limit: int
    ) -> tuple[TaskRecord, ...] | None:
        """The tasks from `first` on as of a block, until the accounts are enough for one answer.

        None if they are not known. Of the first task only accounts above `after` are listed.
        """
        if not self._store.first_held() <= number <= self._store.head_number():
            return None
        records: list[TaskRecord] = []
        with self._database.read() as reader:
            for task_id in map(TaskId, range(first, first + count)):
                if accounts_limit == 0:
                    break
                history = self._index.history(task_id)
                earned = self._index.rewards_at(reader, task_id, number, b"" if records else after)
                if history is None or earned is None:
                    return None
                rewards = tuple(islice(earned, accounts_limit))
                accounts_limit -= len(rewards)
                is_complete = next(earned, None) is None
                records.append(TaskRecord(history.spec, rewards, is_complete))
        return tuple(records)
