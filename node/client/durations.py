"""Durations as people write them."""

from typing import Final

UNIT_SECONDS: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
"""The units of a duration."""


def format_duration(seconds: int, unit_count: int = 2) -> str:
    """A duration in its largest units, such as 2 d 3 h."""
    parts = []
    for unit, size in UNIT_SECONDS.items():
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:unit_count]) or "0 s"


def format_exact_duration(seconds: int) -> str:
    """A duration to the second, such as 2 d 3 h 4 m 5 s."""
    return format_duration(seconds, len(UNIT_SECONDS))
