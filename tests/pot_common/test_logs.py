import io
import json
import logging

import pytest
import structlog

from pot_common.logs import NETWORK_LIBRARY, LogFormat, LogLevel, configure_logs


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


def test_console_logs_without_a_terminal_are_plain_text(restored_logs):
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


def test_errors_of_libp2p_are_logged_only_at_debug(restored_logs):
    log = logging.getLogger("libp2p.transport.tcp")
    for level, seen in ((LogLevel.INFO, 0), (LogLevel.DEBUG, 1)):
        stream = io.StringIO()
        configure_logs(LogFormat.JSON, level, stream)
        log.error("Failed to open TCP stream: %s", "refused")
        events = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
        assert events == ["Failed to open TCP stream: refused"] * seen
