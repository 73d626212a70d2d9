"""Tasks and rounds as rows of the database, written with the block that changes them.

The rows are the values of chain/training/history.py as JSON. The training host and the RPC
processes read them. Each attempt that may still be fined, what each account has earned, and what
each block has paid have rows of their own. These can be large and are seldom needed, and a block
writes only the rows that it changes.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from pydantic import ConfigDict, TypeAdapter

from chain.contracts.events import Event, decode_event
from chain.contracts.gradient_ledger import RING
from chain.contracts.task_registry import TaskSubmitted
from chain.errors import InvalidSpec
from chain.primitives import Address, BlockNumber, TaskId
from chain.training.attempt import AttemptId
from chain.training.attempt_records import EndedAttempt, EndedMark, list_accused
from chain.training.history import (
    BlockContext,
    SettledRound,
    TaskHistory,
    apply_event,
    build_history,
)
from chain.training.task_money import MONEY_EVENTS, TaskMoney, apply_to_money
from chain.training.task_spec import (
    TaskSpec,
)
from chain.training.task_spec_codec import decode_task_spec
from chain.types.header import Header
from chain.types.receipt import Receipt
from chain.types.validator_set import ValidatorSet
from node.storage.block_store import BlockStore
from node.storage.database import Reader, Table

KEPT_HISTORIES: Final = 1_024
"""The size of the cache of decoded tasks. With more live tasks, lookups decode from disk each time:
slower, still correct."""

KEPT_ACCUSED: Final = 4_096
"""The size of the cache of accused miners, by ended attempt."""

PAYMENTS_BACK_LIMIT: Final = 1_000
"""Payments that are taken off to tell what was earned as of an older block: 45 MB, and a second of
a thread. A snapshot is of a recent block."""

_COUNT_KEY: Final = b"count"
_TASK: Final = b"task"
_REWARD: Final = b"reward"
_PAYMENT: Final = b"payment"
_MONEY: Final = b"money"
_TASK_ID_BYTES: Final = 8
_CONFIG: Final = ConfigDict(ser_json_bytes="hex", val_json_bytes="hex")


_HISTORIES: Final = TypeAdapter(tuple[TaskHistory], config=_CONFIG)
"""Histories are wrapped in a tuple, because pydantic accepts no configuration for a dataclass that
it does not own."""

_ENDED: Final = TypeAdapter(tuple[EndedAttempt], config=_CONFIG)
"""Wrapped in a tuple for the same reason."""

_MONEYS: Final = TypeAdapter(tuple[TaskMoney], config=_CONFIG)
"""Wrapped in a tuple for the same reason."""

_ROUNDS: Final = TypeAdapter(tuple[SettledRound], config=_CONFIG)
"""Wrapped in a tuple for the same reason."""


class TrainingIndex:
    """Reads rows, and computes those that a block changes."""

    def __init__(self, store: BlockStore) -> None:
        self._store = store
        self._specs: dict[TaskId, TaskSpec | None] = {}
        self._histories: dict[TaskId, tuple[BlockNumber, bytes, TaskHistory]] = {}
        """With the head at which the row was last read, and the row."""
        self._accused: dict[tuple[TaskId, int], tuple[Address, ...]] = {}

    @property
    def validator_set(self) -> ValidatorSet:
        """The validators and their operators in the block after the head."""
        return self._store.next_validator_set()

    def task_count(self) -> int:
        """The number of tasks submitted so far; their ids are 1 to this."""
        value = self._store.training_row(_COUNT_KEY)
        return 0 if value is None else int.from_bytes(value, "big")

    def history(self, task_id: TaskId) -> TaskHistory | None:
        """The task at the head, decoded when its row changes; None if there is no such task."""
        head = self._store.head_number()
        known = self._histories.get(task_id)
        if known is not None and known[0] == head:
            return known[2]
        value = self._store.training_row(_history_key(task_id))
        if value is None:
            return None
        is_same = known is not None and known[1] == value
        history = known[2] if known is not None and is_same else _HISTORIES.validate_json(value)[0]
        if len(self._histories) >= KEPT_HISTORIES:
            self._histories.clear()
        self._histories[task_id] = (head, value, history)
        return history

    def ended(self, task_id: TaskId, ordinal: int) -> EndedAttempt | None:
        """An attempt that may still be fined, at the head; None if it is not known or forgotten.

        It is decoded each time and may have 300 kB, so do not call this in the thread in which
        consensus runs.
        """
        value = self._store.training_row(_ended_key(task_id, ordinal))
        found = None if value is None else _ENDED.validate_json(value)[0]
        # A later attempt overwrites the row of one that is 512 ordinals older.
        return found if found is not None and found.attempt.ordinal == ordinal else None

    def accused(self, mark: EndedMark) -> tuple[Address, ...]:
        """The miners that late verdicts may find guilty, decoded once for each ended attempt."""
        key = (mark.attempt_id.task_id, mark.ordinal)
        if key not in self._accused:
            ended = self.ended(*key)
            if ended is None:
                return ()
            if len(self._accused) >= KEPT_ACCUSED:
                self._accused.clear()
            commitments = ended.attempt.commitments
            indices = list_accused(ended.attempt, ended.validator_set)
            self._accused[key] = tuple(commitments[i].miner for i in indices)
        return self._accused[key]

    def rewards_at(
        self, reader: Reader, task_id: TaskId, number: BlockNumber, after: bytes
    ) -> Iterator[tuple[Address, int]] | None:
        """What accounts had earned as of a block, by ascending account; None if it is too old.

        Args:
            reader: The view of the database; later payments in it are taken off.
            task_id: The task.
            number: The block; this node holds it.
            after: An address, or empty. Only higher addresses are listed.
        """
        later: Counter[Address] = Counter()
        since = reader.scan(
            Table.TRAINING,
            _payment_key(task_id, BlockNumber(number + 1)),
            _payment_key(task_id, BlockNumber(2**64 - 1)),
        )
        for back, (_, value) in enumerate(since):
            if back == PAYMENTS_BACK_LIMIT:
                return None
            for account, pay in _decode_payments(value):
                later[account] += pay
        return _list_rewards(reader, task_id, after, later)

    def rewards(self, task_id: TaskId) -> dict[Address, int]:
        """What each account has earned in all rounds of a task, by ascending account.

        The number of accounts has no bound, so do not call this in the thread in which consensus
        runs.
        """
        rows = self._store.training_rows(_REWARD + _encode_id(task_id))
        return {Address(account): int.from_bytes(amount, "big") for account, amount in rows}

    def reward(self, task_id: TaskId, account: Address) -> int:
        """What one account has earned in all rounds of a task."""
        value = self._store.training_row(_reward_key(task_id, account))
        return 0 if value is None else int.from_bytes(value, "big")

    def money(self, task_id: TaskId) -> TaskMoney | None:
        """What became of a task's money; None if the task is older than this node's snapshot."""
        value = self._store.training_row(_money_key(task_id))
        return _MONEYS.validate_json(value)[0] if value else None

    def settled_round(self, task_id: TaskId, round_number: int) -> SettledRound | None:
        """A settled round; None if it is not settled or older than this node's snapshot."""
        value = self._store.training_row(_round_key(AttemptId(task_id, round_number, 0)))
        return None if value is None else _ROUNDS.validate_json(value)[0]

    def spec(self, history: TaskHistory) -> TaskSpec | None:
        """The task's specification; None if the submitted bytes are invalid."""
        if history.task_id not in self._specs:
            try:
                self._specs[history.task_id] = decode_task_spec(history.spec)
            except InvalidSpec:
                self._specs[history.task_id] = None
        return self._specs[history.task_id]

    def live_tasks(self) -> Iterator[TaskHistory]:
        """The tasks that are not closed, by id."""
        for number in range(1, self.task_count() + 1):
            history = self.history(TaskId(number))
            if history is not None and not history.is_closed:
                yield history

    def compute_rows(self, header: Header, receipts: Sequence[Receipt]) -> Mapping[bytes, bytes]:
        """The rows that change when this block, the child of the head, is finalized."""
        changes = _Changes(self, self._store.validator_set(header.number))
        context = BlockContext(header.number, header.timestamp)
        for receipt in receipts:
            for entry in receipt.logs:
                event = decode_event(entry)
                if event is not None:
                    changes.apply(event, context)
        return changes.encode()


