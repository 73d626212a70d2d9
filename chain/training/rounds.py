"""The duties of a validator to a task (docs/spec/training.md, section 10).

The duties are a pure function of the finalized chain and of what this node holds and has checked.
The training host asks for them again whenever something happens. Nothing is remembered between two
answers, so no event can be missed and no restart forgets a duty.
The contract's `phase` decides which phase it is; its answer is an argument.
"""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Final

from chain.contracts.gradient_ledger import Deadline, Phase, ResultKind, ResultVote
from chain.contracts.task_registry import TaskStatus
from chain.primitives import Address, BlockNumber, Hash32
from chain.training.acceptance import Verdict
from chain.training.attempt_records import Attempt
from chain.training.history import TaskHistory, get_quorum_vote
from chain.training.leases import is_window_over
from chain.training.task_checks import UNSERVED_CODES
from chain.training.task_spec import (
    TaskSpec,
)
from chain.types.validator_set import ValidatorSet

EVALUATION_SHARE: Final = 4
"""A result waits for its evaluation during the first of so many equal parts of the phase. The vote
of a validator with a slow evaluation is then early enough, and most evaluations are in the vote."""

TURN_BLOCKS: Final = 2
"""The blocks between two operators' turns to send a call that any account may send."""


@dataclass(frozen=True, slots=True)
class PhaseView:
    """The ledger's answer at the head."""

    phase: Phase
    deadline: Deadline
    """0 if the phase has no end."""
    late_blocks: int
    """The last blocks of a phase of votes, in which it is late (`compute_late_blocks`)."""
    head_number: BlockNumber
    since_block: BlockNumber
    """The first head at which this node saw this phase of this ballot."""
    is_expired: bool = False
    """Whether the task is over in the next block, and only has to be closed."""


@dataclass(frozen=True, slots=True)
class OwnWork:
    """What this node holds and has computed for a task."""

    is_accepted: bool | None
    """Whether this validator is ready for the task; None before it knows."""
    answer_code: int | None
    """The answer of this validator to the task: 0 for ready, else why not; None before it knows."""
    has_room: bool
    """Whether disk is promised to the task. Without it, nothing large is fetched or computed."""
    is_content_held: bool
    """Whether the initial weights and every data shard are held."""
    can_check: bool | None
    """Whether a worker of this node can check the task's gradients; None before it knows."""
    is_state_held: bool
    """Whether the training state is held that the round in progress starts from."""
    verdicts: tuple[Verdict | None, ...]
    """One for each commitment so far; None while it is not checked."""
    held: frozenset[int] | None
    """The indices of the commitments that are not checked yet, but whose gradients this node has;
    None until it has searched its disk for gradients. It matters late in a verdict phase, and where
    no worker can check."""
    result: ResultVote | None
    """The result that this node computed for the ballot in progress; None before. It counts only
    while the ballot has no other timely verdicts than those it was computed from."""
    is_evaluation_over: bool
    """Whether the result's model is evaluated, or was given up."""
    is_evaluated: bool
    """Whether the result's model is evaluated."""


class PrepareContent:
    """Fetch what the specification names, then dry-run the task unless it is known to run."""


@dataclass(frozen=True, slots=True)
class AnswerTask:
    """Say that the content is held and the task runs within limits (code 0), or why not."""

    code: int


class ExpireTask:
    """Close a task that is over; it is this operator's turn."""


class RestoreState:
    """Fetch the training state by its root, or build the initial one."""


@dataclass(frozen=True, slots=True)
class CheckGradients:
    """Fetch and check the gradients of these commitments."""

    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FetchGradients:
    """Fetch the gradients of these commitments, which this node cannot check now."""

    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PostVerdict:
    """Post one verdict for each commitment."""

    verdicts: tuple[Verdict, ...]


class ComputeResult:
    """Decide the ballot; if gradients are accepted, aggregate them and compute the roots."""


class ComputePayment:
    """Compute the result that pays what the attempt has accepted, and nothing else."""


@dataclass(frozen=True, slots=True)
class EvaluateModel:
    """Evaluate the model of the computed result on the held-out rows."""

    model_root: Hash32


@dataclass(frozen=True, slots=True)
class PostResult:
    """Post the computed result, with its evaluation if that is there."""

    vote: ResultVote


@dataclass(frozen=True, slots=True)
class PostEvaluation:
    """Post the result again, which was posted without its evaluation."""

    vote: ResultVote


@dataclass(frozen=True, slots=True)
class SettleRound:
    """Settle the round with the result that a quorum posted; it is this operator's turn."""

    vote: ResultVote


class AdvanceRound:
    """Begin the next phase, end a stalled ballot or open an attempt; it is this operator's turn."""


RoundDuty = (
    PrepareContent
    | RestoreState
    | CheckGradients
    | FetchGradients
    | PostVerdict
    | ComputeResult
    | ComputePayment
    | EvaluateModel
    | PostResult
    | PostEvaluation
    | SettleRound
    | AdvanceRound
)
"""What a node does for a task that it can train."""

