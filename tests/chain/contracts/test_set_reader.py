"""The next block's set, read from this block's state (docs/spec/contracts.md, section 8.1)."""

from collections import ChainMap
from dataclasses import replace

import pytest

from chain.contracts.addresses import VALIDATOR_SET
from chain.contracts.set_reader import (
    compute_set_hash,
    get_next_set_hash,
    read_genesis_set,
    read_next_set,
)
from chain.crypto import get_address, keccak256
from chain.genesis import build_genesis
from chain.primitives import Address, BlockNumber, PrivateKey
from chain.state.world_state import ReadableDatabase, WorldState
from chain.types.header import Header
from chain.types.validator_set import ValidatorSet
from node.setup.network_genesis import Seat, build_network, plan_development_network
from tests.worlds.chain import genesis_config

VALIDATORS = tuple(sorted(get_address(PrivateKey(keccak256(bytes([i])))) for i in range(4)))
OPERATORS = tuple(Address(bytes([i + 1]) * 20) for i in range(4))
CONFIG = build_network(plan_development_network(tuple(map(Seat, VALIDATORS, OPERATORS))))
GENESIS = build_genesis(CONFIG)
OTHERS = (Address(b"\x09" * 20),)


def changed(number: int = 0, code: bytes | None = None, **slots: int):
    """The database and header of a state with other values in the contract."""
    world = WorldState(GENESIS.delta, GENESIS.header.state_root)
    for name, value in slots.items():
        world.set_storage(VALIDATOR_SET, int(name.removeprefix("slot")), value)
    if code is not None:
        world.set_code(VALIDATOR_SET, code)
    root, delta = world.compute_delta()
    database: ReadableDatabase = ChainMap(dict(delta), dict(GENESIS.delta))
    header: Header = replace(GENESIS.header, number=BlockNumber(number), state_root=root)
    return database, header


def test_genesis_says_who_decides_block_1() -> None:
    assert read_genesis_set(CONFIG, GENESIS) == ValidatorSet(VALIDATORS, OPERATORS)


def test_without_the_contract_the_parameters_decide_for_ever() -> None:
    config = genesis_config()
    genesis = build_genesis(config)
    validators = config.parameters.validators
    assert read_genesis_set(config, genesis) == ValidatorSet(validators, validators)
    assert read_next_set(genesis.delta, genesis.header, 1, validators) is None


def test_an_unchanged_set_is_not_read_again() -> None:
    assert read_next_set(GENESIS.delta, GENESIS.header, CONFIG.chain_id, VALIDATORS) is None
    found = read_next_set(GENESIS.delta, GENESIS.header, CONFIG.chain_id, OTHERS)
    assert found == ValidatorSet(VALIDATORS, OPERATORS)


@pytest.mark.parametrize(("number", "is_next"), [(7, False), (8, False), (9, True), (10, True)])
def test_a_scheduled_set_decides_from_its_activation_on(number: int, is_next: bool) -> None:
    database, header = changed(number, slot1=77, slot2=10)
    expected = 77 if is_next else int.from_bytes(compute_set_hash(VALIDATORS), "big")
    assert int.from_bytes(get_next_set_hash(database, header), "big") == expected


@pytest.mark.parametrize(
    "broken",
    [
        changed(slot0=77),
        changed(9, slot1=77, slot2=10),
        changed(slot0=int.from_bytes(compute_set_hash(()), "big")),
        changed(code=b"", slot0=77),
        changed(code=bytes.fromhex("5f5ffd"), slot0=77),
        changed(code=bytes.fromhex("60ff5f5260205ff3"), slot0=77),
        changed(code=bytes.fromhex("5b5f56"), slot0=77),
    ],
    ids=["hash", "next hash", "empty set", "no code", "reverts", "nonsense", "no end"],
)
def test_a_failed_read_keeps_the_set(broken) -> None:
    database, header = broken
    assert read_next_set(database, header, CONFIG.chain_id, VALIDATORS) is None
