"""Creates the genesis of a network: parameters, contracts, allocations (docs/operator-guide.md).

The constructors of the system contracts run here, once. The resulting code and storage are written
into genesis.json, so a node needs neither a compiler nor deployment transactions.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from chain.contracts import (
    faucet,
    gradient_ledger,
    miner_seats,
    task_registry,
    training_token,
    validator_set,
)
from chain.contracts.addresses import (
    FAUCET,
    GRADIENT_LEDGER,
    MINER_SEATS,
    REWARD_DISTRIBUTOR,
    TASK_REGISTRY,
    TRAINING_TOKEN,
    VALIDATOR_SET,
)
from chain.contracts.task_registry import Prices
from chain.execution.evm import run_constructor
from chain.genesis import GenesisAccount, GenesisConfig, build_genesis, parse_genesis
from chain.hexadecimal import from_plain_hex, to_hex
from chain.json_types import Json
from chain.params import BaseFeeMode, ChainParameters
from chain.primitives import TOKEN_UNIT, Address, Hash32
from chain.types.certificate import MAX_VALIDATORS
from pot_common.errors import OperatorError

TEMPLATE_PATH: Final = Path(__file__).parents[2] / "genesis.json"
"""The template with the parameters of a public network."""

CONTRACTS_DIRECTORY: Final = Path(__file__).parents[2] / "contracts" / "build"
"""The compiled contracts, as `make contracts` writes them."""

DEVELOPMENT_CHAIN_ID: Final = 7_368_565
""""pot" in ASCII, plus one. It differs from the template's, so that wallets tell them apart."""

CHEAP_SLOT_PRICE: Final = 10**10
"""Base units of POT for a second of a slot in a development network: a thousandth of the public
price. The prices are almost nothing, but not nothing, so that whoever develops sees them."""

CHEAP_SECOND_PRICE: Final = 10**11
"""Base units of POT for a second of a validator's worker in a development network."""

CHEAP_BYTE_PRICE: Final = 10**14
"""Base units of POT for a GiB-day of a validator in a development network."""

CHEAP_EXAMINATION_FEE: Final = 10**13
"""Base units of POT for a validator's answer in a development network."""

FAUCET_PORTION: Final = 1_000 * TOKEN_UNIT
"""POT that the faucet of a development network pays: enough for bonds and small tasks."""

FAUCET_COINS: Final = TOKEN_UNIT
"""Native coins that the faucet pays with it."""

FAUCET_BLOCKS_BETWEEN: Final = 10
"""Blocks until the faucet pays the same account again."""

FAUCET_SUPPLY: Final = 10**9 * TOKEN_UNIT
"""POT, and coins, in the faucet: too many to be used up by hand."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A validator and its operator account."""

    validator: Address
    """The address of the consensus key."""
    operator: Address
    """The account that sends the validator's operator votes."""


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """The properties of a new network."""

    chain_id: int
    seats: tuple[Seat, ...]
    parameters: ChainParameters
    gas_limit: int
    base_fee_per_gas: int
    """Wei."""
    timestamp: int
    """Seconds since the Unix epoch; the time of block 0."""
    has_faucet: bool = False
    tokens: Mapping[Address, int] = field(default_factory=dict)
    """POT by account, in base units. The faucet's share and the stakes are added to them."""
    coins: Mapping[Address, int] = field(default_factory=dict)
    """Native coins by account, in wei."""


def read_template(path: Path) -> GenesisConfig:
    """The parameters of the template.

    Raises:
        OperatorError: The file cannot be read.
        InvalidGenesisError: The file is not a genesis.
    """
    try:
        return parse_genesis(path.read_bytes())
    except OSError as error:
        raise OperatorError(
            f"cannot read the template {path} ({error.strerror}); name one with --template"
        ) from error


def plan_public_network(
    template: GenesisConfig, seats: tuple[Seat, ...], *, chain_id: int | None = None
) -> NetworkPlan:
    """The plan of a network with the template's parameters.

    A base fee of 0 is right for a public network: proposers ration what pays nothing (decision
    0035), and with another one operators pay coins for their votes.
    """
    return NetworkPlan(
        chain_id=template.chain_id if chain_id is None else chain_id,
        seats=seats,
        parameters=template.parameters,
        gas_limit=template.gas_limit,
        base_fee_per_gas=template.base_fee_per_gas,
        timestamp=int(time.time()),
    )


def plan_development_network(
    seats: tuple[Seat, ...], *, chain_id: int = DEVELOPMENT_CHAIN_ID
) -> NetworkPlan:
    """The plan of a network on loopback, with fast blocks, free transactions and a faucet."""
    parameters = ChainParameters(
        min_block_interval_ms=200,
        empty_block_interval_ms=1_000,
        base_fee_mode=BaseFeeMode.FIXED,
        base_fee_floor_wei=0,
        phase_floor_blocks=2,
        validator_change_blocks=10,
        evidence_blocks=1_000,
        slot_price=CHEAP_SLOT_PRICE,
        second_price=CHEAP_SECOND_PRICE,
        byte_price=CHEAP_BYTE_PRICE,
        examination_fee=CHEAP_EXAMINATION_FEE,
    )
    return NetworkPlan(
        chain_id=chain_id,
        seats=seats,
        parameters=parameters,
        gas_limit=30_000_000,
        base_fee_per_gas=0,
        timestamp=int(time.time()),
        has_faucet=True,
    )


