"""The answers of the node process to its RPC processes, over running consensus hosts."""

import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.crypto import get_address, recover
from chain.errors import RejectedInputError, RejectionReason
from chain.hexadecimal import to_hex
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.training.attempt import AttemptId
from chain.training.reveal import Reveal
from node.health.reader import HealthReader
from node.ipc.backend import Backend
from node.mempool.free_gas import FreeGasPolicy
from node.mempool.intake import Pool
from node.rpc.errors import build_rejection
from tests.worlds.chain import ALICE, BOB, sign
from tests.worlds.cluster import (
    VALIDATORS,
    ClusterNode,
    build_cluster,
    heads,
    network_genesis,
)
from tests.worlds.waiting import until

pytestmark = pytest.mark.usefixtures("inline_threads")


class NamedNetwork:
    """The network of a simulated cluster, with the names and addresses that the backend needs."""

    peer_id = "12D3KooWMe"

    def __init__(self, node: ClusterNode) -> None:
        self.peers = node.peers

    def listen_addresses(self) -> tuple[str, ...]:
        return ("/ip4/127.0.0.1/tcp/9000",)


class Notifications:
    """Records the notifications of the backend and the pool."""

    def __init__(self) -> None:
        self.added: list[Hash32] = []
        self.woken = 0
        self.reveals: list[Reveal] = []

    def wake(self) -> None:
        self.woken += 1


async def find_holders(attempt_id: AttemptId, miner: Address) -> Sequence[Address]:
    await trio.lowlevel.checkpoint()
    return (VALIDATORS[attempt_id.round_number], miner)


@asynccontextmanager
async def running_backend(path: Path) -> AsyncIterator[tuple[Backend, ClusterNode, Notifications]]:
    wire = build_cluster(path)
    async with trio.open_nursery() as nursery:
        for node in wire.nodes:
            await nursery.start(node.run)
        node, notified = wire.nodes[0], Notifications()
        pool = Pool(node.mempool)
        pool.add_listener(notified.added.append)
        yield (
            Backend(
                pool=pool,
                mempool=node.mempool,
                network=NamedNetwork(node),
                consensus=node.host,
                sync=node.sync,
                store=node.store,
                validator=VALIDATORS[0],
                health=HealthReader(
                    parameters=network_genesis()[0].parameters,
                    validator=VALIDATORS[0],
                    names={VALIDATORS[3]: "delta"},
                    data_dir=path,
                    clock=node.clock,
                    store=node.store,
                    consensus=node.host,
                    peers=node,
                    sync=node.sync,
                    mempool=node.mempool,
                ),
                wake_training=notified.wake,
                take_reveal=notified.reveals.append,
                describe_readiness=lambda task_id: {"state": "waiting", "task": task_id},
                find_disk_objection=lambda task_id: f"no room for {task_id}",
                find_holders=find_holders,
            ),
            node,
            notified,
        )
        nursery.cancel_scope.cancel()


