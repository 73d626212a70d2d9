"""Votes are sent once, and their memory is bounded."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.contracts.gradient_ledger import AttemptOpened, Phase
from chain.training.history import apply_event
from tests.worlds.training import (
    GENESIS_SET,
    TASK,
    at,
    history_after,
)
from tests.worlds.training_node import (
    SPEC,
    FakeChain,
    Node,
)

pytestmark = pytest.mark.usefixtures("inline_threads")


async def test_memory_of_votes_and_jobs_does_not_grow_with_rounds(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    chain = FakeChain({TASK: history_after()}, Phase.STALLED)
    node = Node(tmp_path, chain)

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        for round_number in range(40):
            chain.head += 3
            opened = AttemptOpened(TASK, 0, round_number, round_number + 1, 3, 10**19)
            history = apply_event(
                history_after(), opened, at(50), spec=SPEC, validator_set=GENESIS_SET
            ).history
            chain.histories = {TASK: history}
            node.host.wake()
            await trio.sleep(1)
        assert len(node.sent) == 40
        (work,) = node.host._work.values()
        assert len(work.sent) <= 3
        assert len(node.host._jobs._retry_at) <= 8
        assert len(node.host._jobs._retries) <= 8
        nursery.cancel_scope.cancel()
