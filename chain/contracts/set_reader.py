"""Who decides the next block, from the state of this one (docs/spec/contracts.md, section 8.1)."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from chain.contracts.abi import InvalidAnswerError
from chain.contracts.set_storage import (
    compute_set_hash,
    is_validator_set,
    read_next_set_hash,
)
from chain.contracts.state_reader import StateReader
from chain.contracts.validator_set import get_current
from chain.execution.block_environment import BlockEnvironment
from chain.genesis import GenesisConfig, GenesisState
from chain.primitives import ZERO_HASH, Address, BlockNumber, Hash32
from chain.state.world_state import ReadableDatabase, get_storage
from chain.types.header import Header
from chain.types.validator_set import ValidatorSet

READ_GAS: Final = 10_000_000
"""A set of 100 costs a fifteenth of that; it bounds what a broken contract may cost."""


def get_next_set_hash(database: ReadableDatabase, header: Header) -> Hash32:
    """The hash of the set of the block after `header`; zero if there is no contract.

    Raises:
        MissingTrieNodeError: the state of `header` is not held.
    """
    return read_next_set_hash(partial(get_storage, database, header.state_root), header.number)


def read_genesis_set(config: GenesisConfig, genesis: GenesisState) -> ValidatorSet:
    """The validators of block 1 and their operators.

    A genesis without the contract has the validators of its parameters for ever, each its own
    operator.
    """
    found = read_next_set(genesis.delta, genesis.header, config.chain_id, ())
    validators = config.parameters.validators
    return found or ValidatorSet(validators, validators)


def read_next_set(
    database: ReadableDatabase, header: Header, chain_id: int, current: Sequence[Address]
) -> ValidatorSet | None:
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
    # The contract looks at the number alone; the next block's other fields are not known yet.
    environment = replace(
        BlockEnvironment.of(header, chain_id), number=BlockNumber(header.number + 1)
    )
    reader = StateReader(database, header.state_root, environment, READ_GAS)
    try:
        found = reader.read(get_current())
    except InvalidAnswerError:
        return None
    is_set = (
        is_validator_set(found.validators)
        and len(found.operators) == len(found.validators)
        and compute_set_hash(found.validators) == wanted
    )
    return found if is_set else None
