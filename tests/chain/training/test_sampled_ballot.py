"""Ballots with two votes: rules for all counts of answers, and whole ballots by example."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import combinations_with_replacement, product
from typing import TypeVar

import pytest

from chain.primitives import Address
from chain.training.acceptance import Verdict
from chain.training.availability import Availability
from chain.training.decisions import (
    Guilt,
    Outcome,
    VoteSizes,
    compute_guilt,
    decide_audited,
    decide_unaudited,
    needs_another_ballot,
)
from chain.training.sampled_ballot import (
    SampledBallot,
    SampledOutcome,
    add_late_verdicts,
    compute_bond,
    compute_deviation_fine,
    compute_unaudited_guilt,
    decide_sampled_ballot,
    excuse_missing,
)
from chain.types.validator_set import compute_max_faulty, compute_quorum

OK, BAD, CHEAT, MISSING, UNCHECKED = Verdict
HELD, UNAVAILABLE, LACKED_TIME = Availability
SETS = range(4, 11)

VALIDATORS = tuple(Address(bytes([0xA0 + number]) * 20) for number in range(10))
FOUR = VoteSizes(max_faulty=1, quorum=3)

T = TypeVar("T")


def sizes_of(n: int) -> VoteSizes:
    return VoteSizes(compute_max_faulty(n), compute_quorum(n))


def count_honest(n: int) -> int:
    return n - compute_max_faulty(n)


def list_votes(answers: Sequence[T], count: int) -> Iterator[tuple[T, ...]]:
    """Every way in which `count` validators vote or stay silent, apart from their order."""
    for voters in range(count + 1):
        yield from combinations_with_replacement(answers, voters)


# One commitment that no validator drew.


@pytest.mark.parametrize("n", SETS)
def test_no_words_allow_two_decisions_on_an_unaudited_commitment(n: int) -> None:
    sizes = sizes_of(n)
    for words in list_votes(tuple(Availability), n):
        held, unavailable = words.count(HELD), words.count(UNAVAILABLE)
        is_accepted = held > sizes.max_faulty
        is_missed = unavailable >= sizes.quorum and held <= sizes.max_faulty
        assert not (is_accepted and is_missed)
        outcome = decide_unaudited(words, sizes)
        assert (outcome is Outcome.ACCEPTED) == is_accepted
        assert (outcome is Outcome.MISSED) == is_missed
        expected = Guilt.MISS if is_missed else Guilt.NONE
        assert compute_unaudited_guilt(words, sizes) is expected


@pytest.mark.parametrize("n", SETS)
def test_gradient_that_enough_validators_hold_is_no_miss(n: int) -> None:
    sizes = sizes_of(n)
    holders = n - sizes.quorum + 1
    for held in combinations_with_replacement((HELD, LACKED_TIME), holders):
        for others in list_votes(tuple(Availability), n - holders):
            assert compute_unaudited_guilt((*held, *others), sizes) is Guilt.NONE


@pytest.mark.parametrize("n", SETS)
@pytest.mark.parametrize("said", [HELD, UNAVAILABLE])
def test_liars_fail_no_ballot_if_honest_words_agree(n: int, said: Availability) -> None:
    sizes = sizes_of(n)
    for lies in list_votes(tuple(Availability), sizes.max_faulty):
        words = (*lies, *[said] * count_honest(n))
        outcome = decide_unaudited(words, sizes)
        assert outcome is (Outcome.ACCEPTED if said is HELD else Outcome.MISSED)
        held, unchecked = words.count(HELD), words.count(LACKED_TIME)
        assert not needs_another_ballot(outcome, held, unchecked, sizes)


@pytest.mark.parametrize("n", SETS)
def test_ballot_fails_for_unaudited_only_if_it_may_yet_be_accepted(n: int) -> None:
    sizes = sizes_of(n)
    for words in list_votes(tuple(Availability), n):
        outcome = decide_unaudited(words, sizes)
        held, unchecked = words.count(HELD), words.count(LACKED_TIME)
        later = [HELD if word is LACKED_TIME else word for word in words]
        may_be_accepted = unchecked > 0 and decide_unaudited(later, sizes) is Outcome.ACCEPTED
        fails = needs_another_ballot(outcome, held, unchecked, sizes)
        assert fails == (outcome is Outcome.UNDECIDED and may_be_accepted)


# Receipts.


@pytest.mark.parametrize("n", SETS)
def test_receipts_excuse_missing_and_change_no_other_verdict(n: int) -> None:
    for verdicts in list_votes(tuple(Verdict), n):
        excused = excuse_missing(verdicts)
        assert MISSING not in excused
        for said, read in zip(verdicts, excused, strict=True):
            assert read is (UNCHECKED if said is MISSING else said)


@pytest.mark.parametrize("n", SETS)
def test_with_receipts_only_a_quorum_that_found_it_wrong_costs_anything(n: int) -> None:
    sizes = sizes_of(n)
    for verdicts in list_votes(tuple(Verdict), n):
        guilt = compute_guilt(excuse_missing(verdicts), sizes, is_all_audited=False)
        against = verdicts.count(BAD) + verdicts.count(CHEAT)
        if against < sizes.quorum:
            assert guilt is Guilt.NONE
        if verdicts.count(CHEAT) < sizes.quorum:
            assert guilt is not Guilt.FRAUD


@pytest.mark.parametrize("n", SETS)
def test_receipts_make_no_guilt_heavier(n: int) -> None:
    order = list(Guilt)
    sizes = sizes_of(n)
    for verdicts in list_votes(tuple(Verdict), n):
        said = compute_guilt(verdicts, sizes, is_all_audited=False)
        read = compute_guilt(excuse_missing(verdicts), sizes, is_all_audited=False)
        assert order.index(read) <= order.index(said)


# Late verdicts.


@pytest.mark.parametrize(("said", "late"), [*product([None, *Verdict], Verdict)])
def test_late_verdict_stands_for_none_or_unchecked_only(
    said: Verdict | None, late: Verdict
) -> None:
    timely = {} if said is None else {VALIDATORS[0]: said}
    final = add_late_verdicts(timely, [(VALIDATORS[0], late)])
    if said in (None, UNCHECKED) and late in (OK, BAD, CHEAT):
        assert final == (late,)
    else:
        assert final == tuple(timely.values())


def test_validator_gives_one_late_verdict() -> None:
    late = [
        (VALIDATORS[1], UNCHECKED),
        (VALIDATORS[1], CHEAT),
        (VALIDATORS[1], OK),
        (VALIDATORS[0], BAD),
    ]
    assert add_late_verdicts({VALIDATORS[0]: UNCHECKED}, late) == (BAD, CHEAT)


@pytest.mark.parametrize("n", SETS)
def test_honest_validators_that_were_shut_out_can_make_fraud_cost(n: int) -> None:
    """However many honest validators were shut out, and whatever the liars say."""
    sizes = sizes_of(n)
    honest = VALIDATORS[: count_honest(n)]
    liars = VALIDATORS[count_honest(n) : n]
    for lies in list_votes(tuple(Verdict), len(liars)):
        for shut_out, reading in product(range(len(honest) + 1), (None, UNCHECKED)):
            timely = dict(zip(liars, lies, strict=False))
            timely |= dict.fromkeys(honest[shut_out:], CHEAT)
            if reading is not None:
                timely |= dict.fromkeys(honest[:shut_out], reading)
            late = [(validator, CHEAT) for validator in honest[:shut_out]]
            final = add_late_verdicts(timely, late)
            assert compute_guilt(final, sizes, is_all_audited=False) is Guilt.FRAUD


@pytest.mark.parametrize("n", SETS)
def test_late_lies_take_no_bond_if_enough_honest_validators_hold_it(n: int) -> None:
    sizes = sizes_of(n)
    holders = VALIDATORS[: n - sizes.quorum + 1]
    others = VALIDATORS[len(holders) : n]
    for held in combinations_with_replacement((OK, BAD, UNCHECKED), len(holders)):
        for said in list_votes((MISSING, UNCHECKED, CHEAT), len(others)):
            timely = dict(zip((*holders, *others), (*held, *said), strict=False))
            final = add_late_verdicts(timely, [(other, CHEAT) for other in others])
            assert compute_guilt(final, sizes, is_all_audited=False) is not Guilt.FRAUD


@pytest.mark.parametrize("n", SETS)
def test_right_gradient_that_enough_honest_validators_hold_costs_nothing(n: int) -> None:
    """Neither the bond nor the fine for a deviation, whatever the others say, in time or late."""
    sizes = sizes_of(n)
    holders = VALIDATORS[: n - sizes.quorum + 1]
    others = VALIDATORS[len(holders) : n]
    for held in combinations_with_replacement((OK, UNCHECKED), len(holders)):
        for said in list_votes(tuple(Verdict), len(others)):
            timely = dict(zip((*holders, *others), (*held, *said), strict=False))
            late = [(other, lie) for other, lie in product(others, (BAD, CHEAT))]
            for verdicts in (timely.values(), add_late_verdicts(timely, late)):
                assert compute_guilt(verdicts, sizes, is_all_audited=False) is Guilt.NONE


# Fines and bonds.


@pytest.mark.parametrize("audit_ppm", [10_000, 50_000, 333_333, 999_999, 1_000_000])
@pytest.mark.parametrize("round_pay", [1, 7, 10**18 + 1])
def test_fine_takes_the_gain_and_bond_twice_the_gain(audit_ppm: int, round_pay: int) -> None:
    chance = Fraction(audit_ppm, 10**6)
    deviation = compute_deviation_fine(round_pay, audit_ppm)
    bond = compute_bond(round_pay, audit_ppm)
    assert 0 <= deviation - round_pay * (1 / chance - 1) < 1
    assert 0 <= bond - round_pay * (2 / chance - 1) < 1
    # Not caught, a miner keeps the pay. Caught, it loses the fine, and is not paid.
    assert (1 - chance) * round_pay <= chance * deviation
    assert 2 * round_pay <= chance * (bond + round_pay)
    assert deviation <= bond


def test_task_without_a_sample_has_a_bond_of_one_round() -> None:
    assert compute_deviation_fine(123, 10**6) == 0
    assert compute_bond(123, 10**6) == 123


# Whole ballots of four validators; of three commitments the last one is drawn.

A, B, C, D = VALIDATORS[:4]

BALLOT = SampledBallot(
    words=dict.fromkeys((A, B, C, D), (HELD, HELD, HELD)),
    audited=(2,),
    verdicts=dict.fromkeys((A, B, C, D), (OK,)),
    excused=frozenset(),
)
ALL_ACCEPTED = SampledOutcome(
    outcomes=(Outcome.ACCEPTED,) * 3,
    is_failed=False,
    guilt=(Guilt.NONE,) * 3,
    late=(),
    earners=(A, B, C, D),
)


def decide(ballot: SampledBallot, *, is_last: bool = False) -> SampledOutcome:
    count = len(next(iter(ballot.words.values())))
    return decide_sampled_ballot(ballot, count, FOUR, is_last=is_last)


def with_words(*words: Availability) -> SampledBallot:
    """The ballot in which the four validators say these words of the first commitment."""
    votes = dict(zip((A, B, C, D), words, strict=True))
    return replace(BALLOT, words={each: (word, HELD, HELD) for each, word in votes.items()})


def with_verdicts(*verdicts: Verdict, is_excused: bool = False) -> SampledBallot:
    votes = dict(zip((A, B, C, D), verdicts, strict=True))
    return replace(
        BALLOT,
        verdicts={each: (verdict,) for each, verdict in votes.items()},
        excused=frozenset({2} if is_excused else ()),
    )


def test_ballot_accepts_what_is_held_and_what_is_right() -> None:
    assert decide(BALLOT) == ALL_ACCEPTED


def test_drawn_commitment_is_decided_by_verdicts_and_the_rest_by_words() -> None:
    """The words on a drawn commitment, and only they, decide nothing."""
    hidden = dict.fromkeys((A, B, C, D), (UNAVAILABLE, HELD, UNAVAILABLE))
    assert decide(replace(BALLOT, words=hidden)) == replace(
        ALL_ACCEPTED,
        outcomes=(Outcome.MISSED, Outcome.ACCEPTED, Outcome.ACCEPTED),
        guilt=(Guilt.MISS, Guilt.NONE, Guilt.NONE),
    )


def test_unrevealed_is_a_miss_if_undrawn_and_costs_the_bond_if_drawn() -> None:
    undrawn = decide(with_words(UNAVAILABLE, UNAVAILABLE, UNAVAILABLE, HELD))
    assert undrawn.guilt == (Guilt.MISS, Guilt.NONE, Guilt.NONE)
    drawn = decide(with_verdicts(MISSING, MISSING, MISSING, OK))
    assert drawn.guilt == (Guilt.NONE, Guilt.NONE, Guilt.FRAUD)


def test_receipts_save_the_bond_and_open_another_ballot() -> None:
    verdicts = (MISSING, MISSING, MISSING, OK)
    without = decide(with_verdicts(*verdicts))
    assert (without.outcomes[2], without.is_failed) == (Outcome.MISSED, False)
    excused = with_verdicts(*verdicts, is_excused=True)
    outcome = decide(excused)
    assert (outcome.outcomes[2], outcome.is_failed) == (Outcome.UNDECIDED, True)
    assert (outcome.guilt[2], outcome.late) == (Guilt.NONE, (2,))
    last = decide(excused, is_last=True)
    assert (last.outcomes[2], last.is_failed) == (Outcome.UNDECIDED, False)
    assert (last.guilt[2], last.late) == (Guilt.NONE, ())
    # Who was cut off keeps its share.
    assert last.earners == (A, B, C, D)


def test_late_delivery_is_one_that_made_the_ballot_fail() -> None:
    ballot = with_words(UNAVAILABLE, UNAVAILABLE, LACKED_TIME, HELD)
    failed = decide(ballot)
    assert (failed.is_failed, failed.guilt[0], failed.late) == (True, Guilt.NONE, (0,))
    last = decide(ballot, is_last=True)
    assert (last.outcomes[0], last.guilt[0], last.late) == (Outcome.UNDECIDED, Guilt.NONE, ())


def test_failed_ballot_finds_nobody_guilty() -> None:
    ballot = replace(
        with_verdicts(CHEAT, CHEAT, CHEAT, OK),
        words=with_words(HELD, LACKED_TIME, LACKED_TIME, UNAVAILABLE).words,
    )
    failed = decide(ballot)
    assert failed.is_failed
    assert failed.guilt == (Guilt.NONE,) * 3
    assert decide(ballot, is_last=True).guilt == (Guilt.NONE, Guilt.NONE, Guilt.FRAUD)


def test_deviation_costs_more_than_no_pay() -> None:
    outcome = decide(with_verdicts(BAD, BAD, MISSING, OK))
    assert (outcome.outcomes[2], outcome.guilt[2]) == (Outcome.REJECTED, Guilt.DEVIATION)


def test_cheat_verdict_on_an_accepted_gradient_costs_the_fee() -> None:
    assert decide(with_verdicts(CHEAT, OK, OK, OK)).earners == (B, C, D)
    assert decide(with_verdicts(BAD, OK, OK, OK)).earners == (A, B, C, D)
    assert decide(with_verdicts(CHEAT, CHEAT, OK, OK)).earners == (A, B, C, D)


def test_validator_without_both_timely_votes_earns_nothing() -> None:
    half = {each: verdicts for each, verdicts in BALLOT.verdicts.items() if each != B}
    assert decide(replace(BALLOT, verdicts=half)).earners == (A, C, D)
    late = {each: words for each, words in BALLOT.words.items() if each != C}
    assert decide(replace(BALLOT, words=late)).earners == (A, B, D)


def test_ballot_without_a_draw_needs_no_second_vote() -> None:
    assert decide(replace(BALLOT, audited=(), verdicts={})) == ALL_ACCEPTED


@pytest.mark.parametrize(
    ("unchecked", "audited", "is_paid"),
    [(1, 1, False), (1, 3, False), (1, 4, True), (2, 4, False), (2, 8, True), (3, 8, False)],
)
def test_a_quarter_of_the_audits_may_stay_unchecked(
    unchecked: int, audited: int, is_paid: bool
) -> None:
    verdicts = (UNCHECKED,) * unchecked + (OK,) * (audited - unchecked)
    ballot = SampledBallot(
        words=dict.fromkeys((A, B, C, D), (HELD,) * 8),
        audited=tuple(range(audited)),
        verdicts=dict.fromkeys((A, B, C, D), (OK,) * audited) | {D: verdicts},
        excused=frozenset(),
    )
    assert decide(ballot).earners == ((A, B, C, D) if is_paid else (A, B, C))


@pytest.mark.parametrize(
    ("unchecked", "count", "is_paid"),
    [(1, 1, True), (2, 2, False), (1, 3, True), (2, 7, False), (2, 8, True), (3, 8, False)],
)
def test_a_quarter_of_the_words_or_one_may_stay_unchecked(
    unchecked: int, count: int, is_paid: bool
) -> None:
    words = (LACKED_TIME,) * unchecked + (HELD,) * (count - unchecked)
    ballot = SampledBallot(
        words=dict.fromkeys((A, B, C, D), (HELD,) * count) | {D: words},
        audited=(),
        verdicts={},
        excused=frozenset(),
    )
    assert decide(ballot).earners == ((A, B, C, D) if is_paid else (A, B, C))


@pytest.mark.parametrize("n", SETS)
def test_ballot_decides_as_the_rules_for_one_commitment(n: int) -> None:
    """Over all counts of verdicts, a ballot adds nothing to the rules but who speaks."""
    sizes = sizes_of(n)
    validators = VALIDATORS[:n]
    words = dict.fromkeys(validators, (HELD,))
    for verdicts in combinations_with_replacement(tuple(Verdict), n):
        said = {each: (verdict,) for each, verdict in zip(validators, verdicts, strict=True)}
        ballot = SampledBallot(words, (0,), said, frozenset())
        outcome = decide_sampled_ballot(ballot, 1, sizes, is_last=True)
        assert outcome.outcomes == (decide_audited(verdicts, sizes),)
        assert outcome.guilt == (compute_guilt(verdicts, sizes, is_all_audited=False),)
        assert not outcome.is_failed
