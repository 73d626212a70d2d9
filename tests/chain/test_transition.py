from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.crypto import get_address, keccak256
from chain.errors import InvalidBlock, InvalidTransaction, RejectedInputError, RejectionReason
from chain.genesis import HISTORY_STORAGE_ADDRESS
from chain.state.world_state import get_account, get_code, get_storage
from chain.transition import apply_block, compute_transactions_root
from chain.types.block import Block
from chain.types.transaction import Transaction
from chain.validation import HEADER_RULES
from tests.worlds.chain import (
    ALICE,
    BOB,
    CAROL,
    CERTIFICATE,
    DAVE,
    ETHER,
    VALIDATORS,
    Chain,
    sign,
)

RECIPIENT = b"\x77" * 20
# Returns 10 bytes of code that returns 42; see the runtime code for what each byte does.
INIT_CODE = bytes.fromhex("600a600c600039600a6000f3602a60005260206000f3")
RUNTIME_CODE = INIT_CODE[12:]


def rejection(chain: Chain, block: Block) -> InvalidBlock:
    with pytest.raises(InvalidBlock) as caught:
        chain.apply(block)
    return caught.value


def test_a_transfer_moves_value_and_pays_the_coinbase() -> None:
    chain = Chain()
    result = chain.extend(sign(ALICE, 0, RECIPIENT, value=5))
    root = result.header.state_root
    balances = [
        getattr(get_account(chain.database, root, address), "balance", 0)
        for address in (get_address(ALICE), RECIPIENT, VALIDATORS[0])
    ]
    assert balances == [ETHER - 5 - 21_000, 5, 21_000]
    assert (result.gas_used, result.senders) == (21_000, (get_address(ALICE),))


def test_a_created_contract_has_its_code_and_a_call_runs_it() -> None:
    chain = Chain()
    created = sign(ALICE, 0, None, data=INIT_CODE, gas=100_000)
    result = chain.extend(created)
    assert [receipt.status for receipt in result.receipts] == [1]
    address = created.created_address
    assert address is not None
    assert get_code(chain.database, chain.head.state_root, address) == RUNTIME_CODE


def test_an_empty_block_changes_only_the_history_contract() -> None:
    chain = Chain()
    genesis = chain.head
    chain.extend()
    chain.extend()
    root = chain.head.state_root
    assert get_storage(chain.database, root, HISTORY_STORAGE_ADDRESS, 0) == int.from_bytes(
        genesis.hash, "big"
    )
    assert get_storage(chain.database, root, HISTORY_STORAGE_ADDRESS, 1) == int.from_bytes(
        chain.head.parent_hash, "big"
    )
    assert get_account(chain.database, root, VALIDATORS[0]) is None


def test_a_failed_transaction_is_paid_for_and_changes_nothing_else() -> None:
    chain = Chain()
    result = chain.extend(sign(ALICE, 0, None, data=b"\xfe", gas=100_000, value=7))
    assert [(r.status, r.cumulative_gas_used) for r in result.receipts] == [(0, 100_000)]
    account = get_account(chain.database, chain.head.state_root, get_address(ALICE))
    assert account is not None
    assert account.balance == ETHER - 100_000


WRONG_FIELDS = {
    "parent_hash": keccak256(b"another parent"),
    "ommers_hash": bytes(32),
    "coinbase": RECIPIENT,
    "state_root": bytes(32),
    "transactions_root": bytes(32),
    "receipts_root": bytes(32),
    "logs_bloom": b"\x01" * 256,
    "difficulty": 1,
    "number": 3,
    "gas_limit": 30_000_001,
    "gas_used": 21_001,
    "timestamp": 1_700_000_000,
    "extra_data": bytes(32),
    "mix_hash": bytes(32),
    "nonce": b"\x00" * 7 + b"\x01",
    "base_fee_per_gas": 1,
    "withdrawals_root": bytes(32),
    "blob_gas_used": 131_072,
    "excess_blob_gas": 1,
    "parent_beacon_block_root": b"\x01" * 32,
    "requests_hash": bytes(32),
}
AFTER_EXECUTION = {
    "state_root": RejectionReason.STATE_ROOT_MISMATCH,
    "transactions_root": RejectionReason.TRANSACTIONS_ROOT_MISMATCH,
    "receipts_root": RejectionReason.RECEIPTS_ROOT_MISMATCH,
    "logs_bloom": RejectionReason.BLOOM_MISMATCH,
    "gas_used": RejectionReason.GAS_USED_MISMATCH,
    "parent_hash": RejectionReason.UNKNOWN_PARENT,
}


@pytest.mark.parametrize("field", HEADER_RULES)
def test_a_block_with_any_one_field_wrong_is_refused(field: str) -> None:
    chain = Chain()
    chain.extend()
    block = chain.build([sign(ALICE, 0, RECIPIENT)]).block
    chain.apply(block)
    wrong = replace(block, header=replace(block.header, **{field: WRONG_FIELDS[field]}))
    error = rejection(chain, wrong)
    expected = AFTER_EXECUTION.get(field, RejectionReason.HEADER_FIELD)
    assert error.reason == expected
    if expected == RejectionReason.HEADER_FIELD:
        assert error.detail == field


