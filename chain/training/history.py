"""A task's history, folded from the contracts' events (docs/spec/training.md, section 10).

This fold is the only interpretation of the events: the training host decides by it, JSON-RPC shows
it, and `pot task verify` repeats it.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from chain.contracts.events import Event
from chain.contracts.gradient_ledger import (
    MAX_BALLOTS,
    AttemptOpened,
    AttemptPaid,
    AttemptVoided,
    BallotFailed,
    GradientCommitted,
    LateVerdictPosted,
    ResultKind,
    ResultPosted,
    ResultVote,
    RoundSettled,
    VerdictPosted,
)
from chain.contracts.miner_seats import FinesApproved, FinesPosted, MinerFined
from chain.contracts.task_registry import (
    CloseReason,
    TaskActivated,
    TaskAnswered,
    TaskClosed,
    TaskFeeRefunded,
    TaskLease,
    TaskLeased,
    TaskPaused,
    TaskResumed,
    TaskStatus,
    TaskSubmitted,
)
from chain.primitives import ZERO_HASH, Address, BlockNumber, Hash32, TaskId
from chain.training.acceptance import Verdict, decode_verdicts, list_by_commitment
from chain.training.attempt import AttemptId
from chain.training.attempt_records import (
    Attempt,
    CommitmentRecord,
    EndedAttempt,
    EndedMark,
    ResultRecord,
    VerdictRecord,
    add_late_deliveries,
    add_mark,
    apply_to_ended,
    end_attempt,
)
from chain.training.decisions import (
    UNCHECKED_SHARE,
    Guilt,
    Outcome,
    VoteSizes,
    compute_guilt,
    decide_audited,
    needs_another_ballot,
)
from chain.training.fines import compute_pay
from chain.training.leases import (
    NO_LEASE,
    READY_CODE,
    is_expired,
    note_payout,
    note_progress,
    pay_answer,
    refund_fee,
    return_attempt,
    use_attempt,
)
from chain.training.task_spec import TaskSpec
from chain.types.validator_set import ValidatorSet


@dataclass(frozen=True, slots=True)
class BlockContext:
    """The block that holds an event."""

    number: BlockNumber
    timestamp: int
    """Seconds since the Unix epoch."""


@dataclass(frozen=True, slots=True)
class SettledRound:
    """A settled round with the votes that led to its result."""

    attempt: Attempt
    vote: ResultVote
    block_number: BlockNumber
    timestamp: int


@dataclass(frozen=True, slots=True)
class TaskHistory:
    """A task according to the finalized chain."""

    task_id: TaskId
    submitter: Address
    spec_hash: Hash32
    spec: bytes
    """The submitted bytes; they need not be a valid specification."""
    budget: int
    submitted_block: BlockNumber
    status: TaskStatus = TaskStatus.PENDING
    close_reason: CloseReason | None = None
    closed: BlockContext | None = None
    """The block that closed the task; None while it is open."""
    ready: tuple[Address, ...] = ()
    """The validators that answered that they are ready, in the order of the chain."""
    refusals: tuple[tuple[Address, int], ...] = ()
    """The validators that refused, with their codes, in the order of the chain."""
    lease: TaskLease = NO_LEASE
    """What was bought for the task."""
    rounds_settled: int = 0
    training_state_root: Hash32 = ZERO_HASH
    """The root after the last settled round; zero before the first."""
    model_root: Hash32 = ZERO_HASH
    attempt: Attempt | None = None
    """The attempt in progress; None if there is none."""
    ballot_count: int = 0
    """The number of ballots so far, including the one in progress."""
    ended: tuple[EndedMark, ...] = ()
    """The attempts that may still be fined, in the order of the chain."""

    @property
    def is_closed(self) -> bool:
        """Whether the task is over for good."""
        return self.status is TaskStatus.CLOSED

    def has_answered(self, validator: Address) -> bool:
        """Whether a validator said that it is ready, or why not."""
        return self.get_answer(validator) is not None

    def get_answer(self, validator: Address) -> int | None:
        """The answer of a validator: 0 for ready, else why not; None if it gave none."""
        if validator in self.ready:
            return READY_CODE
        return next((code for each, code in self.refusals if each == validator), None)

    def is_expired(self, number: int, now: int) -> bool:
        """Whether the task is over in a block with this number and time, and not closed yet."""
        is_open = self.attempt is not None
        return is_expired(self.status, self.lease, is_attempt_open=is_open, number=number, now=now)


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """The consequences of a ballot's verdicts."""

    kind: ResultKind
    """What the ballot does to its attempt, if a quorum posts its result in time."""
    outcomes: tuple[Outcome, ...]
    """One for each commitment, in order."""
    guilt: tuple[Guilt, ...]
    """The cost of each commitment to its miner."""
    accepted_units: int
    forfeited: int
    """The part of the accepted units' pay that late deliveries lose."""
    payouts: tuple[tuple[Address, int], ...]
    """Miners' pay and operators' fee shares of this attempt alone, by ascending address."""
    timely_voters: int
    """Which judges gave these verdicts: bit i stands for the judge with index i."""

    @property
    def accepted(self) -> tuple[int, ...]:
        """The indices of the accepted commitments."""
        return tuple(i for i, each in enumerate(self.outcomes) if each is Outcome.ACCEPTED)

    @property
    def payout(self) -> int:
        """What the attempt pays in all."""
        return sum(pay for _, pay in self.payouts)

    @property
    def guilty(self) -> tuple[int, ...]:
        """The indices of the commitments that cost their miners something."""
        return tuple(i for i, each in enumerate(self.guilt) if each is not Guilt.NONE)


