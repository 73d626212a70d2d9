import gzip
import itertools
import json
from collections.abc import Callable
from typing import TypeAlias

import httpx
import pytest

from chain.contracts.abi import ContractCall, compute_selector
from chain.crypto import get_address
from chain.hexadecimal import from_hex, to_hex
from chain.json_types import Json
from chain.primitives import Address, Hash32, PrivateKey
from chain.types.transaction import decode_transaction
from pot_common.rpc_client import (
    GAS_MARGIN,
    RESEND_SECONDS,
    ChainClient,
    RpcCallError,
    exchange,
    open_http,
)
from pot_common.rpc_replies import ClientError, RewardProof

KEY = PrivateKey(b"\x11" * 32)
TO = Address(b"\x22" * 20)


Result: TypeAlias = "Json | Callable[..., Json]"


class ScriptedClient(ChainClient):
    """Gives the scripted result of each method, and remembers the calls."""

    def __init__(self, **results: Result) -> None:
        self.calls: list[tuple[str, tuple[Json, ...]]] = []
        self.results: dict[str, Result] = {
            "eth_estimateGas": "0x5208",
            "eth_getBlockByNumber": {"baseFeePerGas": "0xa"},
            "eth_maxPriorityFeePerGas": "0x2",
            "eth_chainId": "0x7a69",
            "eth_getTransactionCount": "0x3",
            "eth_sendRawTransaction": "0x00",
            "eth_getTransactionReceipt": {"status": "0x1", "blockNumber": "0x5"},
            **results,
        }

    def call(self, method: str, *params: Json) -> Json:
        self.calls.append((method, params))
        result = self.results[method]
        return result(*params) if callable(result) else result

    def list_sent(self) -> list[str]:
        return [
            str(params[0]) for method, params in self.calls if method == "eth_sendRawTransaction"
        ]


