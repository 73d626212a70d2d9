"""`pot init`: a data directory that a node can start on."""

from pathlib import Path
from typing import Annotated, Final

import typer

from node.cli.output import JsonOption, print_json, print_line
from node.errors import OperatorError

EXAMPLE: Final = (
    "Example:  pot init --data-dir /var/lib/pot --genesis genesis.json --password-file password"
)


def init(
    data_dir: Annotated[Path, typer.Option(help="Made if it is absent.")],
    genesis: Annotated[
        Path | None, typer.Option(help="The network's genesis file; can be added later.")
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="Password of the new keys; asked for if not given.")
    ] = None,
    light: Annotated[
        bool, typer.Option("--light", help="Cheap key derivation, for development networks.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a node's keys, its configuration and, given a genesis, its database.

    A new network starts without --genesis: every operator makes keys, `pot genesis new` takes their
    accounts, and the file that it writes is copied into each data directory.
    """
    from node.cli.directory import CONFIG_NAME, create_database, create_node_directory
    from node.keystore import ask_new_password, get_password

    if (data_dir / CONFIG_NAME).exists():
        raise OperatorError(f"{data_dir / CONFIG_NAME} exists; give another --data-dir")
    if password_file is None:
        password = ask_new_password(setting="--password-file")
    else:
        password = get_password(password_file, setting="--password-file", prompt="")
        password_file = password_file.resolve()
    directory = create_node_directory(data_dir, password, password_file=password_file, light=light)
    genesis_hash = None if genesis is None else create_database(data_dir, genesis)
    if as_json:
        print_json(
            {
                "config": str(directory.config_file),
                "consensus": "0x" + directory.consensus.hex(),
                "operator": "0x" + directory.operator.hex(),
                "peerId": directory.peer_id,
                "genesisHash": None if genesis_hash is None else "0x" + genesis_hash.hex(),
            }
        )
        return
    print_line(f"configuration      {directory.config_file}")
    print_line(f"consensus account  0x{directory.consensus.hex()}")
    print_line(f"operator account   0x{directory.operator.hex()}")
    print_line(f"peer id            {directory.peer_id}")
    if genesis_hash is None:
        print_line(f"next: pot genesis new, then copy the file to {data_dir / 'genesis.json'}")
    else:
        print_line(f"genesis hash       0x{genesis_hash.hex()}")
        print_line(f"next: pot node run --config {directory.config_file}")
