import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import pytest

from chain.contracts import gradient_ledger, task_registry
from chain.contracts.abi import ContractCall
from chain.crypto import get_address
from chain.hexadecimal import from_hex, to_hex
from chain.json_types import Json
from chain.primitives import Address, Hash32, PrivateKey, TaskId
from chain.types.transaction import (
    SET_CODE_TYPE,
    Transaction,
    decode_transaction,
    sign_transaction,
)
from pot_common.gas_offer import GasHint, GasOffer
from pot_common.rpc_client import (
    GAS_MARGIN,
    RESEND_SECONDS,
    ChainClient,
    RpcCallError,
)
from pot_common.rpc_replies import ClientError, RewardProof
from pot_common.waiting import Signer

KEY = PrivateKey(b"\x11" * 32)
TO = Address(b"\x22" * 20)


Result: TypeAlias = "Json | Callable[..., Json]"


class ScriptedClient(ChainClient):
    """Gives the scripted result of each method, and remembers the calls."""

    def __init__(self, **results: Result) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple[Json, ...]]] = []
        self.results: dict[str, Result] = {
            "eth_estimateGas": "0x5208",
            "eth_getBlockByNumber": {"baseFeePerGas": "0xa", "number": "0x1"},
            "eth_maxPriorityFeePerGas": "0x2",
            "eth_gasPrice": "0x0",
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


class FullChain(ScriptedClient):
    """A chain with a block each second, none of which includes what the client sends."""

    def __init__(self, clock: Clock, *, base_fee: int = 10, tip: int = 10**9) -> None:
        self.sent: list[Transaction] = []
        self.clock = clock
        self.accounts_nonce = 3
        self.notes: list[str] = []
        super().__init__(
            eth_getBlockByNumber=lambda *_: {
                "baseFeePerGas": hex(base_fee),
                "number": self.get_number(),
            },
            eth_maxPriorityFeePerGas=hex(tip),
            eth_getTransactionCount=self.count_transactions,
            eth_sendRawTransaction=self.receive,
            eth_getTransactionReceipt=None,
            txpool_contentFrom=self.list_pooled,
            eth_getRawTransactionByHash=self.get_raw,
        )

    def get_number(self) -> str:
        return hex(int(self.clock.seconds))

    def count_transactions(self, _account: Json, block: Json) -> Json:
        nonces = {each.nonce for each in self.sent}
        return hex(self.accounts_nonce + (len(nonces) if block == "pending" else 0))

    def list_pooled(self, _account: Json) -> Json:
        pooled = {each.nonce: each for each in self.sent if each.nonce >= self.accounts_nonce}
        return {
            "pending": {str(nonce): {"hash": to_hex(pooled[nonce].hash)} for nonce in pooled},
            "queued": {},
        }

    def get_raw(self, name: Json) -> Json:
        return next(to_hex(each.raw) for each in self.sent if to_hex(each.hash) == name)

    def receive(self, raw: Json) -> Json:
        transaction = decode_transaction(from_hex(str(raw)))
        if transaction.nonce < self.accounts_nonce:
            raise RpcCallError(-32000, "nonce too low")
        if transaction not in self.sent:
            self.sent.append(transaction)
        return to_hex(transaction.hash)


def send_in_vain(chain: FullChain, data: bytes) -> None:
    """Send a call that no block includes."""
    with pytest.raises(ClientError, match="is not in a block"):
        chain.transact(KEY, ContractCall(TO, data))


def test_transaction_that_no_block_includes_is_raised_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chain = FullChain(Clock(monkeypatch), tip=7 * 10**9)
    with pytest.raises(ClientError, match="is not in a block after 120 s"):
        chain.transact(KEY, ContractCall(TO, b""))
    assert {each.nonce for each in chain.sent} == {3}
    tips = [each.max_priority_fee_per_gas for each in chain.sent]
    assert tips == [7 * 10**9, 77 * 10**8, 847 * 10**7, 9_317 * 10**6]
    fees = [each.max_fee_per_gas for each in chain.sent]
    assert all(10 * after >= 11 * before for before, after in itertools.pairwise(fees))


def test_receipt_of_any_version_of_a_transaction_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    chain = FullChain(clock)
    receipt = {"status": "0x1", "blockNumber": "0x5"}
    chain.results["eth_getTransactionReceipt"] = lambda transaction_hash: (
        receipt if clock.seconds > 40 and transaction_hash == to_hex(chain.sent[0].hash) else None
    )
    assert chain.transact(KEY, ContractCall(TO, b"")) == receipt
    assert len(chain.sent) >= 3
    assert clock.seconds < 41


def test_call_takes_the_place_of_an_earlier_one_that_is_stuck(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chain = FullChain(Clock(monkeypatch))
    send_in_vain(chain, b"\x01")
    stuck = chain.sent[-1]
    chain.results["eth_getTransactionReceipt"] = {"status": "0x1", "blockNumber": "0x5"}
    chain.transact(KEY, ContractCall(TO, b"\x02"))
    urgent = chain.sent[-1]
    assert (urgent.nonce, urgent.data) == (stuck.nonce, b"\x02")
    assert 10 * urgent.max_priority_fee_per_gas >= 11 * stuck.max_priority_fee_per_gas
    assert 10 * urgent.max_fee_per_gas >= 11 * stuck.max_fee_per_gas
    chain.transact(KEY, ContractCall(TO, b"\x03"))
    assert chain.sent[-1].nonce == stuck.nonce + 1, "the urgent one is in a block"


@pytest.mark.parametrize(
    ("base_fee", "price", "refusal"),
    [(10, 0, "insufficient funds"), (0, 10**9, "replacement transaction underpriced")],
    ids=["raised", "paid"],
)
def test_call_whose_replacement_is_refused_waits_behind_the_earlier_one(
    monkeypatch: pytest.MonkeyPatch, base_fee: int, price: int, refusal: str
) -> None:
    chain = FullChain(Clock(monkeypatch), base_fee=base_fee)
    chain.gas_price = price
    send_in_vain(chain, b"\x01")
    sent = len(chain.sent)

    def receive(raw: Json) -> Json:
        if decode_transaction(from_hex(str(raw))).nonce == 3:
            raise RpcCallError(-32000, refusal)
        return chain.receive(raw)

    chain.results["eth_sendRawTransaction"] = receive
    chain.results["eth_getTransactionReceipt"] = {"status": "0x1", "blockNumber": "0x5"}
    chain.transact(KEY, ContractCall(TO, b"\x02"))
    assert [each.nonce for each in chain.sent[sent - 1 :]] == [3, 4]


def test_nothing_is_raised_where_gas_is_free_or_another_call_is_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for chain in (
        FullChain(Clock(monkeypatch), base_fee=0, tip=0),
        FullChain(Clock(monkeypatch)),
    ):
        if chain.results["eth_maxPriorityFeePerGas"] != "0x0":
            foreign = sign_transaction(
                KEY,
                chain_id=31_337,
                nonce=3,
                max_priority_fee_per_gas=1,
                max_fee_per_gas=1,
                gas_limit=21_000,
                to=TO,
                value=0,
                data=b"",
            )
            chain.sent.append(foreign)
        with pytest.raises(ClientError, match="is not in a block"):
            chain.transact(KEY, ContractCall(TO, b"\x01"))
        ours = [each for each in chain.sent if each.data]
        assert len(ours) == 1


def test_gas_is_free_whatever_the_node_suggests_unless_a_price_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for price, base_fee, offered in ((0, 0, (0, 0)), (5, 0, (5, 5)), (12, 10, (22, 2))):
        chain = FullChain(Clock(monkeypatch), base_fee=base_fee, tip=0 if base_fee else 7)
        chain.results["eth_getTransactionReceipt"] = {"status": "0x1", "blockNumber": "0x5"}
        chain.gas_price = price
        chain.transact(KEY, ContractCall(TO, b""))
        sent = chain.sent[0]
        assert (sent.max_fee_per_gas, sent.max_priority_fee_per_gas) == offered


@pytest.mark.parametrize(
    ("refusal", "suggested", "told"),
    [
        ("transaction underpriced: offer 5 wei", 0, "offer 5 wei; give --gas-price"),
        ("txpool is full: too many", 10**9, "too many; give --gas-price 1000000000 .*coins\\)"),
        ("nonce too low: next 4", 10**9, "nonce too low: next 4"),
    ],
)
def test_refusal_for_the_price_names_the_option(refusal: str, suggested: int, told: str) -> None:
    def refuse(_raw: Json) -> Json:
        raise RpcCallError(-32000, refusal)

    client = ScriptedClient(eth_sendRawTransaction=refuse, eth_gasPrice=hex(suggested))
    with pytest.raises(RpcCallError, match=f"{told}$"):
        client.transact(KEY, ContractCall(TO, b""))


@pytest.mark.parametrize("price", [0, 10**9])
def test_account_without_coins_is_told_how_to_get_them(price: int) -> None:
    def refuse(_raw: Json) -> Json:
        raise RpcCallError(-32000, "insufficient funds for gas * price + value: 0 coins, needs 1")

    client = ScriptedClient(eth_sendRawTransaction=refuse)
    client.gas_price = price
    with pytest.raises(RpcCallError) as refused:
        client.transact(KEY, ContractCall(TO, b""))
    told = str(refused.value)
    assert told.startswith("insufficient funds for gas * price + value: 0 coins, needs 1; ")
    assert ("leave --gas-price out and wait for free gas" in told) == (price > 0)
    assert "get coins: pot wallet faucet on a development network" in told


def test_user_is_told_once_why_a_free_transaction_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = FullChain(Clock(monkeypatch), base_fee=0)
    told: list[GasHint] = []
    chain.on_wait = told.append
    chain.results["eth_gasPrice"] = lambda: hex(10**9 if chain.clock.seconds > 8 else 0)
    with pytest.raises(ClientError) as failure:
        chain.transact(KEY, ContractCall(TO, b""))
    assert told == [GasHint(10**9, 21_000)]
    assert (
        "repeat it with --gas-price 1000000000 (wei for each unit of gas; it then costs at most "
        "0.000021 coins), or wait"
    ) in str(failure.value)
    assert len(chain.sent) == 1, "it is not raised"


def test_nothing_is_told_while_the_price_is_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = FullChain(Clock(monkeypatch), base_fee=0)
    chain.gas_price = 10**9
    told: list[GasHint] = []
    chain.on_wait = told.append
    chain.results["eth_gasPrice"] = hex(10**9)
    with pytest.raises(ClientError, match="does the network make blocks"):
        chain.transact(KEY, ContractCall(TO, b""))
    assert told == []
    assert len(chain.sent) == 1, "a price that was given is not raised"


def test_call_that_still_waits_is_not_sent_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = FullChain(Clock(monkeypatch), base_fee=0)
    send_in_vain(chain, b"\x01")
    send_in_vain(chain, b"\x01")
    assert len(chain.sent) == 1
    send_in_vain(chain, b"\x02")
    assert [each.nonce for each in chain.sent] == [3, 4]


COMMIT = gradient_ledger.commit_gradient(TaskId(1), 0, 0, 1, Hash32(bytes(32)))


def leave_waiting(
    monkeypatch: pytest.MonkeyPatch, *calls: ContractCall, price: int = 0
) -> FullChain:
    """A chain on which calls of the account wait, as another process of the same account sees it.

    What is sent from now on is in a block at once.
    """
    chain = FullChain(Clock(monkeypatch), base_fee=0)
    signer = Signer(KEY, 31_337)
    for at, call in enumerate(calls):
        chain.sent.append(signer.sign(call, 0, 21_000, 3 + at, GasOffer(price, price)))
    chain.results["eth_getTransactionReceipt"] = {"status": "0x1", "blockNumber": "0x5"}
    chain.on_note = chain.notes.append
    return chain


def list_paid(chain: FullChain) -> list[tuple[int, bytes, int]]:
    """The nonce, data and price of all transactions that were sent."""
    return [(each.nonce, each.data, each.max_fee_per_gas) for each in chain.sent]


def test_commitment_takes_the_place_of_one_that_waits_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chain = leave_waiting(monkeypatch, ContractCall(TO, b"\x01"))
    chain.transact(KEY, COMMIT)
    assert list_paid(chain) == [(3, b"\x01", 0), (3, COMMIT.data, 0)]
    assert chain.notes == [
        "it takes the place of a call of 0x22222222 (nonce 3), which is dropped: send that again"
    ]


def test_paid_call_takes_the_place_of_the_same_call_only(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = ContractCall(TO, b"\x01"), ContractCall(TO, b"\x02")
    chain = leave_waiting(monkeypatch, first, second)
    chain.gas_price = 10**9
    chain.transact(KEY, second)
    assert list_paid(chain)[2:4] == [(4, b"\x02", 10**9), (3, b"\x01", 10**9)]
    assert chain.notes == [
        "it takes the place of a call of 0x22222222 (nonce 4)",
        "before it waits a call of 0x22222222 (nonce 3), which now pays the same price",
    ]
    assert all(len(note) <= 80 for note in chain.notes)


def test_paid_call_pays_for_other_calls_that_wait_and_drops_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cancel = task_registry.cancel_task(TaskId(4))
    chain = leave_waiting(monkeypatch, cancel, ContractCall(TO, b""))
    chain.gas_price = 10**9
    chain.transact(KEY, ContractCall(TO, b"\x02"))
    assert list_paid(chain)[2:] == [
        (3, cancel.data, 10**9),
        (4, b"", 10**9),
        (5, b"\x02", 10**9),
    ]
    assert chain.notes == [
        "before it waits cancelTask (nonce 3), which now pays the same price",
        "before it waits a transfer of coins (nonce 4), which now pays the same price",
    ]


def test_call_without_a_price_says_what_waits_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = leave_waiting(monkeypatch, task_registry.cancel_task(TaskId(4)))
    chain.transact(KEY, ContractCall(TO, b"\x02"))
    assert list_paid(chain)[1:] == [(4, b"\x02", 0)]
    assert chain.notes == ["cancelTask (nonce 3) waits before it"]


def test_paid_call_waits_behind_one_that_pays_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = leave_waiting(monkeypatch, ContractCall(TO, b"\x01"), price=10**9)
    chain.gas_price = 10**9
    chain.transact(KEY, ContractCall(TO, b"\x02"))
    assert list_paid(chain)[1:] == [(4, b"\x02", 10**9)]
    assert chain.notes == [
        "before it waits a call of 0x22222222 (nonce 3), which pays as much",
    ]


def test_order_that_waits_is_not_sent_a_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    call = ContractCall(TO, b"\x01")
    chain = leave_waiting(monkeypatch, call)
    chain.transact(KEY, call, is_repeat=True)
    assert list_paid(chain) == [(3, b"\x01", 0)]
    chain.gas_price = 10**9
    chain.transact(KEY, call, is_repeat=True)
    assert list_paid(chain)[1:] == [(3, b"\x01", 10**9)]


def test_call_is_not_raised_if_the_balance_is_too_low(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = leave_waiting(monkeypatch, ContractCall(TO, b"\x01"))

    def refuse(_raw: Json) -> Json:
        raise RpcCallError(-32000, "insufficient funds")

    chain.results["eth_sendRawTransaction"] = refuse
    chain.gas_price = 10**9
    with pytest.raises(RpcCallError, match=r"nonce 3\); for its new price: insufficient funds"):
        chain.transact(KEY, ContractCall(TO, b"\x02"))


@pytest.mark.parametrize(
    "signer", [Signer(PrivateKey(b"\x12" * 32), 31_337), Signer(KEY, 1)], ids=["other", "chain"]
)
def test_node_cannot_make_an_account_sign_what_it_never_sent_here(
    monkeypatch: pytest.MonkeyPatch, signer: Signer
) -> None:
    chain = leave_waiting(monkeypatch)
    forged = signer.sign(ContractCall(TO, b"\x07"), 5, 21_000, 3, GasOffer(0, 0))
    chain.sent.append(forged)
    chain.gas_price = 10**9
    chain.transact(KEY, ContractCall(TO, b"\x02"))
    assert [each.data for each in chain.sent] == [b"\x07", b"\x02"]


def test_transaction_of_a_kind_that_is_not_signed_here_is_not_raised() -> None:
    signer = Signer(KEY, 31_337)
    plain = signer.sign(ContractCall(TO, b"\x01"), 0, 21_000, 3, GasOffer(0, 0))
    raised = signer.raise_price(plain, GasOffer(5, 5))
    assert raised is not None
    assert (raised.to, raised.data, raised.max_fee_per_gas) == (TO, b"\x01", 5)
    for other in (
        replace(plain, type=SET_CODE_TYPE),
        replace(plain, access_list=((TO, ()),)),
        replace(plain, to=None),
    ):
        assert signer.raise_price(other, GasOffer(5, 5)) is None


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


def test_node_that_shows_many_transactions_late_delays_a_commitment_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    names: Json = {str(each): {"hash": "0x" + bytes([each] * 32).hex()} for each in range(64)}

    def get_late(_name: Json) -> Json:
        clock.seconds += 0.9
        return None

    client = ScriptedClient(
        txpool_contentFrom={"pending": names}, eth_getRawTransactionByHash=get_late
    )
    assert client.list_waiting(Signer(KEY, 1)) == []
    assert clock.seconds < 4


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
