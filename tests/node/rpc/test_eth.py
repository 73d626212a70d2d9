"""The eth_ methods, over five blocks with a contract, logs, a revert and all transaction types."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from chain.crypto import keccak256
from chain.genesis import HISTORY_STORAGE_ADDRESS
from chain.primitives import BlockNumber
from chain.types.transaction import decode_transaction
from node.rpc.chain_view import ChainView
from node.rpc.encoding import ExecutedBlock
from tests.node.rpc.recorded_answers import check_answers
from tests.worlds.rpc import RpcHarness, rpc_harness
from tests.worlds.stored_chain import (
    ALICE,
    BOB,
    CHAIN_ID,
    CHANGED,
    COUNTER_INIT_CODE,
    COUNTER_RUNTIME,
    ERROR_DATA,
    TEN,
    TIMESTAMP,
    VALIDATOR,
    selector,
    set_call,
    sign,
)


@dataclass(frozen=True)
class World:
    """The harness, and the contract and transactions in its chain."""

    rpc: RpcHarness
    counter: str
    deploy: bytes
    set_seven: bytes
    set_eight: bytes
    failing: bytes
    delegating: bytes


def to_hash(raw: bytes) -> str:
    return "0x" + keccak256(raw).hex()


def topic_of(address: str) -> str:
    return "0x" + address[2:].lower().rjust(64, "0")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with rpc_harness(tmp_path_factory.mktemp("rpc")) as rpc:
        deploy = sign(ALICE, nonce=0, data=COUNTER_INIT_CODE)
        rpc.chain.extend(deploy)
        counter = rpc.result("eth_getTransactionReceipt", to_hash(deploy))["contractAddress"]
        set_seven = sign(ALICE, nonce=1, to=counter, data=set_call(7), gasPrice=3)
        set_eight = sign(
            BOB, nonce=0, to=counter, data=set_call(8), maxPriorityFeePerGas=5, maxFeePerGas=9
        )
        rpc.chain.extend(set_seven, set_eight)
        failing = sign(
            BOB,
            nonce=1,
            to=counter,
            data=selector("fail()"),
            gasPrice=4,
            accessList=[{"address": counter, "storageKeys": ["0x" + "00" * 32]}],
        )
        rpc.chain.extend(failing)
        authorization = ALICE.sign_authorization(
            {"chainId": CHAIN_ID, "address": bytes.fromhex(counter[2:]), "nonce": 3}
        )
        delegating = sign(
            ALICE, nonce=2, to=BOB.address, value=5, authorizationList=[authorization]
        )
        rpc.chain.extend(delegating)
        rpc.chain.extend()
        yield World(rpc, counter, deploy, set_seven, set_eight, failing, delegating)


def test_constant_methods_describe_the_chain_and_the_client(world: World) -> None:
    assert world.rpc.result("eth_chainId") == hex(CHAIN_ID)
    assert world.rpc.result("net_version") == str(CHAIN_ID)
    assert world.rpc.result("eth_blockNumber") == "0x5"
    assert world.rpc.result("eth_accounts") == []
    assert world.rpc.result("eth_syncing") is False
    assert world.rpc.result("net_listening") is True
    assert world.rpc.result("net_peerCount") == "0x3"
    assert str(world.rpc.result("web3_clientVersion")).startswith("ProofOfTraining/v")
    assert world.rpc.result("web3_sha3", "0x6162") == "0x" + keccak256(b"ab").hex()
    assert "eth" in world.rpc.result("rpc_modules")


def test_block_has_the_fields_that_clients_hash(world: World) -> None:
    header = world.rpc.chain.store.header(2)
    block = world.rpc.result("eth_getBlockByNumber", "0x2", False)
    assert block.pop("logsBloom") == "0x" + header.logs_bloom.hex()
    assert block.pop("size") == hex(len(world.rpc.chain.store.block(2).encode()))
    assert block == {
        "number": "0x2",
        "hash": "0x" + header.hash.hex(),
        "parentHash": "0x" + header.parent_hash.hex(),
        "nonce": "0x0000000000000000",
        "sha3Uncles": "0x1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347",
        "transactionsRoot": "0x" + header.transactions_root.hex(),
        "stateRoot": "0x" + header.state_root.hex(),
        "receiptsRoot": "0x" + header.receipts_root.hex(),
        "miner": "0x" + VALIDATOR.hex(),
        "difficulty": "0x0",
        "extraData": "0x" + header.extra_data.hex(),
        "gasLimit": "0x1c9c380",
        "gasUsed": hex(header.gas_used),
        "timestamp": hex(TIMESTAMP + 4),
        "mixHash": "0x" + header.mix_hash.hex(),
        "baseFeePerGas": "0x0",
        "withdrawalsRoot": "0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421",
        "blobGasUsed": "0x0",
        "excessBlobGas": "0x0",
        "parentBeaconBlockRoot": "0x" + "00" * 32,
        "requestsHash": "0xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "transactions": [to_hash(world.set_seven), to_hash(world.set_eight)],
        "uncles": [],
        "withdrawals": [],
    }
    assert world.rpc.result("eth_getBlockByHash", block["hash"])["number"] == "0x2"


@pytest.mark.parametrize("tag", ["latest", "safe", "finalized"])
def test_latest_safe_and_finalized_name_the_head(world: World, tag: str) -> None:
    assert world.rpc.result("eth_getBlockByNumber", tag, False)["number"] == "0x5"


def test_earliest_is_block_0_and_pending_the_next_block(world: World) -> None:
    assert world.rpc.result("eth_getBlockByNumber", "earliest")["number"] == "0x0"
    pending = world.rpc.result("eth_getBlockByNumber", "pending", True)
    latest = world.rpc.result("eth_getBlockByNumber", "latest")
    assert (pending["number"], pending["hash"]) == ("0x6", None)
    assert pending["parentHash"] == latest["hash"]


def test_unknown_blocks_and_transactions_are_null(world: World) -> None:
    nothing = "0x" + "77" * 32
    for method, params in (
        ("eth_getBlockByNumber", ["0x6"]),
        ("eth_getBlockByHash", [nothing]),
        ("eth_getBlockReceipts", ["0x6"]),
        ("eth_getTransactionByHash", [nothing]),
        ("eth_getRawTransactionByHash", [nothing]),
        ("eth_getTransactionReceipt", [nothing]),
        ("eth_getTransactionByBlockNumberAndIndex", ["0x2", "0x2"]),
        ("eth_getTransactionByBlockHashAndIndex", [nothing, "0x0"]),
        ("eth_getBlockTransactionCountByNumber", ["0x6"]),
        ("eth_getUncleByBlockNumberAndIndex", ["0x2", "0x0"]),
        ("eth_getUncleCountByBlockHash", [nothing]),
    ):
        assert world.rpc.result(method, *params) is None, method


def test_state_is_read_at_a_block_by_tag_number_or_hash(world: World) -> None:
    rpc, block_two = world.rpc, "0x" + world.rpc.chain.store.header(2).hash.hex()
    slot = "0x" + (8).to_bytes(32, "big").hex()
    for block in (
        "latest",
        "pending",
        "0x2",
        {"blockNumber": "0x2"},
        {"blockHash": block_two},
        {"blockHash": block_two, "requireCanonical": True},
        block_two,
    ):
        assert rpc.result("eth_getStorageAt", world.counter, "0x0", block) == slot
    assert rpc.result("eth_getStorageAt", world.counter, "0x" + "00" * 32) == slot
    assert rpc.result("eth_getStorageAt", world.counter, "0x0", "0x1") == "0x" + "00" * 32
    assert rpc.result("eth_getCode", world.counter) == "0x" + COUNTER_RUNTIME.hex()
    assert rpc.result("eth_getCode", world.counter, "earliest") == "0x"
    history = "0x" + HISTORY_STORAGE_ADDRESS.hex()
    assert len(rpc.result("eth_getCode", history, "earliest")) > 100
    assert rpc.result("eth_getBalance", ALICE.address, "0x0") == hex(TEN)
    assert rpc.result("eth_getBalance", "0x" + "99" * 20) == "0x0"
    assert rpc.result("eth_getTransactionCount", BOB.address) == "0x2"
    assert rpc.result("eth_getTransactionCount", BOB.address, "0x2") == "0x1"


def test_transactions_of_every_type_are_encoded(world: World) -> None:
    rpc = world.rpc
    for raw, kind, number, index in (
        (world.set_seven, "0x0", "0x2", "0x0"),
        (world.set_eight, "0x2", "0x2", "0x1"),
        (world.failing, "0x1", "0x3", "0x0"),
        (world.delegating, "0x4", "0x4", "0x0"),
    ):
        got = rpc.result("eth_getTransactionByHash", to_hash(raw))
        decoded = decode_transaction(raw)
        assert (got["type"], got["blockNumber"], got["transactionIndex"]) == (kind, number, index)
        assert (got["from"], got["r"]) == ("0x" + decoded.sender.hex(), hex(decoded.r))
        assert rpc.result("eth_getRawTransactionByHash", to_hash(raw)) == "0x" + raw.hex()
        place = (number, index)
        assert rpc.result("eth_getTransactionByBlockNumberAndIndex", *place) == got
        assert rpc.result("eth_getTransactionByBlockHashAndIndex", got["blockHash"], index) == got
        assert rpc.result("eth_getRawTransactionByBlockNumberAndIndex", *place) == "0x" + raw.hex()
        full = rpc.result("eth_getBlockByNumber", number, True)
        assert full["transactions"][int(index, 16)] == got
    legacy = rpc.result("eth_getTransactionByHash", to_hash(world.set_seven))
    assert {"accessList", "yParity", "maxFeePerGas"} & set(legacy) == set()
    assert (legacy["gasPrice"], legacy["chainId"]) == ("0x3", hex(CHAIN_ID))
    dynamic = rpc.result("eth_getTransactionByHash", to_hash(world.set_eight))
    assert (dynamic["gasPrice"], dynamic["maxFeePerGas"]) == ("0x5", "0x9")
    listed = rpc.result("eth_getTransactionByHash", to_hash(world.failing))
    assert listed["accessList"] == [{"address": world.counter, "storageKeys": ["0x" + "00" * 32]}]
    delegating = rpc.result("eth_getTransactionByHash", to_hash(world.delegating))
    assert delegating["authorizationList"][0]["address"] == world.counter
    assert rpc.result("eth_getCode", ALICE.address) == "0xef0100" + world.counter[2:]


def test_receipts_show_gas_logs_and_new_contracts(world: World) -> None:
    rpc = world.rpc
    receipts = rpc.result("eth_getBlockReceipts", "0x2")
    assert [receipt["transactionIndex"] for receipt in receipts] == ["0x0", "0x1"]
    first, second = receipts
    assert int(first["gasUsed"], 16) + int(second["gasUsed"], 16) == int(
        second["cumulativeGasUsed"], 16
    )
    assert first["effectiveGasPrice"] == "0x3"
    assert second["effectiveGasPrice"] == "0x5"
    assert second["logs"] == [
        {
            "address": world.counter,
            "topics": ["0x" + CHANGED.hex(), topic_of(BOB.address)],
            "data": "0x" + (8).to_bytes(32, "big").hex(),
            "blockNumber": "0x2",
            "transactionHash": to_hash(world.set_eight),
            "transactionIndex": "0x1",
            "blockHash": first["blockHash"],
            "logIndex": "0x1",
            "removed": False,
        }
    ]
    assert set(first) == {
        *("type", "transactionHash", "transactionIndex", "blockHash", "blockNumber", "from", "to"),
        *("cumulativeGasUsed", "gasUsed", "contractAddress", "logs", "logsBloom", "status"),
        "effectiveGasPrice",
    }
    failed = rpc.result("eth_getTransactionReceipt", to_hash(world.failing))
    assert (failed["status"], failed["logs"], failed["contractAddress"]) == ("0x0", [], None)
    created = rpc.result("eth_getTransactionReceipt", to_hash(world.deploy))
    assert (created["to"], created["status"]) == (None, "0x1")
    assert rpc.result("eth_getBlockTransactionCountByNumber", "0x2") == "0x2"
    assert rpc.result("eth_getBlockTransactionCountByHash", first["blockHash"]) == "0x2"
    assert rpc.result("eth_getUncleCountByBlockNumber", "0x2") == "0x0"
    assert rpc.result("eth_getUncleCountByBlockHash", first["blockHash"]) == "0x0"


def test_blocks_and_what_is_in_them_are_shown_outside_of_the_event_loop(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Receipts with many logs, asked for on 32 connections, held up all others for 35 s."""
    is_in_loop: list[bool] = []
    executed = ChainView.executed

    def note(chain: ChainView, number: BlockNumber) -> ExecutedBlock | None:
        is_in_loop.append(asyncio._get_running_loop() is not None)
        return executed(chain, number)

    monkeypatch.setattr(ChainView, "executed", note)
    block = world.rpc.result("eth_getTransactionReceipt", to_hash(world.deploy))
    number, name = block["blockNumber"], block["blockHash"]
    for method, *params in (
        ("eth_getBlockByNumber", number, True),
        ("eth_getBlockByHash", name, True),
        ("eth_getBlockReceipts", number),
        ("eth_getBlockTransactionCountByHash", name),
        ("eth_getBlockTransactionCountByNumber", number),
        ("eth_getRawTransactionByBlockHashAndIndex", name, "0x0"),
        ("eth_getRawTransactionByBlockNumberAndIndex", number, "0x0"),
        ("eth_getRawTransactionByHash", to_hash(world.deploy)),
        ("eth_getTransactionByBlockHashAndIndex", name, "0x0"),
        ("eth_getTransactionByBlockNumberAndIndex", number, "0x0"),
        ("eth_getTransactionByHash", to_hash(world.deploy)),
    ):
        assert world.rpc.result(method, *params) is not None
    assert is_in_loop == [False] * 12


