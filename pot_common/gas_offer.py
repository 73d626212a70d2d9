"""What a transaction offers for gas, and how it is raised to replace one that waits.

All calls of an account wait behind its first one. So a call that no block includes is sent again
with the same nonce and higher fees, up to a limit.
"""

from dataclasses import dataclass
from typing import Final

from chain.amounts import format_short
from chain.types.transaction import Transaction

REPLACEMENT_PERCENT: Final = 110
"""A replacement must offer this percentage of the replaced fees, as in geth: it pays for the
network's cost of carrying two transactions."""

RAISED_TIP_LIMIT_WEI: Final = 10 * 10**9
"""A call that is sent again raises its priority fee up to this, ten times what a node suggests."""


COMMITMENT_GAS_LIMIT: Final = 500_000
"""The most gas of a commitment that nodes take with priority. One takes 50 000; a miner adds a
margin of 300 000 in case that its commitment ends the phase, or is charged with its misses."""


@dataclass(frozen=True, slots=True)
class GasOffer:
    """What a transaction pays, in wei a unit of gas."""

    max_fee: int
    tip: int

    def raise_above(self, transaction: Transaction) -> "GasOffer":
        """The least offer of at least this that pools take instead of a transaction's."""
        tip = max(self.tip, raise_fee(transaction.max_priority_fee_per_gas))
        limit = max(self.max_fee - self.tip + tip, raise_fee(transaction.max_fee_per_gas))
        return GasOffer(limit, tip)

    def is_above(self, transaction: Transaction) -> bool:
        """Whether the base fee has risen so far that this pays enough to replace a transaction."""
        return self.max_fee >= raise_fee(transaction.max_fee_per_gas)

    def pays_more_than(self, transaction: Transaction) -> bool:
        """Whether a transaction pays less than this in a block whose base fee this covers."""
        return self.tip > transaction.max_priority_fee_per_gas or self.is_above(transaction)

    def may_raise_tip(self, transaction: Transaction) -> bool:
        """Whether a transaction may be sent again with a higher priority fee, where one is paid."""
        return self.tip > 0 and (
            raise_fee(transaction.max_priority_fee_per_gas) <= RAISED_TIP_LIMIT_WEI
        )


@dataclass(frozen=True, slots=True)
class GasHint:
    """A price with which a transaction would not wait; as text, the option and what it costs."""

    price: int
    """Wei for a unit of gas."""
    gas_limit: int
    """The most units of gas that the transaction pays for."""

    @property
    def option(self) -> str:
        """The option of commands and of the miner that offers the price."""
        return f"--gas-price {self.price}"

    @property
    def cost(self) -> str:
        """What the price means, and what the transaction costs with it."""
        coins = format_short(self.price * self.gas_limit)
        return f"wei for each unit of gas; it then costs at most {coins} coins"

    def __str__(self) -> str:
        return f"{self.option} ({self.cost})"


def raise_fee(fee: int) -> int:
    """The least fee for which pools replace one with this fee."""
    return max(fee + 1, -(-fee * REPLACEMENT_PERCENT // 100))
