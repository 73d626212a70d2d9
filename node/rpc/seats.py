"""A miner's seat: what it lost, and when its bonds are free (docs/spec/rpc.md, section 2).

Absence is accounted for lazily on the chain; here an absence shows as soon as its attempt has
ended.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from chain.contracts import gradient_ledger, miner_seats, reward_distributor, task_registry
from chain.contracts.gradient_ledger import (
    RoundState,
    compute_late_blocks,
    compute_window_blocks,
)
from chain.contracts.miner_seats import (
    MAX_MISSES,
    MISS_SHARE,
    MISS_WINDOW,
    SeatState,
)
from chain.contracts.task_registry import TaskTerms
from chain.hexadecimal import to_hex
from chain.json_types import JsonObject
from chain.primitives import Address, BlockNumber, TaskId
from chain.training.fines import compute_bond, compute_miss
from chain.training.history import TaskHistory
from node.ipc.turns import SharedTurns
from node.rpc.chain_view import ChainView
from node.rpc.losses import ABSENCE, Loss, list_losses
from node.rpc.training_view import TrainingView

MEASURED_BLOCKS: Final = 64
"""The time of a block is measured over so many of the latest ones."""


async def describe_seat(
    view: TrainingView, history: TaskHistory, miner: Address, searches: SharedTurns
) -> JsonObject | None:
    """The seat of a miner as JSON; None if it has none, or has withdrawn its bonds.

    Args:
        view: What RPC reads.
        history: The task.
        miner: The account.
        searches: Bounds the searches for events at the same time.

    Raises:
        RpcError: No call worker answers in time.
    """
    task, contracts = history.task_id, view.contracts
    seat = await contracts.read(miner_seats.get_seat(task, miner))
    if not seat.units:
        return None
    terms = await contracts.read(task_registry.get_terms(task))
    progress = await contracts.read(gradient_ledger.get_round(task))
    seat_bond = await contracts.read(miner_seats.seat_bond())
    term = await contracts.read(miner_seats.seat_attempts())
    claimed = await contracts.read(reward_distributor.claimed_of(task, miner))
    known = await searches.run(find_losses, view.chain, task, miner, seat)
    miss = compute_miss(seat.units * terms.unit_price)
    pending = tuple(
        Loss(miner, each, ABSENCE, miss, seat_bond // MISS_SHARE)
        for each in list_pending(seat, progress)
    )
    losses = (*known, *pending)
    placed = compute_bond(seat.units * terms.unit_price, terms.audit_ppm)
    bond = max(0, seat.bond - len(pending) * miss)
    misses = seat.miss_count + len(pending)
    has_ended = seat.position == 0 or misses >= MAX_MISSES
    left = compute_seat_bond_left(seat, seat_bond, progress, losses)
    last = seat.get_last_attempt(progress.attempt_count)
    blocks = await count_locked_blocks(view, history, seat, progress, terms)
    return {
        "task": task,
        "token": to_hex(terms.token),
        "units": seat.units,
        "bond": str(bond),
        "bondPaid": str(placed - bond),
        "seatBond": str(left),
        "seatBondPaid": str(seat_bond - left),
        "misses": misses,
        "missLimit": MAX_MISSES,
        "firstAttempt": seat.first_attempt,
        "lastAttempt": seat.last_attempt if seat.position == 0 else None,
        "committedAttempt": seat.committed_attempt or None,
        "termAttempts": max(0, seat.first_attempt + term - progress.attempt_count - 1),
        "ended": has_ended,
        "endReason": find_reason(seat, misses) if has_ended else None,
        "closed": history.is_closed,
        "owesAttempt": progress.open and seat.first_attempt <= progress.attempt_count <= last,
        "losses": [
            {
                "attempt": each.ordinal,
                "kind": each.kind,
                "amount": str(each.amount),
                "seatBond": str(each.seat_bond),
            }
            for each in losses
        ],
        "lockedBlocks": blocks,
        "lockedSeconds": None if blocks is None else blocks * measure_block_ms(view.chain) // 1000,
        "claimable": str(max(0, view.index.reward(task, miner) - claimed)),
    }


def find_losses(
    chain: ChainView, task: TaskId, miner: Address, seat: SeatState
) -> tuple[Loss, ...]:
    """What the chain took from a seat's bonds.

    Only the last 10 000 blocks are searched.
    """
    # The losses of a seat that was taken again may be older than its registration.
    registered = seat.registered_block if seat.bonded_from == seat.first_attempt else 0
    head = chain.store.head_number()
    losses = list_losses(chain, task, (miner,), BlockNumber(registered), head)
    return tuple(each for each in losses if each.ordinal >= seat.bonded_from)


def list_pending(seat: SeatState, progress: RoundState) -> tuple[int, ...]:
    """The absences that the chain will account for at the seat's next call."""
    last = progress.attempt_count - 1 if progress.open else progress.attempt_count
    if seat.position == 0:
        last = min(last, seat.last_attempt)
    count = max(0, last - seat.accounted_attempt)
    if seat.position != 0:
        count = min(count, MAX_MISSES - seat.miss_count)  # the last of them ends the seat
    return tuple(seat.accounted_attempt + 1 + offset for offset in range(count))