def test_logs_are_found_by_range_block_address_and_topic(world: World) -> None:
    rpc, changed = world.rpc, "0x" + CHANGED.hex()
    alice, bob, other = topic_of(ALICE.address), topic_of(BOB.address), "0x" + "55" * 32
    block_two = "0x" + rpc.chain.store.header(2).hash.hex()

    def found(**log_filter: object) -> list[str]:
        logs = rpc.result("eth_getLogs", {"fromBlock": "0x0", **log_filter})
        return [log["topics"][1] for log in logs]

    assert found() == [alice, bob]
    assert found(toBlock="0x1") == []
    assert found(fromBlock="0x3") == []
    assert found(toBlock="0xffff") == [alice, bob]
    assert found(address=world.counter) == [alice, bob]
    assert found(address=["0x" + "66" * 20, world.counter]) == [alice, bob]
    assert found(address="0x" + "66" * 20) == []
    assert found(topics=[changed]) == [alice, bob]
    assert found(topics=[None, bob]) == [bob]
    assert found(topics=[None, [other, bob, alice]]) == [alice, bob]
    assert found(topics=[[], [bob]]) == [bob]
    assert found(topics=[other]) == []
    assert found(topics=[None, None]) == [alice, bob]
    assert found(topics=[None, None, None]) == [], "a log of two topics has no third"
    assert found(address=[], topics=None) == [alice, bob]
    by_hash = rpc.result("eth_getLogs", {"blockHash": block_two, "topics": [[changed], alice]})
    assert [log["logIndex"] for log in by_hash] == ["0x0"]


