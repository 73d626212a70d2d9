"""Blobs are read again after a verdict that is not ok, and no duty to a round waits for that."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.contracts.gradient_ledger import GradientCommitted
from chain.crypto import CHUNK_BYTES, content_id
from chain.primitives import Hash32, TaskId
from chain.training.assignment import compute_seed
from chain.training.attempt import AttemptId
from chain.training.encoding import compute_commitment
from chain.training.resources import count_disk_bytes, count_rows_bytes
from chain.training.task_spec import Shard
from node.storage.blobs import BlobStore
from node.training import intact
from node.training.intact import INTACT_SECONDS, ROWS_INTACT_SECONDS, IntactBlobs
from tests.worlds.training import MINERS, history_after
from tests.worlds.training_node import (
    BAD,
    OK,
    OPENED,
    PAYLOADS,
    REVEALS,
    SALT,
    SEED_BLOCK_HASH,
    SHARDS,
    SPEC,
    TASK,
    WEIGHTS,
    FakeChain,
    Node,
    expected_verdict,
    header_of,
    honest_worker,
    judging,
)
from tests.worlds.waiting import run_thread_inline, until

OTHER = TaskId(TASK + 1)
OTHER_SPEC = replace(
    SPEC,
    data=replace(
        SPEC.data,
        shards=tuple(Shard(content_id(data), len(data), 55) for data in SHARDS),
    ),
)
OTHER_SPEC = replace(
    OTHER_SPEC, resources=replace(SPEC.resources, disk_bytes=count_disk_bytes(OTHER_SPEC))
)
"""Its rows are another file than those of SPEC."""

Reads = list[tuple[Hash32, int]]


def rows_of(row_bytes: int) -> Hash32:
    """The rows of a task whose worker leaves the file as it is."""
    return content_id(bytes(row_bytes))


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> dict[Hash32, float]:
    """The seconds that reading each blob takes its thread; other threads take no time."""
    seconds: dict[Hash32, float] = {}

    async def run_sync(
        function: Callable[..., object],
        *arguments: object,
        limiter: trio.CapacityLimiter | None = None,
        **_: object,
    ) -> object:
        if limiter is None:
            return await run_thread_inline(function, *arguments)
        async with limiter:
            taken = [seconds[each] for each in arguments if each in seconds]
            await trio.sleep(sum(taken))
            return await run_thread_inline(function, *arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    return seconds


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """The chunks of blobs that were read."""
    found: Reads = []
    chunk = BlobStore.chunk

    def read(store: BlobStore, blob_id: Hash32, index: int) -> bytes:
        found.append((blob_id, index))
        return chunk(store, blob_id, index)

    monkeypatch.setattr(BlobStore, "chunk", read)
    return found


def call_bad(kind: str, members: Mapping[str, object]) -> Mapping[str, object]:
    if kind == "verify":
        return {"distance_ppb": 500_000, "exponents": "kept", "noise_ppb": 0}
    return honest_worker(kind, members)


async def test_state_is_restored_while_the_rows_of_another_task_are_read(
    autojump_clock: MockClock, tmp_path: Path, threads: dict[Hash32, float], reads: Reads
) -> None:
    rows_id = rows_of(count_rows_bytes(OTHER_SPEC))
    threads[rows_id] = 100
    attempt_id = AttemptId(OTHER, 0, 0)
    header = replace(
        header_of(MINERS[0]),
        attempt_id=attempt_id,
        seed=compute_seed(SEED_BLOCK_HASH, attempt_id),
    )
    reveal = replace(REVEALS[0], attempt_id=attempt_id)
    commitment = compute_commitment(header, reveal.gradient_root, SALT, 1)
    bad = history_after(
        replace(OPENED, task_id=OTHER),
        GradientCommitted(OTHER, 0, MINERS[0], 0, 0, 1, commitment),
        spec=OTHER_SPEC,
    )
    chain = FakeChain({OTHER: replace(bad, task_id=OTHER)}, specs={OTHER: OTHER_SPEC})
    node = Node(tmp_path, chain)
    node.hold(0, 1, 2)
    node.reveals.put(reveal)
    node.verifier.answers = call_bad

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await until(lambda: node.verifier.asked.count("verify") == 1, seconds=10)
        await trio.sleep(1)
        node.verifier.answers = honest_worker
        chain.histories |= judging().histories
        node.host.on_new_head([TASK])
        await until(lambda: bool(node.verdicts()), seconds=10)
        nursery.cancel_scope.cancel()

    assert (rows_id, 0) not in reads, "the rows of the other task are still being read"
    assert node.verdicts()[:1] == [expected_verdict(OK, OK, OK)]


@pytest.mark.usefixtures("inline_threads")
async def test_false_gradients_have_rows_read_once_in_ten_minutes(
    autojump_clock: MockClock, tmp_path: Path, reads: Reads
) -> None:
    rows_id = rows_of(count_rows_bytes(SPEC))
    node = Node(tmp_path, judging())
    node.clock.ahead_seconds = -1_000  # so that the phase is long
    node.verifier.answers = call_bad

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        counts = []
        for index, wait in enumerate((INTACT_SECONDS, ROWS_INTACT_SECONDS, 1)):
            node.hold(index)
            node.host.on_blob()
            await trio.sleep(wait + 2)
            counts.append((reads.count((content_id(WEIGHTS), 0)), reads.count((rows_id, 0))))
        nursery.cancel_scope.cancel()

    # The weights were read with the state, too.
    assert counts == [(2, 1), (3, 1), (4, 2)]
    assert node.verdicts()[:1] == [expected_verdict(BAD, BAD, BAD)]


async def test_small_blob_does_not_wait_for_all_of_a_large_one(
    autojump_clock: MockClock,
    tmp_path: Path,
    threads: dict[Hash32, float],
    reads: Reads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intact, "SLICE_CHUNKS", 1)
    blobs = BlobStore(tmp_path, quota_bytes=2**24)
    large, small = blobs.put(bytes(4 * CHUNK_BYTES)), blobs.put(WEIGHTS)
    threads.update({large: 1, small: 1})
    checks = IntactBlobs(blobs)

    async def check(blob_id: Hash32) -> None:
        await checks.check(blob_id, is_urgent=False, trusted_seconds=60)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(check, large)
        await trio.sleep(0.5)
        nursery.start_soon(check, small)

    assert reads == [(large, 0), (small, 0), (large, 1), (large, 2), (large, 3)]


async def test_many_checks_at_once_read_a_blob_once(
    autojump_clock: MockClock, tmp_path: Path, threads: dict[Hash32, float], reads: Reads
) -> None:
    blobs = BlobStore(tmp_path, quota_bytes=2**24)
    blob_id = blobs.put(PAYLOADS[0])
    threads[blob_id] = 1
    checks = IntactBlobs(blobs)

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(lambda: checks.check(blob_id, is_urgent=False, trusted_seconds=60))

    assert reads == [(blob_id, 0)]
