"""The faucet of development networks (docs/spec/contracts.md, section 9)."""

import pytest

from chain.contracts import faucet, training_token
from chain.contracts.addresses import FAUCET, TRAINING_TOKEN
from chain.contracts.errors import ContractError
from chain.contracts.faucet import Dripped
from tests.worlds.contracts import MINERS, POT, STRANGER, TREASURY, World, new_world, refusal

COIN = 10**17


@pytest.fixture
def world() -> World:
    world = new_world()
    world.deploy("Faucet", FAUCET, faucet.encode_constructor(5 * POT, COIN, 10))
    world.state.set_balance(FAUCET, 3 * COIN)
    world.send(TREASURY, training_token.transfer(TRAINING_TOKEN, FAUCET, 10 * POT))
    return world


def drip(world: World, to=STRANGER):
    return world.send(MINERS[0], faucet.drip(to))


def test_a_drip_pays_both_kinds_of_money(world: World) -> None:
    assert drip(world).events == (Dripped(STRANGER, 5 * POT, COIN),)
    assert world.balance(STRANGER) == 5 * POT
    assert world.state.get_balance(STRANGER) == COIN


def test_an_account_waits_between_two_drips_and_others_do_not(world: World) -> None:
    drip(world)
    world.mine(9)
    soon = ContractError("FaucetTooSoon", ("0x" + STRANGER.hex(), world.number + 1))
    assert refusal(drip, world) == soon
    assert drip(world, MINERS[1]).events
    world.send(TREASURY, training_token.transfer(TRAINING_TOKEN, FAUCET, 5 * POT))
    world.mine(1)
    assert drip(world).events


def test_an_empty_faucet_pays_nothing_at_all(world: World) -> None:
    drip(world)
    drip(world, MINERS[1])
    refused = refusal(drip, world, MINERS[2])
    assert refused == ContractError("ERC20InsufficientBalance", ("0x" + FAUCET.hex(), 0, 5 * POT))
    world.send(TREASURY, training_token.transfer(TRAINING_TOKEN, FAUCET, 5 * POT))
    world.state.set_balance(FAUCET, COIN - 1)
    refusal(drip, world, MINERS[2])
    assert (world.state.get_balance(MINERS[2]), world.state.get_balance(FAUCET)) == (0, COIN - 1)