Duty = AnswerTask | ExpireTask | RoundDuty


def list_duties(
    history: TaskHistory,
    spec: TaskSpec | None,
    view: PhaseView,
    own: OwnWork,
    validator_set: ValidatorSet,
    own_operator: Address | None,
    now: int,
) -> tuple[Duty, ...]:
    """The duties of this node to the task now.

    Args:
        history: The task at the head.
        spec: The task's specification; None if the submitted bytes are invalid.
        view: The ledger's phase at the head.
        own: What this node holds and has computed.
        validator_set: The validators in force; used if the attempt has no judges of its own yet.
        own_operator: The account that votes for this node; None if the node does not vote.
        now: Seconds since the Unix epoch; decides whether answers are still accepted, whether the
            verdict phase is nearly over, and whether the result waits for its evaluation.
    """
    answers = _list_answers(history, view, own, validator_set, own_operator, now)
    if history.is_closed:
        return answers
    if view.is_expired:
        is_ours = _is_our_turn(
            history, view, validator_set, validator_set.find_operator(own_operator)
        )
        return (*answers, ExpireTask()) if is_ours else answers
    if history.status is not TaskStatus.ACTIVE:
        return (PrepareContent(),) if own.is_accepted is None else answers
    if spec is None or own.answer_code in UNSERVED_CODES:
        return answers
    # A quorum says ready, but f of it may lie. So a validator that is not ready is needed, too: it
    # does what it can.
    is_prepared = own.has_room and own.is_content_held and own.can_check is not None
    lacks_state = own.has_room and not own.is_state_held and view.phase is not Phase.PAYMENT
    if history.attempt is not None:
        validator_set = history.attempt.validator_set or validator_set
    return (
        *answers,
        *(() if is_prepared else (PrepareContent(),)),
        *((RestoreState(),) if lacks_state else ()),
        *_list_phase_duties(history, spec, view, own, validator_set, own_operator, now),
    )


def _list_answers(
    history: TaskHistory,
    view: PhaseView,
    own: OwnWork,
    validator_set: ValidatorSet,
    own_operator: Address | None,
    now: int,
) -> tuple[Duty, ...]:
    """The duty to answer to the task, as long as answers are accepted.

    Also when the task is decided: every answer is paid, so no validator is in a hurry.
    """
    own_index = validator_set.find_operator(own_operator)
    if own.answer_code is None or own_index is None:
        return ()
    if history.has_answered(validator_set.validators[own_index]):
        return ()
    if is_window_over(history.lease, view.head_number + 1, now):
        return ()
    return (AnswerTask(own.answer_code),)


def _list_phase_duties(
    history: TaskHistory,
    spec: TaskSpec,
    view: PhaseView,
    own: OwnWork,
    validator_set: ValidatorSet,
    own_operator: Address | None,
    now: int,
) -> tuple[Duty, ...]:
    own_index = validator_set.find_operator(own_operator)
    attempt = history.attempt
    if attempt is None:
        waits = view.phase is Phase.STALLED
        return (
            (AdvanceRound(),)
            if waits and _is_our_turn(history, view, validator_set, own_index)
            else ()
        )
    if own.result is not None and own.result.timely_voters != attempt.timely_voters:
        # History and phase may be read at different blocks, so the history may have lacked a timely
        # verdict when the result was computed.
        own = replace(own, result=None)
    validator = None if own_index is None else validator_set.validators[own_index]
    match view.phase:
        case Phase.VERDICT | Phase.AUDIT:
            return _verdict_duties(attempt, spec, view, own, validator, now)
        case Phase.RESULT:
            duties = _result_duties(attempt, spec, view, own, validator_set, validator, now)
            if validator is None or _has_voted(attempt, validator):
                return duties
            # A verdict after its phase is not paid, but shows that this validator is to be waited
            # for in the next ballots.
            return (*duties, *_verdict_duties(attempt, spec, view, own, validator, now))
        case Phase.PAYMENT:
            if own.result is None or own.result.kind is ResultKind.SETTLED:
                return (ComputePayment(),)
            return _post(attempt, own.result, validator)
        case Phase.SETTLEABLE:
            duties = _result_duties(attempt, spec, view, own, validator_set, None, now)
            vote = get_quorum_vote(attempt, validator_set)
            if vote is not None and _is_our_turn(history, view, validator_set, own_index):
                duties = (*duties, SettleRound(vote))
            return duties
        case Phase.STALLED:
            is_ours = _is_our_turn(history, view, validator_set, own_index)
            return (AdvanceRound(),) if is_ours else ()
        case Phase.INACTIVE | Phase.WAITING | Phase.COMMITMENT:
            return ()


def _has_voted(attempt: Attempt, validator: Address) -> bool:
    return any(record.validator == validator for record in attempt.verdicts)


