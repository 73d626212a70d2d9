"""A miner that is stopped says in its last line what becomes of its seat."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from chain.crypto import get_address
from chain.primitives import PrivateKey, TaskId
from miner.__main__ import mine
from miner.client import FailoverClient
from miner.light import LightClient, fetch_network
from miner.miner import Miner
from miner.outcomes import OutOfTaskError
from tests.worlds.node_for_miners import (
    BOND,
    LIMITS,
    SEAT_BOND,
    TASK,
    CountingTrainer,
    FakeNode,
)
from tests.worlds.proofs import CHAIN_ID, GENESIS

KEY = PrivateKey(b"\x11" * 32)
MINER = get_address(KEY)
NOTICE = (
    "miner stopped, and its seat in task 1 goes on: each attempt that it misses costs an "
    "eighth of its pay and of its bond of 1 POT; all of that bond is lost if two are within eight "
    "attempts, or if the last one is missed. "
    "Start the miner again within about 4 s, or give the seat up: pot miner leave 1"
)
OWED = "; it still owes the attempt in progress then"


class StoppedNode(FakeNode):
    """A node at whose question for the attempt the operator stops the miner."""

    stop_at: str = "commitment"

    def pot_getAttempt(self, task: int) -> object:  # noqa: N802
        if self.phase == self.stop_at:
            raise KeyboardInterrupt
        answer = super().pot_getAttempt(task)
        if self.reveals:
            self.stop_at = self.phase
        elif self.commitments:
            self.phase = "verdict"
        return answer


def stop(directory: Path, node: FakeNode, task: TaskId | None = TASK) -> list[str]:
    """Mine until the operator stops the miner; returns the log."""
    node.token_balance = BOND + SEAT_BOND
    client = FailoverClient(["http://node"], node.transport())
    light = LightClient(client, fetch_network(client, CHAIN_ID, GENESIS.hash))
    miner = Miner(
        *(client, light, KEY, directory, 1, lambda spec, shards: CountingTrainer(), LIMITS),
        poll_seconds=0.0,
        claims=False,
    )
    with capture_logs() as logs:
        try:
            mine(miner, task)
        except (KeyboardInterrupt, OutOfTaskError) as end:
            return [*(str(each["event"]) for each in logs), type(end).__name__]
    return [str(each["event"]) for each in logs]


def test_stop_with_a_seat_says_what_it_costs_and_how_to_give_it_up(tmp_path: Path) -> None:
    assert stop(tmp_path, StoppedNode(MINER))[-1] == NOTICE + OWED


def test_stop_after_the_reveal_says_that_nothing_is_owed(tmp_path: Path) -> None:
    node = StoppedNode(MINER, units=1)
    node.stop_at = "none"
    assert stop(tmp_path, node)[-1] == NOTICE
    assert len(node.reveals) == 1


def test_stop_between_commitment_and_reveal_says_what_is_owed(tmp_path: Path) -> None:
    node = StoppedNode(MINER, units=1)
    node.stop_at = "verdict"
    assert stop(tmp_path, node)[-1] == NOTICE + OWED
    assert len(node.commitments) == 1


def test_stop_while_data_of_an_owed_task_is_fetched_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("miner.task_files.TaskFiles.fetch_shards", fetch)
    assert stop(tmp_path, FakeNode(MINER, units=1)) == [NOTICE + OWED]
    assert stop(tmp_path, FakeNode(MINER)) == ["KeyboardInterrupt"], "no bond is paid yet"
