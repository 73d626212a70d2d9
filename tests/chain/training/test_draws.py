import hmac
from collections import Counter
from decimal import ROUND_CEILING, Decimal, localcontext
from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.crypto import sha256
from chain.primitives import Hash32
from chain.training.draws import (
    AuditRule,
    Draw,
    collect_draws,
    compute_draw_limit,
    compute_draws,
    compute_expected_draws,
)
from chain.types.validator_set import compute_max_faulty, compute_quorum

PPM = 10**6
SECRET = sha256(b"audit secret")
SEED = Hash32(sha256(b"seed of an attempt"))
VALUES = 2**256
SETS = (*range(4, 11), 25, 100)
CHANCES = (10_000, 20_000, 50_000, 123_456, 500_000, 999_999)


def rule_of(n: int, audit_ppm: int, steps: int = 1, audit_steps: int = 1) -> AuditRule:
    return AuditRule(audit_ppm, steps, audit_steps, compute_quorum(n) - compute_max_faulty(n))


RULE = rule_of(4, 50_000)
OFTEN = rule_of(4, 900_000, steps=5, audit_steps=2)

rules = st.builds(
    AuditRule,
    audit_ppm=st.integers(1, PPM),
    local_steps=st.just(1),
    audit_steps=st.just(1),
    honest_votes=st.integers(1, 40),
)


def compute_value(secret: bytes, domain: bytes, *numbers: int) -> int:
    message = domain + SEED + b"".join(number.to_bytes(4, "big") for number in numbers)
    return int.from_bytes(hmac.digest(secret, message, "sha256"), "big")


def draw_value(index: int, secret: bytes = SECRET) -> int:
    return compute_value(secret, b"POT draws v1\0\0\0\0", index)


@pytest.mark.parametrize("n", SETS)
@pytest.mark.parametrize("audit_ppm", CHANCES)
def test_honest_votes_of_any_quorum_draw_with_chance_p_or_just_above(
    n: int, audit_ppm: int
) -> None:
    """Counted: of all values that q - f validators can have, how many lead to no draw."""
    rule = rule_of(n, audit_ppm)
    threshold, votes = compute_expected_draws(VALUES, rule), rule.honest_votes
    all_undrawn = (PPM - audit_ppm) * VALUES**votes
    assert PPM * (VALUES - threshold) ** votes <= all_undrawn
    assert PPM * (VALUES - threshold + 1) ** votes > all_undrawn


@given(rules, st.integers(1, 5_000))
def test_expected_draws_are_the_least_that_reach_the_chance(rule: AuditRule, total: int) -> None:
    draws, votes = compute_expected_draws(total, rule), rule.honest_votes
    undrawn = (PPM - rule.audit_ppm) * total**votes
    assert 0 < draws <= total
    assert PPM * (total - draws) ** votes <= undrawn < PPM * (total - draws + 1) ** votes


