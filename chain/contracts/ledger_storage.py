"""Storage slots of the training contracts, for Merkle proofs (docs/spec/rpc.md, section 9).

Miners verify these values with proofs instead of trusting a node. The layout is solc's: the value
of `mapping[key]` at slot p starts at keccak(key . p), and the elements of an array at keccak(p). A
test compares the slot numbers with the compiled contracts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from chain.contracts.addresses import GRADIENT_LEDGER, MINER_SEATS, TASK_REGISTRY
from chain.contracts.miner_seats import MAX_MISSES
from chain.contracts.task_registry import TaskStatus
from chain.crypto import keccak256
from chain.primitives import Address, BlockNumber, Hash32, TaskId

ReadSlot = Callable[[Address, int], int]
"""Returns the value of a storage slot of a contract."""

LEDGER_TRAININGS: Final = 0
"""GradientLedger._trainings: by task, its round and its attempt in progress."""

LEDGER_TERMS_OFFSET: Final = 3
"""Offset in the struct Training, in words, of the terms with `commitSeconds`, and `endedBlock`."""

SEATS_TASKS: Final = 0
"""MinerSeats._tasks: by task, its terms and the units of its seats."""

SEATS_MEMBERS: Final = 1
"""MinerSeats._members: by task, the list of the miners that have a seat."""

SEATS_SEATS: Final = 2
"""MinerSeats._seats: by task and miner, the seat, also one that has ended."""

REGISTRY_TASK_COUNT: Final = 0
"""TaskRegistry.taskCount: the number of tasks, which is the highest id as well."""

REGISTRY_TERMS: Final = 1
"""TaskRegistry._terms. The first word is the specification's hash."""

REGISTRY_ACCOUNTS: Final = 2
"""TaskRegistry._accounts. The low bytes of the first word are the submitter, then the status."""

REGISTRY_LEASES: Final = 4
"""TaskRegistry._leases: by task, what was bought for it."""

REFUNDABLE_OFFSET: Final = 5
"""Offset of `refundable` in the struct TaskAccount, in words."""

DISTRIBUTOR_POTS: Final = 0
"""RewardDistributor._pots: by task, its pay and what was claimed of it."""

CLAIMED_OFFSET: Final = 3
"""Offset of the mapping `claimed` in the struct Pot, in words."""

MODEL_ROOT_OFFSET: Final = 7
"""Offset of `modelRoot` in the struct Training, in words."""


@dataclass(frozen=True, slots=True)
class AttemptState:
    """The current attempt of a task."""

    round_number: int
    attempt_number: int
    ordinal: int
    """Counts all attempts of the task, from 1."""
    is_open: bool
    open_block: BlockNumber
    open_time: int
    """Seconds since the Unix epoch."""
    verdict_block: BlockNumber
    """The block of the last expected commitment, or in which a later ballot began; 0 before."""
    floor_blocks: int
    """The least blocks of each phase of the attempt."""
    model_root: Hash32
    """The root after the last settled round; zero before the first."""


@dataclass(frozen=True, slots=True)
class OpeningState:
    """What decides whether a task can open an attempt, besides its terms."""

    status: TaskStatus
    is_open: bool
    """Whether an attempt is in progress."""
    seat_count: int
    registered_units: int
    """The units of all these seats."""
    refundable: int
    """What the escrow has for further rounds, in base units of the task's token."""
    attempts_left: int
    attempt_seconds: int
    """The longest course of an attempt."""
    end_time: int
    """The end of the lifetime is this time and this block, whichever is later."""
    end_block: BlockNumber


@dataclass(frozen=True, slots=True)
class StoredSeat:
    """A miner's seat in a task, as the contract stores it in one slot."""

    units: int
    """The declared units; 0 for an account that has no seat."""
    first_attempt: int
    """The ordinal of the first attempt in which the seat takes part."""
    committed_attempt: int
    """The ordinal of the attempt in which the miner committed last; 0 if it never did."""
    miss_count: int
    has_ended: bool
    """Whether the seat has ended: the miner left, was displaced, missed twice or was slashed."""
    is_slashed: bool
    """Whether a fraud has taken both bonds; the miner may register again."""
    registered_block: BlockNumber
    is_displaced: bool = False
    """Whether a newcomer ended the seat."""
    last_attempt: int = 0
    """The ordinal of the last attempt in which the seat took part before it ended last; 0 if there
    is none."""
    has_seat_bond: bool = True
    """Whether a part of the seat bond is left."""

    @property
    def has_seat(self) -> bool:
        """Whether the miner takes part in the next attempt."""
        return self.units > 0 and not self.has_ended

    @property
    def can_return(self) -> bool:
        """Whether a newcomer ended the seat, and its bonds still answer for a further term."""
        return self.has_bonds_to_return and self.is_displaced and self.miss_count < MAX_MISSES

    @property
    def has_bonds_to_return(self) -> bool:
        """Whether the seat has ended, and its bonds wait for the miner to withdraw them."""
        return self.units > 0 and self.has_ended and not self.is_slashed

    def takes_part(self, ordinal: int) -> bool:
        """Whether the miner takes part in an attempt, of which the ledger asks the same."""
        return (
            self.units > 0
            and not self.is_slashed
            and self.first_attempt <= ordinal
            and (not self.has_ended or self.last_attempt >= ordinal)
        )


