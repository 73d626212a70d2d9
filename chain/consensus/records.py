"""The records of the write-ahead log, one for each vote (docs/spec/consensus.md, section 8).

A validator logs a vote before it sends it. Replaying the records in order restores the replica
with exactly the bytes that it had signed. A record is one byte of kind and the RLP of the body.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, assert_never

from chain import codec
from chain.consensus.guard import GuardState, Step
from chain.consensus.messages import (
    MESSAGE_LIMITS_BYTES,
    VOTE_LIMIT_BYTES,
    Message,
    MessageKind,
    NewView,
    PrePrepare,
    Proposal,
    QuorumSignatures,
    ViewChangeVote,
    Vote,
    compute_view_change_payload,
    get_pre_prepare,
    message_from_item,
    message_to_item,
    quorum_from_item,
    view_change_vote_from_item,
    vote_from_item,
)
from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import BlockNumber, Hash32, View
from chain.types.certificate import CERTIFICATE_LIMIT_BYTES

RECORD_LIMIT_BYTES: Final = (
    MESSAGE_LIMITS_BYTES[MessageKind.NEW_VIEW] + CERTIFICATE_LIMIT_BYTES + VOTE_LIMIT_BYTES
)
"""The largest record is an accepted NEW-VIEW with the PREPARE for it."""


class RecordKind(IntEnum):
    """The first byte of a record."""

    PREPARE = 1
    COMMIT = 2
    VIEW_CHANGE = 3


@dataclass(frozen=True, slots=True)
class PrepareRecord:
    """A PREPARE with the accepted proposal and its whole block; a primary logs its own so, too."""

    proposal: Proposal
    prepare: Vote

    @property
    def number(self) -> BlockNumber:
        """The block number that was voted on."""
        return self.prepare.number


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """A COMMIT with the PREPAREs of a quorum, for the proposal of the preceding PrepareRecord."""

    commit: Vote
    prepares: QuorumSignatures

    @property
    def number(self) -> BlockNumber:
        """The block number that was voted on."""
        return self.commit.number


@dataclass(frozen=True, slots=True)
class ViewChangeRecord:
    """A VIEW-CHANGE. Its certificate, if it has one, is that of the latest CommitRecord."""

    vote: ViewChangeVote

    @property
    def number(self) -> BlockNumber:
        """The block number that was voted on."""
        return self.vote.number


Record = PrepareRecord | CommitRecord | ViewChangeRecord


def compute_intent(record: Record, prepared: tuple[View, Hash32] | None) -> GuardState:
    """The guard state that `record`'s vote leads to; the guard must permit it before it is sent.

    Args:
        record: The record of the vote.
        prepared: View and digest of the prepared certificate before the vote; None if there is
            none.
    """
    match record:
        case PrepareRecord(_, prepare):
            return GuardState(prepare.number, prepare.view, Step.PREPARE, prepare.digest, prepared)
        case CommitRecord(commit, _):
            lock = commit.view, commit.digest
            return GuardState(commit.number, commit.view, Step.COMMIT, commit.digest, lock)
        case ViewChangeRecord(vote):
            payload = compute_view_change_payload(vote.prepared)
            return GuardState(vote.number, vote.view, Step.VIEW_CHANGE, payload, vote.prepared)
        case _:
            assert_never(record)


def compute_latest_intent(records: Sequence[Record]) -> GuardState | None:
    """The guard state after the last of `records`, which are in log order; None without records."""
    latest: GuardState | None = None
    for record in records:
        is_same_number = latest is not None and latest.number == record.number
        latest = compute_intent(record, latest.prepared if latest and is_same_number else None)
    return latest


def encode_record(record: Record) -> bytes:
    """The kind's byte, then the RLP of the body."""
    match record:
        case PrepareRecord(proposal, prepare):
            kind, body = message_to_item(proposal)
            return _encode(RecordKind.PREPARE, [kind, body, _message_item(prepare)])
        case CommitRecord(commit, prepares):
            return _encode(
                RecordKind.COMMIT,
                [_message_item(commit), [[author, signature] for author, signature in prepares]],
            )
        case ViewChangeRecord(vote):
            prepared: list[codec.Encodable] = [] if vote.prepared is None else list(vote.prepared)
            return _encode(
                RecordKind.VIEW_CHANGE,
                [vote.number, vote.view, prepared, vote.author, vote.signature],
            )
        case _:
            assert_never(record)


def decode_record(data: bytes) -> Record:
    """The record that `data` encodes.

    Raises:
        RejectedInputError: TOO_LARGE or MALFORMED.
    """
    if not data or data[0] not in [member.value for member in RecordKind]:
        raise RejectedInputError(RejectionReason.MALFORMED, "unknown record kind")
    kind = RecordKind(data[0])
    item = codec.decode(data[1:], limit_bytes=RECORD_LIMIT_BYTES)
    match kind:
        case RecordKind.PREPARE:
            message_kind, body, prepare_item = codec.as_list(item, length=3)
            proposal = _as_proposal(codec.as_uint(message_kind, bits=8), body)
            prepare = vote_from_item(MessageKind.PREPARE, prepare_item)
            pre_prepare = get_pre_prepare(proposal).vote
            if (prepare.number, prepare.view, prepare.digest) != (
                pre_prepare.number,
                pre_prepare.view,
                pre_prepare.digest,
            ):
                raise RejectedInputError(RejectionReason.MALFORMED, "PREPARE of another proposal")
            return PrepareRecord(proposal, prepare)
        case RecordKind.COMMIT:
            commit_item, prepares_item = codec.as_list(item, length=2)
            return CommitRecord(
                vote_from_item(MessageKind.COMMIT, commit_item), quorum_from_item(prepares_item)
            )
        case RecordKind.VIEW_CHANGE:
            number, view, prepared, author, signature = codec.as_list(item, length=5)
            vote_item: codec.Item = [prepared, author, signature]
            return ViewChangeRecord(view_change_vote_from_item(number, view, vote_item))
        case _:
            assert_never(kind)


def _encode(kind: RecordKind, body: codec.Encodable) -> bytes:
    return bytes([kind]) + codec.encode(body)


def _message_item(message: Message) -> codec.Encodable:
    return message_to_item(message)[1]


def _as_proposal(kind: int, body: codec.Item) -> Proposal:
    if kind not in (MessageKind.PRE_PREPARE, MessageKind.NEW_VIEW):
        raise RejectedInputError(RejectionReason.MALFORMED, "not a proposal")
    message = message_from_item(MessageKind(kind), body)
    assert isinstance(message, PrePrepare | NewView)
    return message