def compute_outcome(attempt: Attempt, spec: TaskSpec, validator_set: ValidatorSet) -> RoundOutcome:
    """The consequences of the timely verdicts of the ballot in progress.

    Args:
        attempt: The attempt with its verdicts.
        spec: The task's specification.
        validator_set: The validators in force; used if the attempt has no judges of its own yet.
    """
    validator_set = attempt.validator_set or validator_set
    timely = [record for record in attempt.verdicts if record.is_timely]
    count = len(attempt.commitments)
    sizes = VoteSizes(validator_set.max_faulty, validator_set.quorum)
    votes = [decode_verdicts(record.verdicts, count) for record in timely]
    by_commitment = list_by_commitment(votes, count)
    outcomes = tuple(decide_audited(verdicts, sizes) for verdicts in by_commitment)
    is_last = attempt.ballot + 1 == MAX_BALLOTS
    is_failed = not is_last and any(
        needs_another_ballot(
            outcome, verdicts.count(Verdict.OK), verdicts.count(Verdict.UNCHECKED), sizes
        )
        for outcome, verdicts in zip(outcomes, by_commitment, strict=True)
    )
    if is_failed:
        kind = ResultKind.FAILED
    elif Outcome.ACCEPTED in outcomes:
        kind = ResultKind.SETTLED
    else:
        kind = ResultKind.VOID
    payouts: Counter[Address] = Counter()
    accepted_units = forfeited = 0
    if kind is ResultKind.SETTLED:
        price, late = spec.reward.unit_price, frozenset(attempt.late_deliveries)
        for index, record in enumerate(attempt.commitments):
            if outcomes[index] is Outcome.ACCEPTED:
                accepted_units += record.units
                pay = compute_pay(record.units, price, is_late=index in late)
                forfeited += record.units * price - pay
                payouts[record.miner] += pay
        operator_of = dict(zip(validator_set.validators, validator_set.operators, strict=True))
        earners = [
            operator_of[record.validator]
            for record, vote in zip(timely, votes, strict=True)
            if _earns_fee(vote, outcomes)
        ]
        for operator in earners:
            payouts[operator] += spec.reward.validator_fee // len(earners)
    return RoundOutcome(
        kind=kind,
        outcomes=outcomes,
        guilt=tuple(
            compute_guilt(verdicts, sizes, is_all_audited=True) for verdicts in by_commitment
        ),
        accepted_units=accepted_units,
        forfeited=forfeited,
        payouts=tuple(sorted((account, pay) for account, pay in payouts.items() if pay)),
        timely_voters=attempt.timely_voters,
    )


