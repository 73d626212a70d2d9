"""Preparing for tasks: fetch, dry run, then ready or refusal."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.contracts import task_registry
from chain.contracts.task_registry import TaskStatus
from chain.crypto import content_id
from chain.primitives import BlockNumber, Hash32, TaskId
from chain.training.architectures import Mlp
from chain.training.encoding import count_payload_bytes
from chain.training.fees import KEPT_SECONDS, PROMISED_SHARE
from chain.training.history import BlockContext
from chain.training.leases import READY_CODE
from chain.training.resources import BLOB_FILES_BYTES, count_disk_bytes, count_stored_bytes
from chain.training.task_checks import REFUSAL_CODES, ObjectionCode, compute_promise
from chain.training.task_spec import TaskSpec
from node.training import capacity, preparation
from node.training.dry_runs import compute_dry_run_seconds
from node.training.preparation import DRY_RUN_TRIES
from node.training.readiness import ReadinessState, TaskReadiness
from node.training.worker_pool import (
    WorkerFailedError,
    WorkerFilesError,
    WorkerKilledError,
    WorkerRefusedError,
    WorkerStalledError,
)
from tests.worlds.blobs import list_whole
from tests.worlds.training import (
    LEASE,
    TASK,
    VALIDATORS,
    at,
    pending_history,
)
from tests.worlds.training_node import (
    MEASURED,
    NOW,
    SHARDS,
    SIZE,
    SPEC,
    WEIGHTS,
    FakeChain,
    Node,
    judging,
)
from tests.worlds.waiting import until

pytestmark = pytest.mark.usefixtures("inline_threads")

CONTENT_BYTES = len(WEIGHTS) + sum(len(shard) for shard in SHARDS)
STATE_BYTES = 3 * len(WEIGHTS) + 8
GRADIENT_BYTES = SPEC.reward.max_units * count_payload_bytes(SIZE)
ROWS_BYTES = 100 * (4 * 64 + 1)
BLOB_COUNT = 3 + 1 + 3 * 4 + 2 + 3 * SPEC.reward.max_units
TRAINED_BYTES = 3 * STATE_BYTES + 2 * len(WEIGHTS) + 3 * GRADIENT_BYTES
DISK_BYTES = CONTENT_BYTES + ROWS_BYTES + TRAINED_BYTES + (32 + BLOB_FILES_BYTES) * BLOB_COUNT
"""What the task takes at most: its content, its rows, three states, two models, the gradients of
three attempts, and the files and the hash of the only chunk of each of these blobs."""
READY_STATE = TaskReadiness(ReadinessState.READY)
EXAMINATION_SECONDS = math.ceil(DRY_RUN_TRIES * compute_dry_run_seconds(SPEC, 120))
"""The longest examination of a task."""


async def test_content_is_fetched_and_dry_run_before_ready_is_posted(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    history = pending_history()
    node = Node(tmp_path, FakeChain({TASK: history}), has_content=False)
    node.peers.blobs = {content_id(data): data for data in (WEIGHTS, *SHARDS)}

    await node.run(lambda: bool(node.sent))

    assert node.sent == [task_registry.answer_task(TASK, 0)]
    assert node.verifier.asked == ["dry_run"]
    rows_id = content_id(bytes(ROWS_BYTES))
    assert sorted(list_whole(node.blobs)) == sorted([*node.peers.blobs, rows_id])


async def test_thousand_tasks_without_available_content_cost_little(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "WHOLE_PPM", 10**12)
    pending = pending_history()
    histories = {TaskId(n): replace(pending, task_id=TaskId(n)) for n in range(1, 1_001)}
    chain = FakeChain(histories)
    node = Node(tmp_path, chain, has_content=False, quota_bytes=2**33)

    await node.run_for(20)

    # Each task was tried a few times, and few at once.
    assert node.peers.busiest == preparation.PREPARING_LIMIT
    assert 1_000 <= len(node.peers.asked) <= 6_000
    assert chain.phase_calls <= 6_000


async def test_tasks_with_slow_content_keep_no_other_from_its_turn(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "WHOLE_PPM", 10**12)
    slow_count = 2 * preparation.PREPARING_LIMIT
    numbers = range(1, slow_count + 2)
    tasks = {TaskId(n): replace(pending_history(), task_id=TaskId(n)) for n in numbers}
    node = Node(tmp_path, FakeChain(tasks), has_content=False, quota_bytes=2**30)
    node.peers.blobs = {content_id(data): data for data in (WEIGHTS, *SHARDS)}
    fetch = node.peers.fetch_blob

    async def fetch_slowly(
        blob_id: Hash32, size_limit: int, *, is_urgent: bool, task_id: TaskId
    ) -> bool:
        if task_id <= slow_count:
            await trio.sleep_forever()
        return await fetch(blob_id, size_limit, is_urgent=is_urgent, task_id=task_id)

    node.peers.fetch_blob = fetch_slowly  # type: ignore[method-assign]
    await node.run(lambda: (slow_count + 1, READY_CODE) in answers(node), seconds=100)


async def test_slow_content_is_fetched_in_one_turn_while_no_other_task_waits(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "WHOLE_PPM", 10**12)
    numbers = range(1, preparation.PREPARING_LIMIT + 1)
    tasks = {TaskId(n): replace(pending_history(), task_id=TaskId(n)) for n in numbers}
    node = Node(tmp_path, FakeChain(tasks), has_content=False)
    begun: list[TaskId] = []

    async def fetch_for_long(*_blob: object, task_id: TaskId, is_urgent: bool) -> bool:
        begun.append(task_id)
        await trio.sleep(1_000)
        return False

    node.peers.fetch_blob = fetch_for_long  # type: ignore[assignment]
    await node.run_for(900)
    assert sorted(begun) == list(numbers)


async def test_content_leaves_half_of_the_quota_to_promised_tasks(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    needed = sum(count_stored_bytes(len(data)) for data in (WEIGHTS, *SHARDS, bytes(ROWS_BYTES)))
    chain = FakeChain({TASK: pending_history()})
    node = Node(tmp_path, chain, has_content=False, quota_bytes=32 * needed)
    node.peers.blobs = {content_id(data): data for data in (WEIGHTS, *SHARDS)}
    filler = node.blobs.put(bytes(15 * needed - count_stored_bytes(15 * needed) + 15 * needed + 33))

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(20)
        assert node.peers.asked == []
        node.blobs.delete(filler)
        await until(lambda: bool(node.sent), seconds=60)
        nursery.cancel_scope.cancel()


async def test_task_larger_than_half_the_quota_is_refused_before_any_fetch(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    for name, quota_bytes, is_taken in (
        ("large", 2 * DISK_BYTES, True),
        ("small", 2 * DISK_BYTES - 2, False),
    ):
        chain = FakeChain({TASK: pending_history()})
        node = Node(tmp_path / name, chain, has_content=False, quota_bytes=quota_bytes)
        node.peers.blobs = {content_id(data): data for data in (WEIGHTS, *SHARDS)}
        await node.run_for(20)
        assert node.blobs.has(content_id(WEIGHTS)) == is_taken
        code = READY_CODE if is_taken else REFUSAL_CODES[ObjectionCode.DISK_TOO_LARGE]
        assert node.sent == [task_registry.answer_task(TASK, code)]


async def test_task_whose_units_take_longer_than_its_commitment_phase_is_refused(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    phases = replace(SPEC.phases, commit_seconds=4, verdict_seconds=600)
    resources = replace(SPEC.resources, unit_milliseconds=60_000)
    trap = replace(SPEC, phases=phases, resources=resources)
    chain = FakeChain({TASK: pending_history()})
    chain.specs = {TASK: trap}
    node = Node(tmp_path, chain)

    await node.run_for(20)

    assert node.verifier.asked == []
    code = REFUSAL_CODES[ObjectionCode.COMMITMENT_PHASE_TOO_SHORT]
    assert node.sent == [task_registry.answer_task(TASK, code)]


LARGE = replace(
    SPEC,
    model=Mlp(inputs=64, hidden=(700,), classes=10),
    phases=replace(SPEC.phases, result_seconds=4),
    reward=replace(SPEC.reward, max_units=1_024),
    resources=replace(SPEC.resources, unit_milliseconds=9),
)
"""Combining 1 024 gradients of 52 510 parameters takes it 1 065 ms, more than it can declare."""
LARGE = replace(LARGE, resources=replace(LARGE.resources, disk_bytes=count_disk_bytes(LARGE)))


@pytest.mark.parametrize(
    ("spec", "phases", "resources", "number", "name", "sentence"),
    [
        (
            *(SPEC, {"verdict_seconds": 15}, {}),
            *(5, "verdict_phase_too_short", "verdict_seconds is 15: gradients could come too late"),
        ),
        (
            *(SPEC, {}, {"unit_milliseconds": 1_251}),
            *(5, "verdict_phase_too_short", "checking 8 units takes up to 10008 ms, as declared"),
        ),
        (
            *(SPEC, {}, {"evaluation_milliseconds": 7_501}),
            *(
                6,
                "evaluation_too_slow",
                "an evaluation takes up to 7501 ms, as declared, more than",
            ),
        ),
        (
            *(SPEC, {}, {"evaluation_milliseconds": 14}),
            *(8, "resources_exceeded", "15 ms, and evaluation_milliseconds declares 14"),
        ),
        (
            *(LARGE, {}, {}),
            *(11, "aggregation_too_slow", "1065 ms, more than a quarter of result_seconds 4"),
        ),
    ],
)
async def test_task_that_does_not_fit_its_phases_is_refused_with_its_reason(
    autojump_clock: MockClock,
    tmp_path: Path,
    spec: TaskSpec,
    phases: Mapping[str, int],
    resources: Mapping[str, int],
    number: int,
    name: str,
    sentence: str,
) -> None:
    """Tasks that are just within the bounds are ready."""
    unfit = replace(
        spec,
        phases=replace(spec.phases, **phases),
        resources=replace(spec.resources, **resources),
    )
    chain = FakeChain({TASK: pending_history()})
    chain.specs = {TASK: unfit}
    node = Node(tmp_path, chain, quota_bytes=2**33)

    await node.run(lambda: bool(node.sent))

    assert node.sent == [task_registry.answer_task(TASK, number)]
    readiness = node.host.describe_readiness(TASK)
    assert (readiness["state"], readiness["code"]) == ("refused", name)
    assert sentence in str(readiness["reason"])
    assert node.verifier.asked == []


async def test_task_whose_dry_run_fails_twice_is_refused(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    chain = FakeChain({TASK: pending_history()})
    node = Node(tmp_path, chain)

    def fail(kind: str, _members: Mapping[str, object]) -> Mapping[str, object]:
        raise WorkerFailedError(f"no answer to {kind} in 120 s")

    node.verifier.answers = fail
    await node.run_for(120)

    assert node.verifier.asked == ["dry_run", "dry_run"]
    code = REFUSAL_CODES[ObjectionCode.DRY_RUN_FAILED]
    assert node.sent == [task_registry.answer_task(TASK, code)]


@pytest.mark.parametrize(
    "failure",
    [
        WorkerStalledError("no answer to dry_run in 610 s"),
        WorkerKilledError("the worker ended during dry_run: the kernel killed it"),
    ],
)
async def test_slow_or_full_machine_is_no_answer_to_the_task(
    autojump_clock: MockClock, tmp_path: Path, failure: WorkerFailedError
) -> None:
    node = Node(tmp_path, FakeChain({TASK: pending_history()}))
    failures = iter([failure] * 3)

    def stall(_kind: str, _members: Mapping[str, object]) -> Mapping[str, object]:
        for failure in failures:
            raise failure
        return MEASURED

    node.verifier.answers = stall
    await node.run_for(0.5)
    state = node.host.describe_readiness(TASK)
    assert (state["state"], state["code"]) == ("waiting", "validator_busy")
    await node.run_for(60)
    assert node.verifier.asked == ["dry_run"] * 4
    assert node.sent == [task_registry.answer_task(TASK, READY_CODE)]


async def test_dry_run_on_a_slow_machine_ends_with_the_time_for_answers(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    history = pending_history()
    window = NOW + int(trio.current_time()) + EXAMINATION_SECONDS + 60
    lease = replace(history.lease, window_time=window)
    node = Node(tmp_path, FakeChain({TASK: replace(history, lease=lease)}))
    # By the clock; the processor time is not used up.
    node.verifier.dry_run_seconds, node.verifier.patience = 10 * EXAMINATION_SECONDS, 100
    await node.run_for(EXAMINATION_SECONDS + 100)
    assert (node.verifier.asked, node.sent) == ([], [])
    assert node.host.describe_readiness(TASK)["state"] == "waiting"


async def test_file_that_this_node_lacks_is_no_answer_to_the_task(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, FakeChain({TASK: pending_history()}))
    failures = iter([WorkerFilesError("a file of this node fails: No such file")] * 3)

    def fail(_kind: str, _members: Mapping[str, object]) -> Mapping[str, object]:
        for failure in failures:
            raise failure
        return MEASURED

    node.verifier.answers = fail
    await node.run_for(60)

    assert node.verifier.asked == ["dry_run"] * 4
    assert node.sent == [task_registry.answer_task(TASK, READY_CODE)]


async def test_damaged_file_of_the_specification_is_no_answer_to_the_task(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    chain = FakeChain({TASK: pending_history()})
    node = Node(tmp_path, chain)
    spec = chain.history(TASK).spec
    (tmp_path / "training").mkdir(exist_ok=True)
    path = tmp_path / "training" / f"{TASK}.spec.json"
    path.write_bytes(spec[:-1])

    def read_spec(_kind: str, members: Mapping[str, object]) -> Mapping[str, object]:
        if Path(str(members["spec"])).read_bytes() != spec:
            raise WorkerRefusedError("malformed", "not JSON")
        return MEASURED

    node.verifier.answers = read_spec
    await node.run_for(10)
    assert node.sent == [task_registry.answer_task(TASK, READY_CODE)]


async def test_task_that_takes_more_than_declared_twice_is_refused(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    for name, failures, code in (
        ("busy", 1, READY_CODE),
        ("exceeded", 2, REFUSAL_CODES[ObjectionCode.RESOURCES_EXCEEDED]),
    ):
        node = Node(tmp_path / name, FakeChain({TASK: pending_history()}))
        slow = {**MEASURED, "unit_milliseconds": SPEC.resources.unit_milliseconds + 1}
        answers = iter([slow] * failures)
        node.verifier.answers = lambda _kind, _members, left=answers: next(left, MEASURED)
        await node.run_for(60)
        assert node.sent == [task_registry.answer_task(TASK, code)], name
        assert node.verifier.asked == ["dry_run", "dry_run"]


def promise_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let validators promise the time of two tasks and a little more."""
    limit = 2 * compute_promise(SPEC).check_ppm + 1
    monkeypatch.setattr(capacity, "WHOLE_PPM", PROMISED_SHARE * limit)


