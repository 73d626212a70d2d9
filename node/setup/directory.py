"""Creates the directory of a node, for `pot init` and `pot devnet` (docs/operator-guide.md)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from chain.genesis import build_genesis, parse_genesis
from chain.primitives import Address, Hash32
from node.config import load_config
from pot_common.atomic_file import write_atomically
from pot_common.keystore import create_private_key, save_key

CONFIG_NAME: Final = "config.toml"
"""The configuration file in the node's directory."""

GENESIS_NAME: Final = "genesis.json"
"""The genesis file in the node's directory, where the node looks for it by default."""

Setting: TypeAlias = str | int | bool | Path | tuple[str, ...]
"""The value of a setting."""


@dataclass(frozen=True, slots=True)
class NodeDirectory:
    """A node's directory, and the addresses that other nodes need."""

    path: Path
    consensus: Address
    operator: Address
    peer_id: str

    @property
    def config_file(self) -> Path:
        """The configuration file, for `pot node run --config`."""
        return self.path / CONFIG_NAME


FURTHER_SETTINGS: Final = """
# Often set besides; docs/operator-guide.md, section 12, has all of them.
#
# [network]
# listen = ["/ip4/0.0.0.0/tcp/30303"]
# bootstrap = ["/ip4/192.0.2.2/tcp/30303/p2p/PEER_ID"]   # other nodes
# accept_private_addresses = true   # where nodes share a machine or a private network
#
# [rpc]
# port = 8545
#
# [metrics]
# port = 6060
"""
"""Commented settings at the end of a new configuration file, so that operators find their names."""


def create_following_directory(path: Path) -> str:
    """Create the configuration of a node that is not a validator, and return its peer id.

    Raises:
        OSError: A file cannot be written.
    """
    from node.network.host import compute_peer_id, load_or_create_host_key

    path = path.resolve()
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    peer_id = compute_peer_id(load_or_create_host_key(path / "host.key"))
    content = encode_config({"data_dir": path}) + FURTHER_SETTINGS
    write_atomically(path / CONFIG_NAME, content.encode())
    return peer_id


def create_node_directory(
    path: Path,
    password: str,
    *,
    password_file: Path | None,
    settings: Mapping[str, Setting] | None = None,
    light: bool = False,
    further: str = "",
) -> NodeDirectory:
    """Create the keys and the configuration of a validator in `path`.

    Args:
        path: The directory; created if it does not exist.
        password: The password of the keys.
        password_file: The file from which the node reads the password; None if it shall ask.
        settings: Further settings by dotted name.
        light: Use cheap key derivation, for development networks.
        further: TOML text for the end of the configuration file.

    Raises:
        OperatorError: A file exists already, or cannot be written.
    """
    # Imported here because libp2p takes a second to import, and other functions do not need it.
    from node.network.host import compute_peer_id, load_or_create_host_key

    path = path.resolve()
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    consensus_file, operator_file = (
        path / "keys" / f"{name}.json" for name in ("consensus", "operator")
    )
    consensus = save_key(consensus_file, create_private_key(), password, light=light)
    operator = save_key(operator_file, create_private_key(), password, light=light)
    values: dict[str, Setting] = {
        "data_dir": path,
        "consensus.key_file": consensus_file,
        "operator.key_file": operator_file,
        **(settings or {}),
    }
    if password_file is not None:
        values["consensus.password_file"] = password_file
        values["operator.password_file"] = password_file
    directory = NodeDirectory(
        path=path,
        consensus=consensus,
        operator=operator,
        peer_id=compute_peer_id(load_or_create_host_key(path / "host.key")),
    )
    write_atomically(directory.config_file, (encode_config(values) + further).encode())
    return directory


def encode_config(settings: Mapping[str, Setting]) -> str:
    """The text of a configuration file, from settings by dotted name."""
    sections: dict[str, list[str]] = {"": []}
    for name, value in settings.items():
        section, _, key = name.rpartition(".")
        sections.setdefault(section, []).append(f"{key} = {_encode_value(value)}")
    parts = [
        "\n".join(([f"[{section}]"] if section else []) + lines)
        for section, lines in sections.items()
    ]
    return "\n\n".join(parts) + "\n"


def _encode_value(value: Setting) -> str:
    # Strings, integers, booleans and arrays of them have the same form in TOML and JSON.
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)


def create_database(path: Path, genesis_file: Path) -> Hash32:
    """Store the genesis in the directory and its database, and return the genesis hash.

    Raises:
        OperatorError: The database holds another chain.
        InvalidGenesisError: The genesis file is wrong.
        OSError: A file cannot be read or written.
    """
    from chain.contracts.set_reader import read_genesis_set
    from node.storage.block_store import BlockStore
    from node.storage.database import open_database

    data = genesis_file.read_bytes()
    parsed = parse_genesis(data)
    genesis = build_genesis(parsed)
    config = load_config(path / CONFIG_NAME)
    database = open_database(config.database_dir)
    try:
        validator_set = read_genesis_set(parsed, genesis)
        BlockStore(database).initialize(genesis.header, genesis.delta, data, validator_set)
    finally:
        database.close()
    target = path / GENESIS_NAME
    if not target.exists() or not target.samefile(genesis_file):
        write_atomically(target, data, mode=0o644)
    return genesis.header.hash
