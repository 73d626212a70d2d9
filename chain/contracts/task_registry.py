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
    REFUSED = 3


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
    """An attempt opens with at least so many seats."""
    min_units: int
    """And with at least so many units of all seats together."""
    max_units: int
    """Units of work in one round."""
    audit_ppm: int
    commit_seconds: int
    verdict_seconds: int
    result_seconds: int


@dataclass(frozen=True, slots=True)
class TaskResources:
    """The most that a task takes of one validator, as declared, in the order of the contract."""

    unit_milliseconds: int
    """Time of a worker to check one unit."""
    evaluation_milliseconds: int
    """Time of a worker to evaluate a model, or to combine the gradients of a round."""
    peak_bytes: int
    """Memory of a worker."""
    disk_bytes: int
    """What is kept for the task."""


@dataclass(frozen=True, slots=True)
class Prices:
    """The prices of a network in base units of POT, in the order of the contract."""

    task_slots: int
    slot_price: int
    second_price: int
    byte_price: int
    examination_fee: int
    pending_seconds: int
    max_lifetime_seconds: int
    idle_seconds: int
    empty_block_milliseconds: int
    phase_floor_blocks: int


@dataclass(frozen=True, slots=True)
class Quote:
    """The parts of a fee, in base units of POT."""

    pending_rent: int
    """For the time in which the task is examined; burnt at once."""
    answer_pay: int
    """For one answer of a validator."""
    examination: int
    """For one answer of each validator."""
    rent: int
    """For the slot, memory and disk during the lifetime."""
    computation: int
    """For the validators' time in the attempts."""
    fee: int
    """All parts together."""


@dataclass(frozen=True, slots=True)
class TaskLease:
    """What was bought for a task, and when it ends.

    A time is in seconds since the Unix epoch. A moment is a time and a block, and has passed when
    both have: a chain that stands still takes no lifetime away.
    """

    window_time: int
    """Answers are accepted, and the task may be pending, until this moment."""
    window_block: BlockNumber
    end_time: int
    """The end of the lifetime; 0 before the task is active."""
    end_block: BlockNumber
    progress_time: int
    """When the task became active, or when its last paid attempt ended."""
    progress_block: BlockNumber
    lifetime_seconds: int
    """The lifetime that was bought before the task became active."""
    attempts_left: int
    """The attempts that may still open."""
    attempt_seconds: int
    """The longest course of an attempt."""
    refusal_code: int
    """The code with which the task was refused; 0 if it was not."""
    answer_pay: int
    """For one answer of a validator."""
    idle_seconds: int
    """The task is over after so long without a paid attempt, and after so many blocks."""
    idle_blocks: int
    held_pay: int
    """For answers that were not given yet; returned to the submitter after the window."""
    held_rent: int
    """For the lifetime; burnt when the task becomes active, returned if it never does."""


@dataclass(frozen=True, slots=True)
class TaskAccount:
    """A task's state and money; amounts in base units of its token."""

    submitter: Address
    status: TaskStatus
    ready_count: int
    cancelling: bool
    close_reason: CloseReason
    """Why the task was closed; it says nothing while the task is open."""
    submitted_block: BlockNumber
    activated_block: BlockNumber
    """0 before the task is active."""
    closed_block: BlockNumber
    """0 while the task is open, like the time."""
    closed_time: int
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
class TaskLeased:
    """Something was bought for a task, or its lifetime began."""

    task_id: TaskId
    sender: Address
    burnt: int
    """The base units of POT that were burnt by that."""
    lease: TaskLease


@dataclass(frozen=True, slots=True)
class TaskAnswered:
    """A validator is ready to judge a task, or refuses it."""

    task_id: TaskId
    validator: Address
    code: int
    """0 if the validator is ready, else its reason."""
    equal_count: int
    """The answers with this code so far."""


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


@dataclass(frozen=True, slots=True)
class TaskFeeRefunded:
    """POT that was held for answers or for a lifetime was returned to the submitter."""

    task_id: TaskId
    to: Address
    amount: int


@dataclass(frozen=True, slots=True)
class ExaminationPayWithdrawn:
    """An operator took what its answers earned."""

    account: Address
    amount: int


