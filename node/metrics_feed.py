"""Reads what the metrics show from the parts of the node (docs/operator-guide.md, section 6)."""

from dataclasses import fields
from typing import Final

from chain.primitives import BlockNumber, TaskId
from chain.training.history import get_evaluation
from node.blobs import BlobStore
from node.consensus_host import ConsensusHost
from node.mempool import Mempool
from node.metrics import NodeMetrics
from node.network.metrics import NetworkMetrics
from node.network.network import Network
from node.storage.block_store import BlockStore
from node.sync.block_sync import BlockSync
from node.training_index import TrainingIndex

BLOB_SCAN_UPDATES: Final = 60
"""The blob directory is measured once in so many updates: it is a walk over files."""


class MetricsFeed:
    """Brings the gauges up to date; counters follow the chain block by block."""

    def __init__(
        self,
        *,
        metrics: NodeMetrics,
        max_peers: int,
        is_validator: bool,
        validator_count: int,
        store: BlockStore,
        index: TrainingIndex,
        blobs: BlobStore,
        blob_quota_bytes: int,
        mempool: Mempool,
        network: Network,
        consensus: ConsensusHost,
        sync: BlockSync,
    ) -> None:
        self._metrics = metrics
        self._is_validator = is_validator
        self._validator_count = validator_count
        self._store = store
        self._index = index
        self._blobs = blobs
        self._mempool = mempool
        self._network = network
        self._consensus = consensus
        self._sync = sync
        self._counted_through = store.head_number()
        self._updates = 0
        self._rounds_shown: dict[TaskId, int] = {}
        metrics.peer_limit.set(max_peers)
        metrics.blob_quota_bytes.set(blob_quota_bytes)

    def update(self) -> None:
        """Read everything once."""
        self._update_chain()
        self._update_training()
        metrics = self._metrics
        peers = self._network.peers()
        inbound = sum(peer.is_inbound for peer in peers)
        metrics.peer_count.set(len(peers))
        metrics.peers.labels("inbound").set(inbound)
        metrics.peers.labels("outbound").set(len(peers) - inbound)
        for field in fields(NetworkMetrics):
            value = getattr(self._network.metrics, field.name)
            if isinstance(value, int):
                metrics.network.labels(field.name).set(value)
        for reason, count in self._network.metrics.rejections.items():
            metrics.network.labels(f"rejected_{reason.value}").set(count)
        for labels, count in self._network.metrics.frames.items():
            metrics.frames.labels(*labels).set(count)
        for labels, count in self._network.metrics.bytes.items():
            metrics.frame_bytes.labels(*labels).set(count)
        connections, refused = self._network.inbound_connections()
        metrics.connections.set(connections)
        for why, count in refused.items():
            metrics.connections_refused.labels(why).set(count)
        waiting_frames, waiting_bytes = self._network.waiting_consensus()
        metrics.consensus_queue_frames.set(waiting_frames)
        metrics.consensus_queue_bytes.set(waiting_bytes)
        pending, queued = self._mempool.counts()
        metrics.mempool_pending.set(pending)
        metrics.mempool_queued.set(queued)
        metrics.mempool_bytes.set(self._mempool.size_bytes)
        state = self._consensus.state
        if state is not None:
            metrics.pbft_number.set(state.config.number)
            metrics.pbft_view.set(state.view)
        metrics.signing_stopped.set(self._is_validator and not self._consensus.is_signing)
        if self._updates % BLOB_SCAN_UPDATES == 0:
            metrics.blob_bytes.set(self._blobs.used_bytes())
        self._updates += 1

    def _update_chain(self) -> None:
        metrics = self._metrics
        head = self._store.head()
        metrics.blockchain_height.set(head.number)
        metrics.finalized_block.set(head.number)
        metrics.head_timestamp.set(head.timestamp)
        metrics.head_gas_used.set(head.gas_used)
        metrics.best_known_block_number.set(self._sync.best_known())
        for number in range(self._counted_through + 1, head.number + 1):
            block = self._store.block(BlockNumber(number))
            certificate = self._store.certificate(BlockNumber(number))
            assert block is not None, "at most the head"
            assert certificate is not None, "every final block but genesis has one"
            metrics.transactions.inc(len(block.transactions))
            metrics.head_transactions.set(len(block.transactions))
            metrics.view_changes.inc(certificate.view)
            metrics.missing_validators.set(self._validator_count - len(certificate.signatures))
        self._counted_through = head.number

    def _update_training(self) -> None:
        metrics = self._metrics
        states = dict.fromkeys(("pending", "active", "paused"), 0)
        for history in self._index.live_tasks():
            states[history.status] += 1
            spec = self._index.spec(history)
            label = str(history.task_id)
            metrics.training_round.labels(label).set(history.rounds_settled)
            shown = self._rounds_shown.get(history.task_id, history.rounds_settled)
            for round_number in range(shown, history.rounds_settled):
                settled = self._index.settled_round(history.task_id, round_number)
                assert settled is not None, "below the settled count"
                metrics.round_seconds.observe(settled.timestamp - settled.attempt.open_timestamp)
                metrics.rewards.labels(label).inc(settled.payout)
                evaluation = get_evaluation(settled)
                if evaluation is not None and spec is not None:
                    correct, loss = evaluation
                    metrics.training_accuracy.labels(label).set(correct / spec.held_out.row_count)
                    metrics.training_loss.labels(label).set(loss / 1000)
            self._rounds_shown[history.task_id] = history.rounds_settled
        for state, count in states.items():
            metrics.training_tasks.labels(state).set(count)
