"""Each work-around: the defect shows without it, and does not with it.

The scenarios run in two processes, because a work-around cannot be taken back: libp2p as it is,
and libp2p with all of them.
"""

import json
import subprocess
import sys

import pytest

from node.network import libp2p_fixes
from node.network.libp2p_fixes import FIXES, UnsupportedLibp2pError


def run_scenarios(mode: str) -> dict[str, str]:
    completed = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.node.network.libp2p_scenarios", mode],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    outcomes: dict[str, str] = json.loads(completed.stdout.splitlines()[-1])
    return outcomes


@pytest.fixture(scope="module")
def stock() -> dict[str, str]:
    return run_scenarios("stock")


@pytest.fixture(scope="module")
def fixed() -> dict[str, str]:
    return run_scenarios("fixed")


@pytest.mark.parametrize("name", [fix.__name__ for fix in FIXES])
def test_the_defect_shows_only_without_its_fix(
    name: str, stock: dict[str, str], fixed: dict[str, str]
) -> None:
    assert stock[name].startswith("defect"), stock[name]
    assert fixed[name] == "sound"


def test_another_version_of_libp2p_is_refused_with_the_cure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(libp2p_fixes.libp2p, "__version__", "0.9.0")
    with pytest.raises(UnsupportedLibp2pError, match=r"pip install libp2p==0\.8\.1"):
        libp2p_fixes.apply()
