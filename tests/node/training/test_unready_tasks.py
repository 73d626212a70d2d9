"""Active tasks that this validator is not ready for: it does the duties that its machine allows."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.contracts import gradient_ledger, task_registry
from chain.contracts.gradient_ledger import Phase
from chain.contracts.task_registry import TaskStatus
from chain.crypto import content_id
from chain.primitives import TaskId
from chain.training.acceptance import Verdict
from chain.training.fees import PROMISED_SHARE
from chain.training.history import TaskHistory
from chain.training.leases import READY_CODE
from chain.training.resources import count_rows_bytes
from chain.training.task_checks import REFUSAL_CODES, ObjectionCode
from chain.training.task_spec import TaskSpec
from node.training.readiness import ReadinessState
from node.training.worker_pool import WorkerFailedError, WorkerRefusedError
from tests.worlds.training import OPEN_LEASE, TASK, VALIDATORS, pending_history, verdict
from tests.worlds.training_node import (
    HONEST,
    MEASURED,
    MISSING,
    OK,
    SHARDS,
    SPEC,
    UNCHECKED,
    VOTE,
    WEIGHTS,
    FakeChain,
    FakeWorker,
    Node,
    expected_verdict,
    honest_worker,
    judging,
    with_results,
)
from tests.worlds.waiting import until

pytestmark = pytest.mark.usefixtures("inline_threads")

OTHER = TaskId(2)
SLOW = {**MEASURED, "unit_milliseconds": SPEC.resources.unit_milliseconds + 1}


def refused(history: TaskHistory, reason: ObjectionCode) -> TaskHistory:
    """The task after this validator has refused it on the chain."""
    return replace(history, refusals=((VALIDATORS[0], REFUSAL_CODES[reason]),))


def active(reason: ObjectionCode) -> FakeChain:
    """A task in its verdict phase that this validator has refused."""
    return FakeChain({TASK: refused(judging().histories[TASK], reason)})


def build_large_spec() -> tuple[TaskSpec, float]:
    """A task that is promised all that is promised of a worker, and the seconds of its checks."""
    phases = replace(SPEC.phases, commit_seconds=40, verdict_seconds=40)
    half = 1_000 * phases.verdict_seconds // (PROMISED_SHARE * SPEC.reward.max_units)
    large = replace(SPEC, phases=phases, resources=replace(SPEC.resources, unit_milliseconds=half))
    return large, SPEC.reward.max_units * half / 1_000


def slow_worker(kind: str, members: Mapping[str, object]) -> Mapping[str, object]:
    return SLOW if kind == "dry_run" else honest_worker(kind, members)


async def test_task_that_is_refused_while_pending_is_served_when_active(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """The smallest set of four: of three that are ready one lies, and is silent from then on."""
    chain = FakeChain({TASK: pending_history()})
    node = Node(tmp_path, chain)
    node.verifier.answers = slow_worker
    node.hold(0, 1, 2)
    code = REFUSAL_CODES[ObjectionCode.RESOURCES_EXCEEDED]
    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await until(lambda: bool(node.sent))
        assert node.sent == [task_registry.answer_task(TASK, code)]
        chain.histories = active(ObjectionCode.RESOURCES_EXCEEDED).histories
        node.host.on_new_head([TASK])
        await until(lambda: bool(node.verdicts()), seconds=5)
        nursery.cancel_scope.cancel()
    assert node.verdicts() == [expected_verdict(OK, OK, OK)]
    assert node.host.describe_readiness(TASK)["code"] == "resources_exceeded"


async def test_result_of_a_refused_task_is_computed_and_posted(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    votes = [verdict(i, OK, OK, OK) for i in (1, 2, 3)]
    judged = with_results(judging().histories[TASK], *votes)
    chain = FakeChain({TASK: refused(judged, ObjectionCode.DRY_RUN_FAILED)}, Phase.RESULT)
    node = Node(tmp_path, chain)
    node.hold(0, 1, 2)
    start = gradient_ledger.post_result(TASK, 0, 0, 0, VOTE, None, 0).data[:4]
    await node.run(lambda: any(call.data[:4] == start for call in node.sent), seconds=5)
    assert node.aggregator.asked == ["begin", "advance"]
    assert node.verifier.asked == [], "a worker cannot evaluate what it cannot check"


async def test_gradients_that_no_worker_can_check_are_unchecked_at_once(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    for reason in (ObjectionCode.DRY_RUN_REFUSED, ObjectionCode.DRY_RUN_FAILED):
        node = Node(tmp_path / reason, active(reason))
        node.hold(0, 1, 2)
        await node.run(lambda node=node: bool(node.verdicts()), seconds=2)
        assert node.verdicts() == [expected_verdict(UNCHECKED, UNCHECKED, UNCHECKED)]
        assert node.verifier.asked == []


@pytest.mark.parametrize(
    ("failure", "word"),
    [
        (None, OK),
        (WorkerRefusedError("bad_spec", "a label is not one of 10 classes"), UNCHECKED),
        (WorkerFailedError("the worker ended during dry_run: status 1"), UNCHECKED),
    ],
)
async def test_dry_run_of_an_active_task_decides_about_checks_only(
    autojump_clock: MockClock, tmp_path: Path, failure: Exception | None, word: Verdict
) -> None:
    """The validator had no time for the task while it was pending."""

    def run(kind: str, members: Mapping[str, object]) -> Mapping[str, object]:
        if failure is not None:
            assert kind == "dry_run"
            raise failure
        return slow_worker(kind, members)

    node = Node(tmp_path, active(ObjectionCode.WORKERS_BUSY))
    node.verifier.answers = run
    node.hold(0, 1)
    await node.run(lambda: bool(node.verdicts()))
    assert node.verdicts() == [expected_verdict(word, word, MISSING)]


async def test_gradient_whose_check_lacks_data_is_unchecked_and_not_missing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, active(ObjectionCode.WORKERS_BUSY), has_content=False)
    node.blobs.put(WEIGHTS)
    node.hold(0, 1)
    await node.run(lambda: bool(node.verdicts()))
    assert node.verdicts() == [expected_verdict(UNCHECKED, UNCHECKED, MISSING)]


async def test_task_without_room_is_voted_on_and_takes_no_disk(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    chain = active(ObjectionCode.NO_ROOM)
    node = Node(tmp_path, chain, has_content=False, quota_bytes=2 * SPEC.resources.disk_bytes - 2)
    node.peers.blobs = {content_id(data): data for data in (WEIGHTS, *SHARDS)}
    node.hold(1)
    await node.run(lambda: bool(node.verdicts()))
    assert node.verdicts() == [expected_verdict(MISSING, UNCHECKED, MISSING)]
    assert node.peers.asked == []


async def test_refused_task_takes_no_time_that_is_promised_to_others(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    declared = SPEC.reward.max_units * SPEC.resources.unit_milliseconds / 1_000
    ready = replace(judging().histories[TASK], ready=(VALIDATORS[0],))
    for name, history, seconds in (
        ("ready", ready, declared),
        ("refused", active(ObjectionCode.RESOURCES_EXCEEDED).histories[TASK], 0.0),
    ):
        worker = FakeWorker(slow_worker)
        node = Node(tmp_path / name, FakeChain({TASK: history}), verifier=worker, dry_runs=worker)
        node.hold(0, 1, 2)
        await node.run(lambda node=node: bool(node.verdicts()))
        checks = [
            turn for kind, turn in zip(worker.asked, worker.turns, strict=True) if kind == "verify"
        ]
        assert [turn.promised_seconds for turn in checks] == [seconds] * 3


async def test_task_that_others_made_active_takes_no_time_that_is_promised(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Other validators have more workers, so they are ready for more than half of one worker."""
    large, declared = build_large_spec()
    late, early = (*VALIDATORS[1:], VALIDATORS[0]), VALIDATORS
    judged, pending = judging().histories[TASK], replace(pending_history(), lease=OPEN_LEASE)
    worlds = {
        "alone": {TASK: judged},
        "another was ready": {TASK: judged, OTHER: replace(pending, ready=early)},
        # Both were active when this validator was ready for the second one.
        "another was ready first": {
            TASK: replace(judged, ready=late),
            OTHER: replace(judged, ready=early, attempt=None),
        },
    }
    promised = {}
    for name, histories in worlds.items():
        chain = FakeChain({k: replace(each, task_id=k) for k, each in histories.items()})
        chain.specs = dict.fromkeys((TASK, OTHER), large)
        worker = FakeWorker(honest_worker)
        node = Node(tmp_path / name, chain, verifier=worker, dry_runs=worker)
        node.hold(0, 1, 2)
        await node.run(lambda node=node: bool(node.verdicts()), seconds=60)
        promised[name] = {
            turn.promised_seconds
            for kind, turn in zip(worker.asked, worker.turns, strict=True)
            if kind == "verify"
        }
    assert promised == {
        "alone": {declared},
        "another was ready": {0.0},
        "another was ready first": {0.0},
    }


