import cProfile
from dataclasses import replace

import pytest
from eth_account import Account as Wallet
from hypothesis import given
from hypothesis import strategies as st

from chain import codec
from chain.crypto import get_address, keccak256
from chain.errors import InvalidBlock, InvalidTransaction, RejectionReason
from chain.execution.gas import compute_base_fee, compute_floor_gas
from chain.genesis import GenesisAccount
from chain.hexadecimal import to_hex
from chain.params import BaseFeeMode
from chain.state.world_state import WorldState
from chain.types.transaction import Transaction, decode_transaction
from chain.validation import (
    RANDAO_DOMAIN,
    compute_mix_hash,
    compute_oldest_timestamp,
    compute_required_gas,
    validate_fresh_proposal,
    validate_outline,
    validate_transaction,
)
from tests.worlds.chain import ALICE, BOB, ETHER, VALIDATORS, Chain, genesis_config, sign

RECIPIENT = b"\x77" * 20
CONFIG = genesis_config({})


def reason_of(transaction: Transaction, chain: Chain | None = None, **limits: int) -> str | None:
    """The reason of the refusal; None if the transaction is accepted."""
    chain = chain or Chain()
    view = WorldState(chain.database, chain.head.state_root)
    arguments = {"base_fee_per_gas": 0, "gas_available": 30_000_000, **limits}
    try:
        validate_transaction(transaction, view, chain.config, **arguments)
    except InvalidTransaction as error:
        return error.reason
    return None


def chain_with_sender_code(code: bytes) -> Chain:
    account = GenesisAccount(balance=ETHER, code=code)
    return Chain(genesis_config({get_address(ALICE): account}))


def test_an_ordinary_transaction_is_accepted() -> None:
    assert reason_of(sign(ALICE, 0, RECIPIENT, value=1)) is None


def test_another_chains_typed_and_legacy_transactions_are_refused() -> None:
    assert reason_of(sign(ALICE, 0, RECIPIENT, chainId=5)) == RejectionReason.WRONG_CHAIN
    legacy = sign(ALICE, 0, RECIPIENT, chainId=5, gasPrice=1)
    assert reason_of(legacy) == RejectionReason.WRONG_CHAIN


def test_a_legacy_transaction_without_chain_id_is_accepted() -> None:
    fields = {"nonce": 0, "gas": 21_000, "to": RECIPIENT, "value": 0, "gasPrice": 1}
    raw = bytes(Wallet.sign_transaction(fields, ALICE).raw_transaction)
    assert reason_of(decode_transaction(raw)) is None


def test_a_sender_with_code_is_refused_unless_it_is_a_delegation() -> None:
    transaction = sign(ALICE, 0, RECIPIENT)
    assert reason_of(transaction, chain_with_sender_code(b"\x00")) == (
        RejectionReason.SENDER_HAS_CODE
    )
    delegation = b"\xef\x01\x00" + RECIPIENT
    assert reason_of(transaction, chain_with_sender_code(delegation)) is None
    assert reason_of(transaction, chain_with_sender_code(delegation + b"\x00")) == (
        RejectionReason.SENDER_HAS_CODE
    )


def test_a_tip_above_the_fee_is_refused() -> None:
    transaction = sign(ALICE, 0, RECIPIENT, maxFeePerGas=5, maxPriorityFeePerGas=6)
    assert reason_of(transaction) == RejectionReason.TIP_ABOVE_FEE


def test_init_code_is_limited() -> None:
    most = sign(ALICE, 0, None, data=bytes(49_152), gas=1_000_000)
    assert reason_of(most) is None
    more = sign(ALICE, 0, None, data=bytes(49_153), gas=1_000_000)
    assert reason_of(more) == RejectionReason.INIT_CODE_TOO_LARGE


def test_intrinsic_gas_and_data_floor_are_required() -> None:
    assert reason_of(sign(ALICE, 0, RECIPIENT, gas=20_999)) == RejectionReason.INTRINSIC_GAS
    data = b"\xff" * 1000
    below = sign(ALICE, 0, RECIPIENT, data=data, gas=60_999)
    assert reason_of(below) == RejectionReason.INTRINSIC_GAS
    assert reason_of(sign(ALICE, 0, RECIPIENT, data=data, gas=61_000)) is None


ADDRESSES = st.binary(min_size=20, max_size=20).map(to_hex)
KEYS = st.lists(st.binary(min_size=32, max_size=32).map(to_hex), max_size=40)
ACCESS_LISTS = st.lists(st.tuples(ADDRESSES, KEYS), max_size=10)
AUTHORIZATION = Wallet.sign_authorization({"chainId": 5, "address": RECIPIENT, "nonce": 7}, BOB)
LARGE_ACCESS_LIST = [(to_hex(index.to_bytes(20)), []) for index in range(5_600)]


