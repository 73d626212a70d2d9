"""The decisions for sets of 4 to 10 validators, over all counts of answers and up to f liars."""

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement
from typing import TypeVar

import pytest

from chain.training.acceptance import Verdict
from chain.training.availability import Availability
from chain.training.decisions import (
    Guilt,
    Outcome,
    VoteSizes,
    compute_guilt,
    decide_audited,
    decide_unaudited,
    is_late_delivery,
    needs_another_ballot,
)
from chain.types.validator_set import compute_max_faulty, compute_quorum

OK, BAD, CHEAT, MISSING, UNCHECKED = Verdict
HELD, UNAVAILABLE, LACKED_TIME = Availability
SETS = range(4, 11)

T = TypeVar("T")


def sizes_of(n: int) -> VoteSizes:
    return VoteSizes(compute_max_faulty(n), compute_quorum(n))


def list_votes(answers: Sequence[T], count: int) -> Iterator[tuple[T, ...]]:
    """Every way in which `count` validators vote or stay silent, apart from their order."""
    for voters in range(count + 1):
        yield from combinations_with_replacement(answers, voters)


def list_lies(n: int, answers: Sequence[T] = tuple(Verdict)) -> list[tuple[T, ...]]:
    """Everything that f liars of a set of n can say together."""
    return list(list_votes(answers, compute_max_faulty(n)))


def count_honest(n: int) -> int:
    return n - compute_max_faulty(n)


@pytest.mark.parametrize("n", SETS)
def test_no_vote_satisfies_two_rules_below_rejection(n: int) -> None:
    sizes = sizes_of(n)
    for votes in list_votes(tuple(Verdict), n):
        against = votes.count(BAD) + votes.count(CHEAT)
        ok, missing = votes.count(OK), votes.count(MISSING)
        holds = {
            Outcome.REJECTED: against > sizes.max_faulty,
            Outcome.ACCEPTED: ok > sizes.max_faulty >= against,
            Outcome.MISSED: missing >= sizes.quorum and ok + against <= sizes.max_faulty,
        }
        decided = [outcome for outcome, is_true in holds.items() if is_true]
        assert decided in ([], [decide_audited(votes, sizes)])
        assert bool(decided) == (decide_audited(votes, sizes) is not Outcome.UNDECIDED)


@pytest.mark.parametrize("n", SETS)
def test_gradient_that_all_honest_validators_find_right_is_paid(n: int) -> None:
    sizes = sizes_of(n)
    for lies in list_lies(n):
        votes = (*lies, *[OK] * count_honest(n))
        assert decide_audited(votes, sizes) is Outcome.ACCEPTED
        assert compute_guilt(votes, sizes, is_all_audited=True) is Guilt.NONE
        assert compute_guilt(votes, sizes, is_all_audited=False) is Guilt.NONE


@pytest.mark.parametrize("n", SETS)
def test_pay_needs_f_plus_one_in_favour_and_f_at_most_against(n: int) -> None:
    sizes = sizes_of(n)
    for others in list_votes(tuple(Verdict), n - sizes.max_faulty - 1):
        votes = (*others, *[OK] * (sizes.max_faulty + 1))
        against = votes.count(BAD) + votes.count(CHEAT)
        is_paid = decide_audited(votes, sizes) is Outcome.ACCEPTED
        assert is_paid == (against <= sizes.max_faulty)


@pytest.mark.parametrize("n", SETS)
def test_liars_alone_decide_nothing(n: int) -> None:
    """Whatever f liars say, an outcome in favour or against has an honest validator behind it."""
    sizes = sizes_of(n)
    for lies in list_lies(n):
        for honest in list_votes((MISSING, UNCHECKED), count_honest(n)):
            outcome = decide_audited((*lies, *honest), sizes)
            assert outcome in (Outcome.MISSED, Outcome.UNDECIDED)
            if outcome is Outcome.MISSED:
                assert MISSING in honest


@pytest.mark.parametrize("n", SETS)
@pytest.mark.parametrize("said", [OK, BAD, CHEAT, MISSING])
def test_liars_alone_make_no_ballot_fail(n: int, said: Verdict) -> None:
    sizes = sizes_of(n)
    for lies in list_lies(n):
        votes = (*lies, *[said] * count_honest(n))
        outcome = decide_audited(votes, sizes)
        ok, unchecked = votes.count(OK), votes.count(UNCHECKED)
        assert not needs_another_ballot(outcome, ok, unchecked, sizes)


