"""The metrics: each is set, and named as in the operator guide."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock

from chain.contracts.task_registry import TaskStatus
from chain.errors import RejectionReason
from chain.primitives import BlockNumber, TaskId
from chain.training.history import BlockContext
from node.chain.training_index import TrainingIndex, build_rows
from node.health.metrics_feed import TASKS_SHOWN_LIMIT, MetricsFeed
from node.metrics.registry import NETWORK_TEXTS, NodeMetrics
from node.network.metrics import NetworkMetrics
from node.rpc.metrics import RpcMetrics
from node.storage.block_store import BlockStore
from node.storage.database import open_database
from tests.node.health.test_diagnosis import HEALTHY, gone, with_validators
from tests.worlds.training import pending_history
from tests.worlds.values import GENESIS, GENESIS_DELTA, GENESIS_SET, SMALL_MAP_BYTES, chain_of

DOCS = Path(__file__).parents[3] / "docs"
GUIDE = DOCS / "operator-guide.md"
DASHBOARD = DOCS / "grafana-dashboard.json"

UNITS = {
    *("seconds", "bytes", "info", "number", "view", "ratio", "nats", "gas", "transactions"),
    *(
        "calls",
        "connections",
        "frames",
        "peers",
        "validators",
        "tasks",
        "rounds",
        "inputs",
        "findings",
    ),
}
STATES = {"pot_pbft_signing_stopped"}
"""Metrics that are 1 or 0; their help text says for which state."""

FOREIGN = ("python_", "process_", "ethereum_")


@dataclass
class FakeNetwork:
    metrics: NetworkMetrics = field(default_factory=NetworkMetrics)

    def peers(self) -> tuple:
        return ()

    def inbound_connections(self) -> tuple[int, dict[str, int]]:
        return 3, {"address_full": 2}

    def waiting_consensus(self) -> tuple[int, int]:
        return 7, 700


class FakePool:
    size_bytes = 17
    waiting_free_gas = 21_000

    def counts(self) -> tuple[int, int]:
        return 2, 1


class FakeConsensus:
    state = None
    is_member = True
    is_signing = False
    waiting_inputs = 3


class FakeBlobs:
    def used_bytes(self) -> int:
        return 4_096


@dataclass
class FakeSituation:
    health: object = HEALTHY

    def read(self):
        return self.health


@dataclass
class Fed:
    feed: MetricsFeed
    metrics: NodeMetrics
    network: FakeNetwork
    health: FakeSituation
    store: BlockStore

    def text(self) -> str:
        self.feed.update()
        registries = (self.metrics.registry, RpcMetrics().registry)
        return "".join(generate_latest(registry).decode() for registry in registries)


@pytest.fixture
def fed(tmp_path: Path) -> Fed:
    store = BlockStore(open_database(tmp_path, map_size_bytes=SMALL_MAP_BYTES))
    store.initialize(GENESIS, GENESIS_DELTA, b"{}", GENESIS_SET)
    metrics, network, health = NodeMetrics(), FakeNetwork(), FakeSituation()
    feed = MetricsFeed(
        metrics=metrics,
        max_peers=64,
        store=store,
        index=TrainingIndex(store),
        blobs=FakeBlobs(),
        blob_quota_bytes=8_192,
        mempool=FakePool(),
        network=network,
        consensus=FakeConsensus(),
        health=health,
    )
    return Fed(feed, metrics, network, health, store)


async def test_feed_shows_chain_pool_network_and_health(
    autojump_clock: MockClock, fed: Fed
) -> None:
    for link in chain_of(3):
        fed.store.finalize(
            link.block,
            link.certificate,
            receipts=link.receipts,
            senders=link.senders,
            delta=link.delta,
        )
    fed.network.metrics.dials = 5
    fed.network.metrics.frames["blob", "in"] = 11
    fed.network.metrics.rejections[RejectionReason.MALFORMED] += 2
    fed.health.health = replace(HEALTHY, head_age_seconds=61.0, view=2)
    text = fed.text()
    for line in (
        "ethereum_blockchain_height 3.0",
        "pot_chain_finalized_number 3.0",
        "ethereum_best_known_block_number 41.0",
        "pot_pbft_signing_stopped 1.0",
        "pot_pbft_view 2.0",
        "pot_pbft_waiting_inputs 3.0",
        "pot_chain_overdue_seconds 50.0",
        'pot_diagnosis_findings{code="stuck"} 1.0',
        "pot_p2p_dials_total 5.0",
        'pot_p2p_frames_total{direction="in",protocol="blob"} 11.0',
        'pot_p2p_refused_connections_total{reason="address_full"} 2.0',
        "pot_p2p_waiting_bytes 700.0",
        'pot_p2p_refused_inputs_total{reason="malformed"} 2.0',
        "pot_p2p_connected_validators 3.0",
        "pot_txpool_pending_transactions 2.0",
        "pot_txpool_free_gas 21000.0",
        "pot_blob_bytes 4096.0",
    ):
        assert line in text, line


@dataclass
class CountingStore:
    """The rows of a snapshot's tasks, and how many were read."""

    rows: Mapping[bytes, bytes]
    read: int = 0

    def head_number(self) -> BlockNumber:
        return BlockNumber(1)

    def training_row(self, key: bytes) -> bytes | None:
        self.read += 1
        return self.rows.get(key)


