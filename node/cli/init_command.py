"""`pot init`: creates the data directory of a node."""

from pathlib import Path
from typing import Annotated, Final

import typer

from chain.genesis import parse_genesis
from chain.hexadecimal import to_hex
from chain.primitives import Address
from node.cli.output import JsonOption, print_fields, print_json, print_line
from node.setup.directory import (
    CONFIG_NAME,
    FURTHER_SETTINGS,
    create_database,
    create_following_directory,
    create_node_directory,
)
from pot_common.errors import OperatorError
from pot_common.keystore import ask_new_password, get_password

EXAMPLE: Final = (
    "Example:  pot init --data-dir /var/lib/pot --password-file password\n\n"
    "Example:  pot init --data-dir /var/lib/pot --follow --genesis genesis.json"
)


def init(
    data_dir: Annotated[Path, typer.Option(help="The node's directory; created if missing.")],
    genesis: Annotated[
        Path | None, typer.Option(help="The network's genesis file; can be added later.")
    ] = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Create no validator keys; the node only follows the chain."),
    ] = False,
    password_file: Annotated[
        Path | None,
        typer.Option(help="A file with the password of the new keys; without it, you are asked."),
    ] = None,
    light: Annotated[
        bool, typer.Option("--light", help="Cheap key derivation, for development networks.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Create a node's keys, configuration and database.

    For a new network, leave out --genesis: first every operator creates keys, then `pot genesis
    new` takes their addresses, and its file is copied into each data directory.
    """
    if (data_dir / CONFIG_NAME).exists():
        raise OperatorError(f"{data_dir / CONFIG_NAME} exists; give another --data-dir")
    if genesis is not None:
        parse_genesis(genesis.read_bytes())  # checked before anything is written
    config_file = data_dir.resolve() / CONFIG_NAME
    accounts: dict[str, Address] = {}
    if follow:
        peer_id = create_following_directory(data_dir)
    else:
        if password_file is None:
            password = ask_new_password(setting="--password-file")
        else:
            password = get_password(password_file, setting="--password-file", prompt="")
            password_file = password_file.resolve()
        directory = create_node_directory(
            data_dir, password, password_file=password_file, light=light, further=FURTHER_SETTINGS
        )
        peer_id = directory.peer_id
        accounts = {"consensus": directory.consensus, "operator": directory.operator}
    names = {role: to_hex(account) for role, account in accounts.items()}
    genesis_hash = None if genesis is None else to_hex(create_database(data_dir, genesis))
    if as_json:
        made = {"config": str(config_file), **names, "peerId": peer_id}
        print_json({**made, "genesisHash": genesis_hash})
        return
    print_fields(
        [
            ("configuration", str(config_file)),
            *((f"{role} account", name) for role, name in names.items()),
            ("peer id", peer_id),
            *((("genesis hash", genesis_hash),) if genesis_hash is not None else ()),
        ]
    )
    if genesis_hash is None:
        if names:
            print_line(f"next: pot genesis new --validator {':'.join(names.values())} ...")
        print_line(f"next: copy the network's genesis to {data_dir / 'genesis.json'}")
    print_line("next: name other nodes in network.bootstrap of the configuration")
    print_line(f"next: pot node run --config {config_file}")