@dataclass(frozen=True, slots=True)
class Purchase:
    """What is bought for a task."""

    lifetime_seconds: int
    """How long it may be open."""
    attempts: int
    """How many attempts at its rounds may open."""


def submit_task(
    terms: TaskTerms,
    resources: TaskResources,
    spec: bytes,
    budget: int,
    purchase: Purchase,
    max_fee: int,
) -> ContractCall:
    """Submit a task; the budget, and the fee in POT, must have been approved to the registry."""
    bought = (purchase.lifetime_seconds, purchase.attempts)
    return CONTRACT.call("submitTask", terms, resources, spec, budget, *bought, max_fee)


def extend_task(task_id: TaskId, purchase: Purchase, max_fee: int) -> ContractCall:
    """Buy more lifetime or attempts; the fee in POT must have been approved to the registry."""
    bought = (purchase.lifetime_seconds, purchase.attempts)
    return CONTRACT.call("extendTask", task_id, *bought, max_fee)


def fund_task(task_id: TaskId, amount: int) -> ContractCall:
    """Add to the escrow; `amount` base units must have been approved to the registry."""
    return CONTRACT.call("fundTask", task_id, amount)


def answer_task(task_id: TaskId, code: int) -> ContractCall:
    """Say that this validator is ready to judge a task (code 0), or why not; for operators."""
    return CONTRACT.call("answerTask", task_id, code)


def withdraw_examination_pay() -> ContractCall:
    """Withdraw what the sender's answers have earned; for operators."""
    return CONTRACT.call("withdrawExaminationPay")


def expire_task(task_id: TaskId) -> ContractCall:
    """Close a task that is over; any account may call this."""
    return CONTRACT.call("expireTask", task_id)


def refund_fee(task_id: TaskId) -> ContractCall:
    """Return to the submitter the POT that is held and not needed; any account may call this."""
    return CONTRACT.call("refundFee", task_id)


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


def get_resources(task_id: TaskId) -> ContractView[TaskResources]:
    """What a task was declared to take of one validator."""
    return CONTRACT.view("getResources", task_id, returns=TaskResources)


def get_lease(task_id: TaskId) -> ContractView[TaskLease]:
    """What was bought for a task, and when it ends."""
    return CONTRACT.view("getLease", task_id, returns=TaskLease)


def get_prices() -> ContractView[Prices]:
    """The prices of the network."""
    return CONTRACT.view("prices", returns=Prices)


def get_quote(
    terms: TaskTerms, resources: TaskResources, purchase: Purchase
) -> ContractView[Quote]:
    """The fee with which a task could be submitted now."""
    bought = (purchase.lifetime_seconds, purchase.attempts)
    return CONTRACT.view("quote", terms, resources, *bought, returns=Quote)


def get_extension_quote(task_id: TaskId, purchase: Purchase) -> ContractView[Quote]:
    """The fee with which a task could be extended now."""
    bought = (purchase.lifetime_seconds, purchase.attempts)
    return CONTRACT.view("quoteExtension", task_id, *bought, returns=Quote)


def get_attempt_seconds(terms: TaskTerms) -> ContractView[int]:
    """The longest course of an attempt, and so the least lifetime, of a task with these terms."""
    return CONTRACT.view("attemptSecondsOf", terms, returns=int)


def is_expired(task_id: TaskId) -> ContractView[bool]:
    """Whether a task is over and can be closed."""
    return CONTRACT.view("isExpired", task_id, returns=bool)


def get_open_tasks() -> ContractView[int]:
    """The number of tasks that are pending, active or paused."""
    return CONTRACT.view("openTasks", returns=int)


def get_burnt() -> ContractView[int]:
    """The POT that fees have burnt, in base units."""
    return CONTRACT.view("burnt", returns=int)


def get_examination_pay(account: Address) -> ContractView[int]:
    """What an operator account can withdraw for its answers."""
    return CONTRACT.view("examinationPayOf", account, returns=int)


def get_answer(task_id: TaskId, operator: Address) -> ContractView[int]:
    """The answer of an operator's validator: its code + 1, or 0 if it has not answered."""
    return CONTRACT.view("answerOf", task_id, operator, returns=int)


def encode_constructor(prices: Prices) -> bytes:
    """The constructor's argument."""
    return CONTRACT.encode_constructor(prices)
