"""The limits of a log query."""

from pathlib import Path

import pytest

from node.rpc import logs
from tests.worlds.rpc import rpc_harness
from tests.worlds.stored_chain import ALICE, COUNTER_INIT_CODE, set_call, sign


def test_blocks_results_and_time_of_a_log_query_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rpc_harness(tmp_path) as rpc:
        deploy = sign(ALICE, nonce=0, data=COUNTER_INIT_CODE)
        deployed = rpc.chain.extend(deploy)
        receipts = rpc.result("eth_getBlockReceipts", "0x" + deployed.hex())
        counter = receipts[0]["contractAddress"]
        calls = [sign(ALICE, nonce=n, to=counter, data=set_call(n)) for n in range(1, 4)]
        rpc.chain.extend(*calls)
        everything = {"fromBlock": "0x0", "toBlock": "latest"}
        assert len(rpc.result("eth_getLogs", everything)) == 3

        monkeypatch.setattr(logs, "BLOCK_RANGE_LIMIT", 2)
        assert rpc.error("eth_getLogs", everything) == {
            "code": -32005,
            "message": "exceed maximum block range: 2",
        }
        last_two = {"fromBlock": "0x1", "toBlock": "0x2"}
        assert len(rpc.result("eth_getLogs", last_two)) == 3
        monkeypatch.setattr(logs, "RESULT_LIMIT", 2)
        assert rpc.error("eth_getLogs", last_two)["message"] == (
            "query returned more than 2 results"
        )
        monkeypatch.setattr(logs, "RESULT_LIMIT", 10)
        monkeypatch.setattr(logs, "SECONDS_LIMIT", -1.0)
        assert rpc.error("eth_getLogs", last_two)["code"] == -32005
