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
"""A miss costs the pay of one round and the seat bond, each divided by this."""

MAX_MISSES: Final = 2
"""The bond covers so many misses besides a fraud; then the seat ends."""

MISS_WINDOW: Final = 8
"""Two misses within so many attempts burn all of the seat bond."""

DISPLACED_PER_UNIT: Final = 2
"""A newcomer may displace seats with at most so many units for each unit of its own."""

IDLE_BLOCKS: Final = 256
"""A miner that never took part in an attempt may leave once none opened for so many blocks."""

ATTEMPT_RING: Final = 512
"""The contract keeps the approved fines of so many latest attempts of a task."""


class FineKind(IntEnum):
    """What a fine takes, numbered as in the contract."""

    MISS = 0
    """An eighth of the round's pay and of the seat bond."""
    DEVIATION = 1
    """Reserved for tasks in which only a sample of the gradients is re-executed."""
    FRAUD = 2
    """The whole bond and the seat bond."""


@dataclass(frozen=True, slots=True)
class SeatState:
    """A miner's seat in a task, as the contract answers."""

    units: int
    """The units of work that the miner declared for each round; 0 if it has no seat."""
    first_attempt: int
    """The ordinal of the first attempt in which the seat takes part since it was taken last."""
    last_attempt: int
    """The ordinal of the last attempt in which it took part before it ended last; 0 if none."""
    accounted_attempt: int
    """The miner is charged for its absences up to the attempt with this ordinal."""
    committed_attempt: int
    """The ordinal of the attempt of the miner's last commitment; 0 before the first."""
    position: int
    """The place in the contract's list of seats, from 1; 0 once the seat has ended."""
    miss_count: int
    has_seat_bond: bool
    """Whether a part of the seat bond is left: an eighth less for each miss."""
    is_slashed: bool
    """Whether a fraud has taken both bonds; the miner may register again."""
    registered_block: BlockNumber
    """When the seat was taken last."""
    is_displaced: bool
    """Whether a newcomer ended the seat."""
    bond: int
    """What is left of it, in base units of the task's token."""
    bonded_from: int
    """The bonds answer for attempts from this ordinal on, before the seat was taken again, too."""
    has_displaced: bool
    """Whether seats past their term ended to make room when it was taken last."""

    def get_last_attempt(self, attempt_count: int) -> int:
        """The ordinal of the last attempt that the seat takes part in; 0 if there is none.

        Args:
            attempt_count: The ordinal of the attempt that the task opened last.
        """
        is_ongoing = self.position != 0 and attempt_count >= self.first_attempt
        return attempt_count if is_ongoing else self.last_attempt


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
    """The fine follows from the verdicts of this ballot of the attempt."""
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
    """A seat lost an eighth of its bond in POT for a miss, or all that was left of that bond.

    Two misses within eight attempts, a miss in its last attempt, or a fraud cost all that is left.
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
    """An account withdrew its shares of bonds that frauds have cost."""

    token: Address
    account: Address
    amount: int


def register(task_id: TaskId, units: int, displaced: Sequence[Address] = ()) -> ContractCall:
    """Take a seat; both bonds must have been approved to the contract.

    Args:
        task_id: The task.
        units: Units of work in each round.
        displaced: The miners whose seats are to end, because the task is full and their terms are
            over.
    """
    return CONTRACT.call("register", task_id, units, displaced)


def leave(task_id: TaskId) -> ContractCall:
    """Leave a task at the end of the attempt in progress."""
    return CONTRACT.call("leave", task_id)


def withdraw_bond(task_id: TaskId) -> ContractCall:
    """Take both bonds of the caller back. The contract refuses while they are locked."""
    return CONTRACT.call("withdrawBond", task_id)


def withdraw_seat_bond(task_id: TaskId) -> ContractCall:
    """Take only the caller's bond in POT back, for a task whose token refuses transfers."""
    return CONTRACT.call("withdrawSeatBond", task_id)


def compute_least_units(max_units: int) -> int:
    """The least units of a seat, or small seats could take all places and leave units free."""
    return -(-max_units // MAX_MINERS)


def compute_highest_min_units(max_units: int) -> int:
    """The highest bound for the units that an attempt needs.

    As long as seats have fewer, a further seat of the least units fits. Otherwise seats that leave
    fewer units free than a seat must have would keep the task from opening any attempt.
    """
    return max_units - compute_least_units(max_units) + 1


def compute_free_units(max_units: int, min_miners: int, taken: Sequence[int]) -> int:
    """The most units that a newcomer may have without displacing a seat.

    No attempt opens without `min_miners` seats. So while seats are missing, the least units of a
    seat stay free for each further one that is missing.

    Args:
        max_units: The units of a round.
        min_miners: The seats without which no attempt opens.
        taken: The units of each seat that has not ended.
    """
    missing = max(0, min_miners - len(taken) - 1)
    return max_units - sum(taken) - missing * compute_least_units(max_units)


def end_seats(task_id: TaskId, miners: Sequence[Address]) -> ContractCall:
    """End the seats of miners that missed twice; any account may call this."""
    return CONTRACT.call("endSeats", task_id, miners)


def post_fines(task_id: TaskId, ordinal: int, root: Hash32) -> ContractCall:
    """Vote for a root of the fines of an attempt that has ended; for operators."""
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
    """Withdraw the caller's shares of bonds that frauds have cost."""
    return CONTRACT.call("withdrawCredit", token)


def get_seat(task_id: TaskId, miner: Address) -> ContractView[SeatState]:
    """A miner's seat in a task."""
    return CONTRACT.view("getSeat", task_id, miner, returns=SeatState)


def seat_count(task_id: TaskId) -> ContractView[int]:
    """The number of seats of a task that have not ended."""
    return CONTRACT.view("seatCount", task_id, returns=int)


def registered_units(task_id: TaskId) -> ContractView[int]:
    """The units of the seats of a task that have not ended, together."""
    return CONTRACT.view("registeredUnits", task_id, returns=int)


def list_seats(task_id: TaskId) -> ContractView[tuple[ListedSeat, ...]]:
    """The seats of a task that have not ended, by ascending address of the miner."""
    return CONTRACT.view("listSeats", task_id, returns=_build_seats)


def participants(task_id: TaskId) -> ContractView[tuple[Participant, ...]]:
    """The miners that take part in the attempt that opened last, by ascending address.

    Ask in the state after the block that opened it.
    """
    return CONTRACT.view("participants", task_id, returns=_build_participants)


def list_over(task_id: TaskId, limit: int) -> ContractView[tuple[Address, ...]]:
    """Miners whose seats have two misses, so that `end_seats` would end them; at most `limit`."""
    return CONTRACT.view("listOver", task_id, limit, returns=tuple)


def required_bond(task_id: TaskId, units: int) -> ContractView[int]:
    """The bond of a seat with that many units, in base units of the task's token."""
    return CONTRACT.view("requiredBond", task_id, units, returns=int)


def seat_bond() -> ContractView[int]:
    """The bond of each seat in base units of POT."""
    return CONTRACT.view("seatBond", returns=int)


def seat_attempts() -> ContractView[int]:
    """The term of a seat: the attempts after which a newcomer to a full task may displace it."""
    return CONTRACT.view("seatAttempts", returns=int)


def credit_of(token: Address, account: Address) -> ContractView[int]:
    """What an account may withdraw of the bonds that frauds have cost, in base units of `token`."""
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
