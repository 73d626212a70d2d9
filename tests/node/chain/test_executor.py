"""Blocks are executed once, refused with a reason, and never with another body."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from chain.crypto import get_address, keccak256
from chain.errors import InvalidBlock, InvalidMessage, RejectionReason
from chain.primitives import Address, BlockNumber, Hash32, Signature, ValidatorIndex, View
from chain.transition import BlockResult
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from chain.types.transaction import Transaction
from node.chain import executor as module
from node.chain.executor import Refusal, SignatureCache, WallClockBudget
from tests.worlds.chain import ALICE, BOB, sign
from tests.worlds.cluster import TIMESTAMP, VALIDATORS, ClusterNode, build_cluster


class StillClock:
    """A fixed clock, because the execution thread cannot read trio's."""

    def now_ms(self) -> int:
        return (TIMESTAMP + 1) * 1000


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[ClusterNode]:
    node = build_cluster(path, 1).nodes[0]
    node.clock = StillClock()
    node.open()
    try:
        yield node
    finally:
        node.wal.close()
        node.database.close()


async def test_a_block_that_was_built_or_executed_is_not_executed_again(tmp_path: Path) -> None:
    transfer = sign(ALICE, 0, get_address(BOB), value=3)
    async with opened(tmp_path) as node:
        built = await node.executor.build(node.store.head(), (transfer,), VALIDATORS[0], None)
        assert built.block.transactions == (transfer.raw,)
        assert await node.executor.execute(built.block) is built.result
        node.executor.forget()
        result = await node.executor.execute(built.block)
        assert isinstance(result, BlockResult)
        assert result is not built.result
        assert await node.executor.execute(built.block) is result


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"state_root": keccak256(b"x")}, RejectionReason.STATE_ROOT_MISMATCH),
        ({"receipts_root": keccak256(b"x")}, RejectionReason.RECEIPTS_ROOT_MISMATCH),
        ({"gas_used": 1}, RejectionReason.GAS_USED_MISMATCH),
        ({"logs_bloom": b"\1" * 256}, RejectionReason.BLOOM_MISMATCH),
        ({"coinbase": Address(b"\1" * 20)}, RejectionReason.HEADER_FIELD),
        ({"parent_hash": keccak256(b"x")}, RejectionReason.UNKNOWN_PARENT),
    ],
)
async def test_an_invalid_block_is_refused_with_its_reason(
    tmp_path: Path, change: dict[str, object], reason: RejectionReason
) -> None:
    async with opened(tmp_path) as node:
        built = await node.executor.build(node.store.head(), (), VALIDATORS[0], None)
        wrong = replace(built.block, header=replace(built.block.header, **change))
        outcome = await node.executor.execute(wrong)
        assert isinstance(outcome, Refusal)
        assert outcome.error.reason is reason
        assert await node.executor.execute(wrong) is outcome


async def test_number_of_kept_results_is_bounded(tmp_path: Path) -> None:
    async with opened(tmp_path) as node:
        built = await node.executor.build(node.store.head(), (), VALIDATORS[0], None)
        for number in range(3 * module.KEPT_RESULTS):
            header = replace(built.block.header, state_root=keccak256(bytes([number])))
            await node.executor.execute(replace(built.block, header=header))
        assert len(node.executor._results) == module.KEPT_RESULTS


async def test_the_builder_stops_when_its_budget_is_over(tmp_path: Path) -> None:
    async with opened(tmp_path) as node:
        node.executor._build_seconds = 0.0
        transfers = [sign(ALICE, nonce, get_address(BOB), value=1) for nonce in range(400)]
        built = await node.executor.build(node.store.head(), transfers, VALIDATORS[0], None)
        assert len(built.block.transactions) < len(transfers)
        assert isinstance(await node.executor.execute(built.block), BlockResult)


async def test_a_slow_transaction_is_paid_for_and_keeps_none_out(tmp_path: Path) -> None:
    # BALANCE in a loop: much time for its gas. It has the best tip, so it is executed first.
    slow = sign(ALICE, 0, None, data=bytes.fromhex("5b3031505f56"), gas=3_000_000)
    transfer = sign(BOB, 0, get_address(ALICE), value=3)
    async with opened(tmp_path) as node:
        node.executor._build_seconds = 0.05
        included: list[Transaction] = []
        paid: list[int] = []
        for _ in range(2):
            left = tuple(each for each in (slow, transfer) if each not in included)
            built = await node.executor.build(node.store.head(), left, VALIDATORS[0], None)
            included += built.result.transactions
            paid.append(built.result.gas_used)
        assert included == [slow, transfer]
        assert paid == [3_000_000, 21_000]


