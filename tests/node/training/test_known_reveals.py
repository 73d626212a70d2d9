"""What is known of the reveals of attempts with many commitments."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.primitives import Address, Hash32, TaskId
from chain.training.attempt import AttemptId
from node.training.known_reveals import KnownReveals
from node.training.reveal_store import RevealStore
from tests.worlds.training import MINERS
from tests.worlds.training_node import (
    ATTEMPT,
    MISSING,
    OK,
    REVEALS,
    SPEC,
    TASK,
    UNCHECKED,
    FakeChain,
    Node,
    expected_verdict,
    header_of,
    judging,
)
from tests.worlds.waiting import until

pytestmark = pytest.mark.usefixtures("inline_threads")

MANY = 1_024


class CountingStore(RevealStore):
    """A store that counts the files it reads."""

    reads = 0

    def get(self, attempt_id, miner):  # type: ignore[no-untyped-def]
        self.reads += 1
        return super().get(attempt_id, miner)


def unrevealed() -> FakeChain:
    """A chain with an attempt of many commitments that no miner reveals."""
    history = judging(1).histories[TASK]
    assert history.attempt is not None
    record = history.attempt.commitments[0]
    records = tuple(
        replace(record, miner=Address(number.to_bytes(20, "big"))) for number in range(MANY)
    )
    attempt = replace(history.attempt, commitments=records)
    return FakeChain({TASK: replace(history, attempt=attempt)})


async def test_many_unrevealed_commitments_cost_a_few_looks_a_second(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, unrevealed())
    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(3)
        looks, asked = node.chain.phase_calls, node.peers.reveals_asked
        await trio.sleep(5)
        looks, asked = node.chain.phase_calls - looks, node.peers.reveals_asked - asked
        nursery.cancel_scope.cancel()
    assert looks <= 5 * 10
    assert 3 <= asked <= 10


async def test_each_stored_reveal_is_read_once(autojump_clock: MockClock, tmp_path: Path) -> None:
    store, written = CountingStore(tmp_path), RevealStore(tmp_path)
    for reveal in REVEALS[:2]:
        written.put(reveal)
    written.put(replace(REVEALS[0], miner=Address(b"\x77" * 20)))
    history = judging().histories[TASK]
    assert history.attempt is not None
    reveals = KnownReveals(store, Node(tmp_path, unrevealed()).blobs)
    known = reveals.get(history.attempt)

    for _ in range(3):
        await reveals.read(known, header_of(MINERS[2]))

    assert store.reads == 2
    assert known.opened == {0: REVEALS[0], 1: REVEALS[1]}
    assert known.list_missing() == [2]


async def test_only_reveals_that_open_a_commitment_are_stored(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    history = judging().histories[TASK]
    assert history.attempt is not None
    reveals = KnownReveals(RevealStore(tmp_path), Node(tmp_path, unrevealed()).blobs)
    known = reveals.get(history.attempt)
    false = replace(REVEALS[0], salt=Hash32(b"\x66" * 32))
    for reveal, is_true in ((false, False), (REVEALS[0], True)):
        assert await reveals.put(known, reveal, header_of(MINERS[1])) is is_true
    assert RevealStore(tmp_path).list(ATTEMPT) == REVEALS[:1]


async def test_restart_late_in_a_phase_says_unchecked_of_what_is_held(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, judging())
    node.hold(0, 2)
    node.verifier.seconds = 100
    node.clock.ahead_seconds = SPEC.phases.verdict_seconds * 3 // 4

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await until(lambda: bool(node.verdicts()), seconds=3)
        nursery.cancel_scope.cancel()

    assert node.verdicts() == [expected_verdict(UNCHECKED, MISSING, UNCHECKED)]


@pytest.mark.parametrize("late", [False, True])
async def test_attempts_of_others_take_no_vote_from_a_longer_one(
    autojump_clock: MockClock, tmp_path: Path, late: bool
) -> None:
    node = Node(tmp_path, judging())
    history, other = node.chain.histories[TASK], TaskId(2)
    assert history.attempt is not None
    node.clock.ahead_seconds = -130  # so that the phase is as long as all attempts of the other
    node.hold(0, 1)

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await until(lambda: node.verifier.asked.count("verify") == 2)
        for number in range(257):
            attempt = replace(
                history.attempt,
                id=AttemptId(other, number, 0),
                commitments=history.attempt.commitments[:1],
            )
            node.chain.histories[other] = replace(history, task_id=other, attempt=attempt)
            node.host.on_new_head([other])
            await trio.sleep(0.5)
        node.clock.ahead_seconds += SPEC.phases.verdict_seconds * 3 // 4 if late else 0
        node.hold(*() if late else (2,))
        node.host.on_blob()
        node.host.on_new_head([TASK])
        with trio.move_on_after(5):
            await until(lambda: bool(node.verdicts()))
        nursery.cancel_scope.cancel()

    assert expected_verdict(OK, OK, MISSING if late else OK) in node.verdicts()


async def test_reveals_are_known_as_long_as_their_attempt_is_kept(tmp_path: Path) -> None:
    attempt = judging().histories[TASK].attempt
    assert attempt is not None
    reveals = KnownReveals(RevealStore(tmp_path), Node(tmp_path, unrevealed()).blobs)
    assert reveals.get(attempt) is not reveals.get(attempt)
    reveals.keep(TASK, ())
    known = reveals.get(attempt)
    reveals.keep(TASK, {attempt.id})
    assert reveals.get(attempt) is known
    reveals.keep(TASK, ())
    assert reveals.get(attempt) is not known
    reveals.forget(TASK)
    assert reveals.get(attempt) is not reveals.get(attempt)
