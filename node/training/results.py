"""Computing the result of a ballot: next state, rewards and evaluation (docs/spec/training.md)."""

from collections.abc import Sequence

import structlog
import trio

from chain.training.aggregation import aggregate
from chain.training.architectures import count_parameters
from chain.training.encoding import GradientHeader, decode_gradient
from chain.training.history import Attempt, compute_outcome
from chain.training.optimizer import apply_update
from chain.training.result_vote import build_result_vote
from chain.training.state import TrainingState, compute_model_root
from chain.training.task_spec import (
    TaskSpec,
    compute_learning_rate_ppb,
)
from node.chain.training_index import TrainingIndex
from node.training.content import Content, get_integer
from node.training.gradients import Gradients
from node.training.states import TrainingStates
from node.training.work import ComputedResult, ServedTask
from node.training.worker_pool import WorkerPool, WorkerRefusedError

_log = structlog.get_logger("node.training")


class Results:
    """Computes the results of ballots; they are kept in the task's work."""

    def __init__(
        self,
        *,
        chain_id: int,
        index: TrainingIndex,
        content: Content,
        gradients: Gradients,
        states: TrainingStates,
        verifier: WorkerPool,
    ) -> None:
        self._chain_id = chain_id
        self._index = index
        self._content = content
        self._gradients = gradients
        self._states = states
        self._verifier = verifier

    async def compute(self, task: ServedTask, attempt: Attempt) -> None:
        """Aggregate the accepted gradients, save the next state, and evaluate it if it is due.

        Raises:
            UnavailableError: An accepted gradient cannot be fetched yet.
            WorkerFailedError: The evaluation did not finish.
            BlobQuotaError: The blob quota has no room for the state.
            BlobDiskError: The disk refused the state.
        """
        history, spec, work = task.history, task.spec, task.work
        round_number = attempt.id.round_number
        outcome = compute_outcome(attempt, spec, self._index.validator_set)
        assert work.state is not None
        state = work.state
        if outcome.accepted:
            payloads = [
                await self._gradients.read_payload(task, attempt, i) for i in outcome.accepted
            ]
            state = await trio.to_thread.run_sync(
                _advance_state, spec, state, round_number, payloads
            )
        root = await self._states.save(task, round_number + 1, state)
        model_root = compute_model_root(state)
        vote = build_result_vote(
            history,
            outcome,
            chain_id=self._chain_id,
            training_state_root=root,
            model_root=model_root,
        )
        correct_count: int | None = None
        loss_millinats = 0
        is_last = round_number + 1 == spec.round_count
        if is_last or (round_number + 1) % spec.evaluate_every == 0:
            try:
                answer = await self._verifier.ask(
                    "evaluate", self._content.get_inputs(task, model_root)
                )
            except WorkerRefusedError as refusal:
                # A vote is valid without an evaluation; other validators may have one.
                _log.warning("model not evaluated", task=task.task_id, reason=str(refusal))
            else:
                correct_count = get_integer(answer, "correct_count")
                loss_millinats = get_integer(answer, "loss_millinats")
        computed = ComputedResult(vote, correct_count, loss_millinats)
        work.results = {attempt.ballot_number: computed}
        work.checks = {
            (attempt_id, index): check
            for (attempt_id, index), check in work.checks.items()
            if attempt_id.round_number >= round_number
        }


def _advance_state(
    spec: TaskSpec,
    state: TrainingState,
    round_number: int,
    payloads: Sequence[tuple[int, bytes, GradientHeader]],
) -> TrainingState:
    """The state after a round with these accepted gradients."""
    gradients = [(units, decode_gradient(payload, header)) for units, payload, header in payloads]
    mean = aggregate(spec.aggregator, count_parameters(spec.model), gradients)
    return apply_update(spec.optimizer, compute_learning_rate_ppb(spec, round_number), state, mean)
