"""The order in which validators propose a block (docs/spec/consensus.md, section 3)."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from chain.primitives import Address, BlockNumber, ValidatorIndex

ACTIVITY_WINDOW_TURNS: Final = 4
"""A validator that proposed none of the last 4n blocks goes to the end of the order. So a dead one
costs one view change in 4n blocks instead of one in n. With shorter windows more blocks are
lost."""

PROBE_INTERVAL: Final = 32
"""Every 32nd number gives the first turn to one fixed validator, so a validator that has come back
gets a turn no matter which others are active."""


def compute_primary_order(
    number: BlockNumber, validators: Sequence[Address], coinbases: Sequence[Address]
) -> tuple[ValidatorIndex, ...]:
    """The turns of block `number`: the primary of view v is `order[v mod n]`.

    Args:
        number: The block number N, at least 1.
        validators: The n validators of N, by ascending address.
        coinbases: The coinbases of blocks N - k to N - 1, newest last, with k at least
            min(N - 1, 4n + 2). Older ones are ignored.
    """
    n = len(validators)
    window = ACTIVITY_WINDOW_TURNS * n
    assert number >= 1
    assert len(coinbases) >= min(number - 1, window + 2)
    # After such a 32nd number the order continues from the block before it, so that the extra turn
    # replaces no regular one.
    reference = number - 2 if (number - 1) % PROBE_INTERVAL == 0 else number - 1
    start = bisect_right(validators, coinbases[reference - number]) % n if reference > 0 else 0
    order = [ValidatorIndex((start + turn) % n) for turn in range(n)]
    if number > window:
        active = frozenset(coinbases[-window:])
        order.sort(key=lambda index: validators[index] not in active)
    if number % PROBE_INTERVAL == 0:
        probed = ValidatorIndex((number // PROBE_INTERVAL) % n)
        order.remove(probed)
        order.insert(0, probed)
    return tuple(order)
