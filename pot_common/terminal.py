"""Text in lines that fit a terminal."""

import os
import sys
import textwrap
from typing import Final

LINE_WIDTH: Final = 80
"""The width of a terminal that every line fits."""

LEAST_WIDTH: Final = 20
"""A narrower terminal is taken for one of unknown width."""


def wrap_line(text: str, indent: str = "", width: int = LINE_WIDTH) -> list[str]:
    """A line in as many lines as fit a terminal; all but the first are indented further."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def format_error(error: Exception | str) -> str:
    """The end of a command that failed: one line, or as many as its reader's terminal needs.

    A program that reads standard error gets one line, unless COLUMNS is set.
    """
    text, width = f"error: {error}", find_error_width()
    if width is None or len(text) <= width:
        return text
    return "\n".join(wrap_line(text, width=width))


def find_error_width() -> int | None:
    """The columns of the terminal that shows standard error; None if there is none."""
    written = os.environ.get("COLUMNS", "")
    if written.isdecimal() and int(written) >= LEAST_WIDTH:
        return int(written)
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        return None
    return columns if columns >= LEAST_WIDTH else None
