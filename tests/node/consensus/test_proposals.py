"""Proposals answer what the replica asks about blocks, or None once it has gone on."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain import builder
from chain.consensus.effects import BuildBlock
from chain.consensus.inputs import BlockBuilt, BlockFetched, BlockValidated
from chain.contracts import gradient_ledger, task_registry
from chain.contracts.abi import ContractCall
from chain.crypto import get_address, keccak256
from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import Address, BlockNumber, Hash32, View
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from chain.types.header import Header
from chain.types.transaction import Transaction
from node.consensus.proposals import Proposals
from node.mempool.free_gas import FreeGasPolicy
from node.mempool.pool import Mempool
from node.network.peers import PeerInfo
from node.network.stream import PeerId, UnreachablePeerError
from node.network.wire import Head
from tests.worlds.chain import ALICE, BOB, CAROL, sign
from tests.worlds.cluster import (
    VALIDATORS,
    ClusterNode,
    build_cluster,
    network_genesis,
    with_body,
)
from tests.worlds.stored_chain import sign as sign_fields
from tests.worlds.training_chain import OPERATORS, SUBMITTER, TASK, FixedClock, TrainingChain
from tests.worlds.training_chain import VALIDATORS as CHAIN_VALIDATORS

pytestmark = pytest.mark.usefixtures("inline_threads")

ONE, TWO = BlockNumber(1), BlockNumber(2)
PRICE = {"maxPriorityFeePerGas": 10**9, "maxFeePerGas": 10**9}
TRANSFER = sign(ALICE, 0, get_address(BOB), value=7)


@dataclass
class Peers:
    """Validators by what they answer to a request for a block: a block, nothing, or silence."""

    answers: dict[Address, Block | UnreachablePeerError | None] = field(default_factory=dict)
    asked: list[Address] = field(default_factory=list)
    faults: list[tuple[PeerId, RejectionReason]] = field(default_factory=list)

    def peers(self) -> tuple[PeerInfo, ...]:
        head = Head(BlockNumber(0), Hash32(bytes(32)))
        return tuple(
            PeerInfo(PeerId(address.hex()), address, head, False, 0.001, (), 100)
            for address in self.answers
        )

    async def request_block_by_hash(self, peer_id: PeerId, block_hash: Hash32) -> Block | None:
        await trio.lowlevel.checkpoint()
        address = Address(bytes.fromhex(peer_id))
        self.asked.append(address)
        answer = self.answers[address]
        if isinstance(answer, UnreachablePeerError):
            raise answer
        return answer

    async def request_blocks(
        self, peer_id: PeerId, first_number: BlockNumber, count: int
    ) -> tuple[tuple[Block, CommitCertificate], ...]:
        raise AssertionError("not asked for ranges")

    def report_fault(self, peer_id: PeerId, error: RejectedInputError) -> None:
        self.faults.append((peer_id, error.reason))


@pytest.fixture
def peers() -> Peers:
    return Peers()


@pytest.fixture
async def node(autojump_clock: MockClock, tmp_path: Path) -> AsyncIterator[ClusterNode]:
    (node,) = build_cluster(tmp_path, 1).nodes
    node.open()
    yield node
    node.wal.close()
    node.database.close()


@pytest.fixture
async def proposals(node: ClusterNode, peers: Peers) -> Proposals:
    return Proposals(
        parameters=network_genesis()[0].parameters,
        coinbase=VALIDATORS[0],
        store=node.store,
        executor=node.executor,
        mempool=node.mempool,
        peers=peers,
        clock=node.clock,
    )


async def build_block(proposals: Proposals) -> Block:
    built = await proposals.build(BuildBlock(ONE, View(0)))
    assert built is not None
    return built.block


async def test_block_holds_what_the_pool_holds(node: ClusterNode, proposals: Proposals) -> None:
    assert not proposals.has_transaction()
    node.mempool.add(TRANSFER)
    assert proposals.has_transaction()
    built = await proposals.build(BuildBlock(ONE, View(3)))
    assert built == BlockBuilt(ONE, View(3), built.block if built else None)
    assert built is not None
    assert built.block.transactions == (TRANSFER.raw,)
    assert built.block.header.coinbase == VALIDATORS[0]


class DirectExecutor:
    """Builds blocks in the calling thread."""

    def __init__(self, chain: TrainingChain) -> None:
        self._chain = chain

    async def build(
        self,
        parent: Header,
        candidates: Sequence[Transaction],
        coinbase: Address,
        parent_certificate: CommitCertificate | None,
        free_gas: Sequence[builder.FreeGas] = (),
    ) -> builder.BuiltBlock:
        await trio.lowlevel.checkpoint()
        return builder.build_block(
            parent,
            candidates,
            self._chain.local.database,
            self._chain.local.config,
            coinbase=coinbase,
            timestamp=parent.timestamp + 1,
            parent_certificate=parent_certificate,
            free_gas=free_gas,
        )


async def test_pool_keeps_what_cannot_pay_the_base_fee_of_the_next_block(
    peers: Peers, tmp_path: Path
) -> None:
    chain = TrainingChain(tmp_path, base_fee_per_gas=10**9)
    pool = Mempool(chain.rules)
    transfer = ContractCall(Address(b"\x01" * 20), b"")
    low = [
        chain.draft(OPERATORS[0], transfer, nonce=nonce, maxFeePerGas=10**9) for nonce in range(2)
    ]
    for each in low:
        pool.add(each)
    # A creation that burns its gas; two fill a block, and the base fee rises by an eighth.
    burn = {"to": b"", "data": b"\xfe", "gas": 15_000_000, "maxFeePerGas": 10**10}
    chain.local.extend(*(sign_fields(SUBMITTER, nonce=nonce, **burn) for nonce in range(2)))
    pool.on_finalized([])
    proposals = Proposals(
        parameters=chain.local.config.parameters,
        coinbase=CHAIN_VALIDATORS[0],
        store=chain.store,
        executor=DirectExecutor(chain),  # type: ignore[arg-type]  # builds without a thread
        mempool=pool,
        peers=peers,
        clock=FixedClock(),
    )
    built = await proposals.build(BuildBlock(TWO, View(0)))
    assert built is not None
    assert built.block.transactions == ()
    assert [each.hash in pool for each in low] == [True, True]


async def test_free_transactions_wait_for_the_ration_and_others_do_not(
    node: ClusterNode, peers: Peers
) -> None:
    # Each uses its whole gas limit; a block has 8 million for free ones.
    burn = {"data": b"\xfe", "gas": 3_000_000, "maxPriorityFeePerGas": 0, "maxFeePerGas": 0}
    free = [sign(key, nonce, None, **burn) for key in (ALICE, BOB) for nonce in range(2)]
    paying = sign(CAROL, 0, None, data=b"\xfe", gas=8_000_001, **PRICE)
    node.mempool.free_gas = FreeGasPolicy.build(
        network_genesis()[0], price_wei=10**9, gas_per_second=500_000
    )
    for each in (*free, paying):
        node.mempool.add(each)
    proposals = Proposals(
        parameters=network_genesis()[0].parameters,
        coinbase=VALIDATORS[0],
        store=node.store,
        executor=node.executor,
        mempool=node.mempool,
        peers=peers,
        clock=node.clock,
    )
    two, one, none = (
        (paying.raw, free[0].raw, free[1].raw),
        (paying.raw, free[0].raw),
        (paying.raw,),
    )
    assert (await build_block(proposals)).transactions == two
    # Two of the eight million are left, so another transaction overdraws it by one million.
    assert (await build_block(proposals)).transactions == one
    assert (await build_block(proposals)).transactions == none
    # This validator's quarter of the ration fills 125 000 in a second.
    await trio.sleep(7)
    assert (await build_block(proposals)).transactions == none
    await trio.sleep(2)
    assert (await build_block(proposals)).transactions == one
    assert all(each.hash in node.mempool for each in free)


@pytest.mark.usefixtures("autojump_clock")
async def test_refused_calls_of_an_operator_wait_for_its_own_ration_only(
    peers: Peers, tmp_path: Path
) -> None:
    chain = TrainingChain(tmp_path)
    chain.submit()
    chain.activate()
    # No gas is free to others.
    policy = FreeGasPolicy.build(chain.local.config, price_wei=10**9, gas_per_second=0)
    pool = Mempool(chain.rules, free_gas=policy)
    liar, honest = OPERATORS[0], OPERATORS[3]
    # Each takes 500 000 units of gas, most of it for its data: all that an operator has.
    junk = gradient_ledger.post_verdict(TASK, 9, 0, 0, b"\1" * 12_000)
    first = chain.draft(liar, junk).nonce
    refused = [chain.draft(liar, junk, nonce=first + at, gas=600_000) for at in range(9)]
    stale = chain.draft(honest, task_registry.expire_task(TASK), gas=9_000_000)
    vote = chain.draft(honest, task_registry.answer_task(TASK, 1), nonce=stale.nonce + 1)
    for each in (*refused, stale, vote):
        pool.add(each)
    proposals = Proposals(
        parameters=chain.local.config.parameters,
        coinbase=CHAIN_VALIDATORS[0],
        store=chain.store,
        executor=DirectExecutor(chain),  # type: ignore[arg-type]  # builds without a thread
        mempool=pool,
        peers=peers,
        clock=FixedClock(),
    )

    async def build() -> list[bytes]:
        number = BlockNumber(chain.store.head_number() + 1)
        built = await proposals.build(BuildBlock(number, View(0)))
        assert built is not None
        return sorted(built.block.transactions)

    assert await build() == sorted((refused[0].raw, stale.raw, vote.raw))
    assert await build() == sorted((stale.raw, vote.raw))


async def test_questions_about_another_number_are_not_answered(
    node: ClusterNode, proposals: Proposals
) -> None:
    block = await build_block(proposals)
    later = replace(block, header=replace(block.header, number=TWO))
    assert await proposals.build(BuildBlock(TWO, View(0))) is None
    assert await proposals.validate(later, oldest=None) is None
    assert await proposals.wait_until_fresh(later, 0) is None


async def test_block_is_valid_and_fresh_once_the_interval_is_over(proposals: Proposals) -> None:
    block = await build_block(proposals)
    early = await proposals.validate(block, oldest=0)
    assert early == BlockValidated(block.hash, is_valid=True, is_fresh=False)
    started = trio.current_time()
    in_time = await proposals.wait_until_fresh(block, 0)
    assert in_time == BlockValidated(block.hash, is_valid=True, is_fresh=True)
    # The interval of 200 ms, less the tolerance of 50 ms.
    assert 0.1 <= trio.current_time() - started <= 0.2
    assert await proposals.validate(block, oldest=0) == in_time


async def test_block_with_too_old_a_timestamp_never_becomes_fresh(
    node: ClusterNode, proposals: Proposals
) -> None:
    block = await build_block(proposals)
    await trio.sleep(1)
    oldest = block.header.timestamp + 1
    too_old = BlockValidated(block.hash, is_valid=True, is_fresh=False)
    assert proposals.find_lateness(block.hash) is None
    assert await proposals.validate(block, oldest=oldest) == too_old
    assert await proposals.wait_until_fresh(block, oldest) is None
    late_seconds = proposals.find_lateness(block.hash)
    assert late_seconds is not None
    assert 1 <= late_seconds <= node.clock.now_ms() / 1000 - block.header.timestamp
    assert proposals.find_lateness(Hash32(bytes(32))) is None


async def test_oldest_timestamp_counts_from_the_arrival(proposals: Proposals) -> None:
    block = await build_block(proposals)
    first = proposals.compute_oldest_timestamp(2_000)
    await trio.sleep(10)
    later = proposals.compute_oldest_timestamp(2_000)
    assert (first, later) == (block.header.timestamp - 3, block.header.timestamp + 7)
    assert proposals.compute_oldest_timestamp(None) is None


async def test_invalid_block_is_never_fresh(proposals: Proposals) -> None:
    block = await build_block(proposals)
    await trio.sleep(1)
    wrong = replace(block, header=replace(block.header, state_root=keccak256(b"another state")))
    answer = await proposals.validate(wrong, oldest=0)
    assert answer == BlockValidated(wrong.hash, is_valid=False, is_fresh=False)


async def test_block_is_fetched_from_the_first_that_gives_it(
    proposals: Proposals, peers: Peers
) -> None:
    block = await build_block(proposals)
    first, second, third, fourth = VALIDATORS
    peers.answers = {
        first: block,  # did not commit it, so it is not asked
        second: UnreachablePeerError("gone"),
        third: with_body(block, b"\x02not the one"),
        fourth: block,
    }
    found = await proposals.fetch(block.hash, [second, third, fourth])
    assert found == BlockFetched(block)
    assert peers.asked == [second, third, fourth]
    assert peers.faults == [(third.hex(), RejectionReason.TRANSACTIONS_ROOT_MISMATCH)]


async def test_block_that_no_validator_gives_is_not_answered(
    proposals: Proposals, peers: Peers
) -> None:
    block = await build_block(proposals)
    other = replace(block, header=replace(block.header, timestamp=block.header.timestamp + 1))
    peers.answers = {VALIDATORS[1]: None, VALIDATORS[2]: other}
    assert await proposals.fetch(block.hash, VALIDATORS) is None
    assert peers.asked == [VALIDATORS[1], VALIDATORS[2]]
