"""Whose turn it is to propose a block (docs/spec/consensus.md, section 3)."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from chain.primitives import Address, BlockNumber, ValidatorIndex

ACTIVITY_WINDOW_TURNS: Final = 4
"""A validator without a block among the last 4n waits at the end of the order, so one that is dead
costs a view change once a window and not once a turn; shorter windows lose more blocks."""

PROBE_INTERVAL: Final = 32
"""Every 32nd number starts with a named validator, so that one that came back is noticed whatever
the pattern of the live ones."""


def compute_primary_order(
    number: BlockNumber, validators: Sequence[Address], coinbases: Sequence[Address]
) -> tuple[ValidatorIndex, ...]:
    """The turns of block `number`: the primary of view v is `order[v mod n]`.

    Args:
        number: The block number N, at least 1.
        validators: The n validators of N, by ascending address.
        coinbases: The coinbases of blocks N - k to N - 1, newest last, with k at least
            min(N - 1, 4n + 2); older ones are not looked at.
    """
    n = len(validators)
    window = ACTIVITY_WINDOW_TURNS * n
    assert number >= 1
    assert len(coinbases) >= min(number - 1, window + 2)
    # The turn after a probe goes on from the block before it: a probe takes no one's turn.
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
