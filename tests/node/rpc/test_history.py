"""The answers of a node that began with a snapshot, and so lacks earlier blocks."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from chain.primitives import BlockNumber, Hash32
from node.storage.block_store import Snapshot
from node.storage.database import Table
from tests.worlds.rpc import RpcHarness, rpc_harness
from tests.worlds.stored_chain import ALICE, BOB, StoredChain, sign

PIVOT, HEAD = 5, 8
NOT_HELD = {"code": 4444, "message": f"history before block {PIVOT} is not held by this node"}


@pytest.fixture(scope="module")
def rpc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RpcHarness]:
    directory: Path = tmp_path_factory.mktemp("history")
    old, new = StoredChain(directory / "old"), StoredChain(directory / "database")
    for nonce in range(HEAD):
        transfer = sign(ALICE, nonce=nonce, to=BOB.address, value=1)
        old.extend(transfer)
        if nonce + 1 > PIVOT:
            new.extend(transfer)
        if nonce + 1 == PIVOT:
            adopt_head(old, new)
    assert new.store.head() == old.store.head()
    with rpc_harness(directory, new) as harness:
        yield harness


def adopt_head(old: StoredChain, new: StoredChain) -> None:
    """Copy into `new` what snapshot sync fetches: the state, some headers, and the block."""
    store, head = old.store, old.store.head_number()
    with old.database.read() as reader, new.database.write() as writer:
        writer.put_new(Table.STATE, list(reader.scan(Table.STATE, b"", b"\xff" * 33)))
    block, certificate = store.block(head), store.certificate(head)
    receipts, senders = store.receipts(head), store.senders(head)
    assert block is not None
    assert certificate is not None
    assert receipts is not None
    assert senders is not None
    new.store.adopt(
        Snapshot(
            ancestors=store.headers(BlockNumber(head - 2), BlockNumber(head - 1)),
            block=block,
            certificate=certificate,
            receipts=receipts,
            senders=senders,
            training_rows={},
            validator_set=store.validator_set(head),
            next_validator_set=store.next_validator_set(),
        )
    )


def test_error_for_a_block_below_the_snapshot_names_the_first_held(
    rpc: RpcHarness,
) -> None:
    below = [hex(number) for number in range(1, PIVOT)]
    for number in below:
        assert rpc.error("eth_getBlockByNumber", number, False) == NOT_HELD
    for method, *params in (
        ("eth_getBlockReceipts",),
        ("eth_getBlockTransactionCountByNumber",),
        ("eth_getTransactionByBlockNumberAndIndex", "0x0"),
    ):
        assert rpc.error(method, below[-1], *params) == NOT_HELD
    assert rpc.error("eth_getBalance", ALICE.address, below[-1]) == NOT_HELD
    assert rpc.error("eth_call", {"to": BOB.address}, below[-1]) == NOT_HELD
    assert rpc.error("eth_getLogs", {"fromBlock": below[0]}) == NOT_HELD
    assert rpc.error("eth_getLogs", {"fromBlock": "earliest"}) == NOT_HELD
    # The same holds for blocks of which the node has the header, for the primary order.
    header = rpc.chain.store.header(BlockNumber(PIVOT - 1))
    assert header is not None
    assert rpc.error("eth_getBlockByHash", "0x" + header.hash.hex(), False) == NOT_HELD


def test_blocks_from_the_snapshot_on_are_answered(rpc: RpcHarness) -> None:
    for number in ("0x0", "earliest", hex(PIVOT), hex(HEAD), "latest"):
        assert rpc.result("eth_getBlockByNumber", number, True) is not None
        assert rpc.result("eth_getBalance", BOB.address, number) is not None
    assert rpc.result("eth_getLogs", {"fromBlock": hex(PIVOT)}) == []
    assert len(rpc.result("eth_getBlockReceipts", hex(PIVOT))) == 1
    assert rpc.result("eth_getBlockByHash", "0x" + Hash32(bytes(32)).hex(), False) is None
    assert rpc.result("eth_getBlockByNumber", hex(HEAD + 1), False) is None


def test_fee_history_begins_with_the_first_held_block(rpc: RpcHarness) -> None:
    history = rpc.result("eth_feeHistory", hex(100), "latest", [50])
    assert history["oldestBlock"] == hex(PIVOT)
    assert len(history["gasUsedRatio"]) == len(history["reward"]) == HEAD - PIVOT + 1
    assert rpc.result("eth_maxPriorityFeePerGas") == "0x0"
    assert rpc.error("eth_feeHistory", "0x1", hex(PIVOT - 1), []) == NOT_HELD
