"""A running network whose validator set changes (docs/spec/consensus.md, section 13)."""

from pathlib import Path

import pytest
from trio.testing import MockClock

from chain.contracts import validator_set
from chain.contracts.addresses import VALIDATOR_SET
from chain.contracts.set_storage import SET_SLOTS
from chain.light import LightChain, TrustedNetwork
from chain.primitives import BlockNumber
from chain.state.proof import build_state_proof
from tests.worlds.changing_cluster import (
    FIVE,
    JOINER,
    OPERATOR_KEYS,
    ChangingCluster,
    changing_genesis,
    running,
)
from tests.worlds.cluster import VALIDATORS, ClusterNode, heads
from tests.worlds.waiting import until

pytestmark = pytest.mark.usefixtures("inline_threads")


def certificates_of(node: ClusterNode, index: int, first: int) -> int:
    """How many certificates from a number on have the signature of a validator index."""
    numbers = range(first, node.store.head_number() + 1)
    held = [node.store.certificate(BlockNumber(number)) for number in numbers]
    return sum(index in dict(certificate.signatures) for certificate in held if certificate)


def follow_from_genesis(node: ClusterNode) -> None:
    """Who holds no state knows after two proofs which headers are final."""
    config, genesis = changing_genesis()
    chain = LightChain(TrustedNetwork(config.chain_id, genesis.header.hash, config.parameters))

    def certified(number: int) -> tuple[bytes, bytes]:
        header = node.store.header(BlockNumber(number))
        return header.encode(), node.store.certificate(header.number).encode()

    for first_block, following in node.store.validator_sets_after(chain.set_since, 16):
        last = node.store.header(BlockNumber(first_block - 1))
        nodes = build_state_proof(node.database, last.state_root, {VALIDATOR_SET: SET_SLOTS})
        chain.follow_change(following.validators, *certified(last.number), nodes)
    for number in range(1, node.store.head_number() + 1):
        expected = node.store.validator_set(BlockNumber(number)).validators
        assert chain.get_validators(BlockNumber(number)) == expected
        chain.verify_header(BlockNumber(number), *certified(number))


async def test_a_fifth_validator_joins_votes_proposes_and_leaves_under_load(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    cluster = ChangingCluster(tmp_path)
    first, joiner = cluster.validators[0], cluster.joiner
    async with running(cluster) as nursery:
        nursery.start_soon(cluster.trickle)
        await until(lambda: min(heads(cluster.wire.nodes)) >= 3)
        assert not joiner.host.is_member
        cluster.join()
        await until(lambda: first.mempool.counts()[0] == 0)
        cluster.vote(0, 1, 2)
        await until(lambda: first.store.next_validator_set().validators == FIVE)
        joined_at = first.store.head_number() + 1
        assert first.store.validator_set(BlockNumber(joined_at - 1)).validators == VALIDATORS

        # The validator was in the network before, and votes and proposes now.
        index = FIVE.index(JOINER)
        await until(lambda: certificates_of(first, index, joined_at) >= 3)
        await until(lambda: JOINER in first.store.coinbases(BlockNumber(joined_at), 2**60))
        assert joiner.host.is_member
        assert joiner.host.is_signing

        cluster.send(OPERATOR_KEYS[4], validator_set.leave_set())
        await until(lambda: first.store.next_validator_set().validators == VALIDATORS)
        left_at = first.store.head_number() + 1
        await until(lambda: min(heads(cluster.wire.nodes)) >= left_at)
        said = len(cluster.wire.messages(4))
        await until(lambda: min(heads(cluster.wire.nodes)) >= left_at + 5)
        # It follows, and says nothing more.
        assert not joiner.host.is_member
        assert len(cluster.wire.messages(4)) == said
        assert JOINER not in first.store.coinbases(BlockNumber(left_at), 2**60)
        cluster.check()
        follow_from_genesis(first)


async def test_with_a_fifth_member_four_must_agree_even_if_the_joiner_is_dead(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    cluster = ChangingCluster(tmp_path)
    first = cluster.validators[0]
    async with running(cluster):
        cluster.join()
        await until(lambda: min(heads(cluster.validators)) >= 2)
        cluster.joiner.kill()
        cluster.vote(0, 1, 2)
        await until(lambda: first.store.next_validator_set().validators == FIVE)
        target = first.store.head_number() + 6
        await until(lambda: min(heads(cluster.validators)) >= target)
        quorums = [
            len(first.store.certificate(BlockNumber(number)).signatures)
            for number in (target - 1, target)
        ]
        assert quorums == [4, 4]


async def test_a_node_that_was_away_syncs_across_a_change(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    cluster = ChangingCluster(tmp_path)
    first, away = cluster.validators[0], cluster.validators[3]
    async with running(cluster) as nursery:
        await until(lambda: min(heads(cluster.wire.nodes)) >= 2)
        away.kill()
        cluster.join()
        await until(lambda: first.mempool.counts()[0] == 0)
        cluster.vote(0, 1, 2)
        await until(lambda: first.store.next_validator_set().validators == FIVE)
        target = first.store.head_number() + 8
        await until(lambda: first.store.head_number() >= target)
        await nursery.start(away.run)
        await until(lambda: away.store.head_number() >= target)
        assert away.store.next_validator_set().validators == FIVE
        position = FIVE.index(away.address)
        await until(lambda: certificates_of(first, position, target) >= 2)
        cluster.check()
        assert all(node.faults == [] for node in cluster.wire.nodes)


async def test_validator_removed_while_it_was_down_becomes_a_follower(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    cluster = ChangingCluster(tmp_path)
    first, joiner = cluster.validators[0], cluster.joiner
    async with running(cluster) as nursery:
        await until(lambda: min(heads(cluster.wire.nodes)) >= 2)
        cluster.join()
        await until(lambda: first.mempool.counts()[0] == 0)
        cluster.vote(0, 1, 2)
        await until(lambda: joiner.host.is_member and joiner.host.is_signing)
        joiner.kill()
        cluster.send(OPERATOR_KEYS[4], validator_set.leave_set())
        await until(lambda: first.store.next_validator_set().validators == VALIDATORS)
        target = first.store.head_number() + 8
        await until(lambda: first.store.head_number() >= target)
        # It begins in the belief that it decides; the others hear it no more.
        await nursery.start(joiner.run)
        await until(lambda: joiner.store.head_number() >= target)
        assert not joiner.host.is_member
        cluster.check()
        assert all(node.faults == [] for node in cluster.wire.nodes)
