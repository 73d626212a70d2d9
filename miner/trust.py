"""The network that a miner mines on (docs/operator-guide.md).

The genesis hash is the one thing that a miner must trust; it proves everything else. It comes from
`--genesis` or, when a key is first used, from the first node. The hash that was trusted then is
stored beside the key, and nodes of another network are refused later.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from chain.genesis import GENESIS_LIMIT_BYTES, build_genesis, parse_genesis
from chain.hexadecimal import from_hex, to_hex
from chain.light import TrustedNetwork
from chain.params import InvalidGenesisError
from chain.primitives import Hash32
from miner.client import FailoverClient
from miner.light import fetch_network
from pot_common.atomic_file import write_atomically
from pot_common.errors import OperatorError
from pot_common.rpc_replies import ClientError

TRUST_SUFFIX: Final = ".network"
"""The ending of the file beside the key."""

HASH_CHARACTERS: Final = 66
"""0x and 64 hex digits."""


_log = structlog.get_logger("miner")


@dataclass(frozen=True, slots=True)
class Pin:
    """The network that was trusted when the key was first used."""

    chain_id: int
    genesis_hash: Hash32


def find_network(client: FailoverClient, genesis: str | None, key: Path) -> TrustedNetwork:
    """The network of `--genesis`, else the one that was trusted before, else the first node's.

    Args:
        client: The client that asks only nodes of this network from now on.
        genesis: The hash of block 0 in hex, or the path of a genesis file, or None.
        key: The key file; the network that is trusted at first use is stored beside it.

    Raises:
        OperatorError: The setting or a file is wrong.
        ClientError: No node answers, or one is on another network.
    """
    if genesis is not None and not _is_hash(genesis):
        network = _read_genesis_file(Path(genesis))
        client.require_network(network.chain_id, network.genesis_hash)
        return network
    path = key.with_name(key.name + TRUST_SUFFIX)
    pin = _read_pin(path) if genesis is None else None
    if pin is not None:
        try:
            client.require_network(pin.chain_id, pin.genesis_hash)
        except ClientError as error:
            raise OperatorError(
                f"{error}; this key mines on the network of {path}: to move it to another, give "
                "--genesis"
            ) from error
        return fetch_network(client, pin.chain_id, pin.genesis_hash)
    info = client.node_info()
    named = info.genesis_hash if genesis is None else Hash32(from_hex(genesis))
    client.require_network(info.chain_id, named)
    network = fetch_network(client, info.chain_id, named)
    if genesis is None:
        _write_pin(path, Pin(info.chain_id, named))
        _log.info(
            f"trusting the network of {client.current} at first use; compare its genesis with what "
            "its operators publish, or give --genesis",
            genesis=to_hex(named),
            chain_id=info.chain_id,
            written_to=str(path),
        )
    return network


def _is_hash(text: str) -> bool:
    return (
        len(text) == HASH_CHARACTERS
        and text.startswith("0x")
        and all(digit in "0123456789abcdefABCDEF" for digit in text[2:])
    )


def _read_genesis_file(path: Path) -> TrustedNetwork:
    try:
        if path.stat().st_size > GENESIS_LIMIT_BYTES:
            raise OperatorError(f"--genesis: {path} is too large for a genesis file")
        config = parse_genesis(path.read_bytes())
    except OSError as error:
        raise OperatorError(
            f"--genesis: {path}: {error.strerror}; give a genesis file, or the genesis hash with 0x"
        ) from error
    except InvalidGenesisError as error:
        raise OperatorError(f"--genesis: {path}: {error}") from error
    genesis_hash = build_genesis(config).header.hash
    return TrustedNetwork(config.chain_id, genesis_hash, config.parameters)


def _read_pin(path: Path) -> Pin | None:
    try:
        stored = json.loads(path.read_bytes())
        return Pin(int(stored["chainId"]), Hash32(from_hex(stored["genesisHash"])))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise OperatorError(
            f"{path} cannot be read ({reason}); it says which network this key mines on: delete it "
            "to trust the first node again, or give --genesis"
        ) from error


def _write_pin(path: Path, pin: Pin) -> None:
    stored = {"chainId": pin.chain_id, "genesisHash": to_hex(pin.genesis_hash)}
    try:
        write_atomically(path, json.dumps(stored).encode() + b"\n")
    except OSError as error:
        raise OperatorError(
            f"{path} cannot be written ({error.strerror}); it would say which network this key "
            "mines on: give --genesis instead"
        ) from error
