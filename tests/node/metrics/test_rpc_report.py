import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest
from trio.testing import MockClock

from chain.errors import RejectedInputError, RejectionReason
from node.metrics.rpc_report import KEPT_SECONDS, REPORT_LIMIT_BYTES, RpcReports
from node.rpc.metrics import RpcMetrics


def text_of(metrics: RpcMetrics) -> str:
    return generate_latest(metrics.registry).decode()


def shown(reports: RpcReports) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(reports)
    return registry


async def test_reports_of_several_processes_are_added_up(autojump_clock: MockClock) -> None:
    one, two, reports = RpcMetrics(), RpcMetrics(), RpcReports()
    for metrics, count in ((one, 3), (two, 4)):
        for _ in range(count):
            metrics.on_request("eth_call", "ok", 0.002)
        metrics.running_calls.set(count)
    reports.take(10, text_of(one))
    reports.take(10, text_of(one))
    reports.take(11, text_of(two))
    registry = shown(reports)
    labels = {"method": "eth_call", "result": "ok"}
    assert registry.get_sample_value("pot_rpc_requests_total", labels) == 7
    assert registry.get_sample_value("pot_rpc_running_calls") == 7
    bucket = {"method": "eth_call", "le": "0.003"}
    assert registry.get_sample_value("pot_rpc_request_seconds_bucket", bucket) == 7
    assert "# TYPE pot_rpc_requests_total counter" in generate_latest(registry).decode()


async def test_report_of_a_process_that_ended_is_dropped(autojump_clock: MockClock) -> None:
    metrics, reports = RpcMetrics(), RpcReports()
    metrics.running_calls.set(5)
    reports.take(10, text_of(metrics))
    await trio.sleep(KEPT_SECONDS + 1)
    reports.take(11, text_of(metrics))
    assert shown(reports).get_sample_value("pot_rpc_running_calls") == 5


@pytest.mark.parametrize("text", ["# TYPE\n{", "a{b=} c", "no number"])
async def test_text_that_prometheus_cannot_read_is_refused(
    autojump_clock: MockClock, text: str
) -> None:
    with pytest.raises(RejectedInputError) as refused:
        RpcReports().take(1, text)
    assert refused.value.reason is RejectionReason.MALFORMED
    with pytest.raises(RejectedInputError):
        RpcReports().take(1, "#" * (REPORT_LIMIT_BYTES + 1))
