"""Jobs that fail are tried again."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from trio.testing import MockClock

from node.training.verifier import VerifierFailedError
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
    failures = iter([VerifierFailedError("the worker ended"), VerifierFailedError("no answer")])

    def fail_twice(kind: str, members: Mapping[str, object]) -> Mapping[str, object]:
        error = next(failures, None) if kind == "verify" else None
        if error is not None:
            raise error
        return honest_worker(kind, members)

    node.verifier.answers = fail_twice
    await node.run(lambda: bool(node.verdicts()), seconds=10)
    assert node.verdicts() == [expected_verdict(OK)]
