"""What every task must pay, who may take it, and when it must end: counted without the contract."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from chain.contracts.task_registry import (
    CloseReason,
    ExaminationPayWithdrawn,
    Purchase,
    TaskActivated,
    TaskAnswered,
    TaskClosed,
    TaskFeeRefunded,
    TaskLeased,
    TaskPaused,
    TaskResumed,
    TaskSubmitted,
)
from chain.primitives import Address, TaskId
from chain.training.task_spec import TaskSpec
from tests.training_simulation import formats
from tests.training_simulation.chain import Executed
from tests.training_simulation.formats import PRICES

Require = Callable[[str, bool, str], None]
"""Raises a violation of a property unless it is met."""

MONEY: Final = "money"
END: Final = "end"
WASTE: Final = "waste"


@dataclass(frozen=True)
class Moment:
    """A time in seconds and a block; it has passed when both have."""

    time: int
    number: int

    def has_passed(self, now: "Moment") -> bool:
        return now.time >= self.time and now.number >= self.number


@dataclass
class Tenancy:
    """What was bought for one task, and what became of it."""

    submitter: Address
    spec: TaskSpec
    bought: Purchase
    window: Moment
    attempt_seconds: int
    others_open: int
    validator_count: int
    """When it was submitted, which is what the fee is for."""
    pending_rent: int
    held_pay: int
    held_rent: int
    active_since: int | None = None
    """None until the task is active."""
    end: Moment | None = None
    """None until the task is active."""
    progress: Moment | None = None
    is_paused: bool = False
    is_open: bool = True
    attempts_opened: int = 0
    answers_paid: int = 0


class Fees:
    """The books of the registry in POT, apart from escrow."""

    def __init__(
        self, count_validators: Callable[[], int], empty_block_ms: int, require: Require
    ) -> None:
        self._count_validators = count_validators
        self._empty_block_ms = empty_block_ms
        self._require = require
        self.tenancies: dict[TaskId, Tenancy] = {}
        self.burnt = 0
        self._earned: dict[Address, int] = {}

    @property
    def held(self) -> int:
        """What the registry holds besides escrow."""
        held = sum(each.held_pay + each.held_rent for each in self.tenancies.values())
        return self.burnt + held + sum(self._earned.values())

    def count_open(self) -> int:
        """How many tasks take a slot."""
        return sum(each.is_open for each in self.tenancies.values())

    def blocks_of(self, seconds: int) -> int:
        """The blocks of a healthy chain in so many seconds."""
        return -(-1_000 * seconds // self._empty_block_ms)

    def later(self, moment: Moment, seconds: int) -> Moment:
        """The moment after so many seconds and their blocks."""
        return Moment(moment.time + seconds, moment.number + self.blocks_of(seconds))

    def submit(
        self,
        event: TaskSubmitted,
        spec: TaskSpec,
        bought: Purchase,
        attempt_seconds: int,
        now: Moment,
    ) -> None:
        """Enter a new task, which pays the price of this moment."""
        others = self.count_open()
        self._require(MONEY, others < PRICES.task_slots, f"{others} tasks are open")
        n = self._count_validators()
        pending_rent = formats.compute_pending_rent(spec, n, others)
        self.burnt += pending_rent
        self.tenancies[event.task_id] = Tenancy(
            submitter=event.submitter,
            spec=spec,
            bought=bought,
            window=self.later(now, PRICES.pending_seconds),
            attempt_seconds=attempt_seconds,
            others_open=others,
            validator_count=n,
            pending_rent=pending_rent,
            held_pay=n * formats.compute_answer_pay(),
            held_rent=self._price(spec, bought, others),
        )

    def _price(self, spec: TaskSpec, bought: Purchase, others: int) -> int:
        n = self._count_validators()
        rent = formats.compute_rent(spec.resources, n, others, bought.lifetime_seconds)
        return rent + formats.compute_computation(spec, n, bought)

    def apply(self, executed: Executed, extension: Purchase, now: Moment) -> None:
        """Enter what a call did to the fees."""
        is_activation = any(isinstance(event, TaskActivated) for event in executed.events)
        is_submission = any(isinstance(event, TaskSubmitted) for event in executed.events)
        for event in executed.events:
            match event:
                case TaskLeased() if not is_activation and not is_submission:
                    self._extend(event.task_id, extension, now)
                case TaskActivated():
                    tenancy = self.tenancies[event.task_id]
                    self.burnt += tenancy.held_rent
                    tenancy.held_rent = 0
                    tenancy.active_since = now.time
                    tenancy.end = self.later(now, tenancy.bought.lifetime_seconds)
                    tenancy.progress = now
                case TaskPaused():
                    self.tenancies[event.task_id].is_paused = True
                case TaskResumed():
                    self.tenancies[event.task_id].is_paused = False
                    self.tenancies[event.task_id].progress = now
                case TaskAnswered():
                    self._pay(event, executed.transaction.sender)
                case ExaminationPayWithdrawn():
                    earned = self._earned.pop(event.account, 0)
                    self._require(MONEY, event.amount == earned, f"{event} is not {earned}")
                case TaskFeeRefunded():
                    self._refund(event, now)
                case TaskClosed():
                    self.tenancies[event.task_id].is_open = False
                case _:
                    pass

    def _extend(self, task_id: TaskId, extension: Purchase, now: Moment) -> None:
        tenancy = self.tenancies[task_id]
        price = self._price(tenancy.spec, extension, self.count_open() - 1)
        attempts = tenancy.bought.attempts + extension.attempts
        lifetime = tenancy.bought.lifetime_seconds + extension.lifetime_seconds
        if tenancy.end is None:
            tenancy.held_rent += price
        else:
            self.burnt += price
            end = Moment(max(tenancy.end.time, now.time), max(tenancy.end.number, now.number))
            blocks = 1_000 * extension.lifetime_seconds // self._empty_block_ms
            tenancy.end = Moment(end.time + extension.lifetime_seconds, end.number + blocks)
        tenancy.bought = replace(tenancy.bought, lifetime_seconds=lifetime, attempts=attempts)

    def _pay(self, event: TaskAnswered, operator: Address) -> None:
        tenancy = self.tenancies[event.task_id]
        pay = formats.compute_answer_pay()
        # Members that joined since the submission may find no pay left.
        pay = pay if tenancy.held_pay >= pay else 0
        tenancy.held_pay -= pay
        tenancy.answers_paid += pay
        self._earned[operator] = self._earned.get(operator, 0) + pay

    def _refund(self, event: TaskFeeRefunded, now: Moment) -> None:
        tenancy = self.tenancies[event.task_id]
        amount = 0
        if tenancy.window.has_passed(now):
            amount, tenancy.held_pay = tenancy.held_pay, 0
        if not tenancy.is_open:
            amount, tenancy.held_rent = amount + tenancy.held_rent, 0
        self._require(MONEY, event.amount == amount, f"{event} is not {amount}")

    # Ends.

    def note_attempt(self, task_id: TaskId, now: Moment) -> None:
        """An attempt opened, which the lifetime must cover and the fee must pay."""
        tenancy = self.tenancies[task_id]
        tenancy.attempts_opened += 1
        paid = tenancy.bought.attempts
        is_paid = tenancy.attempts_opened <= paid
        self._require(WASTE, is_paid, f"task {task_id} opens more than {paid} attempts")
        end = self.later(now, tenancy.attempt_seconds)
        is_covered = tenancy.end is not None and (
            end.time <= tenancy.end.time or end.number <= tenancy.end.number
        )
        self._require(END, is_covered, f"an attempt of task {task_id} ends after {tenancy.end}")

    def note_empty_attempt(self, task_id: TaskId, now: Moment) -> None:
        """An attempt ended without a commitment: it is not used up, and was no idle time."""
        self.tenancies[task_id].attempts_opened -= 1
        self.tenancies[task_id].progress = now

    def note_payment(self, task_id: TaskId, now: Moment) -> None:
        """An attempt of a task was paid."""
        self.tenancies[task_id].progress = now

    def check_close(
        self, event: TaskClosed, refusals: int, max_faulty: int, now: Moment, *, is_open: bool
    ) -> None:
        """A task may be closed only for a reason.

        Args:
            event: The end of the task.
            refusals: The largest number of validators that refused it for one reason.
            max_faulty: The number of validators that may lie.
            now: The moment of the call.
            is_open: Whether an attempt is open.
        """
        tenancy = self.tenancies[event.task_id]
        match CloseReason(event.reason):
            case CloseReason.REFUSED:
                self._require(END, refusals > max_faulty, f"refused by {refusals}")
            case CloseReason.EXPIRED:
                self._require(END, not is_open, f"task {event.task_id} expires in an attempt")
                is_over = self._get_limit(tenancy).has_passed(now) or self._is_idle(tenancy, now)
                self._require(END, is_over, f"task {event.task_id} expires too early")
            case _:
                pass

    def _get_limit(self, tenancy: Tenancy) -> Moment:
        return tenancy.window if tenancy.end is None else tenancy.end

    def _is_idle(self, tenancy: Tenancy, now: Moment) -> bool:
        if tenancy.progress is None or tenancy.is_paused:
            return False
        idle = max(PRICES.idle_seconds, 6 * tenancy.attempt_seconds)
        return self.later(tenancy.progress, idle).has_passed(now)

    def check_ends(self, now: Moment, healthy_since: Moment) -> None:
        """A task is over a while after its time; operators need a healthy network for that."""
        for task_id, tenancy in self.tenancies.items():
            if tenancy.is_open:
                limit = self._get_limit(tenancy)
                begin = Moment(
                    max(limit.time, healthy_since.time), max(limit.number, healthy_since.number)
                )
                # The attempt that is open at the end, and the operators' turns.
                end = self.later(begin, 2 * tenancy.attempt_seconds)
                self._require(END, not end.has_passed(now), f"task {task_id} is open after {end}")

    # What a submitter paid for what it took.

    def answers_paid(self, submitter: Address) -> int:
        """What answers to a submitter's tasks have earned, which pays for dry runs."""
        own = (each for each in self.tenancies.values() if each.submitter == submitter)
        return sum(each.answers_paid for each in own)

    def pending_paid(self, submitter: Address) -> int:
        """What a submitter's tasks reserve while they are pending; it is reserved at once."""
        own = (each for each in self.tenancies.values() if each.submitter == submitter)
        return sum(each.pending_rent for each in own)

    def compute_active_price(self, submitter: Address, now: Moment, since: int) -> int:
        """The price of what a submitter's active tasks had in the seconds since a moment.

        They have slots, memory and disk, and the time that validators promise.
        """
        price = 0
        for tenancy in self.tenancies.values():
            if tenancy.submitter != submitter or not tenancy.is_open:
                continue
            if tenancy.active_since is None:
                continue
            begin = max(since, tenancy.active_since)
            until = min(now.time, self._get_limit(tenancy).time)
            seconds, n, spec = max(0, until - begin), tenancy.validator_count, tenancy.spec
            rent = formats.compute_rent(spec.resources, n, tenancy.others_open, seconds)
            # What was rounded up, twice, was a longer time.
            price += max(0, rent + formats.compute_promise(spec, n, seconds) - 2)
        return price

    def compute_slot_price(self, submitter: Address, now: Moment, since: int) -> int:
        """The price of the slots that a submitter's tasks had in the seconds since a moment."""
        price = 0
        for tenancy in self.tenancies.values():
            if tenancy.submitter == submitter and tenancy.is_open:
                until = min(now.time, self._get_limit(tenancy).time)
                rate = 2 ** (8 * tenancy.others_open // PRICES.task_slots) * PRICES.slot_price
                price += max(0, until - since) * rate
        return price
