"""Makes blocks final: the one way in which the head moves (docs/spec/consensus.md, section 5).

Consensus and sync both stand on it. The order is what a crash at any point needs: the block is
durable before the log of votes is emptied, and both are done before anything else hears of it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import trio

from chain.primitives import BlockNumber
from chain.transition import BlockResult
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from chain.types.transaction import Transaction
from node.chain.executor import Executor, Refusal
from node.chain.training_index import TrainingIndex
from node.storage.block_store import BlockStore, Snapshot
from pot_common.errors import OperatorError


@dataclass(frozen=True, slots=True)
class NewHead:
    """The head has moved: by one block, or to the block of a snapshot."""

    block: Block
    certificate: CommitCertificate
    transactions: tuple[Transaction, ...] = ()
    """The transactions of the block; empty for a snapshot, whose earlier blocks are unknown too."""
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
        """Build it.

        Args:
            store: where final blocks go.
            executor: executes each block once.
            index: what is stored of training beside a block.
            truncate_log: drops this validator's votes on numbers up to one, in the thread that
                stored it; None: this node has no key.
        """
        self.lock = trio.Lock()
        """Held while the head moves, and by whatever must not see it move."""
        self._store = store
        self._executor = executor
        self._index = index
        self._truncate_log = truncate_log
        self._listeners: list[Callable[[NewHead], None]] = []

    def add_listener(self, listener: Callable[[NewHead], None]) -> None:
        """Call `listener` after each new head, after those that were added before it."""
        self._listeners.append(listener)

    async def finalize(self, block: Block, certificate: CommitCertificate) -> None:
        """Store a certified child of the head; nothing happens if it is the head already.

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
            await trio.to_thread.run_sync(self._store_block, block, certificate, outcome)
            self._tell(NewHead(block, certificate, outcome.transactions))

    async def adopt(self, snapshot: Snapshot) -> None:
        """Make the block of a verified snapshot the head, unless the head is past it already.

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
    ) -> None:
        self._store.finalize(
            block,
            certificate,
            receipts=result.receipts,
            senders=result.senders,
            delta=result.delta,
            training_rows=self._index.compute_rows(block.header, result.receipts),
            next_validator_set=self._executor.read_next_validator_set(result),
        )
        self._drop_votes(block.number)

    def _store_snapshot(self, snapshot: Snapshot) -> None:
        self._store.adopt(snapshot)
        self._drop_votes(snapshot.block.number)

    def _drop_votes(self, number: BlockNumber) -> None:
        if self._truncate_log is not None:
            self._truncate_log(number)
