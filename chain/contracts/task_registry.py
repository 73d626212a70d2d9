"""The contract that holds tasks and their escrow: calls, answers and events."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from chain.contracts.abi import decode_struct, encode_call
from chain.primitives import Address, BlockNumber, Hash32, TaskId


class TaskStatus(IntEnum):
    """The registry's enum, number by number."""

    NONE = 0
    PENDING = 1
    ACTIVE = 2
    PAUSED = 3
    CLOSED = 4


class CloseReason(IntEnum):
    """Why a task was closed: the registry's enum."""

    COMPLETED = 0
    CANCELLED = 1
    EXPIRED = 2
    EXHAUSTED = 3


@dataclass(frozen=True, slots=True)
class TaskTerms:
    """What of a specification the contracts hold, in the order of their struct."""

    spec_hash: Hash32
    token: Address
    unit_price: int
    """Base units of the token for one accepted unit."""
    validator_fee: int
    """Base units a settled round."""
    rounds: int
    min_miners: int
    max_units: int
    """Of one round."""
    audit_ppm: int
    commit_seconds: int
    verdict_seconds: int
    result_seconds: int


@dataclass(frozen=True, slots=True)
class TaskAccount:
    """A task's state and money; amounts in base units of its token."""

    submitter: Address
    status: TaskStatus
    ready_count: int
    submitted_block: BlockNumber
    activated_block: BlockNumber
    """0 before."""
    cancelling: bool
    escrowed: int
    paid: int
    reserved: int
    refundable: int
    refunded: int


@dataclass(frozen=True, slots=True)
class TaskSubmitted:
    """A task is there, Pending."""

    task_id: TaskId
    submitter: Address
    spec_hash: Hash32
    budget: int
    spec: bytes


@dataclass(frozen=True, slots=True)
class TaskFunded:
    """Its escrow grew; `sender` paid."""

    task_id: TaskId
    sender: Address
    amount: int


@dataclass(frozen=True, slots=True)
class TaskReady:
    """A validator can judge it."""

    task_id: TaskId
    validator: Address
    ready_count: int


@dataclass(frozen=True, slots=True)
class TaskActivated:
    """A quorum is ready."""

    task_id: TaskId


@dataclass(frozen=True, slots=True)
class TaskPaused:
    """Three attempts in a row were void."""

    task_id: TaskId


@dataclass(frozen=True, slots=True)
class TaskResumed:
    """Its submitter goes on."""

    task_id: TaskId


@dataclass(frozen=True, slots=True)
class TaskClosed:
    """It is over."""

    task_id: TaskId
    reason: int
    """A `CloseReason`."""


@dataclass(frozen=True, slots=True)
class TaskRefunded:
    """What was left went back."""

    task_id: TaskId
    to: Address
    amount: int


_TERMS: Final = "(bytes32,address,uint128,uint128,uint32,uint32,uint32,uint32,uint32,uint32,uint32)"
"""TaskTerms."""


_ACCOUNT: Final = (
    "(address,uint8,uint32,uint64,uint64,bool,uint256,uint256,uint256,uint256,uint256)"
)
"""TaskAccount."""


POST_READY: Final = "postReady(uint256)"
"""An operator vote."""


def encode_submit_task(terms: TaskTerms, spec: bytes, budget: int) -> bytes:
    """A new task; `budget` base units must have been approved to the registry."""
    return encode_call(
        f"submitTask({_TERMS},bytes,uint256)",
        (
            terms.spec_hash,
            terms.token,
            terms.unit_price,
            terms.validator_fee,
            terms.rounds,
            terms.min_miners,
            terms.max_units,
            terms.audit_ppm,
            terms.commit_seconds,
            terms.verdict_seconds,
            terms.result_seconds,
        ),
        spec,
        budget,
    )


def encode_fund_task(task_id: TaskId, amount: int) -> bytes:
    """More escrow; `amount` base units must have been approved to the registry."""
    return encode_call("fundTask(uint256,uint256)", task_id, amount)


def encode_post_ready(task_id: TaskId) -> bytes:
    """An operator vote: this validator can judge the task."""
    return encode_call(POST_READY, task_id)


def encode_cancel_task(task_id: TaskId) -> bytes:
    """The submitter's."""
    return encode_call("cancelTask(uint256)", task_id)


def encode_resume_task(task_id: TaskId) -> bytes:
    """The submitter's, of a paused task."""
    return encode_call("resumeTask(uint256)", task_id)


def encode_refund_task(task_id: TaskId) -> bytes:
    """Anyone's, of a closed task."""
    return encode_call("refundTask(uint256)", task_id)


def encode_task_count() -> bytes:
    """Answers `decode_uint`."""
    return encode_call("taskCount()")


def encode_get_terms(task_id: TaskId) -> bytes:
    """Answers `decode_terms`."""
    return encode_call("getTerms(uint256)", task_id)


def encode_get_account(task_id: TaskId) -> bytes:
    """Answers `decode_account`."""
    return encode_call("getAccount(uint256)", task_id)


def encode_is_ready(task_id: TaskId, operator: Address) -> bytes:
    """Answers `decode_uint`: 0 or 1."""
    return encode_call("isReady(uint256,address)", task_id, operator)


def decode_terms(data: bytes) -> TaskTerms:
    """The registry's `getTerms`."""
    build: Callable[..., TaskTerms] = TaskTerms
    return build(*decode_struct(_TERMS, data))


def decode_account(data: bytes) -> TaskAccount:
    """The registry's `getAccount`."""
    submitter, status, *rest = decode_struct(_ACCOUNT, data)
    build: Callable[..., TaskAccount] = TaskAccount
    assert isinstance(status, int)
    return build(submitter, TaskStatus(status), *rest)
