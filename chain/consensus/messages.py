"""The messages between validators: signing and encoding (docs/spec/consensus.md, section 4).

A wire message is one byte of `MessageKind` and the RLP of the body. Signatures cover a digest of
fixed 32-byte words and never the encoding, so that a contract can check them with `ecrecover`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, assert_never

from chain import codec
from chain.crypto import keccak256
from chain.errors import InvalidMessage, RejectedInputError, RejectionReason
from chain.primitives import (
    UINT64_MAX,
    ZERO_HASH,
    BlockNumber,
    Hash32,
    Signature,
    ValidatorIndex,
    View,
)
from chain.types.block import BLOCK_ITEMS_LIMIT, BLOCK_LIMIT_BYTES, Block, block_from_item
from chain.types.certificate import (
    CERTIFICATE_LIMIT_BYTES,
    MAX_VALIDATORS,
    CommitCertificate,
    certificate_from_item,
)

SIGNING_DOMAIN: Final = keccak256(b"ProofOfTraining.consensus")
"""DOMAIN: separates our signatures from those of every other protocol."""

CONSENSUS_VERSION: Final = 1
"""The protocol version at every block number so far; it changes only with the consensus rules."""

VOTE_LIMIT_BYTES: Final = 160
"""Two u64, a hash, an index and a signature take at most 124 bytes with their prefixes."""


class MessageKind(IntEnum):
    """The first byte of a wire message, and the `kind` in the digest of a signed vote."""

    PRE_PREPARE = 1
    PREPARE = 2
    COMMIT = 3
    VIEW_CHANGE = 4
    NEW_VIEW = 5
    """Not signed as a whole; its parts are signed."""
    STATUS = 6
    COMMITTED = 7
    """Not signed; the certificate in it carries the signatures."""


MESSAGE_LIMITS_BYTES: Final = {
    MessageKind.PRE_PREPARE: BLOCK_LIMIT_BYTES + VOTE_LIMIT_BYTES,
    MessageKind.PREPARE: VOTE_LIMIT_BYTES,
    MessageKind.COMMIT: VOTE_LIMIT_BYTES,
    MessageKind.VIEW_CHANGE: BLOCK_LIMIT_BYTES + VOTE_LIMIT_BYTES + CERTIFICATE_LIMIT_BYTES,
    MessageKind.NEW_VIEW: BLOCK_LIMIT_BYTES
    + (1 + MAX_VALIDATORS) * VOTE_LIMIT_BYTES
    + CERTIFICATE_LIMIT_BYTES,
    MessageKind.STATUS: VOTE_LIMIT_BYTES,
    MessageKind.COMMITTED: CERTIFICATE_LIMIT_BYTES + VOTE_LIMIT_BYTES,
}
"""The largest body of each kind, checked before the body is decoded."""

QuorumSignatures = tuple[tuple[ValidatorIndex, Signature], ...]
"""Signatures of one and the same digest, by strictly ascending author."""


@dataclass(frozen=True, slots=True)
class SigningDomain:
    """The fields that make a signature invalid on another chain or under other consensus rules."""

    chain_id: int
    genesis_hash: Hash32
    version: int
    """The protocol version (u32). It depends on the block number alone, never on the software."""


@dataclass(frozen=True, slots=True)
class Vote:
    """A signed PRE-PREPARE, PREPARE or COMMIT for one block in one view."""

    kind: MessageKind
    number: BlockNumber
    view: View
    digest: Hash32
    """The block's hash."""
    author: ValidatorIndex
    signature: Signature


@dataclass(frozen=True, slots=True)
class PrePrepare:
    """The primary's proposal. It is a message of its own in view 0 and part of a NEW-VIEW later."""

    vote: Vote
    block: Block

    @property
    def number(self) -> BlockNumber:
        """The block number that it is about."""
        return self.vote.number


@dataclass(frozen=True, slots=True)
class PreparedCertificate:
    """PREPAREs of a quorum for `block` in `view`; the block may have been committed there."""

    view: View
    block: Block
    signatures: QuorumSignatures


@dataclass(frozen=True, slots=True)
class ViewChangeVote:
    """The signed part of a VIEW-CHANGE: the view entered, and the block last prepared before it."""

    number: BlockNumber
    view: View
    prepared: tuple[View, Hash32] | None
    """View and digest of the prepared certificate when the view was entered; None if there was
    none."""
    author: ValidatorIndex
    signature: Signature


