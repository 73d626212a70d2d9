"""Training states are fetched from peers and checked."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock

from chain.contracts.gradient_ledger import AttemptOpened, Phase
from chain.crypto import content_id
from chain.primitives import Hash32, TaskId
from chain.training.architectures import count_parameters
from chain.training.history import apply_event
from chain.training.optimizer import initial_state
from chain.training.state import (
    compute_layout,
    compute_model_root,
    compute_part_ids,
    compute_state_root,
)
from chain.training.task_checks import compute_aggregation_milliseconds, compute_promise
from chain.training.task_spec import TaskSpec
from node.storage.blobs import BlobStore
from node.training.state_parts import StatePartStore
from node.training.states import TrainingStates
from node.training.turns import Turn, Turns, WorkOverError
from node.training.work import ServedTask, TaskWork
from node.training.worker_pool import WorkerFailedError
from tests.worlds.training import (
    GENESIS_SET,
    TASK,
    at,
    history_after,
)
from tests.worlds.training_node import (
    OK,
    SPEC,
    WEIGHTS,
    FakeChain,
    FakePeers,
    Node,
    settled_round,
)
from tests.worlds.waiting import until

pytestmark = pytest.mark.usefixtures("inline_threads")


async def test_the_state_of_a_settled_round_is_restored_from_peers(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    state = initial_state(SPEC.optimizer, WEIGHTS)
    part_ids = compute_part_ids(state)
    root = compute_state_root(part_ids)
    history = replace(
        history_after(),
        rounds_settled=1,
        training_state_root=root,
        model_root=compute_model_root(state),
    )
    opened = AttemptOpened(TASK, 1, 0, 2, 3, 10**19)
    history = apply_event(history, opened, at(50), spec=SPEC, validator_set=GENESIS_SET).history
    node = Node(tmp_path, FakeChain({TASK: history}, Phase.COMMITMENT))
    node.chain.settled = {0: settled_round(0, OK, OK, OK)}
    node.peers.parts = {root: (Hash32(bytes(32)), *part_ids[1:])}

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(3)
        assert node.parts.get(root) is None, "these parts are not the root's"
        node.peers.parts = {root: part_ids}
        node.peers.blobs = {content_id(bytes(part)): bytes(part) for part in state.parts}
        await until(lambda: node.parts.get(root) == part_ids, seconds=10)
        nursery.cancel_scope.cancel()


LAYOUT = compute_layout(SPEC.optimizer, count_parameters(SPEC.model))


class SlowAggregator:
    """A worker with the turns of the node's pool, which answers after each piece of its work."""

    timeout_seconds = 120.0

    def __init__(self, piece_seconds: Mapping[str, float]) -> None:
        self.turns = Turns(1)
        self.piece_seconds = piece_seconds
        self.done: list[str] = []

    async def ask(
        self, kind: str, members: Mapping[str, object], turn: Turn, **_: object
    ) -> Mapping[str, object]:
        name = str(members["name"])
        async with self.turns.take(turn):
            await trio.sleep(self.piece_seconds[name])
        self.done.append(name)
        done = self.done.count(name)
        if done % {"long": 10}.get(name, 1):
            return {"progress": {"checked": done}, "done": done}
        return {"part_ids": [content_id(bytes(size)).hex() for size in LAYOUT]}


def build_states(path: Path, aggregator: object) -> TrainingStates:
    return TrainingStates(
        BlobStore(path / "blobs", quota_bytes=2**24),
        StatePartStore(path / "parts"),
        SimpleNamespace(get_spec_path=lambda _: ""),
        FakePeers(),
        aggregator,
    )


def always() -> bool:
    return True


def with_result_seconds(spec: TaskSpec, seconds: int) -> TaskSpec:
    return replace(spec, phases=replace(spec.phases, result_seconds=seconds))


async def test_result_that_is_due_first_waits_for_one_part_of_another(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    aggregator = SlowAggregator({"long": 0.001, "short": 0.001})
    states = build_states(tmp_path, aggregator)
    ends: dict[str, float] = {}

    async def compute(name: str, task_id: TaskId, starts: float, due: int) -> None:
        history = replace(history_after(), task_id=task_id)
        work = TaskWork(due_at=start + due)
        task = ServedTask(history, with_result_seconds(SPEC, due), work)
        await trio.sleep(starts)
        await states.compute(task, 1, "advance", {"name": name}, name, always)
        ends[name] = trio.current_time() - start

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(compute, "long", TASK, 0.0, 100)
        nursery.start_soon(compute, "short", TaskId(2), 0.0025, 20)
    assert ends == pytest.approx({"short": 0.004, "long": 0.011})
    assert aggregator.done == ["long"] * 3 + ["short"] + ["long"] * 7


async def test_quick_short_result_phases_take_no_promised_aggregation(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """The nearest deadline came first, so rounds that follow each other took the whole worker."""
    aggregator = SlowAggregator({"quick": 0.5, "honest": 0.01})
    states = build_states(tmp_path, aggregator)
    reward = replace(SPEC.reward, max_units=1_024)
    quick = with_result_seconds(replace(SPEC, reward=reward), 4)
    assert compute_aggregation_milliseconds(quick) > 500
    assert 3 * compute_promise(quick).aggregation_ppm < 500_000

    async def take_quick_rounds(task_id: TaskId) -> None:
        history, work = replace(history_after(), task_id=task_id), TaskWork()
        for attempt in count():
            work.due_at = trio.current_time() + 4
            promise = (task_id, attempt)
            task = ServedTask(history, quick, work)
            await states.compute(task, 1, "advance", {"name": "quick"}, promise, always)

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in (2, 3, 4):
            nursery.start_soon(take_quick_rounds, TaskId(number))
        await trio.sleep(0.1)
        task = ServedTask(
            history_after(), with_result_seconds(SPEC, 60), TaskWork(due_at=start + 60)
        )
        await states.compute(task, 1, "advance", {"name": "honest"}, "honest", always)
        ended_at = trio.current_time()
        nursery.cancel_scope.cancel()
    assert ended_at - start < 30


async def test_aggregation_of_an_attempt_that_ended_is_dropped(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    aggregator = SlowAggregator({"long": 0.001})
    states, task = build_states(tmp_path, aggregator), ServedTask(history_after(), SPEC, TaskWork())
    with pytest.raises(WorkOverError):
        await states.compute(
            task, 1, "advance", {"name": "long"}, "long", lambda: len(aggregator.done) < 3
        )
    assert aggregator.done == ["long"] * 3


async def test_worker_that_makes_no_progress_has_failed(tmp_path: Path) -> None:
    aggregator = SlowAggregator({})

    async def ask(*_: object, **__: object) -> Mapping[str, object]:
        return {"progress": {}, "done": 0}

    aggregator.ask = ask
    states = build_states(tmp_path, aggregator)
    task = ServedTask(history_after(), SPEC, TaskWork())
    with pytest.raises(WorkerFailedError, match="no progress"):
        await states.compute(task, 1, "advance", {}, "promise", always)
