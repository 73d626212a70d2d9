import argparse
import json
import logging
from pathlib import Path

import eth_keyfile
import pytest

from miner.__main__ import lock_directory, main, read_private_key
from miner.log import EventFormatter
from miner.worker import TrainerFactory

KEY = b"\x11" * 32


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key.json"
    keystore = eth_keyfile.create_keyfile_json(KEY, b"secret", kdf="scrypt", iterations=2)
    path.write_text(json.dumps(keystore))
    return path


def password_file(directory: Path, text: str) -> Path:
    path = directory / "password"
    path.write_text(text)
    return path


def no_trainer(options: argparse.Namespace) -> TrainerFactory:
    raise AssertionError("torch is loaded before the settings are checked")


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["--rpc", "http://127.0.0.1:9", *arguments], no_trainer) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_key_opens_with_the_password_of_its_file(tmp_path: Path, key_file: Path) -> None:
    assert read_private_key(key_file, password_file(tmp_path, "secret\n")) == KEY


def test_wrong_password_names_the_setting(
    tmp_path: Path, key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = str(password_file(tmp_path, "guess"))
    error = error_of(capsys, "--key", str(key_file), "--password-file", wrong)
    assert "wrong password" in error
    assert "--password-file" in error


def test_password_file_that_is_no_text_is_named(
    tmp_path: Path, key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "binary"
    path.write_bytes(b"\xd0\xff")
    error = error_of(capsys, "--key", str(key_file), "--password-file", str(path))
    assert "binary is no text" in error


@pytest.mark.parametrize("content", ["", "[]", "{}", "not JSON", '{"version": 3, "crypto": 1}'])
def test_file_that_is_no_keystore_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    path = tmp_path / "other"
    path.write_text(content)
    secret = str(password_file(tmp_path, "secret"))
    assert str(path) in error_of(capsys, "--key", str(path), "--password-file", secret)


def test_missing_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "No such file" in error_of(capsys, "--key", str(tmp_path / "none"))


@pytest.mark.parametrize("options", [("--units", "0"), ("--task", "first")])
def test_senseless_settings_are_refused(
    options: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"{options[0]} is" in error_of(capsys, "--key", "unread", *options)


def test_node_that_is_not_there_is_one_line(
    tmp_path: Path, key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = str(password_file(tmp_path, "secret"))
    data = str(tmp_path / "data")
    error = error_of(capsys, "--key", str(key_file), "--password-file", secret, "--data-dir", data)
    assert "no node answers: http://127.0.0.1:9" in error


def test_second_miner_on_a_directory_is_refused(
    tmp_path: Path, key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = str(password_file(tmp_path, "secret"))
    with lock_directory(tmp_path):
        error = error_of(
            capsys, "--key", str(key_file), "--password-file", secret, "--data-dir", str(tmp_path)
        )
    assert "already running" in error


def test_events_are_lines_for_people_or_json() -> None:
    record = logging.LogRecord("miner", logging.WARNING, "", 0, "refused", (), None)
    record.event_fields = {"round": 3}
    assert EventFormatter(is_json=False).format(record).endswith("warning: refused  round=3")
    line = json.loads(EventFormatter(is_json=True).format(record))
    assert (line["event"], line["level"], line["round"]) == ("refused", "warning", 3)