@pytest.mark.parametrize("n", SETS)
def test_ballot_fails_only_if_those_without_time_could_accept(n: int) -> None:
    sizes = sizes_of(n)
    for votes in list_votes(tuple(Verdict), n):
        outcome = decide_audited(votes, sizes)
        ok, unchecked = votes.count(OK), votes.count(UNCHECKED)
        if needs_another_ballot(outcome, ok, unchecked, sizes):
            later = [OK if vote is UNCHECKED else vote for vote in votes]
            assert decide_audited(later, sizes) is Outcome.ACCEPTED


@pytest.mark.parametrize("n", SETS)
def test_verdicts_that_end_a_phase_early_decide_every_gradient(n: int) -> None:
    """Of 2f + 1 complete verdicts f + 1 are honest: they all have checked every gradient.

    The others, f liars and honest validators that lack the gradient or the time, may say anything.
    """
    sizes = sizes_of(n)
    for lies in list_lies(n):
        complete_lies = sum(word not in (MISSING, UNCHECKED) for word in lies)
        needed = 2 * sizes.max_faulty + 1 - complete_lies
        for others in list_votes((MISSING, UNCHECKED), count_honest(n) - needed):
            assert decide_audited((*lies, *others, *[OK] * needed), sizes) is Outcome.ACCEPTED
            for found in combinations_with_replacement((BAD, CHEAT), needed):
                votes = (*lies, *others, *found)
                assert decide_audited(votes, sizes) is Outcome.REJECTED


@pytest.mark.parametrize("n", SETS)
def test_quorum_of_any_words_may_leave_a_right_gradient_undecided(n: int) -> None:
    """So such a quorum does not end a verdict phase before its deadline."""
    sizes = sizes_of(n)
    votes = [UNCHECKED] * (sizes.quorum - sizes.max_faulty) + [OK] * sizes.max_faulty
    assert decide_audited(votes, sizes) is Outcome.UNDECIDED


@pytest.mark.parametrize("n", SETS)
@pytest.mark.parametrize("is_all_audited", [True, False])
def test_no_bond_is_lost_if_enough_honest_validators_hold_the_bytes(
    n: int, is_all_audited: bool
) -> None:
    """Whatever f liars and the honest validators without the gradient say in a ballot."""
    sizes = sizes_of(n)
    holders = n - sizes.quorum + 1
    for held in list_votes((OK, BAD, UNCHECKED), holders):
        for others in list_votes(tuple(Verdict), n - holders):
            votes = (*held, *others)
            guilt = compute_guilt(votes, sizes, is_all_audited=is_all_audited)
            assert guilt in ((Guilt.NONE,) if is_all_audited else (Guilt.NONE, Guilt.DEVIATION))
            outcome = decide_audited(votes, sizes)
            assert outcome is not Outcome.MISSED


@pytest.mark.parametrize("n", SETS)
@pytest.mark.parametrize("is_all_audited", [True, False])
def test_false_gradient_costs_the_bond_if_enough_validators_saw_it(
    n: int, is_all_audited: bool
) -> None:
    sizes = sizes_of(n)
    for shown in range(1, count_honest(n) + 1):
        honest = [CHEAT] * shown + [MISSING] * (count_honest(n) - shown)
        for lies in list_lies(n):
            words = (*lies, *honest)
            guilt = compute_guilt(words, sizes, is_all_audited=is_all_audited)
            is_proven = words.count(CHEAT) > sizes.max_faulty or not is_all_audited
            assert guilt is (Guilt.FRAUD if is_proven else Guilt.MISS)
            assert guilt is Guilt.FRAUD or shown <= sizes.max_faulty


@pytest.mark.parametrize("n", SETS)
def test_liars_turn_no_miss_into_the_loss_of_a_bond(n: int) -> None:
    sizes = sizes_of(n)
    for lies in list_lies(n):
        for honest in list_votes((OK, BAD, MISSING, UNCHECKED), count_honest(n)):
            guilt = compute_guilt((*lies, *honest), sizes, is_all_audited=True)
            assert guilt in (Guilt.NONE, Guilt.MISS)


