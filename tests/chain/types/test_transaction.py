import contextlib
import cProfile
from collections.abc import Callable
from dataclasses import astuple

import pytest
import rlp
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st

from chain import codec
from chain.crypto import SECP256K1_ORDER
from chain.errors import InvalidTransaction, RejectionReason
from chain.types.block import TRANSACTION_LIMIT_BYTES
from chain.types.transaction import Transaction, decode_transaction, sign_transaction

KEY = b"\x11" * 32
SENDER = bytes.fromhex(Account.from_key(KEY).address[2:])
RECIPIENT = b"\x22" * 20
AUTHORIZATION = Account.sign_authorization({"chainId": 5, "address": RECIPIENT, "nonce": 7}, KEY)

FIELDS_BY_TYPE = {
    0: {"gasPrice": 9},
    1: {
        "gasPrice": 9,
        "accessList": [{"address": "0x" + "22" * 20, "storageKeys": ["0x" + "01" * 32]}],
    },
    2: {"maxFeePerGas": 9, "maxPriorityFeePerGas": 4, "type": 2},
    4: {"maxFeePerGas": 9, "maxPriorityFeePerGas": 4, "authorizationList": [AUTHORIZATION]},
}


def sign(transaction_type: int, **changes: object) -> bytes:
    fields = {
        "chainId": 5,
        "nonce": 3,
        "gas": 21_000,
        "to": RECIPIENT,
        "value": 10,
        "data": b"\x00\x01",
        **FIELDS_BY_TYPE[transaction_type],
        **changes,
    }
    return bytes(Account.sign_transaction(fields, KEY).raw_transaction)


def rejection(raw: bytes) -> RejectionReason:
    with pytest.raises(InvalidTransaction) as caught:
        decode_transaction(raw)
    return caught.value.reason


@pytest.mark.parametrize("transaction_type", [0, 1, 2, 4])
def test_every_accepted_type_decodes_to_what_the_wallet_signed(transaction_type: int) -> None:
    raw = sign(transaction_type)
    transaction = decode_transaction(raw)
    assert (transaction.type, transaction.raw, transaction.sender) == (
        transaction_type,
        raw,
        SENDER,
    )
    assert (transaction.chain_id, transaction.nonce, transaction.gas_limit) == (5, 3, 21_000)
    assert (transaction.to, transaction.value, transaction.data) == (RECIPIENT, 10, b"\x00\x01")
    assert transaction.max_fee_per_gas == 9
    assert transaction.max_priority_fee_per_gas == (9 if transaction_type < 2 else 4)
    assert transaction.access_list == (
        ((RECIPIENT, (b"\x01" * 32,)),) if transaction_type == 1 else ()
    )
    assert [entry.nonce for entry in transaction.authorization_list] == (
        [7] if transaction_type == 4 else []
    )


ADDRESSES = st.binary(min_size=20, max_size=20)
ACCESS_LISTS = st.lists(st.tuples(ADDRESSES, st.lists(st.binary(min_size=32, max_size=32))))


@given(ACCESS_LISTS)
def test_access_list_decodes_to_what_the_wallet_signed(entries: list) -> None:
    signed = [
        {"address": "0x" + address.hex(), "storageKeys": ["0x" + key.hex() for key in keys]}
        for address, keys in entries
    ]
    transaction = decode_transaction(sign(2, accessList=signed))
    assert transaction.access_list == tuple((address, tuple(keys)) for address, keys in entries)
    assert transaction.sender == SENDER


def encode_again(transaction: Transaction) -> bytes:
    """The encoding of the fields of a transaction of type 1 or 4, by the rlp library."""
    head = [transaction.chain_id, transaction.nonce]
    if transaction.type == 1:
        head.append(transaction.max_fee_per_gas)
    else:
        head += [transaction.max_priority_fee_per_gas, transaction.max_fee_per_gas]
    fields = [
        *head,
        transaction.gas_limit,
        transaction.to or b"",
        transaction.value,
        transaction.data,
        transaction.access_list,
    ]
    if transaction.type == 4:
        fields.append([astuple(each) for each in transaction.authorization_list])
    signature = [transaction.v, transaction.r, transaction.s]
    return bytes([transaction.type]) + rlp.encode([*fields, *signature])


@given(st.sampled_from([1, 4]), st.integers(0, 400), st.binary(max_size=2), st.integers(0, 2))
def test_what_decodes_is_the_encoding_of_what_it_decodes_to(
    transaction_type: int, position: int, inserted: bytes, removed: int
) -> None:
    raw = sign(transaction_type)
    position %= len(raw)
    changed = raw[:position] + inserted + raw[position + removed :]
    with contextlib.suppress(InvalidTransaction):
        transaction = decode_transaction(changed)
        if transaction.type in (1, 4):
            assert encode_again(transaction) == changed


@pytest.mark.parametrize(
    "access_list",
    [
        b"list",
        [[RECIPIENT]],
        [[RECIPIENT, [], []]],
        [[RECIPIENT, b""]],
        [[RECIPIENT[:19], []]],
        [[RECIPIENT + b"\x00", []]],
        [[RECIPIENT, [bytes(31)]]],
        [[RECIPIENT, [bytes(33)]]],
        [[RECIPIENT, [bytes(32), bytes(31), b"\x01"]]],
        [[RECIPIENT, [[b"\x01"] * 32]]],
        [RECIPIENT],
        [[[b"\x01"] * 20, []]],
    ],
)
def test_malformed_access_list_is_refused(access_list: object) -> None:
    fields = rlp.decode(sign(2)[1:])
    fields[8] = access_list
    assert rejection(b"\x02" + rlp.encode(fields)) == RejectionReason.MALFORMED


