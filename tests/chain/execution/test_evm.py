import threading
from collections.abc import Sequence

import pytest
from eth.chains.base import MiningChain
from eth.consensus.noproof import NoProofConsensus
from eth.db.atomic import AtomicDB
from eth.vm.forks.prague import PragueVM
from eth.vm.forks.prague.transactions import PragueTransactionBuilder
from eth_account import Account as Wallet
from hypothesis import given, settings
from hypothesis import strategies as st

from chain import codec
from chain.crypto import get_address, keccak256
from chain.errors import InvalidTransaction, RejectionReason
from chain.execution.block_environment import BlockEnvironment
from chain.execution.call_values import AccountOverride, CallRequest
from chain.execution.engine import Computation
from chain.execution.evm import call, estimate_gas, run_constructor
from chain.execution.gas import compute_intrinsic_gas
from chain.execution.run_loop import ExecutionStoppedError
from chain.genesis import HISTORY_STORAGE_ADDRESS, HISTORY_STORAGE_CODE, GenesisAccount
from chain.primitives import Address
from chain.state.world_state import get_account, get_storage
from chain.types.transaction import Transaction
from tests.worlds.chain import ALICE, BOB, CHAIN_ID, ETHER, VALIDATORS, Chain, sign
from tests.worlds.chain import genesis_config as config_of

CONTRACT = Address(b"\x99" * 20)
OTHER = Address(b"\x98" * 20)
RETURN_TOP = "5f5260205ff3"
"""MSTORE the top of the stack at 0 and return it."""


def chain_with(code: str, **storage: int) -> Chain:
    slots = {int(name[1:]): value for name, value in storage.items()}
    account = GenesisAccount(nonce=1, balance=1000, code=bytes.fromhex(code), storage=slots)
    return Chain(config_of({CONTRACT: account}))


def call_contract(chain: Chain, **request: object):
    environment = BlockEnvironment.of(chain.head, CHAIN_ID)
    overrides = request.pop("overrides", None)
    should_stop = request.pop("should_stop", lambda: False)
    request = CallRequest(**{"to": CONTRACT, **request})
    root = chain.head.state_root
    return call(chain.database, root, environment, request, overrides, should_stop)


# Against stock py-evm.


class StockVM(PragueVM):
    consensus_class = NoProofConsensus

    @classmethod
    def validate_header(cls, *_args: object) -> None:
        """Skip the check: these headers follow our rules."""


class StockChain(MiningChain):
    chain_id = CHAIN_ID
    vm_configuration = ((0, StockVM),)


def run_in_stock_engine(chain: Chain, transactions: Sequence[Transaction]) -> tuple:
    """The state root, gas used and logs of a block that stock py-evm builds."""
    alloc = {
        **chain.config.alloc,
        HISTORY_STORAGE_ADDRESS: GenesisAccount(nonce=1, code=HISTORY_STORAGE_CODE),
    }
    stock = StockChain.from_genesis(
        AtomicDB(),
        {
            "difficulty": 0,
            "gas_limit": chain.config.gas_limit,
            "timestamp": chain.config.timestamp,
            "base_fee_per_gas": chain.config.base_fee_per_gas,
        },
        {
            address: {
                "balance": account.balance,
                "nonce": account.nonce,
                "code": account.code,
                "storage": dict(account.storage),
            }
            for address, account in alloc.items()
        },
    )
    genesis = stock.get_canonical_head()
    assert genesis.state_root == chain.genesis.header.state_root
    header = stock.create_header_from_parent(
        genesis,
        coinbase=VALIDATORS[0],
        gas_limit=chain.config.gas_limit,
        timestamp=chain.config.timestamp + 1,
        base_fee_per_gas=chain.config.base_fee_per_gas,
    )
    vm = stock.get_vm(header)
    vm.state.set_storage(HISTORY_STORAGE_ADDRESS, 0, int.from_bytes(chain.head.hash, "big"))
    receipts = []
    for transaction in transactions:
        decoded = PragueTransactionBuilder.decode(transaction.raw)
        receipt, _ = vm.apply_transaction(header, decoded)
        header = vm.add_receipt_to_header(header, receipt)
        receipts.append(receipt)
    return vm.state.make_state_root(), header.gas_used, [receipt.bloom for receipt in receipts]