def find_mapping_slot(position: int, key: bytes) -> int:
    """The slot of `mapping[key]`, for a mapping at a position."""
    word = key.rjust(32, b"\x00") + position.to_bytes(32, "big")
    return int.from_bytes(keccak256(word), "big")


def encode_task_key(task: TaskId) -> bytes:
    """The key of a task in a mapping."""
    return task.to_bytes(32, "big")


def _element_slot(position: int, index: int) -> int:
    return int.from_bytes(keccak256(position.to_bytes(32, "big")), "big") + index


def _seat_slot(task: TaskId, miner: Address) -> int:
    return find_mapping_slot(find_mapping_slot(SEATS_SEATS, encode_task_key(task)), miner)


def _bits(word: int, low: int, count: int) -> int:
    return (word >> low) & ((1 << count) - 1)


def list_attempt_slots(task: TaskId) -> tuple[int, ...]:
    """The slots of the GradientLedger that `read_attempt` reads."""
    base = find_mapping_slot(LEDGER_TRAININGS, encode_task_key(task))
    return base, base + 1, base + 2, base + MODEL_ROOT_OFFSET


def read_attempt(read: ReadSlot, task: TaskId) -> AttemptState:
    """The current attempt of a task."""
    place, times, votes, model = (read(GRADIENT_LEDGER, slot) for slot in list_attempt_slots(task))
    return AttemptState(
        round_number=_bits(place, 0, 32),
        attempt_number=_bits(place, 32, 32),
        ordinal=_bits(place, 96, 32),
        is_open=_bits(place, 144, 8) == 1,
        open_block=BlockNumber(_bits(times, 0, 64)),
        open_time=_bits(times, 64, 64),
        verdict_block=BlockNumber(_bits(times, 128, 64)),
        floor_blocks=_bits(votes, 232, 16),
        model_root=Hash32(model.to_bytes(32, "big")),
    )


def list_participant_slots(task: TaskId, miners: Sequence[Address]) -> tuple[int, ...]:
    """The slots of MinerSeats that `read_participants` reads if `miners` have seats."""
    members = find_mapping_slot(SEATS_MEMBERS, encode_task_key(task))
    return (
        members,
        *(_element_slot(members, index) for index in range(len(miners))),
        *(_seat_slot(task, miner) for miner in miners),
    )


def read_participants(
    read: ReadSlot, task: TaskId, ordinal: int
) -> tuple[tuple[Address, int], ...]:
    """The miners that take part in an attempt with their declared units, by ascending address.

    They are the seats after the block that opened it, without those that were taken after it opened
    in that block.
    """
    members = find_mapping_slot(SEATS_MEMBERS, encode_task_key(task))
    count = read(MINER_SEATS, members)
    miners = [
        Address(read(MINER_SEATS, _element_slot(members, index)).to_bytes(32, "big")[12:])
        for index in range(count)
    ]
    seats = [(miner, read_seat(read, task, miner)) for miner in sorted(miners)]
    return tuple((miner, seat.units) for miner, seat in seats if seat.first_attempt <= ordinal)


def list_seat_slots(task: TaskId, miner: Address) -> tuple[int, ...]:
    """The slots of MinerSeats that `read_seat` reads."""
    return (_seat_slot(task, miner),)


def read_seat(read: ReadSlot, task: TaskId, miner: Address) -> StoredSeat:
    """The seat of a miner in a task; one with 0 units if the miner has none."""
    word = read(MINER_SEATS, _seat_slot(task, miner))
    return StoredSeat(
        units=_bits(word, 0, 32),
        first_attempt=_bits(word, 32, 32),
        committed_attempt=_bits(word, 128, 32),
        miss_count=_bits(word, 192, 8),
        has_ended=_bits(word, 160, 32) == 0,
        has_seat_bond=_bits(word, 200, 8) != 0,
        is_slashed=_bits(word, 208, 8) != 0,
        registered_block=BlockNumber(_bits(word, 216, 32)),
        is_displaced=_bits(word, 248, 8) != 0,
        last_attempt=_bits(word, 64, 32),
    )


def find_claimed_slot(task: TaskId, account: Address) -> int:
    """The slot of RewardDistributor with what an account has claimed in a task so far."""
    return find_mapping_slot(
        find_mapping_slot(DISTRIBUTOR_POTS, encode_task_key(task)) + CLAIMED_OFFSET, account
    )


