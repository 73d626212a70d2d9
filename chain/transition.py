"""The state transition as a pure function (docs/spec/state-transition.md, section 5).

It returns the changes as a delta. The node stores the delta with the block once that is final.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Self

from chain.errors import InvalidBlock, InvalidTransaction, RejectionReason
from chain.execution.block_environment import BlockEnvironment
from chain.execution.evm import BlockExecution, never_stop
from chain.genesis import GenesisConfig
from chain.primitives import Address, Hash32
from chain.state import trie
from chain.state.world_state import ReadableDatabase, StateDelta
from chain.types.block import Block
from chain.types.header import Header
from chain.types.receipt import Receipt, build_receipt, combine_blooms
from chain.types.transaction import Transaction, decode_transaction
from chain.validation import (
    HeaderContext,
    VerifyCertificate,
    validate_header,
    validate_parent_certificate,
    validate_transaction,
)


@dataclass(frozen=True, slots=True)
class BlockResult:
    """The result of executing a block."""

    header: Header
    transactions: tuple[Transaction, ...]
    receipts: tuple[Receipt, ...]
    """One a transaction, in order."""
    delta: StateDelta
    """New trie nodes and code below the header's state root, by their Keccak-256."""

    @property
    def senders(self) -> tuple[Address, ...]:
        """One a transaction, in order."""
        return tuple(transaction.sender for transaction in self.transactions)

    @property
    def gas_used(self) -> int:
        """Gas used by the whole block."""
        return self.header.gas_used


@dataclass(frozen=True, slots=True)
class ExecutionSums:
    """The header fields that result from executing the block."""

    state_root: Hash32
    transactions_root: Hash32
    receipts_root: Hash32
    logs_bloom: bytes
    gas_used: int

    @classmethod
    def of(cls, header: Header) -> Self:
        """The values in `header`."""
        return cls(
            header.state_root,
            header.transactions_root,
            header.receipts_root,
            header.logs_bloom,
            header.gas_used,
        )


class BlockAssembly:
    """Executes the transactions of one block; building and importing a block both use this."""

    def __init__(
        self,
        parent: Header,
        environment: BlockEnvironment,
        database: ReadableDatabase,
        config: GenesisConfig,
        should_stop: Callable[[], bool] = never_stop,
    ) -> None:
        self._environment = environment
        self._config = config
        self._execution = BlockExecution(database, parent, environment, should_stop)
        self._transactions: list[Transaction] = []
        self._receipts: list[Receipt] = []
        self._gas_used = 0

    @property
    def gas_available(self) -> int:
        """The gas that the block's limit still allows."""
        return self._environment.gas_limit - self._gas_used

    def add(self, transaction: Transaction) -> None:
        """Execute `transaction` as the next of the block. On an exception the block is unchanged.

        Raises:
            InvalidTransaction: The transaction breaks a rule.
            ExecutionStoppedError: The time budget ran out.
        """
        validate_transaction(
            transaction,
            self._execution.world,
            self._config,
            base_fee_per_gas=self._environment.base_fee_per_gas,
            gas_available=self.gas_available,
        )
        outcome = self._execution.run(transaction)
        self._gas_used += outcome.gas_used
        self._transactions.append(transaction)
        self._receipts.append(
            build_receipt(transaction.type, int(outcome.is_success), self._gas_used, outcome.logs)
        )

    def finish(
        self,
    ) -> tuple[ExecutionSums, tuple[Transaction, ...], tuple[Receipt, ...], StateDelta]:
        """The sums for the header, the transactions with their receipts, and the delta."""
        state_root, delta = self._execution.finish()
        sums = ExecutionSums(
            state_root=state_root,
            transactions_root=compute_transactions_root([t.raw for t in self._transactions]),
            receipts_root=compute_receipts_root(self._receipts),
            logs_bloom=combine_blooms([receipt.logs_bloom for receipt in self._receipts]),
            gas_used=self._gas_used,
        )
        return sums, tuple(self._transactions), tuple(self._receipts), delta


def compute_transactions_root(transactions: Sequence[bytes]) -> Hash32:
    """The trie root over the transactions' EIP-2718 encodings in block order."""
    return trie.compute_ordered_root(transactions)


def compute_receipts_root(receipts: Sequence[Receipt]) -> Hash32:
    """The trie root over the receipts' encodings in block order."""
    return trie.compute_ordered_root([receipt.encode() for receipt in receipts])


def apply_block(
    parent: Header,
    block: Block,
    database: ReadableDatabase,
    config: GenesisConfig,
    validators: Collection[Address],
    verify_certificate: VerifyCertificate,
    should_stop: Callable[[], bool] = never_stop,
) -> BlockResult:
    """The result of `block` on top of `parent`, after checking every rule of a valid block.

    Args:
        parent: The header of the preceding block, which is final.
        block: A proposed, re-proposed or synced block.
        database: Holds the parent's state.
        config: The network's configuration.
        validators: The validators of the block's number.
        verify_certificate: Verifies a certificate of the parent's number.
        should_stop: Whether the time budget is used up. Exceeding it does not make a block invalid.

    Raises:
        InvalidBlock: The block breaks a rule.
        ExecutionStoppedError: `should_stop` returned true.
        MissingTrieNodeError: The parent's state is not in the database.
    """
    header = block.header
    validate_header(header, HeaderContext(parent, config, validators, block.parent_certificate))
    if compute_transactions_root(block.transactions) != header.transactions_root:
        raise InvalidBlock(RejectionReason.TRANSACTIONS_ROOT_MISMATCH)
    validate_parent_certificate(block, parent, verify_certificate)
    environment = BlockEnvironment.of(header, config.chain_id, config.parameters.gas_per_tick)
    assembly = BlockAssembly(parent, environment, database, config, should_stop)
    for index, raw in enumerate(block.transactions):
        try:
            assembly.add(decode_transaction(raw))
        except InvalidTransaction as error:
            raise InvalidBlock(
                RejectionReason.BAD_TRANSACTION, f"transaction {index}: {error}"
            ) from error
    sums, transactions, receipts, delta = assembly.finish()
    _compare(ExecutionSums.of(header), sums)
    return BlockResult(header, transactions, receipts, delta)


def _compare(claimed: ExecutionSums, computed: ExecutionSums) -> None:
    if claimed.gas_used != computed.gas_used:
        raise InvalidBlock(
            RejectionReason.GAS_USED_MISMATCH, f"{claimed.gas_used}, is {computed.gas_used}"
        )
    if claimed.receipts_root != computed.receipts_root:
        raise InvalidBlock(
            RejectionReason.RECEIPTS_ROOT_MISMATCH, f"is {computed.receipts_root.hex()}"
        )
    if claimed.logs_bloom != computed.logs_bloom:
        raise InvalidBlock(RejectionReason.BLOOM_MISMATCH)
    if claimed.state_root != computed.state_root:
        raise InvalidBlock(RejectionReason.STATE_ROOT_MISMATCH, f"is {computed.state_root.hex()}")