@pytest.mark.parametrize("audit_ppm", CHANCES)
def test_with_one_honest_vote_its_chance_is_p_itself(audit_ppm: int) -> None:
    rule = AuditRule(audit_ppm, 1, 1, honest_votes=1)
    assert compute_expected_draws(PPM, rule) == audit_ppm
    assert compute_expected_draws(VALUES, rule) == -(-audit_ppm * VALUES // PPM)


@pytest.mark.parametrize("n", SETS)
def test_task_without_a_sample_has_everything_drawn_by_everybody(n: int) -> None:
    rule = rule_of(n, PPM)
    assert compute_expected_draws(VALUES, rule) == VALUES
    assert [compute_draw_limit(count, rule) for count in (1, 2, 1_024)] == [1, 2, 1_024]
    assert [draw.index for draw in compute_draws(SECRET, SEED, 40, rule)] == list(range(40))


@pytest.mark.parametrize("n", SETS)
@pytest.mark.parametrize("audit_ppm", CHANCES)
def test_limit_is_twice_the_expected_draws_and_two(n: int, audit_ppm: int) -> None:
    rule = rule_of(n, audit_ppm)
    with localcontext() as context:
        context.prec = 80
        undrawn = 1 - Decimal(audit_ppm) / PPM
        chance = 1 - undrawn ** (Decimal(1) / rule.honest_votes)
        for count in range(1, 1_025):
            twice = (2 * count * chance).to_integral_value(rounding=ROUND_CEILING)
            assert compute_draw_limit(count, rule) == min(count, int(twice) + 2)


@given(rules, st.integers(1, 60), st.data())
def test_limit_can_be_checked_without_a_root(
    rule: AuditRule, count: int, data: st.DataObject
) -> None:
    """As a contract would: c draws of M are allowed if c - 3 < 2 r M, which powers decide."""
    draws, votes = data.draw(st.integers(0, count)), rule.honest_votes
    left = 2 * count + 3 - draws
    is_within = PPM * left**votes > (PPM - rule.audit_ppm) * (2 * count) ** votes
    assert (draws <= compute_draw_limit(count, rule)) == (draws < 3 or is_within)


@pytest.mark.parametrize("n", [4, 7, 10, 25])
@pytest.mark.parametrize("audit_ppm", [10_000, 50_000, 300_000])
def test_limit_costs_less_than_half_a_percent_of_the_draws(n: int, audit_ppm: int) -> None:
    rule = rule_of(n, audit_ppm)
    chance = compute_expected_draws(VALUES, rule) / VALUES
    for count in (2, 3, 5, 9, 19, 39, 78, 99, 148, 199, 400, 1_024):
        limit = compute_draw_limit(count, rule)
        exactly, lost = (1 - chance) ** count, 0.0
        for drawn in range(count + 1):
            lost += max(0, drawn - limit) * exactly
            exactly *= (count - drawn) / (drawn + 1) * chance / (1 - chance)
        assert lost / (chance * count) < 0.005


def test_commitment_is_drawn_if_its_value_is_below_the_threshold() -> None:
    threshold = compute_expected_draws(VALUES, OFTEN)
    below = [index for index in range(60) if draw_value(index) < threshold]
    assert 20 < len(below) < compute_draw_limit(60, OFTEN)
    assert [draw.index for draw in compute_draws(SECRET, SEED, 60, OFTEN)] == below


def test_draw_of_a_commitment_does_not_depend_on_later_ones() -> None:
    """No draw depends on the others, as long as there are fewer than the limit."""
    few, many = (compute_draws(SECRET, SEED, count, OFTEN) for count in (30, 60))
    assert few == tuple(draw for draw in many if draw.index < 30)


def test_smallest_values_stay_if_chance_draws_more_than_the_limit() -> None:
    rule = rule_of(4, 200_000)
    secret = sha256(b"2")  # draws 6 of 12, and 5 are allowed
    threshold = compute_expected_draws(VALUES, rule)
    drawn = [index for index in range(12) if draw_value(index, secret) < threshold]
    assert (len(drawn), compute_draw_limit(12, rule)) == (6, 5)
    largest = max(drawn, key=lambda index: draw_value(index, secret))
    kept = [draw.index for draw in compute_draws(secret, SEED, 12, rule)]
    assert kept == [index for index in drawn if index != largest]


def test_draws_differ_by_secret_and_attempt_and_in_nothing_else() -> None:
    draws = compute_draws(SECRET, SEED, 60, OFTEN)
    assert draws == compute_draws(SECRET, SEED, 60, OFTEN)
    assert draws != compute_draws(sha256(SECRET), SEED, 60, OFTEN)
    assert draws != compute_draws(SECRET, Hash32(sha256(SEED)), 60, OFTEN)


def test_draw_names_the_steps_with_the_smallest_values() -> None:
    for draw in compute_draws(SECRET, SEED, 60, OFTEN):
        values = {
            step: compute_value(SECRET, b"POT steps v1\0\0\0\0", draw.index, step)
            for step in range(5)
        }
        assert draw.steps == tuple(sorted(sorted(values, key=values.__getitem__)[:2]))


def test_every_set_of_steps_is_named_about_equally_often() -> None:
    rule = rule_of(4, PPM, steps=5, audit_steps=2)
    named = Counter(draw.steps for draw in compute_draws(SECRET, SEED, 5_000, rule))
    assert set(named) == set(combinations(range(5), 2))
    assert all(400 < count < 600 for count in named.values())


@pytest.mark.parametrize("steps", [1, 7])
def test_draw_of_all_steps_names_them_all(steps: int) -> None:
    rule = rule_of(4, PPM, steps, audit_steps=steps)
    draws = compute_draws(SECRET, SEED, 3, rule)
    assert draws == tuple(Draw(index, tuple(range(steps))) for index in range(3))


def test_audited_is_what_any_vote_draws_with_all_its_steps() -> None:
    votes = [
        (Draw(1, (0, 3)), Draw(4, (2,))),
        (),
        (Draw(0, (1,)), Draw(1, (2, 3))),
        (Draw(4, (2,)),),
    ]
    expected = (Draw(0, (1,)), Draw(1, (0, 2, 3)), Draw(4, (2,)))
    assert all(collect_draws(order) == expected for order in permutations(votes))
    assert collect_draws([*votes, *votes]) == expected
    assert collect_draws([]) == ()