class Clock:
    """Time that passes only when the client sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        monkeypatch.setattr("pot_common.rpc_client.time.monotonic", lambda: self.seconds)
        monkeypatch.setattr("pot_common.rpc_client.time.sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def test_transfer_is_signed_for_the_chain_with_twice_the_base_fee() -> None:
    client = ScriptedClient()
    assert client.transact(KEY, ContractCall(TO, b""), value=7) == {
        "status": "0x1",
        "blockNumber": "0x5",
    }
    transaction = decode_transaction(from_hex(client.list_sent()[0]))
    assert transaction.sender == get_address(KEY)
    assert (transaction.chain_id, transaction.nonce, transaction.value) == (31_337, 3, 7)
    assert (transaction.max_fee_per_gas, transaction.gas_limit) == (22, 21_000)


def test_call_of_a_contract_gets_a_gas_margin() -> None:
    client = ScriptedClient()
    client.transact(KEY, ContractCall(TO, b"\x01"))
    assert decode_transaction(from_hex(client.list_sent()[0])).gas_limit == 21_000 + GAS_MARGIN


def test_given_chain_id_is_signed_and_the_node_is_not_asked() -> None:
    client = ScriptedClient()
    client.transact(KEY, ContractCall(TO, b""), chain_id=5)
    assert decode_transaction(from_hex(client.list_sent()[0])).chain_id == 5
    assert "eth_chainId" not in dict(client.calls)


def test_reverted_transaction_is_an_error() -> None:
    client = ScriptedClient(eth_getTransactionReceipt={"status": "0x0", "blockNumber": "0x5"})
    with pytest.raises(ClientError, match="reverted in block 5"):
        client.transact(KEY, ContractCall(TO, b""))


def test_transaction_without_a_receipt_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def find_receipt(transaction_hash: Json) -> Json:
        is_final = clock.seconds > 2 * RESEND_SECONDS + 1
        return {"status": "0x1", "blockNumber": "0x5"} if is_final else None

    client = ScriptedClient(eth_getTransactionReceipt=find_receipt)
    client.transact(KEY, ContractCall(TO, b""))
    assert len(client.list_sent()) == 3
    assert len(set(client.list_sent())) == 1


def test_resent_transaction_may_be_known_to_the_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Clock(monkeypatch)
    sent: list[Json] = []

    def send(raw: Json) -> Json:
        sent.append(raw)
        if len(sent) > 1:
            raise RpcCallError(-32000, "already known")
        return "0x00"

    client = ScriptedClient(eth_sendRawTransaction=send, eth_getTransactionReceipt=None)
    with pytest.raises(ClientError, match="is not in a block after 120 s"):
        client.transact(KEY, ContractCall(TO, b""))
    assert len(sent) > 10


@pytest.mark.parametrize("answer", [None, 7, "7", "0x", "0x_7", "0x 7", [], {}])
def test_answer_that_is_not_a_quantity_is_an_error(answer: Json) -> None:
    with pytest.raises(ClientError, match="not understood"):
        ScriptedClient(eth_getBalance=answer).balance(TO)


def test_reward_proof_is_read_or_absent() -> None:
    answer: Json = {
        "cumulative": "9",
        "claimable": "4",
        "claimed": "5",
        "proof": ["0x" + "01" * 32],
    }
    proof = RewardProof.model_construct(cumulative=9, claimable=4, proof=(Hash32(b"\x01" * 32),))
    assert ScriptedClient(pot_getRewardProof=answer).reward_proof(1, TO) == proof
    assert ScriptedClient(pot_getRewardProof=None).reward_proof(1, TO) is None


def ask(answer: httpx.Response) -> Json:
    http = open_http(1.0, httpx.MockTransport(lambda request: answer))
    return exchange(http, "http://node", "eth_call", ["0x1"])


def test_exchange_is_json_rpc_2_over_post() -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json={"jsonrpc": "2.0", "id": 1, "result": {"a": 1}})

    http = open_http(1.0, httpx.MockTransport(answer))
    assert exchange(http, "http://node", "eth_call", ["0x1"]) == {"a": 1}
    (request,) = requests
    call = {"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": ["0x1"]}
    assert (request.method, json.loads(request.content)) == ("POST", call)


def test_known_revert_is_explained_and_keeps_its_code() -> None:
    data = compute_selector("TaskUnknown", ["uint256"]) + (9).to_bytes(32, "big")
    error = {"code": 3, "message": "execution reverted", "data": to_hex(data)}
    with pytest.raises(RpcCallError, match="there is no task 9; `pot task list`") as refused:
        ask(httpx.Response(200, json={"error": error}))
    assert refused.value.code == 3


@pytest.mark.parametrize("data", ["no hex", "0x0", "0x00 00"])
def test_error_with_data_that_is_not_hex_is_refused(data: str) -> None:
    error = {"code": 3, "message": "execution reverted", "data": data}
    with pytest.raises(ValueError, match="hex"):
        ask(httpx.Response(200, json={"error": error}))


@pytest.mark.parametrize("response", [httpx.Response(200, json=[]), httpx.Response(200, text="<")])
def test_answer_that_is_not_json_rpc_is_refused(response: httpx.Response) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is the parser's, or ours
        ask(response)


def test_answer_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pot_common.rpc_client.ANSWER_LIMIT_BYTES", 1_000)
    with pytest.raises(ValueError, match="larger than 1000 bytes"):
        ask(httpx.Response(200, content=iter(lambda: b" " * 100, b"")))


def test_answer_byte_by_byte_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()
    monkeypatch.setattr("pot_common.rpc_client.time.monotonic", lambda: next(seconds))
    with pytest.raises(ValueError, match="longer than 2 seconds"):
        ask(httpx.Response(200, content=iter(lambda: b" ", b"")))


def test_packed_answer_is_not_unpacked() -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(
            200, headers={"content-encoding": "gzip"}, content=gzip.compress(b'{"result": 1}')
        )

    http = open_http(1.0, httpx.MockTransport(answer))
    with pytest.raises(ValueError, match="compressed"):
        exchange(http, "http://node", "eth_call", [])
    assert [request.headers["accept-encoding"] for request in requests] == ["identity"]
