"""The training host's stores as peers see them."""

import os
from dataclasses import replace
from pathlib import Path

from chain.primitives import Address, Hash32
from chain.training.attempt import AttemptId
from chain.training.reveal import Reveal
from node.training.reveal_store import RevealStore
from node.training.served_training import ANNOUNCED_LIMIT, ServedTraining
from node.training.state_parts import StatePartStore
from tests.worlds.training import TASK
from tests.worlds.training_node import ATTEMPT, REVEALS


async def test_peers_are_answered_from_the_stores(tmp_path: Path) -> None:
    reveals, parts = RevealStore(tmp_path / "reveals"), StatePartStore(tmp_path / "parts")
    served = ServedTraining(reveals, parts)
    reveals.put(REVEALS[0])
    part_ids = (Hash32(b"\x01" * 32), Hash32(b"\x02" * 32))
    root = parts.put(TASK, 1, part_ids)

    assert await served.list_reveals(ATTEMPT) == (REVEALS[0],)
    assert await served.list_reveals(replace(ATTEMPT, round_number=1)) == ()
    assert await served.get_state_parts(root) == part_ids
    assert await served.get_state_parts(Hash32(bytes(32))) is None


async def test_reveals_are_read_again_only_after_a_change(tmp_path: Path) -> None:
    reveals = RevealStore(tmp_path / "reveals")
    served = ServedTraining(reveals, StatePartStore(tmp_path / "parts"))
    folder = tmp_path / "reveals" / "1" / "0-0"
    read: list[Address] = []
    get = reveals.get

    def get_watched(attempt_id: AttemptId, miner: Address) -> Reveal | None:
        read.append(miner)
        return get(attempt_id, miner)

    reveals.get = get_watched  # type: ignore[method-assign]
    for count, reveal in enumerate(REVEALS, 1):
        reveals.put(reveal)
        for _ in range(2):
            assert await served.list_reveals(ATTEMPT) == REVEALS[:count], "it changed just now"
        os.utime(folder, ns=(0, count))
        read.clear()
        for _ in range(3):
            assert await served.list_reveals(ATTEMPT) == REVEALS[:count]
        assert len(read) == count, "read once, kept twice"


async def test_announcements_wait_for_the_host_up_to_a_limit(tmp_path: Path) -> None:
    served = ServedTraining(RevealStore(tmp_path / "reveals"), StatePartStore(tmp_path / "parts"))
    announced = [replace(REVEALS[0], units=units) for units in range(ANNOUNCED_LIMIT + 1)]
    for reveal in announced:
        served.on_announced_reveal(reveal)

    assert served.announced.statistics().current_buffer_used == ANNOUNCED_LIMIT
    assert await served.announced.receive() == announced[0]