class _Changes:
    """What the events of a block change in tasks."""

    def __init__(self, index: TrainingIndex, validator_set: ValidatorSet) -> None:
        self._index = index
        self._validator_set = validator_set
        self._task_count: int | None = None
        self._histories: dict[TaskId, TaskHistory] = {}
        self._ended: dict[tuple[TaskId, int], EndedAttempt] = {}
        self._rewards: dict[tuple[TaskId, Address], int] = {}
        self._payments: dict[tuple[TaskId, BlockNumber], Counter[Address]] = {}
        self._rounds: list[SettledRound] = []
        self._money: dict[TaskId, TaskMoney] = {}

    def apply(self, event: Event, context: BlockContext) -> None:
        """Note what an event changes, if it is one of a task."""
        if not hasattr(event, "task_id"):
            return
        task_id = TaskId(event.task_id)
        if isinstance(event, TaskSubmitted):
            self._histories[task_id] = build_history(event, context)
            self._money[task_id] = TaskMoney()
            self._task_count = task_id
            return
        history = self._histories.get(task_id) or self._index.history(task_id)
        assert history is not None, "events of a task follow its submission"
        spec = self._index.spec(history)
        self._apply_to_money(event, history, spec)
        fold = apply_event(
            history,
            event,
            context,
            spec=spec,
            validator_set=self._validator_set,
            find_ended=partial(self._find_ended, task_id),
        )
        if fold.history is not history:
            self._histories[task_id] = fold.history
        if fold.ended is not None:
            self._ended[task_id, fold.ended.attempt.ordinal] = fold.ended
        if fold.settled is not None:
            self._rounds.append(fold.settled)
        for account, pay in fold.payouts:
            self._payments.setdefault((task_id, context.number), Counter())[account] += pay
            key = (task_id, account)
            earned = self._rewards.get(key)
            self._rewards[key] = pay + (self._index.reward(*key) if earned is None else earned)

    def _apply_to_money(self, event: Event, history: TaskHistory, spec: TaskSpec | None) -> None:
        if not isinstance(event, MONEY_EVENTS):
            return
        money = self._money.get(history.task_id) or self._index.money(history.task_id)
        if money is not None:
            self._money[history.task_id] = apply_to_money(money, event, history, spec)

    def _find_ended(self, task_id: TaskId, ordinal: int) -> EndedAttempt | None:
        return self._ended.get((task_id, ordinal)) or self._index.ended(task_id, ordinal)

    def encode(self) -> Mapping[bytes, bytes]:
        """The rows of what has changed."""
        rows = {_round_key(each.attempt.id): _ROUNDS.dump_json((each,)) for each in self._rounds}
        if self._task_count is not None:
            rows[_COUNT_KEY] = _encode_id(self._task_count)
        for key, ended in self._ended.items():
            rows[_ended_key(*key)] = _ENDED.dump_json((ended,))
        for task_id, money in self._money.items():
            rows[_money_key(task_id)] = _MONEYS.dump_json((money,))
        for reward_key, earned in self._rewards.items():
            rows[_reward_key(*reward_key)] = earned.to_bytes(32, "big")
        for payment_key, payments in self._payments.items():
            rows[_payment_key(*payment_key)] = _encode_payments(payments)
        for task_id, history in self._histories.items():
            rows[_history_key(task_id)] = _HISTORIES.dump_json((history,))
        return rows


