"""Blocks are executed here, once a digest, in the one execution thread (docs/adr/0005)."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Event, Lock
from time import perf_counter
from typing import Final

import structlog
import trio

from chain.builder import BuiltBlock, build_block
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
"""Results of blocks at the number being decided: one a view, and few views."""

SIGNATURE_CACHE_SIZE: Final = 4_096
"""Recovered signatures; votes come again inside certificates and repetitions."""

_log = structlog.get_logger("node.executor")


class SignatureCache:
    """`chain.crypto.recover` that remembers what it recovered lately."""

    def __init__(self, recover_signature: Recover = recover) -> None:
        self._recover = recover_signature
        self._known: OrderedDict[tuple[Hash32, bytes], Address | None] = OrderedDict()
        self._lock = Lock()
        """Sync verifies in threads of its own."""

    def __call__(self, digest: Hash32, signature: bytes) -> Address | None:
        """The account that signed `digest`, or None."""
        key = (digest, signature)
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        account = self._recover(digest, signature)
        with self._lock:
            self._known[key] = account
            if len(self._known) > SIGNATURE_CACHE_SIZE:
                self._known.popitem(last=False)
        return account


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a block is invalid."""

    error: InvalidBlock


class _Overlay:
    """A database as it will be with a delta."""

    def __init__(self, delta: StateDelta, below: Database) -> None:
        self._delta = delta
        self._below = below

    def get(self, key: bytes) -> bytes | None:
        value = self._delta.get(key)
        return self._below.get(key) if value is None else value


def validate_body(block: Block, gas_limit: int) -> None:
    """Check that the body is the one its header commits to, before anything is done with it.

    The hash that validators vote on covers the header alone: with another body under it, a valid
    block would look invalid here, whoever certified it.

    Args:
        block: of a peer.
        gas_limit: of this chain's blocks.

    Raises:
        InvalidBlock: HEADER_FIELD where the gas limit is another, GAS_LIMIT where it has no room
            for so many transactions, TRANSACTIONS_ROOT_MISMATCH or BAD_CERTIFICATE.
    """
    header, count = block.header, len(block.transactions)
    # Before the roots: those of 700 000 transactions of 4 bytes take ten seconds.
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
        self._results: OrderedDict[Hash32, BlockResult | Refusal] = OrderedDict()

    def validate_body(self, block: Block) -> None:
        """`validate_body` with this chain's gas limit."""
        validate_body(block, self._config.gas_limit)

    def verify_certificate(
        self, certificate: CommitCertificate, number: BlockNumber, digest: Hash32
    ) -> None:
        """Verify that `certificate` makes the block `digest` final.

        Past the head's child the set may be another by then: that it does not verify means nothing.

        Raises:
            InvalidMessage: why it does not.
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
        """Verify that `validators` made the block `digest` final.

        Raises:
            InvalidMessage: why they did not.
        """
        verify_commit_certificate(
            certificate, number, digest, self._domain, validators, self.recover
        )

    async def execute(self, block: Block) -> BlockResult | Refusal:
        """The result of a child of the head; the same object when asked again."""
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
        candidates: Callable[[], Iterable[Transaction]],
        coinbase: Address,
        parent_certificate: CommitCertificate | None,
    ) -> BuiltBlock:
        """Our own block on top of `parent`; its result is kept, so it is never executed again."""
        transactions = tuple(candidates())
        is_over = Event()

        def build() -> BuiltBlock:
            started = perf_counter()
            built = build_block(
                parent,
                transactions,
                self._database,
                self._config,
                coinbase=coinbase,
                timestamp=self._clock.now_ms() // 1000,
                parent_certificate=parent_certificate,
                should_stop=is_over.is_set,
            )
            self._work_seconds.labels("build").observe(perf_counter() - started)
            return built

        async def end_budget() -> None:
            await trio.sleep(self._build_seconds)
            is_over.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end_budget)
            built = await trio.to_thread.run_sync(build, limiter=self._thread)
            nursery.cancel_scope.cancel()
        self._keep(built.block.hash, built.result)
        return built

    def read_next_validator_set(self, result: BlockResult) -> ValidatorSet | None:
        """Who decides the block after an executed one; None if it is who decided that."""
        header = result.header
        return read_next_set(
            _Overlay(result.delta, self._database),
            header,
            self._config.chain_id,
            self._store.validator_set(header.number).validators,
        )

    def _keep(self, digest: Hash32, result: BlockResult | Refusal) -> None:
        self._results[digest] = result
        if len(self._results) > KEPT_RESULTS:
            self._results.popitem(last=False)

    def forget(self) -> None:
        """A block is final: results on top of the old head are of no use."""
        self._results.clear()
