"""The fines of an attempt, and what operators do about them."""

from dataclasses import replace

import pytest

from chain.contracts.gradient_ledger import (
    AttemptVoided,
    BallotFailed,
)
from chain.contracts.miner_seats import MAX_FINES, Fine, FineKind
from chain.primitives import Address, BlockNumber
from chain.training.acceptance import Verdict, encode_verdicts
from chain.training.attempt_records import ApprovedFines, CommitmentRecord, EndedAttempt
from chain.training.history import apply_event
from chain.training.slashing import (
    BATCHES_LIMIT,
    HURRY_BLOCKS,
    FinePlan,
    ImposeFines,
    PostFines,
    build_fine_tree,
    build_fine_trees,
    compute_fines,
    list_open_words,
    plan_fines,
)
from tests.worlds.training import (
    GENESIS_SET,
    MINERS,
    OPERATORS,
    SPEC,
    TASK,
    VALIDATORS,
    at,
    committed,
    history_after,
    opened,
    verdict,
)

OK, BAD, CHEAT, MISSING, UNCHECKED = Verdict
CHAIN_ID = 99
END = 50


def ended_after(*events: object) -> EndedAttempt:
    """An attempt of two miners that ends in block END after these events."""
    history = history_after(opened(), committed(0), committed(1), *events)
    void = AttemptVoided(TASK, 0, 0)
    ended = apply_event(history, void, at(END), spec=SPEC, validator_set=GENESIS_SET).ended
    assert ended is not None
    return ended


def judged(*words: tuple[Verdict, Verdict]) -> EndedAttempt:
    """The same after these timely verdicts of the first validators."""
    return ended_after(*(verdict(i, *each) for i, each in enumerate(words)))


def with_late(ended: EndedAttempt, *words: tuple[int, tuple[Verdict, Verdict]]) -> EndedAttempt:
    late = tuple((VALIDATORS[i], encode_verdicts(each)) for i, each in words)
    return replace(ended, late_verdicts=(*ended.late_verdicts, *late))


def fraud(accusers: int) -> Fine:
    return Fine(0, 1, MINERS[1], FineKind.FRAUD, accusers)


MISS = Fine(0, 1, MINERS[1], FineKind.MISS, 0)


# ---- which fines there are


def test_fines_name_the_kind_and_the_timely_accusers() -> None:
    ended = judged((OK, CHEAT), (OK, MISSING), (OK, CHEAT), (OK, CHEAT))
    assert compute_fines(ended, is_closing=False) == (fraud(0b1101),)
    missed = judged((OK, MISSING), (OK, MISSING), (OK, CHEAT), (OK, OK))
    assert compute_fines(missed, is_closing=False) == (MISS,)


def test_late_word_stands_for_an_absent_or_unchecked_one() -> None:
    """With n = 4, q = 3 and one liar that is silent, guilt needs every honest validator."""
    shut_out = judged((OK, CHEAT), (OK, CHEAT))
    assert compute_fines(shut_out, is_closing=True) == ()
    absent = with_late(shut_out, (2, (OK, CHEAT)))
    assert compute_fines(absent, is_closing=True) == (fraud(0b0011),)
    assert compute_fines(absent, is_closing=False) == ()
    slow = judged((OK, CHEAT), (OK, CHEAT), (OK, UNCHECKED))
    assert compute_fines(with_late(slow, (2, (OK, CHEAT))), is_closing=True) == (fraud(0b0011),)


def test_late_word_replaces_no_other_and_missing_is_no_late_word() -> None:
    said = judged((OK, CHEAT), (OK, CHEAT), (OK, BAD), (UNCHECKED, UNCHECKED))
    assert compute_fines(with_late(said, (2, (OK, CHEAT))), is_closing=True) == ()
    assert compute_fines(with_late(said, (3, (OK, MISSING))), is_closing=True) == ()
    # The first late word counts.
    twice = with_late(said, (3, (OK, OK)), (3, (OK, CHEAT)))
    assert compute_fines(twice, is_closing=True) == ()


def test_verdict_after_the_phase_but_before_the_end_counts_at_once() -> None:
    late = replace(verdict(2, OK, CHEAT), timely=False)
    ended = ended_after(verdict(0, OK, CHEAT), verdict(1, OK, CHEAT), late)
    assert compute_fines(ended, is_closing=False) == (fraud(0b0011),)


def test_fines_follow_from_the_last_ballot_alone() -> None:
    """A gradient that made an earlier ballot fail by coming late loses pay, and no bond."""
    first = [verdict(i, OK, each) for i, each in enumerate((MISSING, MISSING, UNCHECKED, OK))]
    failed = BallotFailed(TASK, 0, 0, 0)
    second = [verdict(i, OK, OK, ballot=1) for i in range(4)]
    history = history_after(opened(), committed(0), committed(1), *first, failed, *second)
    void = AttemptVoided(TASK, 0, 0)
    fold = apply_event(history, void, at(END), spec=SPEC, validator_set=GENESIS_SET)
    assert (fold.ended, fold.history.ended) == (None, ())
    cheats = [verdict(i, OK, CHEAT, ballot=1) for i in range(4)]
    guilty = ended_after(*first, failed, *cheats)
    assert compute_fines(guilty, is_closing=False) == (replace(fraud(0b1111), ballot=1),)


