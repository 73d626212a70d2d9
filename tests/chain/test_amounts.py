from chain.amounts import format_amount
from chain.contracts.addresses import TRAINING_TOKEN
from chain.contracts.training_token import describe_amount
from chain.primitives import Address


def test_amount_is_told_in_whole_tokens_without_trailing_zeros() -> None:
    amounts = [0, 1, 10**18, 1_250_000_000_000_000_000]
    assert [format_amount(each) for each in amounts] == ["0", "0.000000000000000001", "1", "1.25"]


def test_amounts_of_all_tokens_are_told_in_whole_ones() -> None:
    """As task files and options give them."""
    other = Address(b"\x11" * 20)
    assert describe_amount(5 * 10**17, TRAINING_TOKEN) == "0.5 POT"
    assert describe_amount(7 * 10**18, other) == f"7 of token 0x{'11' * 20}"
