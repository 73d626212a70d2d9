"""The metrics of an RPC process (docs/operator-guide.md, section 13)."""

import asyncio
from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

CALL_COUNT_SECONDS: Final = 1.0
"""Interval at which the number of running calls is updated; Prometheus reads four times a
minute."""

REQUEST_SECONDS_BUCKETS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 5)
"""From one read of the database to the time limit of a call."""

UNKNOWN_METHOD: Final = "unknown"
"""The label for all methods that do not exist. Without it, clients could create any number of
labels."""


class RpcMetrics:
    """The counts of requests and calls of one RPC process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "pot_rpc_requests_total",
            "JSON-RPC requests, by method and result: ok, refused, failed (a fault of the node)",
            ("method", "result"),
            registry=registry,
        )
        self.request_seconds = Histogram(
            "pot_rpc_request_seconds",
            "Seconds from a JSON-RPC request to its result, by method",
            ("method",),
            buckets=REQUEST_SECONDS_BUCKETS,
            registry=registry,
        )
        self.responses = Counter(
            "pot_rpc_http_responses_total",
            "HTTP responses by status, including those for blobs and health",
            ("status",),
            registry=registry,
        )
        self.running_calls = Gauge(
            "pot_rpc_running_calls",
            "Calls in a worker or waiting for one",
            registry=registry,
            multiprocess_mode="livesum",
        )

    def on_request(self, method: str, result: str, seconds: float) -> None:
        """Count a JSON-RPC request that was answered."""
        self.requests.labels(method, result).inc()
        self.request_seconds.labels(method).observe(seconds)

    def on_response(self, status: int) -> None:
        """Count an HTTP response."""
        self.responses.labels(str(status)).inc()

    async def watch_calls(self, count_calls: Callable[[], int]) -> None:
        """Keep the number of running calls up to date until this is cancelled."""
        while True:
            self.running_calls.set(count_calls())
            await asyncio.sleep(CALL_COUNT_SECONDS)
