"""Metrics for Prometheus on a port of their own (docs/operator-guide.md, section 6).

EIP-2159's names where it has one, for dashboards that know Ethereum nodes; the rest under `pot_`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)

from node.errors import OperatorError

ROUND_SECONDS_BUCKETS: Final = (1, 2, 5, 10, 30, 60, 120, 300, 900, 3600)
"""From the development network's rounds to those of a large model."""


class NodeMetrics:
    """Everything the node process tells; each value is set where the thing happens.

    A registry of its own, so that several nodes can live in one test process.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        build_info = gauge("pot_build_info", "Version of the node software, always 1", "version")
        build_info.labels(version("proof-of-training")).set(1)

        # EIP-2159.
        self.blockchain_height = gauge("ethereum_blockchain_height", "Number of the head")
        self.best_known_block_number = gauge(
            "ethereum_best_known_block_number", "Highest head that a peer told of"
        )
        self.peer_count = gauge("ethereum_peer_count", "Connected peers")
        self.peer_limit = gauge("ethereum_peer_limit", "Most peers that are let in")

        self.head_timestamp = gauge("pot_chain_head_timestamp", "The head's time, Unix seconds")
        self.head_gas_used = gauge("pot_chain_head_gas_used", "Gas used by the head")
        self.head_transactions = gauge("pot_chain_head_transactions", "Transactions in the head")
        self.finalized_block = gauge(
            "pot_finalized_block", "Number of the last final block, which is the head"
        )
        self.transactions = counter("pot_chain_transactions_total", "Transactions finalized")

        self.pbft_number = gauge("pot_pbft_number", "Block number that is being decided")
        self.pbft_view = gauge("pot_pbft_view", "View at that number")
        self.view_changes = counter("pot_pbft_view_changes_total", "Views entered above 0")
        self.missing_validators = gauge(
            "pot_pbft_missing_validators", "Validators whose COMMIT the head's certificate lacks"
        )
        self.signing_stopped = gauge(
            "pot_signing_stopped", "1 once a failed disk has stopped this validator from signing"
        )

        self.peers = gauge("pot_p2p_peers", "Connected peers, by direction", "direction")
        self.network = gauge(
            "pot_p2p_events", "Totals of the network since the start, by name", "name"
        )
        self.frames = gauge(
            "pot_p2p_frames", "Frames since the start, by protocol", "protocol", "direction"
        )
        self.frame_bytes = gauge(
            "pot_p2p_bytes", "Bytes of frames since the start, by protocol", "protocol", "direction"
        )
        self.connections = gauge("pot_p2p_inbound_connections", "Open inbound connections")
        self.connections_refused = gauge(
            "pot_p2p_connections_refused",
            "Inbound connections closed without a session since the start, by reason",
            "reason",
        )
        self.consensus_queue_frames = gauge(
            "pot_p2p_consensus_queue_frames", "Consensus messages waiting for some validator"
        )
        self.consensus_queue_bytes = gauge(
            "pot_p2p_consensus_queue_bytes", "Bytes of consensus messages waiting"
        )
        self.mempool_pending = gauge("pot_txpool_pending", "Transactions due in turn")
        self.mempool_queued = gauge("pot_txpool_queued", "Transactions behind a nonce gap")
        self.mempool_bytes = gauge("pot_txpool_bytes", "Encoded bytes of the mempool")

        self.training_tasks = gauge("pot_train_tasks", "Training tasks, by state", "state")
        self.training_round = gauge("pot_train_round", "Training round of a task", "task")
        self.training_loss = gauge("pot_train_loss", "Held-out loss of a task", "task")
        self.training_accuracy = gauge("pot_train_accuracy", "Held-out accuracy of a task", "task")
        self.round_seconds = Histogram(
            "pot_train_round_seconds",
            "From a training round's start to its settlement",
            buckets=ROUND_SECONDS_BUCKETS,
            registry=registry,
        )
        self.rewards = counter(
            "pot_rewards_total", "Base units of rewards settled, by task", "task"
        )
        self.blob_bytes = gauge("pot_blob_bytes", "Bytes in the blob directory")
        self.blob_quota_bytes = gauge("pot_blob_quota_bytes", "blobs.quota_bytes")
        self.blobs_collected = counter("pot_blobs_collected_total", "Blobs that no task wanted")
        self.blob_bytes_collected = counter("pot_blob_bytes_collected_total", "Their bytes")


@contextmanager
def serve_metrics(metrics: NodeMetrics, *, host: str, port: int) -> Iterator[int]:
    """Serve /metrics from a thread inside the `with` block; yields the port.

    Args:
        metrics: what is told.
        host: address to listen on.
        port: 0 takes a free one.

    Raises:
        OperatorError: the port is in use, or the address is not this machine's.
    """
    try:
        server, thread = start_http_server(port, addr=host, registry=metrics.registry)
    except OSError as error:
        raise OperatorError(
            f"cannot serve metrics on {host}:{port}: {error.strerror or error}; set metrics.port "
            "or metrics.host"
        ) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
