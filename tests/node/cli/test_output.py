import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.cli.output import format_amount, parse_address, parse_amount
from node.errors import OperatorError


@given(st.integers(min_value=0, max_value=2**256 - 1))
def test_amount_that_is_printed_reads_back(base_units: int) -> None:
    assert parse_amount(format_amount(base_units)) == base_units


@pytest.mark.parametrize(
    ("text", "base_units"), [("0", 0), ("1", 10**18), ("12.5", 125 * 10**17), ("1e-18", 1)]
)
def test_amounts_are_in_whole_ones(text: str, base_units: int) -> None:
    assert parse_amount(text) == base_units


@pytest.mark.parametrize("text", ["", "x", "-1", "nan", "inf", "1e-19", "1,5", "0x1", "1e99999999"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(OperatorError, match="is not an amount"):
        parse_amount(text)


@pytest.mark.parametrize("text", ["", "0x12", "0x" + "g" * 40, "alice", "0x" + "1" * 41])
def test_what_is_no_account_is_refused(text: str) -> None:
    with pytest.raises(OperatorError, match="is not an account"):
        parse_address(text)
