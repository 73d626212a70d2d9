"""What a node finds out about its part in consensus, over hosts that run."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from node.health.diagnosis import Step
from node.health.reader import HealthReader
from tests.worlds.cluster import VALIDATORS, build_cluster, heads, network_genesis
from tests.worlds.waiting import until

pytestmark = pytest.mark.usefixtures("inline_threads")


async def test_proposal_that_is_too_old_is_a_step_of_its_own(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """It was taken for a proposal that is still being checked, and the machine blamed."""
    await trio.sleep(10)
    wire = build_cluster(tmp_path)
    first_primary, node = wire.nodes[:2]
    first_primary.clock.ahead_ms = -20_000
    async with trio.open_nursery() as nursery:
        for each in wire.nodes:
            await nursery.start(each.run)
        reader = HealthReader(
            parameters=network_genesis()[0].parameters,
            validator=VALIDATORS[1],
            names={},
            data_dir=tmp_path,
            clock=node.clock,
            store=node.store,
            consensus=node.host,
            peers=node,
            sync=node.sync,
            mempool=node.mempool,
        )
        await until(lambda: reader.read().step is Step.TOO_OLD)
        health = reader.read()
        assert health.primary == VALIDATORS[0]
        assert health.late_seconds == pytest.approx(10, abs=1.5)
        await until(lambda: min(heads(wire.nodes)) >= 1)
        assert reader.read().step is not Step.TOO_OLD
        nursery.cancel_scope.cancel()
