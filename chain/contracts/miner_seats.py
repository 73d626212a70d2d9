"""The contract of miners' seats: calls, answers and events (docs/spec/contracts.md, section 6)."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from chain.contracts import tables
from chain.contracts.abi import Contract, ContractCall, ContractView
from chain.contracts.addresses import MINER_SEATS
from chain.primitives import Address, BlockNumber, Hash32, TaskId

CONTRACT: Final = Contract(MINER_SEATS, tables.MINER_SEATS)
"""The contract that genesis deploys."""

MAX_MINERS: Final = 1_024
"""The most seats of a task."""

MAX_FINES: Final = 16
"""The most fines of one `slash` call."""

MAX_ENDED_SEATS: Final = 64
"""The most seats of one `endSeats` call."""

MISS_SHARE: Final = 8
"""A miss costs the pay of one round, and the seat bond, divided by this."""

MAX_MISSES: Final = 2
"""The bond covers so many misses, and then the seat ends."""

MISS_WINDOW: Final = 8
"""Two misses in so many attempts burn the seat bond."""

DISPLACED_PER_UNIT: Final = 2
"""A newcomer displaces at most so many units for each of its own."""

IDLE_BLOCKS: Final = 256
"""A seat in a task that opens no attempt may leave after so many blocks."""

ATTEMPT_RING: Final = 512
"""The contract keeps the approved fines of so many latest attempts of a task."""


class FineKind(IntEnum):
    """What a fine takes, numbered as in the contract."""

    MISS = 0
    """An eighth of the round's pay and of the seat bond."""
    DEVIATION = 1
    """Reserved for tasks in which only a sample of the gradients is re-executed."""
    FRAUD = 2
    """The whole bond."""


@dataclass(frozen=True, slots=True)
class SeatState:
    """A miner's seat in a task; `units` is 0 if it has none."""

    units: int
    first_attempt: int
    """The ordinal of the first attempt in which the seat takes part."""
    last_attempt: int
    """The ordinal of the last one, once the seat has ended."""
    accounted_attempt: int
    """Absence is accounted for up to this attempt."""
    committed_attempt: int
    """The attempt of the miner's last commitment."""
    position: int
    """0 once the seat has ended."""
    miss_count: int
    has_seat_bond: bool
    """Less an eighth for each miss."""
    is_slashed: bool
    """Whether the miner lost its bond; it may register again."""
    registered_block: BlockNumber
    bond: int


@dataclass(frozen=True, slots=True)
class Participant:
    """A miner with a seat and its declared units of work in a round."""

    miner: Address
    units: int


@dataclass(frozen=True, slots=True)
class ListedSeat:
    """A seat that has not ended."""

    miner: Address
    units: int
    first_attempt: int


@dataclass(frozen=True, slots=True)
class Fine:
    """A leaf of an attempt's tree of fines."""

    ballot: int
    """The ballot whose verdicts cost the fine."""
    index: int
    """The index of the commitment."""
    miner: Address
    kind: FineKind
    accusers: int
    """Bit i: validator i of the judging set said cheat in time."""


@dataclass(frozen=True, slots=True)
class MinerRegistered:
    """A miner took a seat; it takes part from the next attempt on."""

    task_id: TaskId
    miner: Address
    units: int
    bond: int
    seat_bond: int
    """Base units of POT."""


@dataclass(frozen=True, slots=True)
class MinerLeft:
    """A seat ended: its miner left, was displaced, missed twice or committed a fraud."""

    task_id: TaskId
    miner: Address


@dataclass(frozen=True, slots=True)
class BondWithdrawn:
    """A miner took its bonds back, or the bond in POT alone."""

    task_id: TaskId
    miner: Address
    amount: int
    seat_bond: int


@dataclass(frozen=True, slots=True)
class MinerAbsent:
    """A miner took part in an attempt and did not commit, which is a miss."""

    task_id: TaskId
    miner: Address
    ordinal: int
    amount: int


@dataclass(frozen=True, slots=True)
class MinerFined:
    """A miner was fined for its commitment to an attempt."""

    task_id: TaskId
    miner: Address
    ordinal: int
    kind: FineKind
    amount: int


@dataclass(frozen=True, slots=True)
class SeatBondBurnt:
    """A seat lost an eighth of its bond in POT for a miss, or all that was left of it.

    It loses the rest for two misses in eight attempts, a miss in its last attempt, or a fraud.
    """

    task_id: TaskId
    miner: Address
    amount: int


@dataclass(frozen=True, slots=True)
class FinesPosted:
    """An operator voted on the root of an attempt's fines."""

    task_id: TaskId
    validator: Address
    ordinal: int
    is_closing: bool
    root: Hash32


@dataclass(frozen=True, slots=True)
class FinesApproved:
    """A quorum voted for the root of an attempt's fines."""

    task_id: TaskId
    ordinal: int
    is_closing: bool
    root: Hash32


@dataclass(frozen=True, slots=True)
class CreditWithdrawn:
    """An account withdrew its share of bonds."""

    token: Address
    account: Address
    amount: int


