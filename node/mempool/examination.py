"""How much gas of operators' calls a node executes to examine them (docs/spec/wire.md, section 5).

An operator's call may ask for 9 million units of gas, and a node executes it in the thread in which
it agrees on blocks. What the contracts accept changes the state, so they bound it. What they refuse
may be sent again and again. So an operator owes the gas of its refused calls, and its further ones
are examined only after blocks have paid off a part of it.
"""

from typing import Final

from chain.primitives import Address, BlockNumber

REFUSED_GAS_A_BLOCK: Final = 2_000_000
"""The gas of refused calls that all operators together may have examined for each block, on
average: a quarter of a second of execution."""

LEAST_PAID_GAS: Final = 60_000
"""What a block pays off for each operator at least: a refused call, which takes some 50 000. Then a
call that waits, refused, in the pool of a large validator set keeps no vote of its operator from
being examined."""

OWED_GAS_LIMIT: Final = 2_000_000
"""An operator that owes as much has no call examined: forty refused ones, each of which takes some
50 000."""

REFUSED_GAS_AT_ONCE: Final = 8_000_000
"""After so much gas of refused calls of all operators, none is examined before the next block."""

ACCEPTED_GAS_AT_ONCE: Final = 12_000_000
"""After so much gas of accepted calls of one operator, none of its calls is examined before the
next block: that is the fines of one batch, and fifty votes."""

LARGE_CALL_GAS: Final = 1_500_000
"""A call that asks for more leaves half of `ACCEPTED_GAS_AT_ONCE` to votes, which ask for this: so
batches of fines let the votes of their operator be examined, whose phase may have eight blocks."""


class ExaminationGas:
    """The gas of the operators' calls that were examined. Heads come by ascending number."""

    def __init__(self) -> None:
        self._head = BlockNumber(0)
        self._owed: dict[Address, int] = {}
        self._refused = 0
        self._accepted: dict[Address, int] = {}

    def begin_block(self, head: BlockNumber, operator_count: int) -> None:
        """Pay off what operators owe; does nothing if the head is the same."""
        if head == self._head:
            return
        part = max(LEAST_PAID_GAS, REFUSED_GAS_A_BLOCK // max(1, operator_count))
        paid = max(0, head - self._head) * part
        self._owed = {each: owed - paid for each, owed in self._owed.items() if owed > paid}
        self._head, self._refused, self._accepted = head, 0, {}

    def may_examine(self, operator: Address, gas_limit: int) -> bool:
        """Whether a call of an operator with a gas limit may be executed now."""
        share = 2 if gas_limit > LARGE_CALL_GAS else 1
        return (
            self._refused < REFUSED_GAS_AT_ONCE
            and self._owed.get(operator, 0) < OWED_GAS_LIMIT
            and self._accepted.get(operator, 0) < ACCEPTED_GAS_AT_ONCE // share
        )

    def count(self, operator: Address, gas: int, *, is_accepted: bool) -> None:
        """Count the gas that a call took."""
        if is_accepted:
            self._accepted[operator] = self._accepted.get(operator, 0) + gas
            return
        self._owed[operator] = self._owed.get(operator, 0) + gas
        self._refused += gas