def test_contradictory_log_filters_are_refused(world: World) -> None:
    rpc, nothing = world.rpc, "0x" + "77" * 32
    assert rpc.error("eth_getLogs", {"fromBlock": "0x3", "toBlock": "0x2"})["code"] == -32602
    assert rpc.error("eth_getLogs", {"blockHash": nothing, "fromBlock": "0x0"})["code"] == -32602
    assert rpc.error("eth_getLogs", {"topics": [None] * 5})["code"] == -32602
    assert rpc.error("eth_getLogs", {"address": "0x12"})["code"] == -32602
    assert rpc.error("eth_getLogs", {"address": [world.counter] * 1001})["code"] == -32005
    assert rpc.error("eth_getLogs", {"blockHash": nothing}) == {
        "code": -32000,
        "message": "header not found",
    }


def test_call_returns_reverts_and_fails_as_clients_expect(world: World) -> None:
    rpc, counter = world.rpc, world.counter
    eight = "0x" + (8).to_bytes(32, "big").hex()
    get = "0x" + selector("get()").hex()
    for call in (
        {"to": counter},
        {"to": counter, "data": get},
        {"to": counter, "input": get},
        {"to": counter, "input": get, "data": get},
        {"to": counter, "from": ALICE.address, "gas": "0xffffffffffff", "chainId": hex(CHAIN_ID)},
    ):
        assert rpc.result("eth_call", call, "latest") == eight
    assert rpc.result("eth_call", {"to": counter}, "0x1") == "0x" + "00" * 32
    assert rpc.result("eth_call", {"to": "0x" + "99" * 20, "input": "0x01"}) == "0x"
    assert rpc.error("eth_call", {"to": counter, "input": "0x", "data": get})["code"] == -32602
    failing = {"to": counter, "input": "0x" + selector("fail()").hex()}
    assert rpc.error("eth_call", failing, "latest") == {
        "code": 3,
        "message": "execution reverted: not like this",
        "data": "0x" + ERROR_DATA.hex(),
    }
    assert rpc.error("eth_call", {"input": "0xfe"})["message"] == "invalid opcode"
    poor = {"from": "0x" + "99" * 20, "to": counter, "value": "0x1"}
    assert "insufficient funds for gas * price + value" in rpc.error("eth_call", poor)["message"]
    assert rpc.error("eth_call", {"to": counter}, "0x99")["message"] == "header not found"