@dataclass(frozen=True, slots=True)
class ViewChange:
    """A VIEW-CHANGE with the certificate that proves what was prepared."""

    vote: ViewChangeVote
    certificate: PreparedCertificate | None

    @property
    def number(self) -> BlockNumber:
        """The block number that it is about."""
        return self.vote.number


@dataclass(frozen=True, slots=True)
class NewView:
    """The primary's proposal for a view after 0, with the proof that it may propose this block."""

    pre_prepare: PrePrepare
    view_changes: tuple[ViewChangeVote, ...]
    """The VIEW-CHANGE votes of a quorum for exactly this view, by ascending author."""
    prepares: QuorumSignatures
    """The PREPAREs of the highest prepared view among them; empty if none of them prepared."""

    @property
    def number(self) -> BlockNumber:
        """The block number that it is about."""
        return self.pre_prepare.number


@dataclass(frozen=True, slots=True)
class Status:
    """The author's progress, sent periodically so that others can send what the author lacks."""

    number: BlockNumber
    view: View
    digest: Hash32
    """The block of the proposal that it holds in this view; zero if it holds none."""
    author: ValidatorIndex
    signature: Signature


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit certificate, sent to a validator that is still deciding its number."""

    number: BlockNumber
    digest: Hash32
    certificate: CommitCertificate


Proposal = PrePrepare | NewView
Message = Vote | PrePrepare | ViewChange | NewView | Status | Committed


@dataclass(frozen=True, slots=True)
class SignedMessage:
    """One signature inside a message, with all fields that its digest covers."""

    kind: MessageKind
    number: BlockNumber
    view: View
    payload: Hash32
    author: ValidatorIndex
    signature: Signature


def get_pre_prepare(proposal: Proposal) -> PrePrepare:
    """The PRE-PREPARE in a proposal of any view."""
    return proposal.pre_prepare if isinstance(proposal, NewView) else proposal


def compute_view_change_payload(prepared: tuple[View, Hash32] | None) -> Hash32:
    """keccak256(abi.encode(uint64 preparedView, bytes32 preparedDigest)); (2^64-1, 0) for none."""
    view, digest = prepared if prepared is not None else (UINT64_MAX, ZERO_HASH)
    return keccak256(view.to_bytes(32, "big") + digest)


def compute_signing_digest(
    domain: SigningDomain, kind: MessageKind, number: BlockNumber, view: View, payload: Hash32
) -> Hash32:
    """keccak256(abi.encode(DOMAIN, kind, chainId, genesisHash, version, number, view, payload))."""
    return keccak256(
        SIGNING_DOMAIN
        + kind.to_bytes(32, "big")
        + domain.chain_id.to_bytes(32, "big")
        + domain.genesis_hash
        + domain.version.to_bytes(32, "big")
        + number.to_bytes(32, "big")
        + view.to_bytes(32, "big")
        + payload
    )


def list_signed_messages(message: Message) -> Iterator[SignedMessage]:
    """Every signature in `message`, nested ones included. The ones cheapest to check come first."""
    match message:
        case Vote():
            yield _word_of_vote(message)
        case PrePrepare(vote, _):
            yield _word_of_vote(vote)
        case ViewChange(vote, certificate):
            yield _word_of_view_change(vote)
            if certificate is not None:
                yield from _words_of_quorum(
                    MessageKind.PREPARE,
                    vote.number,
                    certificate.view,
                    certificate.block.hash,
                    certificate.signatures,
                )
        case NewView(pre_prepare, view_changes, prepares):
            yield _word_of_vote(pre_prepare.vote)
            for vote in view_changes:
                yield _word_of_view_change(vote)
            views = [vote.prepared[0] for vote in view_changes if vote.prepared is not None]
            yield from _words_of_quorum(
                MessageKind.PREPARE,
                pre_prepare.number,
                max(views, default=View(0)),
                pre_prepare.vote.digest,
                prepares,
            )
        case Status(number, view, digest, author, signature):
            yield SignedMessage(MessageKind.STATUS, number, view, digest, author, signature)
        case Committed(number, digest, certificate):
            yield from _words_of_quorum(
                MessageKind.COMMIT, number, certificate.view, digest, certificate.signatures
            )
        case _:
            assert_never(message)


def _word_of_vote(vote: Vote) -> SignedMessage:
    return SignedMessage(
        vote.kind, vote.number, vote.view, vote.digest, vote.author, vote.signature
    )


def _word_of_view_change(vote: ViewChangeVote) -> SignedMessage:
    payload = compute_view_change_payload(vote.prepared)
    return SignedMessage(
        MessageKind.VIEW_CHANGE, vote.number, vote.view, payload, vote.author, vote.signature
    )


def _words_of_quorum(
    kind: MessageKind, number: BlockNumber, view: View, digest: Hash32, quorum: QuorumSignatures
) -> Iterator[SignedMessage]:
    for author, signature in quorum:
        yield SignedMessage(kind, number, view, digest, author, signature)


def encode_message(message: Message) -> bytes:
    """The wire form: the kind's byte, then the RLP of the body."""
    kind, item = message_to_item(message)
    return bytes([kind]) + codec.encode(item)


