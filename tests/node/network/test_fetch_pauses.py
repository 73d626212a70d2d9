"""Pauses between tries in which nothing of a blob comes, under a virtual clock."""

import pytest
import trio
from trio.testing import MockClock

from chain.primitives import Hash32, TaskId
from node.network import fetch_pauses
from node.network.fetch_pauses import FetchPauses
from node.network.stream import PeerId

ONE, OTHER = TaskId(1), TaskId(2)


def name(number: int) -> Hash32:
    return Hash32(number.to_bytes(32, "big"))


async def measure_pause(pauses: FetchPauses, content_id: Hash32, task_id: TaskId) -> float:
    """The seconds of the pause that a try without a byte begins; they pass meanwhile."""
    pauses.note_empty(content_id, task_id)
    seconds = pauses._tasks[task_id][content_id].until - trio.current_time()
    assert pauses.is_paused(content_id, task_id)
    await trio.sleep(seconds)
    assert not pauses.is_paused(content_id, task_id)
    return seconds


async def test_pauses_double_up_to_the_longest(autojump_clock: MockClock) -> None:
    pauses = FetchPauses()
    assert not pauses.is_paused(name(1), ONE)
    seconds = [await measure_pause(pauses, name(1), ONE) for _ in range(6)]
    assert seconds == [0.5, 1, 2, 4, 8, 8]
    # Those of another blob, or for another task, begin anew; so does one of which a byte came.
    assert await measure_pause(pauses, name(2), ONE) == 0.5
    assert await measure_pause(pauses, name(1), OTHER) == 0.5
    pauses.end(name(1), ONE)
    assert await measure_pause(pauses, name(1), ONE) == 0.5


async def test_pauses_grow_with_the_blobs_that_a_task_lacks(autojump_clock: MockClock) -> None:
    pauses = FetchPauses()
    for number in range(1_024):
        pauses.note_empty(name(number), ONE)
    await trio.sleep(63)
    assert pauses.is_paused(name(1_023), ONE)
    await trio.sleep(1)
    assert not pauses.is_paused(name(1_023), ONE)
    # The blobs of other tasks do not wait for them.
    for number in range(1_024):
        pauses.note_empty(name(number), ONE)
    assert await measure_pause(pauses, name(2_000), OTHER) == 0.5


async def test_each_peer_ends_pauses_of_a_blob_by_one_announcement(
    autojump_clock: MockClock,
) -> None:
    pauses = FetchPauses()
    pauses.note_announced(name(1), PeerId("early"))
    for peer, is_ended in (("a", True), ("a", False), ("b", True), ("a", False)):
        pauses.note_empty(name(1), ONE)
        pauses.note_announced(name(2), PeerId("of another blob"))
        pauses.note_announced(name(1), PeerId(peer))
        assert pauses.is_paused(name(1), ONE) is not is_ended
        await trio.sleep(10)
    for number in range(fetch_pauses.ANNOUNCERS_LIMIT):
        pauses.note_announced(name(1), PeerId(f"peer {number}"))
    pauses.note_empty(name(1), ONE)
    pauses.note_announced(name(1), PeerId("one more"))
    assert pauses.is_paused(name(1), ONE)


async def test_old_pauses_are_forgotten(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_pauses, "REMEMBERED_LIMIT", 8)
    pauses = FetchPauses()
    for number in range(9):
        pauses.note_empty(name(number), ONE)
    assert [len(each) for each in pauses._tasks.values()] == [8]
    assert not pauses.is_paused(name(0), ONE)
    await trio.sleep(400)
    pauses.note_empty(name(1), OTHER)
    assert list(pauses._tasks) == [OTHER]
    pauses.end(name(1), OTHER)
    assert pauses._tasks == {}