def test_call_sees_the_state_override(world: World) -> None:
    rpc, counter, slot = world.rpc, world.counter, "0x" + "00" * 32
    poor = "0x" + "99" * 20
    nine = "0x" + (9).to_bytes(32, "big").hex()
    call = {"from": poor, "to": counter, "value": "0x1"}
    rich = {poor: {"balance": "0x5"}}
    assert rpc.result("eth_call", call, "latest", rich) == "0x" + (8).to_bytes(32, "big").hex()
    for kind in ("state", "stateDiff"):
        override = {counter: {kind: {slot: nine}}}
        assert rpc.result("eth_call", {"to": counter}, "latest", override) == nine
    code = {poor: {"code": "0x" + COUNTER_RUNTIME.hex(), "stateDiff": {"0x0": "0x9"}}}
    assert rpc.result("eth_call", {"to": poor}, "latest", code) == nine
    assert rpc.error("eth_call", {"to": poor}, "latest", {poor: {"cod": "0x"}})["code"] == -32602
    both = {poor: {"state": {}, "stateDiff": {}}}
    assert rpc.error("eth_call", {"to": poor}, "latest", both)["code"] == -32602


def test_endless_call_is_stopped_and_the_next_one_works(world: World) -> None:
    spinning = {"to": world.counter, "input": "0x" + selector("spin()").hex()}
    free = {"from": ALICE.address, "gas": hex(2**40), **spinning}
    assert world.rpc.error("eth_call", free)["message"] in (
        "execution aborted (timeout = 2s)",
        "out of gas",
    )
    assert world.rpc.result("eth_call", {"to": world.counter}) != "0x"


