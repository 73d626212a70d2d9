"""The decisions of a ballot with two votes (docs/spec/training.md, section 5).

A commitment that any validator drew is decided by the verdicts of the second vote, the others by
what validators hold. decisions.py has the rules for one commitment; here they meet in one ballot.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from chain.primitives import Address
from chain.training.acceptance import Verdict
from chain.training.availability import Availability
from chain.training.decisions import (
    LATE_VERDICTS,
    UNCHECKED_SHARE,
    Guilt,
    Outcome,
    VoteSizes,
    compute_guilt,
    decide_audited,
    decide_unaudited,
    is_late_delivery,
    needs_another_ballot,
)
from chain.training.task_spec import PPM


@dataclass(frozen=True, slots=True)
class SampledBallot:
    """The timely votes of a ballot.

    Attributes:
        words: The first vote of each validator: one word for each commitment.
        audited: The indices of the commitments that any validator drew, ascending.
        verdicts: The second vote of each validator: one verdict for each audited commitment.
        excused: The audited commitments on which *missing* is read as *unchecked*: in time, f + 1
            validators signed that they hold the complete trajectory.
    """

    words: Mapping[Address, tuple[Availability, ...]]
    audited: tuple[int, ...]
    verdicts: Mapping[Address, tuple[Verdict, ...]]
    excused: frozenset[int]


@dataclass(frozen=True, slots=True)
class SampledOutcome:
    """What the votes of a ballot decide.

    Attributes:
        outcomes: One for each commitment, in order.
        is_failed: Whether the attempt goes on with a further ballot.
        guilt: What each commitment costs its miner; nothing after a failed ballot.
        late: The indices of the commitments that came so late that the ballot failed.
        earners: The validators that earn a share of the fee, if a gradient is accepted.
    """

    outcomes: tuple[Outcome, ...]
    is_failed: bool
    guilt: tuple[Guilt, ...]
    late: tuple[int, ...]
    earners: tuple[Address, ...]


def decide_sampled_ballot(
    ballot: SampledBallot, commitment_count: int, sizes: VoteSizes, *, is_last: bool
) -> SampledOutcome:
    """The consequences of the timely votes of a ballot.

    Args:
        ballot: The votes.
        commitment_count: The number of commitments of the attempt.
        sizes: The sizes of the set that judges the ballot.
        is_last: Whether the attempt has no further ballot; such a ballot never fails.
    """
    decided = [_decide(ballot, index, sizes) for index in range(commitment_count)]
    is_failed = not is_last and any(each.needs_another_ballot for each in decided)
    outcomes = tuple(each.outcome for each in decided)
    return SampledOutcome(
        outcomes=outcomes,
        is_failed=is_failed,
        guilt=tuple(Guilt.NONE if is_failed else each.guilt for each in decided),
        late=tuple(i for i, each in enumerate(decided) if is_failed and each.is_late),
        earners=tuple(
            validator
            for validator in sorted(ballot.words)
            if _earns_fee(ballot, validator, outcomes)
        ),
    )


@dataclass(frozen=True, slots=True)
class _Decision:
    outcome: Outcome
    guilt: Guilt
    needs_another_ballot: bool
    is_late: bool


def _decide(ballot: SampledBallot, index: int, sizes: VoteSizes) -> _Decision:
    if index not in ballot.audited:
        words = [vote[index] for vote in ballot.words.values()]
        outcome = decide_unaudited(words, sizes)
        held, unchecked = words.count(Availability.HELD), words.count(Availability.UNCHECKED)
        is_cause = needs_another_ballot(outcome, held, unchecked, sizes)
        unavailable = words.count(Availability.UNAVAILABLE)
        return _Decision(
            outcome,
            compute_unaudited_guilt(words, sizes),
            is_cause,
            is_late_delivery(is_cause=is_cause, missing=unavailable, sizes=sizes),
        )
    place = ballot.audited.index(index)
    said = [vote[place] for vote in ballot.verdicts.values()]
    verdicts = excuse_missing(said) if index in ballot.excused else tuple(said)
    outcome = decide_audited(verdicts, sizes)
    ok, unchecked = verdicts.count(Verdict.OK), verdicts.count(Verdict.UNCHECKED)
    is_cause = needs_another_ballot(outcome, ok, unchecked, sizes)
    return _Decision(
        outcome,
        compute_guilt(verdicts, sizes, is_all_audited=False),
        is_cause,
        # As it was said: receipts excuse no delivery so late that it made the ballot fail.
        is_late_delivery(is_cause=is_cause, missing=said.count(Verdict.MISSING), sizes=sizes),
    )


def compute_unaudited_guilt(words: Iterable[Availability], sizes: VoteSizes) -> Guilt:
    """The cost to its miner of a commitment that no validator drew: at most a miss.

    Args:
        words: One from each validator that voted in time.
        sizes: The sizes of the set that judges the ballot.
    """
    is_missed = decide_unaudited(words, sizes) is Outcome.MISSED
    return Guilt.MISS if is_missed else Guilt.NONE


def excuse_missing(verdicts: Iterable[Verdict]) -> tuple[Verdict, ...]:
    """The verdicts on a commitment if f + 1 validators signed that they hold its trajectory.

    At least one of the signers is honest: it holds all bytes and serves them. A validator that
    still lacks them was cut off, and that is not the miner's fault. So *missing* is read as
    *unchecked*; no other verdict changes.
    """
    return tuple(
        Verdict.UNCHECKED if verdict is Verdict.MISSING else verdict for verdict in verdicts
    )


def add_late_verdicts(
    verdicts: Mapping[Address, Verdict], late: Iterable[tuple[Address, Verdict]]
) -> tuple[Verdict, ...]:
    """The verdicts on an audited commitment that count for guilt, and for nothing else.

    In a set of 3k + 1 a quorum is every honest validator. So one that is shut out of the phase must
    be able to speak later, or guilt could not be reached. A late verdict stands for one that is
    absent or *unchecked*; it changes no other verdict, and a validator gives one only.

    Args:
        verdicts: The timely verdicts by validator, after receipts excused what is missing.
        late: Late verdicts, in the order of the chain.
    """
    final = dict(verdicts)
    for validator, verdict in late:
        is_open = final.get(validator, Verdict.UNCHECKED) is Verdict.UNCHECKED
        if is_open and verdict in LATE_VERDICTS:
            final[validator] = verdict
    return tuple(final[validator] for validator in sorted(final))


def _earns_fee(ballot: SampledBallot, validator: Address, outcomes: Sequence[Outcome]) -> bool:
    """Whether a validator that cast the first vote in time earns a share of the fee.

    It must also cast the second one in time, if anything is audited. In that vote no commitment may
    stay unchecked if there are fewer than four: these few are all that a lazy validator could skip.
    """
    words = ballot.words[validator]
    if words.count(Availability.UNCHECKED) > max(1, len(words) // UNCHECKED_SHARE):
        return False
    if not ballot.audited:
        return True
    verdicts = ballot.verdicts.get(validator)
    if verdicts is None:
        return False
    if verdicts.count(Verdict.UNCHECKED) > len(verdicts) // UNCHECKED_SHARE:
        return False
    return not any(
        verdict is Verdict.CHEAT and outcomes[index] is Outcome.ACCEPTED
        for index, verdict in zip(ballot.audited, verdicts, strict=True)
    )


def compute_deviation_fine(round_pay: int, audit_ppm: int) -> int:
    """The cost of a deviation: 1/p - 1 times the pay for a round, rounded up.

    Who is paid for gradients outside the tolerance, whenever they are not audited, gains nothing.
    """
    return -(-round_pay * (PPM - audit_ppm) // audit_ppm)


def compute_bond(round_pay: int, audit_ppm: int) -> int:
    """The part of a bond that answers for fraud: 2/p - 1 times the pay for a round, rounded up.

    A fraud that is audited with probability p then loses twice what it can gain.
    """
    return -(-round_pay * (2 * PPM - audit_ppm) // audit_ppm)
