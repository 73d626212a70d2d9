"""The validator set (docs/spec/contracts.md, section 8)."""

import pytest
from eth_abi.abi import encode

from chain.crypto import keccak256
from chain.execution import system_contracts as contracts
from chain.execution.system_contracts import VALIDATOR_SET, ContractError
from chain.primitives import Address
from tests.contracts.world import (
    MINERS,
    OPERATORS,
    VALIDATORS,
    World,
    account,
    new_world,
    refusal,
)


def deployed(validators, operators) -> World:
    world = new_world()
    arguments = contracts.encode_validator_set_arguments(validators, operators)
    world.deploy("ValidatorSet", PLACE, arguments)
    return world


PLACE = account("another set")


def ask(world: World, signature: str, at: Address = PLACE) -> int:
    return contracts.decode_uint(world.view(at, contracts.compute_selector(signature)))


def test_the_set_answers_who_votes_for_whom() -> None:
    world = new_world()
    addresses = world.view(VALIDATOR_SET, contracts.encode_validators())
    assert contracts.decode_addresses(addresses) == VALIDATORS
    operator = world.view(VALIDATOR_SET, contracts.encode_operator_of(VALIDATORS[2]))
    assert contracts.decode_address(operator) == OPERATORS[2]
    nobody = world.view(VALIDATOR_SET, contracts.encode_operator_of(MINERS[0]))
    assert contracts.decode_address(nobody) == bytes(20)


def test_light_clients_find_the_set_in_slots_0_to_2() -> None:
    world = new_world()
    slots = [world.state.get_storage(VALIDATOR_SET, slot) for slot in range(3)]
    hashed = keccak256(encode(["address[]"], [VALIDATORS]))
    assert slots == [int.from_bytes(hashed, "big"), 0, 0]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 10, 100])
def test_quorum_and_faults_are_those_of_pbft(n: int) -> None:
    validators = sorted(account(f"v {i}") for i in range(n))
    world = deployed(validators, [account(f"o {i}") for i in range(n)])
    assert ask(world, "count()") == n
    assert ask(world, "quorum()") == -(-2 * n // 3)
    assert ask(world, "maxFaulty()") == (n - 1) // 3


@pytest.mark.parametrize(
    ("validators", "operators", "reason"),
    [
        ([], [], "count"),
        (sorted(account(f"{i}") for i in range(101)), [account("o")] * 101, "count"),
        (VALIDATORS, OPERATORS[:3], "operators: one for each validator"),
        (VALIDATORS[::-1], OPERATORS, "validators: not ascending, or zero"),
        ((VALIDATORS[0],) * 2, OPERATORS[:2], "validators: not ascending, or zero"),
        ((bytes(20), *VALIDATORS[1:]), OPERATORS, "validators: not ascending, or zero"),
        (VALIDATORS[:2], (OPERATORS[0],) * 2, "operators: not unique"),
        (VALIDATORS[:2], (OPERATORS[0], bytes(20)), "operators: zero"),
    ],
)
def test_a_set_that_breaks_a_rule_is_not_deployed(validators, operators, reason) -> None:
    refused = refusal(deployed, validators, operators)
    assert refused == ContractError("ValidatorSetInvalid", (reason,))