async def test_refused_task_leaves_all_promised_time_to_a_new_one(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    large, _ = build_large_spec()
    chain = active(ObjectionCode.TOO_NOISY)
    chain.histories[OTHER] = replace(pending_history(), task_id=OTHER)
    chain.specs = dict.fromkeys((TASK, OTHER), large)
    node = Node(tmp_path, chain)
    await node.run(lambda: bool(node.sent), seconds=20)
    assert node.sent[0] == task_registry.answer_task(OTHER, READY_CODE)


async def test_a_second_dry_run_takes_back_no_answer(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Noise is drawn anew, and a hair above the limit after the restart."""

    def noisy(kind: str, members: Mapping[str, object]) -> Mapping[str, object]:
        noise = SPEC.verification.tolerance_ppb // 10 + 1
        return {**MEASURED, "noise_ppb": noise} if kind == "dry_run" else HONEST

    history = judging().histories[TASK]
    node = Node(tmp_path, FakeChain({TASK: replace(history, ready=(VALIDATORS[0],))}))
    node.verifier.answers = noisy
    node.hold(0, 1, 2)
    await node.run(lambda: bool(node.verdicts()), seconds=5)
    assert node.verdicts() == [expected_verdict(OK, OK, OK)]
    assert "dry_run" not in node.verifier.asked
    answer = node.host.get_readiness(TASK)
    assert answer is not None
    assert answer.state is ReadinessState.READY


async def test_a_pending_task_that_was_answered_costs_nothing_after_a_restart(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    pending = replace(pending_history(), lease=OPEN_LEASE)
    chain = FakeChain({TASK: refused(pending, ObjectionCode.TOO_NOISY)})
    node = Node(tmp_path, chain, has_content=False)
    await node.run_for(20)
    assert (node.sent, node.peers.asked, node.verifier.asked) == ([], [], [])
    assert node.host.describe_readiness(TASK) == {
        "state": "refused",
        "code": "too_noisy",
        "reason": "this validator refused it before its node restarted",
    }
    ready = replace(pending, ready=(VALIDATORS[0],))
    again = Node(tmp_path / "ready", FakeChain({TASK: ready}))
    await again.run_for(20)
    assert (again.sent, again.verifier.asked) == ([], [])
    assert again.chain.histories[TASK].status is TaskStatus.PENDING


async def test_refusal_that_never_reached_the_chain_is_none_to_be_ready(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """The rows that a refused task needs when it is active looked like those of a good dry run."""
    chain = FakeChain({TASK: pending_history()})
    node = Node(tmp_path, chain)
    node.verifier.answers = slow_worker
    node.hold(0, 1, 2)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await until(lambda: bool(node.sent))
        chain.histories = judging().histories
        node.host.on_new_head([TASK])
        await until(lambda: bool(node.verdicts()), seconds=5)
        nursery.cancel_scope.cancel()
    again = Node(tmp_path, chain)
    again.verifier.answers = slow_worker
    await again.run(lambda: bool(again.verdicts()), seconds=20)
    assert again.host.describe_readiness(TASK)["code"] == "resources_exceeded"
    # A dry run that turns out well is remembered.
    for dry_runs in (1, 0):
        better = Node(tmp_path, chain)
        await better.run(lambda started=better: bool(started.verdicts()), seconds=20)
        assert better.verifier.asked.count("dry_run") == dry_runs
        assert better.host.describe_readiness(TASK)["state"] == "ready"


@pytest.mark.parametrize("is_refused", [False, True])
async def test_dry_run_before_a_restart_counts_as_long_as_its_rows_are_held(
    autojump_clock: MockClock, tmp_path: Path, is_refused: bool
) -> None:
    """A validator that came late to an active task has no answer on the chain."""
    chain = active(ObjectionCode.TOO_NOISY) if is_refused else judging()
    node = Node(tmp_path, chain)
    node.hold(0, 1, 2)
    asked = []
    for are_rows_lost in (False, False, True):
        node = Node(tmp_path, chain)
        if are_rows_lost:
            node.blobs.delete(content_id(bytes(count_rows_bytes(SPEC))))
        await node.run(lambda started=node: bool(started.verdicts()), seconds=10)
        assert node.verdicts()[:1] == [expected_verdict(OK, OK, OK)]
        asked.append(node.verifier.asked.count("dry_run"))
    assert asked == [1, 0, 1]
