"""Verification of signatures and of quorums of them (docs/spec/consensus.md, section 6)."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from chain import crypto
from chain.consensus.messages import (
    Message,
    MessageKind,
    QuorumSignatures,
    SigningDomain,
    compute_signing_digest,
    list_signed_messages,
)
from chain.errors import InvalidMessage, RejectionReason
from chain.primitives import Address, BlockNumber, Hash32, ValidatorIndex
from chain.types.certificate import CommitCertificate
from chain.types.validator_set import compute_quorum

Recover = Callable[[Hash32, bytes], Address | None]
"""Recovers the signer of a digest: `chain.crypto.recover`, or a cache in front of it.

A cache pays because certificates repeat votes that were verified before."""


def verify_message(
    message: Message,
    domain: SigningDomain,
    validators: Sequence[Address],
    recover: Recover = crypto.recover,
) -> None:
    """Verify every signature in `message`, nested ones included.

    The replica checks afterwards whether there are enough of them, and for the right block.

    Raises:
        InvalidMessage: BAD_SIGNATURE or UNKNOWN_VALIDATOR.
    """
    for word in list_signed_messages(message):
        digest = compute_signing_digest(domain, word.kind, word.number, word.view, word.payload)
        _verify_signature(digest, word.author, word.signature, validators, recover)


def verify_commit_certificate(
    certificate: CommitCertificate,
    number: BlockNumber,
    digest: Hash32,
    domain: SigningDomain,
    validators: Sequence[Address],
    recover: Recover = crypto.recover,
) -> None:
    """Verify that `certificate` makes the block `digest` final at `number`.

    One bad signature makes the whole certificate bad, even if enough others remain. Otherwise
    anyone could append useless entries to it.

    Raises:
        InvalidMessage: BAD_CERTIFICATE, BAD_SIGNATURE or UNKNOWN_VALIDATOR.
    """
    validate_quorum(certificate.signatures, len(validators), RejectionReason.BAD_CERTIFICATE)
    signed = compute_signing_digest(domain, MessageKind.COMMIT, number, certificate.view, digest)
    for author, signature in certificate.signatures:
        _verify_signature(signed, author, signature, validators, recover)


def validate_quorum(quorum: QuorumSignatures, n: int, reason: RejectionReason) -> None:
    """Check that `quorum` has q to n strictly ascending authors below `n` (rule S1).

    Raises:
        InvalidMessage: `reason`.
    """
    authors = [author for author, _ in quorum]
    validate_authors(authors, n, reason)


def validate_authors(authors: Sequence[ValidatorIndex], n: int, reason: RejectionReason) -> None:
    """Check that there are q to n strictly ascending `authors` below `n` (rule S1).

    Raises:
        InvalidMessage: `reason`.
    """
    if len(authors) < compute_quorum(n):
        raise InvalidMessage(reason, f"{len(authors)} of {compute_quorum(n)} signatures")
    if any(second <= first for first, second in pairwise(authors)):
        raise InvalidMessage(reason, "authors do not ascend")
    if authors[-1] >= n:
        raise InvalidMessage(reason, f"author {authors[-1]} of {n}")


def _verify_signature(
    digest: Hash32,
    author: ValidatorIndex,
    signature: bytes,
    validators: Sequence[Address],
    recover: Recover,
) -> None:
    if author >= len(validators):
        raise InvalidMessage(RejectionReason.UNKNOWN_VALIDATOR, f"index {author}")
    if recover(digest, signature) != validators[author]:
        raise InvalidMessage(RejectionReason.BAD_SIGNATURE, f"of validator {author}")
