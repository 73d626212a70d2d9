from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import pytest

from chain.contracts import (
    gradient_ledger,
    miner_seats,
    task_registry,
    training_token,
    validator_set,
)
from chain.contracts.abi import ContractView
from chain.contracts.addresses import FAUCET, TRAINING_TOKEN, VALIDATOR_SET
from chain.contracts.state_reader import StateReader
from chain.crypto import keccak256
from chain.genesis import GenesisConfig, build_genesis, parse_genesis
from chain.params import BOUNDS, BaseFeeMode, parse_parameters
from chain.primitives import Address
from node.setup.network_genesis import (
    FAUCET_SUPPLY,
    TEMPLATE_PATH,
    Seat,
    build_network,
    build_prices,
    compute_genesis_hash,
    encode_genesis,
    plan_development_network,
    plan_public_network,
    read_template,
)
from pot_common.errors import OperatorError

VALIDATORS = tuple(Address(bytes([0x40 - i]) * 20) for i in range(4))
OPERATORS = tuple(Address(bytes([0x50 + i]) * 20) for i in range(4))
SEATS = tuple(Seat(v, o) for v, o in zip(VALIDATORS, OPERATORS, strict=True))
T = TypeVar("T")
HOLDER = Address(b"\x77" * 20)


def read(config: GenesisConfig, view: ContractView[T]) -> T:
    """The answer of a system contract at genesis."""
    genesis = build_genesis(config)
    return StateReader.at(genesis.delta, genesis.header, config.chain_id).read(view)


def public_network(**changes: object) -> GenesisConfig:
    plan = plan_public_network(read_template(TEMPLATE_PATH), SEATS)
    return build_network(replace(plan, tokens={HOLDER: 10**24}, **changes))


def refusal(**changes: object) -> str:
    with pytest.raises(OperatorError) as refused:
        public_network(**changes)
    return str(refused.value)


def test_contracts_know_validators_operators_and_holders() -> None:
    config = public_network(coins={OPERATORS[0]: 5})
    current = read(config, validator_set.get_current())
    validators, operators = current.validators, current.operators
    assert validators == tuple(sorted(VALIDATORS)) == config.parameters.validators
    operator_of = dict(zip(validators, operators, strict=True))
    assert [operator_of[validator] for validator in VALIDATORS] == list(OPERATORS)
    stakes = len(VALIDATORS) * config.parameters.validator_stake_pot * 10**18
    held = read(config, training_token.balance_of(TRAINING_TOKEN, VALIDATOR_SET))
    assert held == stakes
    balance = read(config, training_token.balance_of(TRAINING_TOKEN, HOLDER))
    assert balance == 10**24
    floor = read(config, gradient_ledger.CONTRACT.view("phaseFloorBlocks", returns=int))
    assert floor == config.parameters.phase_floor_blocks
    assert config.alloc[OPERATORS[0]].balance == 5


@pytest.mark.parametrize(
    ("edge", "changed"),
    [
        (0, {}),
        # An attempt has to fit into the longest lifetime.
        (1, {"min_block_interval_ms": 50_000, "empty_block_interval_ms": 50_000}),
        (1, {"phase_floor_blocks": 6_000}),
    ],
    ids=["lowest", "highest", "slowest blocks"],
)
def test_parameters_at_their_bounds_reach_the_contracts_whole(
    edge: int, changed: Mapping[str, int]
) -> None:
    values = {name: bounds[edge] for name, bounds in BOUNDS.items()}
    parameters = parse_parameters({**values, **changed})
    names = [Address(keccak256(bytes([n]))[12:]) for n in range(2 * parameters.min_validators)]
    half = len(names) // 2
    seats = tuple(map(Seat, names[:half], names[half:]))
    config = public_network(parameters=parameters, seats=seats)
    assert read(config, task_registry.get_prices()) == build_prices(parameters)
    found = {
        name: read(config, contract.CONTRACT.view(name, returns=int))
        for contract, name in (
            (gradient_ledger, "phaseFloorBlocks"),
            (gradient_ledger, "graceBlocks"),
            (validator_set, "requiredStake"),
            (validator_set, "minValidators"),
            (validator_set, "changeBlocks"),
            (validator_set, "evidenceBlocks"),
            (miner_seats, "seatBond"),
            (miner_seats, "seatAttempts"),
        )
    }
    assert found == {
        "phaseFloorBlocks": parameters.phase_floor_blocks,
        "graceBlocks": parameters.grace_blocks,
        "requiredStake": parameters.validator_stake_pot * 10**18,
        "minValidators": parameters.min_validators,
        "changeBlocks": parameters.validator_change_blocks,
        "evidenceBlocks": parameters.evidence_blocks,
        "seatBond": parameters.seat_bond_pot * 10**18,
        "seatAttempts": parameters.seat_attempts,
    }


def test_public_network_has_a_base_fee_of_0_and_no_faucet() -> None:
    config = public_network()
    assert (config.parameters.base_fee_mode, config.base_fee_per_gas) == (BaseFeeMode.FIXED, 0)
    assert FAUCET not in config.alloc


def test_public_network_takes_the_base_fee_of_its_template() -> None:
    template = read_template(TEMPLATE_PATH)
    changes = {"base_fee_mode": BaseFeeMode.EIP1559, "base_fee_floor_wei": 10**9}
    parameters = replace(template.parameters, **changes)
    paid = replace(template, parameters=parameters, base_fee_per_gas=2 * 10**9)
    assert plan_public_network(paid, SEATS).base_fee_per_gas == 2 * 10**9


def test_development_network_is_free_and_has_a_faucet_that_holds_money() -> None:
    config = build_network(plan_development_network(SEATS))
    assert (config.parameters.base_fee_mode, config.base_fee_per_gas) == (BaseFeeMode.FIXED, 0)
    assert config.alloc[FAUCET].balance == FAUCET_SUPPLY
    tokens = read(config, training_token.balance_of(TRAINING_TOKEN, FAUCET))
    assert tokens == FAUCET_SUPPLY


def test_file_reads_back_to_the_same_network() -> None:
    config = public_network()
    again = parse_genesis(encode_genesis(config))
    assert again == config
    assert compute_genesis_hash(again) == build_genesis(config).header.hash


def test_another_operator_is_another_network() -> None:
    other = (Seat(VALIDATORS[0], HOLDER), *SEATS[1:])
    assert compute_genesis_hash(public_network(seats=other)) != compute_genesis_hash(
        public_network()
    )


def test_contradictory_plans_are_refused_with_a_cure() -> None:
    assert "--validator" in refusal(seats=())
    assert "named twice" in refusal(seats=(SEATS[0], Seat(VALIDATORS[0], HOLDER)))
    assert "named twice" in refusal(seats=(SEATS[0], Seat(HOLDER, OPERATORS[0])))
    assert "account of its own" in refusal(seats=(Seat(VALIDATORS[0], VALIDATORS[0]),))
    plan = plan_public_network(read_template(TEMPLATE_PATH), SEATS)
    with pytest.raises(OperatorError, match="--token"):
        build_network(plan)
