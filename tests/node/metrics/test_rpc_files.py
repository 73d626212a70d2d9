"""The files that hold the counts of RPC processes, as the node reads them."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest, values

from node.metrics.registry import NodeMetrics
from node.metrics.rpc_files import (
    DIRECTORY_VARIABLE,
    FILE_BYTES,
    count_in_files,
    prepare_files,
    reset_gauges,
)
from node.rpc.metrics import RpcMetrics
from pot_common.errors import StorageError


@pytest.fixture(autouse=True)
def counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "counts"
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(directory))
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)  # put back after the test
    prepare_files(directory, 2)
    return directory


@pytest.fixture
def registry(counts: Path) -> CollectorRegistry:
    """The node's registry, created before `count_in_files` makes new metrics count in files."""
    metrics = NodeMetrics()
    metrics.show_rpc(counts)
    return metrics.registry


def counted(place: int) -> RpcMetrics:
    """The metrics of a newly started RPC process."""
    count_in_files(place)
    return RpcMetrics()


def test_sums_have_the_names_labels_and_types_of_one_process(registry: CollectorRegistry) -> None:
    for place, times in ((0, 3), (1, 4)):
        metrics = counted(place)
        for _ in range(times):
            metrics.on_request("eth_call", "ok", 0.002)
        metrics.on_response(200)
        metrics.running_calls.set(times)
    lines = set(generate_latest(registry).decode().splitlines())
    assert {
        "# TYPE pot_rpc_requests_total counter",
        'pot_rpc_requests_total{method="eth_call",result="ok"} 7.0',
        "# TYPE pot_rpc_request_seconds histogram",
        'pot_rpc_request_seconds_bucket{le="0.003",method="eth_call"} 7.0',
        'pot_rpc_request_seconds_bucket{le="0.001",method="eth_call"} 0.0',
        'pot_rpc_request_seconds_count{method="eth_call"} 7.0',
        'pot_rpc_http_responses_total{status="200"} 2.0',
        "# TYPE pot_rpc_running_calls gauge",
        "pot_rpc_running_calls 7.0",
    } <= lines
    assert [line for line in lines if "pid=" in line or "_created" in line] == []


def test_restarted_process_continues_counters_and_clears_gauges(
    counts: Path, registry: CollectorRegistry
) -> None:
    first = counted(0)
    first.on_request("eth_call", "ok", 0.002)
    first.running_calls.set(5)
    reset_gauges(counts, 0)
    assert registry.get_sample_value("pot_rpc_running_calls") is None
    second = counted(0)
    second.on_request("eth_call", "ok", 0.002)
    labels = {"method": "eth_call", "result": "ok"}
    assert registry.get_sample_value("pot_rpc_requests_total", labels) == 2
    assert len(list(counts.iterdir())) == 6


def test_reader_of_the_gauges_sees_them_whole_while_they_are_cleared(counts: Path) -> None:
    counted(0).running_calls.set(5)
    gauges = counts / "gauge_livesum_0.db"
    before = gauges.read_bytes()
    with gauges.open("rb") as reader:
        reset_gauges(counts, 0)
        assert reader.read() == before
    assert gauges.read_bytes() == bytes(FILE_BYTES) != before


def test_disk_space_is_allocated_before_a_process_counts(counts: Path) -> None:
    before = {file: file.stat() for file in counts.iterdir()}
    counted(1).on_request("eth_call", "ok", 0.002)
    after = {file: file.stat() for file in counts.iterdir()}
    assert {file: stat.st_blocks for file, stat in after.items()} == {
        file: stat.st_blocks for file, stat in before.items()
    }


def test_error_for_unwritable_directory_names_the_cure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="free or repair the disk of data_dir"):
        prepare_files(tmp_path / "file" / "counts", 1)
