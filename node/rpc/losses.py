"""What attempts cost miners, from the events of the seats (docs/spec/rpc.md, section 2).

A contract charges an absence at the next call that concerns the seat, so for a while nothing tells
of it. A seat that had ended owes nothing for later attempts, although it may be listed among their
participants.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from chain.contracts.addresses import MINER_SEATS
from chain.contracts.gradient_ledger import RoundState
from chain.contracts.miner_seats import (
    MAX_MISSES,
    MISS_SHARE,
    MinerAbsent,
    MinerFined,
    SeatBondBurnt,
    SeatState,
)
from chain.json_types import JsonObject
from chain.primitives import Address, BlockNumber, TaskId
from node.rpc.chain_view import ChainView
from node.rpc.logs import BLOCK_RANGE_LIMIT, find_events

ABSENCE: Final = "absence"
"""The kind of a loss for an attempt without a commitment; the others are kinds of fines."""


class LossState(Enum):
    """Whether a loss was taken; the values are those of the answers."""

    TAKEN = "taken"
    DUE = "due"
    """The contract takes it at its next call that concerns the seat."""
    NONE = "none"
    """Nothing was or will be taken: the seat had ended."""
    UNKNOWN = "unknown"
    """This node does not hold, or did not search, the blocks in which it may have been taken."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What one attempt cost a seat."""

    miner: Address
    ordinal: int
    kind: str
    amount: int
    """Base units of the task's token."""
    seat_bond: int
    """Base units of POT that were burnt of the seat bond."""


@dataclass(frozen=True, slots=True)
class FoundLosses:
    """The losses of miners in a range of blocks."""

    by_attempt: Mapping[tuple[Address, int], Loss]
    """The heaviest loss by miner and ordinal of the attempt."""
    is_complete: bool
    """Whether all blocks from the first to the head were searched."""

    def find_state(
        self, miner: Address, ordinal: int, seat: SeatState, progress: RoundState
    ) -> LossState:
        """What became of an absence of a miner that has this seat now."""
        if (miner, ordinal) in self.by_attempt:
            return LossState.TAKEN
        if _is_due(seat, progress, ordinal):
            return LossState.DUE
        return LossState.NONE if self.is_complete else LossState.UNKNOWN


def find_losses(
    chain: ChainView, task: TaskId, miners: Iterable[Address], first: BlockNumber
) -> FoundLosses:
    """What the chain took from miners of a task in a block and the 10 000 after it.

    It decodes blocks, so call it in a thread.
    """
    head = chain.store.head_number()
    last = BlockNumber(min(head, first + BLOCK_RANGE_LIMIT - 1))
    found: dict[tuple[Address, int], Loss] = {}
    for loss in list_losses(chain, task, miners, first, last):
        found[loss.miner, loss.ordinal] = loss
    return FoundLosses(found, last == head and chain.store.first_held() <= first)


def list_losses(
    chain: ChainView,
    task: TaskId,
    miners: Iterable[Address],
    first: BlockNumber,
    last: BlockNumber,
) -> Iterator[Loss]:
    """The losses of miners of a task between two blocks, in the order of the chain by miner."""
    topics = ((task.to_bytes(32, "big"),), tuple(bytes(12) + each for each in miners))
    losses: dict[Address, list[Loss]] = {}
    for _, event in find_events(chain, MINER_SEATS, topics, first, last):
        match event:
            case MinerAbsent():
                loss = Loss(event.miner, event.ordinal, ABSENCE, event.amount, 0)
                losses.setdefault(event.miner, []).append(loss)
            case MinerFined():
                kind = event.kind.name.lower()
                loss = Loss(event.miner, event.ordinal, kind, event.amount, 0)
                losses.setdefault(event.miner, []).append(loss)
            case SeatBondBurnt():
                # It follows the miss or the fraud that it is burnt for; what is burnt when the
                # bonds are withdrawn is for a miss in the last attempt.
                own = losses.get(event.miner)
                if own:
                    own[-1] = replace(own[-1], seat_bond=own[-1].seat_bond + event.amount)
            case _:
                pass
    for own in losses.values():
        yield from own


def _is_due(seat: SeatState, progress: RoundState, ordinal: int) -> bool:
    """Whether the contract will charge an absence, or will unless the miner commits."""
    if not seat.units or seat.is_slashed or ordinal <= seat.accounted_attempt:
        return False
    if ordinal > progress.attempt_count:
        return False
    if seat.position == 0:
        return ordinal <= seat.last_attempt
    # The last of the misses ends the seat.
    return ordinal - seat.accounted_attempt <= MAX_MISSES - seat.miss_count


def encode_absence(state: LossState, loss: Loss | None, miss: int, seat_bond: int) -> JsonObject:
    """What an absence cost, as JSON.

    Args:
        state: Whether it was charged.
        loss: What was taken; None if nothing is known to be.
        miss: What a miss costs the bond in the task's token.
        seat_bond: The bond of each seat in POT.
    """
    # An eighth is the least: two misses within eight attempts, or one in the last attempt, cost
    # all that is left of it.
    amounts = (0, 0) if state is LossState.NONE else (miss, seat_bond // MISS_SHARE)
    amount, burnt = amounts if loss is None else (loss.amount, loss.seat_bond)
    return {"state": state.value, "amount": str(amount), "seatBond": str(burnt)}
