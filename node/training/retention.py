"""What of a task is to stay, a pure question (docs/spec/training.md, section 11).

Collection asks it again and again; what no task wants goes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from chain.contracts.task_registry import TaskStatus
from chain.primitives import Address, BlockNumber, Hash32
from chain.training.attempt import AttemptId
from chain.training.history import SettledRound, TaskHistory
from chain.training.task_spec import (
    TaskSpec,
)
from node.config import Retention

EVIDENCE_BALLOTS: Final = 4
"""The ledger keeps the evidence of this many ballots: gradients stay as long as one can be slashed
for them."""

CLOSED_EVIDENCE_BLOCKS: Final = 16
"""In a closed task no ballot follows; so many blocks after it the ledger gives back the bonds."""

KEPT_STATES: Final = 2
"""A state stays until two later rounds are settled, for nodes that are late."""


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """What an operator decides."""

    retention: Retention
    closed_seconds: int
    """How long a closed task stays."""


@dataclass(frozen=True, slots=True)
class KeptTask:
    """What of one task is to stay."""

    content: frozenset[Hash32]
    """Initial weights, data shards, and the final model of a closed task."""
    first_round: int
    """From which on gradients stay."""
    open_attempt: AttemptId
    """The attempt in progress: earlier attempts at its round are void."""
    first_state: int
    """From which on states stay, counted in settled rounds."""

    def keeps_gradients(self, attempt_id: AttemptId) -> bool:
        """Whether the gradients of an attempt stay."""
        is_same_round = attempt_id.round_number == self.open_attempt.round_number
        is_void = is_same_round and attempt_id < self.open_attempt
        return attempt_id.round_number >= self.first_round and not is_void

    def keeps_state(self, rounds_settled: int) -> bool:
        """Whether the state after so many rounds stays."""
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
    """What of a task is to stay at the head; None if nothing is.

    Args:
        history: The task at the head.
        spec: Its specification.
        get_settled: A settled round of it, by number; None if it is not known here.
        policy: The operator's.
        head_number: Of the head.
        head_timestamp: Of the head, in seconds: while a node is late, so are its deletions.
        own_validator: Ours, whose *ready* is a promise to hold the content; None if we follow.
    """
    content = {spec.initial_weights, *(shard.content_id for shard in spec.data.shards)}
    next_round, next_state = history.rounds_settled, history.rounds_settled + 1
    attempt_number = 0 if history.attempt is None else history.attempt.id.attempt_number
    first_round, first_state = next_round, history.rounds_settled + 1 - KEPT_STATES
    while first_round > 0:
        settled = get_settled(first_round - 1)
        if (
            settled is None  # before the snapshot that we joined by: we never had its gradients
            or settled.attempt.ballot_number <= history.ballot_count - EVIDENCE_BALLOTS
        ):
            break
        first_round -= 1
    if history.status is TaskStatus.PENDING:
        # Submitting costs next to nothing. What nobody promised to hold is a stranger's upload.
        if own_validator not in history.ready:
            return None
    elif history.is_closed:
        closed = history.closed
        if closed is None or head_timestamp >= closed.timestamp + policy.closed_seconds:
            return None
        if history.rounds_settled == 0:
            return None  # nobody was paid: submitting and cancelling must not hold our disk
        content.add(history.model_root)
        first_state = next_state
        if head_number > closed.number + CLOSED_EVIDENCE_BLOCKS:
            first_round = next_round
    if policy.retention is Retention.TASK:
        first_round, attempt_number, first_state = 0, 0, 0
    open_attempt = AttemptId(history.task_id, next_round, attempt_number)
    return KeptTask(frozenset(content), first_round, open_attempt, first_state)
