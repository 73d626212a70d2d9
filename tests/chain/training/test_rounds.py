from dataclasses import replace

import pytest

from chain.contracts import gradient_ledger
from chain.contracts.gradient_ledger import Deadline, ResultKind, ResultVote
from chain.contracts.task_registry import TaskStatus
from chain.primitives import ZERO_HASH, BlockNumber
from chain.training.acceptance import Verdict
from chain.training.history import TaskHistory, build_history, get_quorum_vote
from chain.training.rounds import (
    AdvanceRound,
    AnswerTask,
    CheckGradients,
    ComputePayment,
    ComputeResult,
    Duty,
    EvaluateModel,
    ExpireTask,
    FetchGradients,
    OwnWork,
    Phase,
    PhaseView,
    PostEvaluation,
    PostResult,
    PostVerdict,
    PrepareContent,
    RestoreState,
    SettleRound,
    compute_late_blocks,
    is_evaluated,
    is_late,
    list_duties,
    list_evaluated,
)
from chain.training.task_checks import REFUSAL_CODES, ObjectionCode
from tests.worlds.contracts import MINERS, TERMS, World, new_world_with_floor
from tests.worlds.training import (
    GENESIS_SET,
    OPEN_LEASE,
    OPERATORS,
    SPEC,
    SUBMITTED,
    VOTE,
    at,
    committed,
    history_after,
    opened,
    result,
    verdict,
)

OK, CHEAT, GONE = Verdict.OK, Verdict.CHEAT, Verdict.MISSING
READY_WORK = OwnWork(
    is_accepted=True,
    answer_code=None,
    has_room=True,
    is_content_held=True,
    can_check=True,
    is_state_held=True,
    verdicts=(),
    held=frozenset(),
    result=None,
    is_evaluation_over=True,
    is_evaluated=True,
)
DEADLINE = 5_000
QUORUM = tuple(verdict(i, Verdict.OK) for i in range(3))


def view(phase: Phase, *, head: int = 10, since: int = 10) -> PhaseView:
    return PhaseView(
        phase, Deadline(BlockNumber(20), DEADLINE), 3, BlockNumber(head), BlockNumber(since)
    )


def duties(
    history: TaskHistory,
    phase: Phase,
    own: OwnWork = READY_WORK,
    *,
    own_index: int | None = 0,
    now: int = 1_000,
    head: int = 10,
) -> tuple[Duty, ...]:
    operator = None if own_index is None else OPERATORS[own_index]
    return list_duties(history, SPEC, view(phase, head=head), own, GENESIS_SET, operator, now)


def test_content_comes_first() -> None:
    own = replace(READY_WORK, is_content_held=False, is_accepted=None)
    found = duties(build_history(SUBMITTED, at(1)), Phase.INACTIVE, own)
    assert [type(duty) for duty in found] == [PrepareContent]


def test_a_refused_task_is_owed_nothing() -> None:
    own = replace(READY_WORK, is_accepted=False)
    assert duties(build_history(SUBMITTED, at(1)), Phase.INACTIVE, own) == ()


def test_an_answer_is_posted_once_and_only_by_validators() -> None:
    pending = build_history(SUBMITTED, at(1))
    said = replace(pending, ready=(GENESIS_SET.validators[0],))

    own = replace(READY_WORK, answer_code=0)

    assert duties(pending, Phase.INACTIVE, own) == (AnswerTask(0),)
    assert duties(said, Phase.INACTIVE, own) == ()
    assert duties(pending, Phase.INACTIVE, own, own_index=None) == ()


def test_a_refusal_is_posted_once_while_answers_are_accepted() -> None:
    pending = replace(build_history(SUBMITTED, at(1)), lease=OPEN_LEASE)
    own = replace(READY_WORK, is_accepted=False, answer_code=7)
    said = replace(pending, refusals=((GENESIS_SET.validators[0], 7),))

    assert duties(pending, Phase.INACTIVE, own) == (AnswerTask(7),)
    assert duties(said, Phase.INACTIVE, own) == ()
    late = {"now": OPEN_LEASE.window_time, "head": OPEN_LEASE.window_block - 1}
    assert duties(pending, Phase.INACTIVE, own, **late) == ()
    early = {**late, "head": OPEN_LEASE.window_block - 2}
    assert duties(pending, Phase.INACTIVE, own, **early) == (AnswerTask(7),)


