import json
import subprocess
import sys

import pytest

from chain.crypto import keccak256
from chain.genesis import (
    HISTORY_STORAGE_ADDRESS,
    HISTORY_STORAGE_CODE,
    build_genesis,
    compute_extra_data,
    parse_genesis,
)
from chain.params import BaseFeeMode, ChainParameters, InvalidGenesisError, parse_parameters
from chain.state.world_state import get_account, get_code, get_storage
from chain.types.header import decode_header

ADDRESS = "0x" + "11" * 20
GENESIS_HASH = "a191473f9797aab5a8e40a172883de6730f85dbaa47813d6948b49b9a228d3d2"
VALIDATORS = ["0x" + f"{n:02x}" * 20 for n in (1, 2, 3, 4)]
FILE = {
    "config": {
        "chainId": 1337,
        "homesteadBlock": 0,
        "pragueTime": 0,
        "proofOfTraining": {"validators": VALIDATORS, "min_block_interval_ms": 200},
    },
    "alloc": {
        ADDRESS: {"balance": "0x64"},
        "22" * 20: {"balance": "7", "nonce": "0x1", "code": "0x00", "storage": {"0x1": "0x02"}},
        "33" * 20: {"balance": "0"},
    },
    "timestamp": "0x65",
    "gasLimit": "0x1c9c380",
    "baseFeePerGas": "0x0",
    "difficulty": "0x0",
}


def changed(path: str, value: object) -> bytes:
    """The file with one setting changed, or removed if the value is None."""
    copy = json.loads(json.dumps(FILE))
    *parents, last = path.split("/")
    target = copy
    for name in parents:
        target = target[name]
    target[last] = value
    return json.dumps(copy).encode()


def test_the_hash_of_a_genesis_is_stable() -> None:
    state = build_genesis(parse_genesis(json.dumps(FILE).encode()))
    assert state.header.hash.hex() == GENESIS_HASH
    assert decode_header(state.header.encode()) == state.header


def test_the_state_is_the_allocation_and_the_history_contract() -> None:
    state = build_genesis(parse_genesis(FILE))
    root = state.header.state_root
    accounts = {
        name: get_account(state.delta, root, bytes.fromhex(name * 20))
        for name in ("11", "22", "33")
    }
    assert [account and account.balance for account in accounts.values()] == [100, 7, None]
    assert get_storage(state.delta, root, b"\x22" * 20, 1) == 2
    assert get_code(state.delta, root, HISTORY_STORAGE_ADDRESS) == HISTORY_STORAGE_CODE


def test_networks_with_other_parameters_have_other_genesis_hashes() -> None:
    one = parse_genesis(FILE)
    other = parse_genesis(changed("config/proofOfTraining/phase_floor_blocks", 2))
    assert build_genesis(one).header.state_root == build_genesis(other).header.state_root
    assert build_genesis(one).header.hash != build_genesis(other).header.hash
    canonical = one.parameters.canonical_bytes()
    assert compute_extra_data(one) == keccak256((1337).to_bytes(32, "big") + canonical)


def test_networks_with_other_chain_ids_have_other_genesis_hashes() -> None:
    one = parse_genesis(FILE)
    other = parse_genesis(changed("config/chainId", 1338))
    assert build_genesis(one).header.state_root == build_genesis(other).header.state_root
    assert build_genesis(one).header.hash != build_genesis(other).header.hash


def test_a_plain_geth_genesis_parses_with_the_defaults() -> None:
    plain = json.loads(json.dumps(FILE))
    del plain["config"]["proofOfTraining"]
    genesis = parse_genesis(plain)
    assert (genesis.chain_id, genesis.parameters) == (1337, ChainParameters())
    assert genesis.timestamp == 0x65


