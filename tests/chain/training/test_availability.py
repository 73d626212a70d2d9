from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.errors import InvalidMessage, RejectionReason
from chain.training.availability import (
    Availability,
    AvailabilityVote,
    decode_availability,
    encode_availability,
)
from chain.training.draws import AuditRule, Draw, compute_draw_limit

HELD, UNAVAILABLE, UNCHECKED = Availability

ONE_STEP = AuditRule(audit_ppm=50_000, local_steps=1, audit_steps=1, honest_votes=2)
STEPS = replace(ONE_STEP, local_steps=600, audit_steps=2)
ALL_STEPS = replace(ONE_STEP, local_steps=3, audit_steps=3)

WORDS = (HELD, UNAVAILABLE, UNCHECKED, HELD, UNAVAILABLE)
NAMED = AvailabilityVote(WORDS, (Draw(1, (0, 599)), Draw(2, (256, 257))))


def all_steps(vote: AvailabilityVote, rule: AuditRule) -> AvailabilityVote:
    steps = tuple(range(rule.local_steps))
    return replace(vote, draws=tuple(replace(draw, steps=steps) for draw in vote.draws))


@st.composite
def draw_votes(draw: st.DrawFn, rule: AuditRule) -> AvailabilityVote:
    words = draw(st.lists(st.sampled_from(Availability), min_size=1, max_size=30))
    limit = compute_draw_limit(len(words), rule)
    indices = draw(st.sets(st.integers(0, len(words) - 1), max_size=limit))
    steps = st.sets(
        st.integers(0, rule.local_steps - 1),
        min_size=rule.audit_steps,
        max_size=rule.audit_steps,
    )
    draws = tuple(Draw(index, tuple(sorted(draw(steps)))) for index in sorted(indices))
    return AvailabilityVote(tuple(words), draws)


def test_words_take_four_bits_and_named_steps_follow() -> None:
    words = bytes([0b0101_0000, 0b0000_0110, 0b0000_0001])
    assert encode_availability(NAMED, STEPS) == words + b"\0\0\x02\x57\x01\0\x01\x01"
    for rule in (ONE_STEP, ALL_STEPS):
        assert encode_availability(all_steps(NAMED, rule), rule) == words


@pytest.mark.parametrize("rule", [ONE_STEP, STEPS, ALL_STEPS])
@given(st.data())
def test_vote_survives_its_encoding(rule: AuditRule, data: st.DataObject) -> None:
    vote = data.draw(draw_votes(rule))
    encoded = encode_availability(vote, rule)
    assert decode_availability(encoded, len(vote.words), rule) == vote


@pytest.mark.parametrize("rule", [ONE_STEP, STEPS, ALL_STEPS])
@given(st.integers(1, 5), st.lists(st.integers(0, 7), max_size=12).map(bytes))
def test_bytes_are_refused_or_are_those_of_their_vote(
    rule: AuditRule, count: int, data: bytes
) -> None:
    try:
        vote = decode_availability(data, count, rule)
    except InvalidMessage:
        return
    assert encode_availability(vote, rule) == data


@pytest.mark.parametrize(
    ("data", "count", "rule", "reason"),
    [
        ("", 1, ONE_STEP, "0 bytes for 1 words"),
        ("00", 3, ONE_STEP, "1 bytes for 3 words"),
        ("10", 1, ONE_STEP, "the padding of the words is not 0"),
        ("40", 1, ONE_STEP, "the padding of the words is not 0"),
        ("03", 1, ONE_STEP, "a word is unknown"),
        ("07", 1, ONE_STEP, "a word is unknown"),
        ("08", 1, ONE_STEP, "a word is unknown"),
        ("80", 2, ONE_STEP, "a word is unknown"),
        ("0400", 1, ONE_STEP, "1 bytes after the words of a vote that names no steps"),
        ("0400", 1, ALL_STEPS, "1 bytes after the words of a vote that names no steps"),
        ("4444", 4, ONE_STEP, "4 draws, limit 3"),
        ("0000000001", 2, STEPS, "4 bytes for the steps of 0 draws"),
        ("04", 1, STEPS, "0 bytes for the steps of 1 draws"),
        ("04000000", 1, STEPS, "3 bytes for the steps of 1 draws"),
        ("4400000001", 2, STEPS, "4 bytes for the steps of 2 draws"),
        ("0400010001", 1, STEPS, "the steps (1, 1) are not in ascending order"),
        ("0400010000", 1, STEPS, "the steps (1, 0) are not in ascending order"),
        ("0400000258", 1, STEPS, "step 600 of 600"),
    ],
)
def test_malformed_vote_is_refused(data: str, count: int, rule: AuditRule, reason: str) -> None:
    with pytest.raises(InvalidMessage) as refusal:
        decode_availability(bytes.fromhex(data), count, rule)
    assert (refusal.value.reason, refusal.value.detail) == (RejectionReason.MALFORMED, reason)


def test_vote_may_name_the_last_step_and_draw_as_much_as_is_allowed() -> None:
    named = bytes.fromhex("0000 0257")
    vote = decode_availability(b"\x44\x04" + 3 * named, 4, STEPS)
    assert vote.draws == tuple(Draw(index, (0, 599)) for index in range(3))


def test_vote_of_a_task_without_a_sample_may_draw_everything() -> None:
    rule = replace(ONE_STEP, audit_ppm=10**6)
    vote = decode_availability(b"\x44\x44\x04", 5, rule)
    assert [draw.index for draw in vote.draws] == [0, 1, 2, 3, 4]
    with pytest.raises(InvalidMessage, match="5 draws, limit 3"):
        decode_availability(b"\x44\x44\x04", 5, ONE_STEP)
