"""The rows of a task are unpacked once, and duties to rounds never touch its data."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.contracts.gradient_ledger import Phase
from chain.crypto import content_id
from chain.primitives import Hash32
from chain.training.resources import count_rows_bytes
from node.training.rows import RowRecords
from node.training.worker_pool import WorkerRefusedError
from tests.worlds.training import TASK, pending_history, verdict
from tests.worlds.training_node import (
    MEASURED,
    OK,
    SHARDS,
    SPEC,
    FakeChain,
    Node,
    expected_verdict,
    honest_worker,
    judging,
    with_results,
)
from tests.worlds.waiting import until

pytestmark = pytest.mark.usefixtures("inline_threads")

ROWS = b"\x5f" * count_rows_bytes(SPEC)
ROWS_ID = content_id(ROWS)


class Worker:
    """Fills files of rows, and finds a gradient false where the rows are damaged."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, Mapping[str, object]]] = []

    def answer(self, kind: str, members: Mapping[str, object]) -> Mapping[str, object]:
        self.requests.append((kind, members))
        path = Path(str(members["rows"]))
        if "shards" in members:
            assert path.stat().st_size == len(ROWS)
            path.write_bytes(ROWS)
        if kind == "verify" and path.read_bytes() != ROWS:
            return {"distance_ppb": 10**9, "exponents": "broken_tenfold", "noise_ppb": 0}
        return {} if kind == "store_rows" else honest_worker(kind, members)

    def list_unpacking(self) -> list[tuple[str, bool]]:
        """The requests in their order, and whether each had data unpacked."""
        return [(kind, "shards" in members) for kind, members in self.requests]


def build_node(path: Path, chain: FakeChain) -> tuple[Node, Worker]:
    node, worker = Node(path, chain), Worker()
    node.verifier.answers = worker.answer
    return node, worker


async def test_data_is_unpacked_in_the_dry_run_and_in_no_duty(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node, worker = build_node(tmp_path, judging(1))
    node.hold(0)
    await node.run(lambda: bool(node.verdicts()))
    assert worker.list_unpacking() == [("dry_run", True), ("verify", False)]
    assert worker.requests[1][1]["rows"] == str(node.blobs.path(ROWS_ID))

    judged = with_results(judging().histories[TASK], *(verdict(i, OK, OK, OK) for i in range(4)))
    node, worker = build_node(tmp_path, FakeChain({TASK: judged}, Phase.RESULT))
    node.hold(0, 1, 2)
    await node.run(lambda: bool(node.sent))
    # The node was started again: the rows show that the dry run was good.
    assert worker.list_unpacking() == [("evaluate_part", False), ("evaluate_part", False)]


def delete(path: Path) -> None:
    path.unlink()


def shorten(path: Path) -> None:
    path.write_bytes(ROWS[:-1])


def change(path: Path) -> None:
    path.write_bytes(ROWS[:-1] + b"\0")


@pytest.mark.parametrize("damage", [delete, shorten, change])
async def test_rows_that_the_disk_lost_or_changed_are_unpacked_again(
    autojump_clock: MockClock, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    node, worker = build_node(tmp_path, judging(1))
    path = node.blobs.path(ROWS_ID)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await until(path.exists)
        await trio.sleep(1)
        path.chmod(0o600)
        damage(path)
        node.hold(0)
        await until(lambda: bool(node.verdicts()), seconds=20)
        nursery.cancel_scope.cancel()
    assert node.verdicts() == [expected_verdict(OK)]
    assert path.read_bytes() == ROWS
    assert ("store_rows", True) in worker.list_unpacking()


async def test_rows_collected_while_they_are_looked_up_end_no_node(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The length of rows that were gone was an error which ended the host with all its tasks."""
    node, worker = build_node(tmp_path, judging(1))
    renew, path = node.blobs.renew, node.blobs.path(ROWS_ID)

    def renew_before_collection(blob_id: Hash32) -> bool:
        is_held = renew(blob_id)
        if blob_id == ROWS_ID and is_held and worker.list_unpacking() == [("dry_run", True)]:
            path.unlink()
        return is_held

    monkeypatch.setattr(node.blobs, "renew", renew_before_collection)
    node.hold(0)
    await node.run(lambda: bool(node.verdicts()))
    assert worker.list_unpacking() == [("dry_run", True), ("store_rows", True), ("verify", False)]


async def test_damaged_data_is_fetched_again_to_unpack_lost_rows(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node, worker = build_node(tmp_path, judging(1))
    shard_id = content_id(SHARDS[1])
    node.peers.blobs = {shard_id: SHARDS[1]}
    path, shard = node.blobs.path(ROWS_ID), node.blobs.path(shard_id)

    def answer(kind: str, members: Mapping[str, object]) -> Mapping[str, object]:
        if "shards" in members and shard.read_bytes() != SHARDS[1]:
            raise WorkerRefusedError("content_mismatch", "not the shard")
        return worker.answer(kind, members)

    node.verifier.answers = answer
    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await until(path.exists)
        await trio.sleep(1)
        path.unlink()
        shard.chmod(0o600)
        shard.write_bytes(bytes(len(SHARDS[1])))
        node.hold(0)
        await until(lambda: bool(node.verdicts()), seconds=20)
        nursery.cancel_scope.cancel()
    assert node.verdicts() == [expected_verdict(OK)]
    assert shard.read_bytes() == SHARDS[1]


async def test_rows_of_a_refused_task_are_not_kept(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node, worker = build_node(tmp_path, FakeChain({TASK: pending_history()}))

    def answer(kind: str, members: Mapping[str, object]) -> Mapping[str, object]:
        worker.answer(kind, members)
        return {**MEASURED, "noise_ppb": 10**9}

    node.verifier.answers = answer
    before = sorted(path.name for path in (tmp_path / "blobs").iterdir())
    await node.run(lambda: bool(node.sent))
    assert worker.list_unpacking() == [("dry_run", True)]
    assert sorted(path.name for path in (tmp_path / "blobs").iterdir()) == before


def test_record_that_is_no_content_id_is_none(tmp_path: Path) -> None:
    records = RowRecords(tmp_path)
    records.put(TASK, ROWS_ID)
    for name in (f"{TASK}.rows.tmp", "x.rows", "7.rows"):
        (tmp_path / name).write_bytes(b"short")
    assert list(records.list()) == [(TASK, ROWS_ID)]
    records.remove(TASK)
    assert records.find(TASK) is None
