"""Proposals: validates, builds and fetches the blocks that a replica asks about.

Each answer is the input that docs/spec/consensus.md, section 5 names for the question. None is an
answer too: the block is no child of the head any more, so the replica has gone on without it.
"""

from collections.abc import Collection
from typing import Final

import structlog
import trio

from chain.consensus.effects import BuildBlock
from chain.consensus.inputs import BlockBuilt, BlockFetched, BlockValidated
from chain.errors import InvalidBlock, RejectedInputError, RejectionReason
from chain.hexadecimal import to_hex
from chain.params import ChainParameters
from chain.primitives import Address, Hash32
from chain.types.block import Block
from chain.validation import validate_fresh_proposal
from node.chain.executor import Executor, Refusal
from node.clock import Clock
from node.mempool.pool import Mempool
from node.network.requests import BlockPeers
from node.network.stream import UnreachablePeerError
from node.storage.block_store import BlockStore

FRESHNESS_POLL_SECONDS: Final = 0.02
"""How often a proposal that came too early is checked again."""

GATHER_SECONDS: Final = 0.05
"""From the first transaction held to the choice of a block's; less than a hop of a slow link."""

PACE_TOLERANCE_MS: Final = 50
"""A proposal may come so much before the interval is over by our clock: clocks and links differ."""

TEMPORARY_REASONS: Final = frozenset(
    {RejectionReason.NONCE_TOO_HIGH, RejectionReason.FEE_TOO_LOW, RejectionReason.GAS_LIMIT}
)
"""Reasons that may be gone by the next block: a transaction dropped for one may come back."""

_log = structlog.get_logger("node.consensus")


class Proposals:
    """The blocks on top of the head, and the pace at which they may come.

    Durations are measured on trio's clock, which no operator sets.
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
        """When the block being decided was first seen, or else the head."""
        self._parent_proposed_at = self._proposed_at
        self._transaction_held_at: float | None = None
        """Since when the pool holds a transaction for the next block; None: it holds none, or held
        one when this process began."""

    # The pace.

    def has_transaction(self) -> bool:
        """Whether the pool holds a transaction for the next block."""
        return self._mempool.counts()[0] > 0

    def compute_parent_age_ms(self) -> int:
        """How long ago the head was proposed, as far as this node knows."""
        return int(1000 * (trio.current_time() - self._parent_proposed_at))

    def on_transaction(self) -> None:
        """Take note that the pool took a transaction that a block can include."""
        if self._transaction_held_at is None:
            self._transaction_held_at = trio.current_time()

    def on_proposal(self) -> None:
        """Take note that a block on top of the head was seen."""
        self._proposed_at = trio.current_time()

    def on_new_head(self) -> None:
        """Count the pace from the proposal of the new head; the pool has forgotten what it held."""
        if not self.has_transaction():
            self._transaction_held_at = None
        self._parent_proposed_at = self._proposed_at

    # The answers.

    async def validate(self, block: Block, *, fresh: bool) -> BlockValidated | None:
        """Whether a block is valid and, if that was asked, whether it may be proposed by now."""
        if not self._is_child_of_head(block):
            return None
        outcome = await self._executor.execute(block)
        is_valid = not isinstance(outcome, Refusal)
        is_fresh = fresh and is_valid and self._is_fresh(block)
        return BlockValidated(block.hash, is_valid, is_fresh)

    async def wait_until_fresh(self, block: Block) -> BlockValidated | None:
        """The second answer about a valid block that came too early."""
        while self._is_child_of_head(block):
            await trio.sleep(FRESHNESS_POLL_SECONDS)
            if self._is_fresh(block):
                return BlockValidated(block.hash, is_valid=True, is_fresh=True)
        return None

    def _is_child_of_head(self, block: Block) -> bool:
        return block.number == self._store.head_number() + 1

    def _is_fresh(self, block: Block) -> bool:
        age_ms = 1000 * (trio.current_time() - self._parent_proposed_at)
        if age_ms < self._parameters.min_block_interval_ms - PACE_TOLERANCE_MS:
            return False
        # A quorum accepted the head's time: where our clock is behind that, it is wrong.
        now_ms = max(self._clock.now_ms(), self._store.head().timestamp * 1000)
        try:
            validate_fresh_proposal(block.header, block.header.coinbase, now_ms)
        except InvalidBlock:
            return False
        return True

    async def build(self, asked: BuildBlock) -> BlockBuilt | None:
        """Our own block on top of the head, of what the pool holds."""
        head = self._store.head()
        if asked.number != head.number + 1:
            return None
        assert self._coinbase is not None, "only a validator is asked to build"
        # Votes and commitments come in bursts: those of a moment later go into the same block.
        if self._transaction_held_at is not None:
            await trio.sleep_until(self._transaction_held_at + GATHER_SECONDS)
        built = await self._executor.build(
            head,
            lambda: self._mempool.candidates(head.base_fee_per_gas),
            self._coinbase,
            self._store.certificate(head.number),
        )
        for dropped in built.dropped:
            is_temporary = dropped.error.reason in TEMPORARY_REASONS
            self._mempool.drop(dropped.transaction.hash, ban=not is_temporary)
        if built.stopped_at is not None:
            _log.warning("transaction exceeds the time budget", hash=to_hex(built.stopped_at.hash))
            self._mempool.drop(built.stopped_at.hash, ban=True)
        self.on_proposal()
        return BlockBuilt(asked.number, asked.view, built.block)

    async def fetch(self, digest: Hash32, validators: Collection[Address]) -> BlockFetched | None:
        """A block by its hash, from the first of these validators that gives it."""
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
