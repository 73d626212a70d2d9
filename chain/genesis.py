"""Genesis in geth's format: header and state of block 0 (docs/spec/state-transition.md, section 7).

The header's extra data is the Keccak-256 of chain id and parameters, so networks that differ in one
of them have different genesis hashes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pydantic_core import from_json

from chain.crypto import keccak256
from chain.hexadecimal import from_hex, from_plain_hex, to_hex
from chain.json_types import Json
from chain.params import (
    TIMEOUT_CAP_FACTOR,
    ChainParameters,
    InvalidGenesisError,
    parse_parameters,
)
from chain.primitives import (
    EMPTY_REQUESTS_HASH,
    EMPTY_TRIE_ROOT,
    EMPTY_UNCLES_HASH,
    ZERO_ADDRESS,
    ZERO_HASH,
    Address,
    BlockNumber,
    Hash32,
)
from chain.state import trie
from chain.types.account import Account, encode_storage_value
from chain.types.header import Header
from chain.types.receipt import BLOCK_GAS_LIMIT, BLOOM_BYTES

GENESIS_LIMIT_BYTES: Final = 2**26
"""64 MiB are enough for an allocation of half a million accounts."""

HISTORY_STORAGE_ADDRESS: Final = Address(bytes.fromhex("0000f90827f1c53a10cb7a02335b175320002935"))
"""EIP-2935: the contract that holds the hashes of the last 8191 blocks."""

HISTORY_STORAGE_CODE: Final = bytes.fromhex(
    "3373fffffffffffffffffffffffffffffffffffffffe14604657602036036042575f35600143038111604257"
    "611fff81430311604257611fff9006545f5260205ff35b5f5ffd5b5f35611fff60014303065500"
)
"""EIP-2935's runtime code."""

_FORK_SETTINGS: Final = frozenset(
    {
        "homesteadBlock",
        "eip150Block",
        "eip155Block",
        "eip158Block",
        "byzantiumBlock",
        "constantinopleBlock",
        "petersburgBlock",
        "istanbulBlock",
        "muirGlacierBlock",
        "berlinBlock",
        "londonBlock",
        "arrowGlacierBlock",
        "grayGlacierBlock",
        "mergeNetsplitBlock",
        "shanghaiTime",
        "cancunTime",
        "pragueTime",
    }
)
"""geth's names of the forks up to Prague, all active from block 0 here."""

_LATER_FORK_SETTINGS: Final = frozenset({"osakaTime", "verkleTime", "amsterdamTime"})
"""geth's names of forks that this node does not implement."""


@dataclass(frozen=True, slots=True)
class GenesisAccount:
    """An account at block 0."""

    balance: int = 0
    nonce: int = 0
    code: bytes = b""
    storage: Mapping[int, int] = field(default_factory=dict)
    """Value by slot, both below 2**256. A zero value makes no entry."""


@dataclass(frozen=True, slots=True)
class GenesisConfig:
    """A parsed genesis file: the identity and the rules of one network."""

    chain_id: int
    parameters: ChainParameters
    alloc: Mapping[Address, GenesisAccount]
    timestamp: int = 0
    """Seconds since the Unix epoch."""
    gas_limit: int = 30_000_000
    """The gas limit of every block."""
    base_fee_per_gas: int = 0
    """Wei. The base fee of every block if it is fixed, otherwise of block 0."""
    mix_hash: Hash32 = ZERO_HASH
    coinbase: Address = ZERO_ADDRESS
    difficulty: int = 0
    nonce: bytes = bytes(8)


@dataclass(frozen=True, slots=True)
class GenesisState:
    """Block 0, and the database entries below its state root."""

    header: Header
    delta: Mapping[bytes, bytes]
    """Trie nodes and code by their Keccak-256."""


