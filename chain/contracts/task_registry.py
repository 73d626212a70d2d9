"""The contract that holds tasks and their escrow: calls, answers and events."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from chain.contracts import tables
from chain.contracts.abi import Contract, ContractCall, ContractView
from chain.contracts.addresses import TASK_REGISTRY
from chain.primitives import Address, BlockNumber, Hash32, TaskId

CONTRACT: Final = Contract(TASK_REGISTRY, tables.TASK_REGISTRY)
"""The contract that genesis deploys."""


class TaskStatus(IntEnum):
    """The statuses of a task, numbered as in the contract."""

    NONE = 0
    PENDING = 1
    ACTIVE = 2
    PAUSED = 3
    CLOSED = 4


class CloseReason(IntEnum):
    """The reason why a task was closed, numbered as in the contract."""

    COMPLETED = 0
    CANCELLED = 1
    EXPIRED = 2
    EXHAUSTED = 3


@dataclass(frozen=True, slots=True)
class TaskTerms:
    """The part of a specification that the contracts store, in the order of their struct."""

    spec_hash: Hash32
    token: Address
    unit_price: int
    """Base units of the token for one accepted unit."""
    validator_fee: int
    """Base units of the token for a settled round."""
    rounds: int
    min_miners: int
    max_units: int
    """Units of work in one round."""
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
    """0 before the task is active."""
    cancelling: bool
    escrowed: int
    paid: int
    reserved: int
    refundable: int
    refunded: int


@dataclass(frozen=True, slots=True)
class TaskSubmitted:
    """A task was submitted; its status is pending."""

    task_id: TaskId
    submitter: Address
    spec_hash: Hash32
    budget: int
    spec: bytes


@dataclass(frozen=True, slots=True)
class TaskFunded:
    """A task's escrow grew; `sender` paid."""

    task_id: TaskId
    sender: Address
    amount: int


@dataclass(frozen=True, slots=True)
class TaskReady:
    """A validator is ready to judge a task."""

    task_id: TaskId
    validator: Address
    ready_count: int


@dataclass(frozen=True, slots=True)
class TaskActivated:
    """A task became active, because a quorum of validators is ready."""

    task_id: TaskId


@dataclass(frozen=True, slots=True)
class TaskPaused:
    """A task was paused, because three attempts in a row were void."""

    task_id: TaskId


@dataclass(frozen=True, slots=True)
class TaskResumed:
    """A task was resumed by its submitter."""

    task_id: TaskId


@dataclass(frozen=True, slots=True)
class TaskClosed:
    """A task was closed."""

    task_id: TaskId
    reason: int
    """A `CloseReason`."""


@dataclass(frozen=True, slots=True)
class TaskRefunded:
    """The remaining escrow was refunded to the submitter."""

    task_id: TaskId
    to: Address
    amount: int


def submit_task(terms: TaskTerms, spec: bytes, budget: int) -> ContractCall:
    """Submit a task; `budget` base units must have been approved to the registry."""
    return CONTRACT.call("submitTask", terms, spec, budget)


def fund_task(task_id: TaskId, amount: int) -> ContractCall:
    """Add to the escrow; `amount` base units must have been approved to the registry."""
    return CONTRACT.call("fundTask", task_id, amount)


def post_ready(task_id: TaskId) -> ContractCall:
    """Vote that this validator is ready to judge a task; for operators."""
    return CONTRACT.call("postReady", task_id)


def cancel_task(task_id: TaskId) -> ContractCall:
    """Cancel a task; only its submitter may call this."""
    return CONTRACT.call("cancelTask", task_id)


def resume_task(task_id: TaskId) -> ContractCall:
    """Resume a paused task; only its submitter may call this."""
    return CONTRACT.call("resumeTask", task_id)


def refund_task(task_id: TaskId) -> ContractCall:
    """Refund a closed task's remaining escrow to its submitter; any account may call this."""
    return CONTRACT.call("refundTask", task_id)


def task_count() -> ContractView[int]:
    """The number of tasks submitted so far; their ids are 1 to this."""
    return CONTRACT.view("taskCount", returns=int)


def get_terms(task_id: TaskId) -> ContractView[TaskTerms]:
    """The terms of a task."""
    return CONTRACT.view("getTerms", task_id, returns=TaskTerms)


def get_account(task_id: TaskId) -> ContractView[TaskAccount]:
    """A task's status and money."""
    return CONTRACT.view("getAccount", task_id, returns=TaskAccount)


def is_ready(task_id: TaskId, operator: Address) -> ContractView[bool]:
    """Whether an operator account has voted that it is ready for a task."""
    return CONTRACT.view("isReady", task_id, operator, returns=bool)
