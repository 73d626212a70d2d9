from structlog.testing import capture_logs

from node.health.diagnosis import Finding, Severity
from node.health.log import HealthLog

STUCK = Finding("stuck", Severity.CRITICAL, "No block for 73 s.", "Start it.")
LOW = Finding("disk_low", Severity.WARNING, "Low.", "Free some.")


def test_finding_is_logged_at_growing_intervals_and_once_when_it_ends() -> None:
    log = HealthLog()
    with capture_logs() as lines:
        told_at = []
        for second in range(3_000):
            before = len(lines)
            log.update([STUCK], float(second))
            if len(lines) > before:
                told_at.append(second)
        log.update([], 3_000.0)
        log.update([], 3_001.0)
    assert told_at == [0, 10, 30, 70, 150, 310, 630, 1_270, 1_910, 2_550]
    assert lines[0] == {
        "event": "stuck",
        "log_level": "error",
        "text": "No block for 73 s.",
        "cure": "Start it.",
    }
    assert lines[-1] == {"event": "stuck: over", "log_level": "info", "seconds": 3_000.0}
    assert len(lines) == 11


def test_findings_are_distinguished_and_one_that_returns_is_new() -> None:
    log = HealthLog()
    with capture_logs() as lines:
        log.update([STUCK, LOW], 0.0)
        log.update([LOW], 5.0)
        log.update([STUCK, LOW], 6.0)
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("stuck", "error"),
        ("disk low", "warning"),
        ("stuck: over", "info"),
        ("stuck", "error"),
    ]
