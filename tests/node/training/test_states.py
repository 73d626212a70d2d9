"""Training states are fetched from peers and checked."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.contracts.gradient_ledger import AttemptOpened, Phase
from chain.crypto import content_id
from chain.primitives import Hash32
from chain.training.history import apply_event
from chain.training.optimizer import initial_state
from chain.training.state import compute_model_root, compute_part_ids, compute_state_root
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
