"""The collector on real files, with a scripted chain."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.contracts.events import Event
from chain.contracts.gradient_ledger import (
    AttemptOpened,
    AttemptVoided,
    BallotFailed,
    GradientCommitted,
    ResultKind,
    ResultVote,
    RoundSettled,
    VerdictPosted,
)
from chain.contracts.task_registry import (
    TaskActivated,
    TaskAnswered,
    TaskClosed,
    TaskPaused,
    TaskResumed,
    TaskStatus,
)
from chain.crypto import CHUNK_BYTES, chunk_hashes, content_id
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.training.acceptance import Verdict, encode_verdicts
from chain.training.attempt import AttemptId
from chain.training.attempt_records import Attempt, EndedAttempt, EndedMark, list_accused
from chain.training.history import (
    BlockContext,
    SettledRound,
    TaskHistory,
    apply_event,
    build_history,
)
from chain.training.leases import READY_CODE
from chain.training.resources import BLOB_FILES_BYTES, count_stored_bytes
from chain.training.reveal import Reveal
from chain.training.task_checks import CONTENT_QUOTA_SHARE
from chain.training.task_spec import (
    Shard,
    TaskSpec,
)
from node.chain.training_index import ClosedTask, describe_closed
from node.config import Retention
from node.metrics.registry import NodeMetrics
from node.storage.blob_manifest import BlobManifest
from node.storage.blobs import BlobStore
from node.training import checks, collector
from node.training.checks import get_checks_path
from node.training.collector import Collector
from node.training.retention import RetentionPolicy
from node.training.reveal_store import RevealStore
from node.training.rows import RowRecords
from node.training.state_parts import StatePartStore
from tests.worlds.blobs import list_downloads, list_whole
from tests.worlds.training import (
    GENESIS_SET,
    MINERS,
    SPEC,
    SUBMITTED,
    TASK,
    VALIDATORS,
)

pytestmark = pytest.mark.usefixtures("inline_threads", "no_fsync")

OTHER = TaskId(2)
SHARD = b"rows" * 500
"""The data shard of both tasks."""
ZEROS = bytes(600)
"""An optimizer's tensor that is equal in every state of every task."""
THETA_BYTES, GRADIENT_BYTES = 1_000, 704
DAY = 86_400


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip fsync: no test cuts the power, and thousands of small files are written."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


@dataclass
class Head:
    number: BlockNumber
    timestamp: int


