"""The rules of the replica, a test for each (docs/spec/consensus.md, section 5).

S1 to S8 are the safety rules of the specification's section 5, A1 to A16 its core scenarios.
"""

from dataclasses import replace
from typing import TypeVar

import pytest

from chain.consensus import pbft
from chain.consensus.effects import (
    Broadcast,
    BuildBlock,
    Effect,
    FetchBlock,
    Finalize,
    ForwardTransactions,
    Halt,
    Persist,
    Redeliver,
    ReportEvidence,
    ReportRejection,
    Send,
    SendCertificate,
    SetTimer,
    ValidateBlock,
)
from chain.consensus.guard import GuardState, Step
from chain.consensus.inputs import (
    BlockBuilt,
    BlockFetched,
    BlockValidated,
    NewNumber,
    Timer,
    TimerExpired,
    TransactionHeld,
)
from chain.consensus.messages import Committed, MessageKind
from chain.consensus.pbft import ReplicaState, Transition, ViewTimer, compute_timeout_ms
from chain.consensus.records import CommitRecord, PrepareRecord, ViewChangeRecord
from chain.errors import RejectionReason
from chain.primitives import BlockNumber, Hash32, ValidatorIndex, View
from tests.worlds.replica import (
    BLOCK_A,
    BLOCK_B,
    TIMING,
    apply,
    backup,
    certificate,
    commit,
    config_of,
    make_block,
    new_view,
    pre_prepare,
    prepare,
    prepared,
    quorum_of,
    received,
    run,
    status,
    token_signer,
    valid,
    view_change,
)

T = TypeVar("T")


def expired(timer: Timer, *, view: int = 0, number: int = 1) -> TimerExpired:
    return TimerExpired(timer, BlockNumber(number), View(view))


def sent(transition: Transition) -> list[object]:
    return [effect.message for effect in transition.effects if isinstance(effect, Broadcast)]


def only(transition: Transition, kind: type[T]) -> list[T]:
    return [effect for effect in transition.effects if isinstance(effect, kind)]


def guard_of(number: int, view: int, step: Step, digest: Hash32, lock=None) -> GuardState:
    return GuardState(BlockNumber(number), View(view), step, digest, lock)


def primary() -> ReplicaState:
    """The primary of view 0 with a transaction to propose."""
    return pbft.start(config_of(0, has_transaction=True)).state


def accepted() -> ReplicaState:
    """A backup that accepted block A in view 0."""
    return run(backup(), pre_prepare(), valid()).state


def locked() -> ReplicaState:
    """A backup that committed to block A in view 0."""
    return run(accepted(), prepare(0), prepare(2)).state


def in_view(view: int, state: ReplicaState | None = None) -> ReplicaState:
    """The replica after f + 1 others went to `view`."""
    others = (author for author in (3, 2, 0) if author != view % 4)
    first, second, *_ = others
    given = backup() if state is None else state
    return run(given, view_change(first, view), view_change(second, view)).state


# The normal case.


def test_backup_validates_a_proposal_before_it_prepares() -> None:
    proposed = apply(backup(), pre_prepare())
    assert proposed.effects == (ValidateBlock(BLOCK_A, age_limit_ms=1_000),)
    then = apply(proposed.state, valid())
    own = prepare(1)
    assert then.effects == (
        Persist(PrepareRecord(pre_prepare(), own), guard_of(1, 0, Step.PREPARE, BLOCK_A.hash)),
        Broadcast(own),
    )


@pytest.mark.parametrize(("view", "age_limit_ms"), [(0, 1_000), (2, 4_000), (6, 10_000)])
def test_new_proposal_may_be_as_old_as_its_view_may_last(view: int, age_limit_ms: int) -> None:
    block = make_block(2, coinbase=view % 4)
    changes = [view_change(author, view) for author in range(4) if author != 1]
    proposal = pre_prepare() if view == 0 else new_view(view, block, changes)
    (asked,) = only(apply(backup(), proposal), ValidateBlock)
    assert asked.age_limit_ms == age_limit_ms


def test_quorum_of_prepares_is_written_down_before_the_commit() -> None:
    then = run(accepted(), prepare(0), prepare(3))
    record = CommitRecord(commit(1), quorum_of(MessageKind.PREPARE, (0, 1, 3)))
    lock = (View(0), BLOCK_A.hash)
    assert then.effects == (
        Persist(record, guard_of(1, 0, Step.COMMIT, BLOCK_A.hash, lock)),
        Broadcast(commit(1)),
    )