def sign_with_lists(gas: int, entries: list, authorization_count: int, **fields: object) -> bytes:
    """A transaction with an access list, of type 2, or 4 if it has authorizations."""
    lists: dict[str, object] = {
        "accessList": [{"address": address, "storageKeys": keys} for address, keys in entries]
    }
    if authorization_count:
        lists["authorizationList"] = [AUTHORIZATION] * authorization_count
    return sign(ALICE, 0, RECIPIENT, gas=gas, **lists, **fields).raw


def refusal_of_outline(raw: bytes) -> RejectionReason:
    with pytest.raises(InvalidTransaction) as refused:
        validate_outline(raw, Chain().config)
    return refused.value.reason


@given(ACCESS_LISTS, st.integers(0, 5), st.binary(max_size=100))
def test_an_outline_with_the_required_gas_is_never_refused(
    entries: list, authorization_count: int, data: bytes
) -> None:
    raw = sign_with_lists(1_000_000, entries, authorization_count, data=data)
    transaction = decode_transaction(raw)
    required = max(compute_required_gas(transaction), compute_floor_gas(data))
    validate_outline(sign_with_lists(required, entries, authorization_count, data=data), CONFIG)


def test_a_legacy_outline_is_not_refused() -> None:
    validate_outline(sign(ALICE, 0, RECIPIENT, gasPrice=1).raw, CONFIG)


@pytest.mark.parametrize(
    ("gas", "entries", "authorization_count", "data", "reason"),
    [
        (21_000, LARGE_ACCESS_LIST, 0, b"", RejectionReason.INTRINSIC_GAS),
        (7_000_000, LARGE_ACCESS_LIST, 0, b"", RejectionReason.INTRINSIC_GAS),
        (16_000_000, [], 900, b"", RejectionReason.INTRINSIC_GAS),
        (21_000 + 39, [], 0, b"\x01", RejectionReason.INTRINSIC_GAS),
        (2**24 + 1, LARGE_ACCESS_LIST, 0, b"", RejectionReason.GAS_CAP),
    ],
)
def test_an_outline_that_cannot_pay_is_refused_without_decoding(
    gas: int, entries: list, authorization_count: int, data: bytes, reason: RejectionReason
) -> None:
    raw = sign_with_lists(gas, entries, authorization_count, data=data)
    profile = cProfile.Profile()
    assert profile.runcall(refusal_of_outline, raw) == reason
    assert sum(entry.callcount for entry in profile.getstats()) < 8_000


def test_an_outline_with_wrong_lists_is_refused() -> None:
    fields = codec.split_list(sign_with_lists(21_000, [], 0)[1:])
    fields[8] = b"\x80"
    malformed = b"\x02" + codec.join_list(fields)
    assert refusal_of_outline(malformed) == RejectionReason.MALFORMED
    assert refusal_of_outline(b"\x03" + malformed[1:]) == RejectionReason.TRANSACTION_TYPE


def test_gas_is_limited_by_the_block_and_by_the_network() -> None:
    transaction = sign(ALICE, 0, RECIPIENT, gas=50_000)
    assert reason_of(transaction, gas_available=49_999) == RejectionReason.GAS_LIMIT
    assert reason_of(transaction, gas_available=50_000) is None
    above = sign(ALICE, 0, RECIPIENT, gas=2**24 + 1)
    assert reason_of(above) == RejectionReason.GAS_CAP


def test_the_fee_covers_the_base_fee() -> None:
    assert reason_of(sign(ALICE, 0, RECIPIENT), base_fee_per_gas=10) is None
    assert reason_of(sign(ALICE, 0, RECIPIENT), base_fee_per_gas=11) == RejectionReason.FEE_TOO_LOW


def test_the_balance_covers_value_and_the_largest_fee() -> None:
    affordable = ETHER - 21_000 * 10
    assert reason_of(sign(ALICE, 0, RECIPIENT, value=affordable)) is None
    assert reason_of(sign(ALICE, 0, RECIPIENT, value=affordable + 1)) == (
        RejectionReason.INSUFFICIENT_FUNDS
    )


def test_an_account_without_balance_may_send_for_nothing() -> None:
    nobody = keccak256(b"nobody")
    assert reason_of(sign(nobody, 0, RECIPIENT, maxFeePerGas=0, maxPriorityFeePerGas=0)) is None


