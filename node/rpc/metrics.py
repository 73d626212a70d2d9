"""What an RPC process counts (docs/operator-guide.md, section 13)."""

import asyncio
from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LOOK_SECONDS: Final = 1.0
"""Between two looks at how many calls run: Prometheus asks four times a minute."""

REQUEST_SECONDS_BUCKETS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 5)
"""From a look into the database to the longest call."""

UNKNOWN_METHOD: Final = "unknown"
"""What every method that is not served is called: clients could name any number of them."""


class RpcMetrics:
    """Requests and calls of one RPC process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "pot_rpc_requests_total",
            "JSON-RPC requests, by method and result: ok, refused, failed (our fault)",
            ("method", "result"),
            registry=registry,
        )
        self.request_seconds = Histogram(
            "pot_rpc_request_seconds",
            "From a JSON-RPC request to its result, by method",
            ("method",),
            buckets=REQUEST_SECONDS_BUCKETS,
            registry=registry,
        )
        self.responses = Counter(
            "pot_rpc_http_responses_total",
            "HTTP responses, blobs and health too, by status",
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
        """A JSON-RPC request was answered."""
        self.requests.labels(method, result).inc()
        self.request_seconds.labels(method).observe(seconds)

    def on_response(self, status: int) -> None:
        """An HTTP response was sent."""
        self.responses.labels(str(status)).inc()

    async def watch_calls(self, count_calls: Callable[[], int]) -> None:
        """Show how many calls run, until cancelled."""
        while True:
            self.running_calls.set(count_calls())
            await asyncio.sleep(LOOK_SECONDS)
