"""Custom errors of the system contracts, decoded from revert data."""

from dataclasses import dataclass
from typing import Final

from chain.contracts import (
    faucet,
    gradient_ledger,
    miner_seats,
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
    """A decoded custom error; addresses and bytes in its arguments are hexadecimal."""

    name: str
    arguments: tuple[int | str | bool, ...]

    def __str__(self) -> str:
        """The error in Solidity's notation."""
        return f"{self.name}({', '.join(map(str, self.arguments))})"


ERRORS: Final = {
    # Solidity's built-in errors, which the compiler does not list.
    "Error": ("string",),
    "Panic": ("uint256",),
    **training_token.CONTRACT.abi.errors,
    **validator_set.CONTRACT.abi.errors,
    **task_registry.CONTRACT.abi.errors,
    **gradient_ledger.CONTRACT.abi.errors,
    **miner_seats.CONTRACT.abi.errors,
    **reward_distributor.CONTRACT.abi.errors,
    **faucet.CONTRACT.abi.errors,
}
"""The argument types of every error of the system contracts, by name."""

_ERROR_OF: Final = {compute_selector(name, types): (name, types) for name, types in ERRORS.items()}
"""The errors by selector."""


def decode_error(data: bytes) -> ContractError | None:
    """The error in revert data; None if no system contract has such an error."""
    name, types = _ERROR_OF.get(data[:SELECTOR_BYTES], (None, ()))
    if name is None:
        return None
    try:
        arguments = decode_values(types, data[SELECTOR_BYTES:])
    except InvalidAnswerError:
        # A contract can revert with arbitrary bytes.
        return None
    return ContractError(name, tuple(_to_argument(each) for each in arguments))


def _to_argument(value: object) -> int | str | bool:
    """A value for people, with bytes and addresses in hexadecimal."""
    if isinstance(value, bytes):
        return to_hex(value)
    assert isinstance(value, int | str)
    return value
