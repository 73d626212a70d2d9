"""The votes that a key may still sign (docs/spec/consensus.md, section 8; rules S2, S3, S4, S8)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.consensus.guard import (
    GuardState,
    Step,
    build_floor_guard,
    compute_first_signable,
    decode_guard,
    permits,
)
from chain.errors import RejectedInputError
from chain.primitives import BlockNumber, Hash32, View

A, B = Hash32(b"\x0a" * 32), Hash32(b"\x0b" * 32)


def vote(number: int, view: int, step: Step, digest: Hash32 = A, prepared=None) -> GuardState:
    return GuardState(BlockNumber(number), View(view), step, digest, prepared)


STATES = st.builds(
    vote,
    st.integers(1, 3),
    st.integers(0, 3),
    st.sampled_from(Step),
    st.sampled_from([A, B]),
    st.none() | st.tuples(st.integers(0, 3), st.sampled_from([A, B])),
)


def test_votes_go_forward_only() -> None:
    guard = vote(5, 1, Step.PREPARE)
    for later in (
        vote(5, 1, Step.COMMIT, prepared=(1, A)),
        vote(5, 2, Step.VIEW_CHANGE, B),
        vote(6, 0, Step.PREPARE, B),
    ):
        assert permits(guard, later)
    for earlier in (
        vote(5, 1, Step.VIEW_CHANGE),
        vote(5, 0, Step.COMMIT, prepared=(0, A)),
        vote(4, 9, Step.COMMIT, prepared=(9, A)),
    ):
        assert not permits(guard, earlier)


def test_the_same_vote_may_be_repeated_and_no_other_at_its_place() -> None:
    # Rule S2.
    guard = vote(5, 1, Step.PREPARE, A)
    assert permits(guard, guard)
    assert not permits(guard, vote(5, 1, Step.PREPARE, B))


def test_commit_is_for_the_prepared_block() -> None:
    assert not permits(vote(5, 1, Step.PREPARE, A), vote(5, 1, Step.COMMIT, B, (1, B)))


def test_view_change_may_not_forget_a_lock() -> None:
    # Rule S4.
    guard = vote(5, 1, Step.COMMIT, A, (1, A))
    assert not permits(guard, vote(5, 2, Step.VIEW_CHANGE, B))
    assert not permits(guard, vote(5, 2, Step.VIEW_CHANGE, B, (0, A)))
    assert permits(guard, vote(5, 2, Step.VIEW_CHANGE, B, (1, A)))
    assert permits(guard, vote(6, 0, Step.PREPARE, B))


@given(STATES, STATES)
def test_two_votes_are_never_permitted_in_both_orders_unless_equal(
    first: GuardState, second: GuardState
) -> None:
    if permits(first, second) and permits(second, first):
        assert first == second


@given(STATES)
def test_guard_decodes_to_itself(state: GuardState) -> None:
    assert decode_guard(state.encode()) == state


@pytest.mark.parametrize("data", [b"", b"\xc0", vote(1, 0, Step.PREPARE).encode() + b"\x00"])
def test_broken_guard_file_is_refused(data: bytes) -> None:
    with pytest.raises(RejectedInputError):
        decode_guard(data)


def first_signable(guard, logged, head: int, certified: int) -> int:
    return compute_first_signable(guard, logged, BlockNumber(head), BlockNumber(certified))


def test_a_new_network_may_be_signed_from_block_1() -> None:
    assert first_signable(None, None, 0, 0) == 1


def test_guard_and_log_that_agree_go_on() -> None:
    guard = vote(8, 1, Step.COMMIT, A, (1, A))
    assert first_signable(guard, guard, 7, 9) == 8
    # The power failed after the log was written and before the guard was.
    assert first_signable(vote(8, 1, Step.PREPARE), guard, 7, 7) == 8


def test_guard_ahead_of_the_log_means_that_votes_were_lost() -> None:
    # Rule S8: C2, a torn log, and a restored backup.
    guard = vote(8, 1, Step.COMMIT, A, (1, A))
    assert first_signable(guard, vote(8, 1, Step.PREPARE), 7, 7) == 9
    assert first_signable(guard, None, 3, 3) == 9
    assert first_signable(guard, vote(8, 1, Step.COMMIT, B, (1, B)), 7, 7) == 9


def test_an_emptied_log_below_the_head_is_no_loss() -> None:
    assert first_signable(vote(8, 1, Step.COMMIT, A, (1, A)), None, 8, 8) == 9


def test_lost_guard_signs_nothing_near_the_certified_head() -> None:
    # C7: an old key in an empty data directory.
    assert first_signable(None, None, 0, 40) == 43
    assert first_signable(None, vote(1, 0, Step.PREPARE), 0, 0) == 3


def test_floor_guard_keeps_the_wait_across_restarts_and_ends_it() -> None:
    floor = build_floor_guard(BlockNumber(43))
    assert first_signable(floor, None, 40, 40) == 43
    assert first_signable(floor, None, 41, 60) == 43
    assert first_signable(floor, None, 42, 42) == 43
    assert permits(floor, vote(43, 0, Step.PREPARE))
    # A new node that died between its first record and its first guard.
    assert first_signable(build_floor_guard(BlockNumber(1)), vote(1, 0, Step.PREPARE), 0, 0) == 1
