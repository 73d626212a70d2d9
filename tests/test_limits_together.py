"""Limits that bound one another, each at its largest value.

A limit that is lawful alone may make another one impossible to keep. Each test here takes the
largest values that genesis, the protocol or a node allow together.
"""

import json
from dataclasses import replace

import pytest

from chain.builder import BODY_LIMIT_BYTES
from chain.execution.gas import GAS_FLOOR_TOKEN, GAS_TRANSACTION
from chain.genesis import parse_genesis
from chain.params import TICKS_PER_SECOND, TIMEOUT_CAP_FACTOR, ChainParameters, InvalidGenesisError
from chain.types.block import TRANSACTION_LIMIT_BYTES
from chain.validation import MAX_INIT_CODE_BYTES
from node.chain.executor import CANDIDATE_SECONDS, FORGIVEN_STOPS
from node.node import BUILD_SECONDS
from node.operator.validator_set_calls import CALL_GAS
from node.training.votes import VOTE_GAS
from tests.test_tidy import ROOT

GENESIS = parse_genesis((ROOT / "genesis.json").read_bytes())
PARAMETERS = GENESIS.parameters


def test_the_slowest_full_block_fits_the_view_timeout() -> None:
    seconds = GENESIS.gas_limit / PARAMETERS.execution_gas_per_second
    assert seconds <= 4
    assert TIMEOUT_CAP_FACTOR * seconds * 1000 <= PARAMETERS.view_timeout_cap_ms


def test_genesis_refuses_a_gas_limit_that_the_timeout_cap_does_not_allow() -> None:
    template = json.loads((ROOT / "genesis.json").read_text(encoding="utf-8"))
    speed = PARAMETERS.execution_gas_per_second
    largest = PARAMETERS.view_timeout_cap_ms * speed // 1000 // TIMEOUT_CAP_FACTOR
    template["gasLimit"] = hex(largest)
    assert parse_genesis(json.dumps(template).encode()).gas_limit == largest
    template["gasLimit"] = hex(largest + speed // 1000)
    with pytest.raises(InvalidGenesisError, match="view_timeout_cap_ms"):
        parse_genesis(json.dumps(template).encode())


def test_the_slowest_transaction_fits_the_builders_time_for_one() -> None:
    seconds = PARAMETERS.transaction_gas_limit / PARAMETERS.execution_gas_per_second
    # A machine may be three times as slow as the one that the ticks were measured on.
    assert 3 * seconds <= CANDIDATE_SECONDS


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


@pytest.mark.parametrize("gas", [CALL_GAS, VOTE_GAS])
def test_gas_that_operators_send_is_below_the_cap(gas: int) -> None:
    assert gas <= PARAMETERS.transaction_gas_limit


def test_unpriced_effort_needs_the_longer_timeout() -> None:
    assert replace(PARAMETERS, gas_per_tick=0).execution_gas_per_second == 1_000_000
    assert ChainParameters().execution_gas_per_second == 2 * TICKS_PER_SECOND