def test_an_answer_is_posted_after_the_others_decided() -> None:
    own = replace(READY_WORK, answer_code=0)
    active = replace(history_after(), lease=OPEN_LEASE)
    closed = replace(active, status=TaskStatus.CLOSED)
    assert duties(active, Phase.WAITING, own) == (AnswerTask(0),)
    assert duties(closed, Phase.INACTIVE, own) == (AnswerTask(0),)
    assert duties(closed, Phase.INACTIVE) == ()


def test_a_task_that_is_over_is_closed_by_operators_in_turn() -> None:
    over = replace(view(Phase.INACTIVE), is_expired=True)

    def find(own_index: int, head: int, own: OwnWork = READY_WORK) -> tuple[Duty, ...]:
        at_head = replace(over, head_number=BlockNumber(head))
        return list_duties(
            history_after(), SPEC, at_head, own, GENESIS_SET, OPERATORS[own_index], 1_000
        )

    refusing = replace(READY_WORK, is_accepted=False)
    new = replace(READY_WORK, is_content_held=False, is_accepted=None)
    for own in (READY_WORK, refusing, new):
        assert [type(duty) for duty in find(0, 10, own)] == [ExpireTask]
    assert find(1, 11) == ()
    assert [type(duty) for duty in find(1, 12)] == [ExpireTask]


def test_a_late_node_fetches_the_state_before_it_checks_anything() -> None:
    own = replace(READY_WORK, is_state_held=False, verdicts=(None,))
    history = history_after(opened(), committed(0))
    restore, fetch = duties(history, Phase.VERDICT, own)
    assert isinstance(restore, RestoreState)
    assert fetch == FetchGradients((0,))


REFUSING = replace(
    READY_WORK,
    is_accepted=False,
    answer_code=REFUSAL_CODES[ObjectionCode.RESOURCES_EXCEEDED],
    verdicts=(None, None),
)
"""The work of a validator that refused a task for what a unit of it takes on its machine."""


def refused_by_all(*events: object, code: int = 8) -> TaskHistory:
    """A task after these events that all validators of the test have refused on the chain."""
    refusals = tuple((each, code) for each in GENESIS_SET.validators)
    return replace(history_after(*events), refusals=refusals)


def test_a_task_that_is_refused_is_served_once_it_is_active() -> None:
    """Of the q validators that were ready, f may lie: the task needs the others' votes."""
    new = replace(REFUSING, has_room=False, is_content_held=False, can_check=None)
    active = refused_by_all(opened(), committed(0), committed(1))
    paused = replace(active, status=TaskStatus.PAUSED)
    assert duties(paused, Phase.INACTIVE, new) == ()
    prepare, *others = duties(active, Phase.VERDICT, new)
    assert isinstance(prepare, PrepareContent)
    assert others == [FetchGradients((0, 1))]
    assert duties(active, Phase.VERDICT, REFUSING) == (CheckGradients((0, 1)),)
    found = replace(REFUSING, verdicts=(OK, CHEAT))
    assert duties(active, Phase.VERDICT, found) == (PostVerdict((OK, CHEAT)),)


def test_a_validator_that_cannot_check_votes_on_what_it_holds_at_once() -> None:
    history = refused_by_all(opened(), committed(0), committed(1))
    own = replace(REFUSING, can_check=False, held=frozenset({0}))
    assert duties(history, Phase.VERDICT, own) == (FetchGradients((1,)),)
    late = duties(history, Phase.VERDICT, own, now=DEADLINE - 1, head=18)
    assert late == (FetchGradients((1,)), PostVerdict((Verdict.UNCHECKED, GONE)))
    complete = replace(own, held=frozenset({0, 1}))
    assert duties(history, Phase.VERDICT, complete) == (PostVerdict((Verdict.UNCHECKED,) * 2),)


def test_a_validator_that_cannot_check_waits_for_no_evaluation() -> None:
    history = refused_by_all(opened(), committed(0), *QUORUM)
    own = replace(REFUSING, result=VOTE, is_evaluation_over=False, is_evaluated=False)
    early = DEADLINE - SPEC.phases.result_seconds
    assert duties(history, Phase.RESULT, own, now=early) == (EvaluateModel(VOTE.model_root),)
    blind = replace(own, can_check=False)
    assert duties(history, Phase.RESULT, blind, now=early) == (PostResult(VOTE),)


