"""Transactions of a miner whose nodes tell what is not so (miner/transactor.py)."""

from collections.abc import Callable

import httpx
import pytest
from structlog.testing import capture_logs

from chain.contracts import miner_seats, reward_distributor
from chain.contracts.abi import ContractCall
from chain.crypto import get_address
from chain.primitives import Hash32, PrivateKey
from miner.bonds import BondReturns
from miner.client import FailoverClient
from miner.light import LightClient, fetch_network
from miner.transactor import Effect, MinerIdentity, Transactor, change_of_seat, claim_of
from pot_common.rpc_client import RESEND_SECONDS, RevertedError
from tests.worlds.clock import sleep_at_once
from tests.worlds.node_for_miners import TASK, FakeNode
from tests.worlds.proofs import CHAIN_ID, GENESIS

KEY = PrivateKey(b"\x11" * 32)
MINER = get_address(KEY)
IDENTITY = MinerIdentity(KEY, MINER, CHAIN_ID)
LEAVE = miner_seats.leave(TASK)
LEFT = change_of_seat(TASK, MINER, lambda seat: seat.has_ended)
CALLS: dict[str, tuple[ContractCall, Effect]] = {
    "leave": (LEAVE, LEFT),
    "register": (
        miner_seats.register(TASK, 1, ()),
        change_of_seat(TASK, MINER, lambda seat: seat.registered_block > 0 and seat.has_seat),
    ),
    "withdraw": (
        miner_seats.withdraw_bond(TASK),
        change_of_seat(TASK, MINER, lambda seat: seat.units == 0),
    ),
    "claim": (
        reward_distributor.claim(TASK, 9, (Hash32(bytes(32)),)),
        claim_of(TASK, MINER, 9),
    ),
}


def clients_of(**nodes: FakeNode) -> tuple[FailoverClient, LightClient]:
    transport = httpx.MockTransport(lambda request: nodes[request.url.host].handle(request))
    client = FailoverClient([f"http://{host}" for host in nodes], transport)
    return client, LightClient(client, fetch_network(client, CHAIN_ID, GENESIS.hash))


def give_receipt(status: str) -> Callable[[str], object]:
    return lambda _name: {"status": status, "blockNumber": "0x8"}


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which passes only while the miner sleeps."""
    return sleep_at_once(monkeypatch, "miner.client")


@pytest.mark.parametrize(("call", "effect"), CALLS.values(), ids=CALLS.keys())
def test_receipt_of_success_without_an_effect_is_no_success(
    call: ContractCall, effect: Effect
) -> None:
    node = FakeNode(MINER, units=1, takes_effect=False)
    with pytest.raises(RevertedError, match="the state does not show that it succeeded"):
        Transactor(*clients_of(node=node), IDENTITY).transact(call, effect)
    assert [each.data for each in node.transactions] == [call.data]


@pytest.mark.parametrize(("call", "effect"), CALLS.values(), ids=CALLS.keys())
def test_receipt_of_a_revert_does_not_undo_an_effect(call: ContractCall, effect: Effect) -> None:
    node = FakeNode(MINER, units=1, registered_block=int("register" in str(call)))
    node.eth_getTransactionReceipt = give_receipt("0x0")  # type: ignore[method-assign]
    Transactor(*clients_of(node=node), IDENTITY).transact(call, effect)
    assert [each.data for each in node.transactions] == [call.data]


@pytest.mark.parametrize("status", ["0x0", "0x1"])
def test_node_with_a_receipt_of_a_transaction_in_no_block_is_dropped(
    status: str, seconds: list[float]
) -> None:
    liar, honest = FakeNode(MINER, units=1), FakeNode(MINER, units=1)
    liar.transactions = honest.transactions  # one chain
    liar.eth_sendRawTransaction = lambda raw: "0x00"  # type: ignore[method-assign]
    liar.eth_getTransactionReceipt = give_receipt(status)  # type: ignore[method-assign]
    receive = honest.eth_sendRawTransaction

    def refuse_once(raw: str) -> object:
        honest.eth_sendRawTransaction = receive  # type: ignore[method-assign]
        raise RuntimeError(-32000, "txpool is full", None)

    honest.eth_sendRawTransaction = refuse_once  # type: ignore[method-assign]
    client, light = clients_of(liar=liar, honest=honest)
    begin = seconds[0]
    with capture_logs() as logs:
        Transactor(client, light, IDENTITY).transact(LEAVE, LEFT)
    assert [each.data for each in honest.transactions] == [LEAVE.data]
    assert seconds[0] - begin <= RESEND_SECONDS + 1
    (told,) = (str(each["event"]) for each in logs if "not believed" in str(each["event"]))
    assert told.startswith("http://liar is not believed: it has transaction 0x")
    assert told.endswith("in block 8, and the account has not sent it by block 8")


def test_transaction_pays_twice_the_proven_base_fee() -> None:
    node = FakeNode(MINER, units=1)
    node.eth_getBlockByNumber = lambda number, full: {"baseFeePerGas": hex(10**30)}  # type: ignore[method-assign]
    Transactor(*clients_of(node=node), IDENTITY).transact(LEAVE, LEFT)
    tip = 1 if GENESIS.base_fee_per_gas else 0
    assert node.transactions[0].max_fee_per_gas == 2 * GENESIS.base_fee_per_gas + tip


def test_bonds_are_expected_until_the_state_shows_that_they_are_back() -> None:
    node = FakeNode(MINER, units=1, has_left=True, takes_effect=False)
    bonds = BondReturns(*clients_of(node=node), IDENTITY)
    bonds.expect(TASK)
    with capture_logs() as logs:
        assert not bonds.collect()
    assert bonds.waits == (TASK,)
    assert "bonds are back" not in [each["event"] for each in logs]