def test_quorum_of_commits_finalizes_with_their_certificate() -> None:
    then = run(locked(), commit(3), commit(0))
    assert then.effects == (Finalize(BLOCK_A, certificate(authors=(0, 1, 3))),)


def test_commits_before_prepares_count_once_the_block_is_valid() -> None:
    # A12.
    early = run(backup(), commit(0), commit(2), pre_prepare(), prepare(0), prepare(2))
    assert not only(early, Finalize)
    then = apply(early.state, valid())
    assert then.effects[-1] == Finalize(BLOCK_A, certificate(authors=(0, 1, 2)))


def test_own_commit_counts_only_after_it_was_cast() -> None:
    # S7: q - 1 COMMITs of others and an accepted proposal do not make a block final.
    then = run(accepted(), commit(0), commit(2))
    assert then.effects == ()
    assert then.state.committed is None


def test_primary_writes_down_its_proposal_and_sends_it_with_its_prepare() -> None:
    waiting = apply(primary(), expired(Timer.BUILD_EARLIEST))
    assert only(waiting, BuildBlock) == [BuildBlock(BlockNumber(1), View(0))]
    then = apply(waiting.state, BlockBuilt(BlockNumber(1), View(0), BLOCK_A))
    assert then.effects == (
        Persist(
            PrepareRecord(pre_prepare(), prepare(0)),
            guard_of(1, 0, Step.PREPARE, BLOCK_A.hash),
        ),
        Broadcast(pre_prepare()),
        Broadcast(prepare(0)),
    )


def test_primary_proposes_an_empty_block_only_after_the_empty_interval() -> None:
    idle = pbft.start(config_of(0)).state
    early = apply(idle, expired(Timer.BUILD_EARLIEST))
    assert not only(early, BuildBlock)
    assert only(apply(early.state, TransactionHeld()), BuildBlock)
    assert only(apply(idle, expired(Timer.BUILD_LATEST)), BuildBlock)


def test_block_of_a_left_view_is_not_proposed() -> None:
    moved = in_view(4, apply(primary(), expired(Timer.BUILD_EARLIEST)).state)
    then = apply(moved, BlockBuilt(BlockNumber(1), View(0), BLOCK_A))
    assert then == Transition(moved)


def test_one_validator_alone_finalizes() -> None:
    alone = pbft.start(config_of(0, n=1, has_transaction=True)).state
    then = run(alone, expired(Timer.BUILD_EARLIEST), BlockBuilt(BlockNumber(1), View(0), BLOCK_A))
    assert then.effects[-1] == Finalize(BLOCK_A, certificate(authors=(0,)))


def test_too_early_proposal_is_held_until_it_is_fresh() -> None:
    held = run(backup(), pre_prepare(), valid(fresh=False))
    assert held.effects == ()
    then = apply(held.state, valid(fresh=True))
    assert sent(then) == [prepare(1)]


def test_invalid_proposal_is_never_prepared() -> None:
    # D6, first part: validity is deterministic and final.
    given = run(backup(), pre_prepare(), BlockValidated(BLOCK_A.hash, False, False))
    assert given.effects == ()
    assert run(given.state, prepare(0), prepare(2), prepare(3)).effects == ()


# Validity of a proposal.


def test_proposal_of_a_wrong_primary_is_refused() -> None:
    # A7.
    then = apply(backup(), pre_prepare(make_block(coinbase=2), author=2))
    assert then.effects == (
        ReportRejection(ValidatorIndex(2), RejectionReason.WRONG_PRIMARY, "of view 0"),
    )
    assert then.state == backup()


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (make_block(number=2), RejectionReason.HEADER_FIELD),
        (make_block(parent=Hash32(b"\x99" * 32)), RejectionReason.UNKNOWN_PARENT),
        (make_block(coinbase=3), RejectionReason.HEADER_FIELD),
    ],
)
def test_fresh_proposal_must_fit_the_number_the_parent_and_the_primary(block, reason) -> None:
    then = apply(backup(), pre_prepare(block))
    assert [effect.reason for effect in only(then, ReportRejection)] == [reason]
    assert then.state == backup()


def test_second_proposal_of_a_view_is_evidence_and_changes_nothing() -> None:
    # A9 and S2.
    given = accepted()
    then = apply(given, pre_prepare(BLOCK_B))
    assert then == Transition(
        given, (ReportEvidence(pre_prepare().vote, pre_prepare(BLOCK_B).vote),)
    )