def test_a_validator_without_room_votes_and_moves_the_round() -> None:
    own = replace(
        REFUSING, has_room=False, is_content_held=False, can_check=False, is_state_held=False
    )
    history = refused_by_all(opened(), committed(0), committed(1), *QUORUM)

    def find(phase: Phase, own: OwnWork = own) -> list[type]:
        found = duties(history, phase, own)
        return [type(duty) for duty in found if not isinstance(duty, PrepareContent)]

    _, fetch, vote = duties(history, Phase.VERDICT, own, own_index=3, now=DEADLINE - 1, head=18)
    assert (fetch, vote) == (FetchGradients((0, 1)), PostVerdict((GONE, GONE)))
    assert find(Phase.STALLED) == [AdvanceRound]
    assert find(Phase.RESULT) == [ComputeResult]
    failed = replace(VOTE, kind=ResultKind.FAILED)
    assert find(Phase.RESULT, replace(own, result=failed)) == [PostResult]
    assert find(Phase.PAYMENT) == [ComputePayment]


def test_a_task_without_a_valid_specification_is_never_served() -> None:
    for reason in (ObjectionCode.SPEC_INVALID, ObjectionCode.TERMS_DIFFER):
        code = REFUSAL_CODES[reason]
        own = replace(REFUSING, answer_code=code, can_check=None)
        assert duties(refused_by_all(opened(), code=code), Phase.STALLED, own) == ()


def test_no_gradient_is_checked_while_commitments_are_open() -> None:
    own = replace(READY_WORK, verdicts=(None,))
    assert duties(history_after(opened(), committed(0)), Phase.COMMITMENT, own) == ()


def test_verdict_waits_for_every_gradient() -> None:
    history = history_after(opened(), committed(0), committed(1))
    waiting = duties(history, Phase.VERDICT, replace(READY_WORK, verdicts=(OK, None)))
    complete = duties(history, Phase.VERDICT, replace(READY_WORK, verdicts=(OK, CHEAT)))

    assert waiting == (CheckGradients((1,)),)
    assert complete == (PostVerdict((OK, CHEAT)),)


def test_late_in_the_phase_only_what_is_not_held_is_missing() -> None:
    history = history_after(opened(), committed(0), committed(1), committed(2))
    own = replace(READY_WORK, verdicts=(OK, None, None), held=frozenset({2}))
    quarter = SPEC.phases.verdict_seconds // 4

    early = duties(history, Phase.VERDICT, own, now=DEADLINE - quarter - 1, head=18)
    few_blocks = duties(history, Phase.VERDICT, own, now=DEADLINE - quarter, head=16)
    late = duties(history, Phase.VERDICT, own, now=DEADLINE - quarter, head=17)

    assert early == few_blocks == (CheckGradients((1, 2)),)
    assert late == (CheckGradients((1, 2)), PostVerdict((OK, GONE, Verdict.UNCHECKED)))


def is_late_in(world: World) -> bool:
    """What a validator with this head finds, a second less than a verdict phase after its block."""
    phases = replace(SPEC.phases, verdict_seconds=TERMS.verdict_seconds)
    head, began = world.number, world.timestamp
    now = began + TERMS.verdict_seconds - 1
    world.at(head + 1, now)
    deadline = world.read(gradient_ledger.deadline(world.task))
    seen = PhaseView(
        world.phase,
        deadline,
        compute_late_blocks(8, 1),
        BlockNumber(head),
        BlockNumber(head),
    )
    world.at(head, began)
    return is_late(replace(SPEC, phases=phases), seen, now)


def test_no_verdict_is_late_before_miners_had_blocks_to_reveal_in() -> None:
    # One miner is silent, so commitments end by their deadline; they had 50 blocks. Validators said
    # "missing" before any block was final after which an honest miner may reveal its gradient.
    world = new_world_with_floor(8)
    world.start_round()
    world.commit(MINERS[0])
    world.mine(50, TERMS.commit_seconds - 1)
    assert not is_late_in(world)
    world.mine(1, 1)
    world.advance()
    late = [is_late_in(world)]
    for _ in range(5):
        world.mine(1)
        late.append(is_late_in(world))
    assert late == [False] * 5 + [True]


def test_a_verdict_is_posted_once() -> None:
    history = history_after(opened(), committed(0), verdict(0, OK))
    own = replace(READY_WORK, verdicts=(OK,))
    assert duties(history, Phase.VERDICT, own) == ()
    assert duties(history, Phase.VERDICT, own, own_index=1) == (PostVerdict((OK,)),)


def test_validator_that_was_too_slow_posts_its_verdict_late() -> None:
    voted = [verdict(i, OK) for i in range(3)]
    history = history_after(opened(), committed(0), *voted)
    own = replace(READY_WORK, verdicts=(OK,), result=VOTE)
    slow = duties(history, Phase.RESULT, own, own_index=3)
    assert slow[-1] == PostVerdict((OK,))
    unfinished = duties(history, Phase.RESULT, replace(own, verdicts=(None,)), own_index=3)
    assert unfinished[-1] == CheckGradients((0,))
    assert PostVerdict((OK,)) not in duties(history, Phase.RESULT, own, own_index=0)