def register(task_id: TaskId, units: int, displaced: Sequence[Address] = ()) -> ContractCall:
    """Take a seat; both bonds must have been approved to the contract.

    Args:
        task_id: The task.
        units: Units of work in each round.
        displaced: Seats whose term is over, which leave because the task is full.
    """
    return CONTRACT.call("register", task_id, units, displaced)


def leave(task_id: TaskId) -> ContractCall:
    """Leave a task at the end of the attempt in progress."""
    return CONTRACT.call("leave", task_id)


def withdraw_bond(task_id: TaskId) -> ContractCall:
    """Take the caller's bonds back, once they are not locked any more."""
    return CONTRACT.call("withdrawBond", task_id)


def withdraw_seat_bond(task_id: TaskId) -> ContractCall:
    """Take the caller's bond in POT back, whatever becomes of the task's token."""
    return CONTRACT.call("withdrawSeatBond", task_id)


def compute_least_units(max_units: int) -> int:
    """The least units of a seat: so small ones cannot take all places and leave units free."""
    return -(-max_units // MAX_MINERS)


def compute_free_units(max_units: int, min_miners: int, taken: Sequence[int]) -> int:
    """The most units that a newcomer may have without displacing a seat.

    No attempt opens without `min_miners` seats, so the first ones leave a least seat for each of
    the others.

    Args:
        max_units: The units of a round.
        min_miners: The seats that an attempt needs to open.
        taken: The units of each seat that has not ended.
    """
    missing = max(0, min_miners - len(taken) - 1)
    return max_units - sum(taken) - missing * compute_least_units(max_units)


def end_seats(task_id: TaskId, miners: Sequence[Address]) -> ContractCall:
    """End the seats of miners that missed twice; any account may call this."""
    return CONTRACT.call("endSeats", task_id, miners)


def post_fines(task_id: TaskId, ordinal: int, root: Hash32) -> ContractCall:
    """Vote on the root of the fines of an ended attempt; for operators."""
    return CONTRACT.call("postFines", task_id, ordinal, root)


def slash(
    task_id: TaskId, ordinal: int, fines: Sequence[tuple[Fine, Sequence[Hash32]]]
) -> ContractCall:
    """Impose fines that an approved root contains; any account may call this.

    Args:
        task_id: The task.
        ordinal: The attempt.
        fines: Each with its proof, at most `MAX_FINES`.
    """
    proofs = [list(proof) for _, proof in fines]
    return CONTRACT.call("slash", task_id, ordinal, [fine for fine, _ in fines], proofs)


def withdraw_credit(token: Address) -> ContractCall:
    """Withdraw the caller's share of bonds."""
    return CONTRACT.call("withdrawCredit", token)


def get_seat(task_id: TaskId, miner: Address) -> ContractView[SeatState]:
    """A miner's seat in a task."""
    return CONTRACT.view("getSeat", task_id, miner, returns=SeatState)


def seat_count(task_id: TaskId) -> ContractView[int]:
    """The number of seats of a task that have not ended."""
    return CONTRACT.view("seatCount", task_id, returns=int)


def list_seats(task_id: TaskId) -> ContractView[tuple[ListedSeat, ...]]:
    """The seats of a task that have not ended, by ascending address of the miner."""
    return CONTRACT.view("listSeats", task_id, returns=_build_seats)


def participants(task_id: TaskId) -> ContractView[tuple[Participant, ...]]:
    """The miners that take part in the attempt that opened last, by ascending address.

    Ask in the state after the block that opened it.
    """
    return CONTRACT.view("participants", task_id, returns=_build_participants)


def list_over(task_id: TaskId, limit: int) -> ContractView[tuple[Address, ...]]:
    """The miners whose seats `end_seats` would end, at most `limit`."""
    return CONTRACT.view("listOver", task_id, limit, returns=tuple)


def required_bond(task_id: TaskId, units: int) -> ContractView[int]:
    """The bond in the task's token for that many units."""
    return CONTRACT.view("requiredBond", task_id, units, returns=int)


def seat_bond() -> ContractView[int]:
    """The bond of each seat in base units of POT."""
    return CONTRACT.view("seatBond", returns=int)


def seat_attempts() -> ContractView[int]:
    """The term of a seat, in attempts."""
    return CONTRACT.view("seatAttempts", returns=int)


def credit_of(token: Address, account: Address) -> ContractView[int]:
    """The base units of bonds that an account may withdraw."""
    return CONTRACT.view("creditOf", token, account, returns=int)


def encode_constructor(seat_bond: int, seat_attempts: int) -> bytes:
    """The constructor's arguments: the bond of a seat, in base units of POT, and its term."""
    return CONTRACT.encode_constructor(seat_bond, seat_attempts)


def _build_participants(
    miners: tuple[Address, ...], units: tuple[int, ...]
) -> tuple[Participant, ...]:
    return tuple(Participant(*pair) for pair in sorted(zip(miners, units, strict=True)))


def _build_seats(
    miners: tuple[Address, ...], units: tuple[int, ...], first_attempts: tuple[int, ...]
) -> tuple[ListedSeat, ...]:
    rows = zip(miners, units, first_attempts, strict=True)
    return tuple(ListedSeat(*row) for row in sorted(rows))