def test_ballot_that_failed_for_lack_of_time_costs_nothing() -> None:
    first = [verdict(i, OK, each) for i, each in enumerate((UNCHECKED, UNCHECKED, UNCHECKED, OK))]
    second = [verdict(i, MISSING, OK, ballot=1) for i in range(4)]
    ended = ended_after(*first, BallotFailed(TASK, 0, 0, 0), *second)
    assert compute_fines(ended, is_closing=False) == (Fine(1, 0, MINERS[0], FineKind.MISS, 0),)


# ---- votes


def plan_as(ended: EndedAttempt, operator: Address, head: int, *hopeless: Fine) -> FinePlan:
    trees = build_fine_trees(CHAIN_ID, ended, BlockNumber(head))
    return plan_fines(ended, trees, operator, BlockNumber(head), hopeless)


def plan(ended: EndedAttempt, operator: int, head: int) -> tuple[object, ...]:
    return plan_as(ended, OPERATORS[operator], head).duties


def root_of(*fines: Fine) -> bytes:
    return build_fine_tree(CHAIN_ID, TASK, 1, fines).root


def test_every_judge_votes_once_as_soon_as_the_attempt_has_ended() -> None:
    ended = judged(*[(OK, CHEAT)] * 4)
    vote = PostFines(1, False, root_of(fraud(0b1111)))
    assert [plan(ended, i, END) for i in range(4)] == [(vote,)] * 4
    voted = replace(ended, fines_votes=((VALIDATORS[0], False),))
    assert plan(voted, 0, END) == ()
    assert plan_as(ended, Address(b"\x09" * 20), END) == FinePlan((), None)


def test_closing_vote_is_cast_only_if_late_words_made_a_fine_heavier() -> None:
    ended = judged((OK, CHEAT), (OK, MISSING), (OK, MISSING))
    approved = replace(ended, approved=(ApprovedFines(root_of(MISS), False, BlockNumber(END)),))
    same = replace(approved, imposed=((MINERS[1], FineKind.MISS),))
    assert plan(same, 0, ended.late_until) == ()
    heavier = with_late(same, (3, (OK, CHEAT)))
    assert plan(heavier, 0, ended.late_until - 1) == ()
    assert plan(heavier, 0, ended.late_until) == (PostFines(1, True, root_of(fraud(0b0001))),)
    assert plan(heavier, 0, ended.voted_until) == ()


def test_vote_at_once_is_not_sent_if_it_could_count_as_the_closing_one() -> None:
    ended = judged(*[(OK, CHEAT)] * 4)
    # One faulty primary leaves it out, and eight more blocks may be slow.
    last = ended.late_until - HURRY_BLOCKS - 1 - 1
    assert plan(ended, 0, last) == (PostFines(1, False, root_of(fraud(0b1111))),)
    assert plan_as(ended, OPERATORS[0], last + 1) == FinePlan((), ended.late_until)
    assert plan(ended, 0, ended.late_until) == (PostFines(1, True, root_of(fraud(0b1111))),)


def test_closing_vote_repeats_fines_that_found_no_quorum_in_time() -> None:
    ended = judged(*[(OK, CHEAT)] * 4)
    late = ended.late_until
    assert plan(ended, 0, late) == (PostFines(1, True, root_of(fraud(0b1111))),)


@pytest.mark.parametrize("is_closing", [False, True])
def test_fines_that_are_approved_get_no_further_vote(is_closing: bool) -> None:
    """The contract would refuse it."""
    ended = judged(*[(OK, CHEAT)] * 4)
    now = ended.late_until if is_closing else BlockNumber(END)
    approved = (ApprovedFines(root_of(MISS), is_closing, BlockNumber(END)),)
    assert plan(replace(ended, approved=approved), 3, now) == ()
    other = (ApprovedFines(root_of(MISS), not is_closing, BlockNumber(END)),)
    vote = PostFines(1, is_closing, root_of(fraud(0b1111)))
    assert plan(replace(ended, approved=other), 3, now) == (vote,)


# ---- slashes


@pytest.mark.parametrize("place", range(4))
def test_operators_impose_approved_fines_in_turn(place: int) -> None:
    ended = judged(*[(OK, CHEAT)] * 4)
    tree = build_fine_tree(CHAIN_ID, TASK, 1, (fraud(0b1111),))
    votes = tuple((each, False) for each in VALIDATORS)
    approval = ApprovedFines(tree.root, False, BlockNumber(END + 2))
    ended = replace(ended, fines_votes=votes, approved=(approval,))
    impose = (ImposeFines(1, 0, (tree.prove(0),)),)
    due = END + 2 + 2 * place
    assert plan(ended, place, due - 1) == ()
    assert plan(ended, place, due) == impose
    assert plan(replace(ended, imposed=((MINERS[1], FineKind.FRAUD),)), place, due) == ()
    # A lighter fine of the same attempt leaves the difference to take.
    assert plan(replace(ended, imposed=((MINERS[1], FineKind.MISS),)), place, due) == impose
    assert plan(ended, place, ended.slashed_until) == ()


