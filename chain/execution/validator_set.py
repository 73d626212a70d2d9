"""Who decides the next block, from the state of this one (docs/spec/contracts.md, section 8.1)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from eth_abi.abi import encode
from eth_abi.exceptions import DecodingError

from chain.crypto import keccak256
from chain.execution.evm import BlockEnvironment, CallRequest, call
from chain.execution.system_contracts import (
    VALIDATOR_SET,
    decode_committee,
    encode_committee,
)
from chain.execution.world_state import ReadableDatabase, get_storage
from chain.genesis import GenesisConfig, GenesisState
from chain.primitives import ZERO_ADDRESS, ZERO_HASH, Address, BlockNumber, Hash32
from chain.types.certificate import MAX_VALIDATORS
from chain.types.header import Header

READ_GAS: Final = 10_000_000
"""A set of 100 costs a fifteenth of that; it bounds what a broken contract may cost."""


def compute_set_hash(validators: Sequence[Address]) -> Hash32:
    """keccak256(abi.encode(address[] validators)): what the contract holds of a set."""
    return keccak256(encode(["address[]"], [validators]))


def get_next_set_hash(database: ReadableDatabase, header: Header) -> Hash32:
    """The hash of the set of the block after `header`; zero if there is no contract.

    Raises:
        MissingTrieNodeError: the state of `header` is not held.
    """
    activation = get_storage(database, header.state_root, VALIDATOR_SET, 2)
    slot = 1 if activation and header.number + 1 >= activation else 0
    value = get_storage(database, header.state_root, VALIDATOR_SET, slot)
    return Hash32(value.to_bytes(32, "big"))


def read_genesis_set(
    config: GenesisConfig, genesis: GenesisState
) -> tuple[tuple[Address, ...], tuple[Address, ...]]:
    """The validators of block 1 and their operators.

    A genesis without the contract has the validators of its parameters for ever, each its own
    operator.
    """
    found = read_next_set(genesis.delta, genesis.header, config.chain_id, ())
    return found or (config.parameters.validators, config.parameters.validators)


def read_next_set(
    database: ReadableDatabase, header: Header, chain_id: int, current: Sequence[Address]
) -> tuple[tuple[Address, ...], tuple[Address, ...]] | None:
    """The validators of the block after `header` and their operators, if they are not `current`.

    Args:
        database: Holds the state of `header`.
        header: The parent of that block.
        chain_id: Of the network.
        current: The validators of `header`'s own number.

    Returns:
        None if the set stays: because it is the same, or because what the contract says is no set.

    Raises:
        MissingTrieNodeError: the state of `header` is not held.
    """
    wanted = get_next_set_hash(database, header)
    if wanted in (ZERO_HASH, compute_set_hash(current)):
        return None
    environment = BlockEnvironment(
        chain_id=chain_id,
        number=BlockNumber(header.number + 1),
        timestamp=header.timestamp,
        coinbase=header.coinbase,
        gas_limit=header.gas_limit,
        base_fee_per_gas=header.base_fee_per_gas,
        mix_hash=header.mix_hash,
    )
    request = CallRequest(to=VALIDATOR_SET, data=encode_committee(), gas_limit=READ_GAS)
    answer = call(database, header.state_root, environment, request)
    if not answer.is_success:
        return None
    try:
        validators, operators = decode_committee(answer.output)
    except DecodingError:
        return None
    is_set = (
        1 <= len(validators) <= MAX_VALIDATORS
        and len(operators) == len(validators)
        and all(first < second for first, second in pairwise((ZERO_ADDRESS, *validators)))
        and compute_set_hash(validators) == wanted
    )
    return (validators, operators) if is_set else None
