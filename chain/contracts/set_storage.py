"""Who decides a block, from the fixed slots of ValidatorSet (docs/spec/contracts.md, 8.1).

Apart from what calls the contract, so that who holds no state needs no virtual machine.
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
"""The hash of the set in force when it was last written down."""

NEXT_SET_HASH_SLOT: Final = 1
"""The hash of the scheduled set."""

ACTIVATION_SLOT: Final = 2
"""The block that the scheduled set decides first; 0: none is scheduled."""

SET_SLOTS: Final = (SET_HASH_SLOT, NEXT_SET_HASH_SLOT, ACTIVATION_SLOT)
"""All that tells who decides the next block."""


def compute_set_hash(validators: Sequence[Address]) -> Hash32:
    """keccak256(abi.encode(address[] validators)): what the contract holds of a set."""
    return keccak256(encode(["address[]"], [validators]))


def read_next_set_hash(get_storage: Callable[[Address, int], int], number: BlockNumber) -> Hash32:
    """The hash of the set of block `number` + 1; zero if there is no contract.

    Args:
        get_storage: The value of a contract's slot in the state after block `number`.
        number: Of that block.
    """
    activation = get_storage(VALIDATOR_SET, ACTIVATION_SLOT)
    is_activated = activation != 0 and number + 1 >= activation
    slot = NEXT_SET_HASH_SLOT if is_activated else SET_HASH_SLOT
    return Hash32(get_storage(VALIDATOR_SET, slot).to_bytes(32, "big"))


def is_validator_set(validators: Sequence[Address]) -> bool:
    """Whether that may decide blocks: 1 to 100 addresses, ascending, none of them zero."""
    return (
        1 <= len(validators) <= MAX_VALIDATORS
        and all(len(validator) == len(ZERO_ADDRESS) for validator in validators)
        and all(first < second for first, second in pairwise((ZERO_ADDRESS, *validators)))
    )