def _earns_fee(vote: Sequence[Verdict], outcomes: Sequence[Outcome]) -> bool:
    """Whether a timely vote earns its validator a share of the fee.

    It does not if the validator left too much unchecked, or called an accepted gradient a cheat.
    """
    if vote.count(Verdict.UNCHECKED) > max(1, len(vote) // UNCHECKED_SHARE):
        return False
    if Verdict.CHEAT not in vote:
        return True
    return not any(
        verdict is Verdict.CHEAT and outcome is Outcome.ACCEPTED
        for verdict, outcome in zip(vote, outcomes, strict=True)
    )


def add_rewards(
    earned: Mapping[Address, int], payouts: Sequence[tuple[Address, int]]
) -> dict[Address, int]:
    """Cumulative rewards after a round."""
    total = dict(earned)
    for account, pay in payouts:
        total[account] = total.get(account, 0) + pay
    return total


def get_lower_median(values: Sequence[int]) -> int | None:
    """The median, or the lower middle of an even number of values; None if there are none."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2] if ordered else None


def get_evaluation(settled: SettledRound) -> tuple[int, int] | None:
    """The lower medians of correct count and loss (millinats) among the votes for the result.

    None if none of these validators evaluated.
    """
    records = [
        record
        for record in settled.attempt.results
        if record.correct_count is not None and record.vote == settled.vote
    ]
    correct = get_lower_median([r.correct_count for r in records if r.correct_count is not None])
    loss = get_lower_median([record.loss_millinats for record in records])
    return None if correct is None or loss is None else (correct, loss)


def build_history(event: TaskSubmitted, block: BlockContext) -> TaskHistory:
    """The history of a task at its submission."""
    return TaskHistory(
        task_id=event.task_id,
        submitter=event.submitter,
        spec_hash=event.spec_hash,
        spec=event.spec,
        budget=event.budget,
        submitted_block=block.number,
    )


@dataclass(frozen=True, slots=True)
class Fold:
    """What one event changes: a task's history, and the rows that are stored beside it."""

    history: TaskHistory
    settled: SettledRound | None = None
    """The round that the event settled, if it settled one."""
    ended: EndedAttempt | None = None
    """The attempt that the event ended or changed, if it may still be fined; else None."""
    payouts: tuple[tuple[Address, int], ...] = ()
    """What the event pays to each account, by ascending account."""
    is_unexplained: bool = False
    """Whether a quorum settled a payout that does not follow from the verdicts. Then `payouts` is
    empty: what is credited to accounts must never exceed what was paid in."""


def apply_event(
    history: TaskHistory,
    event: Event,
    block: BlockContext,
    *,
    spec: TaskSpec | None,
    validator_set: ValidatorSet,
    find_ended: Callable[[int], EndedAttempt | None] = lambda _ordinal: None,
) -> Fold:
    """The history after one event of its task.

    Args:
        history: The history before the event.
        event: An event of this task; events come in the order of the chain.
        block: The block that holds the event.
        spec: The task's specification; None if the submitted bytes are invalid. Such a task never
            becomes active, for no honest validator posts ready.
        validator_set: The validators of that block.
        find_ended: Returns an attempt that `history.ended` names, by its ordinal.
    """
    match event:
        case RoundSettled() if history.attempt is not None:
            assert spec is not None, "an active task has a valid specification"
            return _settle_round(history, history.attempt, event, block, spec, validator_set)
        case AttemptPaid() if history.attempt is not None:
            assert spec is not None, "an active task has a valid specification"
            lease = note_payout(history.lease, event.result.payout, block.number, block.timestamp)
            fold = Fold(replace(history, lease=lease))
            return _add_payouts(fold, history.attempt, event.result, spec, validator_set)
        case TaskLeased() | TaskAnswered() | TaskFeeRefunded():
            return Fold(_apply_to_lease(history, event, block))
        case LateVerdictPosted() | FinesPosted() | FinesApproved() | MinerFined():
            return _apply_to_fines(history, event, block, find_ended)
        case TaskActivated() | TaskResumed() | TaskPaused() | TaskClosed():
            return Fold(_apply_to_status(history, event, block))
        case AttemptOpened():
            return Fold(_open_attempt(history, event, block, spec))
        case AttemptVoided():
            return _void_attempt(history, block, spec, validator_set)
        case GradientCommitted() | VerdictPosted() | ResultPosted() | BallotFailed():
            if history.attempt is None:
                return Fold(history)
            attempt = _apply_to_attempt(history.attempt, event, block, validator_set)
            return Fold(
                replace(
                    history,
                    attempt=attempt,
                    ballot_count=attempt.ballot_number,
                )
            )
        case _:
            return Fold(history)


def _apply_to_lease(
    history: TaskHistory, event: TaskLeased | TaskAnswered | TaskFeeRefunded, block: BlockContext
) -> TaskHistory:
    if isinstance(event, TaskLeased):
        return replace(history, lease=event.lease)
    if isinstance(event, TaskFeeRefunded):
        lease = refund_fee(history.lease, history.status, block.number, block.timestamp)
        return replace(history, lease=lease)
    paid = replace(history, lease=pay_answer(history.lease))
    if event.code == READY_CODE:
        return replace(paid, ready=(*history.ready, event.validator))
    return replace(paid, refusals=(*history.refusals, (event.validator, event.code)))


def _apply_to_status(
    history: TaskHistory,
    event: TaskActivated | TaskResumed | TaskPaused | TaskClosed,
    block: BlockContext,
) -> TaskHistory:
    match event:
        case TaskActivated():
            return replace(history, status=TaskStatus.ACTIVE)
        case TaskResumed():
            lease = note_progress(history.lease, block.number, block.timestamp)
            return replace(history, status=TaskStatus.ACTIVE, lease=lease)
        case TaskPaused():
            return replace(history, status=TaskStatus.PAUSED)
        case TaskClosed():
            reason, lease = CloseReason(event.reason), history.lease
            if reason is CloseReason.REFUSED:
                lease = replace(lease, refusal_code=history.refusals[-1][1])
            return replace(
                history,
                status=TaskStatus.CLOSED,
                close_reason=reason,
                closed=block,
                attempt=None,
                lease=lease,
            )
        case _:
            assert_never(event)


def _apply_to_fines(
    history: TaskHistory,
    event: LateVerdictPosted | FinesPosted | FinesApproved | MinerFined,
    block: BlockContext,
    find_ended: Callable[[int], EndedAttempt | None],
) -> Fold:
    mark = next((each for each in history.ended if each.ordinal == event.ordinal), None)
    if mark is None:
        return Fold(history)
    ended = find_ended(event.ordinal)
    assert ended is not None, "an attempt that the history names is kept"
    changed = apply_to_ended(ended, event, block.number)
    marks = tuple(
        replace(each, changed_block=block.number) if each is mark else each
        for each in history.ended
    )
    return Fold(replace(history, ended=marks), ended=changed)


def _void_attempt(
    history: TaskHistory,
    block: BlockContext,
    spec: TaskSpec | None,
    validator_set: ValidatorSet,
) -> Fold:
    attempt, lease = history.attempt, history.lease
    if attempt is not None and not attempt.commitments:
        lease = return_attempt(lease, block.number, block.timestamp)
    after = replace(history, attempt=None, lease=lease)
    if attempt is None or spec is None:
        return Fold(after)
    return _end_attempt(after, attempt, block, spec, validator_set)


def _end_attempt(
    after: TaskHistory,
    attempt: Attempt,
    block: BlockContext,
    spec: TaskSpec,
    validator_set: ValidatorSet,
) -> Fold:
    ended = end_attempt(attempt, block.number, spec.phases.verdict_seconds, validator_set)
    marks = add_mark(after.ended, attempt.ordinal, ended, block.number)
    return Fold(replace(after, ended=marks), ended=ended)


def _open_attempt(
    history: TaskHistory, event: AttemptOpened, block: BlockContext, spec: TaskSpec | None
) -> TaskHistory:
    opened = Attempt(
        id=AttemptId(event.task_id, event.round, event.attempt),
        ballot=0,
        ballot_number=history.ballot_count + 1,
        ordinal=event.ordinal,
        open_block=block.number,
        open_timestamp=block.timestamp,
        expected_count=event.expected_commitments,
        theta_root=ZERO_HASH if spec is None else get_theta_root(history, spec),
    )
    return replace(
        history,
        attempt=opened,
        ballot_count=opened.ballot_number,
        lease=use_attempt(history.lease),
    )


def get_quorum_vote(attempt: Attempt, validator_set: ValidatorSet) -> ResultVote | None:
    """The result that a quorum posted in the ballot in progress; None if there is none."""
    for record in attempt.results:
        equal = sum(other.vote == record.vote for other in attempt.results)
        if equal >= validator_set.quorum:
            return record.vote
    return None


def _apply_to_attempt(
    attempt: Attempt,
    event: GradientCommitted | VerdictPosted | ResultPosted | BallotFailed,
    block: BlockContext,
    validator_set: ValidatorSet,
) -> Attempt:
    match event:
        case GradientCommitted():
            assert event.index == len(attempt.commitments)
            commitment = CommitmentRecord(event.miner, event.units, event.commitment, block.number)
            return replace(attempt, commitments=(*attempt.commitments, commitment))
        case VerdictPosted():
            return _add_verdict(attempt, event, block, validator_set)
        case ResultPosted():
            return _add_result(attempt, event, block)
        case BallotFailed():
            if event.ballot + 1 == MAX_BALLOTS:
                # AttemptVoided follows. The verdicts of this ballot are judged as the last ones.
                return attempt
            return replace(
                attempt,
                late_deliveries=add_late_deliveries(attempt, validator_set),
                ballot=event.ballot + 1,
                ballot_number=attempt.ballot_number + 1,
                verdicts=(),
                results=(),
                validator_set=None,
            )
        case _:
            assert_never(event)


def _add_verdict(
    attempt: Attempt, event: VerdictPosted, block: BlockContext, validator_set: ValidatorSet
) -> Attempt:
    if not _is_current(attempt, event):
        return attempt
    verdict = VerdictRecord(event.validator, event.timely, event.verdicts, block.number)
    return replace(
        attempt,
        verdicts=(*attempt.verdicts, verdict),
        validator_set=attempt.validator_set or validator_set,
    )


def _add_result(attempt: Attempt, event: ResultPosted, block: BlockContext) -> Attempt:
    if not _is_current(attempt, event):
        return attempt
    others = (record for record in attempt.results if record.validator != event.validator)
    result = ResultRecord(
        validator=event.validator,
        vote=event.result,
        correct_count=event.correct_count,
        loss_millinats=event.loss_millinats,
        block_number=block.number,
    )
    return replace(attempt, results=(*others, result))


def _is_current(attempt: Attempt, event: VerdictPosted | ResultPosted) -> bool:
    voted_on = AttemptId(event.task_id, event.round, event.attempt)
    return (voted_on, event.ballot) == (attempt.id, attempt.ballot)


def _settle_round(
    history: TaskHistory,
    attempt: Attempt,
    event: RoundSettled,
    block: BlockContext,
    spec: TaskSpec,
    validator_set: ValidatorSet,
) -> Fold:
    after = replace(
        history,
        rounds_settled=event.round + 1,
        training_state_root=event.result.training_state_root,
        model_root=event.result.model_root,
        attempt=None,
        lease=note_payout(history.lease, event.result.payout, block.number, block.timestamp),
    )
    settled = SettledRound(attempt, event.result, block.number, block.timestamp)
    fold = _end_attempt(after, attempt, block, spec, validator_set)
    fold = replace(fold, settled=settled)
    return _add_payouts(fold, attempt, event.result, spec, validator_set)


def _add_payouts(
    fold: Fold, attempt: Attempt, vote: ResultVote, spec: TaskSpec, validator_set: ValidatorSet
) -> Fold:
    """The fold with what a settled result pays, if that follows from the ballot's verdicts."""
    outcome = compute_outcome(attempt, spec, validator_set)
    settled = vote.timely_voters, vote.accepted_units, vote.payout
    if settled != (outcome.timely_voters, outcome.accepted_units, outcome.payout):
        return replace(fold, is_unexplained=True)
    return replace(fold, payouts=outcome.payouts)


def get_theta_root(history: TaskHistory, spec: TaskSpec) -> Hash32:
    """The root of the model that the round in progress starts from."""
    return history.model_root if history.rounds_settled else spec.initial_weights
