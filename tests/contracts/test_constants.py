"""Python knows the constants of the contracts as their sources define them."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from chain.contracts import gradient_ledger, miner_seats
from chain.training import task_spec, task_spec_codec
from chain.training.fees import KEPT_SECONDS
from chain.types import certificate
from node.cli import miner_command
from node.config import VerifierSection
from node.setup.price_table import EXAMINATION_SECONDS, PRICE_STEPS
from node.training.collector import GRACE_SECONDS
from node.training.preparation import DRY_RUN_TRIES

ROOT = Path(__file__).parents[2]
DAY = 86_400


@cache
def constants(contract: str) -> dict[str, int]:
    """The constants of a contract that are sums and products of numbers and of each other."""
    source = (ROOT / "contracts" / "src" / f"{contract}.sol").read_text()
    known: dict[str, int] = {}
    for name, text in re.findall(r"constant (\w+) = ([^;]+);", source):
        expression = re.sub(r"(\d+) days", lambda match: str(int(match[1]) * DAY), text)
        try:
            known[name] = compute(ast.parse(expression, mode="eval").body, known)
        except (SyntaxError, ValueError):
            continue  # an address, a hash or a type
    return known


def compute(node: ast.expr, known: dict[str, int]) -> int:
    match node:
        case ast.Constant(value=int(value)):
            return value
        case ast.Name(id=name) if name in known:
            return known[name]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return compute(left, known) + compute(right, known)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return compute(left, known) - compute(right, known)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return compute(left, known) * compute(right, known)
        case _:
            raise ValueError(ast.dump(node))


@pytest.mark.parametrize("name", ["MAX_BALLOTS", "RING", "MIN_WINDOW_BLOCKS", "BLOCKS_PER_SECOND"])
def test_constant_of_the_ledger_is_that_of_its_source(name: str) -> None:
    assert getattr(gradient_ledger, name) == constants("GradientLedger")[name]


def test_an_answer_pays_for_every_dry_run_that_a_node_makes() -> None:
    paid = constants("TaskRegistry")["DRY_RUN_SECONDS"]
    assert paid == DRY_RUN_TRIES * VerifierSection().timeout_seconds
    assert paid == EXAMINATION_SECONDS


def test_the_price_of_slots_rises_as_the_table_says() -> None:
    assert constants("TaskRegistry")["PRICE_STEPS"] == PRICE_STEPS


def test_an_attempt_has_as_many_ballots_in_both_contracts() -> None:
    registry, ledger = constants("TaskRegistry"), constants("GradientLedger")
    assert registry["MAX_BALLOTS"] == ledger["MAX_BALLOTS"]


def test_content_is_paid_for_as_long_as_nodes_keep_it_for_a_closed_task() -> None:
    assert constants("TaskRegistry")["KEPT_SECONDS"] == KEPT_SECONDS == GRACE_SECONDS


@pytest.mark.parametrize(
    "name",
    [
        "MAX_MINERS",
        "MAX_FINES",
        "MAX_ENDED_SEATS",
        "MISS_SHARE",
        "MAX_MISSES",
        "MISS_WINDOW",
        "IDLE_BLOCKS",
        "ATTEMPT_RING",
    ],
)
def test_constant_of_the_seats_is_that_of_its_source(name: str) -> None:
    assert getattr(miner_seats, name) == constants("MinerSeats")[name]


def test_ledger_and_seats_keep_as_many_attempts() -> None:
    assert constants("GradientLedger")["RING"] == constants("MinerSeats")["ATTEMPT_RING"]


def test_specification_is_within_the_limits_of_the_registry() -> None:
    registry = constants("TaskRegistry")
    assert registry["MAX_SPEC_BYTES"] == task_spec_codec.MAX_SPEC_BYTES
    assert registry["MAX_UNITS"] == task_spec.MAX_UNITS
    assert registry["FULL_AUDIT_PPM"] == task_spec.PPM
    assert registry["MAX_PHASE_SECONDS"] >= task_spec_codec.MAX_PHASE_SECONDS


def test_validator_sets_have_the_same_limit_everywhere() -> None:
    assert constants("ValidatorSet")["MAX_VALIDATORS"] == certificate.MAX_VALIDATORS


def test_texts_for_people_name_the_blocks_until_a_bond_is_free() -> None:
    expected = f"{3 * gradient_ledger.MIN_WINDOW_BLOCKS} blocks"
    assert expected in str(miner_command.withdraw.__doc__)
    guide = (ROOT / "docs" / "operator-guide.md").read_text()
    (line,) = (each for each in guide.splitlines() if "`pot miner withdraw ID`" in each)
    assert expected in line
