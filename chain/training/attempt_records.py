"""An attempt as the chain tells it: commitments, votes, and what follows its end.

docs/spec/training.md, section 10, says what the records mean; history.py folds them from events.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from chain.contracts.gradient_ledger import (
    RING,
    LateVerdictPosted,
    ResultVote,
    compute_late_blocks,
    compute_window_blocks,
)
from chain.contracts.miner_seats import FineKind, FinesApproved, FinesPosted, MinerFined
from chain.primitives import Address, BlockNumber, Hash32
from chain.training.acceptance import Verdict, decode_verdicts, list_by_commitment
from chain.training.attempt import AttemptId
from chain.training.decisions import (
    VoteSizes,
    decide_audited,
    is_late_delivery,
    may_be_guilty,
    needs_another_ballot,
)
from chain.types.validator_set import ValidatorSet


@dataclass(frozen=True, slots=True)
class CommitmentRecord:
    """One commitment of an attempt; its index is its position in `Attempt.commitments`."""

    miner: Address
    units: int
    commitment: Hash32
    block_number: BlockNumber


@dataclass(frozen=True, slots=True)
class VerdictRecord:
    """One validator's verdicts on all commitments of the ballot."""

    validator: Address
    is_timely: bool
    """Whether it was posted in the verdict phase. A later verdict counts for fines only."""
    verdicts: bytes
    """As `encode_verdicts` writes them."""
    block_number: BlockNumber


@dataclass(frozen=True, slots=True)
class ResultRecord:
    """One validator's latest vote for the outcome of the ballot."""

    validator: Address
    vote: ResultVote
    correct_count: int | None
    """Correct answers on the held-out split; None if the validator did not evaluate."""
    loss_millinats: int
    block_number: BlockNumber


@dataclass(frozen=True, slots=True)
class Attempt:
    """One assignment and commitment of a round, with the votes of its ballot in progress."""

    id: AttemptId
    ballot: int
    ballot_number: int
    """The number of the ballot in its task, from 1."""
    ordinal: int
    """The number of the attempt in its task, from 1. The contracts keep fines under it."""
    open_block: BlockNumber
    open_timestamp: int
    expected_count: int
    """The number of commitments that were expected when the attempt opened."""
    theta_root: Hash32
    """The root of the model that the round starts from."""
    commitments: tuple[CommitmentRecord, ...] = ()
    verdicts: tuple[VerdictRecord, ...] = ()
    """At most one from each validator, in the order in which they were posted."""
    results: tuple[ResultRecord, ...] = ()
    """The latest from each validator."""
    validator_set: ValidatorSet | None = None
    """The validators that judge the ballot: the set at its first verdict; None before that."""
    late_deliveries: tuple[int, ...] = ()
    """The indices of the commitments that came so late that a ballot failed. They lose an eighth of
    their pay, once."""

    @property
    def timely_voters(self) -> int:
        """Which judges gave a timely verdict: bit i stands for the judge with index i."""
        judges = () if self.validator_set is None else self.validator_set.validators
        timely = {record.validator for record in self.verdicts if record.is_timely}
        return sum(1 << index for index, judge in enumerate(judges) if judge in timely)


@dataclass(frozen=True, slots=True)
class EndedMark:
    """The entry in a task's history for an attempt that may still be fined.

    The attempt itself is an `EndedAttempt`. It can be large and is seldom needed, so it is stored
    apart from the history.
    """

    attempt_id: AttemptId
    ordinal: int
    changed_block: BlockNumber
    """The block of the attempt's latest event. The stored attempt changes only when this does."""
    late_until: BlockNumber
    """The last block that takes late verdicts."""
    slashed_until: BlockNumber
    """The last block that takes slashes."""


@dataclass(frozen=True, slots=True)
class ApprovedFines:
    """A root of fines with a quorum."""

    root: Hash32
    is_closing: bool
    """Whether a quorum voted for it after the window for late verdicts."""
    block_number: BlockNumber


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """An attempt that has ended and may still be fined, with the votes of its last ballot."""

    attempt: Attempt
    block_number: BlockNumber
    """The block that ended it."""
    validator_set: ValidatorSet
    """The validators that judge it."""
    late_until: BlockNumber
    """The last block that takes late verdicts."""
    voted_until: BlockNumber
    """The last block that takes votes on fines."""
    slashed_until: BlockNumber
    """The last block that takes slashes."""
    late_verdicts: tuple[tuple[Address, bytes], ...] = ()
    """Verdicts on the last ballot that came after the end, with their validators."""
    fines_votes: tuple[tuple[Address, bool], ...] = ()
    """The votes on fines: validators, and whether they were closing votes."""
    approved: tuple[ApprovedFines, ...] = ()
    imposed: tuple[tuple[Address, FineKind], ...] = ()
    """The fines that miners have paid."""


