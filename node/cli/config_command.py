"""`pot config`: checks the configuration of a node."""

from pathlib import Path
from typing import Annotated, Final

import typer

from chain.amounts import format_amount
from chain.genesis import build_genesis
from chain.hexadecimal import to_hex
from node.cli.output import JsonOption, print_fields, print_json, print_line, print_wrapped
from node.config import MempoolSection, MetricsSection, load_config
from pot_common.keystore import get_password, read_address

WEI_SHARE: Final = 10**9
"""A price in wei, times this, reads as an amount of gwei with 18 decimals."""

app = typer.Typer(no_args_is_help=True)


@app.command(epilog="Example:  pot config check --config /var/lib/pot/config.toml")
def check(
    config: Annotated[Path, typer.Option(help="The configuration file.")],
    as_json: JsonOption = False,
) -> None:
    """Check a configuration before a node runs on it.

    Finds misspelt settings, wrong values, and missing genesis, key or password files.
    """
    from node.genesis import load_genesis

    loaded = load_config(config)
    genesis, _ = load_genesis(loaded)
    genesis_hash = to_hex(build_genesis(genesis).header.hash)
    accounts: dict[str, str] = {}
    for name, section in (("consensus", loaded.consensus), ("operator", loaded.operator)):
        if section.key_file is not None:
            accounts[name] = to_hex(read_address(section.key_file))
            if section.password_file is not None:
                get_password(section.password_file, setting=f"{name}.password_file", prompt="")
    if as_json:
        print_json(
            {
                "settings": loaded.model_dump(mode="json"),
                "genesisHash": genesis_hash,
                "accounts": dict(accounts),
            }
        )
        return
    serves = loaded.rpc.processes > 0
    print_line(f"{config} is good")
    print_fields([("genesis hash", genesis_hash)])
    print_fields(
        [
            ("data directory", str(loaded.data_dir)),
            ("chain id", str(genesis.chain_id)),
            *((f"{name} account", account) for name, account in accounts.items()),
            ("role", "validator" if accounts else "follows the chain"),
            ("listens for peers", ", ".join(loaded.network.listen)),
            ("starts from", f"{len(loaded.network.bootstrap)} other nodes"),
            ("RPC", f"http://{loaded.rpc.host}:{loaded.rpc.port}" if serves else "none"),
            ("metrics", _describe_metrics(loaded.metrics)),
            ("free gas", _describe_free_gas(loaded.mempool)),
        ]
    )
    if "consensus" in accounts:
        seats = [to_hex(validator) for validator in genesis.parameters.validators]
        if accounts["consensus"] not in seats:
            print_wrapped(
                "note: the consensus account is not among the validators of the genesis: the node "
                "follows until it joins (pot validator propose join)"
            )


def _describe_metrics(section: MetricsSection) -> str:
    return f"http://{section.host}:{section.port}/metrics" if section.enabled else "none"


def _describe_free_gas(section: MempoolSection) -> str:
    if not section.gas_price_wei:
        return "without a limit, because mempool.gas_price_wei is 0"
    if not section.free_gas_per_second:
        return "none, because mempool.free_gas_per_second is 0"
    return (
        f"{section.free_gas_per_second} units a second, for a price below "
        f"{format_amount(section.gas_price_wei * WEI_SHARE)} gwei"
    )
