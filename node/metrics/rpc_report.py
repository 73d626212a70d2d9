"""Shows what RPC processes count beside the node's metrics (docs/operator-guide.md, section 13)."""

from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock
from typing import Final

import trio
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from chain.errors import RejectedInputError, RejectionReason

REPORT_LIMIT_BYTES: Final = 2**20
"""Of one report: a hundred methods with ten buckets each take 100 kB."""

KEPT_SECONDS: Final = 30.0
"""A process that has not reported for six times its interval is gone."""

PROCESS_LIMIT: Final = 128
"""Processes whose reports are kept; twice as many as a node may start."""


@dataclass(frozen=True, slots=True)
class _Report:
    families: tuple[Metric, ...]
    taken_at: float


class RpcReports(Collector):
    """The latest report of each RPC process; asked by Prometheus, the sum of them."""

    def __init__(self) -> None:
        self._reports: dict[int, _Report] = {}
        self._lock = Lock()
        """The metrics server asks from a thread of its own."""

    def take(self, process_id: int, text: str) -> None:
        """Replace what a process reported.

        Raises:
            RejectedInputError: it is not what Prometheus reads, or too much.
        """
        if len(text) > REPORT_LIMIT_BYTES:
            raise RejectedInputError(RejectionReason.TOO_LARGE, "a report of metrics")
        try:
            families = tuple(text_string_to_metric_families(text))
        except ValueError as error:
            raise RejectedInputError(RejectionReason.MALFORMED, str(error)) from error
        now = trio.current_time()
        with self._lock:
            self._reports = {
                key: report
                for key, report in self._reports.items()
                if key != process_id and now - report.taken_at <= KEPT_SECONDS
            }
            if len(self._reports) < PROCESS_LIMIT:
                self._reports[process_id] = _Report(families, now)

    def collect(self) -> Iterable[Metric]:
        """Each family once, its samples added up."""
        with self._lock:
            reports = tuple(self._reports.values())
        merged: dict[str, Metric] = {}
        sums: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
        for report in reports:
            for family in report.families:
                merged.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                totals = sums.setdefault(family.name, {})
                for sample in family.samples:
                    key = (sample.name, tuple(sample.labels.items()))
                    totals[key] = totals.get(key, 0.0) + sample.value
        for name, family in merged.items():
            for (sample_name, labels), value in sums[name].items():
                family.add_sample(sample_name, dict(labels), value)
        return merged.values()
