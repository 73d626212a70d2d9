from pathlib import Path

import pytest
import typer

from pot_common.miner_options import MinerLogFormat, MinerOptions, build_command

ALL = [
    *("--key", "k.json", "--rpc", "http://a", "--rpc", "http://b", "--genesis", "0x00"),
    *("--task", "7", "--units", "3", "--password-file", "p", "--data-dir", "d"),
    *("--device", "cuda:1", "--threads", "4", "--claim", "--log-format", "json", "--poll-ms", "5"),
    *("--memory-gib", "3.5", "--data-gib", "8", "--lock-days", "0.5"),
    "--leave-at-end",
    *("--gas-price", "1000000000"),
    *("--private-data-host", "nas", "--private-data-host", "lab"),
]


def parse(*arguments: str) -> MinerOptions:
    found: list[MinerOptions] = []
    app = typer.Typer(add_completion=False)
    app.command()(build_command(found.append))
    with pytest.raises(SystemExit) as end:
        app(arguments)
    assert end.value.code == 0
    return found[0]


def test_every_option_is_read() -> None:
    assert parse(*ALL) == MinerOptions(
        key=Path("k.json"),
        rpc=("http://a", "http://b"),
        genesis="0x00",
        task="7",
        units=3,
        password_file=Path("p"),
        data_dir=Path("d"),
        device="cuda:1",
        threads=4,
        memory_gib=3.5,
        data_gib=8.0,
        lock_days=0.5,
        claim=True,
        leave_at_end=True,
        gas_price=10**9,
        private_data_host=("nas", "lab"),
        log_format=MinerLogFormat.JSON,
        poll_ms=5,
    )


@pytest.mark.parametrize("arguments", [ALL, ["--key", "k.json"]])
def test_options_written_as_arguments_are_read_back(arguments: list[str]) -> None:
    options = parse(*arguments)
    assert parse(*options.to_arguments()) == options


def test_local_node_is_used_unless_the_environment_names_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert parse("--key", "k").rpc == ("http://127.0.0.1:8545",)
    monkeypatch.setenv("ETH_RPC_URL", "http://a http://b")
    assert parse("--key", "k").rpc == ("http://a", "http://b")
    assert parse("--key", "k", "--rpc", "http://c").rpc == ("http://c",)
