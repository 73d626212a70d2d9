"""Records of votes (docs/spec/consensus.md, section 8)."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.consensus.guard import GuardState, Step, permits
from chain.consensus.messages import MessageKind
from chain.consensus.records import (
    CommitRecord,
    PrepareRecord,
    Record,
    ViewChangeRecord,
    compute_latest_intent,
    decode_record,
    encode_record,
)
from chain.errors import RejectedInputError
from tests.worlds.replica import (
    BLOCK_A,
    BLOCK_B,
    commit,
    new_view,
    pre_prepare,
    prepare,
    prepared,
    quorum_of,
    view_change,
)

RECORDS: tuple[Record, ...] = (
    PrepareRecord(pre_prepare(), prepare(1)),
    CommitRecord(commit(1), quorum_of(MessageKind.PREPARE, (0, 1, 2))),
    ViewChangeRecord(view_change(1, 1, prepared()).vote),
    PrepareRecord(
        new_view(
            1,
            BLOCK_A,
            [view_change(0, 1), view_change(1, 1, prepared()), view_change(2, 1)],
            quorum_of(MessageKind.PREPARE, (0, 1, 2)),
        ),
        prepare(1, view=1),
    ),
    ViewChangeRecord(view_change(1, 2).vote),
)


@pytest.mark.parametrize("record", RECORDS)
def test_record_decodes_to_itself(record: Record) -> None:
    assert decode_record(encode_record(record)) == record


@pytest.mark.parametrize("record", RECORDS)
def test_cut_record_is_refused(record: Record) -> None:
    data = encode_record(record)
    for length in (0, 1, len(data) // 2, len(data) - 1):
        with pytest.raises(RejectedInputError):
            decode_record(data[:length])


@given(st.binary(max_size=64))
def test_garbage_is_refused_or_is_a_record(data: bytes) -> None:
    with contextlib.suppress(RejectedInputError):
        assert encode_record(decode_record(data)) == data


def test_prepare_record_is_of_its_own_proposal() -> None:
    broken = PrepareRecord(pre_prepare(BLOCK_A), prepare(1, BLOCK_B))
    with pytest.raises(RejectedInputError):
        decode_record(encode_record(broken))


def test_intents_of_a_log_climb_and_keep_the_lock() -> None:
    intents = [compute_latest_intent(RECORDS[: count + 1]) for count in range(4)]
    lock = (0, BLOCK_A.hash)
    assert [(intent.view, intent.step, intent.prepared) for intent in intents if intent] == [
        (0, Step.PREPARE, None),
        (0, Step.COMMIT, lock),
        (1, Step.VIEW_CHANGE, lock),
        (1, Step.PREPARE, lock),
    ]
    guard: GuardState | None = None
    for intent in intents:
        assert intent is not None
        assert permits(guard, intent)
        guard = intent
    # The fifth record forgets the lock: no honest log holds it, and the guard refuses it.
    forgetful = compute_latest_intent(RECORDS)
    assert forgetful is not None
    assert not permits(guard, forgetful)


def test_a_log_without_records_has_no_intent() -> None:
    assert compute_latest_intent(()) is None