def answers(node: Node) -> list[tuple[int, int]]:
    """The tasks that were answered, and the codes."""
    return sorted(
        (int.from_bytes(call.data[4:36], "big"), int.from_bytes(call.data[-32:], "big"))
        for call in node.sent
    )


async def test_a_task_waits_without_an_answer_until_another_leaves_room(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promise_two(monkeypatch)
    tasks = {TaskId(n): replace(pending_history(), task_id=TaskId(n)) for n in (1, 2, 3, 4)}
    node = Node(tmp_path, FakeChain(tasks))

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(300)
        assert answers(node) == [(1, READY_CODE), (2, READY_CODE)]
        assert node.verifier.asked == ["dry_run", "dry_run"]
        state = node.host.describe_readiness(TaskId(3))
        assert (state["state"], state["code"]) == ("waiting", "workers_busy")
        assert "are promised to others" in str(state["reason"])

        closed = replace(tasks[TaskId(1)], status=TaskStatus.CLOSED, lease=LEASE, closed=at(90))
        node.chain.histories[TaskId(1)] = closed
        node.host.on_new_head([TaskId(1)])
        await trio.sleep(2)
        assert answers(node) == [(1, READY_CODE), (2, READY_CODE), (3, READY_CODE)]
        nursery.cancel_scope.cancel()


async def test_a_task_is_refused_when_it_has_waited_too_long_for_room(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promise_two(monkeypatch)
    busy = REFUSAL_CODES[ObjectionCode.WORKERS_BUSY]
    window = NOW + int(trio.current_time()) + 1_000
    lease = replace(pending_history().lease, window_time=window)
    pending = replace(pending_history(), lease=lease)
    tasks = {TaskId(n): replace(pending, task_id=TaskId(n)) for n in (1, 2, 3)}
    node = Node(tmp_path, FakeChain(tasks))

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(1_000 - EXAMINATION_SECONDS - 5)
        assert answers(node) == [(1, READY_CODE), (2, READY_CODE)]
        await trio.sleep(60)
        assert answers(node) == [(1, READY_CODE), (2, READY_CODE), (3, busy)]
        nursery.cancel_scope.cancel()


async def test_a_refused_task_leaves_its_room_to_those_that_wait(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promise_two(monkeypatch)
    tasks = {TaskId(n): replace(pending_history(), task_id=TaskId(n)) for n in (1, 2, 3)}
    node = Node(tmp_path, FakeChain(tasks))
    left = iter([WorkerFailedError("no answer")] * DRY_RUN_TRIES)

    def fail_first(_kind: str, _members: Mapping[str, object]) -> Mapping[str, object]:
        for failure in left:
            raise failure
        return MEASURED

    node.verifier.answers = fail_first
    await node.run(lambda: len(node.sent) == 3)
    codes = sorted(code for _, code in answers(node))
    assert codes == [READY_CODE, READY_CODE, REFUSAL_CODES[ObjectionCode.DRY_RUN_FAILED]]


async def test_no_dry_run_begins_that_could_end_after_its_pay(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    for name, spare_seconds, runs in (("late", -1, 0), ("in time", 1, 1)):
        now = NOW + int(trio.current_time())
        window = now + EXAMINATION_SECONDS + spare_seconds
        history = pending_history()
        history = replace(history, lease=replace(history.lease, window_time=window))
        node = Node(tmp_path / name, FakeChain({TASK: history}))
        await node.run_for(5)
        assert len(node.verifier.asked) == runs, name
        state = node.host.describe_readiness(TASK)
        assert state["code"] == (None if runs else "too_many_tasks")


async def test_second_dry_run_waits_for_no_other_task(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    chain = FakeChain({TaskId(n): replace(pending_history(), task_id=TaskId(n)) for n in (1, 2)})
    node = Node(tmp_path, chain)
    failures = iter([WorkerFailedError("no answer")] * 2)

    def answer(_kind: str, _members: Mapping[str, object]) -> Mapping[str, object]:
        for failure in failures:
            raise failure
        return MEASURED

    node.verifier.answers = answer
    await node.run(lambda: len(node.sent) == 2)
    codes = sorted(int.from_bytes(call.data[-32:], "big") for call in node.sent)
    assert codes == [READY_CODE, REFUSAL_CODES[ObjectionCode.DRY_RUN_FAILED]]


async def test_flood_of_long_dry_runs_delays_a_short_one_by_two_of_them(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "WHOLE_PPM", 10**12)
    times = {"unit_milliseconds": 60_000, "evaluation_milliseconds": 200}
    phases = replace(SPEC.phases, commit_seconds=200, verdict_seconds=10**6)
    long = replace(SPEC, phases=phases, resources=replace(SPEC.resources, **times))
    pending, last = pending_history(), TaskId(30)
    chain = FakeChain({TaskId(n): replace(pending, task_id=TaskId(n)) for n in range(1, last)})
    chain.specs = {TaskId(n): long for n in range(1, last)}
    node = Node(tmp_path, chain, quota_bytes=2**30)
    node.verifier.dry_run_seconds = 100.0

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(50)
        chain.histories[last] = replace(pending, task_id=last)
        node.host.on_new_head([last])
        await trio.sleep(3 * 100)
        assert last in [task_id for task_id, _ in answers(node)]
        assert len(node.sent) <= 4
        nursery.cancel_scope.cancel()


async def test_dry_run_is_given_no_more_time_than_its_task_declares(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, FakeChain({TASK: pending_history()}))
    node.verifier.dry_run_seconds = 119.0
    start = trio.current_time()
    await node.run(lambda: bool(node.sent), seconds=500)
    assert EXAMINATION_SECONDS - 2 < trio.current_time() - start < EXAMINATION_SECONDS + 2
    code = REFUSAL_CODES[ObjectionCode.DRY_RUN_FAILED]
    assert node.sent == [task_registry.answer_task(TASK, code)]


async def test_task_that_declares_far_more_disk_than_it_takes_keeps_no_other_out(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    pending = pending_history()
    quota_bytes = 2**30
    greedy = replace(SPEC, resources=replace(SPEC.resources, disk_bytes=quota_bytes // 2))
    chain = FakeChain({TaskId(n): replace(pending, task_id=TaskId(n)) for n in (1, 2)})
    chain.specs = {TaskId(1): greedy}
    node = Node(tmp_path, chain, quota_bytes=quota_bytes)
    await node.run_for(60)
    refused = REFUSAL_CODES[ObjectionCode.DECLARES_TOO_MUCH]
    assert answers(node) == [(1, refused), (2, READY_CODE)]


async def test_a_task_waits_for_disk_and_is_refused_when_it_has_waited_too_long(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    window = NOW + int(trio.current_time()) + 1_000
    lease = replace(pending_history().lease, window_time=window)
    pending = replace(pending_history(), lease=lease)
    tasks = {TaskId(n): replace(pending, task_id=TaskId(n)) for n in (1, 2, 3)}
    # Each closed task keeps less than a fifth of what it was promised.
    node = Node(tmp_path, FakeChain(tasks), quota_bytes=2 * DISK_BYTES + 2 * DISK_BYTES // 5)

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(300)
        assert answers(node) == [(1, READY_CODE)]
        for number in (2, 3):
            state = node.host.describe_readiness(TaskId(number))
            assert (state["state"], state["code"]) == ("waiting", "no_room")
            assert f"{DISK_BYTES} are promised to others" in str(state["reason"])
            assert node.host.find_disk_objection(TaskId(number)) == state["reason"]
        assert node.host.find_disk_objection(TASK) is None

        closed = replace(tasks[TaskId(1)], status=TaskStatus.CLOSED, closed=at(90))
        node.chain.histories[TaskId(1)] = closed
        node.host.on_new_head([TaskId(1)])
        await trio.sleep(2)
        assert answers(node) == [(1, READY_CODE), (2, READY_CODE)]
        await trio.sleep(1_000 - EXAMINATION_SECONDS - 300)
        full = REFUSAL_CODES[ObjectionCode.NO_ROOM]
        await trio.sleep(60)
        assert answers(node) == [(1, READY_CODE), (2, READY_CODE), (3, full)]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("answer", [{"ready": VALIDATORS[:1]}, {"refusals": ((VALIDATORS[0], 7),)}])
async def test_closed_task_keeps_no_other_out_for_longer_than_it_has_paid(
    autojump_clock: MockClock, tmp_path: Path, answer: Mapping[str, object]
) -> None:
    """One that was active is kept, whatever this validator answered before it was started again."""
    pending = replace(pending_history(), task_id=TaskId(2))
    closed_at = NOW + int(trio.current_time()) - KEPT_SECONDS + 100
    closed = replace(
        pending_history(),
        status=TaskStatus.CLOSED,
        closed=BlockContext(BlockNumber(90), closed_at),
        rounds_settled=1,
        **answer,
    )
    node = Node(tmp_path, FakeChain({TASK: closed, TaskId(2): pending}), quota_bytes=2 * DISK_BYTES)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(90)
        assert node.host.describe_readiness(TaskId(2))["code"] == "no_room"
        await trio.sleep(60)
        assert answers(node) == [(2, READY_CODE)]
        nursery.cancel_scope.cancel()


async def test_refused_task_that_is_not_held_keeps_no_other_out(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    pending = replace(pending_history(), task_id=TaskId(2))
    closed = replace(
        pending_history(),
        status=TaskStatus.CLOSED,
        refusals=((VALIDATORS[0], 14),),
        closed=BlockContext(BlockNumber(90), NOW),
        rounds_settled=1,
    )
    chain = FakeChain({TASK: closed, TaskId(2): pending})
    chain.specs = {TASK: replace(SPEC, initial_weights=Hash32(bytes(32)))}
    node = Node(tmp_path, chain, quota_bytes=2 * DISK_BYTES)
    await node.run(lambda: bool(node.sent), seconds=10)
    assert answers(node) == [(2, READY_CODE)]


async def test_ready_is_not_posted_beyond_the_disk_quota(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    pending = pending_history()
    for name, quota_bytes, taken in (
        ("none", 2 * DISK_BYTES - 2, 0),
        ("one", 2 * DISK_BYTES, 1),
        ("two", 4 * DISK_BYTES, 2),
    ):
        chain = FakeChain({TaskId(n): replace(pending, task_id=TaskId(n)) for n in range(1, 4)})
        node = Node(tmp_path / name, chain, quota_bytes=quota_bytes)
        await node.run_for(60)
        ready = {call for call in node.sent if not any(call.data[-32:])}
        assert len(ready) == taken, name


async def test_reason_for_refusing_or_delaying_a_task_is_kept(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    chain = FakeChain({TASK: pending_history()})
    refusing = Node(tmp_path / "refusing", chain)
    waiting = Node(tmp_path / "waiting", chain, has_content=False)

    def refuse(kind: str, _members: Mapping[str, object]) -> Mapping[str, object]:
        raise WorkerRefusedError("bad_spec", "a label is not one of 2 classes")

    refusing.verifier.answers = refuse
    await refusing.run_for(5)
    await waiting.run_for(5)

    assert refusing.host.get_readiness(TASK) == TaskReadiness(
        ReadinessState.REFUSED, "dry_run_refused", "bad_spec: a label is not one of 2 classes"
    )
    waits = waiting.host.get_readiness(TASK)
    assert waits is not None
    assert (waits.state, waits.code) == (ReadinessState.WAITING, "content_unavailable")
    assert "cannot be fetched" in str(waits.reason)
    assert waiting.host.get_readiness(TaskId(9)) is None
    assert refusing.host.find_disk_objection(TASK) == "bad_spec: a label is not one of 2 classes"
    assert waiting.host.find_disk_objection(TASK) is None
    assert waiting.host.find_disk_objection(TaskId(9)) == "the task is not examined yet"


async def test_task_that_passes_the_dry_run_is_said_to_be_ready(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, FakeChain({TASK: pending_history()}))
    await node.run(lambda: bool(node.sent))
    assert node.host.describe_readiness(TASK) == {"state": "ready", "code": None, "reason": None}


async def test_restarted_validator_first_prepares_tasks_with_an_attempt(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Eight earlier tasks wait for miners; each takes 100 s to dry-run."""
    judged = judging().histories[TASK]
    assert judged.attempt is not None
    last = TaskId(9)
    attempt = replace(judged.attempt, id=replace(judged.attempt.id, task_id=last))
    waiting = {TaskId(n): replace(judged, task_id=TaskId(n), attempt=None) for n in range(1, 9)}
    chain = FakeChain({**waiting, last: replace(judged, task_id=last, attempt=attempt)})
    node = Node(tmp_path, chain)
    node.verifier.dry_run_seconds = 100

    await node.run(lambda: node.host.get_readiness(last) == READY_STATE, seconds=305)

    prepared = [n for n in waiting if node.host.get_readiness(n) == READY_STATE]
    assert prepared == [1, 2], "the one that was there first, and the earliest task's turn"


async def test_task_whose_terms_pay_for_less_gets_no_turn_or_promise(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = FakeChain({TASK: pending_history()})
    chain.paid = {TASK: replace(SPEC.resources, disk_bytes=1)}
    node = Node(tmp_path, chain, has_content=False)
    promised: list[TaskId] = []
    claim = capacity.Capacity.claim

    def note(self: capacity.Capacity, task_id: TaskId, *args: object, **kwargs: bool) -> None:
        promised.append(task_id)
        claim(self, task_id, *args, **kwargs)

    monkeypatch.setattr(capacity.Capacity, "claim", note)
    monkeypatch.setattr(preparation, "PREPARING_LIMIT", 0)

    await node.run(lambda: bool(node.sent))

    code = REFUSAL_CODES[ObjectionCode.TERMS_DIFFER]
    assert node.sent == [task_registry.answer_task(TASK, code)]
    assert (promised, node.peers.asked) == ([], [])
