"""Wall time. Only this module reads it; deadlines and timers use trio's monotonic clock."""

import time
from typing import Protocol


class Clock(Protocol):
    """A source of wall time."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""


class SystemClock:
    """The machine's clock; the operator keeps it right, for example with NTP."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000
