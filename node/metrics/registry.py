"""Metrics for Prometheus on a port of their own (docs/operator-guide.md, section 13).

EIP-2159's names where it has one, for dashboards that know Ethereum nodes; the rest under `pot_`,
each ending in its unit. Labels take few values: members of the validator set, reasons and protocols
that the code lists, and the latest tasks.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from node.network.metrics import NetworkMetrics
from pot_common.errors import OperatorError

ROUND_SECONDS_BUCKETS: Final = (1, 2, 5, 10, 30, 60, 120, 300, 900, 3600)
"""From the development network's rounds to those of a large model."""

STEP_SECONDS_BUCKETS: Final = (
    *(0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08),
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 90),
)
"""From one hop on loopback to the longest view."""

SYNC_SECONDS_BUCKETS: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2)
"""From a disk with a battery behind its cache to one that is dying."""

INTERVAL_SECONDS_BUCKETS: Final = (0.2, 0.5, 1, 2, 5, 10, 20, 60, 300)
"""From the shortest block interval to an outage."""

TRANSACTIONS_BUCKETS: Final = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)
"""Of one block."""

GAS_BUCKETS: Final = (0, 100_000, 300_000, 1e6, 3e6, 1e7, 2e7, 3e7, 6e7)
"""From one transfer to a full block."""