def test_genesis_file_may_contain_the_parameters_commitment() -> None:
    genesis = parse_genesis(FILE)
    given = changed("extraData", "0x" + compute_extra_data(genesis).hex())
    assert parse_genesis(given) == genesis


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("config/chainId", "x", "chainId"),
        ("config/chainId", 1.5, "JSON without floats"),
        ("config/chainId", True, "chainId"),
        ("config/londonBlock", 5, "londonBlock"),
        ("config/osakaTime", 0, "osakaTime"),
        ("config/proofOfTraining/nonsense", 1, "nonsense is not a setting"),
        ("config/proofOfTraining/min_block_interval_ms", 0, "min_block_interval_ms"),
        ("config/proofOfTraining/min_block_interval_ms", 9000, "raise empty_block_interval_ms"),
        ("config/proofOfTraining/min_block_interval_ms", True, "min_block_interval_ms"),
        ("config/proofOfTraining/view_timeout_cap_ms", 10_000, "view_timeout_cap_ms"),
        ("config/proofOfTraining/transaction_gas_limit", 2**31, "transaction_gas_limit"),
        ("config/proofOfTraining/base_fee_mode", "free", "base_fee_mode"),
        ("config/proofOfTraining/slot_price", 0, "integer from 1"),
        ("config/proofOfTraining/slot_price", 2**63, "slot_price"),
        ("config/proofOfTraining/second_price", 0, "second_price is 0; give an integer from 1 "),
        ("config/proofOfTraining/second_price", 2**63, "second_price"),
        ("config/proofOfTraining/byte_price", 0, "byte_price is 0; give an integer from 1 "),
        ("config/proofOfTraining/byte_price", 2**63, "byte_price"),
        ("config/proofOfTraining/examination_fee", 0, "examination_fee is 0; give an integer from"),
        ("config/proofOfTraining/examination_fee", 2**63, "examination_fee"),
        ("config/proofOfTraining/idle_seconds", 59, "idle_seconds is 59; give an integer from 60 "),
        ("config/proofOfTraining/idle_seconds", 365 * 86_400 + 1, "idle_seconds"),
        ("config/proofOfTraining/seat_bond_pot", 0, "seat_bond_pot is 0; give an integer from 1 "),
        ("config/proofOfTraining/seat_bond_pot", 10**9 + 1, "seat_bond_pot"),
        ("config/proofOfTraining/seat_attempts", 0, "seat_attempts is 0; give an integer from 1 "),
        ("config/proofOfTraining/seat_attempts", 1_000_001, "seat_attempts"),
        ("config/proofOfTraining/grace_blocks", 0, "grace_blocks is 0; give an integer from 1 "),
        ("config/proofOfTraining/grace_blocks", 1_001, "grace_blocks"),
        ("config/proofOfTraining/task_slots", 1_025, "task_slots"),
        ("config/proofOfTraining/pending_seconds", 599, "pending_seconds"),
        ("config/proofOfTraining/max_lifetime_seconds", 3_599, "max_lifetime_seconds"),
        (
            "config/proofOfTraining/phase_floor_blocks",
            65_535,
            "max_lifetime_seconds is 2592000.* 2621765 s .*lower phase_floor_blocks, grace_blocks",
        ),
        ("config/proofOfTraining/base_fee_floor_wei", 5, "base_fee_floor_wei"),
        ("config/proofOfTraining/validators", VALIDATORS[::-1], "sort the addresses"),
        ("config/proofOfTraining/validators", [VALIDATORS[0]] * 2, "name each once"),
        ("config/proofOfTraining/validators", ["0x" + "00" * 20], "20-byte address"),
        ("config/proofOfTraining/validators", ["0xzz"], "20-byte address"),
        ("config/proofOfTraining/validators", "0x01", "validators"),
        ("alloc/0x12", {"balance": "1"}, "20-byte address once"),
        ("alloc/0x" + "22" * 20, {"balance": "1"}, "20-byte address once"),
        ("alloc/" + "11" * 20, {"balance": "1"}, "20-byte address once"),
        (f"alloc/{ADDRESS}/balance", -1, "balance"),
        (f"alloc/{ADDRESS}/balance", hex(2**256 - 1), "lower the balances"),
        (f"alloc/{ADDRESS}/code", "0xz", "code"),
        (f"alloc/{ADDRESS}/storage", {"0x" + "01" * 33: "0x1"}, "32 bytes"),
        ("alloc/0x" + HISTORY_STORAGE_ADDRESS.hex(), {"balance": "1"}, "history contract"),
        ("gasLimit", "0x1", "gasLimit"),
        ("number", "0x1", "number"),
        ("extraData", "0x1234", "extraData"),
        ("mixHash", "0x1234", "mixHash"),
        ("timestamp", "soon", "timestamp"),
        ("alloc", [], "alloc"),
    ],
)
def test_a_wrong_setting_is_named(path: str, value: object, named: str) -> None:
    with pytest.raises(InvalidGenesisError, match=named):
        parse_genesis(changed(path, value))


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"config":{},"config":{}}', b"[" * 10_000])
def test_genesis_file_that_is_not_a_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidGenesisError):
        parse_genesis(data)


def test_deeply_nested_genesis_file_does_not_end_the_process() -> None:
    # Importing py-evm raises the recursion limit; the parser of the standard library then crashed.
    script = (
        "import sys; sys.setrecursionlimit(100_000)\n"
        "from chain.genesis import InvalidGenesisError, parse_genesis\n"
        "try: parse_genesis(b'[' * 200_000)\n"
        "except InvalidGenesisError: print('refused')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout == "refused\n", done.returncode


def test_parameters_survive_their_own_json() -> None:
    parameters = parse_parameters(
        {"validators": VALIDATORS, "base_fee_mode": "eip1559", "base_fee_floor_wei": 10**9}
    )
    assert parameters.base_fee_mode is BaseFeeMode.EIP1559
    assert parse_parameters(parameters.to_json()) == parameters
    assert json.loads(parameters.canonical_bytes()) == parameters.to_json()