def parse_genesis(data: bytes | Mapping[str, Json]) -> GenesisConfig:
    """The configuration of a genesis file, given as its bytes or as the decoded object.

    Raises:
        InvalidGenesisError: A setting is wrong; the message names it and the cure.
    """
    root = _decode_json(data) if isinstance(data, bytes) else data
    config = _object(root, "config")
    for name in sorted(_FORK_SETTINGS & set(config)):
        if config[name] not in (0, None):
            raise InvalidGenesisError(
                f"config.{name} is {config[name]!r}; set it to 0: Prague's rules hold from block 0"
            )
    for name in sorted(_LATER_FORK_SETTINGS & set(config)):
        if config[name] is not None:
            raise InvalidGenesisError(f"config.{name}: remove it; this node's rules are Prague's")
    for name in ("number", "parentHash", "gasUsed", "excessBlobGas", "blobGasUsed"):
        if name in root and _number(root, name, bits=256) != 0:
            raise InvalidGenesisError(f"{name}: set it to 0 or remove it")
    parameters = parse_parameters(_object(config, "proofOfTraining", default={}))
    base_fee = _number(root, "baseFeePerGas", bits=63, default=parameters.base_fee_floor_wei)
    genesis = GenesisConfig(
        chain_id=_number(config, "chainId", bits=63),
        parameters=parameters,
        alloc=_parse_alloc(_object(root, "alloc")),
        timestamp=_number(root, "timestamp", bits=63, default=0),
        gas_limit=_number(root, "gasLimit", bits=40),
        base_fee_per_gas=base_fee,
        mix_hash=Hash32(_fixed_bytes(root, "mixHash", 32)),
        coinbase=Address(_fixed_bytes(root, "coinbase", 20)),
        difficulty=_number(root, "difficulty", bits=63, default=0),
        nonce=_number(root, "nonce", bits=64, default=0).to_bytes(8, "big"),
    )
    _check_relations(genesis)
    extra_data = _hex(root.get("extraData", "0x"), "extraData")
    if extra_data not in (b"", compute_extra_data(genesis)):
        raise InvalidGenesisError(
            "extraData: remove it; block 0 commits there to chain id and parameters"
        )
    return genesis


def compute_extra_data(config: GenesisConfig) -> Hash32:
    """The extra data of block 0: the commitment to chain id and parameters."""
    return compute_commitment(config.chain_id, config.parameters.canonical_bytes())


def compute_commitment(chain_id: int, parameters: bytes) -> Hash32:
    """The commitment to a chain id and to parameters in canonical bytes."""
    return keccak256(chain_id.to_bytes(32, "big") + parameters)


def build_genesis(config: GenesisConfig) -> GenesisState:
    """Block 0 and its state, with EIP-2935's history contract added to the allocation."""
    history = GenesisAccount(nonce=1, code=HISTORY_STORAGE_CODE)
    state_root, delta = build_alloc({**config.alloc, HISTORY_STORAGE_ADDRESS: history})
    return GenesisState(_build_header(config, state_root), delta)


def build_alloc(alloc: Mapping[Address, GenesisAccount]) -> tuple[Hash32, dict[bytes, bytes]]:
    """The state root of an allocation, and the trie nodes and code below it."""
    delta: dict[bytes, bytes] = {}
    accounts: dict[bytes, bytes] = {}
    for address, account in sorted(alloc.items()):
        storage_root, nodes = trie.build(
            {
                keccak256(slot.to_bytes(32, "big")): encode_storage_value(value)
                for slot, value in account.storage.items()
            },
        )
        delta.update(nodes)
        code_hash = keccak256(account.code)
        if account.code:
            delta[code_hash] = account.code
        value = Account(account.nonce, account.balance, storage_root, code_hash)
        if not value.is_empty:  # EIP-161: an empty account does not exist
            accounts[keccak256(address)] = value.encode()
    state_root, nodes = trie.build(accounts)
    delta.update(nodes)
    return state_root, delta


def _build_header(config: GenesisConfig, state_root: Hash32) -> Header:
    return Header(
        parent_hash=ZERO_HASH,
        ommers_hash=EMPTY_UNCLES_HASH,
        coinbase=config.coinbase,
        state_root=state_root,
        transactions_root=EMPTY_TRIE_ROOT,
        receipts_root=EMPTY_TRIE_ROOT,
        logs_bloom=bytes(BLOOM_BYTES),
        difficulty=config.difficulty,
        number=BlockNumber(0),
        gas_limit=config.gas_limit,
        gas_used=0,
        timestamp=config.timestamp,
        extra_data=compute_extra_data(config),
        mix_hash=config.mix_hash,
        nonce=config.nonce,
        base_fee_per_gas=config.base_fee_per_gas,
        withdrawals_root=EMPTY_TRIE_ROOT,
        blob_gas_used=0,
        excess_blob_gas=0,
        parent_beacon_block_root=ZERO_HASH,
        requests_hash=EMPTY_REQUESTS_HASH,
    )


