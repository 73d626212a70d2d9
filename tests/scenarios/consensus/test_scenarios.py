"""The replicas do what every transcript in this folder says.

`python -m tests.scenarios.consensus.test_scenarios --rewrite` regenerates them; review the diff.
"""

import sys
from pathlib import Path

import pytest

from tests.scenarios.consensus.scenario import replay

SCENARIOS = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario_happens_as_written(path: Path) -> None:
    assert replay(path.read_text()) == path.read_text()


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) >= 6


if __name__ == "__main__":
    for scenario in SCENARIOS:
        text = replay(scenario.read_text())
        if "--rewrite" in sys.argv[1:]:
            scenario.write_text(text)
        else:
            sys.stdout.write(text)
