import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.errors import InvalidMessage
from chain.training.acceptance import (
    ExponentRule,
    Measurement,
    Verdict,
    compute_verdict,
    decode_verdicts,
    encode_verdicts,
)

OK, BAD, CHEAT, MISSING, UNCHECKED = Verdict


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
    ("distance_ppb", "exponents", "noise_ppb", "verdict"),
    [
        (1_000_001, ExponentRule.KEPT, 1, BAD),
        (6_000_000, ExponentRule.KEPT, 500_000, BAD),
        (6_000_001, ExponentRule.KEPT, 500_000, CHEAT),
        (99_000, ExponentRule.KEPT, 500_000, OK),
        (0, ExponentRule.BROKEN_TENFOLD, 10_000, CHEAT),
        (0, ExponentRule.BROKEN_TENFOLD, 10_001, BAD),
    ],
)
def test_difference_that_noise_explains_is_no_cheat(
    distance_ppb: int, exponents: ExponentRule, noise_ppb: int, verdict: Verdict
) -> None:
    assert compute_verdict(Measurement(distance_ppb, exponents, noise_ppb), 100_000) is verdict


def test_first_verdict_takes_the_less_significant_half_of_a_byte() -> None:
    assert encode_verdicts([OK, BAD, CHEAT, MISSING, UNCHECKED]) == bytes([0x10, 0x32, 0x04])


@given(st.lists(st.sampled_from(Verdict), max_size=30))
def test_verdicts_survive_their_encoding(verdicts: list[Verdict]) -> None:
    assert decode_verdicts(encode_verdicts(verdicts), len(verdicts)) == tuple(verdicts)


@pytest.mark.parametrize(
    ("data", "count"), [(b"", 1), (b"\0\0", 2), (b"\x10", 1), (b"\x05", 1), (b"\xf0", 2)]
)
def test_another_length_value_or_padding_is_refused(data: bytes, count: int) -> None:
    with pytest.raises(InvalidMessage):
        decode_verdicts(data, count)