def test_every_operator_imposes_fines_when_the_window_is_about_to_close() -> None:
    ended = judged(*[(OK, CHEAT)] * 4)
    tree = build_fine_tree(CHAIN_ID, TASK, 1, (fraud(0b1111),))
    last = ApprovedFines(tree.root, True, ended.voted_until)
    votes = tuple((each, closing) for each in VALIDATORS for closing in (False, True))
    ended = replace(ended, approved=(last,), fines_votes=votes)
    hurry = ended.slashed_until - HURRY_BLOCKS
    assert all(plan(ended, i, hurry) for i in range(4))


def test_plan_names_the_next_block_that_can_bring_something_to_do() -> None:
    ended = judged(*[(OK, CHEAT)] * 4)
    votes = tuple((each, False) for each in VALIDATORS)
    approval = ApprovedFines(root_of(fraud(0b1111)), False, BlockNumber(END + 2))
    voted = replace(ended, fines_votes=votes)
    operator = OPERATORS[3]
    assert plan_as(voted, operator, END).next_block == ended.late_until
    approved = replace(voted, approved=(approval,))
    assert plan_as(approved, operator, END + 2).next_block == END + 2 + 3 * 2
    due = plan_as(approved, operator, END + 8)
    assert (len(due.duties), due.next_block) == (1, END + 9)
    hopeless = plan_as(approved, operator, END + 8, fraud(0b1111))
    assert hopeless == FinePlan((), ended.late_until)
    paid = replace(approved, imposed=((MINERS[1], FineKind.FRAUD),))
    assert plan_as(paid, operator, ended.late_until) == FinePlan((), None)


def test_root_that_the_chain_does_not_give_is_not_imposed() -> None:
    ended = judged(*[(OK, CHEAT)] * 4)
    other = ApprovedFines(build_fine_tree(CHAIN_ID, TASK, 2, (MISS,)).root, False, BlockNumber(END))
    ended = replace(ended, approved=(other,), fines_votes=((VALIDATORS[0], False),))
    assert plan(ended, 0, END + 20) == ()


def test_large_rounds_are_fined_in_batches_with_lasting_names() -> None:
    ended = judged(*[(OK, CHEAT)] * 4)
    miners = [Address(i.to_bytes(20, "big")) for i in range(1, 201)]
    record = ended.attempt.commitments[0]
    commitments = tuple(
        CommitmentRecord(m, 1, record.commitment, record.block_number) for m in miners
    )
    words = encode_verdicts([CHEAT] * 200)
    verdicts = tuple(replace(each, verdicts=words) for each in ended.attempt.verdicts)
    attempt = replace(ended.attempt, commitments=commitments, verdicts=verdicts)
    fines = compute_fines(replace(ended, attempt=attempt), is_closing=False)
    tree = build_fine_tree(CHAIN_ID, TASK, 1, fines)
    approval = ApprovedFines(tree.root, False, BlockNumber(END))
    votes = tuple((each, False) for each in VALIDATORS)
    ended = replace(ended, attempt=attempt, approved=(approval,), fines_votes=votes)
    first = plan(ended, 0, END)
    assert len(first) == BATCHES_LIMIT
    assert all(isinstance(each, ImposeFines) and len(each.fines) == MAX_FINES for each in first)
    paid = tuple((miner, FineKind.FRAUD) for miner in miners[: MAX_FINES + 3])
    (second, third, *_) = plan(replace(ended, imposed=paid), 0, END)
    assert isinstance(second, ImposeFines)
    assert isinstance(third, ImposeFines)
    assert (second.batch, len(second.fines)) == (MAX_FINES, MAX_FINES - 3)
    assert (third.batch, len(third.fines)) == (2 * MAX_FINES, MAX_FINES)


# ---- late words


def test_open_words_are_those_that_could_still_convict() -> None:
    ended = judged((OK, CHEAT), (OK, CHEAT), (OK, UNCHECKED))
    assert list_open_words(ended, VALIDATORS[0]) == ()
    assert list_open_words(ended, VALIDATORS[2]) == (1,)
    assert list_open_words(ended, VALIDATORS[3]) == (1,)
    assert list_open_words(ended, Address(b"\x09" * 20)) == ()
    given = with_late(ended, (3, (OK, CHEAT)))
    assert list_open_words(given, VALIDATORS[3]) == ()


def test_validator_that_missed_a_gradient_in_time_has_spoken() -> None:
    ended = judged((OK, CHEAT), (OK, CHEAT), (OK, MISSING))
    assert list_open_words(ended, VALIDATORS[2]) == ()
