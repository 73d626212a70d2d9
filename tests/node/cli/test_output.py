import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.amounts import format_amount
from node.cli.output import (
    format_rounded,
    format_table,
    parse_address,
    parse_amount,
)
from pot_common.errors import OperatorError


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


def test_capitals_of_an_account_are_its_checksum() -> None:
    # The second of EIP-55's own examples.
    account = "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359"
    for same in (account, account.lower(), "0x" + account[2:].upper()):
        assert parse_address(same).hex() == account[2:].lower()
    with pytest.raises(OperatorError, match="is mistyped"):
        parse_address(account.replace("fB69", "Fb69"))


def test_amount_in_a_line_is_rounded() -> None:
    amounts = [34 * 10**17 - 1, 3 * 10**18, 10**13, 0]
    assert [format_rounded(amount) for amount in amounts] == ["3.4", "3", "0", "0"]


def test_table_is_one_line_a_row_and_nothing_is_cut() -> None:
    long = "0x" + "12" * 32
    assert format_table(("name", "root"), [("a", long), ("longer", "")]) == [
        "name    root",
        f"a       {long}",
        "longer",
    ]
    assert format_table(("", ""), [("a", "1"), ("bb", "2")]) == ["a   1", "bb  2"]
