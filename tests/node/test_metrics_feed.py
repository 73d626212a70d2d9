from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import generate_latest

from chain.training.history import Committee
from node.metrics import NodeMetrics
from node.metrics_feed import MetricsFeed
from node.network.metrics import NetworkMetrics
from node.storage.block_store import BlockStore
from node.storage.database import open_database
from node.training_index import TrainingIndex
from tests.node.chain_factory import GENESIS, GENESIS_DELTA, chain_of


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

    def counts(self) -> tuple[int, int]:
        return 2, 1


class FakeConsensus:
    state = None
    is_signing = False


class FakeSync:
    def best_known(self) -> int:
        return 9


class FakeBlobs:
    def used_bytes(self) -> int:
        return 4_096


def test_the_feed_counts_every_block_once_and_shows_a_validator_that_stopped_signing(
    tmp_path: Path,
) -> None:
    store = BlockStore(open_database(tmp_path))
    store.initialize(GENESIS, GENESIS_DELTA, b"{}")
    metrics = NodeMetrics()
    network = FakeNetwork()
    network.metrics.dials = 5
    network.metrics.frames["blob", "in"] = 11
    feed = MetricsFeed(
        metrics=metrics,
        max_peers=64,
        is_validator=True,
        validator_count=4,
        store=store,
        index=TrainingIndex(store, Committee((), ())),
        blobs=FakeBlobs(),
        blob_quota_bytes=8_192,
        mempool=FakePool(),
        network=network,
        consensus=FakeConsensus(),
        sync=FakeSync(),
    )
    links = chain_of(3)
    for link in links:
        store.finalize(
            link.block,
            link.certificate,
            receipts=link.receipts,
            senders=link.senders,
            delta=link.delta,
        )
    feed.update()
    feed.update()

    text = generate_latest(metrics.registry).decode()
    for line in (
        "ethereum_blockchain_height 3.0",
        "pot_chain_transactions_total 2.0",
        "pot_pbft_missing_validators 1.0",
        "ethereum_best_known_block_number 9.0",
        "pot_signing_stopped 1.0",
        'pot_p2p_events{name="dials"} 5.0',
        'pot_p2p_frames{direction="in",protocol="blob"} 11.0',
        'pot_p2p_connections_refused{reason="address_full"} 2.0',
        "pot_p2p_consensus_queue_bytes 700.0",
        "pot_txpool_pending 2.0",
        "pot_blob_bytes 4096.0",
    ):
        assert line in text
