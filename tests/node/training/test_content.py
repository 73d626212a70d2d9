"""A node checks its own blobs before it relies on them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.crypto import content_id
from chain.primitives import Hash32, TaskId
from node.training.content import Content, Need
from node.training.intact import INTACT_SECONDS
from node.training.work import UnavailableError
from node.training.worker_pool import WorkerRefusedError
from tests.worlds.training_node import (
    OK,
    PAYLOADS,
    TASK,
    WEIGHTS,
    Node,
    expected_verdict,
    honest_worker,
    judging,
)
from tests.worlds.waiting import until

pytestmark = pytest.mark.usefixtures("inline_threads")


@pytest.mark.parametrize("victim", [PAYLOADS[0], WEIGHTS])
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


async def test_content_that_a_worker_refuses_is_fetched_again(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, judging(1))
    node.hold(0)
    node.peers.blobs = {content_id(WEIGHTS): WEIGHTS}
    path = node.blobs.path(content_id(WEIGHTS))

    def measure(kind: str, members: Mapping[str, object]) -> Mapping[str, object]:
        if kind == "verify" and path.read_bytes() != WEIGHTS:
            raise WorkerRefusedError("content_mismatch", "it is not as long as the model")
        return honest_worker(kind, members)

    node.verifier.answers = measure
    async with trio.open_nursery() as nursery:
        await until(lambda: True)
        path.chmod(0o600)
        path.write_bytes(WEIGHTS[:-1])
        await nursery.start(node.host.run)
        await until(lambda: bool(node.verdicts()), seconds=10)
        nursery.cancel_scope.cancel()

    assert node.verdicts() == [expected_verdict(OK)]
    assert path.read_bytes() == WEIGHTS


async def test_fetches_of_an_attempt_or_ballot_that_is_over_end(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    attempt = judging(1).histories[TASK].attempt
    assert attempt is not None
    later = replace(attempt, id=replace(attempt.id, attempt_number=1))
    next_ballot = replace(attempt, ballot_number=attempt.ballot_number + 1)
    needs = {
        "task": Need(TASK),
        "attempt": Need(TASK, attempt.id),
        "ballot": Need(TASK, attempt.id, attempt.ballot_number),
        "later attempt": Need(TASK, later.id),
    }
    content = Content(Node(tmp_path, judging(1)).blobs, NoAnswer(), tmp_path)
    ended: list[str] = []

    async def fetch(name: str) -> None:
        with pytest.raises(UnavailableError):
            await content.ensure(content_id(name.encode()), 10, needs[name])
        ended.append(name)

    async with trio.open_nursery() as nursery:
        for name in needs:
            nursery.start_soon(fetch, name)
        for task_id, current in (
            (TaskId(TASK + 1), None),
            (TASK, attempt),
            (TASK, next_ballot),
            (TASK, later),
            (TASK, None),
        ):
            await trio.sleep(1)
            content.end_fetches(task_id, current)
            await trio.sleep(1)
            ended.append("-")
        nursery.cancel_scope.cancel()
    assert ended == ["-", "-", "ballot", "-", "attempt", "-", "later attempt", "-"]


class NoAnswer:
    """Peers that never answer."""

    async def fetch_blob(self, *_: object, **__: object) -> bool:
        await trio.sleep_forever()
        raise AssertionError


async def test_blob_that_was_just_found_intact_is_not_read_again(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each false gradient has the rows of its task checked, which may be gigabytes."""
    node = Node(tmp_path, judging(1))
    content = Content(node.blobs, node.peers, tmp_path)
    blob_id = content_id(WEIGHTS)
    node.blobs.put(WEIGHTS)
    read: list[int] = []
    chunk = node.blobs.chunk

    def count(found: Hash32, index: int) -> bytes:
        read.append(index)
        return chunk(found, index)

    monkeypatch.setattr(node.blobs, "chunk", count)
    for _ in range(3):
        await content.check_intact([blob_id])
    assert read == [0]
    await trio.sleep(INTACT_SECONDS)
    await content.check_intact([blob_id])
    assert read == [0, 0]
