"""The figures of docs/adr/0026: what lazy and copying validators cost, computed from the rules."""

from itertools import count
from pathlib import Path

from chain.training.acceptance import Verdict
from chain.training.decisions import (
    Guilt,
    Outcome,
    VoteSizes,
    compute_guilt,
    decide_audited,
)
from chain.training.draws import DRAW_BITS, AuditRule, compute_expected_draws
from chain.training.sampled_ballot import compute_bond
from chain.types.validator_set import compute_max_faulty, compute_quorum

PAGE = Path("docs/adr/0026-laziness.md")
PPM = 10**6
AUDIT_PPM = 50_000
SETS = (4, 7, 10)
SUSPICION = 1e-6
"""A validator that draws as it should is suspected with this chance at most."""


def sizes_of(n: int) -> VoteSizes:
    return VoteSizes(compute_max_faulty(n), compute_quorum(n))


def compute_chance(n: int) -> float:
    """r, the chance that an honest validator draws a commitment."""
    sizes = sizes_of(n)
    rule = AuditRule(AUDIT_PPM, 1, 1, sizes.quorum - sizes.max_faulty)
    return compute_expected_draws(1 << DRAW_BITS, rule) / (1 << DRAW_BITS)


def compute_margin(n: int, drawing: int) -> float:
    """What a miner that always cheats loses for each coin that it gains.

    It is paid R a round for no work; if one of the `drawing` validators draws it, it loses R and
    its bond.
    """
    caught = 1 - (1 - compute_chance(n)) ** drawing
    pay = 10**18
    return caught * (pay + compute_bond(pay, AUDIT_PPM)) / pay


def compute_work(n: int, drawing: int) -> float:
    """The gradients that all n validators re-execute for each gradient, at H = 1."""
    return n * (1 - (1 - compute_chance(n)) ** drawing)


def count_until_suspected(n: int, share: float) -> int:
    """The commitments after which a validator is suspected that draws `share` of what it should.

    It has then made as many draws as it makes on average, and an honest validator makes as few
    only by a chance of SUSPICION.
    """
    chance = compute_chance(n)
    for commitments in count(1):
        drawn = int(share * chance * commitments)
        probability = (1 - chance) ** commitments
        total = probability
        for k in range(drawn):
            probability *= (commitments - k) / (k + 1) * chance / (1 - chance)
            total += probability
        if total <= SUSPICION:
            return commitments
    raise AssertionError


def count_copiers(n: int, false: Verdict, true: Verdict, *, is_bond: bool) -> int:
    """The fewest copiers that help f liars to a wrong decision.

    The liars vote `false` first, copiers repeat it, and the other validators say `true`.

    Args:
        n: The number of validators.
        false: The verdict of liars and copiers.
        true: The verdict of the others.
        is_bond: Whether it is the bond, and not the pay, that is decided wrongly.
    """
    sizes = sizes_of(n)
    right = judge([true] * n, sizes, is_bond=is_bond)
    for copiers in range(n - sizes.max_faulty + 1):
        liars = sizes.max_faulty + copiers
        verdicts = [false] * liars + [true] * (n - liars)
        if judge(verdicts, sizes, is_bond=is_bond) is not right:
            return copiers
    raise AssertionError


def judge(verdicts: list[Verdict], sizes: VoteSizes, *, is_bond: bool) -> Guilt | Outcome:
    if is_bond:
        return compute_guilt(verdicts, sizes, is_all_audited=False)
    return decide_audited(verdicts, sizes)


def format_row(n: int, *cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in (n, *cells))} |"


def list_rows() -> list[str]:
    rows = []
    for n in SETS:
        sizes = sizes_of(n)
        worst = sizes.quorum - sizes.max_faulty
        margins = [f"{compute_margin(n, worst - lazy):.2f}" for lazy in range(3)]
        trusting = [f"{compute_margin(n, n - lazy):.2f}" for lazy in range(3)]
        rows.append(format_row(n, f"{100 * compute_chance(n):.2f} %", *margins, *trusting))
    for n in SETS:
        saved = 1 - compute_work(n, n - 1) / compute_work(n, n)
        rows.append(
            format_row(
                n,
                f"{100 * compute_work(n, n) / n:.1f} %",
                f"{100 * compute_work(n, n - 1) / n:.1f} %",
                f"{100 * saved:.0f} %",
            )
        )
    for n in SETS:
        rows.append(format_row(n, *(count_until_suspected(n, share) for share in (0, 0.5))))
    for n in SETS:
        pairs = ((Verdict.OK, Verdict.CHEAT), (Verdict.CHEAT, Verdict.OK))
        copiers = [
            count_copiers(n, false, true, is_bond=is_bond)
            for false, true in pairs
            for is_bond in (True, False)
        ]
        rows.append(format_row(n, sizes_of(n).max_faulty, *copiers))
    return rows


def test_page_has_the_figures_that_follow_from_the_rules() -> None:
    page = PAGE.read_text(encoding="utf-8").splitlines()
    assert [row for row in list_rows() if row not in page] == []


def test_margin_is_two_if_as_many_draw_as_the_rule_counts_on() -> None:
    for n in SETS:
        sizes = sizes_of(n)
        margin = compute_margin(n, sizes.quorum - sizes.max_faulty)
        assert abs(margin - 2) < 1e-9


def test_page_says_how_many_rounds_give_a_lazy_validator_away() -> None:
    rounds = -(-count_until_suspected(4, 0) // 16)
    assert f"after {rounds} rounds of 16 miners" in PAGE.read_text(encoding="utf-8")