# Code fragments that leave the stack unchanged.
PIECES = {
    "store": "600160035560056004555f600455",
    "clear": "5f600155",
    "load": "60015450600354600255",
    "transient": "60075f5d5f5c600855",
    "log": "61beef5f5260206010" + "7f" + "ab" * 32 + "5f5fa250",
    "environment": "4342014501480146014101600955",
    "call self with less": "5f5f5f5f600130611000f150",
    "static call": "5f5f5f5f30611000fa600a55",
    "delegate call": "5f5f5f5f73" + OTHER.hex() + "619000f4600b55",
    "send": "5f5f5f5f600173" + "55" * 20 + "619000f1600c55",
    "touch": "5f5f5f5f5f73" + "56" * 20 + "619000f1600d55",
    "create": "365f5f37365f5ff0600e55",
    "create2": "365f5f3760013660005ff5600f55",
    "keccak": "60405f20601055",
    "balance": "7355" + "55" * 19 + "31601155",
    "extcode": "73" + OTHER.hex() + "3f601255",
    "selfdestruct": "73" + "57" * 20 + "ff",
    "revert": "60015f55" + "60205ffd",
    "burn": "fe",
    "jump around": "58600501565b",
    "ecrecover": "60205f60805f5f6001619000f150",
    "sha256": "60205f60205f5f6002619000f150",
    "modexp": "60205f60605f5f6005619000f150",
}
programs = st.lists(st.sampled_from(sorted(PIECES)), max_size=8).map(
    lambda names: "".join(PIECES[name] for name in names)
)


@pytest.mark.filterwarnings("ignore:SELFDESTRUCT:DeprecationWarning")
@settings(max_examples=120, deadline=None)
@given(programs, programs, programs, st.integers(0, 3))
def test_state_gas_and_logs_are_stock_py_evms(main: str, other: str, init: str, value: int) -> None:
    chain = Chain(
        config_of(
            {
                CONTRACT: GenesisAccount(
                    nonce=1, balance=50, code=bytes.fromhex(main), storage={1: 9, 4: 2}
                ),
                OTHER: GenesisAccount(nonce=1, code=bytes.fromhex(other), storage={1: 7}),
            },
            gas_per_tick=0,
        )
    )
    data = bytes.fromhex(init)
    transactions = [
        sign(ALICE, 0, CONTRACT, value=value, data=data, gas=900_000),
        sign(BOB, 0, None, value=value, data=data, gas=900_000),
        sign(ALICE, 1, OTHER, gas=300_000),
        sign(ALICE, 2, CONTRACT, gas=500_000, gasPrice=3),
    ]
    result = chain.build(transactions).result
    assert len(result.transactions) == 4
    root, gas_used, blooms = run_in_stock_engine(chain, transactions)
    assert result.gas_used == gas_used
    assert [int.from_bytes(receipt.logs_bloom, "big") for receipt in result.receipts] == blooms
    assert result.header.state_root == root


def test_set_code_transactions_agree_with_stock_py_evm() -> None:
    chain = chain_with("60015f5560015f5260205fa0")
    authorization = Wallet.sign_authorization(
        {"chainId": CHAIN_ID, "address": CONTRACT, "nonce": 0}, BOB
    )
    transactions = [
        sign(ALICE, 0, get_address(BOB), gas=200_000, authorizationList=[authorization]),
        sign(ALICE, 1, get_address(BOB), gas=200_000),
    ]
    result = chain.build(transactions).result
    assert [len(receipt.logs) for receipt in result.receipts] == [1, 1]
    root, gas_used, _ = run_in_stock_engine(chain, transactions)
    assert (result.header.state_root, result.gas_used) == (root, gas_used)


# Where stock py-evm is wrong.


def test_calldata_floor_is_charged_even_with_refunds() -> None:
    slots = {f"s{slot}": 1 for slot in range(1, 9)}
    chain = chain_with("".join(f"5f60{slot:02x}55" for slot in range(1, 9)), **slots)
    data = b"\xff" * 2000
    result = chain.build([sign(ALICE, 0, CONTRACT, data=data, gas=200_000)]).result
    assert result.gas_used == 21_000 + 40 * 2000


def test_delegated_sender_pays_the_same_gas_to_create_a_contract() -> None:
    # With EIP-7702 the sender may have code that creates; the init code is paid for once.
    # CREATE of 64 zero bytes, as the sender itself and, for comparison, as another account.
    chain = chain_with("60405f5ff05000")
    authorization = Wallet.sign_authorization(
        {"chainId": CHAIN_ID, "address": CONTRACT, "nonce": 1}, ALICE
    )
    chain.extend(sign(ALICE, 0, OTHER, gas=100_000, authorizationList=[authorization]))
    own = chain.build([sign(ALICE, 2, get_address(ALICE), gas=200_000)]).result
    chain_two = chain_with("60405f5ff05000")
    other = chain_two.build([sign(ALICE, 0, CONTRACT, gas=200_000)]).result
    assert own.receipts[0].status == other.receipts[0].status == 1
    assert own.gas_used == other.gas_used