async def test_update_reads_histories_of_shown_tasks_only(
    autojump_clock: MockClock, fed: Fed
) -> None:
    pending = pending_history()
    closed = replace(pending, status=TaskStatus.CLOSED, closed=BlockContext(BlockNumber(1), 1))
    histories = [replace(closed, task_id=TaskId(n)) for n in range(1, 1_501)]
    histories += [replace(pending, task_id=TaskId(n)) for n in range(1_501, 1_601)]
    store = CountingStore(build_rows([(each, ()) for each in histories]))
    fed.feed._index = TrainingIndex(store)
    text = fed.text()
    assert 'pot_train_tasks{state="pending"} 100.0' in text
    shown = re.findall(r'pot_train_settled_rounds{task="(\d+)"}', text)
    assert sorted(map(int, shown)) == list(range(1_601 - TASKS_SHOWN_LIMIT, 1_601))
    store.read = 0
    fed.feed.update()
    assert store.read <= 1 + TASKS_SHOWN_LIMIT


def test_every_total_of_the_network_is_shown() -> None:
    totals = {each.name for each in fields(NetworkMetrics) if each.type in (int, "int")}
    assert set(NETWORK_TEXTS) == totals


async def test_a_finding_that_is_over_is_shown_as_over(autojump_clock: MockClock, fed: Fed) -> None:
    fed.health.health = with_validators(HEALTHY, delta=gone(300))
    assert 'pot_diagnosis_findings{code="validator_silent"} 1.0' in fed.text()
    fed.health.health = HEALTHY
    assert 'pot_diagnosis_findings{code="validator_silent"} 0.0' in fed.text()


def exposed(text: str) -> dict[str, tuple[str, str]]:
    """The type and help text of every metric in an exposition, by the name in queries."""
    found = {}
    for family in text_string_to_metric_families(text):
        suffix = "_total" if family.type == "counter" else ""
        found[family.name + suffix] = (family.type, family.documentation)
    return found


def documented() -> set[str]:
    """The metrics in the first columns of the guide's tables."""
    section = GUIDE.read_text(encoding="utf-8").split("\n## 13. ")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`((?:pot|ethereum)_\w+)", cell)}


async def test_every_metric_parses_has_a_text_and_ends_in_its_unit(
    autojump_clock: MockClock, fed: Fed
) -> None:
    found = exposed(fed.text())
    assert "process_resident_memory_bytes" in found
    ours = {name: value for name, value in found.items() if not name.startswith(FOREIGN)}
    assert len(ours) > 40
    for name, (kind, text) in ours.items():
        assert text, name
        if kind == "counter":
            assert name.endswith("_total"), name
        elif name not in STATES:
            assert name.rsplit("_", 1)[1] in UNITS, name


async def test_the_guide_names_every_metric_and_no_other(
    autojump_clock: MockClock, fed: Fed
) -> None:
    found = exposed(fed.text())
    ours = {name for name in found if not name.startswith(("python_", "process_"))}
    assert documented() == ours


def asked_for() -> dict[str, set[str]]:
    """The metrics in each query of the guide's rules and of the dashboard."""
    rules = re.findall(r"^ +expr: (.*)$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    panels = json.loads(DASHBOARD.read_bytes())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    return {
        query: set(re.findall(r"\b(?:pot|ethereum)_\w+", query)) for query in (*rules, *queries)
    }


async def test_alert_rules_and_dashboard_use_existing_metrics(
    autojump_clock: MockClock, fed: Fed
) -> None:
    names = {
        name + suffix
        for name, (kind, _) in exposed(fed.text()).items()
        for suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))
    }
    asked = asked_for()
    assert len(asked) > 30
    assert {query: found - names for query, found in asked.items() if found - names} == {}