ADDRESS_ENTRY = bytes.fromhex("d694") + RECIPIENT + b"\xc0"
MANY_ADDRESSES = codec.join_list([ADDRESS_ENTRY] * 5_600)
EMPTY_LISTS = codec.join_list([b"\xc0"] * 130_000)


@pytest.mark.parametrize(
    ("transaction_type", "field_index", "field", "calls_limit"),
    [
        (2, 8, MANY_ADDRESSES, 5_600 * 6),
        (2, 8, EMPTY_LISTS, 300),
        (4, 9, EMPTY_LISTS, 300),
        (2, 1, EMPTY_LISTS, 300),
    ],
)
def test_a_large_transaction_decodes_with_few_calls(
    transaction_type: int, field_index: int, field: bytes, calls_limit: int
) -> None:
    fields = codec.split_list(sign(transaction_type)[1:])
    fields[field_index] = field
    raw = bytes([transaction_type]) + codec.join_list(fields)
    assert len(raw) <= TRANSACTION_LIMIT_BYTES
    assert count_calls(lambda: decode_transaction(raw)) < calls_limit


def test_many_items_that_are_no_transaction_are_refused_with_few_calls() -> None:
    assert count_calls(lambda: decode_transaction(b"\x02" + EMPTY_LISTS)) < 300


def count_calls(function: Callable[[], object]) -> int:
    """The number of function calls that `function` makes, which no load of the machine changes."""
    profile = cProfile.Profile()
    with contextlib.suppress(InvalidTransaction):
        profile.runcall(function)
    return sum(entry.callcount for entry in profile.getstats())


def test_hash_is_the_wallets() -> None:
    signed = Account.sign_transaction(
        {"chainId": 5, "nonce": 0, "gas": 21_000, "to": RECIPIENT, "value": 0, "gasPrice": 1}, KEY
    )
    assert decode_transaction(bytes(signed.raw_transaction)).hash == bytes(signed.hash)


def test_contract_creation_has_no_recipient() -> None:
    assert decode_transaction(sign(2, to=b"")).to is None


def test_legacy_without_replay_protection_has_no_chain_id() -> None:
    fields = {"nonce": 0, "gas": 21_000, "to": RECIPIENT, "value": 0, "gasPrice": 1}
    raw = bytes(Account.sign_transaction(fields, KEY).raw_transaction)
    transaction = decode_transaction(raw)
    assert (transaction.chain_id, transaction.v, transaction.sender) == (
        None,
        transaction.v,
        SENDER,
    )
    assert transaction.v in (27, 28)


def test_blob_and_unknown_types_are_refused() -> None:
    assert rejection(b"\x03" + sign(2)[1:]) == RejectionReason.TRANSACTION_TYPE
    assert rejection(b"\x7f\xc0") == RejectionReason.TRANSACTION_TYPE
    assert rejection(b"\x00" + sign(0)) == RejectionReason.TRANSACTION_TYPE


def test_high_s_is_refused() -> None:
    fields = rlp.decode(sign(2)[1:])
    flipped = SECP256K1_ORDER - int.from_bytes(fields[11], "big")
    fields[11] = flipped.to_bytes(32, "big")
    fields[9] = b"" if fields[9] else b"\x01"
    assert rejection(b"\x02" + rlp.encode(fields)) == RejectionReason.BAD_SIGNATURE


def test_leading_zero_and_trailing_bytes_and_size_are_refused() -> None:
    fields = rlp.decode(sign(2)[1:])
    padded = [*fields[:1], b"\x00\x03", *fields[2:]]
    assert rejection(b"\x02" + rlp.encode(padded)) == RejectionReason.MALFORMED
    assert rejection(sign(2) + b"\x00") == RejectionReason.MALFORMED
    assert rejection(b"") == RejectionReason.MALFORMED
    assert rejection(sign(2, data=bytes(TRANSACTION_LIMIT_BYTES))) == RejectionReason.TOO_LARGE


def test_set_code_needs_a_recipient_and_an_authorization() -> None:
    fields = rlp.decode(sign(4)[1:])
    without_list = [*fields[:9], [], *fields[10:]]
    without_recipient = [*fields[:5], b"", *fields[6:]]
    assert rejection(b"\x04" + rlp.encode(without_list)) == RejectionReason.MALFORMED
    assert rejection(b"\x04" + rlp.encode(without_recipient)) == RejectionReason.MALFORMED


def test_effective_price_is_capped_by_the_fee() -> None:
    transaction = decode_transaction(sign(2))
    assert transaction.compute_effective_gas_price(1) == 5
    assert transaction.compute_effective_gas_price(8) == 9


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda tail: b"\x02" + tail))
def test_any_bytes_decode_or_are_rejected(raw: bytes) -> None:
    with contextlib.suppress(InvalidTransaction):
        assert decode_transaction(raw).raw == raw


@given(st.sampled_from([0, 1, 2, 4]), st.integers(0, 400), st.integers(0, 255))
def test_a_changed_byte_never_passes_as_the_same_sender(
    transaction_type: int, position: int, byte: int
) -> None:
    raw = sign(transaction_type)
    position %= len(raw)
    changed = raw[:position] + bytes([byte]) + raw[position + 1 :]
    if changed == raw:
        return
    with contextlib.suppress(InvalidTransaction):
        assert decode_transaction(changed).sender != SENDER


@pytest.mark.parametrize("to", [RECIPIENT, None])
def test_our_signature_is_byte_for_byte_a_wallets(to: bytes | None) -> None:
    ours = sign_transaction(
        KEY,
        chain_id=5,
        nonce=3,
        max_fee_per_gas=9,
        max_priority_fee_per_gas=4,
        gas_limit=21_000,
        to=to,
        value=10,
        data=b"\x00\x01",
    )
    assert ours.raw == sign(2, to=to or b"")