class World:
    """A scripted chain with two tasks; the index, ledger and clock of the collector."""

    def __init__(
        self,
        path: Path,
        retention: Retention = Retention.LIVE,
        *,
        closed_days: int = 3,
        quota_bytes: int = 2**30,
    ) -> None:
        self.path = path
        self.blobs = BlobStore(path / "blobs", quota_bytes=quota_bytes)
        self.reveals = RevealStore(path / "reveals")
        self.parts = StatePartStore(path / "states")
        self.directory = path / "training"
        self.directory.mkdir()
        self.policy = RetentionPolicy(retention, closed_days * DAY)
        self.now = int(time.time())
        self.block = 10
        self.specs: dict[TaskId, TaskSpec] = {}
        self.histories: dict[TaskId, TaskHistory] = {}
        self.rounds: dict[tuple[TaskId, int], SettledRound] = {}
        self.fined: dict[tuple[TaskId, int], EndedAttempt] = {}
        self.weights: dict[TaskId, bytes] = {}
        self.served: set[TaskId] = set()
        self.refused: set[TaskId] = set()
        self.read: list[TaskId] = []
        self.made = 0
        self.metrics = NodeMetrics()
        self.restart()

    def restart(self) -> None:
        self.blobs.recover()
        self.collector = Collector(
            store=self,
            index=self,
            blobs=self.blobs,
            reveals=self.reveals,
            state_parts=self.parts,
            directory=self.directory,
            clock=self,
            policy=self.policy,
            own_validator=VALIDATORS[0],
            is_served=self.served.__contains__,
            is_refused=self.refused.__contains__,
            metrics=self.metrics,
        )

    # The parts that the collector reads.

    def head(self) -> Head:
        return Head(BlockNumber(self.block), self.now)

    def now_ms(self) -> int:
        return self.now * 1000

    def task_count(self) -> int:
        return len(self.histories)

    def open_tasks(self) -> dict[TaskId, TaskStatus]:
        return {k: each.status for k, each in self.histories.items() if not each.is_closed}

    def closed_tasks(self, since: BlockNumber) -> list[ClosedTask]:
        closed = [describe_closed(each) for each in self.histories.values() if each.is_closed]
        return [each for each in closed if each.block_number >= since]

    def history(self, task_id: TaskId) -> TaskHistory:
        self.read.append(task_id)
        return self.histories[task_id]

    def spec(self, history: TaskHistory) -> TaskSpec:
        return self.specs[history.task_id]

    def settled_round(self, task_id: TaskId, number: int) -> SettledRound | None:
        return self.rounds.get((task_id, number))

    def accused(self, mark: EndedMark) -> tuple[Address, ...]:
        ended = self.fined[mark.attempt_id.task_id, mark.ordinal]
        indices = list_accused(ended.attempt, ended.validator_set)
        return tuple(ended.attempt.commitments[i].miner for i in indices)

    # Events.

    def put(self, data: bytes) -> Hash32:
        name = self.blobs.put(data)
        os.utime(self.blobs.path(name), (self.now, self.now))
        leaves = self.blobs.path(name).with_suffix(".leaves")
        os.utime(leaves, (self.now, self.now))
        return name

    def begin_download(self, data: bytes) -> BlobManifest:
        """Fetch nothing of a blob but its manifest."""
        manifest = BlobManifest(len(data), chunk_hashes(data))
        with self.blobs.download(manifest):
            pass
        return manifest

    def make(self, size: int) -> bytes:
        self.made += 1
        return self.made.to_bytes(8, "big") * (size // 8)

    def pass_time(self, seconds: int = 5) -> None:
        self.now += seconds
        self.block += 1

    def apply(self, task: TaskId, event: Event) -> None:
        self.pass_time()
        block = BlockContext(BlockNumber(self.block), self.now)
        fold = apply_event(
            self.histories[task], event, block, spec=self.specs[task], validator_set=GENESIS_SET
        )
        history, settled = fold.history, fold.settled
        self.histories[task] = history
        if fold.ended is not None:
            self.fined[task, fold.ended.attempt.ordinal] = fold.ended
        if settled is not None:
            self.rounds[task, settled.attempt.id.round_number] = settled

    def submit(self, task: TaskId = TASK) -> None:
        self.weights[task] = self.make(THETA_BYTES)
        weights = self.put(self.weights[task])
        shards = (Shard(self.put(SHARD), len(SHARD), 50),)
        data = replace(SPEC.data, shards=shards)
        self.specs[task] = replace(SPEC, initial_weights=weights, data=data)
        block = BlockContext(BlockNumber(self.block), self.now)
        self.histories[task] = build_history(replace(SUBMITTED, task_id=task), block)

    def prepare(self, task: TaskId) -> None:
        """Fetch the content that was collected before this node posted ready."""
        self.put(self.weights[task])
        self.put(SHARD)

    def start(self, task: TaskId = TASK) -> None:
        self.submit(task)
        self.apply(task, TaskAnswered(task, VALIDATORS[0], READY_CODE, 1))
        self.apply(task, TaskActivated(task))

    def open(self, task: TaskId = TASK, attempt: int = 0) -> None:
        number = self.histories[task].rounds_settled
        self.apply(task, AttemptOpened(task, number, attempt, number + attempt + 1, 3, 1))

    def reveal(self, task: TaskId = TASK, miners: int = 3, *, is_sent: bool = True) -> None:
        """Let miners commit and reveal gradients, of which they may send no chunk."""
        attempt = self.histories[task].attempt
        assert attempt is not None
        number = attempt.id.round_number
        for index, miner in enumerate(MINERS[:miners], len(attempt.commitments)):
            data = self.make(GRADIENT_BYTES)
            gradient = self.put(data) if is_sent else self.begin_download(data).content_id
            salt = Hash32(bytes(32))
            self.apply(
                task,
                GradientCommitted(task, number, miner, attempt.id.attempt_number, index, 1, salt),
            )
            self.reveals.put(Reveal(attempt.id, miner, 1, salt, gradient))
        path = get_checks_path(self.directory, attempt.id)
        path.write_text("{}")

    def compute(self, task: TaskId = TASK) -> ResultVote:
        """The state after the round in progress."""
        theta = self.make(THETA_BYTES)
        part_ids = [content_id(theta), content_id(ZEROS)]
        root = self.parts.put(task, self.histories[task].rounds_settled + 1, part_ids)
        self.put(theta)
        self.put(ZEROS)
        return ResultVote(root, part_ids[0], Hash32(bytes(32)), 1, 0, ResultKind.SETTLED, 0b111)

    def judge(self, *words: Verdict, task: TaskId = TASK) -> None:
        """Let three validators give these verdicts on the gradients; all are ok without any."""
        attempt = self.histories[task].attempt
        assert attempt is not None
        place = (attempt.id.round_number, attempt.id.attempt_number, attempt.ballot)
        encoded = encode_verdicts(words or [Verdict.OK] * len(attempt.commitments))
        for validator in VALIDATORS[:3]:
            event = VerdictPosted(task, place[0], validator, *place[1:], True, encoded)
            self.apply(task, event)

    def settle(self, vote: ResultVote, task: TaskId = TASK) -> None:
        attempt = self.histories[task].attempt
        assert attempt is not None
        place = (attempt.id.round_number, attempt.id.attempt_number, attempt.ballot)
        self.apply(task, RoundSettled(task, *place, vote))

    def play_round(self, task: TaskId = TASK) -> None:
        self.open(task)
        self.reveal(task)
        self.judge(task=task)
        self.settle(self.compute(task), task)

    async def collect(self) -> None:
        self.pass_time()
        await self.collector.collect()

    # What must be held.

    def list_duties(self) -> Iterator[tuple[str, Hash32]]:
        """Every blob that peers may still request, by the design and not by the code."""
        for task, history in self.histories.items():
            spec = self.specs[task]
            closed = history.closed
            is_live = history.status in (TaskStatus.ACTIVE, TaskStatus.PAUSED)
            is_promised = history.status == TaskStatus.PENDING and VALIDATORS[0] in history.ready
            is_shown = (
                closed is not None
                and history.rounds_settled > 0
                and self.now < closed.timestamp + self.policy.closed_seconds
            )
            if is_live or is_promised or is_shown:
                yield "weights", spec.initial_weights
                yield "shard", spec.data.shards[0].content_id
            if is_shown:
                yield "model", history.model_root
            if is_live:
                for count in range(max(1, history.rounds_settled - 1), history.rounds_settled + 1):
                    root = self.rounds[task, count - 1].vote.training_state_root
                    part_ids = self.parts.get(root)
                    assert part_ids is not None, f"state {count} of {history.rounds_settled}"
                    yield from ((f"state {count}", part) for part in part_ids)
            for mark in history.ended:
                # Late verdicts may still find these gradients guilty.
                if self.block <= mark.late_until and (is_live or is_shown):
                    attempt = self.fined[task, mark.ordinal].attempt
                    yield from self.list_revealed(task, attempt)
                    if is_live and mark == history.ended[-1] and attempt.id.round_number:
                        yield "model of an accused gradient", attempt.theta_root
            # The attempt before the one in progress; after a void attempt that is the void one.
            attempt = history.attempt
            is_first = attempt is None or attempt.id.attempt_number == 0
            if is_live and history.rounds_settled and is_first:
                yield from self.list_revealed(
                    task, self.rounds[task, history.rounds_settled - 1].attempt
                )
            if history.attempt is not None:
                yield from self.list_revealed(task, history.attempt)

    def list_revealed(self, task: TaskId, attempt: Attempt) -> Iterator[tuple[str, Hash32]]:
        held = self.reveals.list(attempt.id)
        assert len(held) == len(attempt.commitments), f"{attempt.id}"
        yield from ((f"{task} {attempt.id}", reveal.gradient_root) for reveal in held)

    def check_duties(self) -> None:
        missing = [
            (what, name.hex()) for what, name in self.list_duties() if not self.blobs.has(name)
        ]
        assert missing == []


def size_that_takes(stored_bytes: int) -> int:
    """The length of a blob that takes so many bytes of the quota, or 31 less."""
    size = stored_bytes - BLOB_FILES_BYTES
    return size - 32 * -(-size // CHUNK_BYTES)


CONTENT_BYTES = count_stored_bytes(THETA_BYTES) + count_stored_bytes(len(SHARD))
STATE_BYTES = count_stored_bytes(THETA_BYTES) + count_stored_bytes(len(ZEROS))
ROUND_BYTES = 3 * count_stored_bytes(GRADIENT_BYTES)


async def test_what_is_held_does_not_grow_with_rounds(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.start()
    held = []
    for _ in range(12):
        world.play_round()
        await world.collect()
        world.check_duties()
        held.append(world.blobs.used_bytes())
    # The bound of docs/spec/training.md, section 11; no round is in progress here.
    assert max(held) <= CONTENT_BYTES + 2 * STATE_BYTES + ROUND_BYTES
    assert len(set(held[4:])) == 1
    assert len(list(world.reveals.attempts())) == 1
    assert sorted(state.rounds_settled for state in world.parts.states()) == [11, 12]
    assert world.metrics.blobs_collected._value.get() == 11 * 3 + 10
    freed = world.metrics.blob_bytes_collected._value.get()
    assert freed == 11 * ROUND_BYTES + 10 * count_stored_bytes(THETA_BYTES)


async def test_one_state_of_a_round_is_held_however_many_ballots_it_takes(tmp_path: Path) -> None:
    """Each set of accepted gradients left a state until two later rounds were settled."""
    world = World(tmp_path)
    world.start()
    world.play_round()
    world.open()
    world.reveal()
    world.judge()
    votes = []
    for ballot in range(3):
        votes.append(world.compute())
        path = tmp_path / "states" / str(TASK) / votes[-1].training_state_root.hex()
        os.utime(path, ns=(ballot, ballot))
    await world.collect()
    held = [world.parts.get(vote.training_state_root) is not None for vote in votes]
    assert held == [False, False, True]
    assert not world.blobs.has(votes[0].model_root)
    other = world.compute()
    world.settle(votes[2])
    await world.collect()
    world.check_duties()
    assert world.parts.get(other.training_state_root) is None


def list_checked_rounds(world: World) -> list[int]:
    """The rounds of which the results of checks are held."""
    return sorted(int(path.name.split("-")[1]) for path in world.directory.glob("*.checks.json"))


async def test_results_of_checks_are_kept_of_the_last_attempts_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt left a file until its task was closed; a task may have a million."""
    monkeypatch.setattr(checks, "KEPT_ATTEMPTS", 4)
    world = World(tmp_path)
    world.start()
    for _ in range(12):
        world.play_round()
    assert list_checked_rounds(world) == list(range(12))
    await world.collect()
    assert list_checked_rounds(world) == [8, 9, 10, 11]


async def test_results_of_checks_of_a_task_take_little_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt of a thousand miners has half a megabyte of them, which no quota counts."""
    monkeypatch.setattr(checks, "KEPT_BYTES", 30)
    world = World(tmp_path)
    world.start()
    for size_bytes in (1, 12, 10, 10, 10):
        world.play_round()
        last = max(world.directory.glob("*.checks.json"), key=lambda path: path.name)
        last.write_text(" " * size_bytes)
    await world.collect()
    assert list_checked_rounds(world) == [2, 3, 4]


async def test_retention_task_keeps_every_round_until_the_task_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "KEPT_ATTEMPTS", 4)
    world = World(tmp_path, Retention.TASK)
    world.start()
    for _ in range(8):
        world.play_round()
    before = list_whole(world.blobs)
    world.pass_time(10 * DAY)
    await world.collect()
    world.apply(TASK, TaskClosed(TASK, 1))
    world.pass_time(2 * DAY)
    await world.collect()
    assert list_whole(world.blobs) == before
    assert len(list(world.reveals.attempts())) == len(list_checked_rounds(world)) == 8
    world.pass_time(2 * DAY)
    await world.collect()
    assert list_whole(world.blobs) == ()


async def test_a_closed_task_leaves_its_model_and_then_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.start()
    for _ in range(3):
        world.play_round()
    model = world.histories[TASK].model_root
    world.apply(TASK, TaskClosed(TASK, 1))
    await world.collect()
    world.check_duties()
    world.block += 17
    await world.collect()
    spec = world.specs[TASK]
    content = (spec.initial_weights, spec.data.shards[0].content_id, model)
    assert list_whole(world.blobs) == tuple(sorted(content))
    world.pass_time(3 * DAY)
    await world.collect()
    assert world.blobs.used_bytes() == 0
    for directory in (world.path / "reveals", world.path / "states", world.directory):
        assert [path for path in directory.rglob("*") if path.is_file()] == []


async def test_closed_task_that_needs_nothing_is_read_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    tasks = [TaskId(number) for number in range(1, 21)]
    for task in tasks:
        world.submit(task)
        world.apply(task, TaskClosed(task, 1))
    left = world.directory / "3-check.json"
    left.write_text("{}")
    world.pass_time(DAY)  # until then, what they name has its day
    world.restart()
    await world.collect()
    # A crash may have left files of a closed task.
    assert set(world.read) == {TaskId(3)}
    assert not left.exists()
    world.read.clear()
    world.submit(TaskId(21))
    world.apply(TaskId(21), TaskClosed(TaskId(21), 1))
    for _ in range(3):
        await world.collect()
    assert world.read == [TaskId(21)]


def close(world: World, *tasks: TaskId) -> None:
    """Let tasks train a round and end, one after the other."""
    for task in tasks:
        world.start(task)
        world.play_round(task)
        world.apply(task, TaskClosed(task, 1))


def list_shown(world: World) -> list[TaskId]:
    """The closed tasks with all files that a user may download."""
    return [
        task
        for task, spec in sorted(world.specs.items())
        for names in [
            (
                world.histories[task].model_root,
                spec.initial_weights,
                *(shard.content_id for shard in spec.data.shards),
            )
        ]
        if all(world.blobs.has(name) for name in names)
    ]


@pytest.mark.parametrize("retention", list(Retention))
async def test_closed_tasks_give_way_when_others_need_the_room(
    tmp_path: Path, retention: Retention
) -> None:
    quota_bytes = 2**23
    world = World(tmp_path, retention, closed_days=30, quota_bytes=quota_bytes)
    tasks = [TaskId(number) for number in (4, 3, 1, 2)]
    close(world, *tasks)
    world.block += 17

    world.pass_time(DAY - 3_600)
    await world.collect()
    own_bytes = 2 * count_stored_bytes(THETA_BYTES)  # all but the shard, which all tasks share
    own_bytes += ROUND_BYTES if retention is Retention.TASK else 0
    excess = own_bytes + 1
    world.put(bytes(size_that_takes(quota_bytes // 4 - world.blobs.used_bytes()) + excess))
    await world.collect()
    assert list_shown(world) == sorted(tasks), "they have paid for a day"
    world.pass_time(3_600)
    await world.collect()
    assert list_shown(world) == tasks[2:], "the room of the first is not enough"

    for _ in range(2):
        size = quota_bytes // CONTENT_QUOTA_SHARE
        assert world.blobs.has_room_for_content(size), "for two tasks of the largest size"
        world.put(world.make(size))
    await world.collect()
    assert list_shown(world) == []
    assert list(world.reveals.attempts()) == []
    assert list(world.parts.states()) == []


async def test_closed_task_gives_way_for_the_number_of_its_files(tmp_path: Path) -> None:
    world = World(tmp_path, closed_days=30, quota_bytes=2**22)
    world.submit()
    shards = tuple(Shard(world.put(bytes([number])), 1, 1) for number in range(40))
    spec = world.specs[TASK]
    world.specs[TASK] = replace(spec, data=replace(spec.data, shards=shards))
    world.apply(TASK, TaskAnswered(TASK, VALIDATORS[0], READY_CODE, 1))
    world.apply(TASK, TaskActivated(TASK))
    world.play_round()
    world.apply(TASK, TaskClosed(TASK, 1))
    await world.collect()
    assert list_shown(world) == [TASK]
    world.pass_time(DAY + 60)
    await world.collect()
    assert list_whole(world.blobs) == ()


async def test_content_of_a_closed_task_stays_while_an_open_one_needs_it(tmp_path: Path) -> None:
    world = World(tmp_path, closed_days=30, quota_bytes=2**20)
    close(world, TASK)
    world.start(OTHER)
    world.play_round(OTHER)
    world.pass_time(2 * DAY)
    world.put(bytes(2**12))
    await world.collect()
    world.histories.pop(TASK)
    world.check_duties()
    assert world.blobs.has(content_id(SHARD))
    assert not world.blobs.has(world.specs[TASK].initial_weights)


async def test_gradients_of_the_last_round_stay_with_what_checks_them(tmp_path: Path) -> None:
    world = World(tmp_path, closed_days=0)
    world.start()
    world.play_round()
    world.play_round()
    model = world.histories[TASK].model_root
    world.open()
    world.reveal()
    world.judge(Verdict.OK, Verdict.OK, Verdict.CHEAT)
    world.settle(world.compute())
    world.apply(TASK, TaskClosed(TASK, 1))
    (mark,) = (each for each in world.histories[TASK].ended if world.accused(each))
    (accused,) = (
        each.gradient_root
        for each in world.reveals.list(mark.attempt_id)
        if each.miner == MINERS[2]
    )
    needed = (accused, model, world.specs[TASK].data.shards[0].content_id)
    world.block = mark.late_until - 1
    await world.collect()
    assert all(world.blobs.has(name) for name in needed)
    await world.collect()
    assert not any(world.blobs.has(name) for name in (accused, model))


async def test_model_of_an_accused_gradient_stays_while_rounds_go_on(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.start()
    world.play_round()
    model = world.histories[TASK].model_root
    world.open()
    world.reveal()
    world.judge(Verdict.OK, Verdict.OK, Verdict.CHEAT)
    world.settle(world.compute())
    (mark,) = (each for each in world.histories[TASK].ended if world.accused(each))
    for _ in range(3):
        world.play_round()
        await world.collect()
    assert world.block < mark.late_until
    assert world.blobs.has(model)
    assert [each.rounds_settled for each in world.parts.states()].count(1) == 1
    world.block = mark.late_until
    await world.collect()
    assert not world.blobs.has(model)
    assert sorted(each.rounds_settled for each in world.parts.states()) == [4, 5]


async def test_gradients_that_may_be_found_guilty_give_way_last(tmp_path: Path) -> None:
    world = World(tmp_path, closed_days=30, quota_bytes=2**21)
    world.start(TASK)
    world.open()
    world.reveal()
    world.judge(Verdict.OK, Verdict.OK, Verdict.CHEAT)
    world.settle(world.compute())
    world.apply(TASK, TaskClosed(TASK, 1))
    (ended,) = (mark.attempt_id for mark in world.histories[TASK].ended)
    close(world, OTHER)
    world.pass_time(DAY)
    await world.collect()
    assert list_shown(world) == [TASK, OTHER]
    world.put(bytes(size_that_takes(2**19 - world.blobs.used_bytes()) + 32))
    await world.collect()
    assert list_shown(world) == [TASK]
    held = [each.miner for each in world.reveals.list(ended) if world.blobs.has(each.gradient_root)]
    assert held == [MINERS[2]]


async def test_files_of_a_closed_task_stay_while_it_is_served(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.submit(TASK)
    spec_path = world.directory / f"{TASK}.spec.json"
    spec_path.write_bytes(b"{}")
    world.served.add(TASK)
    world.apply(TASK, TaskClosed(TASK, 1))
    world.pass_time(3 * DAY)
    await world.collect()
    # A dry run that began before others closed the task reads it.
    assert spec_path.exists()
    world.served.clear()
    await world.collect()
    assert not spec_path.exists()


async def test_rows_of_a_task_go_when_it_is_closed_and_not_worked_on(tmp_path: Path) -> None:
    world = World(tmp_path)
    records = RowRecords(world.directory)
    shared, alone = world.put(b"rows of both"), world.put(b"rows of one")
    for task, rows_id in ((TASK, shared), (OTHER, shared), (TaskId(3), alone), (TaskId(9), alone)):
        records.put(task, rows_id)
    for task in (TASK, OTHER, TaskId(3)):
        world.start(task)
        world.play_round(task)
    await world.collect()
    assert [task for task, _ in sorted(records.list())] == [TASK, OTHER, 3, 9]

    for task in (TASK, TaskId(3)):
        world.apply(task, TaskClosed(task, 1))
    world.served.add(TaskId(3))
    await world.collect()
    # The tenth task is not known yet.
    assert [task for task, _ in sorted(records.list())] == [OTHER, 3, 9]
    assert world.blobs.has(shared)

    world.apply(OTHER, TaskClosed(OTHER, 1))
    records.remove(TaskId(9))
    world.served.clear()
    await world.collect()
    assert list(records.list()) == []
    assert not world.blobs.has(shared)
    assert not world.blobs.has(alone)


async def test_what_two_tasks_share_stays_for_the_second(tmp_path: Path) -> None:
    world = World(tmp_path, closed_days=0)
    for task in (TASK, OTHER):
        world.start(task)
        world.play_round(task)
    world.apply(TASK, TaskClosed(TASK, 1))
    await world.collect()
    world.check_duties()
    assert world.blobs.has(content_id(SHARD))
    assert world.blobs.has(content_id(ZEROS))
    world.pass_time(DAY + 60)
    await world.collect()
    world.check_duties()
    assert not world.blobs.has(world.specs[TASK].initial_weights)


async def test_uploads_that_no_task_needs_are_deleted_after_a_day(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.submit()  # this node does not post ready
    unknown = world.put(b"no commitment names this")
    (world.path / "blobs" / "12.upload").write_bytes(b"never finished")
    os.utime(world.path / "blobs" / "12.upload", (world.now, world.now))
    world.pass_time(DAY - 60)
    await world.collect()
    assert world.blobs.has(unknown)
    assert world.blobs.has(world.specs[TASK].initial_weights)
    world.pass_time(120)
    await world.collect()
    assert world.blobs.used_bytes() == 0


@pytest.mark.parametrize("retention", list(Retention))
async def test_gradients_that_are_not_sent_take_no_more_than_promised(
    tmp_path: Path, retention: Retention
) -> None:
    world = World(tmp_path, retention)
    world.start()
    world.open()
    for attempt_number in range(1, 8):
        world.reveal(is_sent=False)
        await world.collect()
        place = AttemptId(TASK, 0, attempt_number - 1)
        wanted = {each.gradient_root for each in world.reveals.list(place)}
        assert wanted <= set(list_downloads(world.blobs)), "the fetch of each may go on"
        assert world.blobs.used_bytes() <= CONTENT_BYTES + 2 * ROUND_BYTES
        world.apply(TASK, AttemptVoided(TASK, 0, attempt_number - 1))
        world.open(attempt=attempt_number)
    world.apply(TASK, TaskClosed(TASK, 1))
    await world.collect()
    assert list_downloads(world.blobs) == ()


@pytest.mark.parametrize("end", ["refused", "cancelled"])
async def test_half_fetched_content_goes_with_the_promise(tmp_path: Path, end: str) -> None:
    world = World(tmp_path)
    for task in (TASK, OTHER):
        world.submit(task)
    world.blobs.collect(world.specs[TASK].initial_weights, 2**63)
    world.blobs.collect(world.specs[OTHER].initial_weights, 2**63)
    half, other = (world.begin_download(world.weights[task]) for task in (TASK, OTHER))
    await world.collect()
    assert set(list_downloads(world.blobs)) == {half.content_id, other.content_id}
    if end == "refused":
        world.served.add(TASK)
        world.refused.add(TASK)
    else:
        world.apply(TASK, TaskClosed(TASK, 1))
    await world.collect()
    assert list_downloads(world.blobs) == (other.content_id,)


async def test_half_fetched_content_of_a_task_to_be_judged_stays(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.submit()
    world.blobs.collect(world.specs[TASK].initial_weights, 2**63)
    half = world.begin_download(world.weights[TASK])
    world.served.add(TASK)
    world.apply(TASK, TaskClosed(TASK, 1))
    await world.collect()
    assert list_downloads(world.blobs) == (half.content_id,)


async def test_syncing_node_keeps_blobs_of_tasks_it_does_not_know_yet(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    world.start()
    world.play_round()
    later, world.histories, ahead = world.histories, {}, world.now
    before = list_whole(world.blobs)
    world.now -= 30 * DAY
    world.restart()
    await world.collect()
    assert list_whole(world.blobs) == before
    assert len(list(world.reveals.attempts())) == 1
    world.histories, world.now = later, ahead
    await world.collect()
    world.check_duties()


async def test_interrupted_collection_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink
    for cut in (0, 1, 2, 5, 9):
        (tmp_path / str(cut)).mkdir()
        world = World(tmp_path / str(cut))
        world.start()
        for _ in range(6):
            world.play_round()
        count = 0

        def cut_off(path: Path, missing_ok: bool = False, cut: int = cut) -> None:
            nonlocal count
            count += 1
            if count > cut:
                raise OSError("killed")
            unlink(path, missing_ok=missing_ok)

        monkeypatch.setattr(Path, "unlink", cut_off)
        with pytest.raises(OSError, match="killed"):
            await world.collect()
        monkeypatch.setattr(Path, "unlink", unlink)
        world.restart()
        world.check_duties()
        await world.collect()
        world.check_duties()
        assert (
            world.blobs.used_bytes()
            == CONTENT_BYTES + STATE_BYTES + count_stored_bytes(THETA_BYTES) + ROUND_BYTES
        )


async def test_a_disk_that_fails_stops_nothing(
    tmp_path: Path, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    world.start()
    for _ in range(6):
        world.play_round()
    world.pass_time()
    before = world.blobs.used_bytes()
    collect = BlobStore.collect
    failures = iter([OSError("input/output error")])

    def fail_once(store: BlobStore, name: Hash32, before_ns: int) -> int:
        for error in failures:
            raise error
        return collect(store, name, before_ns)

    monkeypatch.setattr(BlobStore, "collect", fail_once)
    with trio.move_on_after(collector.COLLECT_SECONDS * 1.5):
        await world.collector.run()
    assert world.blobs.used_bytes() < before
    world.check_duties()


def act(world: World, task: TaskId, action: str) -> None:
    """Apply one event, if it is possible in the task's state."""
    history = world.histories.get(task)
    if history is None:
        if action == "submit" and len(world.histories) == task - 1:
            world.submit(task)
        return
    attempt = history.attempt
    match action, history.status:
        case "ready", TaskStatus.PENDING:
            world.prepare(task)
            world.apply(task, TaskAnswered(task, VALIDATORS[0], READY_CODE, 1))
        case "activate", TaskStatus.PENDING:
            # If this node was not ready, other nodes were.
            world.apply(task, TaskActivated(task))
            world.prepare(task)
        case "pause", TaskStatus.ACTIVE if attempt is None:
            world.apply(task, TaskPaused(task))
        case "resume", TaskStatus.PAUSED:
            world.apply(task, TaskResumed(task))
        case "close", TaskStatus.PENDING | TaskStatus.ACTIVE | TaskStatus.PAUSED if attempt is None:
            world.apply(task, TaskClosed(task, 1))
        case "open", TaskStatus.ACTIVE if attempt is None:
            world.open(task)
            world.reveal(task)
        case "fail", TaskStatus.ACTIVE if attempt is not None and attempt.ballot < 2:
            place = (attempt.id.round_number, attempt.id.attempt_number, attempt.ballot)
            world.apply(task, BallotFailed(task, *place))
        case "void", TaskStatus.ACTIVE if attempt is not None:
            place = (attempt.id.round_number, attempt.id.attempt_number)
            world.apply(task, AttemptVoided(task, *place))
            world.open(task, attempt.id.attempt_number + 1)
            world.reveal(task, miners=1)
        case "settle", TaskStatus.ACTIVE if attempt is not None:
            world.settle(world.compute(task), task)
        case _:
            pass


ACTIONS = (
    *("submit", "ready", "activate", "fail", "void", "void"),
    *("open", "open", "open", "open", "settle", "settle", "settle"),
    *("pause", "resume", "close", "upload", "wait", "day", "restart"),
)


@pytest.mark.parametrize("retention", list(Retention))
def test_collector_never_deletes_what_a_duty_needs(
    tmp_path_factory: pytest.TempPathFactory, retention: Retention
) -> None:
    @settings(max_examples=12, deadline=None)
    @given(
        st.lists(
            st.tuples(st.sampled_from((TASK, OTHER)), st.sampled_from(ACTIONS)),
            min_size=30,
            max_size=60,
        )
    )
    def play(actions: list[tuple[TaskId, str]]) -> None:
        world = World(tmp_path_factory.mktemp("world"), retention)
        trio.run(play_all, world, [(TASK, "submit"), (TASK, "activate"), *actions])

    play()


async def play_all(world: World, actions: list[tuple[TaskId, str]]) -> None:
    uploads: dict[Hash32, int] = {}
    for task, action in actions:
        match action:
            case "upload":
                uploads[world.put(world.make(80))] = world.now
            case "wait":
                world.block += 20
                world.pass_time(60)
            case "day":
                world.pass_time(DAY)
            case "restart":
                world.restart()
            case _:
                act(world, task, action)
        await world.collect()
        world.check_duties()
        for name, at in uploads.items():
            assert world.blobs.has(name) == (world.now - at <= DAY)
    # A closed task leaves nothing behind, whatever closed it.
    for task in world.histories:
        if world.histories[task].attempt is not None:
            world.settle(world.compute(task), task)
        if world.histories[task].status != TaskStatus.CLOSED:
            world.apply(task, TaskClosed(task, 1))
    world.pass_time(5 * DAY)
    await world.collect()
    assert world.blobs.used_bytes() == 0
    assert list(world.reveals.attempts()) == []
    assert list(world.parts.states()) == []


@pytest.mark.parametrize("closes", [False, True])
async def test_miners_cannot_have_content_of_another_task_deleted(
    tmp_path: Path, closes: bool
) -> None:
    world = World(tmp_path)
    world.start()
    world.submit(OTHER)
    shard = world.put(b"rows of another submitter")
    data = replace(SPEC.data, shards=(Shard(shard, 25, 50),))
    world.specs[OTHER] = replace(world.specs[OTHER], data=data)
    weights = world.specs[OTHER].initial_weights
    if closes:
        world.apply(OTHER, TaskClosed(OTHER, 1))
    world.open()
    attempt = world.histories[TASK].attempt
    assert attempt is not None
    gradient = world.put(world.make(GRADIENT_BYTES))
    for miner, root in zip(MINERS, (shard, weights, gradient), strict=False):
        world.reveals.put(Reveal(attempt.id, miner, 1, Hash32(bytes(32)), root))
    world.settle(world.compute())
    world.play_round()
    world.play_round()
    await world.collect()
    await world.collect()
    assert world.blobs.has(shard)
    assert world.blobs.has(weights)
    assert not world.blobs.has(gradient)

    world.pass_time(DAY)
    await world.collect()
    assert not world.blobs.has(shard)


async def test_weights_of_a_closed_task_stay_for_a_pending_one(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.start()
    weights = world.specs[TASK].initial_weights
    world.parts.put(TASK, 0, [weights])
    world.submit(OTHER)
    world.specs[OTHER] = replace(world.specs[OTHER], initial_weights=weights)
    world.apply(TASK, TaskClosed(TASK, 1))
    await world.collect()
    assert world.blobs.has(weights)
