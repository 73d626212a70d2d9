"""Reads the hash of a validator set from fixed storage slots (docs/spec/contracts.md, 8.1).

Light clients use this module: they have proofs of these slots, but no virtual machine.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final

from eth_abi.abi import encode

from chain.contracts.addresses import VALIDATOR_SET
from chain.crypto import keccak256
from chain.primitives import ZERO_ADDRESS, Address, BlockNumber, Hash32
from chain.types.certificate import MAX_VALIDATORS

SET_HASH_SLOT: Final = 0
"""The slot of the hash of the set that was in force when the contract was last changed."""

NEXT_SET_HASH_SLOT: Final = 1
"""The slot of the hash of the scheduled set."""

ACTIVATION_SLOT: Final = 2
"""The slot of the first block that the scheduled set decides; 0 if none is scheduled."""

SET_SLOTS: Final = (SET_HASH_SLOT, NEXT_SET_HASH_SLOT, ACTIVATION_SLOT)
"""The slots that determine the validator set of the next block."""


def compute_set_hash(validators: Sequence[Address]) -> Hash32:
    """The hash of a set: keccak256(abi.encode(address[] validators))."""
    return keccak256(encode(["address[]"], [validators]))


def read_next_set_hash(get_storage: Callable[[Address, int], int], number: BlockNumber) -> Hash32:
    """The hash of the validator set of block `number` + 1; zero if there is no contract.

    Args:
        get_storage: Returns the value of a contract's slot in the state after block `number`.
        number: The number of that block.
    """
    activation = get_storage(VALIDATOR_SET, ACTIVATION_SLOT)
    is_activated = activation != 0 and number + 1 >= activation
    slot = NEXT_SET_HASH_SLOT if is_activated else SET_HASH_SLOT
    return Hash32(get_storage(VALIDATOR_SET, slot).to_bytes(32, "big"))


def is_validator_set(validators: Sequence[Address]) -> bool:
    """Whether the addresses are a valid set: 1 to 100, strictly ascending, none of them zero."""
    return (
        1 <= len(validators) <= MAX_VALIDATORS
        and all(len(validator) == len(ZERO_ADDRESS) for validator in validators)
        and all(first < second for first, second in pairwise((ZERO_ADDRESS, *validators)))
    )
