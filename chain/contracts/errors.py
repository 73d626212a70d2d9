"""Custom errors of the system contracts, decoded from revert data."""

from dataclasses import dataclass
from typing import Final

from chain.contracts import (
    faucet,
    gradient_ledger,
    reward_distributor,
    task_registry,
    training_token,
    validator_set,
)
from chain.contracts.abi import (
    SELECTOR_BYTES,
    InvalidAnswerError,
    compute_selector,
    decode_values,
)
from chain.hexadecimal import to_hex


@dataclass(frozen=True, slots=True)
class ContractError:
    """A custom error, decoded: its name and its arguments, addresses and bytes in hexadecimal."""

    name: str
    arguments: tuple[int | str | bool, ...]

    def __str__(self) -> str:
        """As Solidity would write it."""
        return f"{self.name}({', '.join(map(str, self.arguments))})"


ERRORS: Final = {
    # Solidity's own two; the compiler does not list them.
    "Error": ("string",),
    "Panic": ("uint256",),
    **training_token.CONTRACT.abi.errors,
    **validator_set.CONTRACT.abi.errors,
    **task_registry.CONTRACT.abi.errors,
    **gradient_ledger.CONTRACT.abi.errors,
    **reward_distributor.CONTRACT.abi.errors,
    **faucet.CONTRACT.abi.errors,
}
"""The argument types of every error that a system contract reverts with, by its name."""

_ERROR_OF: Final = {compute_selector(name, types): (name, types) for name, types in ERRORS.items()}
"""By selector."""


def decode_error(data: bytes) -> ContractError | None:
    """The error in revert data, or None if no system contract has such an error."""
    name, types = _ERROR_OF.get(data[:SELECTOR_BYTES], (None, ()))
    if name is None:
        return None
    try:
        arguments = decode_values(types, data[SELECTOR_BYTES:])
    except InvalidAnswerError:
        # Any contract may revert with any bytes.
        return None
    return ContractError(name, tuple(_to_argument(each) for each in arguments))


def _to_argument(value: object) -> int | str | bool:
    """A value as people read it: bytes and addresses in hexadecimal."""
    if isinstance(value, bytes):
        return to_hex(value)
    assert isinstance(value, int | str)
    return value
