"""A validator with an empty disk joins a running network by snapshot, votes, and serves."""

import shutil
from functools import cache
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.contracts import validator_set
from chain.genesis import GenesisConfig, GenesisState, build_genesis
from chain.params import ChainParameters
from chain.primitives import Address, BlockNumber
from node.network.stream import PeerId
from node.setup.network_genesis import NetworkPlan, Seat, build_network
from node.sync import snapshot_sync
from node.sync.block_sync import BlockSync
from node.sync.snapshot_sync import SnapshotSync
from tests.worlds.changing_cluster import (
    FIVE,
    OPERATOR_KEYS,
    ChangingCluster,
    changing_genesis,
)
from tests.worlds.cluster import TIMESTAMP, VALIDATORS, ClusterNode, Wire, heads
from tests.worlds.snapshot import MemoryNetwork, Server
from tests.worlds.stored_chain import CHAIN_ID
from tests.worlds.waiting import until

pytestmark = pytest.mark.usefixtures("inline_threads")


@cache
def contract_genesis() -> tuple[GenesisConfig, GenesisState]:
    """The cluster's genesis with the system contracts."""
    config = build_network(
        NetworkPlan(
            chain_id=CHAIN_ID,
            seats=tuple(Seat(each, Address(each[::-1])) for each in VALIDATORS),
            parameters=ChainParameters(
                min_block_interval_ms=200,
                empty_block_interval_ms=1_000,
                view_timeout_base_ms=2_000,
                view_timeout_cap_ms=8_000,
            ),
            gas_limit=30_000_000,
            base_fee_per_gas=0,
            timestamp=TIMESTAMP,
            has_faucet=True,
        )
    )
    return config, build_genesis(config)


class SnapshotNode(ClusterNode, MemoryNetwork):
    """A node of the cluster that also serves its state and may join by snapshot."""

    sources: tuple[int, ...] = (0, 1, 2, 3)
    """The indices of the nodes that it knows as peers."""

    chain_id = CHAIN_ID
    request_headers = MemoryNetwork.request_headers

    @property
    def servers(self) -> dict[PeerId, Server]:
        return {PeerId(f"node {node.index}"): node.server for node in self._wire.nodes}

    def peers(self):
        names = {f"node {index}" for index in self.sources}
        return tuple(peer for peer in ClusterNode.peers(self) if peer.peer_id in names)

    def open(self) -> None:
        super().open()
        self.server = Server(self.store, self.database)
        self.sync = BlockSync(
            store=self.store,
            executor=self.executor,
            network=self,
            finalizer=self.finalizer,
            own_validator=self.address if self.is_signer else None,
            snapshot=SnapshotSync(
                store=self.store,
                database=self.database,
                executor=self.executor,
                network=self,
                finalizer=self.finalizer,
                chain_id=self.chain_id,
                mode="snapshot",
            ),
        )


async def test_validator_with_an_empty_disk_joins_votes_and_serves_the_next_one(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_sync, "PIVOT_LAG_BLOCKS", 2)
    wire = Wire(genesis=contract_genesis())
    for index in range(4):
        (tmp_path / str(index)).mkdir()
        SnapshotNode(wire, index, tmp_path / str(index))
    first, _, _, late = wire.nodes
    async with trio.open_nursery() as nursery:
        for node in wire.nodes[:3]:
            await nursery.start(node.run)
        await until(lambda: min(heads(wire.nodes[:3])) >= 10)
        begun = first.store.head_number()
        await nursery.start(late.run)
        await until(lambda: late.store.head_number() > begun)
        assert late.store.first_held() >= 10 - 2
        assert late.store.block(BlockNumber(5)) is None, "nothing was replayed"
        head = late.store.head()
        assert first.store.header(head.number) == head

        # Without its guard it signs nothing for two blocks. Then one of the others is killed,
        # so the two left need its votes: blocks go on, so it votes.
        await until(lambda: late.host.is_signing)
        first.kill()
        goal = late.store.head_number() + 6
        await until(lambda: min(heads(wire.nodes[1:])) >= goal)

        # Its data is enough for another fresh node that knows no other peer.
        shutil.rmtree(first.directory)
        first.directory.mkdir()
        first.sources, first.is_signer = (3,), False
        await nursery.start(first.run)
        await until(lambda: first.store.head_number() > goal)
        assert first.store.first_held() >= late.store.first_held()
        assert set(late.server.asked) >= {"chunk", "headers", "receipts"}
        assert late.faults == first.faults == []
        nursery.cancel_scope.cancel()


async def test_snapshot_sync_across_validator_set_changes(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_sync, "PIVOT_LAG_BLOCKS", 2)
    cluster = ChangingCluster(tmp_path, SnapshotNode)
    for node in cluster.wire.nodes:
        node.sources, node.chain_id = (0, 1, 2, 4), changing_genesis()[0].chain_id
    first, late = cluster.wire.nodes[0], cluster.wire.nodes[3]
    there = [node for node in cluster.wire.nodes if node is not late]
    async with trio.open_nursery() as nursery:
        for node in there:
            await nursery.start(node.run)
        cluster.join()
        await until(lambda: first.mempool.counts()[0] == 0)
        cluster.vote(0, 1, 2)
        await until(lambda: first.store.next_validator_set().validators == FIVE)
        await until(lambda: cluster.joiner.host.is_signing)
        cluster.send(OPERATOR_KEYS[0], validator_set.propose_removal(late.address))
        await until(lambda: first.mempool.counts()[0] == 0)
        for key in (OPERATOR_KEYS[1], OPERATOR_KEYS[2], OPERATOR_KEYS[4]):
            cluster.send(key, validator_set.vote_on_proposal(2))
        await until(lambda: late.address not in first.store.next_validator_set().validators)
        # Three of the four members are left, so every certificate needs the vote of the joiner,
        # which is not in the genesis set.
        there.pop(2).kill()
        begun = first.store.head_number() + 20
        await until(lambda: min(heads(there)) >= begun)

        # It knows genesis only.
        await nursery.start(late.run)
        await until(lambda: late.store.head_number() > begun)
        assert late.store.first_held() >= begun - 2, "nothing was replayed"
        assert late.store.next_validator_set() == first.store.next_validator_set()
        assert late.faults == []
        nursery.cancel_scope.cancel()
