"""What the final chain says of a task, folded event by event (docs/spec/training.md, section 10).

The fold is the only reading of the events: the training host decides by it, JSON-RPC shows it, and
`pot task verify` replays it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, assert_never

from chain.contracts.events import Event
from chain.contracts.gradient_ledger import (
    AttemptOpened,
    AttemptVoided,
    BallotFailed,
    GradientCommitted,
    ResultPosted,
    ResultVote,
    RoundSettled,
    VerdictPosted,
)
from chain.contracts.task_registry import (
    CloseReason,
    TaskActivated,
    TaskClosed,
    TaskPaused,
    TaskReady,
    TaskResumed,
    TaskStatus,
    TaskSubmitted,
)
from chain.primitives import ZERO_HASH, Address, BlockNumber, Hash32, TaskId
from chain.training.acceptance import Outcome, decide, decode_verdicts
from chain.training.attempt import AttemptId
from chain.training.task_spec import (
    TaskSpec,
)
from chain.types.validator_set import ValidatorSet

MAX_BALLOTS: Final = 3
"""The ledger's limit: an attempt whose last ballot fails is void."""


@dataclass(frozen=True, slots=True)
class BlockContext:
    """Where an event stands."""

    number: BlockNumber
    timestamp: int
    """Seconds since the Unix epoch."""


@dataclass(frozen=True, slots=True)
class CommitmentRecord:
    """The i-th commitment of an attempt, i being its place in `Attempt.commitments`."""

    miner: Address
    units: int
    commitment: Hash32
    block_number: BlockNumber


@dataclass(frozen=True, slots=True)
class VerdictRecord:
    """One validator's verdicts on all commitments of the ballot."""

    validator: Address
    is_timely: bool
    """Within the verdict phase: counts for acceptance and pay. Else only for slashing."""
    bitmap: bytes
    block_number: BlockNumber


@dataclass(frozen=True, slots=True)
class ResultRecord:
    """One validator's latest word on the outcome of the ballot."""

    validator: Address
    vote: ResultVote
    correct_count: int | None
    """Of the held-out split; None if it did not evaluate."""
    loss_millinats: int
    block_number: BlockNumber


@dataclass(frozen=True, slots=True)
class Attempt:
    """One assignment and commitment of a round, with the votes of its ballot in progress."""

    id: AttemptId
    ballot: int
    ballot_number: int
    """Counts every ballot of the task from 1; names the evidence that the ledger keeps."""
    open_block: BlockNumber
    open_timestamp: int
    expected_count: int
    """Commitments expected when it opened."""
    commitments: tuple[CommitmentRecord, ...] = ()
    verdicts: tuple[VerdictRecord, ...] = ()
    """In the order they were posted; at most one a validator."""
    results: tuple[ResultRecord, ...] = ()
    """At most one a validator: the latest."""
    validator_set: ValidatorSet | None = None
    """Who judges the ballot: the set in force at its first verdict; None before."""


@dataclass(frozen=True, slots=True)
class SettledRound:
    """A round that is over, with everything that led to its result."""

    attempt: Attempt
    vote: ResultVote
    payout: int
    """Base units of the task's token, for miners and operators together."""
    block_number: BlockNumber
    timestamp: int


@dataclass(frozen=True, slots=True)
class TaskHistory:
    """A task as the finalized chain knows it."""

    task_id: TaskId
    submitter: Address
    spec_hash: Hash32
    spec: bytes
    """Canonical JSON; whether it is a valid specification is the reader's question."""
    budget: int
    submitted_block: BlockNumber
    status: TaskStatus = TaskStatus.PENDING
    close_reason: CloseReason | None = None
    closed: BlockContext | None = None
    """Where it was closed; None before."""
    ready: tuple[Address, ...] = ()
    """Validators that posted ready, in order."""
    rounds_settled: int = 0
    training_state_root: Hash32 = ZERO_HASH
    """After the last settled round; zero before the first."""
    model_root: Hash32 = ZERO_HASH
    attempt: Attempt | None = None
    """The attempt in progress."""
    ballot_count: int = 0
    """Ballots so far, the one in progress included."""
    rewards: tuple[tuple[Address, int], ...] = ()
    """What each account has earned in all, by ascending address."""

    @property
    def is_closed(self) -> bool:
        """Whether the task is over for good."""
        return self.status is TaskStatus.CLOSED


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """What the verdicts of a ballot mean."""

    outcomes: tuple[Outcome, ...]
    """Of each commitment, in order."""
    slashed: tuple[int, ...]
    """Indices of commitments that a quorum called cheat."""
    fined: tuple[int, ...]
    """Indices of commitments that a quorum found unavailable."""
    accepted_units: int
    payouts: tuple[tuple[Address, int], ...]
    """Of this round alone, by ascending address: miners' pay and operators' fee shares."""

    @property
    def accepted(self) -> tuple[int, ...]:
        """Indices of the accepted commitments."""
        return tuple(i for i, each in enumerate(self.outcomes) if each is Outcome.ACCEPTED)


