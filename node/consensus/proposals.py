"""Validates, builds and fetches blocks for a replica (docs/spec/consensus.md, section 5).

Each method returns the input that answers the replica's effect. It returns None if the block is no
longer a child of the head, because then the replica does not need the answer.
"""

from collections.abc import Collection
from typing import Final

import structlog
import trio

from chain.builder import FreeGas
from chain.consensus.effects import BuildBlock
from chain.consensus.inputs import BlockBuilt, BlockFetched, BlockValidated
from chain.errors import InvalidBlock, RejectedInputError, RejectionReason
from chain.hexadecimal import to_hex
from chain.params import ChainParameters
from chain.primitives import Address, Hash32
from chain.types.block import Block
from chain.validation import (
    compute_next_base_fee,
    compute_oldest_timestamp,
    validate_fresh_proposal,
)
from node.chain.executor import Executor, Refusal
from node.clock import Clock
from node.mempool.free_gas import FreeGasBucket, OperatorGas
from node.mempool.pool import Mempool
from node.network.requests import BlockPeers
from node.network.stream import UnreachablePeerError
from node.storage.block_store import BlockStore

FRESHNESS_POLL_SECONDS: Final = 0.02
"""Interval of checking again a proposal that came too early."""

GATHER_SECONDS: Final = 0.05
"""Wait after the first transaction, so that a burst of transactions comes into one block. It is
shorter than one hop of a slow network link."""

PACE_TOLERANCE_MS: Final = 50
"""A proposal may come this much before the block interval is over by our clock, since clocks and
delays differ."""

TEMPORARY_REASONS: Final = frozenset(
    {RejectionReason.NONCE_TOO_HIGH, RejectionReason.FEE_TOO_LOW, RejectionReason.GAS_LIMIT}
)
"""Reasons that may not hold in the next block. A transaction dropped for one of them is not
banned."""

_log = structlog.get_logger("node.consensus")