DESTROYS_ITSELF_TWICE = "36600e575f5f60015f5f305af1505b33ff"
"""Without call data: call this contract with one byte. In both cases SELFDESTRUCT to the caller."""
CREATE_AND_CALL = "365f5f37" + "365f5ff0" + "5f5f5f5f5f855af1" + "5f55"
"""CREATE with the call data as init code, call the contract, and store the result in slot 0."""


def test_a_new_contract_may_destroy_itself_while_it_is_re_entered() -> None:
    chain = chain_with(CREATE_AND_CALL)
    init_code = bytes.fromhex("70" + DESTROYS_ITSELF_TWICE + "5f52" + "6011600ff3")
    built = chain.build([sign(ALICE, 0, CONTRACT, data=init_code, gas=200_000)])
    assert built.dropped == ()
    assert [receipt.status for receipt in built.result.receipts] == [1]
    chain.database.update(built.result.delta)
    state_root = built.block.header.state_root
    created = Address(keccak256(codec.encode([CONTRACT, 1]))[12:])
    assert get_storage(chain.database, state_root, CONTRACT, 0) == 1
    assert get_account(chain.database, state_root, created) is None


@pytest.mark.parametrize("error", [ValueError, TypeError, OverflowError, KeyError, AssertionError])
def test_an_unforeseen_exception_of_an_opcode_is_charged(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(_computation: object) -> None:
        raise error("unforeseen")

    monkeypatch.setitem(Computation.opcodes, 0x20, fail)
    # Slot 0 gets the result of a call of OTHER, whose code is KECCAK256.
    chain = Chain(
        config_of(
            {
                CONTRACT: GenesisAccount(
                    nonce=1,
                    code=bytes.fromhex("60025f55" + "5f" * 5 + "73" + OTHER.hex() + "614000f15f55"),
                ),
                OTHER: GenesisAccount(nonce=1, code=bytes.fromhex("5f5f20")),
            }
        )
    )
    transactions = [sign(ALICE, 0, OTHER, gas=90_000), sign(BOB, 0, CONTRACT, gas=90_000)]
    built = chain.build(transactions)
    assert built.dropped == ()
    assert [receipt.status for receipt in built.result.receipts] == [0, 1]
    assert built.result.receipts[0].cumulative_gas_used == 90_000
    chain.database.update(built.result.delta)
    state_root = built.block.header.state_root
    assert get_storage(chain.database, state_root, CONTRACT, 0) == 0


@pytest.mark.parametrize("opcode", ["f0", "f5"])
def test_too_large_init_code_ends_the_creator_even_without_the_balance(opcode: str) -> None:
    # The size and a value of which the contract has none, then SSTORE(0, 1).
    create = "5f" + "61c001" + "5f" + "69" + "ff" * 10 + opcode
    chain = chain_with(create + "60015f55")
    built = chain.build([sign(ALICE, 0, CONTRACT, gas=200_000)])
    (receipt,) = built.result.receipts
    assert (receipt.status, receipt.cumulative_gas_used) == (0, 200_000)


def test_calls_1024_deep_do_not_exhaust_a_threads_stack() -> None:
    deep_call = chain_with("5f5f5f5f5f305af1" + "5f5260205ff3")
    deep_create = chain_with("385f5f39385f5ff0")
    pushes = chain_with("615dc056" + "60" * 23_996 + "5b")
    results = []

    def run_all() -> None:
        for chain in (deep_call, deep_create, pushes):
            results.append(call_contract(chain, gas_limit=2**46).is_success)

    thread = threading.Thread(target=run_all)
    thread.start()
    thread.join()
    assert results[:2] == [True, True]
    assert len(results) == 3


# Calls.


def test_a_call_returns_output_gas_and_logs_and_changes_nothing() -> None:
    chain = chain_with("60015f5560205fa0" + "6001545f5260205ff3", s1=77)
    before = dict(chain.database)
    result = call_contract(chain)
    assert result.is_success
    assert int.from_bytes(result.output, "big") == 77
    assert [log.address for log in result.logs] == [CONTRACT]
    assert chain.database == before


def test_a_revert_returns_its_data_and_a_halt_its_name() -> None:
    reverted = call_contract(chain_with("602a5f5260205ffd"))
    assert (reverted.is_success, reverted.is_revert) == (False, True)
    assert int.from_bytes(reverted.output, "big") == 42
    halted = call_contract(chain_with("fe"), gas_limit=50_000)
    assert (halted.is_revert, halted.output, halted.gas_used) == (False, b"", 50_000)
    assert "InvalidInstruction" in halted.error


def test_a_free_call_needs_no_balance_and_a_priced_one_does() -> None:
    chain = chain_with("48" + RETURN_TOP)
    assert call_contract(chain).is_success
    with pytest.raises(InvalidTransaction) as caught:
        call_contract(chain, gas_price=1)
    assert caught.value.reason == RejectionReason.INSUFFICIENT_FUNDS
    with pytest.raises(InvalidTransaction) as caught:
        call_contract(chain, gas_limit=20_999)
    assert caught.value.reason == RejectionReason.INTRINSIC_GAS


def test_overrides_replace_balance_nonce_code_and_storage() -> None:
    chain = chain_with("fe", s1=5, s2=6)
    read_two = bytes.fromhex("600254600154015f5260205ff3")

    def read(**override: object) -> int:
        changed = AccountOverride(code=read_two, **override)
        return int.from_bytes(call_contract(chain, overrides={CONTRACT: changed}).output, "big")

    assert read() == 11
    assert read(storage={1: 100}) == 100
    assert read(storage_changes={1: 100}) == 106
    balance = AccountOverride(code=bytes.fromhex("4731" + RETURN_TOP), balance=31)
    assert call_contract(chain, overrides={CONTRACT: balance}).is_success


def test_block_hash_comes_from_the_history_contract() -> None:
    chain = chain_with("5f3540" + RETURN_TOP)
    hashes = [chain.head.hash]
    for _ in range(4):
        chain.extend()
        hashes.append(chain.head.hash)
    found = [call_contract(chain, data=n.to_bytes(32, "big")).output for n in range(6)]
    assert found[:4] == hashes[:4]
    assert found[4:] == [bytes(32), bytes(32)]


def test_an_execution_stops_when_told_to() -> None:
    chain = chain_with("5b5f56")
    with pytest.raises(ExecutionStoppedError):
        call_contract(chain, should_stop=lambda: True)


def test_estimated_gas_suffices_and_slightly_less_does_not() -> None:
    # Fails unless 100,000 gas are left at its GAS opcode.
    chain = chain_with("5a620186a010600c575f5ffd5b00")
    environment = BlockEnvironment.of(chain.head, CHAIN_ID)
    request = CallRequest(to=CONTRACT)
    estimate = estimate_gas(chain.database, chain.head.state_root, environment, request)
    assert isinstance(estimate, int)
    assert call_contract(chain, gas_limit=estimate).is_success
    assert not call_contract(chain, gas_limit=estimate * 60 // 64).is_success
    failing = chain_with("5f5ffd")
    result = estimate_gas(failing.database, failing.head.state_root, environment, request)
    assert not isinstance(result, int)
    assert result.is_revert


def test_an_estimate_of_a_transfer_is_exact() -> None:
    chain = Chain()
    environment = BlockEnvironment.of(chain.head, CHAIN_ID)
    request = CallRequest(to=OTHER, sender=get_address(ALICE), value=ETHER // 2, gas_price=7)
    assert estimate_gas(chain.database, chain.head.state_root, environment, request) == 21_000


# Genesis.


def test_a_constructor_gives_code_and_storage() -> None:
    # SSTORE(3, chain id), then return 2 bytes of code.
    account = run_constructor(
        bytes.fromhex("46600355" + "61aabb5f526002601ef3"), CONTRACT, chain_id=CHAIN_ID
    )
    assert account == GenesisAccount(nonce=1, code=b"\xaa\xbb", storage={3: CHAIN_ID})


def test_a_constructor_may_read_but_not_change_what_is_around_it() -> None:
    around = {OTHER: GenesisAccount(nonce=1, code=bytes.fromhex("60015f55"))}
    change_other = bytes.fromhex("5f5f5f5f5f73" + OTHER.hex() + "5af1505f5ff3")
    with pytest.raises(ValueError, match="changes other accounts"):
        run_constructor(change_other, CONTRACT, chain_id=CHAIN_ID, alloc=around)
    read_other = bytes.fromhex("73" + OTHER.hex() + "3b6001555f5ff3")
    account = run_constructor(read_other, CONTRACT, chain_id=CHAIN_ID, alloc=around)
    assert account.storage == {1: 4}
    with pytest.raises(ValueError, match="fails"):
        run_constructor(b"\xfe", CONTRACT, chain_id=CHAIN_ID)


def test_intrinsic_gas_adds_up() -> None:
    keys = (bytes(32),)
    assert compute_intrinsic_gas(OTHER, b"\x00\x01", (), 0) == 21_020
    assert compute_intrinsic_gas(None, b"\x00" * 33, (), 0) == 21_000 + 33 * 4 + 32_000 + 4
    assert compute_intrinsic_gas(OTHER, b"", ((OTHER, keys),), 2) == 21_000 + 4_300 + 50_000
