"""Amounts of tokens as people read them."""

from chain.contracts.addresses import TRAINING_TOKEN
from chain.hexadecimal import to_hex
from chain.primitives import TOKEN_DECIMALS, TOKEN_UNIT, Address


def format_amount(base_units: int) -> str:
    """An amount of base units in whole tokens, without trailing zeros."""
    whole, fraction = divmod(base_units, TOKEN_UNIT)
    digits = f"{fraction:0{TOKEN_DECIMALS}d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def describe_amount(base_units: int, token: Address) -> str:
    """An amount of a token with its name. Only the decimals of POT are known."""
    if token == TRAINING_TOKEN:
        return f"{format_amount(base_units)} POT"
    return f"{base_units} base units of token {to_hex(token)}"
