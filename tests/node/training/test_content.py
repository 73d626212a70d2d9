"""A node checks its own blobs before it relies on them."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.crypto import content_id
from tests.worlds.training_node import (
    OK,
    PAYLOADS,
    SHARDS,
    WEIGHTS,
    Node,
    expected_verdict,
    honest_worker,
    judging,
)
from tests.worlds.waiting import until

pytestmark = pytest.mark.usefixtures("inline_threads")


@pytest.mark.parametrize("victim", [PAYLOADS[0], WEIGHTS, SHARDS[1]])
async def test_blob_damaged_on_disk_is_fetched_again_before_a_bad_verdict(
    autojump_clock: MockClock, tmp_path: Path, victim: bytes
) -> None:
    node = Node(tmp_path, judging(1))
    node.hold(0)
    node.peers.blobs = {content_id(victim): victim}
    path = node.blobs.path(content_id(victim))

    def measure(kind: str, members: Mapping[str, object]) -> Mapping[str, object]:
        if kind == "verify" and path.read_bytes() != victim:
            return {"distance_ppb": 10**9, "exponents": "broken_tenfold", "noise_ppb": 0}
        return honest_worker(kind, members)

    node.verifier.answers = measure
    async with trio.open_nursery() as nursery:
        await until(lambda: True)
        path.chmod(0o600)
        path.write_bytes(bytes([victim[0] ^ 1]) + victim[1:])
        await nursery.start(node.host.run)
        await until(lambda: bool(node.verdicts()), seconds=10)
        nursery.cancel_scope.cancel()

    assert node.verdicts() == [expected_verdict(OK)]
    assert path.read_bytes() == victim
