"""A clock that tests move."""

from dataclasses import dataclass


@dataclass
class FakeClock:
    """The time in seconds; it passes only when a test says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now
