"""The bounded log of other validators' messages (docs/spec/consensus.md, section 9).

A Byzantine validator cannot make it grow: the log keeps a few votes of each kind and one
VIEW-CHANGE for each author, and a few messages of later numbers for each sender.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from chain.consensus.messages import (
    Message,
    MessageKind,
    NewView,
    PreparedCertificate,
    PrePrepare,
    QuorumSignatures,
    Status,
    ViewChange,
    ViewChangeVote,
    Vote,
)
from chain.primitives import BlockNumber, Hash32, ValidatorIndex, View

VOTES_KEPT: Final = 8
"""Votes kept for each kind and author, those of the highest views. Old ones are not needed: an
honest author's views only grow, and a replica that lags catches up by VIEW-CHANGEs."""

MAX_EARLY_DISTANCE: Final = 4
"""How many numbers ahead a message may be to be kept. Further ahead only block sync helps."""

EARLY_MESSAGES_PER_SENDER: Final = 16
"""Messages of later numbers kept for each sender: enough for a few votes in a few numbers."""


@dataclass(frozen=True, slots=True)
class HeldViewChange:
    """The highest VIEW-CHANGE of one validator."""

    vote: ViewChangeVote
    certificate: PreparedCertificate | None
    is_complete: bool
    """False if only the vote is known, from inside a NEW-VIEW. Such a vote counts for a quorum,
    but does not prove which block was prepared."""


@dataclass(frozen=True, slots=True)
class MessageLog:
    """The votes and VIEW-CHANGEs of one block number."""

    votes: Mapping[tuple[MessageKind, ValidatorIndex], tuple[Vote, ...]] = field(
        default_factory=dict
    )
    """By kind and author, ascending by view, one a view. A second vote of an author in a view, for
    another block, is not kept here: it is evidence."""
    view_changes: Mapping[ValidatorIndex, HeldViewChange] = field(default_factory=dict)

    def get_vote(self, kind: MessageKind, author: ValidatorIndex, view: View) -> Vote | None:
        """The author's vote of that kind in that view; None if there is none."""
        held = self.votes.get((kind, author), ())
        return next((vote for vote in held if vote.view == view), None)

    def add_vote(self, vote: Vote) -> "MessageLog":
        """The log with `vote`; unchanged if it holds one of that author, kind and view already."""
        if self.get_vote(vote.kind, vote.author, vote.view) is not None:
            return self
        held = (*self.votes.get((vote.kind, vote.author), ()), vote)
        kept = tuple(sorted(held, key=lambda each: each.view))[-VOTES_KEPT:]
        return replace(self, votes={**self.votes, (vote.kind, vote.author): kept})

    def add_view_change(self, view_change: ViewChange) -> "MessageLog":
        """The log with `view_change`; unchanged if a complete one as late is in it."""
        vote = view_change.vote
        held = self.view_changes.get(vote.author)
        if held is not None and (held.vote.view, held.is_complete) >= (vote.view, True):
            return self
        return self._with(HeldViewChange(vote, view_change.certificate, is_complete=True))

    def add_view_change_vote(self, vote: ViewChangeVote) -> "MessageLog":
        """The log with a vote from inside a NEW-VIEW; unchanged if one as late is in it."""
        held = self.view_changes.get(vote.author)
        if held is not None and held.vote.view >= vote.view:
            return self
        # If nothing was prepared there is no certificate, so the vote alone is complete.
        return self._with(HeldViewChange(vote, None, is_complete=vote.prepared is None))

    def _with(self, held: HeldViewChange) -> "MessageLog":
        return replace(self, view_changes={**self.view_changes, held.vote.author: held})

    def get_signatures(self, kind: MessageKind, view: View, digest: Hash32) -> QuorumSignatures:
        """The signatures of votes of that kind for a block in a view, by ascending author."""
        matching = [
            (author, vote.signature)
            for (held_kind, author), held in self.votes.items()
            if held_kind is kind
            for vote in held
            if vote.view == view and vote.digest == digest
        ]
        return tuple(sorted(matching))

    def find_quorum(self, kind: MessageKind, quorum: int) -> tuple[View, Hash32] | None:
        """The lowest view in which a block has `quorum` votes of a kind, and the block's digest."""
        counts: dict[tuple[View, Hash32], int] = {}
        for (held_kind, _), held in self.votes.items():
            if held_kind is kind:
                for vote in held:
                    counts[vote.view, vote.digest] = counts.get((vote.view, vote.digest), 0) + 1
        return min((block for block, count in counts.items() if count >= quorum), default=None)

    def get_view_changes(self, view: View) -> tuple[HeldViewChange, ...]:
        """The VIEW-CHANGEs to exactly `view`, by ascending author."""
        held = [self.view_changes[author] for author in sorted(self.view_changes)]
        return tuple(each for each in held if each.vote.view == view)

    def get_views_from(self, view: View) -> tuple[View, ...]:
        """The views of the held VIEW-CHANGEs, one for each author, ascending, from `view` on."""
        views = (held.vote.view for held in self.view_changes.values())
        return tuple(sorted(each for each in views if each >= view))

    def find_lost_lock(self, author: ValidatorIndex) -> tuple[Vote, ViewChangeVote] | None:
        """A COMMIT of `author` and a later VIEW-CHANGE of it without that lock (rule S4)."""
        held = self.view_changes.get(author)
        if held is None:
            return None
        lock = -1 if held.vote.prepared is None else held.vote.prepared[0]
        for commit in self.votes.get((MessageKind.COMMIT, author), ()):
            if lock < commit.view < held.vote.view:
                return commit, held.vote
        return None


@dataclass(frozen=True, slots=True)
class EarlyMessage:
    """An unverified message of a number that has not begun."""

    sender: ValidatorIndex
    message: Message


EarlyMessages = tuple[EarlyMessage, ...]
"""In order of arrival."""


def add_early_message(
    early: EarlyMessages, current: BlockNumber, sender: ValidatorIndex, message: Message
) -> EarlyMessages:
    """`early` with one more message, if the sender's limit allows it.

    Each sender may have `EARLY_MESSAGES_PER_SENDER` messages here, one of them with a block. When
    the limit is reached, a message of a nearer number replaces the one of the farthest number.
    """
    if message.number > current + MAX_EARLY_DISTANCE or isinstance(message, Status):
        return early
    own = [held for held in early if held.sender == sender]
    if _has_block(message):
        rivals = [held for held in own if _has_block(held.message)]
        is_full = bool(rivals)
    else:
        rivals = own
        is_full = len(own) >= EARLY_MESSAGES_PER_SENDER
    entry = EarlyMessage(sender, message)
    if entry in own:
        return early
    if not is_full:
        return (*early, entry)
    farthest = max(rivals, key=lambda held: held.message.number)
    if farthest.message.number <= message.number:
        return early
    return (*(held for held in early if held is not farthest), entry)


def _has_block(message: Message) -> bool:
    match message:
        case PrePrepare() | NewView():
            return True
        case ViewChange(_, certificate):
            return certificate is not None
        case _:
            return False
