"""The calls that operators' nodes send to the validator set contract."""

from itertools import pairwise
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.consensus.evidence import Evidence
from chain.consensus.messages import (
    MessageKind,
    Vote,
    compute_signing_digest,
    encode_message,
)
from chain.contracts import validator_set
from chain.contracts.abi import ContractCall
from chain.crypto import get_address, keccak256
from chain.crypto import sign as sign_digest
from chain.primitives import BlockNumber, ValidatorIndex, View
from node.chain.contract_reader import ContractReader
from node.operator.account import Operator
from node.operator.validator_set_calls import ValidatorSetCalls
from tests.worlds.changing_cluster import (
    JOINER,
    OPERATOR_KEYS,
    ChangingCluster,
    calls_of,
    read,
    running,
)
from tests.worlds.cluster import VALIDATORS, domain, heads
from tests.worlds.waiting import until

pytestmark = pytest.mark.usefixtures("inline_threads")


async def test_equivocating_validator_is_reported_slashed_and_removed(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    cluster = ChangingCluster(tmp_path)
    first, liar = cluster.validators[0], cluster.validators[3]
    liar_index = VALIDATORS.index(liar.address)
    async with running(cluster) as nursery:
        for index in range(3):
            nursery.start_soon(calls_of(cluster, index).run)
        await until(lambda: read(cluster, validator_set.genesis_hash()) != bytes(32))
        assert read(cluster, validator_set.genesis_hash()) == cluster.wire.genesis[1].header.hash

        # The validator equivocates: it sends a second PREPARE with each of its own.
        def lie() -> None:
            number = BlockNumber(liar.store.head_number() + 1)
            for block in (keccak256(b"one"), keccak256(b"two")):
                digest = compute_signing_digest(
                    domain(cluster.wire.genesis), MessageKind.PREPARE, number, View(0), block
                )
                vote = Vote(
                    MessageKind.PREPARE,
                    number,
                    View(0),
                    block,
                    ValidatorIndex(liar_index),
                    sign_digest(digest, liar.private_key),
                )
                first.deliver(liar.index, encode_message(vote))

        liar.after_finalized = lambda _block: lie()
        await until(lambda: first.evidence.held() != ())
        liar.after_finalized = lambda _block: None
        await until(lambda: liar.address not in first.store.next_validator_set().validators)
        state = read(cluster, validator_set.get_validator(liar.address))
        assert state.is_slashed
        target = first.store.head_number() + 5
        await until(lambda: min(heads(cluster.wire.nodes)) >= target)
        assert not liar.host.is_member
        await until(lambda: first.evidence.held() == ())


async def test_nodes_carry_out_due_set_changes(autojump_clock: MockClock, tmp_path: Path) -> None:
    cluster = ChangingCluster(tmp_path)
    first = cluster.validators[0]
    async with running(cluster) as nursery:
        for index in (0, 4):
            nursery.start_soon(calls_of(cluster, index).run)
        # Three changes are due; the contract makes one at a time.
        cluster.join()
        cluster.send(OPERATOR_KEYS[3], validator_set.leave_set())
        cluster.send(OPERATOR_KEYS[2], validator_set.leave_set())
        await until(lambda: first.mempool.counts()[0] == 0)
        cluster.vote(0, 1, 2)
        left = {cluster.validators[2].address, cluster.validators[3].address}
        await until(lambda: JOINER in first.store.next_validator_set().validators)
        await until(lambda: not left & set(first.store.next_validator_set().validators))
        assert len(first.store.next_validator_set().validators) == 3


async def test_evidence_is_resent_with_backoff_and_dropped_when_old(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    cluster = ChangingCluster(tmp_path)
    node = cluster.validators[0]
    sent: list[tuple[int, ContractCall]] = []

    async def send(call: ContractCall, gas_limit: int) -> None:
        await trio.lowlevel.checkpoint()
        sent.append((node.store.head_number(), call))

    async with running(cluster):
        calls = calls_of(cluster, 0)
        config = cluster.wire.genesis[0]
        calls = ValidatorSetCalls(
            operator=Operator(get_address(OPERATOR_KEYS[0]), send),
            contracts=ContractReader(node.store, node.database, config, node.clock),
            store=node.store,
            evidence=node.evidence,
            evidence_blocks=30,
        )
        record = validator_set.record_genesis()
        while node.store.head_number() < 25:
            await calls.send_due()
            await trio.sleep(0.2)
        numbers = [number for number, call in sent if call == record]
        gaps = [second - first for first, second in pairwise(numbers)]
        assert gaps == sorted(gaps)
        assert gaps[0] >= 6
        assert gaps[1] >= 12

        old = Evidence(VALIDATORS[1], BlockNumber(1), b"")
        node.evidence.add(old)
        while node.store.head_number() <= 31:
            assert node.evidence.held() == (old,)
            await calls.send_due()
            await trio.sleep(0.2)
        await calls.send_due()
        assert node.evidence.held() == ()