def test_second_vote_of_an_author_does_not_count() -> None:
    # S2: the first one counts, whichever that is.
    given = run(accepted(), prepare(0, BLOCK_B)).state
    then = apply(given, prepare(0, BLOCK_A))
    assert then == Transition(given, (ReportEvidence(prepare(0, BLOCK_B), prepare(0, BLOCK_A)),))


def test_repeated_votes_of_an_author_count_once() -> None:
    # S1: distinct authors, not distinct messages.
    assert run(accepted(), prepare(0), prepare(0), prepare(0)).state.own_commit is None
    assert run(locked(), commit(0), commit(0)).state.committed is None


def test_votes_for_another_block_or_view_do_not_count() -> None:
    then = run(accepted(), prepare(0, BLOCK_B), prepare(2, view=1), prepare(3))
    assert then.state.own_commit is None


def test_votes_of_a_later_view_are_used_when_it_comes() -> None:
    # A10.
    given = run(backup(2), prepare(0, BLOCK_B, view=1), prepare(1, BLOCK_B, view=1)).state
    changes = [view_change(author, 1) for author in (0, 1, 3)]
    then = run(given, new_view(1, make_block(2, coinbase=1), changes))
    block = make_block(2, coinbase=1)
    assert only(then, ValidateBlock) == [ValidateBlock(block, age_limit_ms=2_000)]
    late = run(
        backup(2),
        prepare(0, block, view=1),
        prepare(1, block, view=1),
        new_view(1, block, changes),
        valid(block),
    )
    assert sent(late) == [prepare(2, block, view=1), commit(2, block, view=1)]


# View change.


def test_view_change_of_an_expired_view_is_persisted_before_it_is_sent() -> None:
    waiting = run(backup(), TransactionHeld(), expired(Timer.VIEW_EARLIEST))
    assert SetTimer(Timer.VIEW, BlockNumber(1), View(0), 1_000) in waiting.effects
    then = apply(waiting.state, expired(Timer.VIEW))
    own = view_change(1, 1)
    payload = pbft.compute_view_change_payload(None)
    assert then.effects == (
        Persist(ViewChangeRecord(own.vote), guard_of(1, 1, Step.VIEW_CHANGE, payload)),
        Broadcast(own),
    )


def test_view_change_without_a_quorum_of_prepares_carries_nothing() -> None:
    # A1, first half.
    given = in_view(1, run(accepted(), prepare(0)).state)
    assert given.own_view_change == view_change(1, 1)


def test_view_change_after_commit_carries_the_certificate() -> None:
    # A1, second half, and S4.
    given = in_view(1, locked())
    assert given.own_view_change == view_change(1, 1, prepared())
    # Later views carry it too.
    assert in_view(9, given).own_view_change == view_change(1, 9, prepared())


def test_f_plus_1_view_changes_move_a_replica_to_the_lowest_of_their_views() -> None:
    one = run(backup(), view_change(3, 7))
    assert one.effects == ()
    then = apply(one.state, view_change(2, 5))
    assert sent(then)[0] == view_change(1, 5)
    assert then.state.view == 5


def test_a_single_liar_cannot_move_the_view() -> None:
    # D7: VIEW-CHANGEs up to 2^63 from one validator.
    given = run(backup(), *(view_change(3, 2**exponent) for exponent in range(64)))
    assert given.state.view == 0
    assert len(given.state.log.view_changes) == 1
    then = apply(given.state, view_change(2, 2))
    assert then.state.view == 2


def test_after_a_view_change_nothing_of_an_earlier_view_is_cast() -> None:
    # A15 and S3.
    given = in_view(2, accepted())
    then = run(given, prepare(0), prepare(2), prepare(3))
    assert sent(then) == []
    assert then.state.prepared is None
    assert apply(given, pre_prepare()).state.proposal is None


def test_primary_of_a_new_view_without_locks_builds_a_block() -> None:
    # A2.
    two = run(backup(), view_change(2, 1), view_change(3, 1))
    # Its own VIEW-CHANGE completes the quorum.
    assert only(two, BuildBlock) == [BuildBlock(BlockNumber(1), View(1))]
    block = make_block(7, coinbase=1)
    then = apply(two.state, BlockBuilt(BlockNumber(1), View(1), block))
    changes = [view_change(author, 1) for author in (1, 2, 3)]
    assert sent(then) == [new_view(1, block, changes), prepare(1, block, view=1)]


