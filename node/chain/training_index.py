"""Tasks and rounds as rows of the database, written with the block that changes them.

The rows are the values of chain/training/history.py as JSON. The training host and the RPC
processes read them. Each attempt that may still be fined, what each account has earned, and what
each block has paid have rows of their own. These can be large and are seldom needed, and a block
writes only the rows that it changes.

One row lists the open tasks, and each closed task has a small row in the order of closing. So what
is done for the open tasks does not depend on how many tasks there ever were.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
from pydantic import ConfigDict, TypeAdapter

from chain.contracts.events import Event, decode_event
from chain.contracts.gradient_ledger import RING
from chain.contracts.task_registry import TaskStatus, TaskSubmitted
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
from node.chain.row_cache import RowCache
from node.storage.block_store import BlockStore
from node.storage.database import Reader, Table

KEPT_HISTORIES: Final = 1_024
"""The size of the caches of decoded tasks and specifications. No chain has more open tasks."""

KEPT_SETTLED: Final = 64
"""The size of the cache of settled rounds, which never change. The largest takes half a
megabyte."""

KEPT_ACCUSED: Final = 4_096
"""The size of the cache of accused miners, by ended attempt."""

PAYMENTS_BACK_LIMIT: Final = 1_000
"""Payments that are taken off to tell what was earned as of an older block: 45 MB, and a second of
a thread. A snapshot is of a recent block."""

CLOSED_PAGE: Final = 4_096
"""Closed tasks that are read from the database at once."""

_log = structlog.get_logger("node.training_index")

_COUNT_KEY: Final = b"count"
_OPEN_KEY: Final = b"open"
_CLOSED: Final = b"closed"
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


@dataclass(frozen=True, slots=True)
class ClosedTask:
    """What the row of a closed task says without its history."""

    block_number: BlockNumber
    """Where it was closed."""
    task_id: TaskId
    timestamp: int
    """When it was closed, in seconds."""
    slashed_until: BlockNumber
    """The last block that may fine a miner of it; 0 if there is no such block."""
    has_model: bool
    """Whether a round of it was settled."""


class TrainingIndex:
    """Reads rows, and computes those that a block changes. Any thread may call it."""

    def __init__(self, store: BlockStore) -> None:
        self._store = store
        self._specs: RowCache[TaskId, tuple[TaskSpec | None]] = RowCache(KEPT_HISTORIES)
        self._histories: RowCache[TaskId, tuple[BlockNumber, bytes, TaskHistory]] = RowCache(
            KEPT_HISTORIES
        )
        """With the head at which the row was last read, and the row."""
        self._settled: RowCache[tuple[TaskId, int], SettledRound] = RowCache(KEPT_SETTLED)
        self._accused: RowCache[tuple[TaskId, int], tuple[Address, ...]] = RowCache(KEPT_ACCUSED)

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
        self._histories.put(task_id, (head, value, history))
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
        known = self._accused.get(key)
        if known is not None:
            return known
        ended = self.ended(*key)
        if ended is None:
            return ()
        commitments = ended.attempt.commitments
        indices = list_accused(ended.attempt, ended.validator_set)
        accused = tuple(commitments[i].miner for i in indices)
        self._accused.put(key, accused)
        return accused

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

    def has_more_rewards(self, task_id: TaskId, count: int) -> bool:
        """Whether more than `count` accounts have earned something in rounds of a task."""
        prefix = _REWARD + _encode_id(task_id)
        return len(self._store.training_rows(prefix, limit=count + 1)) > count

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
        key = (task_id, round_number)
        known = self._settled.get(key)
        if known is not None:
            return known
        value = self._store.training_row(_round_key(AttemptId(task_id, round_number, 0)))
        if value is None:
            return None
        settled = _ROUNDS.validate_json(value)[0]
        self._settled.put(key, settled)
        return settled

    def spec(self, history: TaskHistory) -> TaskSpec | None:
        """The task's specification; None if the submitted bytes are invalid."""
        known = self._specs.get(history.task_id)
        if known is not None:
            return known[0]
        try:
            spec = decode_task_spec(history.spec)
        except InvalidSpec:
            spec = None
        self._specs.put(history.task_id, (spec,))
        return spec

    def open_tasks(self) -> Mapping[TaskId, TaskStatus]:
        """The statuses of the tasks that are not closed, by ascending id, from one row."""
        value = self._store.training_row(_OPEN_KEY)
        return {} if value is None else _decode_open(value)

    def live_tasks(self) -> Iterator[TaskHistory]:
        """The tasks that are not closed, by id."""
        for task_id in self.open_tasks():
            history = self.history(task_id)
            if history is not None and not history.is_closed:
                yield history

    def closed_tasks(self, since: BlockNumber) -> Iterator[ClosedTask]:
        """The tasks that were closed in block `since` or later, in this order.

        Their number has no bound, so do not call this in the thread in which consensus runs.
        """
        first = _encode_id(since)
        while True:
            rows = self._store.training_rows(_CLOSED, first, CLOSED_PAGE)
            for key, value in rows:
                yield _decode_closed(key, value)
            if len(rows) < CLOSED_PAGE:
                return
            first = rows[-1][0] + b"\0"

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
        self._statuses: dict[TaskId, TaskStatus] = {}
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
            self._statuses[task_id] = TaskStatus.PENDING
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
        if fold.history.status is not history.status:
            self._statuses[task_id] = fold.history.status
        if fold.ended is not None:
            self._ended[task_id, fold.ended.attempt.ordinal] = fold.ended
        if fold.settled is not None:
            self._rounds.append(fold.settled)
        if fold.is_unexplained:
            _log.error("a quorum settled a wrong payout", task=task_id, block=context.number)
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
        if self._statuses:
            rows[_OPEN_KEY] = _encode_open({**self._index.open_tasks(), **self._statuses})
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
            if history.is_closed:
                closed = describe_closed(history)
                rows[_closed_key(closed)] = _encode_closed(closed)
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
    statuses = {history.task_id: history.status for history, _ in tasks}
    rows = {_COUNT_KEY: _encode_id(len(tasks)), _OPEN_KEY: _encode_open(statuses)}
    for history, rewards in tasks:
        rows[_history_key(history.task_id)] = _HISTORIES.dump_json((history,))
        if history.is_closed:
            closed = describe_closed(history)
            rows[_closed_key(closed)] = _encode_closed(closed)
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


