"""Two conflicting votes as the call that reports them (docs/spec/consensus.md, section 9)."""

from dataclasses import dataclass

from chain.consensus.messages import MessageKind, ViewChangeVote, Vote
from chain.contracts.validator_set import encode_report_equivocation, encode_report_lost_lock
from chain.primitives import UINT64_MAX, ZERO_HASH, Address, BlockNumber


@dataclass(frozen=True, slots=True)
class Evidence:
    """That a validator cast two votes of which an honest one casts at most one."""

    validator: Address
    number: BlockNumber
    """What both votes are about; it says how long the evidence counts."""
    data: bytes
    """Calldata for the ValidatorSet contract: it holds both votes, and needs nothing else."""


def build_evidence(
    first: Vote, second: Vote | ViewChangeVote, validator: Address, version: int
) -> Evidence:
    """The evidence of a `ReportEvidence` effect.

    Args:
        first: A vote; a COMMIT if `second` is a VIEW-CHANGE.
        second: The vote that contradicts it.
        validator: The author of both.
        version: The protocol's at their number, which the signatures cover.
    """
    assert (first.author, first.number) == (second.author, second.number)
    place = (int(first.kind), version, first.number, first.view)
    if isinstance(second, Vote):
        assert (first.kind, first.view) == (second.kind, second.view)
        data = encode_report_equivocation(
            place, (first.digest, first.signature), (second.digest, second.signature)
        )
    else:
        assert first.kind is MessageKind.COMMIT
        view, digest = second.prepared or (UINT64_MAX, ZERO_HASH)
        data = encode_report_lost_lock(
            place,
            (first.digest, first.signature),
            (second.view, view, digest, second.signature),
        )
    return Evidence(validator, first.number, data)
