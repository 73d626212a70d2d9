"""Preparing for tasks: fetch, dry run, then ready or refusal."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.contracts import task_registry
from chain.contracts.task_registry import TaskStatus
from chain.crypto import content_id
from chain.primitives import TaskId
from chain.training.encoding import count_payload_bytes
from node.training import preparation
from node.training.readiness import ReadinessState, TaskReadiness
from node.training.worker_pool import WorkerFailedError, WorkerRefusedError
from tests.worlds.training import (
    TASK,
    at,
    history_after,
)
from tests.worlds.training_node import (
    SHARDS,
    SIZE,
    SPEC,
    WEIGHTS,
    FakeChain,
    Node,
)
from tests.worlds.waiting import until

pytestmark = pytest.mark.usefixtures("inline_threads")

CONTENT_BYTES = len(WEIGHTS) + sum(len(shard) for shard in SHARDS)
STATE_BYTES = 3 * len(WEIGHTS) + 8
GRADIENT_BYTES = SPEC.reward.max_units * count_payload_bytes(SIZE)
BLOB_COUNT = 3 + 3 * 4 + 4 * SPEC.reward.max_units
DISK_BYTES = CONTENT_BYTES + 3 * STATE_BYTES + 4 * GRADIENT_BYTES + 32 * BLOB_COUNT
"""What the task takes at most: its content, three states, the gradients of four ballots, and the
hash of the only chunk of each of these blobs."""


async def test_content_is_fetched_and_dry_run_before_ready_is_posted(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    history = replace(history_after(), status=TaskStatus.PENDING)
    node = Node(tmp_path, FakeChain({TASK: history}), has_content=False)
    node.peers.blobs = {content_id(data): data for data in (WEIGHTS, *SHARDS)}

    await node.run(lambda: bool(node.sent))

    assert node.sent == [task_registry.post_ready(TASK)]
    assert node.verifier.asked == ["dry_run"]
    assert sorted(node.blobs.content_ids()) == sorted(node.peers.blobs)


async def test_thousand_tasks_without_available_content_cost_little(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    pending = replace(history_after(), status=TaskStatus.PENDING)
    histories = {TaskId(n): replace(pending, task_id=TaskId(n)) for n in range(1, 1_001)}
    chain = FakeChain(histories)
    node = Node(tmp_path, chain, has_content=False)

    await node.run_for(20)

    # Each task was tried a few times, and few at once.
    assert node.peers.busiest == preparation.PREPARING_LIMIT
    assert 1_000 <= len(node.peers.asked) <= 6_000
    assert chain.phase_calls <= 6_000


async def test_ready_is_posted_for_at_most_the_served_tasks_limit(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "SERVED_TASKS_LIMIT", 2)
    monkeypatch.setattr(preparation, "PREPARING_LIMIT", 1)
    pending = replace(history_after(), status=TaskStatus.PENDING)
    chain = FakeChain({TaskId(n): replace(pending, task_id=TaskId(n)) for n in range(1, 9)})
    node = Node(tmp_path, chain)

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(60)
        ready = set(node.sent)
        assert len(ready) == 2
        for task_id in list(chain.histories)[:2]:
            closed = replace(at(9), timestamp=0)
            chain.histories[task_id] = replace(
                chain.histories[task_id], status=TaskStatus.CLOSED, closed=closed
            )
        node.host.wake()
        await trio.sleep(60)
        assert len(set(node.sent)) == 4
        nursery.cancel_scope.cancel()


async def test_content_leaves_half_of_the_quota_to_promised_tasks(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    size = len(WEIGHTS) + sum(len(shard) for shard in SHARDS)
    chain = FakeChain({TASK: replace(history_after(), status=TaskStatus.PENDING)})
    node = Node(tmp_path, chain, has_content=False, quota_bytes=32 * size)
    node.peers.blobs = {content_id(data): data for data in (WEIGHTS, *SHARDS)}
    filler = node.blobs.put(bytes(16 * size - size - 31))

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(20)
        assert node.peers.asked == []
        node.blobs.delete(filler)
        await until(lambda: bool(node.sent), seconds=60)
        nursery.cancel_scope.cancel()


async def test_task_larger_than_half_the_quota_is_refused_before_any_fetch(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    for name, quota_bytes, is_taken in (
        ("large", 2 * DISK_BYTES, True),
        ("small", 2 * DISK_BYTES - 2, False),
    ):
        chain = FakeChain({TASK: replace(history_after(), status=TaskStatus.PENDING)})
        node = Node(tmp_path / name, chain, has_content=False, quota_bytes=quota_bytes)
        node.peers.blobs = {content_id(data): data for data in (WEIGHTS, *SHARDS)}
        await node.run_for(20)
        assert node.blobs.has(content_id(WEIGHTS)) == is_taken
        assert bool(node.sent) == is_taken


async def test_task_whose_dry_run_fails_twice_is_refused(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    chain = FakeChain({TASK: replace(history_after(), status=TaskStatus.PENDING)})
    node = Node(tmp_path, chain)

    def fail(kind: str, _members: Mapping[str, object]) -> Mapping[str, object]:
        raise WorkerFailedError(f"no answer to {kind} in 120 s")

    node.verifier.answers = fail
    await node.run_for(120)

    assert node.verifier.asked == ["dry_run", "dry_run"]
    assert node.sent == []


async def test_ready_is_not_posted_beyond_the_disk_quota(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    pending = replace(history_after(), status=TaskStatus.PENDING)
    for name, quota_bytes, taken in (
        ("none", 2 * DISK_BYTES - 2, 0),
        ("one", 2 * DISK_BYTES, 1),
        ("two", 4 * DISK_BYTES, 2),
    ):
        chain = FakeChain({TaskId(n): replace(pending, task_id=TaskId(n)) for n in range(1, 4)})
        node = Node(tmp_path / name, chain, quota_bytes=quota_bytes)
        await node.run_for(60)
        assert len(set(node.sent)) == taken, name


async def test_reason_for_refusing_or_delaying_a_task_is_kept(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    chain = FakeChain({TASK: replace(history_after(), status=TaskStatus.PENDING)})
    refusing = Node(tmp_path / "refusing", chain)
    waiting = Node(tmp_path / "waiting", chain, has_content=False)

    def refuse(kind: str, _members: Mapping[str, object]) -> Mapping[str, object]:
        raise WorkerRefusedError("bad_spec", "a label is not one of 2 classes")

    refusing.verifier.answers = refuse
    await refusing.run_for(5)
    await waiting.run_for(5)

    assert refusing.host.get_readiness(TASK) == TaskReadiness(
        ReadinessState.REFUSED, "dry_run_refused", "bad_spec: a label is not one of 2 classes"
    )
    waits = waiting.host.get_readiness(TASK)
    assert waits is not None
    assert (waits.state, waits.code) == (ReadinessState.WAITING, "content_unavailable")
    assert "cannot be fetched" in str(waits.reason)
    assert waiting.host.get_readiness(TaskId(9)) is None


async def test_task_that_passes_the_dry_run_is_said_to_be_ready(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, FakeChain({TASK: replace(history_after(), status=TaskStatus.PENDING)}))
    await node.run(lambda: bool(node.sent))
    assert node.host.describe_readiness(TASK) == {"state": "ready", "code": None, "reason": None}
