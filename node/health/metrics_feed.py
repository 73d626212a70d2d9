"""Sets the gauges from the objects of the node (docs/operator-guide.md, section 13)."""

from collections import Counter
from typing import Final

import trio

from chain.contracts.task_registry import TaskStatus
from chain.hexadecimal import to_hex
from chain.primitives import TaskId
from chain.training.history import TaskHistory, get_evaluation
from node.chain.training_index import TrainingIndex
from node.consensus.host import ConsensusHost
from node.health.diagnosis import Finding, NodeHealth, diagnose
from node.health.log import HealthLog
from node.health.reader import HealthReader
from node.mempool.pool import Mempool
from node.metrics.registry import NodeMetrics
from node.network.network import Network
from node.storage.blobs import BlobStore
from node.storage.block_store import BlockStore

TASKS_SHOWN_LIMIT: Final = 64
"""Limit of tasks with metrics of their own; above it, the earliest task is dropped. Histories of
other tasks are not read, because the feed runs in the thread in which consensus runs."""


class MetricsFeed:
    """Updates the gauges, and logs what is wrong."""

    def __init__(
        self,
        *,
        metrics: NodeMetrics,
        max_peers: int,
        store: BlockStore,
        index: TrainingIndex,
        blobs: BlobStore,
        blob_quota_bytes: int,
        mempool: Mempool,
        network: Network,
        consensus: ConsensusHost,
        health: HealthReader,
    ) -> None:
        self._metrics = metrics
        self._store = store
        self._index = index
        self._blobs = blobs
        self._mempool = mempool
        self._network = network
        self._consensus = consensus
        self._health = health
        self._health_log = HealthLog()
        self._codes: set[str] = set()
        self._rounds_shown: dict[TaskId, int] = {}
        """The number of settled rounds shown, by task, in the order in which tasks appeared."""
        metrics.peer_limit.set(max_peers)
        metrics.blob_quota_bytes.set(blob_quota_bytes)

    def update(self) -> None:
        """Update all gauges once."""
        metrics = self._metrics
        health = self._health.read()
        findings = diagnose(health)
        self._health_log.update(findings, trio.current_time())
        self._show_health(health)
        self._show_findings(findings)
        self._update_chain()
        self._update_training()
        self._update_network()
        pending, queued = self._mempool.counts()
        metrics.mempool_pending.set(pending)
        metrics.mempool_queued.set(queued)
        metrics.mempool_bytes.set(self._mempool.size_bytes)
        metrics.mempool_free_gas.set(self._mempool.waiting_free_gas)
        metrics.waiting_inputs.set(self._consensus.waiting_inputs)
        metrics.signing_stopped.set(self._consensus.is_member and not self._consensus.is_signing)
        metrics.blob_bytes.set(self._blobs.used_bytes())

    def _update_network(self) -> None:
        metrics, peers = self._metrics, self._network.peers()
        inbound = sum(peer.is_inbound for peer in peers)
        metrics.peer_count.set(len(peers))
        metrics.peers.labels("inbound").set(inbound)
        metrics.peers.labels("outbound").set(len(peers) - inbound)
        connections, refused = self._network.inbound_connections()
        metrics.open_connections.set(connections)
        frames, size_bytes = self._network.waiting_consensus()
        metrics.waiting_frames.set(frames)
        metrics.waiting_bytes.set(size_bytes)
        metrics.show_network(self._network.metrics, refused)

    def _show_health(self, health: NodeHealth) -> None:
        metrics = self._metrics
        metrics.best_known_block_number.set(health.best_known)
        metrics.pbft_number.set(health.number)
        metrics.pbft_view.set(health.view)
        metrics.head_age.set(health.head_age_seconds)
        metrics.overdue.set(health.overdue_seconds)
        metrics.disk_free.set(health.disk_free_bytes)
        others = [each for each in health.validators if not each.is_self]
        metrics.connected_validators.set(sum(each.is_connected for each in others))
        for validator in others:
            label = to_hex(validator.address)
            if validator.silent_seconds is not None:
                metrics.silent_seconds.labels(label).set(validator.silent_seconds)
            if validator.clock_offset_seconds is not None:
                metrics.clock_offset.labels(label).set(validator.clock_offset_seconds)

    def _show_findings(self, findings: tuple[Finding, ...]) -> None:
        codes = {finding.code for finding in findings}
        self._codes |= codes
        for code in self._codes:
            self._metrics.findings.labels(code).set(code in codes)

    def _update_chain(self) -> None:
        head = self._store.head()
        self._metrics.blockchain_height.set(head.number)
        self._metrics.finalized_number.set(head.number)
        self._metrics.head_timestamp.set(head.timestamp)

    def _update_training(self) -> None:
        open_tasks = self._index.open_tasks()
        latest = tuple(open_tasks)[-TASKS_SHOWN_LIMIT:]
        # The block that closed a task settled its last round, too.
        for task_id in tuple(dict.fromkeys((*self._rounds_shown, *latest))):
            history = self._index.history(task_id)
            if history is not None:
                self._show_task(history)
        counts = Counter(open_tasks.values())
        for status in (TaskStatus.PENDING, TaskStatus.ACTIVE, TaskStatus.PAUSED):
            self._metrics.training_tasks.labels(status.name.lower()).set(counts[status])
        while len(self._rounds_shown) > TASKS_SHOWN_LIMIT:
            self._forget(next(iter(self._rounds_shown)))

    def _show_task(self, history: TaskHistory) -> None:
        metrics, label = self._metrics, str(history.task_id)
        spec = self._index.spec(history)
        metrics.settled_rounds.labels(label).set(history.rounds_settled)
        shown = self._rounds_shown.get(history.task_id, history.rounds_settled)
        for round_number in range(shown, history.rounds_settled):
            settled = self._index.settled_round(history.task_id, round_number)
            if settled is None:
                continue  # the round is older than the snapshot that this node began with
            metrics.round_seconds.observe(settled.timestamp - settled.attempt.open_timestamp)
            metrics.rewards.labels(label).inc(settled.vote.payout)
            evaluation = get_evaluation(settled)
            if evaluation is not None and spec is not None:
                correct, loss = evaluation
                metrics.training_accuracy.labels(label).set(correct / spec.held_out.row_count)
                metrics.training_loss.labels(label).set(loss / 1000)
        self._rounds_shown[history.task_id] = history.rounds_settled

    def _forget(self, task_id: TaskId) -> None:
        del self._rounds_shown[task_id]
        metrics = self._metrics
        for family in (
            metrics.settled_rounds,
            metrics.rewards,
            metrics.training_accuracy,
            metrics.training_loss,
        ):
            family.remove(str(task_id))
