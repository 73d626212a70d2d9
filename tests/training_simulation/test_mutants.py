"""The training simulation notices each removed rule; the table has the first seed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.mutants import mutate
from tests.training_simulation.mutants import MUTANTS, TABLE, run_mutant

ROOT = Path(__file__).parents[2]
ROWS = [row.split(" | ") for row in TABLE.read_text(encoding="utf-8").splitlines()]


def test_every_mutant_is_in_the_table_and_was_caught_within_200_seeds() -> None:
    assert [row[0] for row in ROWS] == list(MUTANTS)
    assert all(0 <= int(row[1]) < 200 for row in ROWS)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_changes_the_text_of_today(name: str) -> None:
    mutant = MUTANTS[name]
    path = ROOT / mutant.module
    if path.suffix != ".sol":
        path = ROOT / (mutant.module.replace(".", "/") + ".py")
    text = path.read_text(encoding="utf-8")
    assert mutate(mutant, text) != text


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_mutant_is_caught_no_later_than_the_table_says(row: list[str]) -> None:
    name, seed = row[0], int(row[1])
    # The seed of the row is nearly always the one, and those before it take minutes.
    if "| none of" in run_mutant(name, 1, first=seed):
        assert "| none of" not in run_mutant(name, seed)


JUNK_PROGRAM = """
import sys
from tests.training_simulation import mutants
mutants.install(sys.argv[1])
from tests.training_simulation.checkers import MONEY
from tests.training_simulation.cluster import World
from tests.training_simulation.worlds import build, run
run(build(1, World(junk=4), without=frozenset({MONEY})))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rent-is-free", "promises-are-free"])
def test_waste_is_noticed_without_the_books_of_all_fees(name: str) -> None:
    """The checker of money compares each fee exactly, and so hides whether that of waste works."""
    done = subprocess.run(
        [sys.executable, "-c", JUNK_PROGRAM, name], capture_output=True, text=True, check=False
    )
    assert "ViolationError: waste: " in done.stderr, done.stderr
