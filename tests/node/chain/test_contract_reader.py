"""The contract reads of the training host, on a state with a round in progress."""

import pytest

from chain.contracts import gradient_ledger, miner_seats, task_registry
from chain.contracts.abi import ContractCall
from chain.contracts.addresses import GRADIENT_LEDGER
from chain.contracts.gradient_ledger import Phase
from chain.contracts.state_reader import StateReader
from chain.primitives import Address, BlockNumber, TaskId
from chain.training.task_spec_codec import compute_terms
from tests.worlds.training_chain import (
    ANN,
    BEN,
    GENESIS_SET,
    OPERATORS,
    SPEC,
    SUBMITTER,
    TASK,
    TrainingChain,
    address_of,
)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> TrainingChain:
    chain = TrainingChain(tmp_path_factory.mktemp("ledger"))
    chain.submit()
    chain.activate()
    chain.register()
    return chain


def test_validator_set_and_terms_are_those_of_genesis_and_the_spec(
    chain: TrainingChain,
) -> None:
    assert chain.store.next_validator_set() == GENESIS_SET
    assert chain.contracts.read(task_registry.get_terms(TASK)) == compute_terms(SPEC)


def test_participants_are_read_without_executing_a_contract(
    chain: TrainingChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = chain.index.history(TASK)
    assert history is not None
    assert history.attempt is not None
    by_contract = chain.contracts.read(miner_seats.participants(TASK), history.attempt.open_block)
    # Each seat has units, and the execution of 1 024 took half a second of the consensus thread.
    monkeypatch.setattr(StateReader, "read", None)
    found = chain.contracts.participants(TASK, history.attempt.open_block, history.attempt.ordinal)
    assert found == tuple((each.miner, each.units) for each in by_contract)
    assert len(found) == 2


def test_registered_miners_take_part_in_the_order_of_addresses(chain: TrainingChain) -> None:
    history = chain.index.history(TASK)
    assert history is not None
    assert history.attempt is not None
    expected = tuple(sorted([(address_of(ANN), 1), (address_of(BEN), 2)]))
    attempt = history.attempt
    assert chain.contracts.participants(TASK, attempt.open_block, attempt.ordinal) == expected
    assert chain.contracts.read(miner_seats.get_seat(TASK, address_of(ANN))).units
    assert not chain.contracts.read(miner_seats.get_seat(TASK, address_of(SUBMITTER))).units
    assert not chain.contracts.read(miner_seats.get_seat(TaskId(2**64 - 1), address_of(ANN))).units


def test_the_phase_is_that_of_the_next_block(chain: TrainingChain) -> None:
    history = chain.index.history(TASK)
    assert history is not None
    assert history.attempt is not None
    phase, deadline = chain.contracts.phase(TASK)
    assert phase is Phase.COMMITMENT
    opened = history.attempt.open_timestamp
    assert deadline.timestamp == opened + SPEC.phases.commit_seconds


def test_the_mix_hash_of_a_block_is_known_from_its_parent(chain: TrainingChain) -> None:
    head = chain.store.head()
    assert chain.contracts.mix_hash_after(BlockNumber(head.number - 1)) == head.mix_hash


def test_a_simulation_names_the_contracts_error_and_changes_nothing(chain: TrainingChain) -> None:
    root = chain.store.head().state_root
    operator = address_of(OPERATORS[0])
    early = gradient_ledger.post_verdict(TASK, 0, 0, 0, b"\0")
    refusal = chain.contracts.simulate(operator, early, 1_500_000)
    assert refusal is not None
    assert refusal.startswith("Ledger")
    leave = miner_seats.leave(TASK)
    assert chain.contracts.simulate(address_of(ANN), leave, 1_500_000) is None
    assert chain.contracts.simulate(address_of(ANN), leave, 25_000) is not None
    assert chain.contracts.simulate(
        Address(bytes(20)), ContractCall(GRADIENT_LEDGER, b"\xff" * 9), 10**6
    )
    assert chain.store.head().state_root == root
