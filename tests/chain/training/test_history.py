from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.contracts.gradient_ledger import (
    RING,
    AttemptPaid,
    AttemptVoided,
    BallotFailed,
    LateVerdictPosted,
    ResultKind,
    RoundSettled,
)
from chain.contracts.miner_seats import FineKind, FinesApproved, FinesPosted, MinerFined
from chain.contracts.task_registry import (
    TaskAnswered,
    TaskClosed,
    TaskPaused,
    TaskResumed,
    TaskStatus,
)
from chain.primitives import Address, BlockNumber, Hash32
from chain.training.acceptance import Verdict
from chain.training.attempt_records import (
    ApprovedFines,
    EndedAttempt,
    EndedMark,
    add_mark,
    build_mark,
)
from chain.training.decisions import Guilt, Outcome
from chain.training.history import (
    add_rewards,
    apply_event,
    compute_outcome,
    get_evaluation,
    get_lower_median,
)
from tests.worlds.training import (
    GENESIS_SET,
    MINERS,
    OPERATORS,
    SPEC,
    TASK,
    VALIDATORS,
    VOTE,
    at,
    committed,
    history_after,
    opened,
    result,
    verdict,
)

OK, BAD, CHEAT, GONE, UNCHECKED = Verdict
PRICE = SPEC.reward.unit_price


def test_commitments_stand_in_the_order_of_the_chain() -> None:
    attempt = history_after(opened(), committed(0), committed(1, units=2)).attempt

    assert attempt is not None
    assert [record.miner for record in attempt.commitments] == [MINERS[0], MINERS[1]]
    assert [record.units for record in attempt.commitments] == [1, 2]
    assert attempt.open_block == 3
    assert attempt.ballot_number == 1


def test_a_validators_later_result_replaces_its_earlier_one() -> None:
    other = replace(VOTE, accepted_units=0)
    attempt = history_after(opened(), committed(0), result(1, other), result(1)).attempt

    assert attempt is not None
    assert [(record.validator, record.vote) for record in attempt.results] == [
        (VALIDATORS[1], VOTE)
    ]


def test_a_failed_ballot_keeps_commitments_and_drops_votes() -> None:
    attempt = history_after(
        opened(), committed(0), verdict(0, OK), result(0), BallotFailed(TASK, 0, 0, 0)
    ).attempt

    assert attempt is not None
    assert (attempt.ballot, attempt.ballot_number) == (1, 2)
    assert len(attempt.commitments) == 1
    assert (attempt.verdicts, attempt.results) == ((), ())


def test_votes_of_an_earlier_ballot_do_not_count_in_the_next() -> None:
    late = verdict(2, OK, timely=False, ballot=0)
    attempt = history_after(opened(), committed(0), BallotFailed(TASK, 0, 0, 0), late).attempt

    assert attempt is not None
    assert attempt.verdicts == ()


def test_ballots_are_numbered_over_attempts_as_the_ledger_does() -> None:
    events = [opened(), committed(0)]
    events += [BallotFailed(TASK, 0, 0, ballot) for ballot in range(3)]
    history = history_after(*events, AttemptVoided(TASK, 0, 0), opened(attempt=1))

    assert history.attempt is not None
    # Three ballots of attempt 0, then the first of attempt 1.
    assert history.attempt.ballot_number == 4


def test_settlement_pays_accepted_units_and_timely_operators() -> None:
    votes = [verdict(i, OK, OK, CHEAT) for i in range(3)]
    late = verdict(3, OK, OK, OK, timely=False)
    before = history_after(
        opened(), committed(0, units=2), committed(1), committed(2), *votes, late
    )

    share = SPEC.reward.validator_fee // 3
    vote = replace(VOTE, accepted_units=3, payout=3 * PRICE + 3 * share)
    settled_event = RoundSettled(TASK, 0, 0, 0, vote)
    fold = apply_event(before, settled_event, at(99), spec=SPEC, validator_set=GENESIS_SET)
    after, settled = fold.history, fold.settled

    expected = {MINERS[0]: 2 * PRICE, MINERS[1]: PRICE}
    if share:
        expected.update(dict.fromkeys(OPERATORS[:3], share))
    assert dict(fold.payouts) == expected
    assert (after.rounds_settled, after.attempt) == (1, None)
    assert (after.model_root, after.training_state_root) == (
        VOTE.model_root,
        VOTE.training_state_root,
    )
    assert settled is not None
    assert (settled.block_number, settled.vote) == (99, vote)
    assert settled.attempt == before.attempt


