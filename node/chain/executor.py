"""Executes blocks in the one execution thread, each block once (docs/adr/0005)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from time import monotonic, perf_counter, thread_time
from typing import Final

import structlog
import trio
from cachetools import FIFOCache, LRUCache

from chain.builder import BuiltBlock, FreeGas, build_block
from chain.consensus.certificates import Recover, verify_commit_certificate
from chain.consensus.messages import SigningDomain
from chain.contracts.set_reader import read_next_set
from chain.crypto import recover
from chain.errors import InvalidBlock, RejectionReason
from chain.execution.gas import GAS_TRANSACTION
from chain.genesis import GenesisConfig
from chain.primitives import Address, BlockNumber, Hash32
from chain.state.world_state import StateDelta
from chain.transition import BlockResult, apply_block, compute_transactions_root
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from chain.types.header import Header
from chain.types.transaction import Transaction
from chain.types.validator_set import ValidatorSet
from chain.validation import compute_extra_data
from node.clock import Clock
from node.metrics.registry import NodeMetrics
from node.storage.block_store import BlockStore
from node.storage.database import Database

KEPT_RESULTS: Final = 8
"""Limit of kept results of blocks at the number being decided: one for each of a few views."""

SIGNATURE_CACHE_SIZE: Final = 4_096
"""Size of the cache of recovered signatures. Votes are repeated in certificates and resends."""

CANDIDATE_SECONDS: Final = 8.0
"""Limit of executing one candidate while building. A transaction at the cap of its gas takes at
most 2.1 s on the machine of docs/measurements.md, so only a much slower machine gets here."""

PAUSE_SECONDS: Final = 1.0
"""What counts of a time in which a candidate made no step and took no processor time. No read from
a disk takes as long. A process that is paused for longer would refuse an honest operator's nonce
for minutes, because of a candidate that takes milliseconds."""

FORGIVEN_STOPS: Final = 1
"""The time of this many candidates above that limit does not count against the time for the block.
So one of them does not keep all others out, and many do not delay the block for long."""

_log = structlog.get_logger("node.executor")


class WallClockBudget:
    """A time for the whole block, in which candidates may begin, and one for each candidate.

    A candidate is asked about each quarter of a millisecond of its execution. What passes between
    two questions without processor time is no fault of it: the process was paused.

    Args:
        build_seconds: Candidates begin within this time.
        candidate_seconds: The time of one candidate.
        clock: Returns seconds.
        processor_clock: Returns the seconds of processor time of the calling thread.
    """

    def __init__(
        self,
        build_seconds: float,
        candidate_seconds: float = CANDIDATE_SECONDS,
        *,
        clock: Callable[[], float] = monotonic,
        processor_clock: Callable[[], float] = thread_time,
    ) -> None:
        self._candidate_seconds = candidate_seconds
        self._clock = clock
        self._processor_clock = processor_clock
        self._end = clock() + build_seconds
        self._candidate_start = 0.0
        self._asked_at = 0.0
        self._asked_processor = 0.0
        self._spent = 0.0
        self._stops = 0
        self._has_begun = False

    def may_begin(self) -> bool:
        """Whether the time for the block is not over; the first candidate may always begin."""
        self._candidate_start = self._asked_at = self._clock()
        self._asked_processor = self._processor_clock()
        self._spent = 0.0
        is_first, self._has_begun = not self._has_begun, True
        return is_first or self._candidate_start < self._end

    def must_stop(self) -> bool:
        """Whether the candidate that began last has taken too long."""
        now, processor = self._clock(), self._processor_clock()
        worked, passed = processor - self._asked_processor, now - self._asked_at
        self._spent += max(worked, min(passed, PAUSE_SECONDS))
        self._asked_at, self._asked_processor = now, processor
        if self._spent <= self._candidate_seconds:
            return False
        self._stops += 1
        if self._stops <= FORGIVEN_STOPS:
            self._end += now - self._candidate_start
        return True


class SignatureCache:
    """`chain.crypto.recover` with a cache."""

    def __init__(self, recover_signature: Recover = recover) -> None:
        self._recover = recover_signature
        self._known: LRUCache[tuple[Hash32, bytes], Address | None] = LRUCache(SIGNATURE_CACHE_SIZE)
        self._lock = Lock()
        """Block sync verifies signatures in other threads."""

    def __call__(self, digest: Hash32, signature: bytes) -> Address | None:
        """The account that signed `digest`; None if the signature is bad."""
        key = (digest, signature)
        with self._lock:
            if key in self._known:
                return self._known[key]
        account = self._recover(digest, signature)
        with self._lock:
            self._known[key] = account
        return account


@dataclass(frozen=True, slots=True)
class Refusal:
    """The result for an invalid block: the reason."""

    error: InvalidBlock


class _Overlay:
    """A database with a delta on top."""

    def __init__(self, delta: StateDelta, below: Database) -> None:
        self._delta = delta
        self._below = below

    def get(self, key: bytes) -> bytes | None:
        value = self._delta.get(key)
        return self._below.get(key) if value is None else value


def validate_body(block: Block, gas_limit: int) -> None:
    """Check that a block's body is the one that its header commits to.

    Validators vote on the hash of the header alone. Without this check, a peer could attach another
    body to a valid header, and the block would look invalid here.

    Args:
        block: A block from a peer.
        gas_limit: The gas limit of this chain's blocks.

    Raises:
        InvalidBlock: HEADER_FIELD if the gas limit is another; GAS_LIMIT if it has no room for so
            many transactions; TRANSACTIONS_ROOT_MISMATCH or BAD_CERTIFICATE.
    """
    header, count = block.header, len(block.transactions)
    # The transactions are counted before their root is computed, because the root of 700 000
    # transactions of 4 bytes takes ten seconds.
    if header.gas_limit != gas_limit:
        raise InvalidBlock(RejectionReason.HEADER_FIELD, "gas_limit")
    if count * GAS_TRANSACTION > header.gas_limit:
        raise InvalidBlock(RejectionReason.GAS_LIMIT, f"{count} transactions")
    if compute_transactions_root(block.transactions) != header.transactions_root:
        raise InvalidBlock(RejectionReason.TRANSACTIONS_ROOT_MISMATCH)
    if compute_extra_data(block.parent_certificate) != header.extra_data:
        raise InvalidBlock(RejectionReason.BAD_CERTIFICATE, "not the one of the header")


class Executor:
    """Validates and builds blocks on top of the head."""

    def __init__(
        self,
        *,
        database: Database,
        store: BlockStore,
        config: GenesisConfig,
        domain: SigningDomain,
        clock: Clock,
        build_seconds: float,
        metrics: NodeMetrics | None = None,
    ) -> None:
        self._work_seconds = (metrics or NodeMetrics()).execution_seconds
        self.recover = SignatureCache()
        self._database = database
        self._store = store
        self._config = config
        self._domain = domain
        self._clock = clock
        self._build_seconds = build_seconds
        self._thread = trio.CapacityLimiter(1)
        self._results: FIFOCache[Hash32, BlockResult | Refusal] = FIFOCache(KEPT_RESULTS)

    def validate_body(self, block: Block) -> None:
        """Check that a block's body is the one that its header commits to; see `validate_body`."""
        validate_body(block, self._config.gas_limit)

    def verify_certificate(
        self, certificate: CommitCertificate, number: BlockNumber, digest: Hash32
    ) -> None:
        """Verify that `certificate` makes the block `digest` final.

        Above head + 1 the validator set may be another one, so a failure proves nothing there.

        Raises:
            InvalidMessage: The certificate is not valid.
        """
        validators = self._store.validator_set(number).validators
        self.verify_certificate_of(certificate, number, digest, validators)

    def verify_certificate_of(
        self,
        certificate: CommitCertificate,
        number: BlockNumber,
        digest: Hash32,
        validators: tuple[Address, ...],
    ) -> None:
        """Verify that a quorum of `validators` made the block `digest` final.

        Raises:
            InvalidMessage: The certificate is not valid.
        """
        verify_commit_certificate(
            certificate, number, digest, self._domain, validators, self.recover
        )

    async def execute(self, block: Block) -> BlockResult | Refusal:
        """The result of executing a child of the head; cached until the head moves."""
        known = self._results.get(block.hash)
        if known is not None:
            return known
        result = await trio.to_thread.run_sync(self._apply, block, limiter=self._thread)
        self._keep(block.hash, result)
        return result

    def _apply(self, block: Block) -> BlockResult | Refusal:
        known = self._results.get(block.hash)
        if known is not None:
            return known
        started = perf_counter()
        try:
            return apply_block(
                self._store.head(),
                block,
                self._database,
                self._config,
                self._store.validator_set(block.number).validators,
                self.verify_certificate,
            )
        except InvalidBlock as error:
            _log.warning("invalid block", number=block.number, reason=str(error))
            return Refusal(error)
        finally:
            self._work_seconds.labels("execute").observe(perf_counter() - started)

    async def build(
        self,
        parent: Header,
        candidates: Sequence[Transaction],
        coinbase: Address,
        parent_certificate: CommitCertificate | None,
        free_gas: Sequence[FreeGas] = (),
    ) -> BuiltBlock:
        """A new block on top of `parent`. Its result is cached, so it is not executed again."""

        def build() -> BuiltBlock:
            started = perf_counter()
            built = build_block(
                parent,
                candidates,
                self._database,
                self._config,
                coinbase=coinbase,
                timestamp=self._clock.now_ms() // 1000,
                parent_certificate=parent_certificate,
                budget=WallClockBudget(self._build_seconds),
                free_gas=free_gas,
            )
            self._work_seconds.labels("build").observe(perf_counter() - started)
            return built

        built = await trio.to_thread.run_sync(build, limiter=self._thread)
        self._keep(built.block.hash, built.result)
        return built

    def read_next_validator_set(self, result: BlockResult) -> ValidatorSet | None:
        """The validator set of the next block after an executed one; None if it is unchanged."""
        header = result.header
        return read_next_set(
            _Overlay(result.delta, self._database),
            header,
            self._config.chain_id,
            self._store.validator_set(header.number).validators,
        )

    def _keep(self, digest: Hash32, result: BlockResult | Refusal) -> None:
        self._results[digest] = result

    def forget(self) -> None:
        """Drop all cached results, after the head has moved."""
        self._results.clear()