async def test_submitted_transaction_is_pooled_announced_and_found(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with running_backend(tmp_path) as (backend, _, notified):
        first, later = (sign(ALICE, nonce, get_address(BOB), value=1) for nonce in (0, 2))
        assert await backend.submit_transaction(first.raw) == first.hash
        await backend.submit_transaction(later.raw)
        assert notified.added == [first.hash, later.hash]
        assert backend.get_pending_nonce(get_address(ALICE)) == 1
        assert backend.get_pooled_transaction(first.hash) == first.raw
        assert backend.get_pooled_transaction(Hash32(bytes(32))) is None
        assert backend.list_waiting(get_address(ALICE)) == ([first.hash], [later.hash])
        assert backend.list_waiting(get_address(BOB)) == ([], [])
        assert backend.get_pool_counts() == (1, 1)


async def test_gas_price_is_suggested_while_free_transactions_wait(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with running_backend(tmp_path) as (backend, node, _):
        node.mempool.free_gas = FreeGasPolicy(
            10**9, gas_per_second=2_000, block_gas=30_000, operator_gas=2_000_000
        )
        assert backend.get_gas_price() == 0
        free = sign(ALICE, 0, get_address(BOB), maxFeePerGas=0, maxPriorityFeePerGas=0)
        await backend.submit_transaction(free.raw)
        assert backend.get_gas_price() == 10**9
        findings = backend.get_consensus_state()["findings"]
        assert isinstance(findings, list)
        told = [each for each in findings if isinstance(each, dict)]
        assert [each["text"] for each in told if each["code"] == "free_gas_exhausted"] == [
            "Too many transactions that pay nothing wait: they ask for the free gas of 10 s."
        ]
        large = sign(BOB, 0, None, data=b"", gas=60_000, maxFeePerGas=0, maxPriorityFeePerGas=0)
        with pytest.raises(RejectedInputError) as refused:
            await backend.submit_transaction(large.raw)
        error = build_rejection(refused.value.reason, refused.value.detail)
        assert error.message == (
            "transaction underpriced: gas limit 60000; without a price, validators include at most "
            "30000: offer 1000000000 wei for a unit of gas"
        )


async def test_submitting_a_transaction_recovers_its_signature_once(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recovered: list[Hash32] = []

    def count(digest: Hash32, signature: bytes) -> Address | None:
        recovered.append(digest)
        return recover(digest, signature)

    transfer = sign(ALICE, 0, get_address(BOB), value=1)
    monkeypatch.setattr("chain.types.transaction.recover", count)
    async with running_backend(tmp_path) as (backend, _, _notified):
        await backend.submit_transaction(transfer.raw)
        assert len(recovered) == 1


@pytest.mark.parametrize("raw", [b"", b"\x03" + bytes(50), b"\xff" * 10, bytes(2**18)])
async def test_garbage_is_refused_and_not_announced(
    autojump_clock: MockClock, tmp_path: Path, raw: bytes
) -> None:
    async with running_backend(tmp_path) as (backend, _, notified):
        with pytest.raises(RejectedInputError):
            await backend.submit_transaction(raw)
        assert notified.added == []


async def test_known_transaction_is_refused_with_its_reason(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with running_backend(tmp_path) as (backend, _, _notified):
        transfer = sign(ALICE, 0, get_address(BOB), value=1)
        await backend.submit_transaction(transfer.raw)
        with pytest.raises(RejectedInputError) as refused:
            await backend.submit_transaction(transfer.raw)
        assert refused.value.reason is RejectionReason.ALREADY_KNOWN


async def test_consensus_state_names_primary_votes_and_phase(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with running_backend(tmp_path) as (backend, node, _):
        state = backend.get_consensus_state()
        assert (state["number"], state["phase"]) == (1, "heads")
        await until(lambda: min(heads(node._wire.nodes)) >= 2)
        state = backend.get_consensus_state()
        assert state["number"] == node.store.head_number() + 1
        assert (state["view"], state["quorum"], state["failedViews"]) == (0, 3, 0)
        assert state["primary"] in ["0x" + each.hex() for each in VALIDATORS]
        assert state["findings"] == []
        phases = set()
        for _ in range(1_000):
            phases.add(backend.get_consensus_state()["phase"])
            await trio.sleep(0.002)
        assert "proposal" in phases
        assert phases <= {*("proposal", "own_proposal", "verdict", "prepares", "commits", "stored")}
        json.dumps(state)


async def test_node_explains_why_its_chain_is_stuck(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with running_backend(tmp_path) as (backend, node, _):
        await until(lambda: min(heads(node._wire.nodes)) >= 4)
        backend.get_consensus_state()
        for absent in node._wire.nodes[2:]:
            absent.kill()
        await trio.sleep(60)
        state = backend.get_consensus_state()
        assert [finding["code"] for finding in state["findings"]] == ["no_quorum", "stuck"]
        stuck = state["findings"][1]["text"]
        assert state["phase"] == "view_changes"
        assert "waits for VIEW-CHANGEs" in stuck
        assert "(2 of the 3 needed)" in stuck
        assert f"delta (0x{VALIDATORS[3].hex()}), not connected for 60 s, last vote for" in stuck
        assert VALIDATORS[1].hex() not in stuck
        assert state["overdueSeconds"] > 40
        assert state["summary"] == state["findings"][0]["text"]
        assert [row["connected"] for row in state["validators"]] == [True, True, False, False]


async def test_node_with_a_slow_clock_reports_its_own_clock(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with running_backend(tmp_path) as (backend, node, _):
        node.clock.ahead_ms = -30_000
        await until(lambda: node.store.head_number() >= 8)
        (finding,) = backend.get_consensus_state()["findings"]
        assert finding["code"] == "clock_wrong"
        assert re.search("30 s behind the clocks of [23] of 3 validators", finding["text"])


async def test_validators_node_info_and_sync_state_are_correct(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with running_backend(tmp_path) as (backend, node, notified):
        await until(lambda: min(heads(node._wire.nodes)) >= 4)
        node._wire.nodes[3].kill()
        await until(lambda: not node._wire.nodes[3].is_running)
        rows = backend.get_validators()
        assert [row["connected"] for row in rows] == [True, True, True, False]
        assert [row["lastSeenNumber"] is None for row in rows] == [False, False, False, True]
        assert [row["operator"] for row in rows] == ["0x" + each.hex() for each in VALIDATORS]
        assert sum(row["blocksProposed"] for row in rows) == node.store.head_number()
        info = backend.get_node_info()
        assert info["role"] == "validator"
        assert info["isSigning"] is True
        assert backend.get_sync_state()["peers"] == 2
        backend.on_blob()
        assert notified.woken == 1


async def test_proposals_are_counted_once_for_each_head(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_backend(tmp_path) as (backend, node, _):
        read: list[int] = []
        read_coinbases = node.store.coinbases

        def count(first: BlockNumber, last: BlockNumber) -> tuple[Address, ...]:
            read.append(last)
            return read_coinbases(first, last)

        monkeypatch.setattr(node.store, "coinbases", count)
        await until(lambda: node.store.head_number() >= 1)
        head = node.store.head_number()
        read.clear()
        assert [backend.get_validators() for _ in range(3)] == [backend.get_validators()] * 3
        assert read == [head]
        await until(lambda: node.store.head_number() > head)
        rows = backend.get_validators()
        assert sum(row["blocksProposed"] for row in rows) == node.store.head_number()


async def test_own_answer_to_a_task_names_the_validator(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with running_backend(tmp_path) as (backend, _, _notified):
        assert backend.get_readiness(TaskId(7)) == {
            "validator": to_hex(VALIDATORS[0]),
            "state": "waiting",
            "task": 7,
        }
        assert backend.find_disk_objection(TaskId(7)) == "no room for 7"
        miner = get_address(ALICE)
        held = await backend.find_reveal_holders(AttemptId(TaskId(7), 2, 0), miner)
        assert held == [to_hex(VALIDATORS[2]), to_hex(miner)]