def may_commit(read: ReadSlot, task: TaskId, miner: Address) -> bool:
    """Whether a miner may commit in the attempt in progress, or in one that opens next.

    An account can take a seat and give it up in one block, for nothing; such a seat takes part in
    no attempt.
    """
    seat = read_seat(read, task, miner)
    if not seat.units or seat.is_slashed:
        return False
    if not seat.has_ended:
        _, status = read_task(read, task)
        return status in (TaskStatus.ACTIVE, TaskStatus.PAUSED)
    attempt = read_attempt(read, task)
    return (
        attempt.is_open
        and seat.takes_part(attempt.ordinal)
        and seat.committed_attempt != attempt.ordinal
    )


def is_commitment_expected(
    read: ReadSlot,
    task: TaskId,
    miner: Address,
    place: tuple[int, int, int],
    moment: tuple[BlockNumber, int],
) -> bool:
    """Whether the ledger would accept a commitment in a block.

    Args:
        read: Returns a slot after the block before.
        task: The task.
        miner: The sender.
        place: The round, the attempt and the units that the commitment names.
        moment: The number and the timestamp of the block.
    """
    seat = read_seat(read, task, miner)
    if not seat.units or seat.is_slashed:
        return False
    attempt = read_attempt(read, task)
    return (
        attempt.is_open
        and not attempt.verdict_block
        and place == (attempt.round_number, attempt.attempt_number, seat.units)
        and seat.takes_part(attempt.ordinal)
        and seat.committed_attempt != attempt.ordinal
        and not _is_commitment_phase_over(read, task, attempt, moment)
    )


def _is_commitment_phase_over(
    read: ReadSlot, task: TaskId, attempt: AttemptState, moment: tuple[BlockNumber, int]
) -> bool:
    terms_slot = find_mapping_slot(LEDGER_TRAININGS, encode_task_key(task)) + LEDGER_TERMS_OFFSET
    commit_seconds = _bits(read(GRADIENT_LEDGER, terms_slot), 96, 32)
    number, timestamp = moment
    return (
        timestamp >= attempt.open_time + commit_seconds
        and number >= attempt.open_block + attempt.floor_blocks
    )


def list_opening_slots(task: TaskId) -> dict[Address, tuple[int, ...]]:
    """The slots that `read_opening` and `read_ended_block` read, by contract."""
    key = encode_task_key(task)
    training = find_mapping_slot(LEDGER_TRAININGS, key)
    account, lease = (
        find_mapping_slot(REGISTRY_ACCOUNTS, key),
        find_mapping_slot(REGISTRY_LEASES, key),
    )
    return {
        GRADIENT_LEDGER: (training, training + LEDGER_TERMS_OFFSET),
        MINER_SEATS: (find_mapping_slot(SEATS_MEMBERS, key), find_mapping_slot(SEATS_TASKS, key)),
        TASK_REGISTRY: (account, account + REFUNDABLE_OFFSET, lease, lease + 1),
    }


def read_opening(read: ReadSlot, task: TaskId) -> OpeningState:
    """What decides whether a task can open an attempt."""
    slots = list_opening_slots(task)
    place, _ = (read(GRADIENT_LEDGER, slot) for slot in slots[GRADIENT_LEDGER])
    seat_count, seats = (read(MINER_SEATS, slot) for slot in slots[MINER_SEATS])
    account, refundable, ends, counts = (read(TASK_REGISTRY, slot) for slot in slots[TASK_REGISTRY])
    return OpeningState(
        status=TaskStatus(_bits(account, 160, 8)),
        is_open=_bits(place, 144, 8) == 1,
        seat_count=seat_count,
        registered_units=_bits(seats, 224, 32),
        refundable=refundable,
        attempts_left=_bits(counts, 160, 32),
        attempt_seconds=_bits(counts, 192, 32),
        end_time=_bits(ends, 128, 64),
        end_block=BlockNumber(_bits(ends, 192, 64)),
    )


def read_ended_block(read: ReadSlot, task: TaskId) -> BlockNumber:
    """The block in which the last attempt of a task ended; 0 if none has ended."""
    _, terms_slot = list_opening_slots(task)[GRADIENT_LEDGER]
    return BlockNumber(_bits(read(GRADIENT_LEDGER, terms_slot), 192, 64))


def list_task_slots(task: TaskId) -> tuple[int, ...]:
    """The slots of the TaskRegistry that `read_task` reads."""
    key = encode_task_key(task)
    return find_mapping_slot(REGISTRY_TERMS, key), find_mapping_slot(REGISTRY_ACCOUNTS, key)


def read_task(read: ReadSlot, task: TaskId) -> tuple[Hash32, TaskStatus]:
    """The hash of a task's specification, and its status."""
    spec_hash, account = (read(TASK_REGISTRY, slot) for slot in list_task_slots(task))
    return Hash32(spec_hash.to_bytes(32, "big")), TaskStatus(_bits(account, 160, 8))
