"""The metrics of the node and the HTTP port for Prometheus (docs/operator-guide.md, section 13).

A metric has the name of EIP-2159 where one exists, so that dashboards for Ethereum nodes work. All
others begin with `pot_` and end in their unit. Labels take few values, because each value is a time
series: members of the validator set, fixed lists of reasons and protocols, and the latest tasks.
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
"""From the rounds of the development network to those of a large model."""

STEP_SECONDS_BUCKETS: Final = (
    *(0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08),
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 90),
)
"""From one message on the loopback interface to the longest view."""

SYNC_SECONDS_BUCKETS: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2)
"""From a disk with a battery-backed cache to a failing disk."""

INTERVAL_SECONDS_BUCKETS: Final = (0.2, 0.5, 1, 2, 5, 10, 20, 60, 300)
"""From the shortest block interval to an outage."""

TRANSACTIONS_BUCKETS: Final = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)
"""From an empty block to a thousand transactions."""

GAS_BUCKETS: Final = (0, 100_000, 300_000, 1e6, 3e6, 1e7, 2e7, 3e7, 6e7)
"""From an empty block to a full one of 60 million gas."""


class NodeMetrics:
    """All metrics of the node process; the code that observes a value sets it.

    Each instance has its own registry, so that one test process can hold several nodes.
    """

    def __init__(self) -> None:
        # Without this, each series would also export the time of its creation, which is not needed.
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
            "ethereum_best_known_block_number", "Highest block that this node or a peer has"
        )
        self.peer_count = gauge("ethereum_peer_count", "Connected peers")
        self.peer_limit = gauge("ethereum_peer_limit", "Limit of connected peers")

        # The chain.
        self.finalized_number = gauge(
            "pot_chain_finalized_number", "Number of the last final block, which is the head"
        )
        self.head_timestamp = gauge(
            "pot_chain_head_timestamp_seconds", "Timestamp of the head, in Unix seconds"
        )
        self.head_age = gauge(
            "pot_chain_head_age_seconds", "Seconds since the head became final here"
        )
        self.overdue = gauge(
            "pot_chain_overdue_seconds",
            "Seconds since the next block should have been final; 0 if it is not overdue",
        )
        self.blocks = counter("pot_chain_blocks_total", "Final blocks")
        self.transactions = counter("pot_chain_transactions_total", "Transactions of final blocks")
        self.gas = counter("pot_chain_gas_total", "Gas used by final blocks")
        self.block_transactions = histogram(
            "pot_chain_block_transactions", "Transactions of a block", TRANSACTIONS_BUCKETS
        )
        self.block_gas = histogram("pot_chain_block_gas", "Gas used by a block", GAS_BUCKETS)
        self.block_interval = histogram(
            "pot_chain_block_interval_seconds",
            "Seconds between two blocks, from one being final here to the next",
            INTERVAL_SECONDS_BUCKETS,
        )
        self.execution_seconds = histogram(
            "pot_execution_seconds",
            "Seconds in the execution engine: build (our own block), execute (another's)",
            STEP_SECONDS_BUCKETS,
            "work",
        )

        # Consensus.
        self.pbft_number = gauge("pot_pbft_number", "Block number that is being decided")
        self.pbft_view = gauge("pot_pbft_view", "View of that block number")
        self.step_seconds = histogram(
            "pot_pbft_step_seconds",
            "Seconds of one step of a block: propose (from the parent being final), prepare (to a "
            "quorum of PREPAREs), commit (to a quorum of COMMITs), finalize (until it is stored); "
            "decide is prepare and commit together",
            STEP_SECONDS_BUCKETS,
            "step",
        )
        self.view_changes = counter(
            "pot_pbft_view_changes_total",
            "Views above 0 that this node entered, by cause: timeout, jump (f + 1 others asked for "
            "it), new_view (its message came)",
            "cause",
        )
        self.failed_views = counter(
            "pot_pbft_failed_views_total",
            "Views without a block, counted when their block number is final",
        )
        self.missing_validators = gauge(
            "pot_pbft_missing_validators",
            "Validators without a COMMIT for the head's parent when the head became final",
        )
        self.missed_commits = counter(
            "pot_pbft_missed_commits_total",
            "Blocks without a COMMIT of the validator when the next block became final",
            "validator",
        )
        self.late_commits = counter(
            "pot_pbft_late_commits_total",
            "COMMITs of the validator that arrived after their block was final",
            "validator",
        )
        self.silent_seconds = gauge(
            "pot_pbft_silent_seconds",
            "Seconds since the validator's last consensus message",
            "validator",
        )
        self.clock_offset = gauge(
            "pot_pbft_clock_offset_seconds",
            "The validator's clock minus ours, from its last proposal; exact to a second",
            "validator",
        )
        self.equivocations = counter(
            "pot_pbft_equivocations_total", "Conflicting signed votes of the validator", "validator"
        )
        self.rejected_messages = counter(
            "pot_pbft_rejected_messages_total", "Consensus messages refused, by reason", "reason"
        )
        self.waiting_inputs = gauge("pot_pbft_waiting_inputs", "Inputs queued for the replica")
        self.dropped_inputs = counter(
            "pot_pbft_dropped_inputs_total",
            "Inputs from this node that were dropped because that queue was full",
        )
        self.signing_stopped = gauge(
            "pot_pbft_signing_stopped", "1 while this validator signs nothing, for any reason"
        )
        self.findings = gauge(
            "pot_diagnosis_findings", "1 for each finding of `pot doctor` that holds now", "code"
        )

        # Disk.
        self.sync_seconds = histogram(
            "pot_storage_sync_seconds",
            "Seconds to make a write durable: wal and guard (fsync), database (commit of a block)",
            SYNC_SECONDS_BUCKETS,
            "file",
        )
        self.disk_free = gauge("pot_storage_free_bytes", "Free bytes on the disk of data_dir")
        self.blob_bytes = gauge("pot_blob_bytes", "Bytes in the blob directory")
        self.blob_quota_bytes = gauge("pot_blob_quota_bytes", "The setting blobs.quota_bytes")
        self.blobs_collected = counter(
            "pot_blobs_collected_total", "Blobs deleted because no task needs them"
        )
        self.blob_bytes_collected = counter(
            "pot_blob_bytes_collected_total", "Bytes of the blobs deleted"
        )

        # Peers and transactions.
        self.peers = gauge("pot_p2p_peers", "Connected peers, by direction", "direction")
        self.connected_validators = gauge(
            "pot_p2p_connected_validators", "Other validators with a session to this node"
        )
        self.open_connections = gauge("pot_p2p_open_connections", "Open inbound connections")
        self.waiting_frames = gauge(
            "pot_p2p_waiting_frames", "Consensus messages that wait to be sent to validators"
        )
        self.waiting_bytes = gauge("pot_p2p_waiting_bytes", "Bytes of those messages")
        self._network = _NetworkCollector()
        registry.register(self._network)
        self.mempool_pending = gauge(
            "pot_txpool_pending_transactions", "Transactions of the mempool without a nonce gap"
        )
        self.mempool_queued = gauge(
            "pot_txpool_queued_transactions", "Transactions of the mempool behind a nonce gap"
        )
        self.mempool_bytes = gauge("pot_txpool_bytes", "Encoded bytes of the mempool")
        self.mempool_free_gas = gauge(
            "pot_txpool_free_gas", "Gas limits of the mempool's free transactions"
        )

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
            "Seconds from the start of a training round to its settlement",
            ROUND_SECONDS_BUCKETS,
        )
        self.rewards = counter(
            "pot_train_rewards_total", "Rewards of settled rounds, in base units", "task"
        )

    def time_sync(self, file: str, sync: Callable[[int], None]) -> Callable[[int], None]:
        """A function that calls `sync` and observes its duration with the label `file`."""
        histogram = self.sync_seconds.labels(file)

        def timed(descriptor: int) -> None:
            started = perf_counter()
            sync(descriptor)
            histogram.observe(perf_counter() - started)

        return timed

    def show_rpc(self, directory: Path) -> None:
        """Export the sums of the counts that RPC processes write to the files in `directory`."""
        MultiProcessCollector(self.registry, str(directory))

    def show_network(self, metrics: NetworkMetrics, refused: Mapping[str, int]) -> None:
        """Export the network's current totals, and the refused connections by reason."""
        self._network.families = tuple(_build_network_families(metrics, refused))