def _check_relations(config: GenesisConfig) -> None:
    parameters = config.parameters
    if config.gas_limit < parameters.transaction_gas_limit:
        raise InvalidGenesisError(
            f"gasLimit is {config.gas_limit}, below config.proofOfTraining.transaction_gas_limit "
            f"({parameters.transaction_gas_limit}); raise the one or lower the other"
        )
    if config.gas_limit > BLOCK_GAS_LIMIT:
        raise InvalidGenesisError(
            f"gasLimit is {config.gas_limit}; the logs of a block could be too large to decode: "
            f"give at most {BLOCK_GAS_LIMIT}"
        )
    worst_block_ms = config.gas_limit * 1000 // parameters.execution_gas_per_second
    if parameters.view_timeout_cap_ms < TIMEOUT_CAP_FACTOR * worst_block_ms:
        raise InvalidGenesisError(
            f"config.proofOfTraining.view_timeout_cap_ms is {parameters.view_timeout_cap_ms}; a "
            f"full block of gasLimit {config.gas_limit} may take {worst_block_ms} ms: give at "
            f"least {TIMEOUT_CAP_FACTOR * worst_block_ms}"
        )
    if config.base_fee_per_gas < parameters.base_fee_floor_wei:
        raise InvalidGenesisError(
            f"baseFeePerGas is {config.base_fee_per_gas}, below config.proofOfTraining."
            f"base_fee_floor_wei ({parameters.base_fee_floor_wei}); raise it"
        )
    if sum(account.balance for account in config.alloc.values()) >= 1 << 256:
        raise InvalidGenesisError("alloc: lower the balances; together they reach 2**256 wei")
    if HISTORY_STORAGE_ADDRESS in config.alloc:
        raise InvalidGenesisError(
            f"alloc.{to_hex(HISTORY_STORAGE_ADDRESS)}: remove it; genesis adds the history contract"
        )


def _decode_json(data: bytes) -> Mapping[str, Json]:
    if len(data) > GENESIS_LIMIT_BYTES:
        raise InvalidGenesisError(f"the genesis file is larger than {GENESIS_LIMIT_BYTES} bytes")
    try:
        # This parser bounds the depth. The one below overflows its C stack on a hundred thousand
        # open brackets once py-evm is imported, which raises Python's recursion limit.
        from_json(data, allow_inf_nan=False)
        decoded: Json = json.loads(
            data, object_pairs_hook=_unique_keys, parse_float=_refuse, parse_constant=_refuse
        )
    except ValueError as error:
        raise InvalidGenesisError(
            f"the genesis file is not JSON without floats: {error}"
        ) from error
    if not isinstance(decoded, dict):
        raise InvalidGenesisError("the genesis file must be a JSON object")
    return decoded


def _unique_keys(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is given twice")
    return result


def _refuse(text: str) -> Json:
    raise ValueError(f"{text} is not an integer")


def _object(
    parent: Mapping[str, Json], name: str, default: Mapping[str, Json] | None = None
) -> Mapping[str, Json]:
    value = parent.get(name, default)
    if not isinstance(value, Mapping):
        raise InvalidGenesisError(f"{name}: give an object")
    return value


def _number(parent: Mapping[str, Json], name: str, *, bits: int, default: int | None = None) -> int:
    if name not in parent and default is not None:
        return default
    value = parent.get(name)
    if isinstance(value, str):
        try:
            value = int(value, 16 if value.startswith("0x") else 10)
        except ValueError:
            value = None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << bits:
        raise InvalidGenesisError(
            f"{name}: give an integer below 2**{bits}, as a number or as text in hex or decimal"
        )
    return value


def _hex(value: Json, name: str) -> bytes:
    try:
        return from_plain_hex(value) if isinstance(value, str) else from_hex(value)
    except ValueError as error:
        raise InvalidGenesisError(f"{name}: give bytes in hex") from error


def _fixed_bytes(parent: Mapping[str, Json], name: str, length: int) -> bytes:
    value = _hex(parent.get(name, "0x" + "00" * length), name)
    if len(value) != length:
        raise InvalidGenesisError(f"{name}: give {length} bytes in hex")
    return value


def _parse_alloc(alloc: Mapping[str, Json]) -> Mapping[Address, GenesisAccount]:
    accounts: dict[Address, GenesisAccount] = {}
    for key in alloc:
        address = _hex(key, f"alloc.{key}")
        if len(address) != 20 or address in accounts:
            raise InvalidGenesisError(f"alloc.{key}: give each 20-byte address once")
        entry = _object(alloc, key)
        storage = _object(entry, "storage", default={})
        accounts[Address(address)] = GenesisAccount(
            balance=_number(entry, "balance", bits=256, default=0),
            nonce=_number(entry, "nonce", bits=64, default=0),
            code=_hex(entry.get("code", "0x"), f"alloc.{key}.code"),
            storage={
                _word(slot, f"alloc.{key}.storage"): _word(value, f"alloc.{key}.storage")
                for slot, value in storage.items()
            },
        )
    return accounts


def _word(value: Json, name: str) -> int:
    digits = value.removeprefix("0x") if isinstance(value, str) else ""
    data = _hex(digits.rjust(len(digits) + len(digits) % 2, "0") if digits else value, name)
    if len(data) > 32:
        raise InvalidGenesisError(f"{name}: give at most 32 bytes in hex")
    return int.from_bytes(data, "big")
