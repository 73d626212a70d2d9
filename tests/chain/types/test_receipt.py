import contextlib

import pytest
from eth.rlp.logs import Log as EngineLog
from eth.rlp.receipts import Receipt as EngineReceipt
from hypothesis import given
from hypothesis import strategies as st

from chain.errors import RejectedInputError
from chain.types.receipt import (
    Log,
    build_receipt,
    combine_blooms,
    compute_bloom,
    decode_receipt,
    may_contain,
)

logs = st.lists(
    st.builds(
        Log,
        st.binary(min_size=20, max_size=20),
        st.lists(st.binary(min_size=32, max_size=32), max_size=4).map(tuple),
        st.binary(max_size=80),
    ),
    max_size=4,
).map(tuple)


@given(st.integers(0, 1), st.integers(0, 2**40), logs)
def test_encoding_and_bloom_are_the_engines(status: int, gas: int, entries: tuple) -> None:
    engine = EngineReceipt(
        state_root=b"\x01" if status else b"",
        gas_used=gas,
        logs=[
            EngineLog(log.address, [int.from_bytes(t, "big") for t in log.topics], log.data)
            for log in entries
        ],
    )
    receipt = build_receipt(0, status, gas, entries)
    assert receipt.encode() == engine.encode()
    assert int.from_bytes(receipt.logs_bloom, "big") == engine.bloom


@given(st.sampled_from([0, 1, 2, 4]), logs)
def test_decoding_inverts_encoding(transaction_type: int, entries: tuple) -> None:
    receipt = build_receipt(transaction_type, 1, 21_000, entries)
    assert decode_receipt(receipt.encode()) == receipt


@given(logs, logs)
def test_combined_bloom_contains_everything(first: tuple, second: tuple) -> None:
    bloom = combine_blooms([compute_bloom(first), compute_bloom(second)])
    assert bloom == compute_bloom(first + second)
    assert all(may_contain(bloom, log.address) for log in first + second)


def test_empty_bloom_contains_nothing() -> None:
    assert not may_contain(compute_bloom(()), b"\x01" * 20)


def test_a_foreign_bloom_is_malformed() -> None:
    encoded = build_receipt(0, 1, 1, ()).encode()
    with pytest.raises(RejectedInputError):
        decode_receipt(encoded.replace(bytes(256), b"\x01" + bytes(255)))


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_rejected(data: bytes) -> None:
    with contextlib.suppress(RejectedInputError):
        assert decode_receipt(data).encode() == data