class Proposals:
    """Handles proposals of blocks on top of the head, and the block intervals.

    Durations use trio's monotonic clock.
    """

    def __init__(
        self,
        *,
        parameters: ChainParameters,
        coinbase: Address | None,
        store: BlockStore,
        executor: Executor,
        mempool: Mempool,
        peers: BlockPeers,
        clock: Clock,
    ) -> None:
        self._parameters = parameters
        self._coinbase = coinbase
        self._store = store
        self._executor = executor
        self._mempool = mempool
        self._peers = peers
        self._clock = clock
        self._proposed_at = trio.current_time()
        """The time at which a proposal on top of the head was first seen, or else that of the
        head."""
        self._parent_proposed_at = self._proposed_at
        self._transaction_held_at: float | None = None
        """The time since which the pool has a transaction for the next block. None if it has none,
        or had one already when this process began."""
        self._free_gas = FreeGasBucket.full(mempool.free_gas, _now_ms())
        """The gas that this validator may give to free transactions."""
        self._operator_gas = OperatorGas({})
        """The gas that it may give to operators' votes and duties that the contracts refuse."""
        self._too_old: tuple[Hash32, float] | None = None
        """The last proposal whose time was too old, and by how many seconds it was behind our clock
        when it came."""

    # Block intervals.

    def has_transaction(self) -> bool:
        """Whether the pool has a transaction for the next block."""
        return self._mempool.counts()[0] > 0

    def compute_parent_age_ms(self) -> int:
        """Milliseconds since the head was proposed, as far as this node knows."""
        return int(1000 * (trio.current_time() - self._parent_proposed_at))

    def on_transaction(self) -> None:
        """Note that the pool admitted a transaction."""
        if self._transaction_held_at is None:
            self._transaction_held_at = trio.current_time()

    def on_proposal(self) -> None:
        """Note that a proposal on top of the head was seen."""
        self._proposed_at = trio.current_time()

    def on_new_head(self) -> None:
        """Measure block intervals from the proposal of the new head on."""
        if not self.has_transaction():
            self._transaction_held_at = None
        self._parent_proposed_at = self._proposed_at

    # The answers.

    def compute_oldest_timestamp(self, age_limit_ms: int | None) -> int | None:
        """The least timestamp of a fresh proposal that arrives now; None without a limit."""
        if age_limit_ms is None:
            return None
        return compute_oldest_timestamp(self._clock.now_ms(), age_limit_ms)

    def find_lateness(self, digest: Hash32) -> float | None:
        """Seconds by which a proposal that was refused as too old was behind our clock.

        None if it was not refused for its time.
        """
        refused, seconds = self._too_old or (None, 0.0)
        return seconds if refused == digest else None

    async def validate(self, block: Block, *, oldest: int | None) -> BlockValidated | None:
        """The answer whether a block is valid and whether its time has come.

        Args:
            block: The block.
            oldest: The least timestamp of a fresh proposal; None if it need not be fresh.
        """
        if not self._is_child_of_head(block):
            return None
        received_ms = self._clock.now_ms()
        outcome = await self._executor.execute(block)
        is_valid = not isinstance(outcome, Refusal)
        if oldest is None or not is_valid:
            return BlockValidated(block.hash, is_valid, is_fresh=False)
        timestamp = block.header.timestamp
        if timestamp < oldest:
            self._too_old = (block.hash, received_ms / 1000 - timestamp)
            _log.warning(
                "proposal is too old",
                number=block.number,
                primary=to_hex(block.header.coinbase),
                seconds=oldest - timestamp,
            )
        return BlockValidated(block.hash, is_valid, self._is_fresh(block, oldest))

    async def wait_until_fresh(self, block: Block, oldest: int) -> BlockValidated | None:
        """The second answer on a valid block that came too early: its time has come.

        None if it never comes, because the block is too old.
        """
        while self._is_child_of_head(block) and block.header.timestamp >= oldest:
            await trio.sleep(FRESHNESS_POLL_SECONDS)
            if self._is_fresh(block, oldest):
                return BlockValidated(block.hash, is_valid=True, is_fresh=True)
        return None

    def _is_child_of_head(self, block: Block) -> bool:
        return block.number == self._store.head_number() + 1

    def _is_fresh(self, block: Block, oldest: int) -> bool:
        age_ms = 1000 * (trio.current_time() - self._parent_proposed_at)
        if age_ms < self._parameters.min_block_interval_ms - PACE_TOLERANCE_MS:
            return False
        try:
            validate_fresh_proposal(
                block.header,
                self._store.head(),
                block.header.coinbase,
                now_ms=self._clock.now_ms(),
                oldest=oldest,
            )
        except InvalidBlock:
            return False
        return True

    async def build(self, asked: BuildBlock) -> BlockBuilt | None:
        """Our own block on top of the head, with transactions of the pool."""
        head = self._store.head()
        if asked.number != head.number + 1:
            return None
        assert self._coinbase is not None, "only a validator is asked to build"
        # Votes and commitments come in bursts; a short wait brings them into the same block.
        if self._transaction_held_at is not None:
            await trio.sleep_until(self._transaction_held_at + GATHER_SECONDS)
        base_fee = compute_next_base_fee(head, self._parameters)
        candidates, policy = self._mempool.candidates(base_fee), self._mempool.free_gas
        validator_set, now_ms = self._store.validator_set(asked.number), _now_ms()
        self._free_gas = self._free_gas.fill(policy, now_ms, len(validator_set.validators))
        self._operator_gas = self._operator_gas.fill(policy, now_ms, validator_set.operators)
        refused = sorted(candidates.refused.items())
        built = await self._executor.build(
            head,
            candidates.transactions,
            self._coinbase,
            self._store.certificate(head.number),
            (
                FreeGas(candidates.free, self._free_gas.gas, policy.block_gas),
                *(
                    FreeGas(hashes, self._operator_gas.get_gas(operator), head.gas_limit)
                    for operator, hashes in refused
                ),
            ),
        )
        free_used, *refused_used = built.free_gas_used
        self._free_gas = self._free_gas.take(free_used)
        by_operator = {each: gas for (each, _), gas in zip(refused, refused_used, strict=True)}
        self._operator_gas = self._operator_gas.take(by_operator)
        for dropped in built.dropped:
            is_temporary = dropped.error.reason in TEMPORARY_REASONS
            self._mempool.drop(dropped.transaction.hash, ban=not is_temporary)
        for transaction in built.stopped:
            _log.warning(
                "transaction takes too long to execute",
                hash=to_hex(transaction.hash),
                sender=to_hex(transaction.sender),
                nonce=transaction.nonce,
            )
            self._mempool.ban(transaction)
        self.on_proposal()
        return BlockBuilt(asked.number, asked.view, built.block)

    async def fetch(self, digest: Hash32, validators: Collection[Address]) -> BlockFetched | None:
        """The block with that hash, from the first of these validators that has it."""
        for peer in self._peers.peers():
            if peer.validator not in validators:
                continue
            try:
                block = await self._peers.request_block_by_hash(peer.peer_id, digest)
            except (UnreachablePeerError, RejectedInputError):
                continue
            if block is None or block.hash != digest:
                continue
            try:
                await trio.to_thread.run_sync(self._executor.validate_body, block)
            except RejectedInputError as error:
                self._peers.report_fault(peer.peer_id, error)
                continue
            return BlockFetched(block)
        return None


def _now_ms() -> int:
    return int(1000 * trio.current_time())