def compute_seat_bond_left(
    seat: SeatState, seat_bond: int, progress: RoundState, losses: Sequence[Loss]
) -> int:
    """What a withdrawal would return of the bond in POT.

    Args:
        seat: The seat.
        seat_bond: The bond of each seat.
        progress: The attempts of its task.
        losses: What the seat lost, with absences that are not accounted for yet.
    """
    missed = sorted(each.ordinal for each in losses if each.kind != "fraud")
    are_near = any(later - earlier < MISS_WINDOW for earlier, later in pairwise(missed))
    has_ended = seat.position == 0 and seat.last_attempt >= seat.bonded_from
    is_open = progress.open and seat.last_attempt == progress.attempt_count
    ends_with_miss = has_ended and not is_open and seat.last_attempt in missed
    if not seat.has_seat_bond or are_near or ends_with_miss:
        return 0
    misses = seat.miss_count + len(list_pending(seat, progress))
    return max(0, seat_bond - misses * (seat_bond // MISS_SHARE))


async def count_locked_blocks(
    view: TrainingView,
    history: TaskHistory,
    seat: SeatState,
    progress: RoundState,
    terms: TaskTerms,
) -> int | None:
    """The blocks until the bonds are free; None while the seat goes on, or if they are lost.

    While the seat's last attempt is open, it is the least number of blocks after its end.
    """
    pending = list_pending(seat, progress)
    is_over = seat.miss_count + len(pending) >= MAX_MISSES
    if seat.is_slashed or not (seat.position == 0 or is_over or history.is_closed):
        return None
    last = seat.get_last_attempt(progress.attempt_count)
    if last < seat.bonded_from:
        return 0
    if progress.open and last == progress.attempt_count:
        quorum = view.index.validator_set.quorum
        windows = 2 * compute_window_blocks(quorum)
        return compute_late_blocks(quorum, terms.verdict_seconds) + windows
    ended = await view.contracts.read(gradient_ledger.ended_attempt(history.task_id, last))
    until = ended.ended_block + ended.late_blocks + 2 * ended.window_blocks
    return max(0, until - view.chain.head().number) if ended.ended_block else 0


def measure_block_ms(chain: ChainView) -> int:
    """The average time between the latest blocks."""
    head = chain.head()
    first = max(1, chain.store.first_held(), head.number - MEASURED_BLOCKS)
    earlier = chain.store.header(BlockNumber(first))
    if earlier is None or earlier.number >= head.number:
        return 0
    return 1000 * (head.timestamp - earlier.timestamp) // (head.number - earlier.number)


def find_reason(seat: SeatState, misses: int) -> str:
    """Why a seat has ended."""
    if seat.is_slashed:
        return "fraud"
    if misses >= MAX_MISSES:
        return "misses"
    return "displaced" if seat.is_displaced else "left"
