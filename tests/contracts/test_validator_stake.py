"""No call sequence makes or loses stake (docs/spec/contracts.md, sections 8 and 10).

Each seed is a walk of random calls by random accounts, most of which are refused.
"""

from collections import Counter
from random import Random

import pytest
from eth_utils.abi import function_signature_to_4byte_selector as compute_selector

from chain.consensus.messages import MessageKind
from chain.contracts import validator_set
from chain.contracts.abi import ContractCall
from chain.contracts.addresses import VALIDATOR_SET
from chain.contracts.validator_set import ValidatorStatus
from chain.crypto import get_address, keccak256
from chain.primitives import Address, PrivateKey
from tests.contracts.test_validator_set import (
    BLOCK_A,
    BLOCK_B,
    SIGNER,
    get_members,
    guilty_world,
    proposal,
    signed,
    state_of,
)
from tests.worlds.contracts import (
    CHANGE_BLOCKS,
    EVIDENCE_BLOCKS,
    HOLDERS,
    MINERS,
    OPERATORS,
    STAKE,
    STRANGER,
    SUPPLY_EACH,
    VALIDATORS,
    Reverted,
    prove_join,
)

STEPS = 60
KEYS = tuple(PrivateKey(keccak256(b"candidate %d" % i)) for i in range(4))
CANDIDATES = tuple(get_address(key) for key in KEYS)
ACCOUNTS = (*OPERATORS, *MINERS)


class Walk:
    """Random accounts make random calls."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.world = guilty_world()
        self.seen: Counter[str] = Counter()
        self.last_activation = 0
        self.actions = {
            self.joins: 6,
            self.votes: 20,
            self.removes: 3,
            self.leaves: 2,
            self.carries_out: 4,
            self.is_removed: 4,
            self.gives_up: 1,
            self.withdraws: 6,
            self.reports: 3,
            self.waits: 5,
        }

    def step(self) -> None:
        (action,) = self.random.choices(list(self.actions), list(self.actions.values()))
        action()
        self.check()

    def send(self, sender: Address, call: ContractCall) -> None:
        try:
            answer = self.world.send(sender, call)
        except Reverted as reverted:
            error = reverted.error
        else:
            self.seen.update(type(event).__name__ for event in answer.events)
            return
        # A custom error, never a panic: no sum over- or underflows.
        assert not isinstance(error, str), error
        assert error.name != "Panic"

    def count(self) -> int:
        return self.world.read(validator_set.proposal_count())

    def any_proposal(self) -> int:
        return max(1, self.count() - self.random.choice((0, 0, 0, 1, 2)))

    # ---- calls

    def joins(self) -> None:
        operator = self.random.choice(MINERS)
        self.world.approve(operator, VALIDATOR_SET, self.random.choice((STAKE, STAKE, STAKE - 1)))
        key = self.random.choice(KEYS)
        proof = prove_join(key, operator)
        self.send(operator, validator_set.propose_join(get_address(key), proof))

    def votes(self) -> None:
        number = self.any_proposal()
        for operator in self.random.sample(ACCOUNTS, self.random.choice((1, 4, 8))):
            self.send(operator, validator_set.vote_on_proposal(number))

    def removes(self) -> None:
        target = self.random.choice((*VALIDATORS, *CANDIDATES))
        self.send(self.random.choice(ACCOUNTS), validator_set.propose_removal(target))

    def leaves(self) -> None:
        self.send(self.random.choice(ACCOUNTS), validator_set.leave_set())

    def carries_out(self) -> None:
        self.send(STRANGER, validator_set.carry_out(self.any_proposal()))

    def is_removed(self) -> None:
        for validator in (*VALIDATORS, *CANDIDATES):
            self.send(STRANGER, validator_set.remove_exiting(validator))

    def gives_up(self) -> None:
        self.send(self.random.choice(MINERS), validator_set.withdraw_proposal(self.any_proposal()))

    def withdraws(self) -> None:
        self.send(self.random.choice(ACCOUNTS), validator_set.withdraw_stake())

    def reports(self) -> None:
        key = self.random.choice(KEYS)
        number = max(1, self.world.number - self.random.choice((0, EVIDENCE_BLOCKS + 1)))
        first, second = (
            signed(MessageKind.PREPARE, block, number=number, key=key)
            for block in (BLOCK_A, BLOCK_B)
        )
        place = (MessageKind.PREPARE, 1, number, 2)
        self.send(STRANGER, validator_set.report_equivocation(place, first, second))

    def waits(self) -> None:
        blocks = self.random.choice((1, CHANGE_BLOCKS, CHANGE_BLOCKS, EVIDENCE_BLOCKS))
        self.world.mine(blocks)

    # ---- invariants

    def check(self) -> None:
        world = self.world
        members = get_members(world)
        assert 3 <= len(members) <= 100
        assert list(members) == sorted(set(members))
        states = {each: state_of(world, each) for each in (*VALIDATORS, *CANDIDATES, SIGNER)}
        assert len({states[member].operator for member in members}) == len(members)
        assert all(states[member].status is not ValidatorStatus.NONE for member in members)

        proposals = [proposal(world, number) for number in range(1, self.count() + 1)]
        staked = sum(state.stake for state in states.values())
        offered = sum(each.stake for each in proposals if not each.is_closed)
        slashed = int.from_bytes(
            world.view(VALIDATOR_SET, compute_selector("slashedTotal()")), "big"
        )
        assert world.pot_of(VALIDATOR_SET) == staked + offered + slashed
        everyone = (*HOLDERS, *OPERATORS, VALIDATOR_SET)
        supply = SUPPLY_EACH * len(HOLDERS) + STAKE * len(VALIDATORS)
        assert sum(map(world.pot_of, everyone)) == supply
        # Each member of the set has its stake locked, or was slashed.
        assert all(states[member].stake == STAKE or states[member].is_slashed for member in members)

        activation = world.read(validator_set.activation_block())
        if activation > self.last_activation:
            # At most one change in CHANGE_BLOCKS blocks.
            assert activation >= self.last_activation + CHANGE_BLOCKS
            self.last_activation = activation


@pytest.mark.parametrize("seed", range(3))
def test_no_sequence_of_calls_makes_or_loses_stake(seed: int) -> None:
    walk = Walk(seed)
    for _ in range(STEPS):
        walk.step()
    assert walk.seen["SetScheduled"] >= 2, "this seed walks nowhere"
