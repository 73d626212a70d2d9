"""`pot doctor` as an operator and a script see it."""

import json
from pathlib import Path

import pytest

from tests.worlds.command_line import Pot, serve

FINDING = {
    "code": "stuck",
    "severity": "critical",
    "text": "No block for 73 s: block 42 waits for COMMITs; missing: gamma.",
    "cure": "Start or reconnect gamma.",
}
STUCK = {"findings": [FINDING], "summary": FINDING["text"]}
WELL = {"findings": [], "summary": "Block 42, view 0: waiting for a proposal."}


def run(pot: Pot, *arguments: object) -> tuple[int, str]:
    status, output, _ = pot._run(arguments)
    return status, output


def test_a_stuck_node_is_told_with_its_cure_and_a_status(pot: Pot) -> None:
    with serve({"pot_consensusState": lambda: STUCK}) as url:
        status, output = run(pot, "doctor", "--rpc", url)
        assert status == 1
        assert output.splitlines() == [
            f"critical  node: {FINDING['text']}",
            f"          do: {FINDING['cure']}",
            "1 of 1 checks found something wrong",
        ]
        status, output = run(pot, "doctor", "--rpc", url, "--json")
    assert status == 1
    assert json.loads(output) == {"ok": False, "checks": [{"name": "node", "ok": False, **FINDING}]}


def test_long_finding_takes_several_lines_of_80_columns(pot: Pot) -> None:
    finding = {**FINDING, "text": "The disk of data_dir is full. " * 4, "cure": "Free some. " * 9}
    with serve({"pot_consensusState": lambda: {**STUCK, "findings": [finding]}}) as url:
        _, output = run(pot, "doctor", "--rpc", url)
    lines = output.splitlines()
    assert [line[:10] for line in lines[:-1]] == ["critical  ", *[" " * 10] * 3]
    assert max(map(len, lines)) <= 80


def test_a_node_that_is_well_ends_with_status_0(pot: Pot) -> None:
    with serve({"pot_consensusState": lambda: WELL}) as url:
        assert run(pot, "doctor", "--rpc", url) == (0, f"ok        node: {WELL['summary']}\nwell\n")
        assert json.loads(run(pot, "doctor", "--rpc", url, "--json")[1])["ok"] is True


def test_a_node_that_is_not_there_is_an_error(pot: Pot) -> None:
    assert "no node answers" in pot.fails("doctor", "--rpc", "http://127.0.0.1:1")


def test_a_machine_without_a_node_is_looked_at(
    pot: Pot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POT_DATA_DIR", str(tmp_path / "absent"))
    status, output = run(pot, "doctor", "--json")
    checks = {check["name"]: check for check in json.loads(output)["checks"]}
    assert status == 1
    assert checks["arithmetic"]["ok"] is True
    assert checks["directory"]["cure"] == "run `pot init`, or name a node's file with --config"
    assert checks["node"]["text"] == "does not run here, so it was not asked"
