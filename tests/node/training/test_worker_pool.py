"""WorkerPool workers that answer, refuse, die, hang or send garbage, in real processes."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from chain.contracts import gradient_ledger
from chain.contracts.gradient_ledger import Deadline
from chain.crypto import content_id
from chain.json_types import Json, JsonObject
from chain.primitives import BlockNumber, TaskId
from chain.training.acceptance import encode_verdicts
from chain.training.assignment import compute_seed
from chain.training.attempt_records import CommitmentRecord
from chain.training.encoding import compute_commitment, encode_gradient
from node.chain.phase_cache import TaskPhase
from node.config import VerifierSection
from node.node import _build_workers
from node.training.turns import Turn
from node.training.worker_pool import (
    WorkerFailedError,
    WorkerFilesError,
    WorkerKilledError,
    WorkerPool,
    WorkerRefusedError,
    WorkerSettings,
    WorkerStalledError,
)
from tests.worlds.training import MINERS, TASK, history_after, pending_history, random_gradient
from tests.worlds.training_node import (
    ATTEMPT,
    CHEAT,
    OK,
    OPENED,
    REVEALS,
    SALT,
    SEED_BLOCK_HASH,
    SIZE,
    SPEC,
    UNCHECKED,
    FakeChain,
    FakeWorker,
    Node,
    ended_attempt,
    expected_verdict,
    fining_chain,
    header_of,
    honest_worker,
    judging,
)
from tests.worlds.waiting import until

WORKER = r"""
import json, os, signal, sys, time
def send(data):
    sys.stdout.buffer.write(len(data).to_bytes(4, "big") + data)
    sys.stdout.buffer.flush()
while prefix := sys.stdin.buffer.read(4):
    request = json.loads(sys.stdin.buffer.read(int.from_bytes(prefix, "big")))
    kind = request["kind"]
    if kind == "answer":
        send(json.dumps({"id": 0, "pid": os.getpid(), "echo": request["value"]}).encode())
    elif kind == "refuse":
        send(b'{"id": 0, "error": "bad_gradient", "detail": "a code is -128"}')
    elif kind == "limit":
        milliseconds = request["processor_milliseconds"]
        send(json.dumps({"id": 0, "processor_milliseconds": milliseconds}).encode())
    elif kind == "lack":
        send(b'{"id": 0, "error": "files_fault", "detail": "No such file: /a"}')
    elif kind == "die":
        os._exit(1)
    elif kind == "be killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "lose the device":
        os._exit(78)
    elif kind == "lose the device slowly":
        os.close(1)
        time.sleep(2)
        os._exit(78)
    elif kind == "burn":
        signal.raise_signal(signal.SIGPROF)
    elif kind == "die in an answer":
        sys.stdout.buffer.write(b"\0\0\0\x09{")
        sys.stdout.buffer.flush()
        os._exit(1)
    elif kind == "hang" or (kind == "dry_run" and "/2.spec" in request["spec"]):
        time.sleep(60)
    elif kind == "dry_run":
        send(b'{"id": 0, "noise_ppb": 4, "evaluation_milliseconds": 5, "unit_milliseconds": 3,'
             b' "peak_bytes": 9}')
    elif kind == "store_rows":
        send(b'{"id": 0}')
    elif kind == "verify" and "/2-" in request["partial"] and request["done"] < 500:
        time.sleep(0.05)
        send(json.dumps({"id": 0, "done": request["done"] + 1}).encode())
    elif kind == "verify":
        send(b'{"id": 0, "distance_ppb": 4, "exponents": "kept", "noise_ppb": 0}')
    elif kind == "garbage":
        send(b"\xff\xfe no JSON")
    elif kind == "deep":
        send(b"[" * 60_000)
    elif kind == "array":
        send(b"[1, 2]")
    elif kind == "endless":
        sys.stdout.buffer.write(b"\xff\xff\xff\xff" + bytes(100_000))
        sys.stdout.buffer.flush()