class TwoClocks:
    """The time, and the processor time of a thread that may be paused."""

    def __init__(self) -> None:
        self.now, self.processor = 100.0, 3.0

    def budget(self, build_seconds: float = 1.0, candidate_seconds: float = 8.0) -> WallClockBudget:
        return WallClockBudget(
            build_seconds,
            candidate_seconds,
            clock=lambda: self.now,
            processor_clock=lambda: self.processor,
        )

    def work(self, seconds: float) -> None:
        self.now += seconds
        self.processor += seconds

    def wait(self, seconds: float) -> None:
        self.now += seconds


def test_candidate_is_not_stopped_for_a_pause_of_the_process() -> None:
    clocks = TwoClocks()
    budget = clocks.budget()
    assert budget.may_begin()
    clocks.wait(3_600)
    assert not budget.must_stop()
    clocks.work(6.9)
    assert not budget.must_stop()
    clocks.work(0.2)
    assert budget.must_stop()


@pytest.mark.parametrize("is_reading", [False, True])
def test_candidate_is_stopped_for_its_work_and_its_reads(is_reading: bool) -> None:
    clocks = TwoClocks()
    budget = clocks.budget()
    assert budget.may_begin()
    for _ in range(80):
        assert not budget.must_stop()
        (clocks.wait if is_reading else clocks.work)(0.101)
    assert budget.must_stop()
    # The next one has a time of its own, and that of the first does not count for the block.
    assert budget.may_begin()
    assert not budget.must_stop()
    clocks.work(9)
    assert budget.must_stop()
    assert not budget.may_begin()


def test_one_long_step_counts_by_its_processor_time() -> None:
    clocks = TwoClocks()
    budget = clocks.budget()
    assert budget.may_begin()
    clocks.work(9)
    assert budget.must_stop()


async def test_body_must_match_the_headers_root(tmp_path: Path) -> None:
    certificate = CommitCertificate(View(0), ((ValidatorIndex(0), Signature(bytes(65))),))
    async with opened(tmp_path) as node:
        built = await node.executor.build(node.store.head(), (), VALIDATORS[0], None)
        node.executor.validate_body(built.block)
        for wrong, reason in (
            (
                replace(built.block, transactions=(b"\2",)),
                RejectionReason.TRANSACTIONS_ROOT_MISMATCH,
            ),
            (replace(built.block, parent_certificate=certificate), RejectionReason.BAD_CERTIFICATE),
        ):
            assert wrong.hash == built.block.hash
            with pytest.raises(InvalidBlock) as refused:
                node.executor.validate_body(wrong)
            assert refused.value.reason is reason


async def test_oversized_body_is_refused_before_its_root_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(module, "compute_transactions_root")
    async with opened(tmp_path) as node:
        header = node.store.head()
        crowded = Block(header, (b"\2",) * (header.gas_limit // 21_000 + 1), None)
        larger = Block(replace(header, gas_limit=2 * header.gas_limit), crowded.transactions, None)
        for block, reason in (
            (crowded, RejectionReason.GAS_LIMIT),
            (larger, RejectionReason.HEADER_FIELD),
        ):
            with pytest.raises(InvalidBlock) as refused:
                node.executor.validate_body(block)
            assert refused.value.reason is reason


async def test_certificate_below_a_quorum_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as node:
        certificate = CommitCertificate(View(0), ((ValidatorIndex(0), Signature(bytes(65))),))
        with pytest.raises(InvalidMessage) as refused:
            node.executor.verify_certificate(certificate, BlockNumber(1), Hash32(bytes(32)))
        assert refused.value.reason is RejectionReason.BAD_CERTIFICATE
        await trio.lowlevel.checkpoint()


def test_signatures_are_recovered_once_and_the_oldest_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SIGNATURE_CACHE_SIZE", 3)
    recovered: list[bytes] = []

    def recover(digest: Hash32, signature: bytes) -> Address | None:
        recovered.append(signature)
        return None if signature == b"bad" else Address(digest[:20])

    cache = SignatureCache(recover)
    digest = Hash32(b"\7" * 32)
    assert [cache(digest, b"bad"), cache(digest, b"bad")] == [None, None]
    assert cache(digest, b"a") == cache(digest, b"a") == Address(digest[:20])
    assert recovered == [b"bad", b"a"]
    for signature in (b"b", b"c", b"d"):
        cache(digest, signature)
    cache(digest, b"bad")
    assert recovered == [b"bad", b"a", b"b", b"c", b"d", b"bad"]
