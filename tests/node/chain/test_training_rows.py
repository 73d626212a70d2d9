"""A block writes and reads only the parts of a task that its events change."""

import re
from collections.abc import Mapping
from dataclasses import replace

import pytest

from chain.contracts.miner_seats import FineKind
from chain.contracts.task_registry import TaskStatus
from chain.crypto import keccak256
from chain.primitives import BlockNumber, TaskId
from chain.training.acceptance import Verdict, encode_verdicts
from chain.training.task_spec_codec import encode_task_spec
from chain.types.validator_set import ValidatorSet
from node.chain import training_index
from node.chain.training_index import ClosedTask, TrainingIndex
from tests.conformance import values
from tests.conformance.values import build_log, build_task_receipt, make_address, make_hash

TASK = values.TASK
LEASED = ("TaskLeased", make_address(15), 20, tuple(range(21, 36)))


class Rows:
    """The database as the index sees it: rows by key, and the head."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.number = 0
        self.read: list[bytes] = []

    def head_number(self) -> BlockNumber:
        return BlockNumber(self.number)

    def validator_set(self, _number: BlockNumber) -> ValidatorSet:
        return values.GENESIS_SET

    def training_row(self, key: bytes) -> bytes | None:
        self.read.append(key)
        return self.rows.get(key)

    def training_rows(
        self, prefix: bytes, first: bytes = b"", limit: int | None = None
    ) -> tuple[tuple[bytes, bytes], ...]:
        found = sorted(each for each in self.rows.items() if each[0].startswith(prefix))
        rows = [(key[len(prefix) :], value) for key, value in found if key >= prefix + first]
        self.read += [prefix + key for key, _ in rows[:limit]]
        return tuple(rows[:limit])


class World:
    """An index, and the rows that each block of events writes."""

    def __init__(self) -> None:
        self.store = Rows()
        self.index = TrainingIndex(self.store)
        spec = encode_task_spec(values.SPEC)
        self.play("TaskSubmitted", make_address(15), keccak256(b""), 1, spec)
        self.play("TaskActivated")

    def play(self, name: str, *rest: object, task: TaskId = TASK) -> Mapping[bytes, bytes]:
        """Store a block with one event of a task; the rows that it wrote."""
        header = replace(values.HEADER, number=BlockNumber(self.store.number + 1))
        receipt = build_task_receipt(build_log(name, task, *rest))
        rows = self.index.compute_rows(header, [receipt])
        self.store.rows.update(rows)
        self.store.number += 1
        return rows

    def submit_and_close(self, *tasks: TaskId) -> None:
        for task in tasks:
            spec = encode_task_spec(values.SPEC)
            self.play("TaskSubmitted", make_address(15), keccak256(b""), 1, spec, task=task)
            self.play("TaskClosed", 1, task=task)

    def play_attempt(self, number: int) -> Mapping[bytes, bytes]:
        """An attempt of eight miners of which the first cheats; the rows of its last block."""
        self.play("AttemptOpened", number, 0, number + 1, 8, 1)
        for i in range(8):
            miner = make_address(50 + 10 * number + i)
            self.play("GradientCommitted", number, miner, 0, i, 1, make_hash(16))
        words = encode_verdicts([Verdict.CHEAT, *[Verdict.OK] * 7])
        for validator in values.GENESIS_SET.validators:
            self.play("VerdictPosted", number, validator, 0, 0, True, words)
        reward = values.SPEC.reward
        payout = 7 * reward.unit_price + 4 * (reward.validator_fee // 4)
        vote = (make_hash(12), make_hash(13), make_hash(14), 7, payout, 0, 0b1111)
        return self.play("RoundSettled", number, 0, 0, vote)


def list_kinds(keys: Mapping[bytes, bytes]) -> list[str]:
    """What the rows hold, in order."""
    found = (re.match(rb"[a-z]+", key) for key in keys)
    return sorted(match[0].decode() for match in found if match is not None)


def test_block_writes_only_the_parts_of_a_task_that_it_changes() -> None:
    world = World()
    fresh = world.play(*LEASED)
    for number in range(3):
        rows = world.play_attempt(number)
        # Seven miners and the four operators are paid; the cheat is not.
        paid = [*["reward"] * 11, "round", "task"]
        assert list_kinds(rows) == ["ended", "money", "payment", *paid]
    leased = world.play(*LEASED)
    assert list_kinds(leased) == ["money", "task"]
    # A mark takes 200 bytes; eight commitments and four verdicts would take 3 kB.
    sizes = [sum(map(len, rows.values())) for rows in (fresh, leased)]
    assert sizes[1] < sizes[0] + 3 * 300
    miner = make_address(50 + 10)
    assert list_kinds(world.play("MinerFined", miner, 2, FineKind.FRAUD, 5)) == ["ended", "task"]
    ended = [world.index.ended(TASK, ordinal) for ordinal in (1, 2, 3)]
    fines = [None if each is None else each.imposed for each in ended]
    assert fines == [(), ((miner, FineKind.FRAUD),), ()]


def test_rewards_of_all_rounds_are_added_up_by_account() -> None:
    world = World()
    for number in range(2):
        world.play_attempt(number)
    rewards, price = world.index.rewards(TASK), values.SPEC.reward.unit_price
    miners = [make_address(50 + 10 * number + i) for number in range(2) for i in range(1, 8)]
    share = 2 * (values.SPEC.reward.validator_fee // 4)
    expected = dict.fromkeys(miners, price) | dict.fromkeys(values.GENESIS_SET.operators, share)
    assert rewards == expected
    assert list(rewards) == sorted(expected)
    assert world.index.reward(TASK, miners[0]) == price
    assert world.index.has_more_rewards(TASK, len(expected) - 1)
    assert not world.index.has_more_rewards(TASK, len(expected))
    assert world.index.reward(TASK, make_address(1)) == 0


def test_event_that_changes_nothing_writes_no_row() -> None:
    world = World()
    assert world.play("TaskFunded", make_address(15), 1) == {}
    assert world.play("MinerRegistered", make_address(16), 1, 2, 3) == {}


def test_task_is_not_decoded_again_while_its_row_is_the_same() -> None:
    world = World()
    world.play_attempt(0)
    before = world.index.history(TASK)
    world.play("TaskFunded", make_address(15), 1)
    assert world.index.history(TASK) is before


def test_event_reads_no_other_part_of_its_task() -> None:
    world = World()
    for number in range(3):
        world.play_attempt(number)
    world.store.read.clear()
    world.play(*LEASED)
    assert list_kinds(dict.fromkeys(world.store.read, b"")) == ["money", "task"]
    world.store.read.clear()
    world.play("FinesPosted", values.GENESIS_SET.validators[0], 2, False, make_hash(3))
    assert list_kinds(dict.fromkeys(world.store.read, b"")) == ["ended", "task"]


def test_row_of_an_attempt_that_the_ledger_forgot_is_written_over() -> None:
    world = World()
    world.play_attempt(0)
    world.play("AttemptOpened", 1, 0, 1 + 512, 8, 1)
    world.play("GradientCommitted", 1, make_address(50), 0, 0, 1, make_hash(16))
    words = encode_verdicts([Verdict.CHEAT])
    for validator in values.GENESIS_SET.validators:
        world.play("VerdictPosted", 1, validator, 0, 0, True, words)
    world.play("AttemptVoided", 1, 0)
    assert sum(key.startswith(b"ended") for key in world.store.rows) == 1
    assert world.index.ended(TASK, 1) is None
    assert world.index.ended(TASK, 513) is not None
    history = world.index.history(TASK)
    assert history is not None
    assert [mark.ordinal for mark in history.ended] == [513]


def test_open_tasks_are_listed_without_a_look_at_closed_ones() -> None:
    world = World()
    closed = [TaskId(number) for number in range(TASK + 1, TASK + 101)]
    world.submit_and_close(*closed)
    index = TrainingIndex(world.store)
    world.store.read.clear()
    assert [each.task_id for each in index.live_tasks()] == [TASK]
    assert index.open_tasks() == {TASK: TaskStatus.ACTIVE}
    assert list_kinds(dict.fromkeys(world.store.read, b"")) == ["open", "task"]


def test_open_row_follows_the_statuses() -> None:
    world = World()
    statuses = []
    for name in ("TaskPaused", "TaskResumed"):
        assert "open" in list_kinds(world.play(name))
        statuses += [*world.index.open_tasks().values()]
    assert "open" in list_kinds(world.play("TaskClosed", 1))
    assert statuses == [TaskStatus.PAUSED, TaskStatus.ACTIVE]
    assert world.index.open_tasks() == {}


def test_closed_tasks_are_listed_in_pages_from_a_block_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_index, "CLOSED_PAGE", 2)
    world = World()
    world.play_attempt(0)
    world.play("TaskClosed", 1)
    world.submit_and_close(*(TaskId(TASK + number) for number in range(1, 5)))
    index, history = world.index, world.index.history(TASK)
    assert history is not None
    assert history.closed is not None
    found = list(index.closed_tasks(BlockNumber(0)))
    assert [each.task_id for each in found] == [TASK + number for number in range(5)]
    assert found[0] == ClosedTask(
        block_number=history.closed.number,
        task_id=TASK,
        timestamp=history.closed.timestamp,
        slashed_until=history.ended[0].slashed_until,
        has_model=True,
    )
    assert [each.has_model for each in found[1:]] == [False] * 4
    for number, each in enumerate(found):
        assert list(index.closed_tasks(each.block_number)) == found[number:]


def test_one_task_too_many_has_one_other_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_index, "KEPT_HISTORIES", 3)
    world = World()
    tasks = [TaskId(TASK + number) for number in range(1, 4)]
    world.submit_and_close(*tasks)
    index = TrainingIndex(world.store)
    first = [index.history(each) for each in (TASK, *tasks)]
    assert [index.history(each) is first[n] for n, each in enumerate((TASK, *tasks)) if n] == [
        True
    ] * 3
    assert index.history(TASK) is not first[0]