NETWORK_TEXTS: Final[Mapping[str, str]] = {
    "dials": "Connections that this node tried to open",
    "dial_failures": "Connections that this node could not open",
    "sessions_opened": "Sessions that began",
    "sessions_closed": "Sessions that ended",
    "peers_silent": "Sessions ended because the peer was silent",
    "peers_banned": "Bans of peers that broke rules",
    "consensus_frames_sent": "Frames of consensus messages sent",
    "consensus_frames_received": "Frames of consensus messages received",
    "consensus_frames_dropped": "Oldest frames dropped because a validator's queue was full",
    "transactions_announced": "Transactions announced to peers",
    "transactions_received": "Transactions fetched from peers",
    "transactions_served": "Transactions sent to peers on request",
    "pieces_withheld": "Coded pieces not relayed because their author sends too many messages",
    "announcements_dropped": "Announcements dropped because a peer's queue was full",
    "blocks_received": "Blocks fetched from peers",
    "blocks_served": "Blocks sent to peers on request",
    "blob_chunks_received": "Chunks of blobs fetched from peers",
    "blob_chunks_served": "Chunks of blobs sent to peers on request",
    "blob_chunks_refused": "Chunks of blobs that do not fit the content id",
    "streams_refused": "Streams refused because the peer had too many open",
}
"""The help texts of the totals without labels in `NetworkMetrics`, by field."""


class _NetworkCollector(Collector):
    """Exports the network's totals, so that the network itself needs no Prometheus library."""

    def __init__(self) -> None:
        self.families: tuple[CounterMetricFamily, ...] = ()
        """The totals. Always replaced as a whole, because the HTTP server's thread reads them."""

    def collect(self) -> Iterable[CounterMetricFamily]:
        """The totals, one family for each metric, with one sample for each label value."""
        return self.families


def _build_network_families(
    metrics: NetworkMetrics, refused: Mapping[str, int]
) -> Iterator[CounterMetricFamily]:
    for name, text in NETWORK_TEXTS.items():
        yield CounterMetricFamily(f"pot_p2p_{name}", text, getattr(metrics, name))
    reasons = {reason.value: count for reason, count in metrics.rejections.items()}
    for name, text, counts in (
        ("refused_inputs", "Refused inputs of peers, by reason", reasons),
        ("disconnects", "Ended sessions and refused handshakes, by reason", metrics.disconnects),
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
    """Serve /metrics from a thread during the `with` block; yields the port.

    Args:
        metrics: The metrics to serve.
        host: The address to listen on.
        port: The port to listen on; 0 takes a free one.

    Raises:
        OperatorError: The port is in use, or the address is not one of this machine.
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
