"""Training states are fetched from peers and checked."""

from collections.abc import Mapping
from dataclasses import replace
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
from node.storage.blobs import BlobStore
from node.training.state_parts import StatePartStore
from node.training.states import TrainingStates
from node.training.turns import Turn, Turns
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
    """A worker with the turns of the node's pool, which answers after each second of its work."""

    timeout_seconds = 120.0

    def __init__(self) -> None:
        self.turns = Turns(1)
        self.done: list[str] = []

    async def ask(
        self, kind: str, members: Mapping[str, object], turn: Turn, **_: object
    ) -> Mapping[str, object]:
        name = str(members["name"])
        async with self.turns.take(turn):
            await trio.sleep(1)
        self.done.append(name)
        count = self.done.count(name)
        if count < {"long": 10, "short": 1}[name]:
            return {"progress": {"checked": count}, "done": count}
        return {"part_ids": [content_id(bytes(size)).hex() for size in LAYOUT]}


async def test_result_that_is_due_first_waits_for_one_part_of_another(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    aggregator = SlowAggregator()
    states = TrainingStates(
        BlobStore(tmp_path / "blobs", quota_bytes=2**24),
        StatePartStore(tmp_path / "parts"),
        SimpleNamespace(get_spec_path=lambda _: ""),
        FakePeers(),
        aggregator,
    )
    ends: dict[str, float] = {}

    async def compute(name: str, task_id: TaskId, starts: float, due: float) -> None:
        history = replace(history_after(), task_id=task_id)
        task = ServedTask(history, SPEC, TaskWork(due_at=start + due))
        await trio.sleep(starts)
        await states.compute(task, 1, "advance", {"name": name})
        ends[name] = trio.current_time() - start

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(compute, "long", TASK, 0.0, 100.0)
        nursery.start_soon(compute, "short", TaskId(2), 2.5, 20.0)
    assert ends == pytest.approx({"short": 4.0, "long": 11.0})
    assert aggregator.done == ["long"] * 3 + ["short"] + ["long"] * 7


async def test_worker_that_makes_no_progress_has_failed(tmp_path: Path) -> None:
    aggregator = SlowAggregator()

    async def ask(*_: object, **__: object) -> Mapping[str, object]:
        return {"progress": {}, "done": 0}

    aggregator.ask = ask
    states = TrainingStates(
        BlobStore(tmp_path / "blobs", quota_bytes=2**24),
        StatePartStore(tmp_path / "parts"),
        SimpleNamespace(get_spec_path=lambda _: ""),
        FakePeers(),
        aggregator,
    )
    with pytest.raises(WorkerFailedError, match="no progress"):
        await states.compute(ServedTask(history_after(), SPEC, TaskWork()), 1, "advance", {})
