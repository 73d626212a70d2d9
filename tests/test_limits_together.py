"""Limits that bound one another, each at its largest value.

A limit that is lawful alone may make another one impossible to keep. Each test here takes the
largest values that genesis, the protocol or a node allow together.
"""

import json
from dataclasses import replace

import pytest
from eth.constants import GAS_LOG, GAS_LOGDATA, GAS_LOGTOPIC

from chain.builder import BODY_LIMIT_BYTES
from chain.contracts import gradient_ledger, miner_seats
from chain.contracts.abi import ContractCall
from chain.contracts.addresses import GRADIENT_LEDGER
from chain.contracts.gradient_ledger import (
    MAX_BALLOTS,
    MIN_WINDOW_BLOCKS,
    RING,
    ResultKind,
    compute_window_blocks,
)
from chain.contracts.miner_seats import ATTEMPT_RING, MAX_ENDED_SEATS, MAX_FINES, MAX_MINERS
from chain.execution.gas import GAS_FLOOR_TOKEN, GAS_TRANSACTION
from chain.genesis import parse_genesis
from chain.params import TICKS_PER_SECOND, TIMEOUT_CAP_FACTOR, ChainParameters, InvalidGenesisError
from chain.primitives import Address, Hash32
from chain.training.acceptance import Verdict, encode_verdicts
from chain.training.rounds import TURN_BLOCKS
from chain.training.slashing import BATCHES_LIMIT, HURRY_BLOCKS
from chain.training.task_checks import SMALL_DISK_BYTES
from chain.training.task_spec_codec import MAX_ATTEMPT_SECONDS
from chain.types.block import TRANSACTION_LIMIT_BYTES
from chain.types.certificate import MAX_VALIDATORS
from chain.types.receipt import (
    BLOCK_GAS_LIMIT,
    BYTE_GAS,
    LOG_GAS,
    LOG_ITEMS,
    MAX_TOPICS,
    RECEIPT_ITEMS_LIMIT,
    RECEIPTS_COUNT_LIMIT,
    RECEIPTS_LIMIT_BYTES,
    TRANSACTION_GAS_LIMIT,
    Log,
    build_receipt,
    decode_receipts,
    encode_receipts,
)
from chain.types.validator_set import ValidatorSet, compute_max_faulty, compute_quorum
from chain.validation import MAX_INIT_CODE_BYTES
from node.chain.executor import CANDIDATE_SECONDS, FORGIVEN_STOPS
from node.config import BlobsSection
from node.consensus.proposals import PACE_TOLERANCE_MS
from node.mempool.candidates import TURN_GAS
from node.mempool.entries import CARRIED_GAS_LIMIT
from node.mempool.examination import (
    ACCEPTED_GAS_AT_ONCE,
    LARGE_CALL_GAS,
    REFUSED_GAS_A_BLOCK,
    REFUSED_GAS_AT_ONCE,
)
from node.mempool.free_gas import FreeGasPolicy
from node.mempool.head_rules import OPERATOR_GAS_LIMIT
from node.network.wire import RECEIPTS_FRAME_LIMIT_BYTES
from node.node import BUILD_SECONDS
from node.operator.validator_set_calls import CALL_GAS
from node.storage.blobs import PROMISED_SHARE
from node.sync.snapshot_sync import HEADERS_LIMIT
from node.training.votes import SLASH_GAS, VOTE_GAS
from tests.test_tidy import ROOT
from tests.training_simulation.chain import EngineWorld, validators_of
from tests.worlds.contracts import (
    POT,
    STRANGER,
    SUBMITTER,
    World,
    account,
    deploy_contracts,
    empty_result,
    with_terms,
)

GENESIS = parse_genesis((ROOT / "genesis.json").read_bytes())
PARAMETERS = GENESIS.parameters
COMMITMENT_COUNT_BIT = 184
"""Where GradientLedger's record of a task counts commitments."""


def test_the_slowest_full_block_fits_the_view_timeout() -> None:
    seconds = GENESIS.gas_limit / PARAMETERS.execution_gas_per_second
    assert seconds <= 4
    assert TIMEOUT_CAP_FACTOR * seconds * 1000 <= PARAMETERS.view_timeout_cap_ms


