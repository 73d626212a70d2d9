"""The parts in which a peer sends what a task has paid."""

import pytest

from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import Address, TaskId
from node.network.protocols.state import TaskRecord
from node.network.stream import PeerId
from node.sync import record_pages
from node.sync.record_pages import RecordPages

ANN, BEN = PeerId("ann"), PeerId("ben")
FIRST = TaskId(1)


def rewards(*accounts: int) -> tuple[tuple[Address, int], ...]:
    return tuple((Address(bytes([each]) * 20), each) for each in accounts)


BEGUN = TaskRecord(b"spec", rewards(1, 2), is_complete=False)


def test_parts_of_one_peer_are_joined_and_those_of_others_are_not() -> None:
    pages, other = RecordPages(), TaskRecord(b"other", rewards(1))
    assert pages.join(ANN, FIRST, [other, BEGUN]) == (other,)
    second = TaskId(2)
    assert (pages.peer_id, pages.get_after(ANN, second)) == (ANN, b"\2" * 20)
    assert pages.get_after(BEN, second) == pages.get_after(ANN, TaskId(3)) == b""
    rest = TaskRecord(b"spec", rewards(3))
    whole = TaskRecord(b"spec", rewards(1, 2, 3))
    assert pages.join(ANN, second, [rest, other]) == (whole, other)
    assert pages.peer_id is None
    pages.join(ANN, FIRST, [BEGUN])
    assert pages.join(BEN, FIRST, [whole]) == (whole,), "another peer begins anew"
    assert pages.get_after(ANN, FIRST) == b""


@pytest.mark.parametrize(
    "following",
    [
        TaskRecord(b"spec", rewards(2, 3), is_complete=False),
        TaskRecord(b"spec", rewards(1)),
        TaskRecord(b"another", rewards(3)),
        TaskRecord(b"spec", (), is_complete=False),
        TaskRecord(b"spec", rewards(3, 4, 5), is_complete=False),
    ],
    ids=["again", "back", "other spec", "nothing", "too many"],
)
def test_part_that_does_not_go_on_is_refused(
    following: TaskRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_pages, "PAID_ACCOUNTS_LIMIT", 4)
    pages = RecordPages()
    pages.join(ANN, FIRST, [BEGUN])
    with pytest.raises(RejectedInputError) as refusal:
        pages.join(ANN, FIRST, [following])
    assert refusal.value.reason is RejectionReason.CONTENT_MISMATCH
    assert pages.get_after(ANN, FIRST) == b""
