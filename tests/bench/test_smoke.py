"""Every benchmark still runs: `python -m bench.NAME --smoke` ends well and writes its JSON."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import PROGRAMS
from tests.worlds.ports import find_base_port

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "bench"
PORTS_OF = {"consensus_loopback", "dead_validator", "new_tasks", "silent_validator", "sync"}


def test_make_bench_runs_every_program() -> None:
    modules = {path.stem for path in BENCH.glob("*.py")}
    assert set(PROGRAMS) == modules - {"__main__", "report"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_docstring_and_readme_say_how_a_program_runs(name: str) -> None:
    docstring = ast.get_docstring(ast.parse((BENCH / f"{name}.py").read_text()))
    assert docstring is not None
    assert f"python -m bench.{name} " in docstring
    assert f"| `{name}` |" in (BENCH / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_smoke_run_ends_well_and_writes_its_json(name: str, tmp_path: Path) -> None:
    file = tmp_path / "out" / "result.json"
    options = ["--smoke", "--json", str(file)]
    if name in PORTS_OF:
        options += ["--base-port", str(find_base_port())]
    completed = subprocess.run(
        [sys.executable, "-m", f"bench.{name}", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "ratio" in completed.stdout
    report = json.loads(file.read_text())
    assert report["is_smoke"] is True
    assert len(report) > len({"is_smoke", "machine"})
