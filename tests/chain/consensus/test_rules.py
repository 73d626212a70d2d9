"""Every rule has a test (docs/spec/consensus.md, section 12)."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/spec/consensus.md").read_text(encoding="utf-8")
TABLE = PAGE[PAGE.index("## 12.") :]
DEFINED = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(
        r"^(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE
    )
}


def test_every_test_that_the_table_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", TABLE))
    assert len(named) > 60
    assert sorted(named - DEFINED) == []


def test_every_safety_rule_and_step_is_in_the_table() -> None:
    rules = [row.split("|")[1] for row in TABLE.splitlines() if row.startswith("| ")]
    wanted = [f"S{index}" for index in range(1, 9)] + [f"step {index}" for index in range(1, 6)]
    words = {word.strip() for rule in rules for word in rule.split(",")}
    assert [rule for rule in wanted if rule not in words] == []
