"""`pot miner run`: the process that it becomes."""

import sys
from pathlib import Path

import pytest

from chain.contracts.addresses import TRAINING_TOKEN
from chain.primitives import PrivateKey
from pot_common.keystore import save_key
from tests.worlds.command_line import Pot, serve


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


RECEIPT = {
    "samples": list(range(128)),
    "units": 2,
    "commitmentBlock": 9,
    "verdicts": [
        {"validator": "0x" + "ab" * 20, "verdict": "ok", "reason": None},
        {"validator": "0x" + "cd" * 20, "verdict": "cheat", "reason": "distance 9 ppb"},
    ],
    "accepted": True,
    "pay": str(2 * 10**18),
    "reason": "accepted",
    "token": "0x" + TRAINING_TOKEN.hex(),
    "fine": None,
}


ABSENCE = {
    "fine": "absence",
    "fineState": "taken",
    "fineAmount": str(10**18 // 4),
    "fineSeatBond": str(10**18 // 8),
}


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "miner.json"
    save_key(path, PrivateKey(b"\x11" * 32), "secret", light=True)
    return path


def test_receipt_says_what_became_of_the_work_of_a_round(pot: Pot, key_file: Path) -> None:
    with serve({"pot_getReceipt": lambda *_: RECEIPT}) as url:
        shown = pot("miner", "receipt", 1, 1, "--key", key_file, "--rpc", url)
    assert shown.splitlines() == [
        "round       1 of task 1",
        "units       2, with 128 samples",
        "committed   in block 9",
        "0xabababab  ok",
        "0xcdcdcdcd  cheat: distance 9 ppb",
        "accepted    yes: accepted",
        "pay         2 POT",
        "fine        none",
    ]


def test_receipt_shows_a_fine_for_absence(pot: Pot, key_file: Path) -> None:
    absent = {
        **RECEIPT,
        "commitmentBlock": None,
        "verdicts": [],
        "accepted": False,
        "pay": "0",
        "reason": "no commitment in this attempt",
        **ABSENCE,
        "fineState": "due",
    }
    with serve({"pot_getReceipt": lambda *_: absent}) as url:
        shown = pot("miner", "receipt", 1, 1, "--key", key_file, "--rpc", url)
    assert shown.splitlines()[2:] == [
        "committed  no",
        "accepted   no: no commitment in this attempt",
        "pay        0 POT",
        "fine       absence: 0.25 POT and 0.125 POT of the seat bond",
        "           not taken yet; of the seat bond it can be all that is left",
    ]


def test_receipt_shows_what_void_attempts_cost(pot: Pot, key_file: Path) -> None:
    void = {"attempt": 0, "ordinal": 3, "reason": "no miner committed"}
    fined = {
        **RECEIPT,
        "voidAttempts": [
            {**void, **ABSENCE},
            {**void, "ordinal": 4, "reason": "validators accepted no gradient", "fine": None},
            {**void, "ordinal": 5, "fine": None, "fineState": "none"},
        ],
    }
    with serve({"pot_getReceipt": lambda *_: fined}) as url:
        shown = pot("miner", "receipt", 1, 1, "--key", key_file, "--rpc", url)
    assert shown.splitlines()[-6:] == [
        "void attempt  3: no miner committed",
        "              absence: 0.25 POT and 0.125 POT of the seat bond",
        "void attempt  4: validators accepted no gradient",
        "              no fine",
        "void attempt  5: no miner committed",
        "              no fine: the seat had ended",
    ]


def test_receipt_of_void_attempts_alone_names_them(pot: Pot, key_file: Path) -> None:
    void = {"attempt": 0, "ordinal": 3, "reason": "no miner committed"}
    receipt = {
        **RECEIPT,
        "samples": [],
        "units": 0,
        "commitmentBlock": None,
        "verdicts": [],
        "accepted": None,
        "pay": "0",
        "reason": "void attempts only",
        "voidAttempts": [{**void, **ABSENCE}],
    }
    with serve({"pot_getReceipt": lambda *_: receipt}) as url:
        shown = pot("miner", "receipt", 1, 1, "--key", key_file, "--rpc", url)
    assert shown.splitlines() == [
        "round         1 of task 1",
        "accepted      not yet: void attempts only",
        "pay           0 POT",
        "fine          none",
        "void attempt  3: no miner committed",
        "              absence: 0.25 POT and 0.125 POT of the seat bond",
    ]


def test_receipt_of_a_round_without_work_says_so(pot: Pot, key_file: Path) -> None:
    with serve({"pot_getReceipt": lambda *_: None}) as url:
        error = pot.fails("miner", "receipt", 1, 7, "--key", key_file, "--rpc", url)
    assert "took no part in round 7 of task 1" in error
