"""The training host with a scripted chain, worker and peers."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.contracts import task_registry
from chain.contracts.task_registry import TaskStatus
from chain.primitives import BlockNumber, TaskId
from chain.training.history import BlockContext
from node.training.worker_pool import WorkerRefusedError
from tests.worlds.training import (
    TASK,
    pending_history,
)
from tests.worlds.training_node import (
    OK,
    FakeChain,
    Node,
    expected_verdict,
    judging,
)
from tests.worlds.waiting import until

pytestmark = pytest.mark.usefixtures("inline_threads")


async def test_a_restart_in_the_middle_of_a_round_loses_no_duty(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    before = Node(tmp_path, judging())
    before.hold(0, 1)
    await before.run(lambda: before.verifier.asked.count("verify") == 2)
    assert before.verdicts() == []

    after = Node(tmp_path, before.chain)
    after.hold(2)
    await after.run(lambda: bool(after.verdicts()))
    assert after.verdicts() == [expected_verdict(OK, OK, OK)]


async def test_a_refused_task_is_not_looked_at_again(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    pending = pending_history()
    chain = FakeChain({TASK: pending})
    node = Node(tmp_path, chain)

    def refuse(_kind: str, _members: Mapping[str, object]) -> Mapping[str, object]:
        raise WorkerRefusedError("bad_spec", "too large")

    node.verifier.answers = refuse
    await node.run_for(20)
    assert node.verifier.asked == ["dry_run"]
    assert chain.phase_calls <= 3


@pytest.mark.parametrize("status", [TaskStatus.PENDING, TaskStatus.CLOSED])
async def test_answer_that_the_contract_has_already_is_tried_once(
    autojump_clock: MockClock, tmp_path: Path, status: TaskStatus
) -> None:
    """A snapshot tells no answers of validators that were not in the set at its block."""
    pending = pending_history()
    chain = FakeChain({TASK: pending})
    chain.reverts = "TaskAlreadyAnswered"
    node = Node(tmp_path, chain)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await until(lambda: chain.simulated > 0)
        if status is TaskStatus.CLOSED:
            closed = replace(pending, status=status, closed=BlockContext(BlockNumber(100), 1))
            chain.histories[TASK] = closed
        for _ in range(30):
            chain.head += 1
            node.host.on_new_head([TASK])
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert (chain.simulated, node.sent) == (1, [])
    assert node.host.is_served(TASK) == (status is TaskStatus.PENDING)


async def test_pending_tasks_cost_nothing_after_each_block(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    pending = pending_history()
    histories = {TaskId(n): replace(pending, task_id=TaskId(n)) for n in range(1, 1_001)}
    chain = FakeChain(histories)
    node = Node(tmp_path, chain, has_content=False)

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(5)
        before, asked = chain.histories_read, len(node.peers.asked)
        for _ in range(200):
            node.host.on_new_head([])
            await trio.sleep(0.001)
        after, tries = chain.histories_read, len(node.peers.asked) - asked
        nursery.cancel_scope.cancel()

    assert after - before <= 4 * tries + 4 < 1_000


async def test_block_that_changes_a_pending_task_has_it_looked_at(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    pending = pending_history()
    chain = FakeChain({})
    node = Node(tmp_path, chain)

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(2)
        chain.histories[TASK] = pending
        node.host.on_new_head([TASK])
        await until(lambda: bool(node.sent), seconds=2)
        nursery.cancel_scope.cancel()

    assert node.sent == [task_registry.answer_task(TASK, 0)]


async def test_start_reads_no_task_that_was_closed_long_ago(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    closed = replace(
        pending_history(), status=TaskStatus.CLOSED, closed=BlockContext(BlockNumber(1), 1)
    )
    chain = FakeChain({TaskId(n): replace(closed, task_id=TaskId(n)) for n in range(1, 1_001)})
    node = Node(tmp_path, chain)
    await node.run_for(1)
    node.host.wake()
    await node.run_for(1)
    assert chain.histories_read == 0
