"""The calls that report conflicting votes (docs/spec/consensus.md, section 9)."""

from chain.consensus.evidence import Evidence, build_evidence
from chain.consensus.messages import MessageKind
from chain.contracts import validator_set
from chain.contracts.validator_set import SignedDigest, SignedViewChange, VotePlace
from chain.primitives import ZERO_HASH, Address, BlockNumber
from tests.worlds.replica import (
    BLOCK_A,
    BLOCK_B,
    commit,
    prepare,
    prepared,
    view_change,
)

ACCUSED = Address(b"\x31" * 20)


def test_two_votes_of_one_place_are_an_equivocation() -> None:
    first, second = prepare(3, BLOCK_A, view=2), prepare(3, BLOCK_B, view=2)
    call = validator_set.report_equivocation(
        VotePlace(MessageKind.PREPARE, 7, BlockNumber(1), 2),
        SignedDigest(BLOCK_A.hash, first.signature),
        SignedDigest(BLOCK_B.hash, second.signature),
    )
    assert build_evidence(first, second, ACCUSED, 7) == Evidence(ACCUSED, BlockNumber(1), call.data)


def test_a_commit_and_a_view_change_that_forgets_it_are_a_lost_lock() -> None:
    locked = commit(3)
    forgot = view_change(3, 2).vote
    call = validator_set.report_lost_lock(
        VotePlace(MessageKind.COMMIT, 1, BlockNumber(1), 0),
        SignedDigest(BLOCK_A.hash, locked.signature),
        SignedViewChange(2, 2**64 - 1, ZERO_HASH, forgot.signature),
    )
    assert build_evidence(locked, forgot, ACCUSED, 1).data == call.data


def test_an_older_lock_than_the_commit_is_a_lost_lock_too() -> None:
    locked, older = commit(3, view=3), view_change(3, 5, prepared(view=1)).vote
    call = validator_set.report_lost_lock(
        VotePlace(MessageKind.COMMIT, 1, BlockNumber(1), 3),
        SignedDigest(BLOCK_A.hash, locked.signature),
        SignedViewChange(5, 1, BLOCK_A.hash, older.signature),
    )
    assert build_evidence(locked, older, ACCUSED, 1).data == call.data