def decode_message(data: bytes) -> Message:
    """The message that `data` canonically encodes. Nothing is verified.

    Raises:
        InvalidMessage: TOO_LARGE or MALFORMED.
    """
    try:
        kind = MessageKind(data[0]) if data else None
    except ValueError:
        kind = None
    if kind is None:
        raise InvalidMessage(RejectionReason.MALFORMED, "unknown message kind")
    try:
        item = codec.decode(
            data[1:], limit_bytes=MESSAGE_LIMITS_BYTES[kind], limit_items=BLOCK_ITEMS_LIMIT
        )
        return message_from_item(kind, item)
    except InvalidMessage:
        raise
    except RejectedInputError as error:
        raise InvalidMessage(error.reason, error.detail) from error


def message_to_item(message: Message) -> tuple[MessageKind, codec.Encodable]:
    """The kind and the body of a message."""
    match message:
        case Vote():
            return message.kind, _vote_to_item(message)
        case PrePrepare():
            return MessageKind.PRE_PREPARE, _pre_prepare_to_item(message)
        case ViewChange(vote, certificate):
            return MessageKind.VIEW_CHANGE, [
                vote.number,
                vote.view,
                _view_change_vote_to_item(vote),
                []
                if certificate is None
                else [certificate.block.to_item(), _quorum_to_item(certificate.signatures)],
            ]
        case NewView(pre_prepare, view_changes, prepares):
            return MessageKind.NEW_VIEW, [
                _pre_prepare_to_item(pre_prepare),
                [_view_change_vote_to_item(vote) for vote in view_changes],
                _quorum_to_item(prepares),
            ]
        case Status(number, view, digest, author, signature):
            return MessageKind.STATUS, [number, view, digest, author, signature]
        case Committed(number, digest, certificate):
            return MessageKind.COMMITTED, [number, digest, certificate.to_item()]
        case _:
            assert_never(message)


def message_from_item(kind: MessageKind, item: codec.Item) -> Message:
    """The message of a decoded body.

    Raises:
        RejectedInputError: MALFORMED.
    """
    match kind:
        case MessageKind.PREPARE | MessageKind.COMMIT:
            return vote_from_item(kind, item)
        case MessageKind.PRE_PREPARE:
            pre_prepare = _pre_prepare_from_item(item)
            if pre_prepare.vote.view != 0:
                raise InvalidMessage(RejectionReason.MALFORMED, "a PRE-PREPARE alone is of view 0")
            return pre_prepare
        case MessageKind.VIEW_CHANGE:
            return _view_change_from_item(item)
        case MessageKind.NEW_VIEW:
            return _new_view_from_item(item)
        case MessageKind.STATUS:
            number, view, digest, author, signature = codec.as_list(item, length=5)
            return Status(
                _as_number(number),
                _as_view(view),
                _as_hash(digest),
                _as_author(author),
                _as_signature(signature),
            )
        case MessageKind.COMMITTED:
            number, digest, certificate = codec.as_list(item, length=3)
            return Committed(
                _as_number(number), _as_hash(digest), certificate_from_item(certificate)
            )
        case _:
            assert_never(kind)


def vote_from_item(kind: MessageKind, item: codec.Item) -> Vote:
    """The vote of a decoded [number, view, digest, author, signature].

    Raises:
        RejectedInputError: MALFORMED.
    """
    number, view, digest, author, signature = codec.as_list(item, length=5)
    return Vote(
        kind,
        _as_number(number),
        _as_view(view),
        _as_hash(digest),
        _as_author(author),
        _as_signature(signature),
    )


