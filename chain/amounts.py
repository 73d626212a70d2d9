"""Amounts of tokens as people read them."""

from chain.primitives import TOKEN_DECIMALS, TOKEN_UNIT


def format_amount(base_units: int) -> str:
    """An amount of base units in whole tokens, without trailing zeros."""
    whole, fraction = divmod(base_units, TOKEN_UNIT)
    digits = f"{fraction:0{TOKEN_DECIMALS}d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)