def test_primary_of_a_new_view_waits_for_a_quorum() -> None:
    # It entered view 1 by NEW-VIEW. It is the primary of view 2, for which it holds only its own.
    given = run(backup(2), view_change(0, 2), view_change(3, 9)).state
    assert given.view == 2
    assert len(given.log.get_view_changes(View(2))) == 2
    assert not given.is_build_asked


def test_primary_of_a_new_view_repeats_the_locked_block() -> None:
    # A3; it checks validity but not freshness, and keeps the original coinbase.
    given = run(backup(), view_change(2, 1, prepared()), view_change(3, 1))
    assert only(given, ValidateBlock) == [ValidateBlock(BLOCK_A, age_limit_ms=None)]
    assert not only(given, BuildBlock)
    then = apply(given.state, valid(fresh=False))
    changes = [view_change(1, 1), view_change(2, 1, prepared()), view_change(3, 1)]
    proposal = new_view(1, BLOCK_A, changes, prepared().signatures)
    assert sent(then) == [proposal, prepare(1, view=1)]


def test_lock_of_the_higher_view_wins() -> None:
    # A4.
    low, high = prepared(BLOCK_A, view=0), prepared(BLOCK_B, view=2)
    given = run(backup(1), view_change(0, 5, low), view_change(2, 5, high), view_change(3, 5))
    assert only(run(backup(1), view_change(0, 5, low), view_change(2, 5, high)), ValidateBlock) == [
        ValidateBlock(BLOCK_B, age_limit_ms=None)
    ]
    then = apply(given.state, valid(BLOCK_B, fresh=False))
    assert sent(then)[0].pre_prepare.block == BLOCK_B
    assert sent(then)[0].prepares == high.signatures


def test_lock_that_arrives_while_a_fresh_block_is_built_wins() -> None:
    building = run(backup(), view_change(2, 1), view_change(3, 1)).state
    later = apply(building, view_change(0, 1, prepared(authors=(0, 2, 3)))).state
    then = run(later, BlockBuilt(BlockNumber(1), View(1), make_block(7, coinbase=1)), valid())
    assert sent(then)[0].pre_prepare.block == BLOCK_A


def test_second_view_change_of_an_author_to_a_view_is_ignored() -> None:
    # A5.
    given = run(backup(), view_change(3, 2)).state
    assert apply(given, view_change(3, 2, prepared())) == Transition(given)


def test_lower_view_change_of_an_author_is_ignored() -> None:
    # A6.
    given = run(backup(), view_change(3, 2)).state
    assert apply(given, view_change(3, 1)) == Transition(given)


@pytest.mark.parametrize(
    "bogus",
    [
        view_change(3, 1, prepared(authors=(0, 1))),
        view_change(3, 1, prepared(authors=(0, 0, 1))),
        view_change(3, 1, prepared(view=1)),
        view_change(3, 0),
        replace(view_change(3, 1, prepared()), certificate=None),
        replace(view_change(3, 1), certificate=prepared()),
        replace(view_change(3, 1, prepared()), certificate=prepared(BLOCK_B)),
    ],
)
def test_unproven_view_change_is_refused_on_arrival(bogus) -> None:
    # A8 for VIEW-CHANGEs, D4: a false high prepared view must not block every proposal.
    then = apply(backup(), bogus)
    assert [effect.reason for effect in only(then, ReportRejection)] == [
        RejectionReason.BAD_JUSTIFICATION
    ]
    assert then.state == backup()


CHANGES = [view_change(0, 1), view_change(1, 1), view_change(3, 1)]
LOCKED_CHANGES = [view_change(0, 1, prepared()), view_change(1, 1), view_change(3, 1)]
PREPARES = prepared().signatures
FRESH = make_block(8, coinbase=1)


