"""The values that a call takes and returns; importing them does not import the engine."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from chain.primitives import ZERO_ADDRESS, Address
from chain.types.receipt import Log
from chain.types.transaction import AccessList, Authorization


@dataclass(frozen=True, slots=True)
class CallRequest:
    """An unsigned message call, as for `eth_call`, `eth_estimateGas` and reading a contract."""

    to: Address | None
    """None to run `data` as a constructor."""
    data: bytes = b""
    sender: Address = ZERO_ADDRESS
    value: int = 0
    """Wei; the sender must have them."""
    gas_limit: int | None = None
    """None for the block's gas limit."""
    gas_price: int = 0
    """Wei for a unit of gas. With 0 the call is free, whatever the base fee is."""
    access_list: AccessList = ()
    authorization_list: tuple[Authorization, ...] = ()


@dataclass(frozen=True, slots=True)
class CallResult:
    """The result of a call."""

    is_success: bool
    is_revert: bool
    """Whether it failed by REVERT, so that `output` is the revert data."""
    output: bytes
    gas_used: int
    logs: tuple[Log, ...]
    error: str
    """py-evm's description of a failure, for people."""


@dataclass(frozen=True, slots=True)
class AccountOverride:
    """Values that replace those of an account during a call; None keeps the account's value."""

    balance: int | None = None
    nonce: int | None = None
    code: bytes | None = None
    storage: Mapping[int, int] | None = None
    """Replaces the whole storage."""
    storage_changes: Mapping[int, int] = field(default_factory=dict)
    """Replaces single slots."""