def test_call_with_more_wei_than_exist_ends_no_worker(world: World) -> None:
    accounts = ("0x" + "11" * 20, "0x" + "22" * 20)
    rich = {account: {"balance": hex(2**256 - 1)} for account in accounts}
    call = {"from": accounts[0], "to": accounts[1], "value": "0x1"}
    error = world.rpc.error("eth_call", call, "latest", rich)
    assert error["code"] == -32603
    assert "the total supply is below 2**256" in error["message"]


def test_gas_estimate_suffices_and_is_close_to_the_lowest(world: World) -> None:
    rpc, counter = world.rpc, world.counter
    assert rpc.result("eth_estimateGas", {"from": BOB.address, "to": ALICE.address}) != "0x0"
    plain = {"from": ALICE.address, "to": "0x" + "98" * 20, "value": "0x1"}
    assert rpc.result("eth_estimateGas", plain) == hex(21_000)
    call = {"from": BOB.address, "to": counter, "input": "0x" + set_call(9).hex()}
    gas = int(rpc.result("eth_estimateGas", call, "latest"), 16)
    used = int(rpc.result("eth_getTransactionReceipt", to_hash(world.set_eight))["gasUsed"], 16)
    assert used <= gas <= used * 1.1
    failing = {"to": counter, "input": "0x" + selector("fail()").hex()}
    assert rpc.error("eth_estimateGas", failing)["code"] == 3
    assert rpc.error("eth_estimateGas", {**call, "gas": hex(used - 5_000)})["message"] == (
        f"gas required exceeds allowance ({used - 5_000})"
    )
    broke = {"from": "0x" + "97" * 20, "to": counter, "gasPrice": "0x1"}
    assert "insufficient funds" in rpc.error("eth_estimateGas", broke)["message"]


