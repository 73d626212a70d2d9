"""`pot miner run`: the process that it becomes."""

import sys
from pathlib import Path

import pytest

from tests.worlds.command_line import Pot


class Replaced(BaseException):
    """Stands for the end of this process when another program takes its place."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines of programs that took this process's place."""
    commands: list[list[str]] = []

    def replace_process(path: str, arguments: list[str]) -> None:
        assert path == sys.executable
        commands.append(arguments)
        raise Replaced

    monkeypatch.setattr("node.cli.miner_command.os.execv", replace_process)
    return commands


def test_miner_is_a_process_with_the_options_given(pot: Pot, started: list[list[str]]) -> None:
    with pytest.raises(Replaced):
        pot("miner", "run", "--key", "k.json", "--rpc", "http://a", "--units", "2", "--claim")
    ((python, flag, module, *arguments),) = started
    assert (python, flag, module) == (sys.executable, "-m", "miner")
    assert arguments[:4] == ["--key", "k.json", "--rpc", "http://a"]
    assert "--claim" in arguments
    assert arguments[arguments.index("--units") + 1] == "2"
    assert "--genesis" not in arguments


def test_account_of_the_wallet_is_named_by_its_name(
    pot: Pot, started: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.cli.account.DEFAULT_WALLET", tmp_path)
    (tmp_path / "miner-1.json").write_text("{}")
    with pytest.raises(Replaced):
        pot("miner", "run", "--key", "miner-1")
    assert started[0][3:5] == ["--key", str(tmp_path / "miner-1.json")]