def _encode_open(statuses: Mapping[TaskId, TaskStatus]) -> bytes:
    return b"".join(
        _encode_id(task_id) + status.to_bytes(1, "big")
        for task_id, status in sorted(statuses.items())
        if status is not TaskStatus.CLOSED
    )


def _decode_open(row: bytes) -> Mapping[TaskId, TaskStatus]:
    return {
        TaskId(int.from_bytes(row[start : start + 8], "big")): TaskStatus(row[start + 8])
        for start in range(0, len(row), 9)
    }


def describe_closed(history: TaskHistory) -> ClosedTask:
    """The row of a closed task."""
    assert history.closed is not None
    return ClosedTask(
        block_number=history.closed.number,
        task_id=history.task_id,
        timestamp=history.closed.timestamp,
        slashed_until=max((mark.slashed_until for mark in history.ended), default=BlockNumber(0)),
        has_model=history.rounds_settled > 0,
    )


def _closed_key(closed: ClosedTask) -> bytes:
    return _CLOSED + _encode_id(closed.block_number) + _encode_id(closed.task_id)


def _encode_closed(closed: ClosedTask) -> bytes:
    times = _encode_id(closed.timestamp) + _encode_id(closed.slashed_until)
    return times + closed.has_model.to_bytes(1, "big")


def _decode_closed(key: bytes, value: bytes) -> ClosedTask:
    """The task of a row, by the end of its key."""
    return ClosedTask(
        block_number=BlockNumber(int.from_bytes(key[:8], "big")),
        task_id=TaskId(int.from_bytes(key[8:], "big")),
        timestamp=int.from_bytes(value[:8], "big"),
        slashed_until=BlockNumber(int.from_bytes(value[8:16], "big")),
        has_model=value[16] == 1,
    )


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
