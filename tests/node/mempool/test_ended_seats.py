"""A seat that an account took and gave up for nothing gives its commitments no priority."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from eth_account import Account as Signer
from eth_account.signers.local import LocalAccount

from chain.contracts import gradient_ledger, miner_seats, training_token
from chain.contracts.abi import ContractCall
from chain.contracts.addresses import MINER_SEATS, TRAINING_TOKEN
from chain.primitives import Hash32
from chain.types.transaction import Transaction
from node.mempool.head_rules import LEAST_COMMITMENT_GAS
from node.mempool.policy import Priority
from node.mempool.pool import Mempool
from pot_common.gas_offer import COMMITMENT_GAS_LIMIT
from tests.worlds.training_chain import (
    ANN,
    BEN,
    OPERATORS,
    POT,
    SPEC,
    TASK,
    TrainingChain,
    address_of,
)

LONG = replace(SPEC, phases=replace(SPEC.phases, commit_seconds=20))
SQUATTERS = tuple(Signer.from_key(bytes([100 + n]) * 32) for n in range(4))


@pytest.fixture
def chain(tmp_path: Path) -> TrainingChain:
    """A chain on which ANN with one unit and BEN with two take part in the first attempt."""
    chain = TrainingChain(tmp_path, spec=LONG)
    chain.submit()
    chain.activate()
    chain.register()
    return chain


def take_seat(chain: TrainingChain, squatter: LocalAccount) -> None:
    bonds = training_token.transfer(TRAINING_TOKEN, address_of(squatter), 50 * POT)
    approval = training_token.approve(TRAINING_TOKEN, MINER_SEATS, 50 * POT)
    chain.finalize(
        chain.call(ANN, bonds),
        chain.call(squatter, approval),
        chain.call(squatter, miner_seats.register(TASK, 1)),
    )


def take_and_leave(chain: TrainingChain, squatter: LocalAccount) -> None:
    take_seat(chain, squatter)
    chain.finalize(chain.call(squatter, miner_seats.leave(TASK)))


def end_attempt(chain: TrainingChain) -> None:
    """Let the commitment phase end without a commitment; the next attempt then opens."""
    for _ in range(LONG.phases.commit_seconds):
        chain.finalize()
    chain.finalize(chain.call(OPERATORS[0], gradient_ledger.advance_round(TASK)))


def commitment(attempt: int, units: int = 1) -> ContractCall:
    return gradient_ledger.commit_gradient(TASK, 0, attempt, units, Hash32(b"\1" * 32))


def draft(
    chain: TrainingChain, miner: LocalAccount, call: ContractCall, ahead: int = 0
) -> Transaction:
    nonce = chain.rules.nonce(address_of(miner)) + ahead
    return chain.draft(miner, call, gas=400_000, nonce=nonce)


def test_ended_seats_keep_no_commitment_out(chain: TrainingChain) -> None:
    for each in SQUATTERS:
        take_and_leave(chain, each)
    end_attempt(chain)
    pool = Mempool(chain.rules)
    for squatter in SQUATTERS:
        for ahead in range(4):
            pool.add(draft(chain, squatter, commitment(1), ahead))
    due = draft(chain, ANN, commitment(1))
    pool.add(due)
    assert pool.candidates().transactions[0] == due


def test_only_a_seat_of_this_or_the_next_attempt_is_a_subject(chain: TrainingChain) -> None:
    newcomer, left, _, stranger = SQUATTERS

    def find_miners() -> list[bool]:
        accounts = (ANN, BEN, newcomer, left, stranger)
        return [
            chain.rules.find_subject(draft(chain, each, commitment(0))) is not None
            for each in accounts
        ]

    take_seat(chain, newcomer)
    take_and_leave(chain, left)
    assert find_miners() == [True, True, True, False, False]
    # A participant that leaves has to commit all the same, once.
    chain.finalize(chain.call(BEN, miner_seats.leave(TASK)))
    assert find_miners() == [True, True, True, False, False]
    chain.finalize(chain.call(BEN, commitment(0, 2)))
    assert find_miners() == [True, False, True, False, False]
    chain.cancel()
    end_attempt(chain)
    assert find_miners() == [True, False, True, False, False]


def test_seat_of_a_closed_task_is_no_subject(chain: TrainingChain) -> None:
    chain.cancel()
    chain.close()
    assert chain.rules.find_subject(draft(chain, ANN, commitment(1))) is None


def test_storage_agrees_with_the_ledger_on_each_commitment(chain: TrainingChain) -> None:
    newcomer, left, *_ = SQUATTERS

    def list_accepted() -> list[LocalAccount]:
        accepted = []
        for miner, attempt, units in product((ANN, BEN, newcomer, left), (0, 1), (1, 2)):
            given = draft(chain, miner, commitment(attempt, units))
            call = ContractCall(gradient_ledger.CONTRACT.address, given.data)
            is_accepted = chain.contracts.simulate(given.sender, call, given.gas_limit) is None
            assert chain.rules.is_examinable(given) == is_accepted
            if is_accepted:
                assert chain.rules.find_subject(given) is not None
                accepted.append(miner)
        return accepted

    assert list_accepted() == [ANN, BEN]
    take_seat(chain, newcomer)
    assert list_accepted() == [ANN, BEN]
    take_and_leave(chain, left)
    assert list_accepted() == [ANN, BEN]
    chain.finalize(chain.call(BEN, miner_seats.leave(TASK)))
    assert list_accepted() == [ANN, BEN]
    chain.finalize(chain.call(BEN, commitment(0, 2)))
    assert list_accepted() == [ANN]
    while list_accepted() == [ANN]:
        chain.finalize()
    assert list_accepted() == []
    chain.finalize(chain.call(OPERATORS[0], gradient_ledger.advance_round(TASK)))
    assert list_accepted() == []


def test_commitment_after_the_deadline_is_not_executed(chain: TrainingChain) -> None:
    due = draft(chain, ANN, commitment(0))
    while chain.contracts.simulate(due.sender, commitment(0), 400_000) is None:
        assert chain.rules.is_examinable(due)
        chain.finalize()
    assert chain.rules.find_subject(due) is not None
    assert not chain.rules.is_examinable(due)


def test_commitment_of_a_seat_that_ends_while_it_waits_is_forgotten(chain: TrainingChain) -> None:
    squatter = SQUATTERS[0]
    take_seat(chain, squatter)
    pool = Mempool(chain.rules)
    leave = draft(chain, squatter, miner_seats.leave(TASK))
    early = draft(chain, squatter, commitment(1), 1)
    pool.add(leave)
    pool.add(early)
    assert list(pool._held.waiting[Priority.COMMITMENT].take_turns()) == [early.hash]
    chain.finalize(leave.raw)
    pool.on_finalized([leave])
    assert list(pool._held.waiting[Priority.COMMITMENT].take_turns()) == []
    assert pool.hashes() == (early.hash,)


def test_no_commitment_takes_more_than_the_least_gas_limit(chain: TrainingChain) -> None:
    used = 0
    for attempt in range(3):
        for miner, units in ((ANN, 1), (BEN, 2)):
            call = commitment(attempt, units)
            assert chain.contracts.simulate(address_of(miner), call, LEAST_COMMITMENT_GAS) is None
        if attempt < 2:
            end_attempt(chain)
            chain.finalize()
    # Each is charged with two misses, and the second one ends the phase.
    for miner, units in ((ANN, 1), (BEN, 2)):
        call = commitment(2, units)
        used = chain.contracts.examine(address_of(miner), call, COMMITMENT_GAS_LIMIT).gas_used
        assert LEAST_COMMITMENT_GAS // 2 < used < LEAST_COMMITMENT_GAS * 4 // 5
        chain.finalize(chain.call(miner, call))
    phase = chain.contracts.read(gradient_ledger.phase(TASK))
    assert phase is gradient_ledger.Phase.VERDICT