class NodeMetrics:
    """Everything the node process tells; each value is set where the thing happens.

    A registry of its own, so that several nodes can live in one test process.
    """

    def __init__(self) -> None:
        # Of every series the time it began: twice as many of them, for nothing.
        disable_created_metrics()
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, text, labels, buckets=buckets, registry=registry)

        build_info = gauge("pot_build_info", "Version of the node software, always 1", "version")
        build_info.labels(version("proof-of-training")).set(1)

        # EIP-2159.
        self.blockchain_height = gauge("ethereum_blockchain_height", "Number of the head")
        self.best_known_block_number = gauge(
            "ethereum_best_known_block_number", "Highest head that a peer told of"
        )
        self.peer_count = gauge("ethereum_peer_count", "Connected peers")
        self.peer_limit = gauge("ethereum_peer_limit", "Most peers that are let in")

        # The chain.
        self.finalized_number = gauge(
            "pot_chain_finalized_number", "Number of the last final block, which is the head"
        )
        self.head_timestamp = gauge(
            "pot_chain_head_timestamp_seconds", "The head's time, Unix seconds"
        )
        self.head_age = gauge(
            "pot_chain_head_age_seconds", "Since the head was final here, on a monotonic clock"
        )
        self.overdue = gauge(
            "pot_chain_overdue_seconds", "How long ago the next block was due at the latest; 0: not"
        )
        self.blocks = counter("pot_chain_blocks_total", "Blocks finalized")
        self.transactions = counter("pot_chain_transactions_total", "Transactions finalized")
        self.gas = counter("pot_chain_gas_total", "Gas of the blocks finalized")
        self.block_transactions = histogram(
            "pot_chain_block_transactions", "Transactions of a block", TRANSACTIONS_BUCKETS
        )
        self.block_gas = histogram("pot_chain_block_gas", "Gas of a block", GAS_BUCKETS)
        self.block_interval = histogram(
            "pot_chain_block_interval_seconds",
            "Between two blocks' becoming final here",
            INTERVAL_SECONDS_BUCKETS,
        )
        self.execution_seconds = histogram(
            "pot_execution_seconds",
            "Running a block in the engine: building our own, or executing another's",
            STEP_SECONDS_BUCKETS,
            "work",
        )

        # Consensus.
        self.pbft_number = gauge("pot_pbft_number", "Block number that is being decided")
        self.pbft_view = gauge("pot_pbft_view", "View at that number")
        self.step_seconds = histogram(
            "pot_pbft_step_seconds",
            "One step of a block: propose (from the parent's finality), prepare (to a quorum of "
            "PREPAREs), commit (to a quorum of COMMITs), finalize (until it is stored); decide is "
            "prepare and commit together",
            STEP_SECONDS_BUCKETS,
            "step",
        )
        self.view_changes = counter(
            "pot_pbft_view_changes_total",
            "Views above 0 that this node entered: timeout, jump (f + 1 others did), new_view",
            "cause",
        )
        self.failed_views = counter(
            "pot_pbft_failed_views_total", "Views that ended without a block, of finalized numbers"
        )
        self.missing_validators = gauge(
            "pot_pbft_missing_validators", "Validators that sent no COMMIT for the last block but 1"
        )
        self.missed_commits = counter(
            "pot_pbft_missed_commits_total",
            "Blocks for which a validator's COMMIT had not come when the next one was final",
            "validator",
        )
        self.late_commits = counter(
            "pot_pbft_late_commits_total",
            "COMMITs that came after their block was final",
            "validator",
        )
        self.silent_seconds = gauge(
            "pot_pbft_silent_seconds", "Since a validator's last consensus message", "validator"
        )
        self.clock_offset = gauge(
            "pot_pbft_clock_offset_seconds",
            "A validator's clock minus ours, by its last proposal; exact to a second",
            "validator",
        )
        self.equivocations = counter(
            "pot_pbft_equivocations_total", "Conflicting signed votes seen, by author", "validator"
        )
        self.rejected_messages = counter(
            "pot_pbft_rejected_messages_total", "Consensus messages refused, by reason", "reason"
        )
        self.waiting_inputs = gauge("pot_pbft_waiting_inputs", "Inputs queued for the replica")
        self.dropped_inputs = counter(
            "pot_pbft_dropped_inputs_total", "Own inputs lost because that queue was full"
        )
        self.signing_stopped = gauge(
            "pot_pbft_signing_stopped", "1 while this validator signs nothing, for whatever reason"
        )
        self.findings = gauge(
            "pot_diagnosis_findings", "1 for each thing `pot doctor` finds wrong now", "code"
        )

        # Disk.
        self.sync_seconds = histogram(
            "pot_storage_sync_seconds",
            "Making a write durable: wal and guard (fsync), database (commit of a block)",
            SYNC_SECONDS_BUCKETS,
            "file",
        )
        self.disk_free = gauge("pot_storage_free_bytes", "Free on the disk of data_dir")
        self.blob_bytes = gauge("pot_blob_bytes", "Bytes in the blob directory")
        self.blob_quota_bytes = gauge("pot_blob_quota_bytes", "blobs.quota_bytes")
        self.blobs_collected = counter("pot_blobs_collected_total", "Blobs that no task wanted")
        self.blob_bytes_collected = counter("pot_blob_bytes_collected_total", "Their bytes")

        # Peers and transactions.
        self.peers = gauge("pot_p2p_peers", "Connected peers, by direction", "direction")
        self.connected_validators = gauge(
            "pot_p2p_connected_validators", "Other validators with a session to this node"
        )
        self.open_connections = gauge("pot_p2p_open_connections", "Open inbound connections")
        self.waiting_frames = gauge(
            "pot_p2p_waiting_frames", "Consensus messages that wait for some validator"
        )
        self.waiting_bytes = gauge("pot_p2p_waiting_bytes", "Bytes of those messages")
        self._network = _NetworkCollector()
        registry.register(self._network)
        self.mempool_pending = gauge("pot_txpool_pending_transactions", "Due in turn")
        self.mempool_queued = gauge("pot_txpool_queued_transactions", "Behind a nonce gap")
        self.mempool_bytes = gauge("pot_txpool_bytes", "Encoded bytes of the mempool")

        # Training.
        self.training_tasks = gauge("pot_train_tasks", "Training tasks, by state", "state")
        self.settled_rounds = gauge(
            "pot_train_settled_rounds", "Training rounds of a task that are settled", "task"
        )
        self.training_loss = gauge("pot_train_loss_nats", "Held-out loss of a task", "task")
        self.training_accuracy = gauge(
            "pot_train_accuracy_ratio", "Held-out accuracy of a task, 0 to 1", "task"
        )
        self.round_seconds = histogram(
            "pot_train_round_seconds",
            "From a training round's start to its settlement",
            ROUND_SECONDS_BUCKETS,
        )
        self.rewards = counter(
            "pot_train_rewards_total", "Base units of rewards settled, by task", "task"
        )

    def time_sync(self, file: str, sync: Callable[[int], None]) -> Callable[[int], None]:
        """`sync`, with its time observed as that file's."""
        histogram = self.sync_seconds.labels(file)

        def timed(descriptor: int) -> None:
            started = perf_counter()
            sync(descriptor)
            histogram.observe(perf_counter() - started)

        return timed

    def show_rpc(self, directory: Path) -> None:
        """Show the sum of what RPC processes count in the files of `directory`."""
        MultiProcessCollector(self.registry, str(directory))

    def show_network(self, metrics: NetworkMetrics, refused: Mapping[str, int]) -> None:
        """Show the network's totals as they are now, and `refused` connections by reason."""
        self._network.families = tuple(_build_network_families(metrics, refused))