def test_nonce_must_be_the_next_and_a_gap_is_checked_last() -> None:
    chain = Chain()
    chain.extend(sign(ALICE, 0, RECIPIENT))
    assert reason_of(sign(ALICE, 0, RECIPIENT), chain) == RejectionReason.NONCE_TOO_LOW
    assert reason_of(sign(ALICE, 1, RECIPIENT), chain) is None
    assert reason_of(sign(ALICE, 2, RECIPIENT), chain) == RejectionReason.NONCE_TOO_HIGH
    poor = sign(ALICE, 2, RECIPIENT, value=2 * ETHER)
    assert reason_of(poor, chain) == RejectionReason.INSUFFICIENT_FUNDS


def test_the_last_nonce_is_refused() -> None:
    account = GenesisAccount(balance=ETHER, nonce=2**64 - 1)
    chain = Chain(genesis_config({get_address(BOB): account}))
    transaction = sign(BOB, 2**64 - 1, RECIPIENT)
    assert reason_of(transaction, chain) == RejectionReason.NONCE_TOO_HIGH


@pytest.mark.parametrize(
    ("primary", "parent_timestamp", "now_ms", "oldest", "reason"),
    [
        (1, 90, 99_000, 100, None),
        (0, 90, 99_000, 100, RejectionReason.WRONG_PRIMARY),
        (1, 90, 98_999, 100, RejectionReason.TIMESTAMP_TOO_EARLY),
        (1, 90, 99_000, 101, RejectionReason.TIMESTAMP_TOO_OLD),
        # The parent's timestamp may be repeated by any clock, but not exceeded by a second.
        (1, 100, 50_000, 0, None),
        (1, 99, 98_999, 0, RejectionReason.TIMESTAMP_TOO_EARLY),
    ],
)
def test_fresh_proposal_is_the_primarys_and_near_to_our_clock(
    primary: int, parent_timestamp: int, now_ms: int, oldest: int, reason: RejectionReason | None
) -> None:
    parent = replace(Chain().head, timestamp=parent_timestamp)
    header = replace(parent, coinbase=VALIDATORS[1], timestamp=100)
    found = None
    try:
        validate_fresh_proposal(header, parent, VALIDATORS[primary], now_ms=now_ms, oldest=oldest)
    except InvalidBlock as error:
        found = error.reason
    assert found == reason


@given(st.integers(10**6, 2**50), st.integers(0, 10**5), st.integers(-1_000, 1_000))
def test_honest_primary_with_a_clock_within_a_second_is_never_refused(
    begun_ms: int, age_limit_ms: int, skew_ms: int
) -> None:
    timestamp = (begun_ms + skew_ms) // 1000
    assert timestamp >= compute_oldest_timestamp(begun_ms + age_limit_ms, age_limit_ms)


@given(st.integers(10**6, 2**50), st.integers(0, 10**5))
def test_proposal_is_at_most_its_age_limit_and_two_seconds_old(
    received_ms: int, age_limit_ms: int
) -> None:
    oldest = compute_oldest_timestamp(received_ms, age_limit_ms)
    assert received_ms - 1000 * oldest < age_limit_ms + 2_000


def test_mix_hash_binds_the_parent() -> None:
    parent = Chain().head
    assert compute_mix_hash(parent) == keccak256(RANDAO_DOMAIN + bytes(32) + parent.hash)


def test_base_fee_follows_eip_1559_above_its_floor_or_stays() -> None:
    # The worked cases of EIP-1559: target half of the limit, at most an eighth a block.
    follow = BaseFeeMode.EIP1559
    assert compute_base_fee(follow, 0, 1000, 15_000_000, 30_000_000) == 1000
    assert compute_base_fee(follow, 0, 1000, 30_000_000, 30_000_000) == 1125
    assert compute_base_fee(follow, 0, 1000, 0, 30_000_000) == 875
    assert compute_base_fee(follow, 0, 1, 30_000_000, 30_000_000) == 2
    assert compute_base_fee(follow, 900, 1000, 0, 30_000_000) == 900
    assert compute_base_fee(BaseFeeMode.FIXED, 900, 7, 30_000_000, 30_000_000) == 7


@given(st.integers(1, 2**60), st.integers(0, 30_000_000))
def test_base_fee_moves_by_at_most_an_eighth(fee: int, gas_used: int) -> None:
    following = compute_base_fee(BaseFeeMode.EIP1559, 0, fee, gas_used, 30_000_000)
    assert abs(following - fee) <= max(1, fee // 8)
