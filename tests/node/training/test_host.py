"""The training host with a scripted chain, worker and peers."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from trio.testing import MockClock

from chain.contracts.task_registry import TaskStatus
from node.training.worker_pool import WorkerRefusedError
from tests.worlds.training import (
    TASK,
    history_after,
)
from tests.worlds.training_node import (
    OK,
    FakeChain,
    Node,
    expected_verdict,
    judging,
)

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
    pending = replace(history_after(), status=TaskStatus.PENDING)
    chain = FakeChain({TASK: pending})
    node = Node(tmp_path, chain)

    def refuse(_kind: str, _members: Mapping[str, object]) -> Mapping[str, object]:
        raise WorkerRefusedError("bad_spec", "too large")

    node.verifier.answers = refuse
    await node.run_for(20)
    assert node.verifier.asked == ["dry_run"]
    assert chain.phase_calls <= 3