def build_network(plan: NetworkPlan) -> GenesisConfig:
    """The genesis of a planned network.

    Raises:
        OperatorError: The plan contradicts itself.
    """
    _check(plan)
    seats = sorted(plan.seats, key=lambda seat: seat.validator)
    tokens = dict(sorted(plan.tokens.items()))
    if plan.has_faucet:
        tokens[FAUCET] = FAUCET_SUPPLY
    parameters = plan.parameters
    stake = parameters.validator_stake_pot * TOKEN_UNIT
    tokens[VALIDATOR_SET] = stake * len(seats)
    validators = [seat.validator for seat in seats]
    operators = [seat.operator for seat in seats]
    init_codes = {
        TRAINING_TOKEN: _load_bytecode("TrainingToken")
        + training_token.encode_constructor(list(tokens), list(tokens.values())),
        VALIDATOR_SET: _load_bytecode("ValidatorSet")
        + validator_set.encode_constructor(
            validators,
            operators,
            stake=stake,
            min_validators=parameters.min_validators,
            change_blocks=parameters.validator_change_blocks,
            evidence_blocks=parameters.evidence_blocks,
        ),
        TASK_REGISTRY: _load_bytecode("TaskRegistry")
        + task_registry.encode_constructor(build_prices(parameters)),
        GRADIENT_LEDGER: _load_bytecode("GradientLedger")
        + gradient_ledger.encode_constructor(
            parameters.phase_floor_blocks, parameters.grace_blocks
        ),
        REWARD_DISTRIBUTOR: _load_bytecode("RewardDistributor"),
        MINER_SEATS: _load_bytecode("MinerSeats")
        + miner_seats.encode_constructor(
            parameters.seat_bond_pot * TOKEN_UNIT, parameters.seat_attempts
        ),
    }
    if plan.has_faucet:
        init_codes[FAUCET] = _load_bytecode("Faucet") + faucet.encode_constructor(
            FAUCET_PORTION, FAUCET_COINS, FAUCET_BLOCKS_BETWEEN
        )
    alloc: dict[Address, GenesisAccount] = {
        address: GenesisAccount(balance=amount) for address, amount in plan.coins.items()
    }
    for address, init_code in init_codes.items():
        alloc[address] = run_constructor(
            init_code, address, chain_id=plan.chain_id, timestamp=plan.timestamp
        )
    if plan.has_faucet:
        alloc[FAUCET] = replace(alloc[FAUCET], balance=FAUCET_SUPPLY)
    return GenesisConfig(
        chain_id=plan.chain_id,
        parameters=replace(parameters, validators=tuple(validators)),
        alloc=alloc,
        timestamp=plan.timestamp,
        gas_limit=plan.gas_limit,
        base_fee_per_gas=plan.base_fee_per_gas,
    )


def build_prices(parameters: ChainParameters) -> Prices:
    """What the registry of a network with these parameters charges."""
    return Prices(
        task_slots=parameters.task_slots,
        slot_price=parameters.slot_price,
        second_price=parameters.second_price,
        byte_price=parameters.byte_price,
        examination_fee=parameters.examination_fee,
        pending_seconds=parameters.pending_seconds,
        max_lifetime_seconds=parameters.max_lifetime_seconds,
        idle_seconds=parameters.idle_seconds,
        empty_block_milliseconds=parameters.empty_block_interval_ms,
        phase_floor_blocks=parameters.phase_floor_blocks,
    )


def _check(plan: NetworkPlan) -> None:
    if not 1 <= len(plan.seats) <= MAX_VALIDATORS:
        raise OperatorError(
            f"{len(plan.seats)} validators; name 1 to {MAX_VALIDATORS} with --validator"
        )
    if len(plan.seats) < plan.parameters.min_validators:
        raise OperatorError(
            f"{len(plan.seats)} validators, fewer than min_validators "
            f"({plan.parameters.min_validators}); name more, or lower it in the template"
        )
    for name, accounts in (
        ("validator", [seat.validator for seat in plan.seats]),
        ("operator", [seat.operator for seat in plan.seats]),
    ):
        if len(set(accounts)) != len(accounts):
            raise OperatorError(f"one {name} is named twice; give each --validator its own")
    shared = {seat.validator for seat in plan.seats} & {seat.operator for seat in plan.seats}
    if shared:
        raise OperatorError(
            f"{to_hex(min(shared))} is a validator and an operator; the consensus key signs "
            "nothing but consensus, so give the operator an account of its own"
        )
    if not plan.tokens and not plan.has_faucet:
        raise OperatorError(
            "no account holds POT, which is never minted later; allocate the supply with --token"
        )


def _load_bytecode(name: str) -> bytes:
    artifact = json.loads((CONTRACTS_DIRECTORY / f"{name}.json").read_bytes())
    return from_plain_hex(artifact["bytecode"])


def encode_genesis(config: GenesisConfig) -> bytes:
    """The genesis file, which `parse_genesis` reads back to the same configuration."""
    alloc: dict[str, Json] = {}
    for address, account in sorted(config.alloc.items()):
        entry: dict[str, Json] = {"balance": hex(account.balance)}
        if account.nonce:
            entry["nonce"] = hex(account.nonce)
        if account.code:
            entry["code"] = to_hex(account.code)
        if account.storage:
            entry["storage"] = {
                _word(slot): _word(value) for slot, value in sorted(account.storage.items())
            }
        alloc[to_hex(address)] = entry
    document: dict[str, Json] = {
        "config": {"chainId": config.chain_id, "proofOfTraining": config.parameters.to_json()},
        "timestamp": hex(config.timestamp),
        "gasLimit": hex(config.gas_limit),
        "baseFeePerGas": hex(config.base_fee_per_gas),
        "alloc": alloc,
    }
    data = json.dumps(document, indent=2).encode() + b"\n"
    assert parse_genesis(data) == config
    return data


def _word(value: int) -> str:
    return to_hex(value.to_bytes(32, "big"))


def compute_genesis_hash(config: GenesisConfig) -> Hash32:
    """The genesis hash, which identifies the network."""
    return build_genesis(config).header.hash
