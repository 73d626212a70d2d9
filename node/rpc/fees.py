"""Suggests gas prices and shows their history (docs/spec/rpc.md, section 2)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from chain.json_types import Json, JsonObject
from chain.primitives import BlockNumber
from chain.types.header import Header
from node.rpc.chain_view import ChainView
from node.rpc.encoding import ExecutedBlock, quantity
from node.rpc.errors import header_not_found, invalid_params
from node.rpc.parameters import BlockSelector, BlockTag

HISTORY_LIMIT: Final = 1_024
"""Limit of blocks in a fee history, as in geth."""

REWARD_HISTORY_LIMIT: Final = 128
"""Limit of blocks in a fee history with rewards. It is lower, because all their transactions must
be read."""

PERCENTILE_LIMIT: Final = 100
"""Limit of percentiles in a fee history, as in geth."""

SAMPLED_BLOCKS: Final = 20
"""Number of latest blocks from which a tip is suggested, as in geth."""

SUGGESTED_PERCENTILE: Final = 60
"""The percentile of the tips in those blocks that is suggested, as in geth."""


@dataclass(frozen=True, slots=True)
class FeeOracle:
    """Suggests fees from the tips in recent blocks."""

    chain: ChainView
    compute_base_fee: Callable[[Header], int]
    """The base fee of the child of a header, in wei for a unit of gas."""

    def next_base_fee(self) -> int:
        """The base fee of the block after the head, in wei for a unit of gas."""
        return self.compute_base_fee(self.chain.head())

    def suggest_tip(self) -> int:
        """A tip in wei for a unit of gas; 0 if recent blocks have no transactions."""
        head, held = self.chain.head().number, self.chain.store.first_held()
        tips = sorted(
            tip
            for number in range(max(1, held, head - SAMPLED_BLOCKS + 1), head + 1)
            if (executed := self.chain.executed(BlockNumber(number))) is not None
            for tip, _ in _paid_tips(executed)
        )
        return tips[(len(tips) - 1) * SUGGESTED_PERCENTILE // 100] if tips else 0

    def history(
        self,
        block_count: int,
        newest: BlockSelector,
        percentiles: list[float] | None,
        least_price: int = 0,
    ) -> JsonObject:
        """The result of `eth_feeHistory` for up to `block_count` blocks, the last one `newest`.

        Wallets take their offers from the rewards. While free transactions have to wait, these are
        not below `least_price`, what a transaction pays for a unit of gas that does not wait.

        Raises:
            RpcError: -32000: There is no such block. 4444: This node does not hold it.
        """
        last = self.chain.find_number(BlockTag.LATEST if newest is BlockTag.PENDING else newest)
        if last is None:
            raise header_not_found()
        limit = REWARD_HISTORY_LIMIT if percentiles else HISTORY_LIMIT
        held = min(last, self.chain.store.first_held())
        first = BlockNumber(max(held, last + 1 - min(block_count, limit)))
        headers = self.chain.store.headers(first, last) if block_count else ()
        base_fees = [header.base_fee_per_gas for header in headers]
        if headers:
            base_fees.append(self.compute_base_fee(headers[-1]))
        history: JsonObject = {
            "oldestBlock": quantity(first if headers else 0),
            "baseFeePerGas": [quantity(fee) for fee in base_fees],
            "gasUsedRatio": [header.gas_used / header.gas_limit for header in headers],
        }
        if percentiles:
            history["reward"] = [
                [
                    quantity(max(tip, least_price - header.base_fee_per_gas))
                    for tip in self._rewards(header.number, percentiles)
                ]
                for header in headers
            ]
        return history

    def _rewards(self, number: BlockNumber, percentiles: list[float]) -> list[int]:
        executed = self.chain.executed(number)
        assert executed is not None, "its header was there"
        tips = sorted(_paid_tips(executed))
        total_gas = executed.block.header.gas_used
        rewards: list[int] = []
        for percentile in percentiles:
            wanted, tip = total_gas * percentile / 100, 0
            for tip, gas in tips:  # noqa: B007 - the tip at which the loop ends is the result
                wanted -= gas
                if wanted <= 0:
                    break
            rewards.append(tip)
        return rewards


def _paid_tips(executed: ExecutedBlock) -> list[tuple[int, int]]:
    """For each transaction, its tip in wei for a unit of gas, and the gas that it used."""
    base_fee = executed.block.header.base_fee_per_gas
    return [
        (
            executed.transaction(index).compute_effective_gas_price(base_fee) - base_fee,
            executed.gas_used(index),
        )
        for index in range(len(executed.receipts))
    ]


def parse_percentiles(value: Json) -> list[float]:
    """Ascending numbers from 0 to 100.

    Raises:
        RpcError: -32602: The value is not a list of such numbers, or is too long.
    """
    if not isinstance(value, list) or len(value) > PERCENTILE_LIMIT:
        raise invalid_params(f"expected a list of at most {PERCENTILE_LIMIT} percentiles")
    percentiles: list[float] = []
    for entry in value:
        if not isinstance(entry, int | float) or isinstance(entry, bool) or not 0 <= entry <= 100:
            raise invalid_params("invalid reward percentile: expected a number from 0 to 100")
        if percentiles and entry < percentiles[-1]:
            raise invalid_params("invalid reward percentile: not ascending")
        percentiles.append(float(entry))
    return percentiles