def test_genesis_refuses_a_gas_limit_that_the_timeout_cap_does_not_allow() -> None:
    template = json.loads((ROOT / "genesis.json").read_text(encoding="utf-8"))
    speed, cap_ms = PARAMETERS.execution_gas_per_second, PARAMETERS.view_timeout_cap_ms // 2
    template["config"]["proofOfTraining"]["view_timeout_cap_ms"] = cap_ms
    largest = cap_ms * speed // 1000 // TIMEOUT_CAP_FACTOR
    template["gasLimit"] = hex(largest)
    assert parse_genesis(json.dumps(template).encode()).gas_limit == largest
    template["gasLimit"] = hex(largest + speed // 1000)
    with pytest.raises(InvalidGenesisError, match="view_timeout_cap_ms"):
        parse_genesis(json.dumps(template).encode())


def test_genesis_refuses_gas_for_more_receipts_than_are_decoded_and_sent() -> None:
    # With 200 M gas anyone made a block whose receipts no joining node could fetch.
    template = json.loads((ROOT / "genesis.json").read_text(encoding="utf-8"))
    template["gasLimit"] = hex(BLOCK_GAS_LIMIT)
    template["config"]["proofOfTraining"]["transaction_gas_limit"] = TRANSACTION_GAS_LIMIT
    assert parse_genesis(json.dumps(template).encode()).gas_limit == BLOCK_GAS_LIMIT
    template["config"]["proofOfTraining"]["transaction_gas_limit"] = TRANSACTION_GAS_LIMIT + 1
    with pytest.raises(InvalidGenesisError, match="transaction_gas_limit"):
        parse_genesis(json.dumps(template).encode())
    template["config"]["proofOfTraining"]["transaction_gas_limit"] = TRANSACTION_GAS_LIMIT
    template["gasLimit"] = hex(BLOCK_GAS_LIMIT + 1)
    with pytest.raises(InvalidGenesisError, match="logs of a block could be too large"):
        parse_genesis(json.dumps(template).encode())


@pytest.mark.parametrize("topics", range(MAX_TOPICS + 1))
@pytest.mark.parametrize("data_bytes", [0, 1, 55, 56, 255, 256, 65_536])
def test_the_largest_receipts_fit_their_frame_and_are_decoded(topics: int, data_bytes: int) -> None:
    log = Log(Address(b"\xff" * 20), (Hash32(b"\xff" * 32),) * topics, b"\xff" * data_bytes)
    log_gas = LOG_GAS * (1 + topics) + GAS_LOGDATA * data_bytes
    count = min(2_000, (TRANSACTION_GAS_LIMIT - GAS_TRANSACTION) // log_gas)
    receipt = build_receipt(2, 1, 2**63, (log,) * count)
    gas = GAS_TRANSACTION + count * log_gas
    assert GAS_LOG == GAS_LOGTOPIC == LOG_GAS
    assert BYTE_GAS * len(receipt.encode()) <= gas
    assert BYTE_GAS * len(encode_receipts([receipt] * 3)) <= 3 * gas
    assert BLOCK_GAS_LIMIT // BYTE_GAS <= RECEIPTS_LIMIT_BYTES == RECEIPTS_FRAME_LIMIT_BYTES
    assert decode_receipts(encode_receipts([receipt])) == (receipt,)
    # However many logs and receipts the gas pays for, they are no more items than are decoded.
    items = (LOG_ITEMS + topics) * (TRANSACTION_GAS_LIMIT // log_gas) + 4
    assert items <= RECEIPT_ITEMS_LIMIT
    assert BLOCK_GAS_LIMIT // GAS_TRANSACTION <= RECEIPTS_COUNT_LIMIT


def test_the_slowest_transaction_fits_the_builders_time_for_one() -> None:
    seconds = PARAMETERS.transaction_gas_limit / PARAMETERS.execution_gas_per_second
    # A machine may be three times as slow as the one that the ticks were measured on.
    assert 3 * seconds <= CANDIDATE_SECONDS


def test_node_joins_by_snapshot_while_the_longest_attempt_lasts() -> None:
    # Two tasks whose attempts lasted for days, for nothing, kept every node from joining so.
    pace_ms = PARAMETERS.min_block_interval_ms - PACE_TOLERANCE_MS
    blocks = 1_000 * MAX_ATTEMPT_SECONDS // pace_ms
    # Turns of all operators for the call after the commitments, each ballot and the payment.
    calls = (2 + MAX_BALLOTS) * TURN_BLOCKS * MAX_VALIDATORS
    # A quorum of verdicts just before their deadline waits for the others.
    waits = MAX_BALLOTS * max(PARAMETERS.grace_blocks, compute_max_faulty(MAX_VALIDATORS) + 2)
    assert blocks + calls + waits <= HEADERS_LIMIT


def test_the_longest_build_ends_before_the_longest_view() -> None:
    # The stopped candidates, the time for the block, and a candidate that began at its end.
    longest = BUILD_SECONDS + (FORGIVEN_STOPS + 1) * CANDIDATE_SECONDS
    slowest_block = GENESIS.gas_limit / PARAMETERS.execution_gas_per_second
    assert (longest + slowest_block) * 1000 < PARAMETERS.view_timeout_cap_ms


def test_the_largest_transaction_fits_the_block_and_its_data_the_cap() -> None:
    assert TRANSACTION_LIMIT_BYTES <= BODY_LIMIT_BYTES
    data_gas = GAS_TRANSACTION + 4 * GAS_FLOOR_TOKEN * TRANSACTION_LIMIT_BYTES
    assert data_gas <= PARAMETERS.transaction_gas_limit <= GENESIS.gas_limit
    assert MAX_INIT_CODE_BYTES < TRANSACTION_LIMIT_BYTES


@pytest.mark.parametrize("gas", [CALL_GAS, VOTE_GAS, SLASH_GAS])
def test_gas_that_operators_send_is_below_the_cap(gas: int) -> None:
    assert gas <= PARAMETERS.transaction_gas_limit


@pytest.mark.parametrize("gas", [CALL_GAS, VOTE_GAS, SLASH_GAS])
def test_a_call_of_an_operator_may_have_priority(gas: int) -> None:
    assert gas <= OPERATOR_GAS_LIMIT


def test_late_votes_and_fines_go_with_a_vote_of_their_operator() -> None:
    assert 2 * VOTE_GAS + SLASH_GAS <= CARRIED_GAS_LIMIT
    assert VOTE_GAS <= TURN_GAS


def test_refused_calls_of_operators_take_little_of_a_block() -> None:
    policy = FreeGasPolicy.build(GENESIS, price_wei=1, gas_per_second=1)
    build_gas = BUILD_SECONDS * PARAMETERS.execution_gas_per_second
    assert 4 * policy.operator_gas <= build_gas
    block_gas = PARAMETERS.min_block_interval_ms * PARAMETERS.execution_gas_per_second // 1000
    assert block_gas >= 2 * REFUSED_GAS_A_BLOCK
    # An operator may have the fines of a batch examined, and then votes, in any block.
    assert ACCEPTED_GAS_AT_ONCE >= SLASH_GAS + 2 * VOTE_GAS
    assert VOTE_GAS <= LARGE_CALL_GAS
    assert build_gas >= REFUSED_GAS_AT_ONCE


def test_unpriced_effort_needs_the_longer_timeout() -> None:
    assert replace(PARAMETERS, gas_per_tick=0).execution_gas_per_second == 1_000_000
    assert ChainParameters().execution_gas_per_second == 2 * TICKS_PER_SECOND


@pytest.mark.parametrize("n", [4, MAX_VALIDATORS])
def test_no_attempt_is_forgotten_before_its_windows_are_over(n: int) -> None:
    quorum = compute_quorum(n)
    window = compute_window_blocks(quorum)
    # A settled attempt takes four blocks, a failed ballot three: votes follow what is final.
    shortest_attempt, shortest_ballot = 4, 3
    assert 3 * window <= RING * shortest_attempt
    assert 3 * window <= ATTEMPT_RING * shortest_attempt
    assert window <= RING * shortest_ballot
    # The misses of a seat are known for 256 attempts.
    assert 3 * window <= 256 * shortest_attempt


@pytest.mark.parametrize("n", [4, 25, MAX_VALIDATORS])
def test_every_operator_has_its_turn_before_a_window_closes(n: int) -> None:
    window = compute_window_blocks(compute_quorum(n))
    last_turn = TURN_BLOCKS * (n - 1)
    # Each of f faulty primaries in a row may leave a call out of its block.
    assert last_turn + 2 * (compute_max_faulty(n) + 1) < window
    assert last_turn < window - HURRY_BLOCKS


def test_a_round_of_fines_is_imposed_within_a_window() -> None:
    batches = -(-MAX_MINERS // MAX_FINES)
    # Each turn of two blocks carries the batches that an operator sends together, within the gas.
    turns = -(-batches // BATCHES_LIMIT)
    assert TURN_BLOCKS * turns < MIN_WINDOW_BLOCKS
    assert GENESIS.gas_limit >= 3 * SLASH_GAS


def call_gas(world: World, sender: Address, call: ContractCall) -> int:
    """The gas of a transaction with this call, if each byte of its data cost most."""
    return world.send(sender, call).gas + GAS_TRANSACTION + 16 * len(call.data)


def crowded_world(miner_count: int) -> tuple[World, ValidatorSet, tuple[Address, ...]]:
    """The largest validator set, and miners of one unit in the first attempt of a task."""
    world, validators = EngineWorld(), validators_of(MAX_VALIDATORS)
    miners = tuple(account(f"crowd {i}") for i in range(miner_count))
    holders = (SUBMITTER, *miners)
    deploy_contracts(world, validators.validators, validators.operators, holders)
    terms = with_terms(max_units=miner_count, min_miners=1)
    world.submit(terms, budget=3 * (miner_count * POT + terms.validator_fee))
    world.ready(validators.operators[: validators.quorum])
    for miner in miners:
        world.register(miner, units=1)
    world.advance()
    world.mine(1, 1)
    return world, validators, miners


def test_the_largest_votes_fit_the_gas_that_operators_send() -> None:
    """Votes of 100 validators on 1 024 commitments: the ledger counts two as so many."""
    world, validators, miners = crowded_world(2)
    operators, task = validators.operators, world.task
    for miner in miners:
        world.commit(miner, 1)
    slot = world.find_mapping("GradientLedger", "_trainings", task)
    word = world.state.get_storage(GRADIENT_LEDGER, slot)
    counted = word + (MAX_MINERS - 2 << COMMITMENT_COUNT_BIT)
    world.state.set_storage(GRADIENT_LEDGER, slot, counted)
    words = encode_verdicts([Verdict.CHEAT] * MAX_MINERS)
    verdict = gradient_ledger.post_verdict(task, 0, 0, 0, words)
    gas = [call_gas(world, each, verdict) for each in operators]
    vote = world.complete(empty_result(ResultKind.VOID))
    posted = gradient_ledger.post_result(task, 0, 0, 0, vote, 10**9, 2**63)
    gas += [call_gas(world, each, posted) for each in operators]
    gas.append(call_gas(world, STRANGER, gradient_ledger.settle_round(task, vote)))
    world.mine(1, 1)
    late = gradient_ledger.post_late_verdict(task, 1, words)
    gas += [call_gas(world, each, late) for each in operators[-2:]]
    fines = miner_seats.post_fines(task, 1, Hash32(b"\xff" * 32))
    gas += [call_gas(world, each, fines) for each in operators[: validators.quorum]]
    assert max(gas) <= VOTE_GAS


def test_ending_the_most_seats_fits_the_gas_that_operators_send() -> None:
    """Each seat has two misses that are not accounted for, and the last one takes its place."""
    world, _, miners = crowded_world(2 * MAX_ENDED_SEATS)
    for _ in range(2):
        world.pass_phase()
        world.advance()
        world.mine(1, 1)
    call = miner_seats.end_seats(world.task, miners[:MAX_ENDED_SEATS])
    assert call_gas(world, STRANGER, call) <= SLASH_GAS
    assert len(world.participants()) == MAX_ENDED_SEATS


def test_small_tasks_in_all_slots_take_an_eighth_of_what_a_node_promises() -> None:
    promised = BlobsSection().quota_bytes // PROMISED_SHARE
    assert 8 * PARAMETERS.task_slots * SMALL_DISK_BYTES == promised
