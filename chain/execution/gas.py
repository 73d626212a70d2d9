"""Gas before and around execution, and the base fee (docs/spec/state-transition.md, section 4)."""

from collections.abc import Sequence
from typing import Final

from chain.params import BaseFeeMode
from chain.primitives import Address, Hash32

GAS_TRANSACTION: Final = 21_000
"""The base price of every transaction (yellow paper)."""

GAS_CREATE: Final = 32_000
"""The additional price of a transaction that creates a contract."""

GAS_INIT_CODE_WORD: Final = 2
"""The price of every 32 bytes of init code (EIP-3860)."""

GAS_ZERO_BYTE: Final = 4
"""The price of a zero byte of data."""

GAS_NON_ZERO_BYTE: Final = 16
"""The price of any other byte of data (EIP-2028)."""

GAS_ACCESS_LIST_ADDRESS: Final = 2_400
"""EIP-2930."""

GAS_ACCESS_LIST_KEY: Final = 1_900
"""EIP-2930."""

GAS_AUTHORIZATION: Final = 25_000
"""EIP-7702's PER_EMPTY_ACCOUNT_COST."""

GAS_AUTHORIZATION_BASE: Final = 12_500
"""EIP-7702's PER_AUTH_BASE_COST: what remains if the account exists; the rest is refunded."""

GAS_FLOOR_TOKEN: Final = 10
"""The floor price of a token of data (EIP-7623): a zero byte is one token, any other byte four."""

BASE_FEE_CHANGE_DENOMINATOR: Final = 8
"""The base fee changes by at most an eighth from block to block (EIP-1559)."""

ELASTICITY: Final = 2
"""The gas target of a block is half its limit (EIP-1559)."""


def compute_intrinsic_gas(
    to: Address | None,
    data: bytes,
    access_list: Sequence[tuple[Address, Sequence[Hash32]]],
    authorization_count: int,
) -> int:
    """The gas that a transaction pays before its first opcode."""
    zeros = data.count(0)
    gas = GAS_TRANSACTION + zeros * GAS_ZERO_BYTE + (len(data) - zeros) * GAS_NON_ZERO_BYTE
    if to is None:
        gas += GAS_CREATE + (len(data) + 31) // 32 * GAS_INIT_CODE_WORD
    for _, keys in access_list:
        gas += GAS_ACCESS_LIST_ADDRESS + len(keys) * GAS_ACCESS_LIST_KEY
    return gas + authorization_count * GAS_AUTHORIZATION


def compute_floor_gas(data: bytes) -> int:
    """The lowest total gas of a transaction with `data` (EIP-7623)."""
    zeros = data.count(0)
    return GAS_TRANSACTION + GAS_FLOOR_TOKEN * (zeros + 4 * (len(data) - zeros))


def compute_base_fee(
    mode: BaseFeeMode, floor_wei: int, parent_base_fee: int, parent_gas_used: int, gas_limit: int
) -> int:
    """The base fee of the next block, in wei, after a block with that fee, gas used and limit."""
    if mode is BaseFeeMode.FIXED:
        return parent_base_fee
    target = gas_limit // ELASTICITY
    change = parent_base_fee * abs(parent_gas_used - target) // target
    change //= BASE_FEE_CHANGE_DENOMINATOR
    if parent_gas_used > target:
        return max(floor_wei, parent_base_fee + max(change, 1))
    return max(floor_wei, parent_base_fee - change)
