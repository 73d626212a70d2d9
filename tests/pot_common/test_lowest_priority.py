"""Programs that run only when the processor is free."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys
priority_at_import = os.sched_getscheduler(0) == os.SCHED_IDLE, os.nice(0)
if __name__ == "__main__":
    print(*priority_at_import, *sys.argv[1:])
"""


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="only Linux has an idle class")
def test_program_is_in_the_idle_class_before_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path.cwd()}")
    (tmp_path / "program.py").write_text(PROGRAM)
    found = subprocess.run(
        [sys.executable, "-m", "pot_common.lowest_priority", "program", "--option"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == ["True", "19", "--option"]
