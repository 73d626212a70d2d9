"""Encoding, limits and signatures of messages (docs/spec/consensus.md, section 4)."""

import contextlib
import json
from pathlib import Path

import pytest
from eth_abi import encode as abi_encode
from hypothesis import given, settings
from hypothesis import strategies as st

from chain import crypto
from chain.consensus.messages import (
    MESSAGE_LIMITS_BYTES,
    SIGNING_DOMAIN,
    Committed,
    Message,
    MessageKind,
    SigningDomain,
    compute_signing_digest,
    compute_view_change_payload,
    decode_message,
    encode_message,
    list_signed_messages,
)
from chain.errors import InvalidMessage, RejectionReason
from chain.primitives import BlockNumber, Hash32, PrivateKey, View
from tests.worlds.replica import (
    BLOCK_A,
    BLOCK_B,
    certificate,
    commit,
    new_view,
    pre_prepare,
    prepare,
    prepared,
    quorum_of,
    status,
    view_change,
)

LOCKED = view_change(2, 3, prepared(BLOCK_A, view=1))
MESSAGES: tuple[Message, ...] = (
    pre_prepare(),
    prepare(1, view=2**64 - 1),
    commit(99),
    view_change(1, 1),
    LOCKED,
    new_view(1, BLOCK_B, [view_change(index, 1) for index in range(3)]),
    new_view(
        3,
        BLOCK_A,
        [view_change(0, 3), view_change(1, 3), LOCKED],
        quorum_of(MessageKind.PREPARE, (0, 1, 2), view=1),
    ),
    status(3, view=7, digest=BLOCK_A.hash),
    Committed(BlockNumber(1), BLOCK_A.hash, certificate()),
)
VECTORS = json.loads(Path("tests/vectors/consensus_signatures.json").read_text())


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_message_decodes_to_itself(message: Message) -> None:
    assert decode_message(encode_message(message)) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_truncated_or_extended_message_is_malformed(message: Message) -> None:
    data = encode_message(message)
    for broken in (data[:-1], data + b"\x00", data[:1], data[:1] + b"\xc0"):
        with pytest.raises(InvalidMessage) as caught:
            decode_message(broken)
        assert caught.value.reason is RejectionReason.MALFORMED


@settings(max_examples=200)
@given(st.binary(max_size=200), st.sampled_from([*MessageKind]))
def test_bytes_decode_to_what_encodes_to_them_or_are_refused(
    data: bytes, kind: MessageKind
) -> None:
    # A14: all malformed bytes give the same error.
    for candidate in (data, bytes([kind]) + data):
        try:
            message = decode_message(candidate)
        except InvalidMessage:
            continue
        assert encode_message(message) == candidate


@settings(max_examples=100)
@given(st.sampled_from(MESSAGES), st.data())
def test_a_changed_byte_gives_another_message_or_is_refused(message: Message, data) -> None:
    encoded = bytearray(encode_message(message))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(InvalidMessage):
        assert encode_message(decode_message(bytes(encoded))) == bytes(encoded)


@pytest.mark.parametrize("kind", MessageKind)
def test_message_above_the_limit_of_its_kind_is_not_decoded(kind: MessageKind) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode_message(bytes([kind]) + bytes(MESSAGE_LIMITS_BYTES[kind] + 1))
    assert caught.value.reason is RejectionReason.TOO_LARGE


def test_unknown_kind_and_no_bytes_are_malformed() -> None:
    for data in (b"", b"\x00", b"\x08\xc0"):
        with pytest.raises(InvalidMessage, match="unknown message kind"):
            decode_message(data)


def test_a_pre_prepare_alone_is_of_view_0() -> None:
    with pytest.raises(InvalidMessage):
        decode_message(encode_message(pre_prepare(view=1)))


def test_every_signature_of_a_new_view_is_listed_with_what_it_covers() -> None:
    words = list(list_signed_messages(MESSAGES[6]))
    assert [word.kind for word in words] == [
        MessageKind.PRE_PREPARE,
        *[MessageKind.VIEW_CHANGE] * 3,
        *[MessageKind.PREPARE] * 3,
    ]
    # The PREPAREs belong to the highest prepared view, not to the new one.
    assert {(word.view, word.payload) for word in words[4:]} == {(1, BLOCK_A.hash)}


def test_digest_is_the_abi_encoding_of_the_specification() -> None:
    domain = SigningDomain(1337, Hash32(b"\x07" * 32), 5)
    payload = Hash32(b"\x09" * 32)
    encoded = abi_encode(
        ["bytes32", "uint8", "uint256", "bytes32", "uint32", "uint64", "uint64", "bytes32"],
        [SIGNING_DOMAIN, 3, 1337, b"\x07" * 32, 5, 2**63, 17, payload],
    )
    assert compute_signing_digest(
        domain, MessageKind.COMMIT, BlockNumber(2**63), View(17), payload
    ) == crypto.keccak256(encoded)
    locked = abi_encode(["uint64", "bytes32"], [4, payload])
    assert compute_view_change_payload((View(4), payload)) == crypto.keccak256(locked)
    free = abi_encode(["uint64", "bytes32"], [2**64 - 1, bytes(32)])
    assert compute_view_change_payload(None) == crypto.keccak256(free)


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["name"])
def test_vectors_hold(vector) -> None:
    domain = SigningDomain(
        int(vector["chainId"]), Hash32(bytes.fromhex(vector["genesisHash"][2:])), vector["version"]
    )
    if "preparedDigest" in vector:
        lock = None
        if int(vector["preparedView"]) != 2**64 - 1:
            digest = Hash32(bytes.fromhex(vector["preparedDigest"][2:]))
            lock = (View(int(vector["preparedView"])), digest)
        assert "0x" + compute_view_change_payload(lock).hex() == vector["payload"]
    digest = compute_signing_digest(
        domain,
        MessageKind(vector["kind"]),
        BlockNumber(int(vector["number"])),
        View(int(vector["view"])),
        Hash32(bytes.fromhex(vector["payload"][2:])),
    )
    key = PrivateKey(bytes.fromhex(VECTORS["privateKey"][2:]))
    assert "0x" + SIGNING_DOMAIN.hex() == VECTORS["domain"]
    assert "0x" + digest.hex() == vector["digest"]
    assert "0x" + crypto.sign(digest, key).hex() == vector["signature"]
    assert (
        "0x" + (crypto.recover(digest, crypto.sign(digest, key)) or b"").hex() == VECTORS["signer"]
    )


def test_no_two_kinds_numbers_views_or_chains_share_a_digest() -> None:
    # D8, and "message type not bound in the signed digest".
    base = (SigningDomain(1, Hash32(bytes(32)), 1), MessageKind.PREPARE, 1, 1, Hash32(bytes(32)))
    others = [
        (SigningDomain(2, Hash32(bytes(32)), 1), *base[1:]),
        (SigningDomain(1, Hash32(b"\x01" * 32), 1), *base[1:]),
        (SigningDomain(1, Hash32(bytes(32)), 2), *base[1:]),
        (base[0], MessageKind.COMMIT, *base[2:]),
        (*base[:2], 2, *base[3:]),
        (*base[:3], 2, base[4]),
        (*base[:4], Hash32(b"\x01" * 32)),
    ]
    digests = {compute_signing_digest(*each) for each in (base, *others)}
    assert len(digests) == 1 + len(others)