@pytest.mark.parametrize(
    "bogus",
    [
        new_view(1, FRESH, CHANGES[:2]),
        new_view(1, FRESH, [CHANGES[0], CHANGES[0], CHANGES[1]]),
        new_view(1, FRESH, [*CHANGES[:2], view_change(3, 2)]),
        new_view(1, FRESH, LOCKED_CHANGES),
        new_view(1, FRESH, CHANGES, PREPARES),
        new_view(1, BLOCK_B, LOCKED_CHANGES, PREPARES),
        new_view(1, BLOCK_A, LOCKED_CHANGES, PREPARES[:2]),
        new_view(1, BLOCK_A, LOCKED_CHANGES, (PREPARES[0], *PREPARES[:2])),
        new_view(
            3,
            BLOCK_A,
            [
                view_change(0, 3, prepared(BLOCK_A, view=1)),
                view_change(1, 3, prepared(BLOCK_B, view=1)),
                view_change(3, 3),
            ],
            prepared(BLOCK_A, view=1).signatures,
        ),
    ],
)
def test_unjustified_new_view_is_refused(bogus) -> None:
    # A8 and S5.
    then = apply(backup(2), bogus)
    assert [effect.reason for effect in only(then, ReportRejection)] == [
        RejectionReason.BAD_JUSTIFICATION
    ]
    assert then.state == backup(2)


def test_new_view_by_a_wrong_primary_or_with_a_block_of_another_is_refused() -> None:
    for bogus, reason in (
        (new_view(1, FRESH, CHANGES, author=3), RejectionReason.WRONG_PRIMARY),
        (new_view(1, make_block(coinbase=3), CHANGES), RejectionReason.HEADER_FIELD),
    ):
        then = apply(backup(2), bogus)
        assert [effect.reason for effect in only(then, ReportRejection)] == [reason]
        assert then.state == backup(2)


def test_a_view_after_0_begins_with_a_new_view_only() -> None:
    # "Higher-view pre-prepare processed in the local view".
    block = make_block(coinbase=1)
    then = apply(backup(2), pre_prepare(block, author=1, view=1))
    assert [effect.reason for effect in only(then, ReportRejection)] == [
        RejectionReason.BAD_JUSTIFICATION
    ]


def test_backup_in_a_new_view_sends_its_view_change_and_counts_the_others() -> None:
    then = apply(backup(2), new_view(1, FRESH, CHANGES))
    assert [type(effect) for effect in then.effects] == [
        Persist,
        Broadcast,
        ValidateBlock,
        SetTimer,
    ]
    assert sent(then) == [view_change(2, 1)]
    assert then.state.log.get_views_from(View(1)) == (1, 1, 1, 1)
    assert then.state.view_timer is ViewTimer.LONG


def test_reproposal_is_prepared_without_a_freshness_check() -> None:
    given = run(backup(2), new_view(1, BLOCK_A, LOCKED_CHANGES, PREPARES))
    assert only(given, ValidateBlock) == [ValidateBlock(BLOCK_A, age_limit_ms=None)]
    then = apply(given.state, valid(fresh=False))
    assert sent(then) == [prepare(2, view=1)]


def test_valid_certificate_for_an_invalid_block_is_not_prepared() -> None:
    # D6.
    given = run(backup(2), new_view(1, BLOCK_A, LOCKED_CHANGES, PREPARES)).state
    then = apply(given, BlockValidated(BLOCK_A.hash, False, False))
    assert then.effects == ()
    assert then.state.own_prepare is None


def test_validity_is_asked_once_a_block() -> None:
    given = in_view(2, accepted())
    changes = [view_change(0, 2, prepared()), view_change(2, 2), view_change(3, 2)]
    then = apply(given, new_view(2, BLOCK_A, changes, PREPARES))
    assert not only(then, ValidateBlock)
    assert sent(then) == [prepare(1, view=2)]


def test_prepared_again_in_a_later_view_raises_the_lock() -> None:
    given = in_view(2, locked())
    changes = [view_change(0, 2, prepared()), view_change(2, 2), view_change(3, 2)]
    then = run(
        given,
        new_view(2, BLOCK_A, changes, PREPARES),
        prepare(0, view=2),
        prepare(2, view=2),
    )
    assert then.state.prepared == prepared(view=2)


# Timers.


def test_view_0_is_timed_from_the_first_transaction_or_the_empty_interval() -> None:
    started = pbft.start(config_of(1))
    assert [(e.timer, e.delay_ms) for e in only(started, SetTimer)] == [
        (Timer.RESEND, 500),
        (Timer.VIEW_EARLIEST, 200),
        (Timer.VIEW_LATEST, 1_000),
    ]
    timer = SetTimer(Timer.VIEW, BlockNumber(1), View(0), 1_000)
    # A transaction before the interval and one after it; both are forwarded to the primary.
    first = run(started.state, TransactionHeld())
    assert first.effects == ()
    expected: tuple[Effect, ...] = (ForwardTransactions(ValidatorIndex(0)), timer)
    assert apply(first.state, expired(Timer.VIEW_EARLIEST)).effects == expected
    idle = run(started.state, expired(Timer.VIEW_EARLIEST))
    assert idle.effects == ()
    assert apply(idle.state, TransactionHeld()).effects == expected
    # Without a transaction, the timer starts when an empty block is due.
    assert apply(started.state, expired(Timer.VIEW_LATEST)).effects == (timer,)


