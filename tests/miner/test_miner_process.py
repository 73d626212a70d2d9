import json
from pathlib import Path

import eth_keyfile
import pytest

from chain.crypto import get_address
from chain.primitives import PrivateKey
from miner.__main__ import main
from miner.builder import OpenTask
from miner.client import FailoverClient
from pot_common.lock_file import lock
from pot_common.miner_options import MinerOptions
from tests.worlds.node_for_miners import FakeNode

KEY = b"\x11" * 32


@pytest.fixture(autouse=True)
def unchanged_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the miner from changing the logs and the signal handlers of the tests."""
    monkeypatch.setattr("miner.__main__.configure_logs", lambda *_: None)
    monkeypatch.setattr("miner.__main__.signal.signal", lambda *_: None)


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


def fail(options: MinerOptions) -> OpenTask:
    raise AssertionError("torch is loaded before the settings are checked")


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["--rpc", "http://127.0.0.1:9", *arguments], fail)
    error = str(end.value.code)  # Python prints it on standard error, and the status is 1
    assert error.startswith("error: ")
    assert "\n" not in error
    assert capsys.readouterr().out == ""
    return error


def test_wrong_password_names_the_setting(
    tmp_path: Path, key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = str(password_file(tmp_path, "guess"))
    error = error_of(capsys, "--key", str(key_file), "--password-file", wrong)
    assert "wrong password" in error
    assert "check the password file" in error


def test_password_file_that_is_not_text_is_named(
    tmp_path: Path, key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "binary"
    path.write_bytes(b"\xd0\xff")
    error = error_of(capsys, "--key", str(key_file), "--password-file", str(path))
    assert "binary is no text" in error


@pytest.mark.parametrize("content", ["", "[]", "{}", "not JSON", '{"version": 3, "crypto": 1}'])
def test_file_that_is_not_a_keystore_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    path = tmp_path / "other"
    path.write_text(content)
    secret = str(password_file(tmp_path, "secret"))
    assert str(path) in error_of(capsys, "--key", str(path), "--password-file", secret)


def test_missing_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "No such file" in error_of(capsys, "--key", str(tmp_path / "none"))


@pytest.mark.parametrize(
    "options",
    [
        ("--units", "0"),
        ("--task", "first"),
        ("--memory-gib", "0"),
        ("--data-gib", "nan"),
        ("--lock-days", "-1"),
    ],
)
def test_invalid_settings_are_refused(
    options: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"{options[0]} is" in error_of(capsys, "--key", "unread", *options)


def test_unreachable_node_is_a_one_line_error(
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
    with lock(tmp_path / "lock", purpose="it", cure="wait"):
        error = error_of(
            capsys, "--key", str(key_file), "--password-file", secret, "--data-dir", str(tmp_path)
        )
    assert f"the miner's directory {tmp_path} is in use by the process" in error
    assert "--data-dir" in error


def test_unknown_task_ends_the_miner_before_torch_is_loaded(
    tmp_path: Path,
    key_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def connect(urls: list[str], **settings: object) -> FailoverClient:
        return FailoverClient(urls, FakeNode(get_address(PrivateKey(KEY))).transport())

    monkeypatch.setattr("miner.__main__.FailoverClient", connect)
    secret = str(password_file(tmp_path, "secret"))
    options = ["--key", str(key_file), "--password-file", secret, "--data-dir", str(tmp_path / "d")]
    with pytest.raises(SystemExit) as end:
        main(["--rpc", "http://127.0.0.1:9", *options, "--task", "99"], fail)
    assert end.value.code == "error: there is no task 99; `pot task list` lists all tasks"
