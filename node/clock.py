"""Wall time. The only module that reads it; deadlines and timers use trio's own clock."""

import time
from typing import Protocol


class Clock(Protocol):
    """Where wall time comes from."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""


class SystemClock:
    """The machine's clock, which an operator keeps right with NTP."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000
