"""The finalizer on a real store and executor: the order of the steps with a final block."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from chain.crypto import get_address, keccak256
from chain.primitives import BlockNumber, View
from chain.types.block import Block
from chain.types.certificate import CommitCertificate
from node.chain.finalizer import Finalizer, NewHead
from node.chain.training_index import TrainingIndex
from pot_common.errors import OperatorError
from tests.worlds.chain import ALICE, BOB, sign
from tests.worlds.cluster import VALIDATORS, ClusterNode, build_cluster

pytestmark = pytest.mark.usefixtures("inline_threads")

CERTIFICATE = CommitCertificate(View(0), ())
TRANSFER = sign(ALICE, 0, get_address(BOB), value=7)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[ClusterNode]:
    (node,) = build_cluster(tmp_path, 1).nodes
    node.open()
    yield node
    node.wal.close()
    node.database.close()


async def build_block(node: ClusterNode) -> Block:
    built = await node.executor.build(node.store.head(), (TRANSFER,), VALIDATORS[0], None)
    return built.block


async def test_block_is_stored_then_log_truncated_then_others_told(node: ClusterNode) -> None:
    happened: list[object] = []
    finalizer = Finalizer(
        store=node.store,
        executor=node.executor,
        index=TrainingIndex(node.store),
        truncate_log=lambda number: happened.append(("log", number, node.store.head_number())),
    )
    finalizer.add_listener(lambda head: happened.append(("first", head)))
    finalizer.add_listener(lambda head: happened.append(("second", head)))
    block = await build_block(node)

    await finalizer.finalize(block, CERTIFICATE)

    head = NewHead(block, CERTIFICATE, (TRANSFER,))
    assert happened == [("log", 1, 1), ("first", head), ("second", head)]
    assert node.store.block(BlockNumber(1)) == block


async def test_block_from_two_callers_is_stored_once(node: ClusterNode) -> None:
    heads: list[NewHead] = []
    node.finalizer.add_listener(heads.append)
    block = await build_block(node)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(node.finalizer.finalize, block, CERTIFICATE)
    assert [head.block for head in heads] == [block]


async def test_certified_block_that_is_invalid_here_is_not_stored(node: ClusterNode) -> None:
    heads: list[NewHead] = []
    node.finalizer.add_listener(heads.append)
    block = await build_block(node)
    wrong = replace(block, header=replace(block.header, state_root=keccak256(b"another state")))
    with pytest.raises(OperatorError, match="finds invalid"):
        await node.finalizer.finalize(wrong, CERTIFICATE)
    assert heads == []
    assert node.store.head_number() == 0


async def test_pool_forgets_the_transactions_of_a_final_block(node: ClusterNode) -> None:
    node.mempool.add(TRANSFER)
    await node.finalizer.finalize(await build_block(node), CERTIFICATE)
    assert node.mempool.counts() == (0, 0)
