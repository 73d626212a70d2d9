"""Reads a closed task from the storage of the contracts (docs/spec/consensus.md, section 10).

A node that joins by a snapshot needs little of each closed task, and there may be tens of thousands
of them. Reading their slots takes a tenth of the time that calls of views take. A struct has the
layout of solc: each field follows the one before, and begins a new slot if it does not fit. Tests
compare what is read with the tasks that the contracts' events tell.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from chain.contracts.addresses import GRADIENT_LEDGER, REWARD_DISTRIBUTOR, TASK_REGISTRY
from chain.contracts.ledger_storage import (
    LEDGER_TRAININGS,
    MODEL_ROOT_OFFSET,
    REGISTRY_ACCOUNTS,
    REGISTRY_LEASES,
    REGISTRY_TERMS,
    ReadSlot,
    encode_task_key,
    find_mapping_slot,
)
from chain.contracts.task_registry import CloseReason, TaskLease, TaskStatus
from chain.primitives import Address, BlockNumber, Hash32, TaskId

REGISTRY_ANSWERS: Final = 5
"""TaskRegistry._answers: by task and validator, the code of the answer plus 1."""

DISTRIBUTOR_POTS: Final = 0
"""RewardDistributor._pots. The first word is the root of the rewards."""

ACCOUNT_BITS: Final = (160, 8, 32, 8, 8, 64, 64, 64, 64, 256)
"""The fields of the struct TaskAccount up to `escrowed`."""

LEASE_BITS: Final = (64, 64, 64, 64, 64, 64, 32, 32, 32, 8, 128, 32, 64, 256, 256)
"""The fields of the struct TaskLease."""

TRAINING_BITS: Final = (32, 32, 32)
"""The first fields of the struct Training: round, attempt and number of the ballot."""

STATE_ROOT_OFFSET: Final = 6
"""Offset of `trainingStateRoot` in the struct Training, in words."""

WORD_BITS: Final = 256
"""The bits of a slot."""


@dataclass(frozen=True, slots=True)
class ClosedTask:
    """A closed task, as the contracts have stored it."""

    submitter: Address
    spec_hash: Hash32
    escrowed: int
    submitted_block: BlockNumber
    close_reason: CloseReason
    closed_block: BlockNumber
    closed_time: int
    lease: TaskLease
    answers: tuple[int, ...]
    """Of each validator that was asked for: the code of its answer plus 1, or 0."""
    rounds_settled: int
    ballot_count: int
    training_state_root: Hash32
    model_root: Hash32
    rewards_root: Hash32


def read_closed_task(
    read: ReadSlot, task: TaskId, validators: Sequence[Address]
) -> ClosedTask | None:
    """A task with the answers of these validators; None if it is not closed."""
    key = encode_task_key(task)
    place = find_mapping_slot(REGISTRY_ACCOUNTS, key)
    account = _iterate_fields(read, TASK_REGISTRY, place, ACCOUNT_BITS)
    submitter, status = next(account), next(account)
    if status != TaskStatus.CLOSED:
        return None
    _, _, close_reason, submitted, _, closed_block, closed_time, escrowed = account
    training = find_mapping_slot(LEDGER_TRAININGS, key)
    round_number, _, ballot_count = _iterate_fields(read, GRADIENT_LEDGER, training, TRAINING_BITS)
    # Both roots are zero before the first round is settled.
    model_slots = (training + STATE_ROOT_OFFSET, training + MODEL_ROOT_OFFSET)
    state_root, model_root = (
        read(GRADIENT_LEDGER, slot) if round_number else 0 for slot in model_slots
    )
    spec_hash = read(TASK_REGISTRY, find_mapping_slot(REGISTRY_TERMS, key))
    rewards_root = read(REWARD_DISTRIBUTOR, find_mapping_slot(DISTRIBUTOR_POTS, key))
    answers = find_mapping_slot(REGISTRY_ANSWERS, key)
    return ClosedTask(
        submitter=Address(submitter.to_bytes(20, "big")),
        spec_hash=Hash32(spec_hash.to_bytes(32, "big")),
        escrowed=escrowed,
        submitted_block=BlockNumber(submitted),
        close_reason=CloseReason(close_reason),
        closed_block=BlockNumber(closed_block),
        closed_time=closed_time,
        lease=_read_lease(read, task),
        answers=tuple(read(TASK_REGISTRY, find_mapping_slot(answers, each)) for each in validators),
        rounds_settled=round_number,
        ballot_count=ballot_count,
        training_state_root=Hash32(state_root.to_bytes(32, "big")),
        model_root=Hash32(model_root.to_bytes(32, "big")),
        rewards_root=Hash32(rewards_root.to_bytes(32, "big")),
    )


def _read_lease(read: ReadSlot, task: TaskId) -> TaskLease:
    place = find_mapping_slot(REGISTRY_LEASES, encode_task_key(task))
    lease = _iterate_fields(read, TASK_REGISTRY, place, LEASE_BITS)
    return TaskLease(
        window_time=next(lease),
        window_block=BlockNumber(next(lease)),
        end_time=next(lease),
        end_block=BlockNumber(next(lease)),
        progress_time=next(lease),
        progress_block=BlockNumber(next(lease)),
        lifetime_seconds=next(lease),
        attempts_left=next(lease),
        attempt_seconds=next(lease),
        refusal_code=next(lease),
        answer_pay=next(lease),
        idle_seconds=next(lease),
        idle_blocks=next(lease),
        held_pay=next(lease),
        held_rent=next(lease),
    )


def _iterate_fields(
    read: ReadSlot, contract: Address, base: int, widths: Sequence[int]
) -> Iterator[int]:
    """The first fields of a struct of integers of these widths, in bits."""
    slot, low = base, 0
    word = read(contract, slot)
    for width in widths:
        if low + width > WORD_BITS:
            slot, low = slot + 1, 0
            word = read(contract, slot)
        yield (word >> low) & ((1 << width) - 1)
        low += width
