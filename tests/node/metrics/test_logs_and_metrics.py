import io
import json
import logging
import re
import socket
import urllib.request
from pathlib import Path

import pytest
import structlog
from prometheus_client import generate_latest

from node.clock import SystemClock
from node.logs import NETWORK_LIBRARY, LogFormat, LogLevel, configure_logs
from node.metrics.registry import NodeMetrics, serve_metrics
from pot_common.errors import OperatorError


@pytest.fixture
def restored_logs():
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    network = logging.getLogger(NETWORK_LIBRARY)
    network_state = network.propagate, network.level
    network.propagate = False  # as its import leaves it
    yield
    root.handlers = handlers
    root.setLevel(level)
    network.propagate = network_state[0]
    network.setLevel(network_state[1])
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_json_logs_are_one_object_a_line(restored_logs):
    stream = io.StringIO()
    configure_logs(LogFormat.JSON, LogLevel.INFO, stream, node="validator-1")
    log = structlog.get_logger("node.test")
    log.debug("unseen")
    log.info("block finalized", number=7, hash=b"\xab\xcd")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("failed")
    logging.getLogger("some.library").warning("old %s", "style")

    first, second, third = map(json.loads, stream.getvalue().splitlines())
    assert first["event"] == "block finalized"
    assert (first["number"], first["hash"], first["level"]) == (7, "0xabcd", "info")
    assert (first["node"], first["logger"]) == ("validator-1", "node.test")
    assert first["timestamp"].endswith("Z")
    assert "ValueError: two" in second["exception"]
    assert (third["event"], third["logger"]) == ("old style", "some.library")


def test_console_logs_are_plain_text_where_there_is_no_terminal(restored_logs):
    stream = io.StringIO()
    configure_logs(LogFormat.CONSOLE, LogLevel.WARNING, stream)
    structlog.get_logger("node.test").info("unseen")
    structlog.get_logger("node.test").warning("peer left", reason="silent")
    logging.getLogger("libp2p.host").info("chatter")
    assert "unseen" not in stream.getvalue()
    assert "chatter" not in stream.getvalue()
    assert "peer left" in stream.getvalue()
    assert "reason=silent" in stream.getvalue()
    assert "\x1b[" not in stream.getvalue()


def test_what_libp2p_raises_as_well_is_logged_in_our_format_and_only_at_debug(restored_logs):
    log = logging.getLogger("libp2p.transport.tcp")
    for level, seen in ((LogLevel.INFO, 0), (LogLevel.DEBUG, 1)):
        stream = io.StringIO()
        configure_logs(LogFormat.JSON, level, stream)
        log.error("Failed to open TCP stream: %s", "refused")
        events = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
        assert events == ["Failed to open TCP stream: refused"] * seen


def test_rules_of_the_operator_guide_read_metrics_that_are_served():
    guide = Path(__file__).parents[3] / "docs" / "operator-guide.md"
    rules = guide.read_text().partition("```yaml")[2].partition("```")[0]
    samples = re.findall(r"\b(?:pot|ethereum)_\w+", rules)
    named = {re.sub("_bucket$", "", sample) for sample in samples}
    served = generate_latest(NodeMetrics().registry).decode()
    assert len(named) > 5
    assert {name for name in named if f"# TYPE {name} " not in served} == set()


def test_metrics_are_served_under_ethereums_names_and_our_own():
    metrics = NodeMetrics()
    metrics.blockchain_height.set(42)
    metrics.training_tasks.labels("active").set(3)
    metrics.round_seconds.observe(3.0)
    with serve_metrics(metrics, host="127.0.0.1", port=0) as port:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        for line in (
            "ethereum_blockchain_height 42.0",
            'pot_train_tasks{state="active"} 3.0',
            'pot_train_round_seconds_bucket{le="5.0"} 1.0',
            "process_resident_memory_bytes",
            'pot_build_info{version="',
        ):
            assert line in text
        with (
            pytest.raises(OperatorError, match=r"set metrics\.port"),
            serve_metrics(NodeMetrics(), host="127.0.0.1", port=port),
        ):
            pass
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_system_clock_tells_milliseconds_of_this_century():
    first = SystemClock().now_ms()
    assert 1_700_000_000_000 < first < 4_000_000_000_000
    assert SystemClock().now_ms() >= first
