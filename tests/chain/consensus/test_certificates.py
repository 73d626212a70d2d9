"""Certificates and signatures of messages (docs/spec/consensus.md, section 6; rule S1)."""

from dataclasses import replace

import pytest

from chain import crypto
from chain.consensus.certificates import verify_commit_certificate, verify_message
from chain.consensus.messages import MessageKind, SigningDomain, compute_signing_digest
from chain.errors import InvalidMessage, RejectionReason
from chain.primitives import BlockNumber, Hash32, PrivateKey, Signature, ValidatorIndex, View
from chain.types.certificate import CommitCertificate
from tests.worlds.replica import (
    BLOCK_A,
    BLOCK_B,
    DOMAIN,
    commit,
    new_view,
    prepare,
    prepared,
    quorum_of,
    token_recover,
    validators_of,
    view_change,
)

KEYS = sorted((PrivateKey(bytes([index + 1] * 32)) for index in range(4)), key=crypto.get_address)
VALIDATORS = tuple(crypto.get_address(key) for key in KEYS)
NUMBER = BlockNumber(9)


def signed(authors, *, view: int = 2, domain: SigningDomain = DOMAIN, number=NUMBER):
    digest = compute_signing_digest(domain, MessageKind.COMMIT, number, View(view), BLOCK_A.hash)
    return tuple((ValidatorIndex(author), crypto.sign(digest, KEYS[author])) for author in authors)


def verify(certificate: CommitCertificate) -> None:
    verify_commit_certificate(certificate, NUMBER, BLOCK_A.hash, DOMAIN, VALIDATORS)


def reason_of(certificate: CommitCertificate) -> RejectionReason:
    with pytest.raises(InvalidMessage) as caught:
        verify(certificate)
    return caught.value.reason


@pytest.mark.parametrize("authors", [(0, 1, 2), (1, 2, 3), (0, 1, 2, 3)])
def test_certificate_of_a_quorum_up_to_all_verifies(authors) -> None:
    verify(CommitCertificate(View(2), signed(authors)))


def test_certificate_needs_a_quorum_of_distinct_ascending_members() -> None:
    good = signed((0, 1, 2))
    for entries in (good[:2], (good[0], good[0], good[1]), (good[1], good[0], good[2]), ()):
        assert reason_of(CommitCertificate(View(2), entries)) is RejectionReason.BAD_CERTIFICATE
    stranger = (*good[:2], (ValidatorIndex(4), good[2][1]))
    assert reason_of(CommitCertificate(View(2), stranger)) is RejectionReason.BAD_CERTIFICATE


def test_one_bad_signature_beyond_the_quorum_makes_the_certificate_bad() -> None:
    # A13: bad entries do not count, and make the whole certificate invalid.
    good = signed((0, 1, 2, 3))
    padded = (*good[:3], (good[3][0], good[2][1]))
    assert reason_of(CommitCertificate(View(2), padded)) is RejectionReason.BAD_SIGNATURE


def test_signature_of_another_view_number_or_chain_does_not_count() -> None:
    # D8: reuse of a COMMIT.
    for entries in (
        signed((0, 1, 2), view=1),
        signed((0, 1, 2), number=BlockNumber(8)),
        signed((0, 1, 2), domain=SigningDomain(1, DOMAIN.genesis_hash, 1)),
    ):
        assert reason_of(CommitCertificate(View(2), entries)) is RejectionReason.BAD_SIGNATURE


def test_high_s_twin_of_a_signature_does_not_count() -> None:
    # D9: a signer has exactly one valid signature for a digest.
    good = signed((0, 1, 2))
    author, signature = good[0]
    high_s = crypto.SECP256K1_ORDER - int.from_bytes(signature[32:64], "big")
    twin = Signature(signature[:32] + high_s.to_bytes(32, "big") + bytes([1 - signature[64]]))
    entries = ((author, twin), *good[1:])
    assert reason_of(CommitCertificate(View(2), entries)) is RejectionReason.BAD_SIGNATURE


def verify_tokens(message) -> None:
    verify_message(message, DOMAIN, validators_of(4), token_recover(validators_of(4)))


def test_message_verifies_with_all_its_parts() -> None:
    locked = view_change(3, 2, prepared(BLOCK_A, view=1))
    prepares = quorum_of(MessageKind.PREPARE, (0, 1, 2), view=1)
    for message in (
        commit(2),
        locked,
        new_view(2, BLOCK_A, [view_change(0, 2), view_change(1, 2), locked], prepares),
    ):
        verify_tokens(message)


def test_message_with_one_forged_part_does_not_verify() -> None:
    forged = replace(
        view_change(1, 2), vote=replace(view_change(1, 2).vote, author=ValidatorIndex(0))
    )
    foreign = prepared(BLOCK_A, view=1, authors=(0, 1, 2))
    foreign = replace(
        foreign, signatures=quorum_of(MessageKind.PREPARE, (0, 1, 2), BLOCK_B, view=1)
    )
    for message in (
        replace(prepare(1), author=ValidatorIndex(2)),
        replace(commit(1), kind=MessageKind.PREPARE),
        view_change(3, 2, foreign),
        new_view(2, BLOCK_A, [forged, view_change(1, 2), view_change(3, 2)]),
    ):
        with pytest.raises(InvalidMessage) as caught:
            verify_tokens(message)
        assert caught.value.reason is RejectionReason.BAD_SIGNATURE


def test_author_outside_the_set_is_unknown() -> None:
    with pytest.raises(InvalidMessage) as caught:
        verify_tokens(prepare(4))
    assert caught.value.reason is RejectionReason.UNKNOWN_VALIDATOR


def test_recover_refuses_other_lengths() -> None:
    assert crypto.recover(Hash32(bytes(32)), bytes(64)) is None