def test_pace_counts_from_the_parents_proposal() -> None:
    config = replace(config_of(0), proposal_age_ms=150)
    timers = {e.timer: e.delay_ms for e in only(pbft.start(config), SetTimer)}
    assert timers[Timer.BUILD_EARLIEST] == 50
    assert timers[Timer.BUILD_LATEST] == 850
    assert timers[Timer.VIEW_EARLIEST] == 200


def test_a_later_view_is_timed_only_while_a_quorum_is_there() -> None:
    # f + 1 moved: with ours that is three of five, and the quorum is four.
    two = run(backup(1, n=5), view_change(2, 3), view_change(4, 3))
    assert two.state.view == 3
    assert two.state.view_timer is ViewTimer.STOPPED
    assert apply(two.state, expired(Timer.VIEW, view=3)) == Transition(two.state)
    # A fourth, in a later view, starts the timer with its base time: view 3 has no quorum yet.
    short = apply(two.state, view_change(0, 8))
    assert only(short, SetTimer) == [SetTimer(Timer.VIEW, BlockNumber(1), View(3), 1_000)]
    # A quorum for exactly this view: the full time.
    long = apply(short.state, view_change(3, 3))
    assert only(long, SetTimer) == [SetTimer(Timer.VIEW, BlockNumber(1), View(3), 8_000)]


def test_timeout_doubles_to_its_cap_and_never_overflows() -> None:
    # quorum#1664.
    timeouts = [compute_timeout_ms(TIMING, View(view), ViewTimer.LONG) for view in range(6)]
    assert timeouts == [1_000, 2_000, 4_000, 8_000, 10_000, 10_000]
    assert compute_timeout_ms(TIMING, View(2**64 - 1), ViewTimer.LONG) == 10_000
    assert compute_timeout_ms(TIMING, View(50), ViewTimer.SHORT) == 1_000


def test_stale_timers_do_nothing() -> None:
    given = in_view(2)
    for timer in (expired(Timer.VIEW, view=1), expired(Timer.VIEW, number=9)):
        assert apply(given, timer) == Transition(given)


def test_status_and_view_change_are_repeated_in_every_view() -> None:
    again = SetTimer(Timer.RESEND, BlockNumber(1), View(0), 500)
    first = apply(backup(), expired(Timer.RESEND))
    assert first.effects == (Broadcast(status(1)), again)
    later = apply(in_view(2, locked()), expired(Timer.RESEND))
    assert sent(later) == [status(1, view=2), view_change(1, 2, prepared())]


# Helping and catching up.


def test_status_is_answered_with_what_its_author_lacks_once_a_period() -> None:
    given = apply(
        apply(primary(), expired(Timer.BUILD_EARLIEST)).state,
        BlockBuilt(BlockNumber(1), View(0), BLOCK_A),
    ).state
    then = apply(given, status(2))
    two = ValidatorIndex(2)
    assert then.effects == (Send(two, pre_prepare()), Send(two, prepare(0)))
    assert apply(then.state, status(2)).effects == ()
    again = run(then.state, expired(Timer.RESEND), status(2, digest=BLOCK_A.hash))
    assert again.effects == (Send(two, prepare(0)),)


def test_replica_with_another_proposal_of_the_view_is_sent_ours() -> None:
    # An equivocating primary sends each half of the backups another block.
    ours, theirs = accepted(), run(backup(2), pre_prepare(BLOCK_B)).state
    told = apply(ours, status(2, digest=BLOCK_B.hash))
    assert Send(ValidatorIndex(2), pre_prepare()) in told.effects
    shown = apply(theirs, pre_prepare())
    evidence = ReportEvidence(pre_prepare(BLOCK_B).vote, pre_prepare().vote)
    assert shown.effects == (evidence,)


def test_certificate_exposes_a_validator_that_committed_another_block() -> None:
    given = run(backup(), commit(3, BLOCK_B)).state
    message = Committed(BlockNumber(1), BLOCK_A.hash, certificate(authors=(0, 2, 3)))
    assert ReportEvidence(commit(3, BLOCK_B), commit(3)) in apply(given, message).effects


