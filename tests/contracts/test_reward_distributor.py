"""Claims (docs/spec/contracts.md, section 7)."""

import pytest

from chain.contracts import ledger_storage, reward_distributor
from chain.contracts.addresses import MINER_SEATS, REWARD_DISTRIBUTOR
from chain.contracts.errors import ContractError
from chain.contracts.reward_distributor import Claimed, RewardClaim
from chain.crypto import keccak256
from chain.primitives import Address
from chain.training.rewards import RewardTree
from tests.worlds.contracts import (
    MINERS,
    OPERATORS,
    POT,
    SEAT_BOND,
    STRANGER,
    SUPPLY_EACH,
    TERMS,
    World,
    refusal,
    result,
    started_world,
)

SHARE = TERMS.validator_fee // 4
EARNED = {MINERS[0]: 2 * POT, MINERS[1]: 2 * POT} | dict.fromkeys(OPERATORS, SHARE)
PAID = 4 * POT + 4 * SHARE


def settle(world: World, earned: dict[Address, int]) -> RewardTree:
    """Settle one more round; its root holds the cumulative rewards."""
    tree = world.rewards(earned)
    world.commit_all()
    world.judge()
    world.settle(world.agree(result(rewards=tree)))
    world.mine(1, 1)
    return tree


@pytest.fixture
def world() -> World:
    return started_world()


def test_all_earners_claim_and_nothing_is_left(world: World) -> None:
    tree = settle(world, EARNED)
    root = world.read(reward_distributor.root_of(world.task))
    assert root == tree.root
    bond = 5 * POT // 2 + SEAT_BOND
    for account, amount in EARNED.items():
        before = world.balance(account)
        answer = world.claim(account, tree, amount)
        assert answer.events == (Claimed(world.task, account, amount, amount),)
        assert world.balance(account) == before + amount
    assert world.balance(MINERS[0]) == SUPPLY_EACH - bond + 2 * POT
    assert world.claimed_total() == PAID
    assert (
        world.read(reward_distributor.CONTRACT.view("paidTotalOf", world.task, returns=int)) == PAID
    )
    assert world.read(reward_distributor.claimed_of(world.task, MINERS[0])) == 2 * POT
    slot = ledger_storage.find_claimed_slot(world.task, MINERS[0])
    assert world.state.get_storage(REWARD_DISTRIBUTOR, slot) == 2 * POT, "miners prove it"


def test_a_claim_pays_once(world: World) -> None:
    tree = settle(world, EARNED)
    world.claim(MINERS[0], tree, 2 * POT)
    assert refusal(world.claim, MINERS[0], tree, 2 * POT) == ContractError(
        "DistributorNothingToClaim", (world.task, "0x" + MINERS[0].hex())
    )


def test_a_later_root_pays_the_difference_and_makes_old_proofs_worthless(world: World) -> None:
    old = settle(world, EARNED)
    world.claim(MINERS[0], old, 2 * POT)
    new = settle(world, {account: 2 * amount for account, amount in EARNED.items()})
    invalid = ContractError("DistributorInvalidProof", (world.task, "0x" + MINERS[1].hex()))
    assert refusal(world.claim, MINERS[1], old, 2 * POT) == invalid
    assert world.claim(MINERS[0], new, 4 * POT).events[0].amount == 2 * POT
    assert world.claim(MINERS[1], new, 4 * POT).events[0].amount == 4 * POT


def test_a_proof_is_for_one_account_one_amount_one_task(world: World) -> None:
    tree = settle(world, EARNED)
    proof = tree.proof(MINERS[0])
    assert proof is not None

    def attempt(sender: Address, task: int, cumulative: int, shown) -> object:
        data = reward_distributor.claim(task, cumulative, shown)
        return refusal(world.send, sender, data)

    def invalid(task: int, who: Address) -> ContractError:
        return ContractError("DistributorInvalidProof", (task, "0x" + who.hex()))

    assert attempt(STRANGER, world.task, 2 * POT, proof) == invalid(world.task, STRANGER)
    assert attempt(MINERS[0], world.task, 2 * POT + 1, proof) == invalid(world.task, MINERS[0])
    assert attempt(MINERS[0], 2, 2 * POT, proof) == invalid(2, MINERS[0])
    assert attempt(MINERS[0], world.task, 2 * POT, ()) == invalid(world.task, MINERS[0])
    forged = (keccak256(b"forged"), *proof[1:])
    assert attempt(MINERS[0], world.task, 2 * POT, forged) == invalid(world.task, MINERS[0])
    assert world.claimed_total() == 0


def test_a_single_leaf_has_an_empty_proof(world: World) -> None:
    tree = settle(world, {MINERS[0]: POT})
    assert tree.proof(MINERS[0]) == ()
    assert world.claim(MINERS[0], tree, POT).events


def test_anyone_can_claim_for_an_account_and_the_account_gets_the_money(world: World) -> None:
    tree = settle(world, EARNED)
    proof = tree.proof(MINERS[0])
    data = reward_distributor.CONTRACT.call("claimFor", world.task, MINERS[0], 2 * POT, proof)
    before = world.balance(MINERS[0])
    assert world.send(STRANGER, data).events == (Claimed(world.task, MINERS[0], 2 * POT, 2 * POT),)
    assert (world.balance(MINERS[0]), world.balance(STRANGER)) == (before + 2 * POT, 0)


def test_many_claims_are_made_together_or_not_at_all(world: World) -> None:
    tree = settle(world, EARNED)
    claims = [
        RewardClaim(world.task, account, amount, tree.proof(account) or ())
        for account, amount in EARNED.items()
    ]
    data = reward_distributor.claim_many([*claims, claims[0]])
    assert refusal(world.send, STRANGER, data) == ContractError(
        "DistributorNothingToClaim", (world.task, "0x" + MINERS[0].hex())
    )
    assert world.claimed_total() == 0
    answer = world.send(STRANGER, reward_distributor.claim_many(claims))
    assert [event.account for event in answer.events] == list(EARNED)
    assert world.claimed_total() == PAID


def test_root_that_promises_more_than_was_paid_is_capped(world: World) -> None:
    tree = settle(world, {MINERS[0]: 4 * POT, MINERS[1]: PAID})
    world.claim(MINERS[0], tree, 4 * POT)
    assert refusal(world.claim, MINERS[1], tree, PAID) == ContractError(
        "DistributorExceedsPaid", (world.task, PAID + 4 * POT, PAID)
    )
    # Bonds and escrow did not move.
    assert world.balance(MINER_SEATS) == 2 * (5 * POT // 2 + SEAT_BOND)


def test_nothing_can_be_claimed_before_a_round_is_settled(world: World) -> None:
    tree = world.rewards(EARNED)
    assert refusal(world.claim, MINERS[0], tree, 2 * POT) == ContractError(
        "DistributorInvalidProof", (world.task, "0x" + MINERS[0].hex())
    )
