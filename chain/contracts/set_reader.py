"""Reads the validator set of the next block from a state (docs/spec/contracts.md, section 8.1)."""

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
"""Gas limit of reading the set. A set of 100 costs a fifteenth of it; the limit bounds the cost of
a broken contract."""


def get_next_set_hash(database: ReadableDatabase, header: Header) -> Hash32:
    """The hash of the validator set of the block after `header`; zero if there is no contract.

    Raises:
        MissingTrieNodeError: The state of `header` is not in the database.
    """
    return read_next_set_hash(partial(get_storage, database, header.state_root), header.number)


def read_genesis_set(config: GenesisConfig, genesis: GenesisState) -> ValidatorSet:
    """The validators of block 1 and their operators.

    If genesis has no ValidatorSet contract, the set never changes: it is the one in the parameters,
    and every validator is its own operator.
    """
    found = read_next_set(genesis.delta, genesis.header, config.chain_id, ())
    validators = config.parameters.validators
    return found or ValidatorSet(validators, validators)


def read_next_set(
    database: ReadableDatabase, header: Header, chain_id: int, current: Sequence[Address]
) -> ValidatorSet | None:
    """The validators and operators of the block after `header`; None if the set does not change.

    It does not change either if the contract returns something that is not a valid set.

    Args:
        database: Holds the state of `header`.
        header: The parent of that block.
        chain_id: The network's chain id.
        current: The validators of `header`'s own number.

    Raises:
        MissingTrieNodeError: The state of `header` is not in the database.
    """
    wanted = get_next_set_hash(database, header)
    if wanted in (ZERO_HASH, compute_set_hash(current)):
        return None
    # The contract depends only on the block number. Other fields of the next block are not known.
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
