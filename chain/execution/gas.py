"""Gas before and around execution, and the base fee (docs/spec/state-transition.md, section 4)."""

from collections.abc import Sequence
from typing import Final

from chain.params import BaseFeeMode
from chain.primitives import Address, Hash32

GAS_TRANSACTION: Final = 21_000
"""The yellow paper's price of any transaction."""

GAS_CREATE: Final = 32_000
"""On top, for a transaction that creates a contract."""

GAS_INIT_CODE_WORD: Final = 2
"""EIP-3860: for every 32 bytes of init code."""

GAS_ZERO_BYTE: Final = 4
"""Of data."""

GAS_NON_ZERO_BYTE: Final = 16
"""Of data (EIP-2028)."""

GAS_ACCESS_LIST_ADDRESS: Final = 2_400
"""EIP-2930."""

GAS_ACCESS_LIST_KEY: Final = 1_900
"""EIP-2930."""

GAS_AUTHORIZATION: Final = 25_000
"""EIP-7702's PER_EMPTY_ACCOUNT_COST."""

GAS_FLOOR_TOKEN: Final = 10
"""EIP-7623: a zero byte is one token, any other four."""

BASE_FEE_CHANGE_DENOMINATOR: Final = 8
"""EIP-1559: at most an eighth a block."""

ELASTICITY: Final = 2
"""EIP-1559: the target is half the limit."""


def compute_intrinsic_gas(
    to: Address | None,
    data: bytes,
    access_list: Sequence[tuple[Address, Sequence[Hash32]]],
    authorization_count: int,
) -> int:
    """What a transaction pays before its first opcode."""
    zeros = data.count(0)
    gas = GAS_TRANSACTION + zeros * GAS_ZERO_BYTE + (len(data) - zeros) * GAS_NON_ZERO_BYTE
    if to is None:
        gas += GAS_CREATE + (len(data) + 31) // 32 * GAS_INIT_CODE_WORD
    for _, keys in access_list:
        gas += GAS_ACCESS_LIST_ADDRESS + len(keys) * GAS_ACCESS_LIST_KEY
    return gas + authorization_count * GAS_AUTHORIZATION


def compute_floor_gas(data: bytes) -> int:
    """The least a transaction with `data` pays in the end (EIP-7623)."""
    zeros = data.count(0)
    return GAS_TRANSACTION + GAS_FLOOR_TOKEN * (zeros + 4 * (len(data) - zeros))


def compute_base_fee(
    mode: BaseFeeMode, floor_wei: int, parent_base_fee: int, parent_gas_used: int, gas_limit: int
) -> int:
    """The base fee of the child, in wei, of a parent with that fee, gas and limit."""
    if mode is BaseFeeMode.FIXED:
        return parent_base_fee
    target = gas_limit // ELASTICITY
    change = parent_base_fee * abs(parent_gas_used - target) // target
    change //= BASE_FEE_CHANGE_DENOMINATOR
    if parent_gas_used > target:
        return max(floor_wei, parent_base_fee + max(change, 1))
    return max(floor_wei, parent_base_fee - change)
