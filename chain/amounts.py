"""Amounts of tokens as people read them."""

from typing import Final

from chain.primitives import TOKEN_DECIMALS, TOKEN_UNIT

SHORT_DIGITS: Final = 4
"""Digits of a price that people compare; the exact one is in the JSON."""


def format_amount(base_units: int) -> str:
    """An amount of base units in whole tokens, without trailing zeros.

    Every token is counted with the 18 decimals of POT, in what people read and write: the amounts
    in task files and options are, and a token need not tell its decimals, or could lie about them.
    """
    whole, fraction = divmod(base_units, TOKEN_UNIT)
    digits = f"{fraction:0{TOKEN_DECIMALS}d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def format_short(base_units: int) -> str:
    """An amount of base units in whole tokens, rounded up to a few digits."""
    scale = 10 ** max(0, len(str(base_units)) - SHORT_DIGITS)
    return format_amount(-(-base_units // scale) * scale)