def test_gas_estimate_is_for_the_next_block_unless_one_is_given(world: World) -> None:
    head = int(world.rpc.result("eth_blockNumber"), 16)
    # NUMBER, PUSH2 head, EQ, PUSH1 9, JUMPI, STOP, JUMPDEST, PUSH0, PUSH0, REVERT
    reverts_in_the_head = bytes.fromhex(f"4361{head:04x}14600957005b5f5ffd").hex()
    create = {"from": ALICE.address, "input": "0x" + reverts_in_the_head}
    assert int(world.rpc.result("eth_estimateGas", create), 16) > 53_000
    assert int(world.rpc.result("eth_estimateGas", create, "pending"), 16) > 53_000
    assert world.rpc.error("eth_estimateGas", create, "latest")["code"] == 3


def test_fees_are_the_nodes_price_while_free_transactions_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rpc = world.rpc
    monkeypatch.setattr(rpc.node, "gas_price", 4)
    assert rpc.result("eth_maxPriorityFeePerGas") == "0x4"
    assert rpc.result("eth_gasPrice") == "0x4"
    history = rpc.result("eth_feeHistory", "0x4", "latest", [0, 100])
    assert history["reward"] == [["0x4", "0x5"], ["0x4", "0x4"], ["0x4", "0x4"], ["0x4", "0x4"]]
    monkeypatch.setattr(rpc.node, "gas_price", 2)
    assert rpc.result("eth_maxPriorityFeePerGas") == "0x3"
    assert rpc.result("eth_gasPrice") == "0x3"


def test_fees_follow_recent_blocks(world: World) -> None:
    rpc = world.rpc
    assert rpc.result("eth_maxPriorityFeePerGas") == "0x3"
    assert rpc.result("eth_gasPrice") == "0x3"
    history = rpc.result("eth_feeHistory", "0x4", "latest", [0, 100])
    assert history["oldestBlock"] == "0x2"
    assert history["baseFeePerGas"] == ["0x0"] * 5
    assert history["reward"] == [["0x3", "0x5"], ["0x4", "0x4"], ["0x0", "0x0"], ["0x0", "0x0"]]
    assert 0 < history["gasUsedRatio"][0] < 1
    assert history["gasUsedRatio"][3] == 0
    assert "reward" not in rpc.result("eth_feeHistory", 2, "0x1")
    assert len(rpc.result("eth_feeHistory", hex(2**20), "latest")["gasUsedRatio"]) == 6
    for percentiles in ([50, 10], [101], ["1"], [True], [1] * 101):
        assert rpc.error("eth_feeHistory", 1, "latest", percentiles)["code"] == -32602
    assert rpc.error("eth_feeHistory", 1, "0x77")["message"] == "header not found"


def test_pending_transactions_come_from_the_node(world: World) -> None:
    rpc, node = world.rpc, world.rpc.node
    raw = sign(BOB, nonce=2, to=ALICE.address, value=1, maxFeePerGas=4, maxPriorityFeePerGas=1)
    node.holding = True
    try:
        assert rpc.result("eth_sendRawTransaction", "0x" + raw.hex()) == to_hash(raw)
        pending = rpc.result("eth_getTransactionByHash", to_hash(raw))
        assert (pending["blockHash"], pending["gasPrice"]) == (None, pending["maxFeePerGas"])
        assert rpc.result("eth_getRawTransactionByHash", to_hash(raw)) == "0x" + raw.hex()
        assert rpc.result("eth_getTransactionReceipt", to_hash(raw)) is None
        assert rpc.result("eth_getTransactionCount", BOB.address, "pending") == "0x3"
        assert rpc.result("eth_getTransactionCount", BOB.address, "latest") == "0x2"
        assert rpc.result("txpool_status") == {"pending": "0x1", "queued": "0x0"}
        content = {"pending": {"2": pending}, "queued": {}}
        assert rpc.result("txpool_contentFrom", BOB.address) == content
        assert rpc.result("txpool_contentFrom", ALICE.address) == {"pending": {}, "queued": {}}
        assert rpc.error("eth_sendRawTransaction", "0x" + raw.hex()) == {
            "code": -32000,
            "message": "already known",
        }
    finally:
        node.pool.clear()
        node.holding = False


def test_refused_transactions_get_the_texts_of_geth(world: World) -> None:
    rpc = world.rpc
    for raw, text in (
        (sign(ALICE, nonce=0, to=BOB.address), "nonce too low"),
        (sign(BOB, nonce=2, to=ALICE.address, value=TEN), "insufficient funds for gas * price"),
        (sign(BOB, nonce=2, to=ALICE.address, gas=20_999), "intrinsic gas too low"),
        (sign(BOB, nonce=2, to=ALICE.address, chainId=1), "invalid chain id"),
        (b"\x03" + world.deploy[1:], "transaction type not supported"),
        (world.deploy[:-1], "rlp"),
        (b"", "rlp"),
    ):
        error = rpc.error("eth_sendRawTransaction", "0x" + raw.hex())
        assert (error["code"], text in error["message"]) == (-32000, True), error