def list_changed_tasks(rows: Iterable[bytes]) -> tuple[TaskId, ...]:
    """The tasks that rows with these keys change, by id."""
    size = len(_TASK) + _TASK_ID_BYTES
    return tuple(
        sorted(
            TaskId(int.from_bytes(key[len(_TASK) :], "big"))
            for key in rows
            if key.startswith(_TASK) and len(key) == size
        )
    )


def build_rows(
    tasks: Sequence[tuple[TaskHistory, Iterable[tuple[Address, int]]]],
) -> Mapping[bytes, bytes]:
    """The rows of all tasks, without their settled rounds and what may be fined.

    Args:
        tasks: The tasks in the order of their ids, each with what accounts have earned.
    """
    rows = {_COUNT_KEY: _encode_id(len(tasks))}
    for history, rewards in tasks:
        rows[_history_key(history.task_id)] = _HISTORIES.dump_json((history,))
        # A sum from before the snapshot lacks what happened since.
        rows[_money_key(history.task_id)] = b""
        for account, earned in rewards:
            rows[_reward_key(history.task_id, account)] = earned.to_bytes(32, "big")
    return rows


def _list_rewards(
    reader: Reader, task_id: TaskId, after: bytes, later: Mapping[Address, int]
) -> Iterator[tuple[Address, int]]:
    prefix = _REWARD + _encode_id(task_id)
    first = prefix + after + b"\0" if after else prefix
    for key, value in reader.scan(Table.TRAINING, first, prefix + b"\xff" * 20):
        account = Address(key[len(prefix) :])
        earned = int.from_bytes(value, "big") - later.get(account, 0)
        if earned:
            yield account, earned


def _encode_payments(payments: Mapping[Address, int]) -> bytes:
    return b"".join(account + pay.to_bytes(32, "big") for account, pay in sorted(payments.items()))


def _decode_payments(row: bytes) -> Iterator[tuple[Address, int]]:
    for start in range(0, len(row), 52):
        yield Address(row[start : start + 20]), int.from_bytes(row[start + 20 : start + 52], "big")


def _encode_id(number: int) -> bytes:
    return number.to_bytes(_TASK_ID_BYTES, "big")


def _history_key(task_id: TaskId) -> bytes:
    return _TASK + _encode_id(task_id)


def _ended_key(task_id: TaskId, ordinal: int) -> bytes:
    """The key of an ended attempt. A task has as many such keys as the ledger keeps attempts."""
    return b"ended" + _encode_id(task_id) + (ordinal % RING).to_bytes(2, "big")


def _money_key(task_id: TaskId) -> bytes:
    return _MONEY + _encode_id(task_id)


def _reward_key(task_id: TaskId, account: Address) -> bytes:
    return _REWARD + _encode_id(task_id) + account


def _payment_key(task_id: TaskId, number: BlockNumber) -> bytes:
    return _PAYMENT + _encode_id(task_id) + _encode_id(number)


def _round_key(attempt_id: AttemptId) -> bytes:
    return b"round" + _encode_id(attempt_id.task_id) + _encode_id(attempt_id.round_number)