@pytest.mark.parametrize(
    ("votes", "outcome", "guilt"),
    [
        ([OK, OK, OK, OK], Outcome.ACCEPTED, Guilt.NONE),
        ([OK, OK, CHEAT, GONE], Outcome.ACCEPTED, Guilt.NONE),
        ([OK, OK, CHEAT, BAD], Outcome.REJECTED, Guilt.NONE),
        ([OK, CHEAT, CHEAT, CHEAT], Outcome.REJECTED, Guilt.FRAUD),
        ([OK, GONE, GONE, GONE], Outcome.MISSED, Guilt.MISS),
    ],
)
def test_outcome_of_one_gradient(votes: list[Verdict], outcome: Outcome, guilt: Guilt) -> None:
    posted = [verdict(i, vote) for i, vote in enumerate(votes)]
    attempt = history_after(opened(), committed(0), *posted).attempt

    assert attempt is not None
    found = compute_outcome(attempt, SPEC, GENESIS_SET)
    assert found.outcomes == (outcome,)
    assert found.guilt == (guilt,)
    assert found.accepted_units == (1 if outcome is Outcome.ACCEPTED else 0)


@pytest.mark.parametrize(
    ("ballot", "votes", "kind"),
    [
        (0, [[OK, OK]] * 4, ResultKind.SETTLED),
        (0, [[OK, BAD]] * 4, ResultKind.SETTLED),
        (0, [[BAD, GONE]] * 4, ResultKind.VOID),
        (0, [[OK, UNCHECKED]] * 3, ResultKind.FAILED),
        (1, [[OK, UNCHECKED]] * 3, ResultKind.FAILED),
        (2, [[OK, UNCHECKED]] * 3, ResultKind.SETTLED),
        (2, [[UNCHECKED, UNCHECKED]] * 3, ResultKind.VOID),
        (0, [[OK, GONE]] * 2 + [[OK, BAD]], ResultKind.SETTLED),
    ],
)
def test_ballot_settles_fails_or_voids_its_attempt(
    ballot: int, votes: list[list[Verdict]], kind: ResultKind
) -> None:
    failed = [BallotFailed(TASK, 0, 0, number) for number in range(ballot)]
    posted = [verdict(i, *vote, ballot=ballot) for i, vote in enumerate(votes)]
    attempt = history_after(opened(), committed(0), committed(1), *failed, *posted).attempt
    assert attempt is not None
    found = compute_outcome(attempt, SPEC, GENESIS_SET)
    assert found.kind is kind
    assert bool(found.payouts) == (kind is ResultKind.SETTLED)


def pay_after(first: list[list[Verdict]], second: list[list[Verdict]]) -> dict[Address, int]:
    """What miners earn if the first ballot fails with these verdicts, and the second has those."""
    failed = BallotFailed(TASK, 0, 0, 0)
    votes = [verdict(i, *vote) for i, vote in enumerate(first)]
    again = [verdict(i, *vote, ballot=1) for i, vote in enumerate(second)]
    commitments = [committed(0, units=2), *map(committed, range(1, len(first[0])))]
    attempt = history_after(opened(), *commitments, *votes, failed, *again).attempt
    assert attempt is not None
    assert compute_outcome(replace(attempt, ballot=0), SPEC, GENESIS_SET).kind is ResultKind.SETTLED
    found = compute_outcome(attempt, SPEC, GENESIS_SET)
    earned = {miner: pay for miner, pay in found.payouts if miner in MINERS}
    units = sum(record.units for record in attempt.commitments)
    assert found.accepted_units == units
    assert found.forfeited == units * PRICE - sum(earned.values())
    return earned


