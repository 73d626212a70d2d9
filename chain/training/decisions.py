"""The decisions that follow from the votes of a ballot (docs/spec/training.md, section 5).

A validator says at most one thing about each commitment, and at most f validators lie. A task that
audits every gradient (p = 1) has one vote in each ballot, with a `Verdict` for each commitment. A
task that audits a sample has two: first each validator says what it holds (`Availability`) and
which commitments it draws; then all give verdicts on what was drawn.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from chain.training.acceptance import Verdict
from chain.training.availability import Availability

UNCHECKED_SHARE: Final = 4
"""A validator that leaves more than a quarter of the gradients unchecked earns no fee."""

LATE_VERDICTS: Final = (Verdict.OK, Verdict.BAD, Verdict.CHEAT)
"""The verdicts that count for guilt when they come late: those that need a re-execution."""


class Outcome(StrEnum):
    """The fate of a commitment in one ballot."""

    ACCEPTED = "accepted"
    """It is aggregated and paid."""
    REJECTED = "rejected"
    """An honest validator found it wrong; it is not paid."""
    MISSED = "missed"
    """A quorum could not get the gradient; it is not paid."""
    UNDECIDED = "undecided"
    """The votes allow no decision; it is not paid."""


class Guilt(StrEnum):
    """The cost of a commitment to its miner, from the lightest to the heaviest."""

    NONE = "none"
    MISS = "miss"
    """An eighth of the round's pay and of the seat bond, as if the miner had not committed."""
    DEVIATION = "deviation"
    """1/p - 1 times the round's pay: else a gradient just outside the tolerance would be a free try
    in a task that audits a sample."""
    FRAUD = "fraud"
    """The whole bond and the seat bond."""


@dataclass(frozen=True, slots=True)
class VoteSizes:
    """The sizes of the validator set that judges a ballot.

    Attributes:
        max_faulty: f, the most validators that may lie.
        quorum: q; any two groups of q validators share an honest one.
    """

    max_faulty: int
    quorum: int


def decide_audited(verdicts: Iterable[Verdict], sizes: VoteSizes) -> Outcome:
    """The outcome of an audited commitment.

    The first rule that holds decides:
        rejected: more than f say bad or cheat, so an honest validator found it wrong.
        accepted: more than f say ok, so an honest validator re-executed it.
        missed: q say missing, and at most f say that they checked it.

    Args:
        verdicts: One from each validator that voted in time.
        sizes: The sizes of the set that judges the ballot.
    """
    count = tuple(verdicts).count
    against = count(Verdict.BAD) + count(Verdict.CHEAT)
    if against > sizes.max_faulty:
        return Outcome.REJECTED
    ok = count(Verdict.OK)
    if ok > sizes.max_faulty:
        return Outcome.ACCEPTED
    checked = ok + against
    if count(Verdict.MISSING) >= sizes.quorum and checked <= sizes.max_faulty:
        return Outcome.MISSED
    return Outcome.UNDECIDED


def decide_unaudited(answers: Iterable[Availability], sizes: VoteSizes) -> Outcome:
    """The outcome of a commitment that no validator drew.

    It is accepted if more than f hold the gradient, so that an honest validator does; it is missed
    if q could not get it.

    Args:
        answers: One from each validator that voted in time.
        sizes: The sizes of the set that judges the ballot.
    """
    count = tuple(answers).count
    if count(Availability.HELD) > sizes.max_faulty:
        return Outcome.ACCEPTED
    if count(Availability.UNAVAILABLE) >= sizes.quorum:
        return Outcome.MISSED
    return Outcome.UNDECIDED


def needs_another_ballot(
    outcome: Outcome, in_favour: int, unchecked: int, sizes: VoteSizes
) -> bool:
    """Whether a commitment makes its ballot fail, if the attempt has a ballot left.

    A further ballot can help only if the validators that lacked time may yet accept it. So f liars
    that deny a gradient, or say that they lacked time, cannot make a ballot fail alone.

    Args:
        outcome: The commitment's outcome in this ballot.
        in_favour: The number of validators that say ok; without an audit, that hold it.
        unchecked: The number of validators that lacked the time to check it.
        sizes: The sizes of the set that judges the ballot.
    """
    return (
        outcome is Outcome.UNDECIDED and unchecked > 0 and in_favour + unchecked > sizes.max_faulty
    )


def compute_guilt(verdicts: Iterable[Verdict], sizes: VoteSizes, *, is_all_audited: bool) -> Guilt:
    """The cost of an audited commitment to its miner.

    Cheat and missing count together: otherwise a miner could show a false gradient to a few
    validators only, so that neither verdict reaches a quorum.
    If every gradient is audited, the bond takes more than f that say cheat, an honest validator
    among them. Fewer may all lie about a gradient that the others only could not get.

    Args:
        verdicts: One from each validator that voted, those that voted late included.
        sizes: The sizes of the set that judges the ballot.
        is_all_audited: Whether the task audits every commitment. A gradient that a quorum could not
            get then costs no more than no commitment would, because its miner dodged no rare audit.
    """
    count = tuple(verdicts).count
    if count(Verdict.OK) > sizes.max_faulty:
        return Guilt.NONE
    cheat, missing = count(Verdict.CHEAT), count(Verdict.MISSING)
    if cheat + missing >= sizes.quorum:
        is_proven = cheat > sizes.max_faulty
        return Guilt.MISS if is_all_audited and not is_proven else Guilt.FRAUD
    if not is_all_audited and count(Verdict.BAD) + cheat + missing >= sizes.quorum:
        return Guilt.DEVIATION
    return Guilt.NONE


def may_be_guilty(verdicts: Sequence[Verdict], silent: int, sizes: VoteSizes) -> bool:
    """Whether an audited commitment is guilty, or may become so by late verdicts.

    Args:
        verdicts: One from each validator that voted in time.
        silent: The number of validators that did not vote in time.
        sizes: The sizes of the set that judges the ballot.
    """
    if verdicts.count(Verdict.OK) > sizes.max_faulty:
        return False
    against = (Verdict.CHEAT, Verdict.MISSING, Verdict.UNCHECKED)
    return sum(map(verdicts.count, against)) + silent >= sizes.quorum


def is_late_delivery(*, is_cause: bool, missing: int, sizes: VoteSizes) -> bool:
    """Whether a commitment of a failed ballot costs its miner a part of its pay.

    It made the ballot fail, and more than f validators could not get the gradient, so an honest one
    could not: it came so late.

    Args:
        is_cause: Whether this commitment needs another ballot. If others made the ballot fail, it
            does not matter what this one lacked.
        missing: The number of validators that could not get it.
        sizes: The sizes of the set that judges the ballot.
    """
    return is_cause and missing > sizes.max_faulty
