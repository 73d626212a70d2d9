"""The finalizer: makes blocks final and moves the head (docs/spec/consensus.md, section 5).

Consensus and block sync both use it. Its order is safe against a crash at any point: the block is
stored durably, then the log of votes is truncated, and only then do other parts learn of it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import trio

from chain.primitives import BlockNumber, TaskId
from chain.transition import BlockResult
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from chain.types.transaction import Transaction
from node.chain.executor import Executor, Refusal
from node.chain.training_index import TrainingIndex, list_changed_tasks
from node.storage.block_store import BlockStore, Snapshot
from pot_common.errors import OperatorError


@dataclass(frozen=True, slots=True)
class NewHead:
    """A new head: the child of the old head, or the block of a snapshot."""

    block: Block
    certificate: CommitCertificate
    transactions: tuple[Transaction, ...] = ()
    """The transactions of the block; empty for a snapshot."""
    changed_tasks: tuple[TaskId, ...] = ()
    """The tasks that the block changed, by id; empty for a snapshot, which changes any."""
    is_snapshot: bool = False


class Finalizer:
    """Executes, stores and indexes final blocks, and tells its listeners of each new head."""

    def __init__(
        self,
        *,
        store: BlockStore,
        executor: Executor,
        index: TrainingIndex,
        truncate_log: Callable[[BlockNumber], None] | None = None,
    ) -> None:
        """Create it.

        Args:
            store: Stores final blocks.
            executor: Executes each block once.
            index: Computes the rows on training that are stored with a block.
            truncate_log: Deletes this validator's votes up to a block number. It is called in the
                thread that stored the block. None if this node has no consensus key.
        """
        self.lock = trio.Lock()
        """Held while the head moves. Other code takes it to keep the head from moving."""
        self._store = store
        self._executor = executor
        self._index = index
        self._truncate_log = truncate_log
        self._listeners: list[Callable[[NewHead], None]] = []

    def add_listener(self, listener: Callable[[NewHead], None]) -> None:
        """Call `listener` with each new head, in the order in which listeners were added."""
        self._listeners.append(listener)

    async def finalize(self, block: Block, certificate: CommitCertificate) -> None:
        """Execute and store a certified child of the head. Does nothing for any other block.

        Raises:
            OperatorError: The certified block is invalid here.
            StorageError: The disk refused.
        """
        async with self.lock:
            if block.number != self._store.head_number() + 1:
                return
            outcome = await self._executor.execute(block)
            if isinstance(outcome, Refusal):
                raise OperatorError(
                    f"a quorum finalized block {block.number}, which this node finds invalid "
                    f"({outcome.error}): compare version and genesis with the other validators'"
                )
            changed = await trio.to_thread.run_sync(self._store_block, block, certificate, outcome)
            self._tell(NewHead(block, certificate, outcome.transactions, changed))

    async def adopt(self, snapshot: Snapshot) -> None:
        """Make the block of a verified snapshot the head, unless the head is already higher.

        Raises:
            StorageError: The disk refused.
        """
        async with self.lock:
            if snapshot.block.number <= self._store.head_number():
                return
            await trio.to_thread.run_sync(self._store_snapshot, snapshot)
            self._tell(NewHead(snapshot.block, snapshot.certificate, is_snapshot=True))

    def _tell(self, head: NewHead) -> None:
        self._executor.forget()
        for listener in self._listeners:
            listener(head)

    def _store_block(
        self, block: Block, certificate: CommitCertificate, result: BlockResult
    ) -> tuple[TaskId, ...]:
        """Store a block durably, and return the tasks that it changed."""
        rows = self._index.compute_rows(block.header, result.receipts)
        self._store.finalize(
            block,
            certificate,
            receipts=result.receipts,
            senders=result.senders,
            delta=result.delta,
            training_rows=rows,
            next_validator_set=self._executor.read_next_validator_set(result),
        )
        self._drop_votes(block.number)
        return list_changed_tasks(rows)

    def _store_snapshot(self, snapshot: Snapshot) -> None:
        self._store.adopt(snapshot)
        self._drop_votes(snapshot.block.number)

    def _drop_votes(self, number: BlockNumber) -> None:
        if self._truncate_log is not None:
            self._truncate_log(number)
