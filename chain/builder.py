"""Building a block; import uses the same code (docs/spec/state-transition.md, section 5)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from chain.errors import InvalidTransaction
from chain.execution.block_environment import BlockEnvironment
from chain.execution.gas import GAS_TRANSACTION
from chain.execution.run_loop import ExecutionStoppedError
from chain.genesis import GenesisConfig
from chain.primitives import (
    EMPTY_REQUESTS_HASH,
    EMPTY_TRIE_ROOT,
    EMPTY_UNCLES_HASH,
    ZERO_HASH,
    Address,
    Hash32,
)
from chain.state.world_state import ReadableDatabase
from chain.transition import BlockAssembly, BlockResult
from chain.types.block import BLOCK_LIMIT_BYTES, Block
from chain.types.certificate import CERTIFICATE_LIMIT_BYTES, CommitCertificate
from chain.types.header import HEADER_LIMIT_BYTES, Header
from chain.types.transaction import Transaction
from chain.validation import compute_extra_data

BODY_LIMIT_BYTES: Final = BLOCK_LIMIT_BYTES - HEADER_LIMIT_BYTES - CERTIFICATE_LIMIT_BYTES - 64
"""Bytes for the transactions of a block with their RLP prefixes; 64 are left for list prefixes."""

TRANSACTION_OVERHEAD_BYTES: Final = 5
"""The longest RLP prefix of one transaction."""


class BuildBudget(Protocol):
    """The time that the primary gives to building. It decides no block's validity."""

    def may_begin(self) -> bool:
        """Whether there is time for another candidate, which then begins."""

    def must_stop(self) -> bool:
        """Whether the candidate that began last has taken too long."""


class UnlimitedBudget:
    """All the time that the candidates take."""

    def may_begin(self) -> bool:
        """True."""
        return True

    def must_stop(self) -> bool:
        """False."""
        return False


@dataclass(frozen=True, slots=True)
class FreeGas:
    """What the primary gives to candidates that offer too little. It decides no block's validity.

    It counts the gas that they use, so a candidate that fails or reverts counts as well.
    """

    candidates: frozenset[Hash32]
    """The hashes of those candidates."""
    gas: int
    """None of them begins after so much gas. The last one may use more."""
    limit: int
    """All of them together use at most so much gas."""


class _FreeGasMeter:
    """Counts the gas of free candidates in one block."""

    def __init__(self, given: FreeGas) -> None:
        self._given = given
        self.used = 0

    def may_begin(self, transaction: Transaction) -> bool:
        """Whether a candidate is not free, or there is gas left for it."""
        return transaction.hash not in self._given.candidates or (
            self.used < self._given.gas and self.used + transaction.gas_limit <= self._given.limit
        )

    def count(self, transaction: Transaction, gas: int) -> None:
        """Count the gas that a candidate used."""
        if transaction.hash in self._given.candidates:
            self.used += gas


@dataclass(frozen=True, slots=True)
class DroppedTransaction:
    """A candidate that was left out of the block, and the reason."""

    transaction: Transaction
    error: InvalidTransaction


@dataclass(frozen=True, slots=True)
class BuiltBlock:
    """A block ready to be proposed, with its result, so it need not be executed again."""

    block: Block
    result: BlockResult
    dropped: tuple[DroppedTransaction, ...]
    """Candidates that broke a rule. Candidates that merely did not fit are not among them."""
    stopped: tuple[Transaction, ...]
    """Candidates whose execution took longer than the budget allows for one."""
    free_gas_used: tuple[int, ...]
    """The gas that was used of each `FreeGas`."""


def build_block(
    parent: Header,
    candidates: Iterable[Transaction],
    database: ReadableDatabase,
    config: GenesisConfig,
    *,
    coinbase: Address,
    timestamp: int,
    parent_certificate: CommitCertificate | None,
    budget: BuildBudget | None = None,
    free_gas: Sequence[FreeGas] = (),
) -> BuiltBlock:
    """The block on top of `parent` with all valid `candidates`, in their order.

    Args:
        parent: The header of the finalized head.
        candidates: Transactions in the order of the primary's policy; those of one sender by
            ascending nonce.
        database: Holds the parent's state.
        config: The network's configuration.
        coinbase: The primary.
        timestamp: Seconds since the Unix epoch; raised to the parent's if it is lower.
        parent_certificate: The parent's certificate; None only for block 1.
        budget: The time for building; None for as much as it takes.
        free_gas: The limits of candidates that offer too little, for groups of them.

    Raises:
        MissingTrieNodeError: The parent's state is not in the database.
    """
    environment = BlockEnvironment.after(parent, config, coinbase=coinbase, timestamp=timestamp)
    budget = budget or UnlimitedBudget()
    assembly = BlockAssembly(parent, environment, database, config, budget.must_stop)
    dropped: list[DroppedTransaction] = []
    stopped: list[Transaction] = []
    # The senders of candidates that did not fit: their later nonces cannot be executed before.
    left_out: set[Address] = set()
    bytes_left = BODY_LIMIT_BYTES
    meters = [_FreeGasMeter(each) for each in free_gas]
    for transaction in candidates:
        if assembly.gas_available < GAS_TRANSACTION or not budget.may_begin():
            break
        if transaction.sender in left_out:
            continue
        size = len(transaction.raw) + TRANSACTION_OVERHEAD_BYTES
        gas_available = assembly.gas_available
        if (
            size > bytes_left
            or transaction.gas_limit > gas_available
            or not all(meter.may_begin(transaction) for meter in meters)
        ):
            left_out.add(transaction.sender)
            continue
        try:
            assembly.add(transaction)
        except InvalidTransaction as error:
            dropped.append(DroppedTransaction(transaction, error))
            continue
        except ExecutionStoppedError:
            stopped.append(transaction)
            left_out.add(transaction.sender)
            continue
        bytes_left -= size
        for meter in meters:
            meter.count(transaction, gas_available - assembly.gas_available)
    sums, transactions, receipts, delta = assembly.finish()
    header = Header(
        parent_hash=parent.hash,
        ommers_hash=EMPTY_UNCLES_HASH,
        coinbase=environment.coinbase,
        state_root=sums.state_root,
        transactions_root=sums.transactions_root,
        receipts_root=sums.receipts_root,
        logs_bloom=sums.logs_bloom,
        difficulty=0,
        number=environment.number,
        gas_limit=environment.gas_limit,
        gas_used=sums.gas_used,
        timestamp=environment.timestamp,
        extra_data=compute_extra_data(parent_certificate),
        mix_hash=environment.mix_hash,
        nonce=bytes(8),
        base_fee_per_gas=environment.base_fee_per_gas,
        withdrawals_root=EMPTY_TRIE_ROOT,
        blob_gas_used=0,
        excess_blob_gas=0,
        parent_beacon_block_root=ZERO_HASH,
        requests_hash=EMPTY_REQUESTS_HASH,
    )
    block = Block(header, tuple(t.raw for t in transactions), parent_certificate)
    result = BlockResult(header, transactions, receipts, delta)
    used = tuple(meter.used for meter in meters)
    return BuiltBlock(block, result, tuple(dropped), tuple(stopped), used)