def compute_outcome(attempt: Attempt, spec: TaskSpec, validator_set: ValidatorSet) -> RoundOutcome:
    """What the timely verdicts of the ballot in progress mean for miners and operators.

    Args:
        attempt: With its verdicts.
        spec: Of the task.
        validator_set: The validators in force; whoever judges the attempt counts instead.
    """
    validator_set = attempt.validator_set or validator_set
    timely = [record for record in attempt.verdicts if record.is_timely]
    count = len(attempt.commitments)
    votes = [decode_verdicts(record.bitmap, count) for record in timely]
    decisions = [
        decide([vote[i] for vote in votes], validator_set.max_faulty, validator_set.quorum)
        for i in range(count)
    ]
    payouts: dict[Address, int] = {}
    accepted_units = 0
    for record, decision in zip(attempt.commitments, decisions, strict=True):
        if decision.outcome is Outcome.ACCEPTED:
            accepted_units += record.units
            pay = record.units * spec.reward.unit_price
            payouts[record.miner] = payouts.get(record.miner, 0) + pay
    share = spec.reward.validator_fee // len(timely) if timely else 0
    operator_of = dict(zip(validator_set.validators, validator_set.operators, strict=True))
    for verdict in timely:
        operator = operator_of[verdict.validator]
        payouts[operator] = payouts.get(operator, 0) + share
    return RoundOutcome(
        outcomes=tuple(decision.outcome for decision in decisions),
        slashed=tuple(i for i, decision in enumerate(decisions) if decision.is_slashed),
        fined=tuple(i for i, decision in enumerate(decisions) if decision.is_fined),
        accepted_units=accepted_units,
        payouts=tuple(sorted((account, pay) for account, pay in payouts.items() if pay)),
    )


def add_rewards(
    earned: Sequence[tuple[Address, int]], payouts: Sequence[tuple[Address, int]]
) -> tuple[tuple[Address, int], ...]:
    """Cumulative rewards after a round, by ascending address."""
    total: dict[Address, int] = dict(earned)
    for account, pay in payouts:
        total[account] = total.get(account, 0) + pay
    return tuple(sorted(total.items()))


def get_lower_median(values: Sequence[int]) -> int | None:
    """The middle of an odd number of values, the lower middle of an even one; None of none."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2] if ordered else None


def get_evaluation(settled: SettledRound) -> tuple[int, int] | None:
    """Lower medians of correct count and loss (millinats) of who posted the result, or None."""
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
    """What one event makes of a task's history."""

    history: TaskHistory
    settled: SettledRound | None = None
    """The round that the event settled, if it settled one."""


def apply_event(
    history: TaskHistory,
    event: Event,
    block: BlockContext,
    *,
    spec: TaskSpec | None,
    validator_set: ValidatorSet,
) -> Fold:
    """The history after one event of its task.

    Args:
        history: The history before the event.
        event: An event of this task; events come in the order of the chain.
        block: The block that holds the event.
        spec: The task's specification; None if the submitted bytes are invalid. Such a task never
            becomes active, for no honest validator posts ready.
        validator_set: The validators of that block.
    """
    match event:
        case RoundSettled() if history.attempt is not None:
            assert spec is not None, "an active task has a valid specification"
            return _settle_round(history, history.attempt, event, block, spec, validator_set)
        case TaskReady() | TaskActivated() | TaskResumed() | TaskPaused() | TaskClosed():
            return Fold(_apply_to_status(history, event, block))
        case AttemptOpened() | AttemptVoided():
            return Fold(_apply_to_attempts(history, event, block))
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


def _apply_to_status(
    history: TaskHistory,
    event: TaskReady | TaskActivated | TaskResumed | TaskPaused | TaskClosed,
    block: BlockContext,
) -> TaskHistory:
    match event:
        case TaskReady():
            return replace(history, ready=(*history.ready, event.validator))
        case TaskActivated() | TaskResumed():
            return replace(history, status=TaskStatus.ACTIVE)
        case TaskPaused():
            return replace(history, status=TaskStatus.PAUSED)
        case TaskClosed():
            return replace(
                history,
                status=TaskStatus.CLOSED,
                close_reason=CloseReason(event.reason),
                closed=block,
                attempt=None,
            )
        case _:
            assert_never(event)


def _apply_to_attempts(
    history: TaskHistory, event: AttemptOpened | AttemptVoided, block: BlockContext
) -> TaskHistory:
    if isinstance(event, AttemptVoided):
        return replace(history, attempt=None)
    opened = Attempt(
        id=AttemptId(event.task_id, event.round, event.attempt),
        ballot=0,
        ballot_number=history.ballot_count + 1,
        open_block=block.number,
        open_timestamp=block.timestamp,
        expected_count=event.expected_commitments,
    )
    return replace(history, attempt=opened, ballot_count=opened.ballot_number)


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
                return attempt  # AttemptVoided follows
            return replace(
                attempt,
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
    # A late verdict on an earlier ballot is evidence for slashing, and nothing else.
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
    payouts = compute_outcome(attempt, spec, validator_set).payouts
    after = replace(
        history,
        rounds_settled=event.round + 1,
        training_state_root=event.result.training_state_root,
        model_root=event.result.model_root,
        attempt=None,
        rewards=add_rewards(history.rewards, payouts),
    )
    settled = SettledRound(attempt, event.result, event.payout, block.number, block.timestamp)
    return Fold(after, settled)


def get_rewards(history: TaskHistory) -> Mapping[Address, int]:
    """What each account has earned in all."""
    return dict(history.rewards)


def get_theta_root(history: TaskHistory, spec: TaskSpec) -> Hash32:
    """The model root that the round in progress starts from."""
    return history.model_root if history.rounds_settled else spec.initial_weights