def test_syncing_shows_current_and_highest_block(world: World) -> None:
    world.rpc.node.best_ahead = 100
    try:
        assert world.rpc.result("eth_syncing") == {
            "startingBlock": "0x0",
            "currentBlock": "0x5",
            "highestBlock": "0x69",
        }
    finally:
        world.rpc.node.best_ahead = 0


def test_chain_is_readable_while_the_node_is_unreachable(world: World) -> None:
    rpc = world.rpc
    rpc.link.is_connected = False
    try:
        assert rpc.result("eth_blockNumber") == "0x5"
        assert rpc.result("eth_getTransactionByHash", "0x" + "77" * 32) is None
        raw = "0x" + sign(BOB, nonce=2, to=ALICE.address).hex()
        for method, params in (
            ("eth_sendRawTransaction", [raw]),
            ("eth_getTransactionCount", [BOB.address, "pending"]),
            ("eth_syncing", []),
        ):
            assert rpc.error(method, *params) == {
                "code": -32002,
                "message": "the node process is not reachable",
            }
    finally:
        rpc.link.is_connected = True


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("eth_getBalance", []),
        ("eth_getBalance", ["0x12"]),
        ("eth_getBalance", [1]),
        ("eth_getBalance", ["12" * 20]),
        ("eth_getBalance", ["0x" + "12" * 20, "newest"]),
        ("eth_getBalance", ["0x" + "12" * 20, "0x01"]),
        ("eth_getBalance", ["0x" + "12" * 20, "0x"]),
        ("eth_getBalance", ["0x" + "12" * 20, 5]),
        ("eth_getBalance", ["0x" + "12" * 20, "0x1" + "0" * 16]),
        ("eth_getBalance", ["0x" + "12" * 20, {}]),
        (
            "eth_getBalance",
            ["0x" + "12" * 20, {"blockNumber": "0x1", "blockHash": "0x" + "1" * 64}],
        ),
        ("eth_getBalance", ["0x" + "12" * 20, {"blockHash": "0x12"}]),
        ("eth_getBalance", ["0x" + "12" * 20, {"block": "0x1"}]),
        ("eth_getBalance", ["0x" + "12" * 20, "latest", "more"]),
        ("eth_getBlockByNumber", ["0x1", "yes"]),
        ("eth_getBlockByHash", ["latest"]),
        ("eth_getTransactionByHash", ["0x" + "1" * 63]),
        ("eth_getStorageAt", ["0x" + "12" * 20, "0x" + "1" * 65, "latest"]),
        ("eth_getStorageAt", ["0x" + "12" * 20]),
        ("eth_chainId", [1]),
        ("eth_call", ["0x"]),
        ("eth_call", [{"to": "0x12"}]),
        ("eth_call", [{"gasPrice": "0x1", "maxFeePerGas": "0x1"}]),
        ("eth_call", [{"maxPriorityFeePerGas": "0x2", "maxFeePerGas": "0x1"}]),
        ("eth_sendRawTransaction", ["0xf"]),
        ("eth_sendRawTransaction", ["0xzz"]),
        ("eth_feeHistory", [-1, "latest"]),
        ("eth_getLogs", [[]]),
    ],
)
def test_invalid_parameters_are_refused(world: World, method: str, params: list[object]) -> None:
    error = world.rpc.error(method, *params)
    assert error["code"] == -32602, error
    assert error["message"]


def test_invalid_call_uses_no_worker(world: World) -> None:
    rpc = world.rpc
    rpc.result("eth_call", {"to": world.counter})
    workers = tuple(rpc.workers._idle)
    request = {"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": [{"value": "huge"}]}
    # The number is not finite, so no frame to a worker can carry it.
    body = json.dumps(request).replace('"huge"', "1e400")
    answer = rpc.http(
        "POST", "/", content=body, headers={"content-type": "application/json"}
    ).json()
    assert answer["error"]["code"] == -32602
    assert tuple(rpc.workers._idle) == workers


