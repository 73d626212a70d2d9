"""What a miner keeps on its disk, and for how long."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from chain.primitives import Hash32, TaskId
from chain.training.attempt import AttemptId
from chain.training.task_spec import Shard, TaskSpec
from miner.gradient_store import PreparedGradient
from miner.task_files import TaskFiles
from tests.worlds.node_for_miners import MINING_SPEC

SHARD_BYTES = 100
GRADIENT = PreparedGradient(1, Hash32(bytes(32)), b"gradient")


class FakeClient:
    """Has every blob, and counts what is fetched."""

    def __init__(self) -> None:
        self.fetched: list[int] = []

    def fetch_file(
        self, content_id: Hash32, byte_count: int, path: Path, _mirrors: Sequence[str]
    ) -> None:
        self.fetched.append(content_id[0])
        path.write_bytes(bytes(byte_count))


def with_shards(*numbers: int) -> TaskSpec:
    shards = tuple(Shard(Hash32(bytes([each]) * 32), SHARD_BYTES, 100) for each in numbers)
    return replace(MINING_SPEC, data=replace(MINING_SPEC.data, shards=shards))


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """A client, and a clock for files that goes on at each use."""
    uses = iter(range(10**6))
    touch = os.utime
    monkeypatch.setattr("miner.task_files.os.utime", lambda path: touch(path, (0, next(uses))))
    return FakeClient()


def kept(directory: Path) -> list[int]:
    """The shards on the disk."""
    return sorted(bytes.fromhex(path.stem)[0] for path in (directory / "data").glob("*.npz"))


def test_data_of_bait_tasks_stays_within_the_limit(tmp_path: Path, client: FakeClient) -> None:
    files = TaskFiles(client, tmp_path, 3 * SHARD_BYTES)  # type: ignore[arg-type]
    for number in range(1, 20):
        files.fetch_shards(TaskId(number), with_shards(number))
        assert len(kept(tmp_path)) <= 3
    assert kept(tmp_path) == [17, 18, 19]


def test_longest_unused_data_goes_first_and_is_fetched_again(
    tmp_path: Path, client: FakeClient
) -> None:
    files = TaskFiles(client, tmp_path, 3 * SHARD_BYTES)  # type: ignore[arg-type]
    for task, numbers in ((1, (1,)), (2, (2,)), (1, (1,)), (3, (3, 4))):
        files.fetch_shards(TaskId(task), with_shards(*numbers))
    assert kept(tmp_path) == [1, 3, 4]
    assert client.fetched == [1, 2, 3, 4]
    files.fetch_shards(TaskId(2), with_shards(2))
    assert client.fetched == [1, 2, 3, 4, 2]


def test_task_with_more_data_than_the_limit_keeps_all_of_its_own(
    tmp_path: Path, client: FakeClient
) -> None:
    files = TaskFiles(client, tmp_path, SHARD_BYTES)  # type: ignore[arg-type]
    files.fetch_shards(TaskId(1), with_shards(9))
    files.fetch_shards(TaskId(2), with_shards(1, 2, 3))
    assert kept(tmp_path) == [1, 2, 3]


def test_interrupted_fetch_leaves_nothing_for_ever(tmp_path: Path, client: FakeClient) -> None:
    files = TaskFiles(client, tmp_path, SHARD_BYTES)  # type: ignore[arg-type]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "00.npz.part").write_bytes(b"half")
    files.fetch_shards(TaskId(1), with_shards(1))
    assert [path.suffix for path in (tmp_path / "data").iterdir()] == [".npz"]


def test_task_that_is_over_leaves_neither_data_nor_gradients(
    tmp_path: Path, client: FakeClient
) -> None:
    files = TaskFiles(client, tmp_path, 9 * SHARD_BYTES)  # type: ignore[arg-type]
    for task in (1, 2):
        files.fetch_shards(TaskId(task), with_shards(task))
        files.open_gradients(TaskId(task)).save(AttemptId(TaskId(task), 0, 0), GRADIENT)
    files.delete(TaskId(1))
    assert kept(tmp_path) == [2]
    assert files.list_tasks() == (2,)
    assert files.open_gradients(TaskId(2)).load(AttemptId(TaskId(2), 0, 0)) == GRADIENT