def list_accused(attempt: Attempt, validator_set: ValidatorSet) -> tuple[int, ...]:
    """The indices of the commitments that are guilty, or that late verdicts may still find guilty.

    There are none if the ballot has no verdict: the ledger then has no record of the ballot, and
    takes no late verdicts on it.
    """
    if not attempt.verdicts:
        return ()
    count = len(attempt.commitments)
    sizes = VoteSizes(validator_set.max_faulty, validator_set.quorum)
    votes = [decode_verdicts(each.verdicts, count) for each in attempt.verdicts if each.is_timely]
    silent = len(validator_set.validators) - len(votes)
    return tuple(
        index
        for index, verdicts in enumerate(list_by_commitment(votes, count))
        if may_be_guilty(verdicts, silent, sizes)
    )


def end_attempt(
    attempt: Attempt,
    block_number: BlockNumber,
    verdict_seconds: int,
    validator_set: ValidatorSet,
) -> EndedAttempt | None:
    """The attempt as it ends in this block; None if no miner can be fined for it.

    Args:
        attempt: The attempt.
        block_number: This block.
        verdict_seconds: The length of the verdict phase, on which the window for late verdicts
            depends.
        validator_set: The validators in force; used if the attempt has no judges of its own.
    """
    validator_set = attempt.validator_set or validator_set
    if not list_accused(attempt, validator_set):
        return None
    window = compute_window_blocks(validator_set.quorum)
    late_until = block_number + compute_late_blocks(validator_set.quorum, verdict_seconds)
    return EndedAttempt(
        attempt=attempt,
        block_number=block_number,
        validator_set=validator_set,
        late_until=BlockNumber(late_until),
        voted_until=BlockNumber(late_until + window),
        slashed_until=BlockNumber(late_until + 2 * window),
    )


def add_mark(
    marks: Sequence[EndedMark], ordinal: int, ended: EndedAttempt | None, block_number: BlockNumber
) -> tuple[EndedMark, ...]:
    """The entries of the attempts that may still be fined, after a further one ends in this block.

    Args:
        marks: The entries of attempts that ended before.
        ordinal: The ordinal of the attempt that ends.
        ended: The attempt that ends; None if none of its miners can be fined.
        block_number: This block.
    """
    oldest = ordinal - RING + 1
    kept = tuple(
        each for each in marks if block_number <= each.slashed_until and each.ordinal >= oldest
    )
    return kept if ended is None else (*kept, build_mark(ended, block_number))


def build_mark(ended: EndedAttempt, changed_block: BlockNumber) -> EndedMark:
    """The entry of an ended attempt whose latest event is in `changed_block`."""
    attempt = ended.attempt
    return EndedMark(
        attempt.id, attempt.ordinal, changed_block, ended.late_until, ended.slashed_until
    )


def apply_to_ended(
    ended: EndedAttempt,
    event: LateVerdictPosted | FinesPosted | FinesApproved | MinerFined,
    block_number: BlockNumber,
) -> EndedAttempt:
    """The ended attempt after a late verdict, a vote on its fines or a fine."""
    match event:
        case LateVerdictPosted():
            late = (event.validator, event.verdicts)
            return replace(ended, late_verdicts=(*ended.late_verdicts, late))
        case FinesPosted():
            vote = (event.validator, event.is_closing)
            return replace(ended, fines_votes=(*ended.fines_votes, vote))
        case FinesApproved():
            approved = ApprovedFines(event.root, event.is_closing, block_number)
            return replace(ended, approved=(*ended.approved, approved))
        case MinerFined():
            return replace(ended, imposed=(*ended.imposed, (event.miner, event.kind)))
        case _:
            assert_never(event)


def add_late_deliveries(attempt: Attempt, validator_set: ValidatorSet) -> tuple[int, ...]:
    """The attempt's late deliveries, together with those of its ballot, which has just failed."""
    validator_set = attempt.validator_set or validator_set
    sizes = VoteSizes(validator_set.max_faulty, validator_set.quorum)
    count = len(attempt.commitments)
    votes = [decode_verdicts(each.verdicts, count) for each in attempt.verdicts if each.is_timely]
    late = list(attempt.late_deliveries)
    for index, verdicts in enumerate(list_by_commitment(votes, count)):
        outcome = decide_audited(verdicts, sizes)
        ok, unchecked = verdicts.count(Verdict.OK), verdicts.count(Verdict.UNCHECKED)
        is_cause = needs_another_ballot(outcome, ok, unchecked, sizes)
        missing = verdicts.count(Verdict.MISSING)
        if is_late_delivery(is_cause=is_cause, missing=missing, sizes=sizes):
            late.append(index)
    return tuple(dict.fromkeys(late))