def test_answers_are_as_recorded(world: World) -> None:
    first, block, counter = to_hash(world.deploy), world.rpc.chain.store.header(2), world.counter
    block_hash = "0x" + block.hash.hex()
    sent = (world.set_seven, world.set_eight, world.failing, world.delegating)
    check_answers(
        world.rpc,
        "eth",
        [
            ("eth_accounts", []),
            ("eth_blockNumber", []),
            ("eth_call", [{"to": counter}, "latest"]),
            ("eth_call", [{"to": counter, "data": "0x" + selector("fail()").hex()}, "0x2"]),
            ("eth_call", [{"to": counter, "gas": "0x1"}, "latest"]),
            ("eth_call", [{"to": "0x12"}]),
            ("eth_call", [{"to": counter, "gasPrice": "0x1", "maxFeePerGas": "0x1"}]),
            ("eth_call", [{"to": counter, "data": "0x01", "input": "0x02"}]),
            ("eth_call", [{"to": counter, "value": 1e300}]),
            ("eth_call", [{"to": counter}, "latest", {counter: {"code": "0x"}}]),
            ("eth_call", [{"to": counter}, "latest", {counter: {"kode": "0x"}}]),
            ("eth_call", [{"to": counter}, "latest", {"0x12": {}}]),
            ("eth_call", [{"to": counter}, "0x99"]),
            ("eth_call", [{"from": BOB.address, "to": counter, "value": hex(10**40)}]),
            ("eth_chainId", []),
            ("eth_estimateGas", [{"to": BOB.address, "value": "0x1"}]),
            ("eth_estimateGas", [{"to": counter, "data": "0x" + set_call(9).hex()}, "latest"]),
            ("eth_estimateGas", [{"to": counter, "data": "0x" + selector("fail()").hex()}]),
            ("eth_estimateGas", [{"to": counter, "nonce": "0x1", "from": "me"}]),
            ("eth_feeHistory", ["0x3", "latest", [50]]),
            ("eth_gasPrice", []),
            ("eth_getBalance", [ALICE.address, "latest"]),
            ("eth_getBlockByHash", [block_hash, True]),
            ("eth_getBlockByNumber", ["0x2", False]),
            ("eth_getBlockByNumber", ["0x4", True]),
            ("eth_getBlockReceipts", ["0x2"]),
            ("eth_getBlockTransactionCountByHash", [block_hash]),
            ("eth_getBlockTransactionCountByNumber", ["0x2"]),
            ("eth_getCode", [counter, "latest"]),
            ("eth_getLogs", [{"fromBlock": "0x0", "toBlock": "latest"}]),
            ("eth_getRawTransactionByBlockHashAndIndex", [block_hash, "0x1"]),
            ("eth_getRawTransactionByBlockNumberAndIndex", ["0x2", "0x0"]),
            ("eth_getRawTransactionByHash", [first]),
            ("eth_getStorageAt", [counter, "0x0", "latest"]),
            ("eth_getTransactionByBlockHashAndIndex", [block_hash, "0x1"]),
            ("eth_getTransactionByBlockNumberAndIndex", ["0x2", "0x0"]),
            *(("eth_getTransactionByHash", [to_hash(raw)]) for raw in sent),
            ("eth_getTransactionCount", [ALICE.address, "pending"]),
            ("eth_getTransactionReceipt", [first]),
            *(("eth_getTransactionReceipt", [to_hash(raw)]) for raw in sent),
            ("eth_getUncleByBlockHashAndIndex", [block_hash, "0x0"]),
            ("eth_getUncleByBlockNumberAndIndex", ["0x2", "0x0"]),
            ("eth_getUncleCountByBlockHash", [block_hash]),
            ("eth_getUncleCountByBlockNumber", ["0x2"]),
            ("eth_maxPriorityFeePerGas", []),
            ("eth_sendRawTransaction", ["0x" + world.deploy.hex()]),
            ("eth_sendRawTransaction", ["0x" + world.deploy[:-1].hex()]),
            ("eth_sendRawTransaction", ["0x03" + world.deploy[1:].hex()]),
            ("eth_sendRawTransaction", ["0x"]),
            ("eth_syncing", []),
            ("net_listening", []),
            ("net_peerCount", []),
            ("net_version", []),
            ("rpc_modules", []),
            ("txpool_contentFrom", ["0x" + "22" * 20]),
            ("txpool_status", []),
            ("web3_sha3", ["0x6162"]),
        ],
    )
