"""The gas that a proposer gives to transactions that offer too little for it (docs/adr/0035).

Gas may cost nothing, so that operators and new miners need no coins. Yet each transaction takes
time of all nodes, and what it stores stays on their disks for ever. So *free* transactions share a
ration: ordinary ones that offer less than this node's gas price. It decides which transactions this
node proposes and takes into its pool, never which blocks are valid.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final, Self

from chain.errors import InvalidTransaction, RejectionReason
from chain.genesis import GenesisConfig
from chain.primitives import Address
from chain.types.transaction import Transaction

OPERATORS_SHARE: Final = 4
"""The votes and duties of all operators that the contracts refuse may use a second of execution,
divided by this number, in one block and in each second. Each operator has an equal part. After each
ballot of a large validator set, a third of the votes on its result are late."""

FREE_SECONDS: Final = 1
"""The most execution of free transactions in one block. Blocks of one second are still made in the
first view; longer ones may not be (docs/spec/consensus.md, section 5)."""

CROWDED_SECONDS: Final = 10
"""If the waiting free transactions ask for the ration of more than this time, a node suggests its
gas price: the next one would wait as long."""


@dataclass(frozen=True, slots=True)
class FreeGasPolicy:
    """The limits of free transactions."""

    price_wei: int
    """A transaction that pays less for a unit of gas is free. With 0 none is."""
    gas_per_second: int
    """The ration of the whole network; with 0 nothing is included for less than the price."""
    block_gas: int
    """The most gas of all free transactions in a block, and so the largest gas limit of one."""
    operator_gas: int
    """What refused calls of all operators may use in a block, and in a second; also if nothing
    else is free."""

    @classmethod
    def build(cls, config: GenesisConfig, *, price_wei: int, gas_per_second: int) -> Self:
        """The policy of a node's settings on a network."""
        seconds = FREE_SECONDS if gas_per_second else 0
        block_gas = seconds * config.parameters.execution_gas_per_second
        operator_gas = config.parameters.execution_gas_per_second // OPERATORS_SHARE
        return cls(price_wei, gas_per_second, min(block_gas, config.gas_limit), operator_gas)

    def is_free(self, transaction: Transaction, base_fee_per_gas: int) -> bool:
        """Whether an ordinary transaction pays less than the price in a block with a base fee."""
        return transaction.compute_effective_gas_price(base_fee_per_gas) < self.price_wei

    def validate(self, free_gas: int) -> None:
        """Refuse a free transaction that no block includes for nothing, by its gas limit.

        Raises:
            InvalidTransaction: UNDERPRICED, with the price that would do.
        """
        if free_gas > self.block_gas:
            most = f"gas limit {free_gas}; without a price, validators include at most "
            limit = f"{most}{self.block_gas}" if self.block_gas else "no gas is free at this node"
            raise InvalidTransaction(
                RejectionReason.UNDERPRICED,
                f"{limit}: offer {self.price_wei} wei for a unit of gas",
            )

    def suggest_price(self, waiting_gas: int) -> int:
        """What to offer for a unit of gas, in wei, if free transactions ask for `waiting_gas`."""
        is_crowded = waiting_gas > CROWDED_SECONDS * self.gas_per_second
        return self.price_wei if is_crowded or not self.gas_per_second else 0


NO_RATION: Final = FreeGasPolicy(price_wei=0, gas_per_second=0, block_gas=0, operator_gas=0)
"""No transaction is free."""


@dataclass(frozen=True, slots=True)
class FreeGasBucket:
    """A proposer's own part of the ration: gas that it may give to free transactions.

    It fills with time up to the gas of one block. As long as it holds any gas, the next free
    transaction may take more than is left: so a large one waits no longer than a small one. What
    is overdrawn fills first. So in any time a proposer gives at most its part of the ration for
    that time and twice `block_gas`.
    """

    milligas: int
    """A thousandth of a unit of gas, since a small part of the ration fills less than one in a
    millisecond; negative if overdrawn."""
    filled_at_ms: int

    @classmethod
    def full(cls, policy: FreeGasPolicy, now_ms: int) -> Self:
        """A bucket that holds as much as it can."""
        return cls(1000 * policy.block_gas, now_ms)

    @property
    def gas(self) -> int:
        """The gas that is left; 0 or less if no free transaction may begin."""
        return -(-self.milligas // 1000)

    def fill(self, policy: FreeGasPolicy, now_ms: int, validator_count: int) -> Self:
        """The bucket at a later time; all validators together fill theirs at the whole rate."""
        # A unit of gas in a second is a thousandth of it in a millisecond.
        gained = (now_ms - self.filled_at_ms) * policy.gas_per_second // validator_count
        level = min(1000 * policy.block_gas, self.milligas + gained)
        return replace(self, milligas=level, filled_at_ms=now_ms)

    def take(self, gas: int) -> Self:
        """The bucket after a block with `gas` of free transactions."""
        return replace(self, milligas=self.milligas - 1000 * gas)


@dataclass(frozen=True, slots=True)
class OperatorGas:
    """A proposer's buckets for operators' votes and duties that the contracts refuse, one for each.

    An operator's next votes wait behind those that came too late, which may ask for much gas. So
    they wait neither for strangers nor for other operators, and take little of the time of a block.
    A refused call stores little for its gas.
    """

    buckets: Mapping[Address, FreeGasBucket]

    def fill(self, policy: FreeGasPolicy, now_ms: int, operators: Collection[Address]) -> Self:
        """The buckets of the operators of the validator set at a later time."""
        count = len(operators)
        part = policy.operator_gas // count
        own = replace(policy, gas_per_second=part, block_gas=part)
        new = FreeGasBucket.full(own, now_ms)
        return replace(
            self,
            buckets={
                each: self.buckets.get(each, new).fill(own, now_ms, count) for each in operators
            },
        )

    def get_gas(self, operator: Address) -> int:
        """The gas that is left for an operator; 0 or less if none of its calls may begin."""
        bucket = self.buckets.get(operator)
        return 0 if bucket is None else bucket.gas

    def take(self, used: Mapping[Address, int]) -> Self:
        """The buckets after a block with refused calls that used so much gas."""
        return replace(
            self,
            buckets={each: held.take(used.get(each, 0)) for each, held in self.buckets.items()},
        )