def _vote_to_item(vote: Vote) -> list[codec.Encodable]:
    return [vote.number, vote.view, vote.digest, vote.author, vote.signature]


def _pre_prepare_to_item(pre_prepare: PrePrepare) -> codec.Encodable:
    vote = pre_prepare.vote
    # The digest is not sent: it is the block's hash, and a sent copy could differ from it.
    return [vote.number, vote.view, vote.author, vote.signature, pre_prepare.block.to_item()]


def _pre_prepare_from_item(item: codec.Item) -> PrePrepare:
    number, view, author, signature, block_item = codec.as_list(item, length=5)
    block = block_from_item(block_item)
    vote = Vote(
        MessageKind.PRE_PREPARE,
        _as_number(number),
        _as_view(view),
        block.hash,
        _as_author(author),
        _as_signature(signature),
    )
    return PrePrepare(vote, block)


def _view_change_vote_to_item(vote: ViewChangeVote) -> codec.Encodable:
    prepared: list[codec.Encodable] = [] if vote.prepared is None else list(vote.prepared)
    return [prepared, vote.author, vote.signature]


def view_change_vote_from_item(
    number_item: codec.Item, view_item: codec.Item, item: codec.Item
) -> ViewChangeVote:
    """The vote of a decoded number, view and [[] or [view, digest], author, signature].

    Raises:
        RejectedInputError: MALFORMED.
    """
    number, view = _as_number(number_item), _as_view(view_item)
    prepared_item, author, signature = codec.as_list(item, length=3)
    prepared: tuple[View, Hash32] | None = None
    if prepared_item != []:
        prepared_view, prepared_digest = codec.as_list(prepared_item, length=2)
        prepared = (_as_view(prepared_view), _as_hash(prepared_digest))
    return ViewChangeVote(number, view, prepared, _as_author(author), _as_signature(signature))


def _view_change_from_item(item: codec.Item) -> ViewChange:
    number, view, vote_item, certificate_item = codec.as_list(item, length=4)
    vote = view_change_vote_from_item(number, view, vote_item)
    if (vote.prepared is None) != (certificate_item == []):
        raise InvalidMessage(RejectionReason.MALFORMED, "prepared without its certificate")
    if vote.prepared is None:
        return ViewChange(vote, None)
    block_item, signatures_item = codec.as_list(certificate_item, length=2)
    certificate = PreparedCertificate(
        vote.prepared[0], block_from_item(block_item), quorum_from_item(signatures_item)
    )
    return ViewChange(vote, certificate)


def _new_view_from_item(item: codec.Item) -> NewView:
    pre_prepare_item, votes_item, prepares_item = codec.as_list(item, length=3)
    pre_prepare = _pre_prepare_from_item(pre_prepare_item)
    number_item, view_item = codec.as_list(pre_prepare_item)[:2]
    votes = tuple(
        view_change_vote_from_item(number_item, view_item, vote_item)
        for vote_item in codec.as_list(votes_item, max_length=MAX_VALIDATORS)
    )
    return NewView(pre_prepare, votes, quorum_from_item(prepares_item))


def _quorum_to_item(quorum: QuorumSignatures) -> codec.Encodable:
    return [[author, signature] for author, signature in quorum]


def quorum_from_item(item: codec.Item) -> QuorumSignatures:
    """The signatures of a decoded [[author, signature], ...]; their order is not checked here.

    Raises:
        RejectedInputError: MALFORMED.
    """
    quorum: list[tuple[ValidatorIndex, Signature]] = []
    for entry in codec.as_list(item, max_length=MAX_VALIDATORS):
        author, signature = codec.as_list(entry, length=2)
        quorum.append((_as_author(author), _as_signature(signature)))
    return tuple(quorum)


def _as_number(item: codec.Item) -> BlockNumber:
    return BlockNumber(codec.as_uint(item, bits=64))


def _as_view(item: codec.Item) -> View:
    return View(codec.as_uint(item, bits=64))


def _as_hash(item: codec.Item) -> Hash32:
    return Hash32(codec.as_bytes(item, length=32))


def _as_author(item: codec.Item) -> ValidatorIndex:
    return ValidatorIndex(codec.as_uint(item, bits=16))


def _as_signature(item: codec.Item) -> Signature:
    return Signature(codec.as_bytes(item, length=65))
