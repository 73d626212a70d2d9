"""Logs the findings of the diagnosis, at growing intervals (docs/operator-guide.md, section 4)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import structlog

from node.health.diagnosis import Finding, Severity

FIRST_INTERVAL_SECONDS: Final = 10.0
"""Interval after which a finding is logged for the second time."""

LONGEST_INTERVAL_SECONDS: Final = 640.0
"""Longest interval, after six doublings. An operator who opens the log after a night finds the
finding near its end."""

_log = structlog.get_logger("node.health")


@dataclass(slots=True)
class _Told:
    since: float
    again_at: float
    interval_seconds: float


class HealthLog:
    """Remembers which findings were logged, by code."""

    def __init__(self) -> None:
        self._told: dict[str, _Told] = {}

    def update(self, findings: Iterable[Finding], now: float) -> None:
        """Log findings that are new, due again or over; `now` is in monotonic seconds."""
        by_code: dict[str, list[Finding]] = {}
        for finding in findings:
            by_code.setdefault(finding.code, []).append(finding)
        for code, group in by_code.items():
            told = self._told.get(code)
            if told is None:
                told = self._told[code] = _Told(now, now, FIRST_INTERVAL_SECONDS)
            if now < told.again_at:
                continue
            for finding in group:
                is_critical = finding.severity is Severity.CRITICAL
                log = _log.error if is_critical else _log.warning
                log(code.replace("_", " "), text=finding.text, cure=finding.cure)
            told.again_at = now + told.interval_seconds
            told.interval_seconds = min(LONGEST_INTERVAL_SECONDS, 2 * told.interval_seconds)
        for code in [code for code in self._told if code not in by_code]:
            seconds = round(now - self._told.pop(code).since, 1)
            _log.info(f"{code.replace('_', ' ')}: over", seconds=seconds)
