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

Outcomes = dict[str, str]


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcomes]:
    """The outcome of every scenario, by `stock` and `fixed`; the two run side by side."""
    programs = {
        mode: subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.node.network.libp2p_scenarios", mode],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for mode in ("stock", "fixed")
    }
    printed = {mode: program.communicate(timeout=120)[0] for mode, program in programs.items()}
    return {mode: json.loads(text.splitlines()[-1]) for mode, text in printed.items()}


@pytest.mark.parametrize("name", [fix.__name__ for fix in FIXES])
def test_defect_shows_only_without_its_fix(name: str, outcomes: dict[str, Outcomes]) -> None:
    assert outcomes["stock"][name].startswith("defect")
    assert outcomes["fixed"][name] == "sound"


def test_other_libp2p_version_is_refused_with_the_cure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(libp2p_fixes.libp2p, "__version__", "0.9.0")
    with pytest.raises(UnsupportedLibp2pError, match=r"pip install libp2p==0\.8\.1"):
        libp2p_fixes.apply()
