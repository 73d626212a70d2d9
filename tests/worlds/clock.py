"""A clock that tests move."""

from dataclasses import dataclass

import pytest


@dataclass
class FakeClock:
    """The time in seconds; it passes only when a test says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def sleep_at_once(monkeypatch: pytest.MonkeyPatch, module: str) -> list[float]:
    """Let the time of a module pass only while it sleeps; the time, as a list of one number."""
    now = [1_000.0]

    def sleep(wanted: float) -> None:
        now[0] += wanted

    monkeypatch.setattr(f"{module}.time.monotonic", lambda: now[0])
    monkeypatch.setattr(f"{module}.time.sleep", sleep)
    return now
