"""Evidence of two conflicting votes, as a contract call (docs/spec/consensus.md, section 9)."""

from dataclasses import dataclass

from chain.consensus.messages import MessageKind, ViewChangeVote, Vote
from chain.contracts.validator_set import (
    SignedDigest,
    SignedViewChange,
    VotePlace,
    report_equivocation,
    report_lost_lock,
)
from chain.primitives import UINT64_MAX, ZERO_HASH, Address, BlockNumber


@dataclass(frozen=True, slots=True)
class Evidence:
    """Proof that a validator cast two votes of which an honest one casts at most one."""

    validator: Address
    number: BlockNumber
    """The block number of both votes. The contract accepts evidence only for recent numbers."""
    data: bytes
    """Calldata for the ValidatorSet contract; it contains both votes."""


def build_evidence(
    first: Vote, second: Vote | ViewChangeVote, validator: Address, version: int
) -> Evidence:
    """The evidence of a `ReportEvidence` effect.

    Args:
        first: A vote; a COMMIT if `second` is a VIEW-CHANGE.
        second: The vote that contradicts it.
        validator: The author of both.
        version: The protocol version at their block number; the signatures cover it.
    """
    assert (first.author, first.number) == (second.author, second.number)
    place = VotePlace(int(first.kind), version, first.number, first.view)
    own = SignedDigest(first.digest, first.signature)
    if isinstance(second, Vote):
        assert (first.kind, first.view) == (second.kind, second.view)
        call = report_equivocation(place, own, SignedDigest(second.digest, second.signature))
    else:
        assert first.kind is MessageKind.COMMIT
        view, digest = second.prepared or (UINT64_MAX, ZERO_HASH)
        claim = SignedViewChange(second.view, view, digest, second.signature)
        call = report_lost_lock(place, own, claim)
    return Evidence(validator, first.number, call.data)
