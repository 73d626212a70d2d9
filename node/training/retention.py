"""Which blobs of a task must be kept: a pure function of the chain (docs/spec/training.md, 11).

The collector evaluates it at every collection and deletes what no task needs.
"""

from collections.abc import Callable
from dataclasses import dataclass

from chain.contracts.gradient_ledger import BOND_CLOSED_BLOCKS, EVIDENCE_BALLOTS
from chain.contracts.task_registry import TaskStatus
from chain.primitives import Address, BlockNumber, Hash32
from chain.training.attempt import AttemptId
from chain.training.history import SettledRound, TaskHistory
from chain.training.resources import KEPT_STATES
from chain.training.task_spec import (
    TaskSpec,
)
from node.config import Retention


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """The operator's settings."""

    retention: Retention
    closed_seconds: int
    """How long the content of a closed task is kept."""


@dataclass(frozen=True, slots=True)
class KeptTask:
    """The parts of one task that must be kept."""

    content: frozenset[Hash32]
    """The initial weights, the data shards, and the final model of a closed task."""
    first_round: int
    """The first round with gradients that are kept."""
    open_attempt: AttemptId
    """The attempt in progress: earlier attempts at its round are void."""
    first_state: int
    """The first state that is kept, counted in settled rounds."""

    def keeps_gradients(self, attempt_id: AttemptId) -> bool:
        """Whether the gradients of an attempt are kept."""
        is_same_round = attempt_id.round_number == self.open_attempt.round_number
        is_void = is_same_round and attempt_id < self.open_attempt
        return attempt_id.round_number >= self.first_round and not is_void

    def keeps_state(self, rounds_settled: int) -> bool:
        """Whether the state after `rounds_settled` rounds is kept."""
        return rounds_settled >= self.first_state


def compute_kept(
    history: TaskHistory,
    spec: TaskSpec,
    get_settled: Callable[[int], SettledRound | None],
    policy: RetentionPolicy,
    *,
    head_number: BlockNumber,
    head_timestamp: int,
    own_validator: Address | None,
) -> KeptTask | None:
    """The parts of a task that must be kept at the head; None if nothing must be kept.

    Args:
        history: The task at the head.
        spec: The task's specification.
        get_settled: Returns a settled round of the task by its number; None if it is unknown.
        policy: The operator's settings.
        head_number: The number of the head.
        head_timestamp: The timestamp of the head in seconds. A node that is behind deletes later.
        own_validator: This node's validator; its *ready* promises to hold the content. None if the
            node does not validate.
    """
    content = {spec.initial_weights, *(shard.content_id for shard in spec.data.shards)}
    next_round, next_state = history.rounds_settled, history.rounds_settled + 1
    attempt_number = 0 if history.attempt is None else history.attempt.id.attempt_number
    first_round, first_state = next_round, history.rounds_settled + 1 - KEPT_STATES
    while first_round > 0:
        settled = get_settled(first_round - 1)
        if (
            settled is None  # before the snapshot that this node began with, so it has no gradients
            or settled.attempt.ballot_number <= history.ballot_count - EVIDENCE_BALLOTS
        ):
            break
        first_round -= 1
    if history.status is TaskStatus.PENDING:
        # Many tasks may be pending: one is kept only if this validator answered *ready*.
        if own_validator not in history.ready:
            return None
    elif history.is_closed:
        closed = history.closed
        if closed is None or head_timestamp >= closed.timestamp + policy.closed_seconds:
            return None
        if history.rounds_settled == 0:
            return None  # a task that closed before a round was settled must not use the disk
        content.add(history.model_root)
        first_state = next_state
        if head_number > closed.number + BOND_CLOSED_BLOCKS:
            first_round = next_round
    if policy.retention is Retention.TASK:
        first_round, attempt_number, first_state = 0, 0, 0
    open_attempt = AttemptId(history.task_id, next_round, attempt_number)
    return KeptTask(frozenset(content), first_round, open_attempt, first_state)
