"""Which blobs of a task must be kept: a pure function of the chain (docs/spec/training.md, 11).

The collector evaluates it at every collection and deletes what no task needs. It deletes files of
closed tasks earlier if others need their room.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from chain.contracts.task_registry import TaskStatus
from chain.primitives import Address, BlockNumber, Hash32
from chain.training.attempt import AttemptId
from chain.training.attempt_records import EndedMark
from chain.training.fees import KEPT_SECONDS
from chain.training.history import SettledRound, TaskHistory
from chain.training.resources import KEPT_MODELS, KEPT_STATES, count_gradients
from chain.training.task_spec import (
    TaskSpec,
)
from node.config import Retention
from node.training.state_parts import StoredState


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """The operator's settings."""

    retention: Retention
    closed_seconds: int
    """How long the content of a closed task is kept at most."""


@dataclass(frozen=True, slots=True)
class KeptTask:
    """The parts of one task that must be kept."""

    content: frozenset[Hash32]
    """The initial weights, the data shards, and the final model of a closed task."""
    first_attempt: AttemptId
    """The first attempt of which all gradients may be needed."""
    accused: Mapping[AttemptId, frozenset[Address]]
    """The miners with gradients in earlier attempts that late verdicts may find guilty."""
    first_state: int
    """The first state that may be needed, counted in settled rounds."""
    rounds_settled: int
    state_root: Hash32
    """The root of the state after the last settled round."""
    models: frozenset[int] = frozenset()
    """The earlier states of which the model may be needed, to check accused gradients with."""
    keeps_all: bool = False
    """Whether gradients and states of all rounds are kept, for `pot task verify`."""
    unpaid_since: int | None = None
    """The time from which on the fee of a closed task does not pay for its files, which then give
    way to those of other tasks; None as long as it pays."""

    def needs_gradient(self, attempt_id: AttemptId, miner: Address) -> bool:
        """Whether this node or a peer may need the gradient of a miner in an attempt."""
        is_recent = attempt_id >= self.first_attempt
        return is_recent or miner in self.accused.get(attempt_id, frozenset())

    def keeps_gradient(self, attempt_id: AttemptId, miner: Address) -> bool:
        """Whether the gradient of a miner in an attempt is kept once it is stored."""
        return self.keeps_all or self.needs_gradient(attempt_id, miner)

    def needs_state(self, rounds_settled: int) -> bool:
        """Whether this node or a peer may need the state after `rounds_settled` rounds."""
        return rounds_settled >= self.first_state

    def has_other_state(self, state: StoredState, *, is_newest: bool) -> bool:
        """Whether a state was computed for its round that no peer needs, since there is another.

        Each ballot may accept other gradients, and so lead to another state.

        Args:
            state: The state.
            is_newest: Whether it is the newest of those after as many rounds.
        """
        if self.keeps_all or state.rounds_settled < max(1, self.rounds_settled):
            return False
        if state.rounds_settled == self.rounds_settled:
            return state.root != self.state_root
        return not is_newest

    def needs_model(self, rounds_settled: int) -> bool:
        """Whether this node may need at least the model after `rounds_settled` rounds."""
        return self.needs_state(rounds_settled) or rounds_settled in self.models

    def keeps_state(self, rounds_settled: int) -> bool:
        """Whether the state after `rounds_settled` rounds is kept once it is stored."""
        return self.keeps_all or self.needs_state(rounds_settled)


def compute_kept(
    history: TaskHistory,
    spec: TaskSpec,
    get_settled: Callable[[int], SettledRound | None],
    get_accused: Callable[[EndedMark], Sequence[Address]],
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
        get_accused: Returns the miners of an ended attempt that late verdicts may find guilty.
        policy: The operator's settings.
        head_number: The number of the head.
        head_timestamp: The timestamp of the head in seconds. A node that is behind deletes later.
        own_validator: This node's validator; its *ready* promises to hold the content. None if the
            node does not validate.
    """
    content = {spec.initial_weights, *(shard.content_id for shard in spec.data.shards)}
    first_attempt = _find_first_attempt(history, get_settled)
    accused = _list_accused(history, spec, get_accused, head_number)
    first_state = history.rounds_settled + 1 - KEPT_STATES
    judged = sorted({each.round_number for each, miners in accused.items() if miners})
    # An accused gradient is checked with the model from which its round started.
    models = [each for each in judged if each < first_state][-KEPT_MODELS:]
    unpaid_since = None
    if history.status is TaskStatus.PENDING:
        # Many tasks may be pending: one is kept only if this validator answered *ready*.
        if own_validator not in history.ready:
            return None
    elif history.is_closed:
        closed = history.closed
        assert closed is not None
        # A task that closed before a round was settled has nothing to show, and uses no disk.
        has_model = history.rounds_settled > 0
        is_shown = has_model and head_timestamp < closed.timestamp + policy.closed_seconds
        if not is_shown and not judged:
            return None
        if has_model:
            content.add(history.model_root)
        first_state = max(first_state, min(judged, default=history.rounds_settled + 1))
        first_attempt = AttemptId(history.task_id, history.rounds_settled + 1, 0)
        paid_until = closed.timestamp + KEPT_SECONDS
        unpaid_since = paid_until if head_timestamp >= paid_until else None
    keeps_all = policy.retention is Retention.TASK
    return KeptTask(
        content=frozenset(content),
        first_attempt=first_attempt,
        accused=accused,
        first_state=first_state,
        rounds_settled=history.rounds_settled,
        state_root=history.training_state_root,
        models=frozenset(models),
        keeps_all=keeps_all,
        unpaid_since=unpaid_since,
    )


def _find_first_attempt(
    history: TaskHistory, get_settled: Callable[[int], SettledRound | None]
) -> AttemptId:
    """The attempt before the one in progress; if it is not known, the first of the round."""
    attempt, next_round = history.attempt, history.rounds_settled
    first = AttemptId(history.task_id, next_round, 0)
    if attempt is not None and attempt.id.attempt_number > 0:
        return replace(first, attempt_number=attempt.id.attempt_number - 1)
    settled = None if next_round == 0 else get_settled(next_round - 1)
    # Before the snapshot that this node began with it has no gradients.
    return first if settled is None else settled.attempt.id


def _list_accused(
    history: TaskHistory,
    spec: TaskSpec,
    get_accused: Callable[[EndedMark], Sequence[Address]],
    head_number: BlockNumber,
) -> Mapping[AttemptId, frozenset[Address]]:
    """The miners with gradients that late verdicts may still find guilty, by attempt.

    The latest come first, and there are no more of them than one attempt can have gradients.
    """
    left = count_gradients(spec)
    accused: dict[AttemptId, frozenset[Address]] = {}
    for mark in reversed(history.ended):
        if left == 0:
            break
        if head_number <= mark.late_until:
            miners = get_accused(mark)[:left]
            left -= len(miners)
            accused[mark.attempt_id] = frozenset(miners)
    return accused
