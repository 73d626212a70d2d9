"""A cluster of five nodes with a real ValidatorSet contract; the fifth is no validator yet."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import trio

from chain import crypto
from chain.contracts import training_token, validator_set
from chain.contracts.abi import ContractCall, ContractView
from chain.contracts.addresses import TRAINING_TOKEN, VALIDATOR_SET
from chain.crypto import get_address, keccak256
from chain.genesis import GenesisConfig, GenesisState, build_genesis
from chain.primitives import TOKEN_UNIT, Address, BlockNumber, PrivateKey
from node.chain.contract_reader import ContractReader
from node.operator.account import Operator
from node.operator.validator_set_calls import ValidatorSetCalls
from node.setup.network_genesis import Seat, build_network, plan_development_network
from tests.worlds.chain import ALICE, sign
from tests.worlds.cluster import (
    KEYS,
    TIMESTAMP,
    VALIDATORS,
    ClusterNode,
    Wire,
    build_cluster,
    heads,
    list_signed,
)

T = TypeVar("T")
OPERATOR_KEYS = tuple(PrivateKey(keccak256(b"operator %d" % i)) for i in range(5))
JOINER_KEY = PrivateKey(keccak256(b"validator 4"))
JOINER = get_address(JOINER_KEY)
FIVE = tuple(sorted((*VALIDATORS, JOINER)))
STAKE_POT = 500
CHANGE_BLOCKS = 5


@cache
def changing_genesis() -> tuple[GenesisConfig, GenesisState]:
    """A genesis with four validators, and a fifth operator that holds the stake."""
    seats = tuple(
        Seat(validator, get_address(key))
        for validator, key in zip(VALIDATORS, OPERATOR_KEYS[:4], strict=True)
    )
    plan = plan_development_network(seats, chain_id=4242)
    parameters = replace(
        plan.parameters, validator_stake_pot=STAKE_POT, validator_change_blocks=CHANGE_BLOCKS
    )
    config = build_network(
        replace(
            plan,
            parameters=parameters,
            timestamp=TIMESTAMP,
            tokens={get_address(OPERATOR_KEYS[4]): 2 * STAKE_POT * TOKEN_UNIT},
            coins={get_address(key): TOKEN_UNIT for key in (*OPERATOR_KEYS, ALICE)},
        )
    )
    return config, build_genesis(config)


class ChangingCluster:
    """Five nodes, the last of which is no validator yet; all pools get every transaction."""

    def __init__(self, path: Path, node_class: type[ClusterNode] = ClusterNode) -> None:
        wire = Wire(changing_genesis(), (*KEYS, JOINER_KEY))
        self.wire = build_cluster(path, 5, wire, node_class)
        self.joiner = self.wire.nodes[4]
        self.sent = 0

    @property
    def validators(self) -> list[ClusterNode]:
        return self.wire.nodes[:4]

    def send(self, key: PrivateKey, call: ContractCall, gas: int = 2_000_000) -> None:
        """Put a transaction into every pool."""
        running = [node for node in self.wire.nodes if node.is_running]
        nonce = max(node.mempool.pending_nonce(get_address(key)) or 0 for node in running)
        transaction = sign(key, nonce, call.to, data=call.data, gas=gas)
        for node in running:
            node.submit(transaction)
        self.sent += 1

    def join(self) -> None:
        stake = STAKE_POT * TOKEN_UNIT
        self.send(OPERATOR_KEYS[4], training_token.approve(TRAINING_TOKEN, VALIDATOR_SET, stake))
        digest = validator_set.compute_join_digest(
            changing_genesis()[0].chain_id, JOINER, get_address(OPERATOR_KEYS[4])
        )
        call = validator_set.propose_join(JOINER, crypto.sign(digest, JOINER_KEY))
        self.send(OPERATOR_KEYS[4], call)

    def vote(self, *voters: int) -> None:
        for index in voters:
            self.send(OPERATOR_KEYS[index], validator_set.vote_on_proposal(1))

    async def trickle(self) -> None:
        """Send a transfer every half a second, for ever."""
        while True:
            self.send(ALICE, ContractCall(JOINER, b""), gas=21_000)
            await trio.sleep(0.5)

    def sets(self, node: ClusterNode) -> list[tuple[Address, ...]]:
        """The validators of every block, from the first on."""
        numbers = range(1, node.store.head_number() + 1)
        return [node.store.validator_set(BlockNumber(number)).validators for number in numbers]

    def check(self) -> None:
        """Check that all nodes have one chain, and that no validator signed twice in one place."""
        common = min(heads(self.wire.nodes))
        for number in range(1, common + 1):
            hashes = {node.store.header(BlockNumber(number)).hash for node in self.wire.nodes}
            assert len(hashes) == 1
        assert len({tuple(self.sets(node)[:common]) for node in self.wire.nodes}) == 1
        signed = list_signed(self.wire.messages())
        assert {place for place, said in signed.items() if len(said) != 1} == set()
        assert self.wire.rejections == []


@asynccontextmanager
async def running(cluster: ChangingCluster) -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        for node in cluster.wire.nodes:
            await nursery.start(node.run)
        yield nursery
        nursery.cancel_scope.cancel()


def calls_of(cluster: ChangingCluster, index: int) -> ValidatorSetCalls:
    """The transactions that an operator's node sends by itself."""
    node, key = cluster.wire.nodes[index], OPERATOR_KEYS[index]

    async def send(call: ContractCall, gas_limit: int) -> None:
        await trio.lowlevel.checkpoint()
        cluster.send(key, call, gas_limit)

    config = cluster.wire.genesis[0]
    return ValidatorSetCalls(
        operator=Operator(get_address(key), send),
        contracts=ContractReader(node.store, node.database, config, node.clock),
        store=node.store,
        evidence=node.evidence,
        evidence_blocks=config.parameters.evidence_blocks,
    )


def read(cluster: ChangingCluster, view: ContractView[T]) -> T:
    node = cluster.validators[0]
    config = cluster.wire.genesis[0]
    return ContractReader(node.store, node.database, config, node.clock).read(view)