def test_stale_view_change_or_status_is_answered_with_the_certificate() -> None:
    given = pbft.start(config_of(1, number=5)).state
    for stale in (view_change(3, 2, number=4), status(3, number=4)):
        then = apply(given, stale)
        assert then.effects == (SendCertificate(ValidatorIndex(3), BlockNumber(4)),)
        assert apply(then.state, stale).effects == ()
    assert apply(given, commit(3, number=4)).effects == ()


def test_quorum_of_commits_for_an_unknown_block_fetches_it_from_f_plus_2() -> None:
    given = run(backup(), commit(0), commit(2), commit(3))
    asked = FetchBlock(BLOCK_A.hash, (ValidatorIndex(0), ValidatorIndex(2), ValidatorIndex(3)))
    assert given.effects == (asked,)
    # The request is repeated while the block is missing.
    assert asked in apply(given.state, expired(Timer.RESEND)).effects
    assert run(given.state, BlockFetched(BLOCK_B)).effects == ()
    then = run(given.state, BlockFetched(BLOCK_A))
    assert then.effects == (ValidateBlock(BLOCK_A, age_limit_ms=None),)
    assert apply(then.state, valid(fresh=False)).effects == (
        Finalize(BLOCK_A, certificate(authors=(0, 2, 3))),
    )


def test_commits_of_a_past_view_still_decide() -> None:
    then = run(in_view(3, accepted()), commit(0), commit(2), commit(3))
    assert then.effects == (Finalize(BLOCK_A, certificate(authors=(0, 2, 3))),)


def test_certificate_decides_and_a_small_one_is_refused() -> None:
    message = Committed(BlockNumber(1), BLOCK_A.hash, certificate(authors=(0, 2, 3)))
    then = run(accepted(), message)
    assert then.effects == (Finalize(BLOCK_A, message.certificate),)
    small = replace(message, certificate=certificate(authors=(0, 2)))
    refused = apply(accepted(), received(small, sender=2))
    assert [effect.reason for effect in only(refused, ReportRejection)] == [
        RejectionReason.BAD_CERTIFICATE
    ]


def test_committed_replica_does_not_change_view() -> None:
    waiting = run(
        backup(), TransactionHeld(), expired(Timer.VIEW_EARLIEST), commit(0), commit(2), commit(3)
    ).state
    assert run(waiting, expired(Timer.VIEW)).state.view == 0
    assert run(waiting, view_change(0, 1), view_change(2, 1)).state.view == 0


def test_certified_but_invalid_block_halts() -> None:
    given = run(backup(), pre_prepare(), commit(0), commit(2), commit(3)).state
    then = apply(given, BlockValidated(BLOCK_A.hash, False, False))
    assert then.effects == (Halt(BLOCK_A, certificate(authors=(0, 2, 3))),)


def test_follower_votes_for_nothing_and_follows_commits() -> None:
    # S8: a replica that must not sign.
    given = pbft.start(config_of(None)).state
    quiet = run(
        given,
        pre_prepare(),
        valid(),
        prepare(0),
        prepare(2),
        prepare(3),
        view_change(2, 1),
        view_change(3, 1),
        new_view(1, FRESH, CHANGES),
        expired(Timer.RESEND),
    )
    assert sent(quiet) == []
    then = run(quiet.state, commit(0), commit(2), commit(3), valid(fresh=False))
    assert then.effects == (Finalize(BLOCK_A, certificate(authors=(0, 2, 3))),)


def test_lost_lock_is_evidence_in_either_order() -> None:
    # S4, violated by another validator.
    evidence = ReportEvidence(commit(3), view_change(3, 2).vote)
    for messages in ((commit(3), view_change(3, 2)), (view_change(3, 2), commit(3))):
        assert run(backup(), *messages).effects == (evidence,)
    honest = run(backup(), commit(3), view_change(3, 2, prepared()))
    assert honest.effects == ()


# Bounds.


def test_votes_of_one_author_are_bounded() -> None:
    given = run(backup(), *(prepare(3, view=view) for view in range(100))).state
    kept = given.log.votes[MessageKind.PREPARE, ValidatorIndex(3)]
    assert [vote.view for vote in kept] == list(range(92, 100))