def test_there_is_a_rule_for_every_field_in_the_order_of_the_encoding() -> None:
    header = Chain().head
    assert [getattr(header, name) for name in HEADER_RULES] == header.fields()


def test_gas_used_above_the_limit_is_refused() -> None:
    chain = Chain()
    block = chain.build([]).block
    error = rejection(chain, replace(block, header=replace(block.header, gas_used=30_000_001)))
    assert (error.reason, error.detail) == (RejectionReason.HEADER_FIELD, "gas_used")


def test_a_timestamp_equal_to_the_parents_is_valid() -> None:
    chain = Chain()
    result = chain.extend(timestamp=chain.head.timestamp)
    assert result.header.timestamp == chain.genesis.header.timestamp
    assert chain.extend(timestamp=0).header.timestamp == chain.genesis.header.timestamp


def test_the_parents_certificate_is_required_verified_and_committed_to() -> None:
    chain = Chain()
    first = chain.build([]).block
    assert first.header.extra_data == bytes(32)
    with_certificate = Block(replace(first.header, extra_data=CERTIFICATE.hash), (), CERTIFICATE)
    assert rejection(chain, with_certificate).reason == RejectionReason.BAD_CERTIFICATE
    chain.extend()
    second = chain.build([]).block
    assert second.header.extra_data == CERTIFICATE.hash
    without = Block(replace(second.header, extra_data=bytes(32)), (), None)
    assert rejection(chain, without).reason == RejectionReason.BAD_CERTIFICATE

    def refuse(_certificate: object, number: int, digest: bytes) -> None:
        assert (number, digest) == (chain.head.number, chain.head.hash)
        raise RejectedInputError(RejectionReason.BAD_SIGNATURE)

    with pytest.raises(InvalidBlock) as caught:
        apply_block(chain.head, second, chain.database, chain.config, VALIDATORS, refuse)
    assert caught.value.reason == RejectionReason.BAD_CERTIFICATE


def test_a_block_with_a_transaction_the_builder_drops_is_refused() -> None:
    chain = Chain()
    bad = sign(ALICE, 0, RECIPIENT, value=2 * ETHER)
    built = chain.build([bad])
    assert [drop.error.reason for drop in built.dropped] == [RejectionReason.INSUFFICIENT_FUNDS]
    good = chain.build([sign(ALICE, 0, RECIPIENT)]).block
    block = Block(
        replace(good.header, transactions_root=compute_transactions_root([bad.raw])),
        (bad.raw,),
        None,
    )
    assert rejection(chain, block).reason == RejectionReason.BAD_TRANSACTION


KEYS = [ALICE, BOB, CAROL, DAVE]
# Programs that store, log, create, call, destroy, revert, and run out of gas.
PROGRAMS = [
    b"",
    INIT_CODE,
    bytes.fromhex("60015f5560025f5500"),
    bytes.fromhex("7f" + "11" * 32 + "5f5260205fa0"),
    bytes.fromhex("5f5f5f5f47335af1ff"),
    bytes.fromhex("32ff"),
    bytes.fromhex("5f5ffd"),
    bytes.fromhex("5b5f56"),
    bytes.fromhex("435f1940405f55"),
    bytes.fromhex("5f5f5ff05f5f5f5ff5"),
]
sketches = st.tuples(
    st.integers(0, 3),
    st.integers(0, 1),
    st.sampled_from([None, RECIPIENT, b"\x00" * 19 + b"\x04", *map(get_address, KEYS)]),
    st.integers(0, 10) | st.just(ETHER),
    st.sampled_from(PROGRAMS),
    st.sampled_from([21_000, 60_000, 200_000]),
)


@settings(max_examples=60)
@given(st.lists(st.lists(sketches, max_size=6), min_size=1, max_size=3))
def test_built_block_imports_with_the_same_result(blocks: list[list[tuple]]) -> None:
    chain = Chain()
    nonces = dict.fromkeys(KEYS, 0)
    for sketch in blocks:
        candidates: list[Transaction] = []
        for key_index, gap, to, value, data, gas in sketch:
            key = KEYS[key_index]
            nonce = nonces[key] + gap
            candidates.append(sign(key, nonce, to, value=value, data=data, gas=gas))
            nonces[key] = nonce + 1
        built = chain.build(candidates)
        imported = chain.apply(built.block)
        assert imported == built.result
        assert len(imported.transactions) + len(built.dropped) == len(candidates)
        again = chain.build(imported.transactions)
        assert (again.block, again.dropped) == (built.block, ())
        chain.database.update(imported.delta)
        chain.head = imported.header
        nonces = {
            key: getattr(
                get_account(chain.database, chain.head.state_root, get_address(key)), "nonce", 0
            )
            for key in KEYS
        }


def test_invalid_transactions_leave_no_trace_in_the_block() -> None:
    chain = Chain()
    good = sign(ALICE, 0, RECIPIENT, value=1)
    bad = [sign(BOB, 5, RECIPIENT), sign(CAROL, 0, RECIPIENT, value=ETHER)]
    assert chain.build([bad[0], good, bad[1]]).block == chain.build([good]).block
    assert all(isinstance(drop.error, InvalidTransaction) for drop in chain.build(bad).dropped)
