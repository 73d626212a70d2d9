"""The lines that the guide names are those that are logged."""

import re
from pathlib import Path

from node.training.work import JobKind

ROOT = Path(__file__).parents[2]


def test_lines_of_a_miner_in_the_guide_are_logged() -> None:
    guide = (ROOT / "docs" / "operator-guide.md").read_text()
    section = guide.partition("**Logs of a miner.**")[2].partition("\n")[0]
    listed = section.partition("Events in order:")[2].partition("A miner that loses")[0]
    sources = "".join(path.read_text() for path in (ROOT / "miner").glob("*.py"))
    logged = set(re.findall(r'_log\.(?:info|warning)\(\s*f?"([^"{:]+)', sources))
    names = {name.partition("...")[0].strip() for name in re.findall("`([^`]+)`", listed)}
    names -= {"--task auto"}
    assert len(names) > 8
    missing = {name for name in names if not any(line.startswith(name) for line in logged)}
    assert missing == set()


def test_operator_votes_in_the_guide_are_those_that_are_sent() -> None:
    guide = (ROOT / "docs" / "operator-guide.md").read_text()
    listed = guide.partition("`operator vote sent` (")[2].partition(")")[0]
    names = set(re.findall("`([^`]+)`", listed)) - {"vote"}
    assert names <= {kind.value for kind in JobKind}
    assert {"answer", "advance", "verdict", "post", "settle", "end_seats"} <= names