def test_nothing_is_computed_from_fewer_verdicts_than_a_quorum() -> None:
    # The phase was read a block later than the history, so there is nothing to decide yet.
    history = history_after(opened(), committed(0), verdict(0, OK), verdict(1, OK))
    late = verdict(2, OK, timely=False)
    assert duties(history, Phase.RESULT) == ()
    assert duties(history_after(opened(), committed(0), late), Phase.SETTLEABLE) == ()


def test_node_without_operator_checks_and_computes_but_does_not_vote() -> None:
    history = history_after(opened(), committed(0), *QUORUM)
    unchecked = replace(READY_WORK, verdicts=(None,))
    computed = replace(READY_WORK, result=VOTE)

    assert duties(history, Phase.VERDICT, unchecked, own_index=None) == (CheckGradients((0,)),)
    found = duties(history, Phase.RESULT, own_index=None)
    assert [type(duty) for duty in found] == [ComputeResult]
    assert duties(history, Phase.RESULT, computed, own_index=None) == ()


def test_result_is_computed_then_posted_then_done() -> None:
    history = history_after(opened(), committed(0), *QUORUM)
    computed = replace(READY_WORK, result=VOTE)
    posted = history_after(opened(), committed(0), *QUORUM, result(0, correct=7))

    assert [type(duty) for duty in duties(history, Phase.RESULT)] == [ComputeResult]
    assert duties(history, Phase.RESULT, computed) == (PostResult(VOTE),)
    assert duties(posted, Phase.RESULT, computed) == ()


def test_result_waits_for_its_evaluation_in_the_first_quarter_only() -> None:
    history = history_after(opened(), committed(0), *QUORUM)
    own = replace(READY_WORK, result=VOTE, is_evaluation_over=False, is_evaluated=False)
    end = DEADLINE - SPEC.phases.result_seconds + SPEC.phases.result_seconds // 4
    evaluate = EvaluateModel(VOTE.model_root)

    assert duties(history, Phase.RESULT, own, now=end - 1) == (evaluate,)
    assert duties(history, Phase.RESULT, own, now=end) == (evaluate, PostResult(VOTE))
    given_up = replace(own, is_evaluation_over=True)
    assert duties(history, Phase.RESULT, given_up, now=end - 1) == (PostResult(VOTE),)
    assert duties(history, Phase.RESULT, own, own_index=None, now=end) == ()


def test_late_evaluation_is_posted_once_with_the_same_result() -> None:
    posted = history_after(opened(), committed(0), *QUORUM, result(0))
    again = history_after(opened(), committed(0), *QUORUM, result(0), result(0, correct=7))
    own = replace(READY_WORK, result=VOTE, is_evaluation_over=False, is_evaluated=False)
    evaluated = replace(own, is_evaluation_over=True, is_evaluated=True)

    assert duties(posted, Phase.RESULT, own) == (EvaluateModel(VOTE.model_root),)
    assert duties(posted, Phase.RESULT, evaluated) == (PostEvaluation(VOTE),)
    assert duties(posted, Phase.RESULT, replace(own, is_evaluation_over=True)) == ()
    assert duties(again, Phase.RESULT, evaluated) == ()


def test_model_of_a_round_without_evaluation_is_not_evaluated() -> None:
    history = history_after(opened(), committed(0), *QUORUM)
    spec = replace(SPEC, evaluate_every=2)
    own = replace(READY_WORK, result=VOTE, is_evaluation_over=False, is_evaluated=False)
    found = list_duties(
        history, spec, view(Phase.RESULT), own, GENESIS_SET, OPERATORS[0], now=1_000
    )
    assert found == (PostResult(VOTE),)
    assert [number for number in range(spec.round_count) if is_evaluated(spec, number)] == [
        *range(1, 10, 2)
    ]


def test_result_without_a_model_needs_no_evaluation() -> None:
    history = history_after(opened(), committed(0), *QUORUM)
    void = ResultVote(ZERO_HASH, ZERO_HASH, ZERO_HASH, 0, 0, ResultKind.VOID, 0b111)
    own = replace(READY_WORK, result=void, is_evaluation_over=False, is_evaluated=False)
    posted = history_after(opened(), committed(0), *QUORUM, result(0, void))

    assert duties(history, Phase.RESULT, own) == (PostResult(void),)
    assert duties(posted, Phase.RESULT, own) == ()
    assert duties(history, Phase.RESULT, own, own_index=None) == ()


