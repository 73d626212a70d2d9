"""Resident memory during a run: prints it, and fails the run if it grows."""

import gc
import time
from pathlib import Path

WARM_UP_SHARE = 0.25
"""The share of a run in which imports, caches and the allocator's arenas fill."""

WARM_UP_SECONDS_LIMIT = 300.0
"""The longest warm-up."""

GROWTH_LIMIT_MIB = 24.0
"""The most growth after the warm-up, for any length of run; arenas vary by about ten MiB."""

PRINT_SECONDS = 30.0


def resident_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


class MemoryWatch:
    """Watches the memory of a run of known length."""

    def __init__(self, name: str, seconds: float) -> None:
        self._name = name
        self._start = time.monotonic()
        self._seconds = seconds
        self._warm_seconds = min(WARM_UP_SECONDS_LIMIT, WARM_UP_SHARE * seconds)
        self._printed = 0.0
        self._first = resident_mib()
        self._warm: float | None = None

    def is_over(self) -> bool:
        return time.monotonic() - self._start >= self._seconds

    def tick(self, done: str) -> None:
        """Read the clock and the memory, and print the memory from time to time."""
        elapsed = time.monotonic() - self._start
        if self._warm is None and elapsed >= self._warm_seconds:
            gc.collect()
            self._warm = resident_mib()
        if elapsed - self._printed >= PRINT_SECONDS:
            self._printed = elapsed
            print(f"{self._name} {elapsed:6.0f} s  {resident_mib():7.1f} MiB  {done}", flush=True)

    def finish(self) -> dict[str, object]:
        """The memory at the start, warm and at the end.

        Raises:
            AssertionError: It grew by more than GROWTH_LIMIT_MIB since it was warm.
        """
        gc.collect()
        end = resident_mib()
        warm = self._warm or end
        numbers = {"startMib": self._first, "warmMib": warm, "endMib": end}
        print(f"{self._name}: memory " + ", ".join(f"{k} {v:.1f}" for k, v in numbers.items()))
        assert end - warm <= GROWTH_LIMIT_MIB, f"{self._name}: memory grew by {end - warm:.1f} MiB"
        return {
            "seconds": round(time.monotonic() - self._start),
            **{key: round(value, 1) for key, value in numbers.items()},
        }