"""


class ScriptedPool(WorkerPool):
    """A verifier with a scripted worker."""

    started = 0
    asked = 0

    async def ask(
        self,
        kind: str,
        members: Mapping[str, Json],
        turn: Turn,
        *,
        timeout_seconds: float | None = None,
    ) -> JsonObject:
        self.asked += kind == "verify"
        return await super().ask(kind, members, turn, timeout_seconds=timeout_seconds)

    async def _start(self) -> trio.Process:
        self.started += 1
        return await trio.lowlevel.open_process(
            [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )


@asynccontextmanager
async def scripted(workers: int = 1, seconds: float = 10) -> AsyncIterator[ScriptedPool]:
    verifier = ScriptedPool(WorkerSettings(("unused",), workers, timeout_seconds=seconds))
    try:
        yield verifier
    finally:
        await verifier.aclose()


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="only Linux has an idle class")
async def test_dry_runs_of_a_node_start_at_the_lowest_priority() -> None:
    process = await _build_workers(VerifierSection()).dry_runs._start()
    try:
        await until(lambda: os.sched_getscheduler(process.pid) == os.SCHED_IDLE)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


def is_alive(process_id: object) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


async def test_a_worker_answers_many_questions_and_ends_with_the_verifier() -> None:
    async with scripted() as verifier:
        first = await verifier.ask("answer", {"value": 7}, Turn())
        second = await verifier.ask("answer", {"value": 8}, Turn())
        assert (first["echo"], second["echo"]) == (7, 8)
        assert first["pid"] == second["pid"]
    assert not is_alive(first["pid"])


async def test_a_refusal_names_its_reason_and_keeps_the_worker() -> None:
    async with scripted() as verifier:
        with pytest.raises(WorkerRefusedError) as refused:
            await verifier.ask("refuse", {}, Turn())
        await verifier.ask("answer", {"value": 1}, Turn())
        assert refused.value.reason == "bad_gradient"
        assert str(refused.value) == "bad_gradient: a code is -128"
        assert verifier.started == 1


async def test_file_that_a_worker_cannot_read_is_no_refusal() -> None:
    async with scripted() as verifier:
        with pytest.raises(WorkerFilesError, match="a file of this node fails: No such file: /a"):
            await verifier.ask("lack", {}, Turn())


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        ("be killed", "the kernel, for lack of memory"),
        ("lose the device", "78"),
        ("lose the device slowly", "78"),
    ],
)
async def test_worker_that_its_machine_ended_is_no_failure_of_the_request(
    kind: str, end: str
) -> None:
    async with scripted() as verifier:
        with pytest.raises(WorkerKilledError, match=end):
            await verifier.ask(kind, {}, Turn())
        with pytest.raises(WorkerFailedError) as failure:
            await verifier.ask("die", {}, Turn())
        assert not isinstance(failure.value, WorkerKilledError)


@pytest.mark.parametrize("kind", ["die", "die in an answer", "garbage", "deep", "array", "endless"])
async def test_a_worker_that_breaks_is_replaced(kind: str) -> None:
    async with scripted() as verifier:
        broken = await verifier.ask("answer", {"value": 1}, Turn())
        with pytest.raises(WorkerFailedError):
            await verifier.ask(kind, {}, Turn())
        assert not is_alive(broken["pid"])
        assert (await verifier.ask("answer", {"value": 2}, Turn()))["echo"] == 2
        assert verifier.started == 2


async def test_a_worker_that_hangs_is_killed_and_replaced() -> None:
    async with scripted(seconds=2) as verifier:
        hung = await verifier.ask("answer", {"value": 1}, Turn())
        with pytest.raises(WorkerFailedError, match="no answer to hang in 2 s"):
            await verifier.ask("hang", {}, Turn())
        assert not is_alive(hung["pid"])
        assert (await verifier.ask("answer", {"value": 2}, Turn()))["echo"] == 2


async def test_pool_with_patience_limits_processor_time_and_says_who_is_slow() -> None:
    settings = WorkerSettings(("unused",), timeout_seconds=10, patience=4)
    verifier = ScriptedPool(settings)
    try:
        answer = await verifier.ask("limit", {}, Turn(), timeout_seconds=0.5)
        assert answer["processor_milliseconds"] == 500
        with pytest.raises(WorkerStalledError, match=r"in 2.* s, .* less than 0\.5 s of proc"):
            await verifier.ask("hang", {}, Turn(), timeout_seconds=0.5)
    finally:
        await verifier.aclose()


async def test_the_end_of_a_worker_says_why() -> None:
    async with scripted() as verifier:
        for kind, end in (
            ("die", "status 1"),
            ("burn", "too much processor time"),
            ("garbage", "breaks the protocol"),
        ):
            with pytest.raises(WorkerFailedError, match=end):
                await verifier.ask(kind, {}, Turn())


async def test_questions_wait_for_a_free_worker() -> None:
    answers: list[object] = []
    async with scripted(workers=2) as verifier:

        async def ask(value: int) -> None:
            answers.append((await verifier.ask("answer", {"value": value}, Turn()))["echo"])

        async with trio.open_nursery() as nursery:
            for value in range(12):
                nursery.start_soon(ask, value)
        assert sorted(answers) == list(range(12))
        assert verifier.started == 2


async def test_pieces_of_a_work_go_to_the_worker_that_has_it_open() -> None:
    asked: dict[str, set[object]] = {"a": set(), "b": set()}
    async with scripted(workers=2) as verifier:
        turns = {name: Turn(name) for name in asked}

        async def ask(name: str) -> None:
            answer = await verifier.ask("answer", {"value": 1}, turns[name])
            asked[name].add(answer["pid"])

        async with trio.open_nursery() as nursery:
            for name in asked:
                nursery.start_soon(ask, name)
        for name in "aabbabba":
            await ask(name)
        turns = {name: Turn(name, place=1, is_begun=True) for name in asked}
        for name in "abba":
            await ask(name)
    assert [len(pids) for pids in asked.values()] == [1, 1]
    assert asked["a"] != asked["b"]


async def test_a_cancelled_question_leaves_no_process() -> None:
    async with scripted() as verifier:
        asked = await verifier.ask("answer", {"value": 1}, Turn())
        with trio.move_on_after(0.1):
            await verifier.ask("hang", {}, Turn())
        assert not is_alive(asked["pid"])


async def test_a_check_does_not_wait_for_the_dry_run_of_another_task(tmp_path: Path) -> None:
    chain = judging(1)
    async with scripted() as verifier, scripted() as dry_runs:
        node = Node(tmp_path, chain, verifier=verifier, dry_runs=dry_runs)
        node.clock.ahead_seconds = -int(trio.current_time())
        async with trio.open_nursery() as nursery:
            await nursery.start(node.host.run)
            await trio.sleep(1)
            pending = replace(pending_history(), task_id=TaskId(2))
            chain.histories[TaskId(2)] = pending
            node.host.wake()
            await trio.sleep(0.5)
            node.hold(0)
            node.host.wake()
            await until(lambda: bool(node.verdicts()), seconds=5)
            nursery.cancel_scope.cancel()
    assert TaskId(2) != TASK
    assert node.verdicts() == [expected_verdict(OK)]


async def test_gradients_of_an_ended_attempt_are_checked_for_late_verdicts(tmp_path: Path) -> None:
    # Validator 0 is silent on the second gradient, and its word would convict the miner.
    ended = ended_attempt((OK, UNCHECKED, OK), (OK, CHEAT, OK), (OK, CHEAT, OK))
    async with scripted() as verifier:
        node = Node(tmp_path, fining_chain(91, ended), verifier=verifier, dry_runs=verifier)
        node.clock.ahead_seconds = -int(trio.current_time())
        node.hold(0, 1, 2)
        await node.run(lambda: bool(node.sent), seconds=10)
    verdicts = encode_verdicts([UNCHECKED, OK, UNCHECKED])
    assert node.sent == [gradient_ledger.post_late_verdict(TASK, 1, verdicts)]


class LongPhaseChain(FakeChain):
    """A chain on which the verdicts on the second task are due much later."""

    def phase(self, task_id: TaskId) -> TaskPhase:
        phase, deadline = super().phase(task_id)
        later = Deadline(deadline.block_number, deadline.timestamp + 1_000)
        return phase, deadline if task_id == TASK else later


async def test_a_long_check_of_one_task_delays_no_other(tmp_path: Path) -> None:
    honest, junk = judging(2).histories[TASK], history_after(OPENED, spec=SPEC)
    attempt_id = replace(ATTEMPT, task_id=TaskId(2))
    header = replace(
        header_of(MINERS[0]),
        attempt_id=attempt_id,
        seed=compute_seed(SEED_BLOCK_HASH, attempt_id),
    )
    payload = encode_gradient(header, random_gradient(1, SIZE))
    reveal = replace(REVEALS[0], attempt_id=attempt_id, gradient_root=content_id(payload))
    commitment = compute_commitment(header, reveal.gradient_root, SALT, 1)
    assert junk.attempt is not None
    record = CommitmentRecord(MINERS[0], 1, commitment, BlockNumber(5))
    attempt = replace(junk.attempt, id=attempt_id, commitments=(record,))
    junk = replace(junk, task_id=TaskId(2), attempt=attempt)
    chain = LongPhaseChain({TASK: honest, TaskId(2): junk})

    async with scripted() as verifier:
        dry_runs = FakeWorker(honest_worker)
        node = Node(tmp_path, chain, verifier=verifier, dry_runs=dry_runs)
        node.clock.ahead_seconds = -int(trio.current_time())
        node.blobs.put(payload)
        node.reveals.put(reveal)
        async with trio.open_nursery() as nursery:
            await nursery.start(node.host.run)
            await until(lambda: verifier.asked > 3, seconds=10)
            node.hold(0, 1)
            node.host.wake()
            await until(lambda: bool(node.verdicts()), seconds=10)
            nursery.cancel_scope.cancel()
    assert node.verdicts() == [expected_verdict(OK, OK)]