def test_late_delivery_loses_an_eighth_of_its_pay_once() -> None:
    late = [[GONE, OK], [GONE, OK], [UNCHECKED, OK], [OK, OK]]
    earned = pay_after(late, [[OK, OK]] * 4)
    assert earned == {MINERS[0]: 2 * PRICE * 7 // 8, MINERS[1]: PRICE}


def test_gradient_is_paid_in_full_if_another_made_the_ballot_fail() -> None:
    """A liar and one validator that the gradient did not reach cannot shift the blame on it."""
    # The fourth validator holds the first gradient, too, and is slower than the wait.
    first = [[GONE, UNCHECKED], [GONE, UNCHECKED], [OK, UNCHECKED]]
    earned = pay_after(first, [[OK, OK]] * 4)
    assert earned == {MINERS[0]: 2 * PRICE, MINERS[1]: PRICE}


def test_gradients_in_the_last_ballot_lose_nothing_by_its_failure() -> None:
    failed = [BallotFailed(TASK, 0, 0, number) for number in range(2)]
    votes = [verdict(i, each, ballot=2) for i, each in enumerate((GONE, GONE, UNCHECKED, OK))]
    last = BallotFailed(TASK, 0, 0, 2)
    attempt = history_after(opened(), committed(0), *failed, *votes, last).attempt
    assert attempt is not None
    assert attempt.late_deliveries == ()


def list_earners(*votes: list[Verdict]) -> list[int]:
    """The validators that earn a share of the fee, and the payout is what they earn together."""
    count = len(votes[0])
    posted = [verdict(i, *vote) for i, vote in enumerate(votes)]
    commitments = [replace(committed(0), index=i) for i in range(count)]
    attempt = history_after(opened(), *commitments, *posted).attempt
    assert attempt is not None
    spec = replace(SPEC, reward=replace(SPEC.reward, validator_fee=12))
    found = compute_outcome(attempt, spec, GENESIS_SET)
    earned = dict(found.payouts)
    earners = [i for i, operator in enumerate(OPERATORS) if operator in earned]
    assert {earned[OPERATORS[i]] for i in earners} <= {12 // max(1, len(earners))}
    assert found.payout == sum(earned.values())
    return earners


def test_fee_is_for_validators_that_check_and_do_not_cry_cheat() -> None:
    all_ok = [OK] * 8
    assert list_earners(all_ok, all_ok, all_ok) == [0, 1, 2]
    assert list_earners(all_ok, all_ok, [CHEAT, *all_ok[1:]]) == [0, 1]
    assert list_earners(all_ok, all_ok, [BAD, *all_ok[1:]]) == [0, 1, 2]
    assert list_earners(all_ok, all_ok, [UNCHECKED] * 2 + all_ok[2:]) == [0, 1, 2]
    assert list_earners(all_ok, all_ok, [UNCHECKED] * 3 + all_ok[3:]) == [0, 1]
    assert list_earners([OK, OK], [OK, OK], [UNCHECKED, OK]) == [0, 1, 2]


def test_payment_of_a_void_attempt_adds_rewards_and_keeps_the_model() -> None:
    failed = [BallotFailed(TASK, 0, 0, number) for number in range(2)]
    posted = [verdict(i, OK, ballot=2) for i in range(3)]
    payout = PRICE + 3 * (SPEC.reward.validator_fee // 3)
    paid = AttemptPaid(TASK, 0, 0, 2, replace(VOTE, accepted_units=1, payout=payout))
    void = AttemptVoided(TASK, 0, 0)
    history = history_after(opened(), committed(0), *failed, *posted)
    fold = apply_event(history, paid, at(90), spec=SPEC, validator_set=GENESIS_SET)
    assert dict(fold.payouts)[MINERS[0]] == PRICE
    fold = apply_event(fold.history, void, at(90), spec=SPEC, validator_set=GENESIS_SET)
    history = fold.history
    assert (history.rounds_settled, history.attempt, history.ended) == (0, None, ())
    assert (fold.ended, fold.payouts) == (None, ())


@pytest.mark.parametrize("field", ["timely_voters", "accepted_units", "payout"])
@pytest.mark.parametrize("is_settled", [True, False])
def test_payout_that_does_not_follow_from_verdicts_credits_no_account(
    field: str, is_settled: bool
) -> None:
    # Otherwise accounts would be credited with pay that was never paid in.
    ballot = 0 if is_settled else 2
    failed = [BallotFailed(TASK, 0, 0, number) for number in range(ballot)]
    posted = [verdict(i, OK, ballot=ballot) for i in range(3)]
    history = history_after(opened(), committed(0), *failed, *posted)
    payout = PRICE + 3 * (SPEC.reward.validator_fee // 3)
    right = replace(VOTE, accepted_units=1, payout=payout)
    wrong = replace(right, **{field: getattr(right, field) + 1})
    kind = RoundSettled if is_settled else AttemptPaid
    folds = [
        apply_event(
            history, kind(TASK, 0, 0, ballot, vote), at(90), spec=SPEC, validator_set=GENESIS_SET
        )
        for vote in (right, wrong)
    ]
    assert [each.is_unexplained for each in folds] == [False, True]
    assert [sum(pay for _, pay in each.payouts) for each in folds] == [payout, 0]


def test_timely_voters_are_bits_of_judges_with_a_timely_verdict() -> None:
    late = verdict(0, OK, timely=False)
    before = history_after(opened(), committed(0), verdict(3, OK), late, verdict(1, BAD)).attempt
    after = history_after(opened(), committed(0), verdict(3, OK), BallotFailed(TASK, 0, 0, 0))
    assert before is not None
    assert after.attempt is not None
    assert (before.timely_voters, after.attempt.timely_voters) == (0b1010, 0)


def test_attempt_without_guilty_miners_is_not_remembered() -> None:
    votes = [verdict(i, OK, BAD) for i in range(3)]
    history = history_after(opened(), committed(0), committed(1), *votes, AttemptVoided(TASK, 0, 0))
    assert history.ended == ()


def end_attempt_of(*events: object) -> EndedAttempt:
    """The attempt of one miner that is void after these events."""
    before = history_after(opened(), committed(0), *events)
    number = 2 + 3 + len(events)
    void = AttemptVoided(TASK, 0, 0)
    ended = apply_event(before, void, at(number), spec=SPEC, validator_set=GENESIS_SET).ended
    assert ended is not None
    return ended


def test_attempt_is_remembered_until_its_miners_can_be_fined_no_more() -> None:
    votes = [verdict(i, CHEAT) for i in range(2)]
    history = history_after(opened(), committed(0), *votes, AttemptVoided(TASK, 0, 0))
    (mark,) = history.ended
    ended = end_attempt_of(*votes)
    # Late verdicts have twice the seconds of the verdict phase, but 64 blocks at least.
    window = 64
    late = max(window, 2 * SPEC.phases.verdict_seconds)
    end = ended.block_number
    assert mark == build_mark(ended, end)
    assert (ended.late_until, ended.voted_until, ended.slashed_until) == (
        end + late,
        end + late + window,
        end + late + 2 * window,
    )
    for number, count in ((ended.slashed_until, 1), (ended.slashed_until + 1, 0)):
        after = history
        for event in (opened(attempt=1), AttemptVoided(TASK, 0, 1)):
            after = apply_event(
                after, event, at(number), spec=SPEC, validator_set=GENESIS_SET
            ).history
        assert len(after.ended) == count


def test_no_more_ended_attempts_are_named_than_the_ledger_keeps() -> None:
    ended = end_attempt_of(*(verdict(i, CHEAT) for i in range(2)))
    marks: tuple[EndedMark, ...] = ()
    for ordinal in range(1, RING + 3):
        later = replace(ended, attempt=replace(ended.attempt, ordinal=ordinal))
        marks = add_mark(marks, ordinal, later, ended.block_number)
    assert [each.ordinal for each in marks] == list(range(3, RING + 3))
    # An attempt without guilt takes a place of the ledger's, too.
    marks = add_mark(marks, RING + 3, None, ended.block_number)
    assert [each.ordinal for each in marks] == list(range(4, RING + 3))


def test_attempt_whose_last_ballot_had_no_verdict_is_not_remembered() -> None:
    """The ledger has no record of such a ballot, and takes no late verdicts on it."""
    history = history_after(opened(), committed(0), AttemptVoided(TASK, 0, 0))
    assert history.ended == ()


def test_late_words_votes_and_fines_are_told_apart_by_attempt() -> None:
    votes = [verdict(i, CHEAT) for i in range(2)]
    history = history_after(opened(), committed(0), *votes, AttemptVoided(TASK, 0, 0))
    ended = end_attempt_of(*votes)
    root = Hash32(b"\x05" * 32)
    for event in (
        LateVerdictPosted(TASK, VALIDATORS[2], 1, b"\x02"),
        LateVerdictPosted(TASK, VALIDATORS[2], 2, b"\x01"),
        FinesPosted(TASK, VALIDATORS[3], 1, True, root),
        FinesApproved(TASK, 1, True, root),
        MinerFined(TASK, MINERS[0], 1, FineKind.FRAUD, 5),
    ):
        fold = apply_event(
            history,
            event,
            at(60),
            spec=SPEC,
            validator_set=GENESIS_SET,
            find_ended={1: ended}.get,
        )
        history, ended = fold.history, fold.ended or ended
    assert history.ended == (build_mark(ended, BlockNumber(60)),)
    assert ended.late_verdicts == ((VALIDATORS[2], b"\x02"),)
    assert ended.fines_votes == ((VALIDATORS[3], True),)
    assert ended.approved == (ApprovedFines(root, True, BlockNumber(60)),)
    assert ended.imposed == ((MINERS[0], FineKind.FRAUD),)


@given(
    st.lists(
        st.tuples(st.sampled_from(MINERS), st.integers(min_value=0, max_value=10**30)), max_size=6
    )
)
def test_rewards_only_grow_and_conserve_every_unit(rounds: list[tuple]) -> None:
    earned: dict[Address, int] = {}
    for payout in rounds:
        grown = add_rewards(earned, [payout])
        assert all(grown[account] >= amount for account, amount in earned.items())
        earned = grown
    assert sum(earned.values()) == sum(amount for _, amount in rounds)


def test_evaluation_is_lower_median_of_votes_for_settled_result() -> None:
    liar = result(3, replace(VOTE, accepted_units=9), correct=360)
    posted = [result(0, correct=300), result(1, correct=310), result(2), liar]
    before = history_after(opened(), committed(0), verdict(0, OK), *posted)
    settled = apply_event(
        before, RoundSettled(TASK, 0, 0, 0, VOTE), at(50), spec=SPEC, validator_set=GENESIS_SET
    ).settled

    assert settled is not None
    # 300 and 310 evaluated; losses 500 and 501.
    assert get_evaluation(settled) == (300, 500)


def test_lower_median() -> None:
    assert get_lower_median([]) is None
    assert get_lower_median([3, 1, 2]) == 2
    assert get_lower_median([4, 1, 3, 2]) == 2


def test_status_follows_the_registry() -> None:
    paused = history_after(TaskPaused(TASK))
    resumed = history_after(TaskPaused(TASK), TaskResumed(TASK))
    closed = history_after(opened(), TaskClosed(TASK, 1))

    assert (paused.status, resumed.status, closed.status) == (
        TaskStatus.PAUSED,
        TaskStatus.ACTIVE,
        TaskStatus.CLOSED,
    )
    assert closed.attempt is None


def test_ready_validators_are_kept_in_order() -> None:
    history = history_after(
        TaskAnswered(TASK, VALIDATORS[2], 0, 1), TaskAnswered(TASK, VALIDATORS[0], 0, 2)
    )

    assert history.ready == (VALIDATORS[2], VALIDATORS[0])
