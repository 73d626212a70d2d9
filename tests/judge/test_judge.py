"""Our engine and Ethereum's executable specification agree on random blocks."""

import pytest

from chain.execution import engine
from tests.judge.blocks import RandomChain
from tests.judge.compare import BLOCKS_A_CHAIN, Comparison, compare, find_differences, play
from tests.judge.coverage import format_table, list_required
from tests.judge.mutants import MUTANTS, Mutant

BLOCKS = 200
SEEDS = range(BLOCKS // BLOCKS_A_CHAIN)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(SEEDS)


def test_random_blocks_agree_with_the_second_implementation(comparison: Comparison) -> None:
    print(format_table(comparison.table))
    assert comparison.differences == []
    assert sum("block" in step.request for step in comparison.steps) == BLOCKS
    assert len({step.ours["state_root"] for step in comparison.steps}) > BLOCKS // 2


def test_random_blocks_reach_the_required_outcomes(comparison: Comparison) -> None:
    assert sorted(list_required() - comparison.table.keys()) == []


def test_random_transactions_are_refused_for_each_reason(comparison: Comparison) -> None:
    reasons = {reason.name for step in comparison.steps for reason in step.reasons if reason}
    assert reasons == {
        *("BAD_SIGNATURE", "FEE_TOO_LOW", "GAS_CAP", "GAS_LIMIT", "INIT_CODE_TOO_LARGE"),
        *("INSUFFICIENT_FUNDS", "INTRINSIC_GAS", "MALFORMED", "NONCE_TOO_HIGH", "NONCE_TOO_LOW"),
        *("SENDER_HAS_CODE", "TIP_ABOVE_FEE", "TRANSACTION_TYPE", "WRONG_CHAIN"),
    }


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_planted_defect_is_found(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch, mutant: Mutant
) -> None:
    answers = {
        (step.seed, step.number): answer
        for step, answer in zip(comparison.steps, comparison.answers, strict=True)
    }
    mutant(monkeypatch)

    def find_first() -> list[str]:
        for seed in SEEDS:
            for step in play(RandomChain(seed), seed):
                found = find_differences(step, answers[seed, step.number])
                if found:
                    return found
        return []

    assert find_first() != []


def test_a_mutant_of_nothing_is_not_found(comparison: Comparison) -> None:
    assert engine.MAX_REFUND_QUOTIENT == 5
    first = [step for step in comparison.steps if step.seed == 0]
    again = list(play(RandomChain(0), 0))
    assert [step.ours for step in again] == [step.ours for step in first]
