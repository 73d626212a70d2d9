import os
from pathlib import Path

import pytest

from node.config import NodeConfig, load_config, setting_names
from pot_common.errors import OperatorError
from pot_common.logs import LogFormat


@pytest.fixture(autouse=True)
def without_variables_of_the_shell(monkeypatch):
    for variable in [name for name in os.environ if name.startswith("POT_")]:
        monkeypatch.delenv(variable)


@pytest.fixture
def config_file(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "node.toml"
        path.write_text(text)
        return path

    return write


def problem(file: Path | None = None, **flags: object) -> str:
    with pytest.raises(OperatorError) as refused:
        load_config(file, {name.replace("__", "."): value for name, value in flags.items()})
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_defaults_listen_on_loopback_for_clients():
    config = load_config()
    assert (config.rpc.host, config.rpc.port, config.metrics.host) == (
        "127.0.0.1",
        8545,
        "127.0.0.1",
    )
    assert config.genesis_file == config.data_dir / "genesis.json"
    assert config.guard_file is None


def test_flags_win_over_environment_over_file_over_defaults(config_file, monkeypatch):
    file = config_file('[rpc]\nport = 1\nhost = "file"\nprocesses = 7\n[logs]\nformat = "json"\n')
    monkeypatch.setenv("POT_RPC__PORT", "2")
    monkeypatch.setenv("POT_RPC__HOST", "environment")
    config = load_config(file, {"rpc.port": 3, "rpc.processes": None})
    assert (config.rpc.port, config.rpc.host, config.rpc.processes) == (3, "environment", 7)
    assert config.logs.format is LogFormat.JSON
    assert config.rpc.body_limit_bytes == 5 * 2**20


def test_lists_come_with_commas_from_flags_and_environment(config_file, monkeypatch):
    monkeypatch.setenv("POT_NETWORK__BOOTSTRAP", "/dns/a, /dns/b")
    config = load_config(config_file('[rpc]\ncors = ["*"]\n'), {"network.listen": "/ip4/1,/ip4/2"})
    assert config.network.bootstrap == ("/dns/a", "/dns/b")
    assert config.network.listen == ("/ip4/1", "/ip4/2")
    assert config.rpc.cors == ("*",)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("[rpc]\nprot = 1\n", "rpc.port"),
        ("datadir = 'x'\n", "data_dir"),
        ("[network]\nbootnodes = []\n", "network.bootstrap"),
        ("quota_bytes = 1\n", "blobs.quota_bytes"),
        ("[consensus]\nkeyfile = 'x'\n", "consensus.key_file"),
    ],
)
def test_misspelt_setting_in_the_file_is_named_with_what_was_meant(config_file, text, meant):
    file = config_file(text)
    assert f"did you mean {meant}?" in problem(file)
    assert str(file) in problem(file)


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("POT_RPC__PROT", "rpc.port"),
        ("POT_RPC_PORT", "rpc.port"),
        ("POT_DATADIR", "data_dir"),
    ],
)
def test_misspelt_variable_is_refused_too(monkeypatch, variable, meant):
    monkeypatch.setenv(variable, "1")
    assert f"did you mean {meant}?" in problem()


def test_setting_like_no_other_is_refused_without_a_guess():
    assert "there is no setting zzz;" in problem(zzz=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rpc__port", 99_999),
        ("rpc__port", "eighty"),
        ("logs__level", "loud"),
        ("verifier__device", "tpu"),
        ("blobs__quota_bytes", 5),
        ("verifier__timeout_seconds", 0),
    ],
)
def test_invalid_value_is_named_with_its_setting(name, value):
    assert f"{name.replace('__', '.')} = {value!r}: Input should be" in problem(**{name: value})


def test_several_problems_are_told_at_once(config_file):
    message = problem(config_file("[rpc]\nport = -1\nprot = 2\n"))
    assert "rpc.port = -1" in message
    assert "no setting rpc.prot" in message


def test_consensus_key_is_no_operator_key():
    assert "set operator.key_file to another key" in problem(
        consensus__key_file="k.json", operator__key_file="k.json"
    )


def test_unreadable_files_are_named(tmp_path, config_file):
    assert "cannot read the configuration" in problem(tmp_path / "absent.toml")
    assert "is not TOML" in problem(config_file("rpc = = 1"))
    assert "is not TOML" in problem(config_file("rpc = " + "[" * 5_000))
    assert "is not TOML" in problem(config_file("rpc = " + "1" * 5_000))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert "is not TOML" in problem(tmp_path / "binary")


def test_configuration_cannot_be_changed():
    config = load_config()
    with pytest.raises(ValueError, match="frozen"):
        config.rpc.port = 1


def test_guard_lies_beside_the_consensus_key():
    config = load_config(flags={"consensus.key_file": "/keys/validator.json"})
    assert config.guard_file == Path("/keys/validator.json.guard")


def test_every_setting_has_a_dotted_name():
    assert {"data_dir", "rpc.port", "verifier.device"} <= set(setting_names())
    assert len(setting_names()) > len(NodeConfig.model_fields)


def test_validators_are_named_by_address(tmp_path: Path) -> None:
    address = "0x" + "aB" * 20
    file = tmp_path / "config.toml"
    file.write_text(f'[names]\n{address} = "Ada"\n')
    config = load_config(file)
    assert config.names == {bytes.fromhex("ab" * 20): "Ada"}
    assert config.model_dump(mode="json")["names"] == {address.lower(): "Ada"}
    for wrong in ('0x12 = "Ada"', f'{address} = ""', f'{address} = "a\\nb"', f"{address} = 7"):
        file.write_text(f"[names]\n{wrong}\n")
        with pytest.raises(OperatorError, match="names"):
            load_config(file)
