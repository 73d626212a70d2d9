"""Jobs that fail are tried again."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.primitives import TaskId
from chain.training.attempt import AttemptId
from node.training.jobs import Jobs
from node.training.work import JobKey, JobKind
from node.training.worker_pool import WorkerFailedError
from tests.worlds.training_node import (
    OK,
    Node,
    expected_verdict,
    honest_worker,
    judging,
)

pytestmark = pytest.mark.usefixtures("inline_threads")


async def test_a_worker_that_fails_is_asked_again(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, judging(1))
    node.hold(0)
    failures = iter([WorkerFailedError("the worker ended"), WorkerFailedError("no answer")])

    def fail_twice(kind: str, members: Mapping[str, object]) -> Mapping[str, object]:
        error = next(failures, None) if kind == "verify" else None
        if error is not None:
            raise error
        return honest_worker(kind, members)

    node.verifier.answers = fail_twice
    await node.run(lambda: bool(node.verdicts()), seconds=10)
    assert node.verdicts() == [expected_verdict(OK)]


FIRST, SECOND = AttemptId(TaskId(1), 0, 0), AttemptId(TaskId(12), 0, 0)
CHECKS = [
    JobKey(each.task_id, JobKind.CHECK, each, commitment_index=index)
    for each in (FIRST, SECOND)
    for index in (0, 1)
]
PREPARATION = JobKey(FIRST.task_id, JobKind.PREPARE)


@pytest.mark.parametrize(
    ("attempt_id", "still_waiting"),
    [(None, [PREPARATION]), (FIRST, [*CHECKS[2:], PREPARATION])],
)
async def test_waits_end_for_one_kind_of_jobs_and_one_attempt(
    autojump_clock: MockClock, attempt_id: AttemptId | None, still_waiting: list[JobKey]
) -> None:
    jobs = Jobs()
    for key in (*CHECKS, PREPARATION):
        jobs.put_off(key, 10)

    jobs.end_waits(JobKind.CHECK, attempt_id)

    assert [key for key in (*CHECKS, PREPARATION) if jobs.is_waiting(key)] == still_waiting
    await trio.sleep(10)
    assert not any(jobs.is_waiting(key) for key in (*CHECKS, PREPARATION))


async def test_every_job_that_is_held_back_stays_so(autojump_clock: MockClock) -> None:
    jobs = Jobs()
    keys = [JobKey(TaskId(number), JobKind.PREPARE) for number in range(10_000)]
    for key in keys:
        jobs.put_off(key, 10)
    assert all(jobs.is_waiting(key) for key in keys)


def test_a_key_reads_as_task_kind_and_numbers_in_a_log_line() -> None:
    verdict = JobKey(FIRST.task_id, JobKind.VERDICT, FIRST, ballot_number=4)
    assert [str(key) for key in (PREPARATION, CHECKS[3], verdict)] == [
        "1/prepare",
        "12/check-0-0-1",
        "1/verdict-0-0-4",
    ]
