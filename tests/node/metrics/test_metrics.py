import re
import socket
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from node.metrics.registry import NodeMetrics, serve_metrics
from pot_common.errors import OperatorError


def test_alerts_of_the_operator_guide_use_metrics_that_exist():
    guide = Path(__file__).parents[3] / "docs" / "operator-guide.md"
    rules = guide.read_text().partition("```yaml")[2].partition("```")[0]
    samples = re.findall(r"\b(?:pot|ethereum)_\w+", rules)
    named = {re.sub("_bucket$", "", sample) for sample in samples}
    served = generate_latest(NodeMetrics().registry).decode()
    assert len(named) > 5
    assert {name for name in named if f"# TYPE {name} " not in served} == set()


def test_metrics_are_served_until_the_block_ends():
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