@pytest.mark.parametrize("n", SETS)
def test_withheld_gradient_costs_a_miss_or_the_bond_if_it_was_drawn(n: int) -> None:
    sizes = sizes_of(n)
    votes = [MISSING] * sizes.quorum
    assert decide_audited(votes, sizes) is Outcome.MISSED
    assert compute_guilt(votes, sizes, is_all_audited=True) is Guilt.MISS
    assert compute_guilt(votes, sizes, is_all_audited=False) is Guilt.FRAUD


@pytest.mark.parametrize("n", SETS)
def test_gradient_outside_the_tolerance_costs_more_than_no_pay_in_a_sample(n: int) -> None:
    sizes = sizes_of(n)
    for bad in range(1, sizes.quorum + 1):
        votes = [BAD] * bad + [MISSING] * (sizes.quorum - bad)
        assert compute_guilt(votes, sizes, is_all_audited=True) is Guilt.NONE
        assert compute_guilt(votes, sizes, is_all_audited=False) is Guilt.DEVIATION
        accepted = [*votes, *[OK] * (sizes.max_faulty + 1)]
        assert compute_guilt(accepted, sizes, is_all_audited=False) is Guilt.NONE


def is_late(votes: Sequence[Verdict], sizes: VoteSizes) -> bool:
    """Whether these verdicts on a gradient make a ballot fail because it came late."""
    outcome = decide_audited(votes, sizes)
    is_cause = needs_another_ballot(outcome, votes.count(OK), votes.count(UNCHECKED), sizes)
    return is_late_delivery(is_cause=is_cause, missing=votes.count(MISSING), sizes=sizes)


@pytest.mark.parametrize("n", SETS)
def test_late_delivery_needs_an_honest_validator_without_the_gradient(n: int) -> None:
    sizes = sizes_of(n)
    for lies in list_lies(n):
        for honest in list_votes((OK, UNCHECKED), count_honest(n)):
            assert not is_late((*lies, *honest), sizes)


@pytest.mark.parametrize("n", SETS)
def test_gradient_that_made_no_ballot_fail_is_no_late_delivery(n: int) -> None:
    sizes = sizes_of(n)
    for votes in list_votes(tuple(Verdict), n):
        outcome = decide_audited(votes, sizes)
        ok, unchecked = votes.count(OK), votes.count(UNCHECKED)
        is_cause = needs_another_ballot(outcome, ok, unchecked, sizes)
        lacked = votes.count(MISSING) > sizes.max_faulty
        assert is_late(votes, sizes) == (is_cause and lacked)
        if is_cause and lacked:
            # It takes a validator that holds the gradient and had no time to check it.
            assert outcome is Outcome.UNDECIDED
            assert UNCHECKED in votes


@pytest.mark.parametrize("n", SETS)
def test_verdicts_on_late_deliveries_may_be_on_a_gradient_in_time(n: int) -> None:
    """So no rule over verdicts spares every miner that enough honest validators held in time.

    f of those that say missing may lie, and all others may be honest holders.
    """
    sizes = sizes_of(n)
    late = [votes for votes in list_votes(tuple(Verdict), n) if is_late(votes, sizes)]
    assert late
    for votes in late:
        assert n - votes.count(MISSING) >= n - sizes.quorum + 1


@pytest.mark.parametrize("n", SETS)
def test_unaudited_gradient_is_decided_by_those_that_hold_it(n: int) -> None:
    sizes = sizes_of(n)
    lies = list_lies(n, tuple(Availability))
    for others in list_votes(tuple(Availability), n - sizes.max_faulty - 1):
        votes = (*others, *[HELD] * (sizes.max_faulty + 1))
        assert decide_unaudited(votes, sizes) is Outcome.ACCEPTED
    for said in lies:
        without = (*said, *[UNAVAILABLE] * count_honest(n))
        assert decide_unaudited(without, sizes) is Outcome.MISSED
        slow = (*said, *[LACKED_TIME] * count_honest(n))
        assert decide_unaudited(slow, sizes) is Outcome.UNDECIDED
        held, lacked = slow.count(HELD), slow.count(LACKED_TIME)
        assert needs_another_ballot(Outcome.UNDECIDED, held, lacked, sizes)
        for honest in list_votes((HELD,), count_honest(n)):
            assert decide_unaudited((*said, *honest), sizes) is not Outcome.MISSED
