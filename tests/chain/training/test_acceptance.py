import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.errors import InvalidMessage
from chain.training.acceptance import (
    Decision,
    ExponentRule,
    Measurement,
    Outcome,
    Verdict,
    compute_verdict,
    decide,
    decode_verdicts,
    encode_verdicts,
)

OK, BAD, CHEAT, UNAVAILABLE = Verdict


@pytest.mark.parametrize(
    ("distance_ppb", "exponents", "verdict"),
    [
        (0, ExponentRule.KEPT, OK),
        (100_000, ExponentRule.KEPT, OK),
        (100_001, ExponentRule.KEPT, BAD),
        (1_000_000, ExponentRule.KEPT, BAD),
        (1_000_001, ExponentRule.KEPT, CHEAT),
        (0, ExponentRule.BROKEN, BAD),
        (0, ExponentRule.BROKEN_TENFOLD, CHEAT),
        (1_000_001, ExponentRule.BROKEN, CHEAT),
    ],
)
def test_verdict_follows_distance_and_exponents(
    distance_ppb: int, exponents: ExponentRule, verdict: Verdict
) -> None:
    assert compute_verdict(Measurement(distance_ppb, exponents), 100_000) is verdict


@pytest.mark.parametrize(
    ("verdicts", "decision"),
    [
        ([OK, OK, OK, OK], Decision(Outcome.ACCEPTED, False, False)),
        ([OK, OK, CHEAT, UNAVAILABLE], Decision(Outcome.ACCEPTED, False, False)),
        ([OK, OK, CHEAT, BAD], Decision(Outcome.REJECTED, False, False)),
        ([OK, CHEAT, CHEAT, CHEAT], Decision(Outcome.REJECTED, True, False)),
        ([BAD, BAD, BAD, BAD], Decision(Outcome.REJECTED, False, False)),
        ([OK, UNAVAILABLE, UNAVAILABLE, UNAVAILABLE], Decision(Outcome.UNAVAILABLE, False, True)),
        ([OK, BAD, UNAVAILABLE], Decision(Outcome.UNAVAILABLE, False, False)),
        ([OK, OK, UNAVAILABLE], Decision(Outcome.ACCEPTED, False, False)),
    ],
)
def test_four_validators_decide(verdicts: list[Verdict], decision: Decision) -> None:
    assert decide(verdicts, max_faulty=1, quorum=3) == decision


@given(st.lists(st.sampled_from(Verdict), min_size=1, max_size=20))
def test_f_liars_neither_reject_nor_accept_alone(verdicts: list[Verdict]) -> None:
    n = len(verdicts)
    f, q = (n - 1) // 3, -(-2 * n // 3)
    decision = decide(verdicts, f, q)
    against = verdicts.count(BAD) + verdicts.count(CHEAT)
    if against <= f and verdicts.count(OK) > f:
        assert decision.outcome is Outcome.ACCEPTED
    if verdicts.count(OK) <= f:
        assert decision.outcome is not Outcome.ACCEPTED


def test_bitmap_is_least_significant_first() -> None:
    assert encode_verdicts([OK, BAD, CHEAT, UNAVAILABLE, BAD]) == bytes([0b11_10_01_00, 0b01])


@given(st.lists(st.sampled_from(Verdict), max_size=30))
def test_verdicts_survive_the_bitmap(verdicts: list[Verdict]) -> None:
    assert decode_verdicts(encode_verdicts(verdicts), len(verdicts)) == tuple(verdicts)


@pytest.mark.parametrize(("bitmap", "count"), [(b"", 1), (b"\0\0", 4), (b"\x04", 1), (b"\xc0", 3)])
def test_another_length_or_padding_is_refused(bitmap: bytes, count: int) -> None:
    with pytest.raises(InvalidMessage):
        decode_verdicts(bitmap, count)
