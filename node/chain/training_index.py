"""Tasks and rounds as rows of the database, written with the block that changes them.

The rows are the values of chain/training/history.py as JSON. The training host and the RPC
processes read them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from pydantic import ConfigDict, TypeAdapter

from chain.contracts.events import decode_event
from chain.contracts.task_registry import TaskSubmitted
from chain.errors import InvalidSpec
from chain.primitives import BlockNumber, TaskId
from chain.training.history import (
    BlockContext,
    SettledRound,
    TaskHistory,
    apply_event,
    build_history,
)
from chain.training.task_spec import (
    TaskSpec,
)
from chain.training.task_spec_codec import decode_task_spec
from chain.types.header import Header
from chain.types.receipt import Receipt
from chain.types.validator_set import ValidatorSet
from node.storage.block_store import BlockStore

KEPT_HISTORIES: Final = 1_024
"""The size of the cache of decoded tasks. With more live tasks, lookups decode from disk each time:
slower, still correct."""

_COUNT_KEY: Final = b"count"
_TASK: Final = b"task"
_TASK_ID_BYTES: Final = 8
_CONFIG: Final = ConfigDict(ser_json_bytes="hex", val_json_bytes="hex")


_HISTORIES: Final = TypeAdapter(tuple[TaskHistory], config=_CONFIG)
"""Histories are wrapped in a tuple, because pydantic accepts no configuration for a dataclass that
it does not own."""

_ROUNDS: Final = TypeAdapter(tuple[SettledRound], config=_CONFIG)
"""Wrapped in a tuple for the same reason."""


class TrainingIndex:
    """Reads rows, and computes those that a block changes."""

    def __init__(self, store: BlockStore) -> None:
        self._store = store
        self._specs: dict[TaskId, TaskSpec | None] = {}
        self._histories: dict[TaskId, tuple[BlockNumber, TaskHistory]] = {}

    @property
    def validator_set(self) -> ValidatorSet:
        """The validators and their operators in the block after the head."""
        return self._store.next_validator_set()

    def task_count(self) -> int:
        """The number of tasks submitted so far; their ids are 1 to this."""
        value = self._store.training_row(_COUNT_KEY)
        return 0 if value is None else int.from_bytes(value, "big")

    def history(self, task_id: TaskId) -> TaskHistory | None:
        """The task at the head, decoded once for each block; None if there is no such task."""
        head = self._store.head_number()
        known = self._histories.get(task_id)
        if known is not None and known[0] == head:
            return known[1]
        value = self._store.training_row(_history_key(task_id))
        if value is None:
            return None
        history = _HISTORIES.validate_json(value)[0]
        if len(self._histories) >= KEPT_HISTORIES:
            self._histories.clear()
        self._histories[task_id] = (head, history)
        return history

    def settled_round(self, task_id: TaskId, round_number: int) -> SettledRound | None:
        """A settled round; None if it is not settled or older than this node's snapshot."""
        value = self._store.training_row(_round_key(task_id, round_number))
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
        context = BlockContext(header.number, header.timestamp)
        validator_set = self._store.validator_set(header.number)
        changed: dict[TaskId, TaskHistory] = {}
        rows: dict[bytes, bytes] = {}
        for receipt in receipts:
            for entry in receipt.logs:
                event = decode_event(entry)
                if event is None or not hasattr(event, "task_id"):
                    continue
                task_id = TaskId(event.task_id)
                if isinstance(event, TaskSubmitted):
                    changed[task_id] = build_history(event, context)
                    rows[_COUNT_KEY] = task_id.to_bytes(8, "big")
                    continue
                history = changed.get(task_id) or self.history(task_id)
                assert history is not None, "events of a task follow its submission"
                fold = apply_event(
                    history, event, context, spec=self.spec(history), validator_set=validator_set
                )
                changed[task_id] = fold.history
                if fold.settled is not None:
                    key = _round_key(task_id, fold.settled.attempt.id.round_number)
                    rows[key] = _ROUNDS.dump_json((fold.settled,))
        rows.update(
            (_history_key(id_), _HISTORIES.dump_json((each,))) for id_, each in changed.items()
        )
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


def build_rows(histories: Sequence[TaskHistory]) -> Mapping[bytes, bytes]:
    """The rows of all tasks, given in the order of their ids, without their settled rounds."""
    rows = {_history_key(each.task_id): _HISTORIES.dump_json((each,)) for each in histories}
    return {_COUNT_KEY: len(histories).to_bytes(8, "big"), **rows}


def _history_key(task_id: TaskId) -> bytes:
    return _TASK + task_id.to_bytes(_TASK_ID_BYTES, "big")


def _round_key(task_id: TaskId, round_number: int) -> bytes:
    return b"round" + task_id.to_bytes(8, "big") + round_number.to_bytes(8, "big")
