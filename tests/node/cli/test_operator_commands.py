"""genesis, init and config: what an operator does before a node runs."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from chain.genesis import parse_genesis
from node.cli.main import COMMANDS, build_app
from node.config import load_config
from pot_common.keystore import load_key, read_address
from tests.worlds.command_line import Pot

VALIDATORS = [f"0x{index:02x}{'11' * 19}:0x{index:02x}{'22' * 19}" for index in range(1, 5)]
HOLDER = "0x" + "77" * 20


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("secret\n")
    return path


def new_genesis(pot: Pot, path: Path, *options: str) -> str:
    seats = [part for validator in VALIDATORS for part in ("--validator", validator)]
    return pot("genesis", "new", *seats, "--token", f"{HOLDER}=1000", "-o", path, *options)


def test_genesis_that_was_made_is_shown_with_the_same_hash(pot: Pot, tmp_path: Path) -> None:
    path = tmp_path / "genesis.json"
    printed = new_genesis(pot, path, "--coin", f"{HOLDER}=2.5", "--chain-id", "99")
    shown = pot.json("genesis", "show", path)
    assert str(shown["genesisHash"]) in printed
    assert (shown["chainId"], shown["coins"]) == (99, str(25 * 10**17))
    assert len(parse_genesis(path.read_bytes()).parameters.validators) == 4
    assert "validator 3" in pot("genesis", "show", path)


def test_genesis_is_not_overwritten_unless_told_so(pot: Pot, tmp_path: Path) -> None:
    path = tmp_path / "genesis.json"
    new_genesis(pot, path)
    seats = [part for validator in VALIDATORS for part in ("--validator", validator)]
    assert "--force" in pot.fails("genesis", "new", *seats, "-o", path)
    assert "0 1" not in new_genesis(pot, path, "--force")


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        (["--validator", "0x12"], "0xA:0xB"),
        (["--validator", "0x12:0x13"], "40 hex digits"),
        (["--validator", VALIDATORS[0]], "--token"),
        (["--validator", VALIDATORS[0], "--token", HOLDER], "0xA=12.5"),
        (
            ["--validator", VALIDATORS[0], "--token", f"{HOLDER}=1", "--token", f"{HOLDER}=1"],
            "twice",
        ),
        (["--validator", VALIDATORS[0], "--template", "none.json"], "--template"),
        (["--validator", VALIDATORS[0], "--development", "--template", "x"], "--template"),
    ],
)
def test_genesis_refuses_with_a_cure(
    pot: Pot, tmp_path: Path, options: list[str], cure: str
) -> None:
    path = tmp_path / "genesis.json"
    assert cure in pot.fails("genesis", "new", "-o", path, *options)
    assert not path.exists()


def test_file_that_is_no_genesis_is_one_line(pot: Pot, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("[]")
    assert "JSON object" in pot.fails("genesis", "show", tmp_path / "other")
    assert "none: No such file" in pot.fails("genesis", "show", tmp_path / "none")


def test_init_makes_a_directory_that_a_node_can_start_on(
    pot: Pot, tmp_path: Path, password_file: Path
) -> None:
    genesis, directory = tmp_path / "genesis.json", tmp_path / "node"
    new_genesis(pot, genesis)
    made = pot.json(
        *("init", "--data-dir", directory, "--genesis", genesis),
        *("--password-file", password_file, "--light"),
    )
    config = load_config(directory / "config.toml")
    assert config.consensus.key_file is not None
    assert config.operator.key_file is not None
    assert "0x" + read_address(config.consensus.key_file).hex() == made["consensus"]
    assert "0x" + read_address(config.operator.key_file).hex() == made["operator"]
    load_key(config.operator.key_file, "secret")
    assert config.consensus.password_file == password_file
    assert config.host_key_file.stat().st_mode & 0o777 == 0o600
    assert config.genesis_file.read_bytes() == genesis.read_bytes()
    assert (config.database_dir / "data.mdb").exists()
    checked = pot.json("config", "check", "--config", directory / "config.toml")
    assert checked["genesisHash"] == made["genesisHash"]
    assert "not among the validators" in pot("config", "check", "--config", config_of(directory))
    assert "exists" in pot.fails("init", "--data-dir", directory)


def config_of(directory: Path) -> Path:
    return directory / "config.toml"


def test_init_without_a_genesis_gives_the_accounts_that_the_genesis_needs(
    pot: Pot, tmp_path: Path, password_file: Path
) -> None:
    directory = tmp_path / "node"
    printed = pot("init", "--data-dir", directory, "--password-file", password_file, "--light")
    assert "pot genesis new" in printed
    consensus, operator = (
        "0x" + read_address(directory / "keys" / f"{role}.json").hex()
        for role in ("consensus", "operator")
    )
    assert f"--validator {consensus}:{operator}" in printed
    assert "cannot read the genesis file" in pot.fails(
        "config", "check", "--config", config_of(directory)
    )


def test_following_node_has_a_configuration_and_no_keys(
    pot: Pot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genesis, directory = tmp_path / "genesis.json", tmp_path / "node"
    new_genesis(pot, genesis)
    assert "is not JSON" in pot.fails("init", "--data-dir", directory, "--genesis", __file__)
    assert not directory.exists()
    made = pot.json("init", "--data-dir", directory, "--follow", "--genesis", genesis)
    assert "consensus" not in made
    assert not (directory / "keys").exists()
    config = load_config(config_of(directory))
    assert config.consensus.key_file is None
    checked = pot("config", "check", "--config", config_of(directory))
    assert str(made["genesisHash"]) in checked
    assert "follows the chain" in checked
    assert "http://127.0.0.1:6060/metrics" in checked
    assert "500000 units a second, for a price below 1 gwei" in checked
    assert max(map(len, checked.splitlines()[1:])) <= 80 + len(str(tmp_path))
    monkeypatch.setenv("POT_METRICS__ENABLED", "false")
    monkeypatch.setenv("POT_MEMPOOL__GAS_PRICE_WEI", "0")
    shown = pot("config", "check", "--config", config_of(directory)).splitlines()
    assert "metrics            none" in shown
    assert "free gas           without a limit, because mempool.gas_price_wei is 0" in shown


def test_settings_that_init_writes_as_comments_are_settings(
    pot: Pot, tmp_path: Path, password_file: Path
) -> None:
    directory = tmp_path / "node"
    pot("init", "--data-dir", directory, "--password-file", password_file, "--light")
    path = config_of(directory)
    commented = path.read_text().replace("\n# ", "\n").replace("\nOften", "\n# Often")
    path.write_text(commented.replace("\n#\n", "\n"))
    config = load_config(path)
    assert config.network.accept_private_addresses
    assert len(config.network.bootstrap) == 1


def test_password_file_that_is_gone_is_found_before_the_node_starts(
    pot: Pot, tmp_path: Path, password_file: Path
) -> None:
    genesis, directory = tmp_path / "genesis.json", tmp_path / "node"
    new_genesis(pot, genesis)
    pot(
        *("init", "--data-dir", directory, "--genesis", genesis),
        *("--password-file", password_file, "--light"),
    )
    password_file.unlink()
    refusal = pot.fails("config", "check", "--config", config_of(directory))
    assert "cannot read consensus.password_file" in refusal
    assert "Errno" not in refusal


def test_misspelt_setting_is_named_with_the_one_that_was_meant(
    pot: Pot, tmp_path: Path, password_file: Path
) -> None:
    directory = tmp_path / "node"
    pot("init", "--data-dir", directory, "--password-file", password_file, "--light")
    path = config_of(directory)
    path.write_text(path.read_text() + "\n[rpc]\nprot = 1\n")
    assert "did you mean rpc.port?" in pot.fails("config", "check", "--config", path)


def test_prices_of_a_genesis_file_are_shown_in_80_columns(pot: Pot, tmp_path: Path) -> None:
    template = Path(__file__).parents[3] / "genesis.json"
    shown = pot("genesis", "prices", template, "--validators", 4)
    assert max(map(len, shown.splitlines())) <= 80
    assert "a slot for a day, the last" in shown
    (first, *_) = pot.json("genesis", "prices", template, "--validators", 4)
    expected = {"role": "submitter", "what": "a slot for a day, the first"}
    assert first == {**expected, "amount": str(864 * 10**15)}
    assert "--validators" in pot.fails("genesis", "prices", template)


def test_lists_of_commands_cut_no_sentence(pot: Pot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for group in ((), ("genesis",), ("task",), ("wallet",), ("config",), ("miner",), ("node",)):
        commands = pot(*group, "--help").partition("Commands:")[2]
        assert commands
        assert "..." not in commands


def test_every_command_shows_an_example(pot: Pot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    def list_commands(command: object, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        children = getattr(command, "commands", None)
        if children is None:
            yield path
            return
        for name, child in children.items():
            yield from list_commands(child, (*path, name))

    for command in list_commands(typer.main.get_command(build_app(COMMANDS)), ()):
        shown = pot(*command, "--help")
        assert f"Example:  pot {' '.join(command)}" in shown, command
        example = shown.partition("Example:")[2]
        assert not any(line.endswith("-") for line in example.splitlines()), command


def test_list_of_commands_says_what_each_says_of_itself() -> None:
    listed, loaded = (typer.main.get_group(build_app(names)) for names in ((), COMMANDS))
    assert set(listed.commands) == set(loaded.commands) == set(COMMANDS)
    assert {name: command.get_short_help_str() for name, command in listed.commands.items()} == {
        name: command.get_short_help_str() for name, command in loaded.commands.items()
    }


def test_help_imports_no_command() -> None:
    program = (
        "import sys; from node.cli.main import main; sys.argv = ['pot', '--help']\n"
        "try: main()\n"
        "finally: print(sorted(name for name in sys.modules if name.endswith('_command')))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines()[-1] == "[]"


def test_commands_load_without_the_engine() -> None:
    names = [f"node.cli.{command}_command" for command in sorted(set(COMMANDS) - {"devnet"})]
    program = (
        "import importlib, sys\n"
        f"for name in {names}:\n"
        "    importlib.import_module(name)\n"
        "    engine = {'eth', 'torch', 'libp2p'} & sys.modules.keys()\n"
        "    assert not engine, (name, engine)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