def test_messages_of_later_numbers_are_held_within_a_share_nearest_first() -> None:
    # A11.
    far = [commit(3, number=4, view=view) for view in range(50)]
    given = run(backup(), *far).state
    assert len(given.early) == 16
    near = apply(given, commit(3, number=2)).state
    assert len(near.early) == 16
    assert near.early[-1].message == commit(3, number=2)
    # Each author has its own share; messages too far ahead are not held.
    assert len(apply(near, commit(2, number=2)).state.early) == 17
    assert apply(near, commit(2, number=6)) == Transition(near)
    # At most one block for each sender.
    blocks = [pre_prepare(make_block(tag, number=2), author=2, number=2) for tag in range(5)]
    assert len(run(near, *blocks).state.early) == 17


def test_early_messages_are_given_back_when_their_number_begins() -> None:
    given = run(backup(), commit(3, number=2), commit(2, number=3)).state
    config = config_of(1, number=2)
    then = apply(given, NewNumber(config))
    assert only(then, Redeliver) == [Redeliver(ValidatorIndex(3), commit(3, number=2))]
    assert [held.message for held in then.state.early] == [commit(2, number=3)]


def test_senders_of_early_messages_are_found_again_in_a_new_set() -> None:
    given = run(backup(), commit(3, number=2), commit(0, number=2)).state
    config = replace(config_of(1, number=2), validators=config_of(1).validators[1:])
    then = apply(given, NewNumber(config))
    assert only(then, Redeliver) == [Redeliver(ValidatorIndex(2), commit(3, number=2))]


def test_decided_replica_waits_for_the_next_number() -> None:
    given = run(locked(), commit(3), commit(0)).state
    for event in (commit(2), view_change(2, 1), pre_prepare(BLOCK_B)):
        assert apply(given, event) == Transition(given)
    assert apply(given, expired(Timer.RESEND)) == Transition(given)


# Restart.


def test_restored_replica_sends_the_same_bytes_and_no_others() -> None:
    # C1: after a crash every vote is repeated, and no new one is made.
    changes = [view_change(0, 2), view_change(1, 2, prepared()), view_change(2, 2)]
    state, records = backup(), []
    for event in (
        pre_prepare(),
        valid(),
        prepare(0),
        prepare(2),
        view_change(2, 2),
        view_change(3, 2),
        new_view(2, BLOCK_A, changes, PREPARES),
    ):
        then = apply(state, event)
        state = then.state
        records += [effect.record for effect in only(then, Persist)]
    assert [type(record) for record in records] == [
        PrepareRecord,
        CommitRecord,
        ViewChangeRecord,
        PrepareRecord,
    ]
    for count, expected in (
        (0, []),
        (1, [prepare(1)]),
        (2, [prepare(1), commit(1)]),
        (3, [view_change(1, 2, prepared())]),
        (4, [view_change(1, 2, prepared()), prepare(1, view=2)]),
    ):
        restored = pbft.restore(config_of(1), records[:count], token_signer(1))
        assert sent(restored)[:-1] == expected
        assert not only(restored, Persist)


def test_restored_primary_repeats_its_proposal_and_never_makes_another() -> None:
    record = PrepareRecord(pre_prepare(), prepare(0))
    config = config_of(0, has_transaction=True)
    restored = pbft.restore(config, [record], token_signer(0))
    assert sent(restored)[:2] == [pre_prepare(), prepare(0)]
    then = run(restored.state, expired(Timer.BUILD_EARLIEST), expired(Timer.BUILD_LATEST))
    assert not only(then, BuildBlock)


def test_restored_lock_is_carried_on() -> None:
    records = [
        PrepareRecord(pre_prepare(), prepare(1)),
        CommitRecord(commit(1), prepared().signatures),
    ]
    restored = pbft.restore(config_of(1), records, token_signer(1)).state
    assert restored.prepared == prepared()
    assert in_view(1, restored).own_view_change == view_change(1, 1, prepared())


def test_records_of_other_numbers_are_skipped() -> None:
    record = PrepareRecord(pre_prepare(number=7), prepare(1, number=7))
    restored = pbft.restore(config_of(1), [record], token_signer(1))
    assert restored.state.own_prepare is None


def test_failing_signer_leaves_the_state_as_it_was() -> None:
    # A16: the host handles the exception; the old state is a value and stays valid.
    def broken(digest: Hash32):
        raise ConnectionError(digest.hex())

    given = apply(backup(), pre_prepare()).state
    with pytest.raises(ConnectionError):
        pbft.apply(given, valid(), broken)
    assert sent(apply(given, valid())) == [prepare(1)]
