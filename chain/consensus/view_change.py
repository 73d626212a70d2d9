"""View change: the block that a new view must propose again (docs/spec/consensus.md, section 7).

A VIEW-CHANGE carries the prepared certificate. Dropping it could fork the chain, and refusing to
change views because of it could stop the chain for ever.
"""

from collections.abc import Sequence

from chain.consensus.certificates import validate_authors, validate_quorum
from chain.consensus.messages import NewView, PreparedCertificate, ViewChange, ViewChangeVote
from chain.errors import InvalidMessage, RejectionReason


def validate_view_change(view_change: ViewChange, n: int) -> None:
    """Check that a VIEW-CHANGE proves what it says was prepared.

    With an unproven claim among its VIEW-CHANGEs, a primary could propose nothing that is accepted.

    Raises:
        InvalidMessage: BAD_JUSTIFICATION.
    """
    vote, certificate = view_change.vote, view_change.certificate
    _validate_vote(vote)
    if (vote.prepared is None) != (certificate is None):
        raise InvalidMessage(RejectionReason.BAD_JUSTIFICATION, "prepared without a certificate")
    if vote.prepared is not None and certificate is not None:
        if vote.prepared != (certificate.view, certificate.block.hash):
            raise InvalidMessage(RejectionReason.BAD_JUSTIFICATION, "certificate of another block")
        if certificate.block.number != vote.number:
            raise InvalidMessage(RejectionReason.BAD_JUSTIFICATION, "block of another number")
        validate_quorum(certificate.signatures, n, RejectionReason.BAD_JUSTIFICATION)


def validate_new_view(new_view: NewView, n: int) -> None:
    """Check that a NEW-VIEW proposes the block that its VIEW-CHANGEs require (rule S5).

    Raises:
        InvalidMessage: BAD_JUSTIFICATION.
    """
    votes, pre_prepare = new_view.view_changes, new_view.pre_prepare
    authors = [vote.author for vote in votes]
    validate_authors(authors, n, RejectionReason.BAD_JUSTIFICATION)
    for vote in votes:
        if (vote.number, vote.view) != (pre_prepare.number, pre_prepare.vote.view):
            raise InvalidMessage(RejectionReason.BAD_JUSTIFICATION, "VIEW-CHANGE of another view")
        _validate_vote(vote)
    prepared = [vote.prepared for vote in votes if vote.prepared is not None]
    if not prepared:
        if new_view.prepares:
            raise InvalidMessage(RejectionReason.BAD_JUSTIFICATION, "PREPAREs of nothing")
        return
    highest_view = max(view for view, _ in prepared)
    demanded = {digest for view, digest in prepared if view == highest_view}
    if demanded != {pre_prepare.block.hash}:
        raise InvalidMessage(RejectionReason.BAD_JUSTIFICATION, "not the highest prepared block")
    validate_quorum(new_view.prepares, n, RejectionReason.BAD_JUSTIFICATION)


def choose_reproposal(view_changes: Sequence[ViewChange]) -> PreparedCertificate | None:
    """The certificate of the highest prepared view; the new view must propose its block.

    None if none of them prepared anything. Then nothing can have been committed, and the primary
    may propose a new block.
    """
    certificates = [each.certificate for each in view_changes if each.certificate is not None]
    return max(certificates, key=lambda certificate: certificate.view, default=None)


def _validate_vote(vote: ViewChangeVote) -> None:
    if vote.view == 0:
        raise InvalidMessage(RejectionReason.BAD_JUSTIFICATION, "VIEW-CHANGE to view 0")
    if vote.prepared is not None and vote.prepared[0] >= vote.view:
        raise InvalidMessage(RejectionReason.BAD_JUSTIFICATION, "prepared in a later view")