def test_in_the_payment_phase_the_result_is_replaced_by_one_that_pays() -> None:
    history = history_after(opened(), committed(0), *QUORUM, result(0))
    payment = replace(VOTE, kind=ResultKind.PAID_ONLY)
    without_state = replace(READY_WORK, is_state_held=False)

    for own in (without_state, replace(without_state, result=VOTE)):
        found = duties(history, Phase.PAYMENT, own)
        assert [type(duty) for duty in found] == [ComputePayment]
    own = replace(without_state, result=payment)
    assert duties(history, Phase.PAYMENT, own) == (PostResult(payment),)


def test_result_is_computed_again_when_a_further_verdict_is_timely() -> None:
    # The block with the verdict was on its way when this node's clock ended the phase.
    further = history_after(opened(), committed(0), *QUORUM, verdict(3, OK))
    late = history_after(opened(), committed(0), *QUORUM, verdict(3, OK, timely=False))
    own = replace(READY_WORK, result=VOTE)
    own_payment = replace(own, result=replace(VOTE, kind=ResultKind.PAID_ONLY))
    assert [type(each) for each in duties(further, Phase.RESULT, own)] == [ComputeResult]
    found = duties(further, Phase.PAYMENT, own_payment)
    assert [type(each) for each in found] == [ComputePayment]
    assert duties(late, Phase.RESULT, own) == (PostResult(VOTE),)
    assert duties(late, Phase.PAYMENT, own_payment) == (PostResult(own_payment.result),)


def test_a_wrong_result_of_our_own_is_replaced() -> None:
    wrong = result(0, replace(VOTE, accepted_units=9))
    history = history_after(opened(), committed(0), *QUORUM, wrong)
    own = replace(READY_WORK, result=VOTE)
    assert duties(history, Phase.RESULT, own) == (PostResult(VOTE),)


def test_operators_settle_in_turn() -> None:
    history = history_after(opened(), committed(0), *(result(i) for i in range(3)))
    own = replace(READY_WORK, result=VOTE)

    # Round 0: validator 0 at once, each next one two blocks later.
    assert duties(history, Phase.SETTLEABLE, own, own_index=0) == (SettleRound(VOTE),)
    assert duties(history, Phase.SETTLEABLE, own, own_index=1, head=11) == ()
    assert duties(history, Phase.SETTLEABLE, own, own_index=1, head=12) == (SettleRound(VOTE),)
    assert duties(history, Phase.SETTLEABLE, own, own_index=3, head=15) == ()
    assert duties(history, Phase.SETTLEABLE, own, own_index=3, head=16) == (SettleRound(VOTE),)


def test_a_stalled_ballot_is_ended_in_turn() -> None:
    history = history_after(opened())
    assert [type(duty) for duty in duties(history, Phase.STALLED)] == [AdvanceRound]
    assert duties(history, Phase.STALLED, own_index=2, head=13) == ()
    assert [type(duty) for duty in duties(history, Phase.STALLED, own_index=2, head=14)] == [
        AdvanceRound
    ]


def test_operator_without_the_state_advances_an_attempt() -> None:
    """The payment phase needs no state, and begins with a call."""
    own = replace(READY_WORK, is_state_held=False)
    stalled = duties(history_after(opened(), committed(0)), Phase.STALLED, own)
    assert [type(duty) for duty in stalled] == [RestoreState, AdvanceRound]
    waiting = duties(history_after(opened(), committed(0)), Phase.STALLED, own, own_index=1)
    assert [type(duty) for duty in waiting] == [RestoreState]


def test_a_quorum_of_equal_results_is_needed() -> None:
    other = replace(VOTE, accepted_units=9)
    two = history_after(opened(), result(0), result(1), result(2, other)).attempt
    three = history_after(opened(), result(0), result(1), result(2, other), result(3)).attempt

    assert two is not None
    assert three is not None
    assert get_quorum_vote(two, GENESIS_SET) is None
    assert get_quorum_vote(three, GENESIS_SET) == VOTE


def test_a_closed_task_is_owed_nothing() -> None:
    closed = replace(history_after(opened()), status=TaskStatus.CLOSED)
    assert duties(closed, Phase.INACTIVE) == ()


@pytest.mark.parametrize("settled_count", range(8))
def test_evaluated_rounds_are_listed_from_the_latest(settled_count: int) -> None:
    spec = replace(SPEC, round_count=7, evaluate_every=3)
    evaluated = [number for number in range(settled_count) if is_evaluated(spec, number)]
    assert list(list_evaluated(spec, settled_count)) == evaluated[::-1]
