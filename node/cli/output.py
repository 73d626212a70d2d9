"""Printing and parsing for all commands: tables, JSON, amounts, addresses."""

import json
import re
import sys
from collections.abc import Sequence
from decimal import Decimal, localcontext
from typing import Annotated, Final

import typer
from eth_utils.address import to_checksum_address

from chain.amounts import format_amount
from chain.hexadecimal import from_plain_hex
from chain.primitives import TOKEN_DECIMALS, Address
from pot_common.errors import OperatorError
from pot_common.node_url import RPC_VARIABLE
from pot_common.terminal import LINE_WIDTH, wrap_line

ROUNDED_DECIMALS: Final = 4
"""Decimals of an amount in the line of a round. Shares are rounded down, so 3.3999... means 3.4."""

AMOUNT_DIGITS: Final = 78
"""Number of digits of the largest uint256."""

RpcOption = Annotated[
    str, typer.Option("--rpc", help="URL of a node.", metavar="URL", envvar=RPC_VARIABLE)
]
"""The option for the URL of the node."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
"""The option for output as JSON."""

TaskArgument = Annotated[int, typer.Argument(metavar="ID", help="Task id.")]
"""The argument for the id of a task."""

RoundArgument = Annotated[
    int, typer.Argument(metavar="ROUND", help="The round, from 1 as in pot task watch.")
]
"""The argument for a round."""

_ADDRESS: Final = re.compile(r"(0x)?[0-9a-fA-F]{40}")


def print_json(value: object) -> None:
    """Print one JSON value on standard output."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def print_line(text: str) -> None:
    """Print one line on standard output."""
    sys.stdout.write(text + "\n")


def print_wrapped(text: str) -> None:
    """Print a sentence on standard output, in lines that fit a terminal."""
    for line in wrap_line(text):
        print_line(line)


def print_done(text: str, transaction: str) -> None:
    """Print what was done and the transaction that did it, in one line if that fits a terminal."""
    print_wrapped(f"{text} in {transaction}")


def print_note(text: str) -> None:
    """Print one line on standard error, so that it is not in the output that a script reads."""
    sys.stderr.write(text + "\n")


def print_warning(text: str) -> None:
    """Print a warning on standard error, in lines that fit a terminal."""
    for line in wrap_line(f"warning: {text}"):
        print_note(line)


def format_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, one a row. Cells are neither cut nor wrapped, so lines can be piped."""
    lines = [columns, *rows] if any(columns) else list(rows)
    widths = [max((len(line[i]) for line in lines), default=0) for i in range(len(columns))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table with a line of headings."""
    for line in format_table(columns, rows):
        print_line(line)


def print_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Print names and their values, aligned; a long value takes several lines."""
    for line in format_fields(fields):
        print_line(line)


def format_fields(fields: Sequence[tuple[str, str]]) -> list[str]:
    """The lines of names and their values, aligned; a long value takes several lines."""
    room = LINE_WIDTH - 2 - max((len(name) for name, _ in fields), default=0)
    rows = [
        (name if at == 0 else "", line)
        for name, value in fields
        for at, line in enumerate(_split_value(value, room))
    ]
    return format_table(("", ""), rows)


def _split_value(value: str, room: int) -> list[str]:
    """A value in lines, unless it is so long as no words can be, such as a path or a hash."""
    if len(value) <= room:
        return [value]
    return wrap_line(value, width=room) or [value]


def read_round(number: int) -> int:
    """The round that is typed as `number`, counted from 0 as nodes do.

    Raises:
        OperatorError: There is no such round in any task.
    """
    if number < 1:
        raise OperatorError(f"there is no round {number}: the first one is 1 (pot task watch)")
    return number - 1


def parse_address(text: str) -> Address:
    """The address in a typed text.

    Raises:
        OperatorError: The text is not an address, or its checksum is wrong.
    """
    if not _ADDRESS.fullmatch(text):
        raise OperatorError(
            f"{text!r} is not an account; give 0x and 40 hex digits, or where accounts of this "
            "machine are taken, a name of pot wallet list"
        )

    digits = text.removeprefix("0x")
    is_checked = digits not in (digits.lower(), digits.upper())
    if is_checked and "0x" + digits != to_checksum_address("0x" + digits.lower()):
        raise OperatorError(
            f"{text} is mistyped: its capital letters do not fit the rest (EIP-55); copy it again"
        )
    return Address(from_plain_hex(digits))


def parse_amount(text: str, option: str = "") -> int:
    """The base units of a typed amount in whole tokens, such as 12.5.

    Args:
        text: What was typed.
        option: The option to which it belongs, for the message.

    Raises:
        OperatorError: The text is not an amount, or is finer than a base unit.
    """
    with localcontext(prec=AMOUNT_DIGITS):  # the default precision of 28 digits would round
        try:
            amount = Decimal(text).scaleb(TOKEN_DECIMALS)
        except ArithmeticError:  # not a number, or too large
            amount = Decimal(-1)
        is_amount = amount.is_finite() and amount >= 0 and amount.adjusted() < AMOUNT_DIGITS
        if not is_amount or amount != amount.to_integral_value():
            raise OperatorError(
                f"{option} {text!r} is not an amount; give a number such as 12.5".lstrip()
            )
        return int(amount)


def format_rounded(base_units: int) -> str:
    """An amount of base units in whole tokens, with at most four decimals."""
    unit = 10 ** (TOKEN_DECIMALS - ROUNDED_DECIMALS)
    return format_amount((base_units + unit // 2) // unit * unit)
