"""`pot config`: what a node would run with."""

from pathlib import Path
from typing import Annotated

import typer

from node.cli.output import JsonOption, print_json, print_line

app = typer.Typer(help="Look at a node's configuration.", no_args_is_help=True)


@app.command(epilog="Example:  pot config check --config /var/lib/pot/config.toml")
def check(
    config: Annotated[Path, typer.Option(help="The configuration file.")],
    as_json: JsonOption = False,
) -> None:
    """Check a configuration: misspelt settings, values, the genesis, the key files."""
    from chain.genesis import build_genesis, parse_genesis
    from node.config import load_config
    from node.keystore import read_address

    loaded = load_config(config)
    genesis = parse_genesis(loaded.genesis_file.read_bytes())
    genesis_hash = "0x" + build_genesis(genesis).header.hash.hex()
    accounts = {
        name: "0x" + read_address(section.key_file).hex()
        for name, section in (("consensus", loaded.consensus), ("operator", loaded.operator))
        if section.key_file is not None
    }
    if as_json:
        print_json(
            {
                "settings": loaded.model_dump(mode="json"),
                "genesisHash": genesis_hash,
                "accounts": dict(accounts),
            }
        )
        return
    print_line(f"{config} is good")
    print_line(f"genesis hash       {genesis_hash}, chain id {genesis.chain_id}")
    for name, account in accounts.items():
        print_line(f"{name} account  {account}")
    if "consensus" in accounts:
        seats = ["0x" + validator.hex() for validator in genesis.parameters.validators]
        if accounts["consensus"] not in seats:
            print_line("note: the consensus account is not among the validators of the genesis")