def _verdict_duties(
    attempt: Attempt,
    spec: TaskSpec,
    view: PhaseView,
    own: OwnWork,
    validator: Address | None,
    now: int,
) -> tuple[Duty, ...]:
    missing = tuple(i for i, verdict in enumerate(own.verdicts) if verdict is None)
    can_check = own.can_check and own.has_room and own.is_content_held and own.is_state_held
    held = own.held or frozenset()
    lacking = tuple(i for i in missing if i not in held)
    duties: tuple[Duty, ...] = ()
    if missing and can_check:
        duties = (CheckGradients(missing),)
    elif lacking:
        duties = (FetchGradients(lacking),)
    if validator is None or _has_voted(attempt, validator):
        return duties
    # Late in the phase the node votes on what it has. Only what it does not hold is missing: that
    # it could not check it in time says nothing about the miner.
    is_complete = not lacking if own.can_check is False else not missing
    if missing and own.held is None:
        return duties
    if not is_complete and not is_late(spec, view, now):
        return duties
    verdicts = tuple(
        _judge_unchecked(i, held) if verdict is None else verdict
        for i, verdict in enumerate(own.verdicts)
    )
    return (*duties, PostVerdict(verdicts))


def _judge_unchecked(index: int, held: AbstractSet[int]) -> Verdict:
    return Verdict.UNCHECKED if index in held else Verdict.MISSING


def is_late(spec: TaskSpec, view: PhaseView, now: int) -> bool:
    """Whether three quarters of a verdict phase are over, in seconds and in blocks.

    Then a node votes on what it has. There are always blocks left for a vote that f faulty
    primaries in a row leave out.
    """
    return (
        view.phase in (Phase.VERDICT, Phase.AUDIT)
        and now >= view.deadline.timestamp - spec.phases.verdict_seconds // 4
        and view.head_number >= view.deadline.block_number - view.late_blocks
    )


def compute_late_blocks(phase_floor_blocks: int, max_faulty: int) -> int:
    """The last blocks of a phase of votes, in which it is late if its seconds say so, too.

    They are a quarter of its least blocks, and enough for a vote that f faulty primaries in a row
    leave out.
    """
    least = max(phase_floor_blocks, 2 * (max_faulty + 1))
    return max(least // 4, max_faulty + 2)


def is_evaluated(spec: TaskSpec, round_number: int) -> bool:
    """Whether validators evaluate the model that a round ends with."""
    settled = round_number + 1
    return settled == spec.round_count or settled % spec.evaluate_every == 0


def list_evaluated(spec: TaskSpec, settled_count: int) -> Iterator[int]:
    """The settled rounds whose models validators evaluate, the latest first."""
    every = spec.evaluate_every
    if settled_count == spec.round_count and settled_count % every:
        yield settled_count - 1
    yield from range(settled_count // every * every - 1, -1, -every)


def _result_duties(
    attempt: Attempt,
    spec: TaskSpec,
    view: PhaseView,
    own: OwnWork,
    validator_set: ValidatorSet,
    validator: Address | None,
    now: int,
) -> tuple[Duty, ...]:
    if sum(record.is_timely for record in attempt.verdicts) < validator_set.quorum:
        # The phase needs a quorum: history and phase were read at different blocks.
        return ()
    if own.result is None:
        # Without room there will be no state, but most results need none.
        is_restoring = own.has_room and not own.is_state_held
        return () if is_restoring else (ComputeResult(),)
    if validator is None:
        return ()
    if own.result.kind is not ResultKind.SETTLED:
        return _post(attempt, own.result, validator)
    is_evaluable = own.can_check and not own.is_evaluation_over
    is_open = bool(is_evaluable) and is_evaluated(spec, attempt.id.round_number)
    duties: tuple[Duty, ...] = (EvaluateModel(own.result.model_root),) if is_open else ()
    posted = next((each for each in attempt.results if each.validator == validator), None)
    if posted is not None and posted.vote == own.result:
        is_wanted = own.is_evaluated and posted.correct_count is None
        return (PostEvaluation(own.result),) if is_wanted else duties
    seconds = spec.phases.result_seconds
    if is_open and now < view.deadline.timestamp - seconds + seconds // EVALUATION_SHARE:
        return duties
    return (*duties, PostResult(own.result))


def _post(attempt: Attempt, vote: ResultVote, validator: Address | None) -> tuple[Duty, ...]:
    """The duty to post a result without a model, unless it is posted."""
    is_posted = any((each.validator, each.vote) == (validator, vote) for each in attempt.results)
    return () if validator is None or is_posted else (PostResult(vote),)


def _is_our_turn(
    history: TaskHistory, view: PhaseView, validator_set: ValidatorSet, own_index: int | None
) -> bool:
    if own_index is None:
        return False
    n = len(validator_set.validators)
    place = (own_index - history.rounds_settled) % n
    return view.head_number >= view.since_block + TURN_BLOCKS * place