NETWORK_TEXTS: Final[Mapping[str, str]] = {
    "dials": "Connections that this node tried to open",
    "dial_failures": "Those of them that did not open",
    "sessions_opened": "Handshakes that ended well",
    "sessions_closed": "Sessions that ended",
    "peers_silent": "Sessions ended because the peer said nothing",
    "peers_banned": "Bans for breaking rules",
    "consensus_frames_sent": "Frames of consensus messages sent",
    "consensus_frames_received": "Frames of consensus messages received",
    "consensus_frames_dropped": "Oldest frames dropped because a validator's queue was full",
    "transactions_announced": "Transactions announced to peers",
    "transactions_received": "Transactions fetched from peers",
    "transactions_served": "Transactions given to peers",
    "pieces_withheld": "Pieces not passed on, because their author sends too many messages",
    "announcements_dropped": "Announcements dropped because a peer's queue was full",
    "blocks_received": "Blocks fetched from peers",
    "blocks_served": "Blocks given to peers",
    "blob_chunks_received": "Chunks of blobs fetched from peers",
    "blob_chunks_served": "Chunks of blobs given to peers",
    "blob_chunks_refused": "Chunks that did not hash to what the content id says",
    "streams_refused": "Streams beyond what a peer may have served at a time",
}
"""What the plain totals of `NetworkMetrics` count."""


class _NetworkCollector(Collector):
    """The network's totals: read, not set, so that the network knows nothing of Prometheus."""

    def __init__(self) -> None:
        self.families: tuple[CounterMetricFamily, ...] = ()
        """Replaced as a whole: the server asks from a thread of its own."""

    def collect(self) -> Iterable[CounterMetricFamily]:
        """One family a total; of those with labels one sample for each."""
        return self.families


def _build_network_families(
    metrics: NetworkMetrics, refused: Mapping[str, int]
) -> Iterator[CounterMetricFamily]:
    for name, text in NETWORK_TEXTS.items():
        yield CounterMetricFamily(f"pot_p2p_{name}", text, getattr(metrics, name))
    reasons = {reason.value: count for reason, count in metrics.rejections.items()}
    for name, text, counts in (
        ("refused_inputs", "Inputs of peers refused, by reason", reasons),
        ("disconnects", "Sessions ended and handshakes refused, by reason", metrics.disconnects),
        ("refused_connections", "Inbound connections closed without a session", refused),
    ):
        family = CounterMetricFamily(f"pot_p2p_{name}", text, labels=("reason",))
        for reason, count in sorted(counts.items()):
            family.add_metric((reason,), count)
        yield family
    for name, text, traffic in (
        ("frames", "Frames, by protocol", metrics.frames),
        ("bytes", "Bytes of frames, by protocol", metrics.bytes),
    ):
        family = CounterMetricFamily(f"pot_p2p_{name}", text, labels=("protocol", "direction"))
        for labels, count in sorted(traffic.items()):
            family.add_metric(labels, count)
        yield family


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
