"""Computing the result of a ballot: next state, rewards and evaluation (docs/spec/training.md)."""

from functools import partial
from typing import Final

import structlog
import trio

from chain.contracts.gradient_ledger import ResultKind, ResultVote
from chain.errors import RejectionReason
from chain.json_types import Json
from chain.primitives import Hash32
from chain.training.attempt_records import Attempt
from chain.training.fees import compute_promised_ppm
from chain.training.history import RoundOutcome, compute_outcome
from chain.training.result_vote import (
    build_empty_vote,
    build_payment_vote,
    build_result_vote,
)
from node.chain.training_index import TrainingIndex
from node.training.content import Content, get_integer
from node.training.gradients import Gradients
from node.training.reward_trees import RewardTrees
from node.training.rows import TaskRows
from node.training.states import TrainingStates
from node.training.turns import Turn, compute_rate
from node.training.work import Evaluation, NextState, ServedTask, UnavailableError
from node.training.worker_pool import (
    WorkerFailedError,
    WorkerFilesError,
    WorkerPool,
    WorkerRefusedError,
)

MAX_LOSS: Final = 2**53 - 1
"""The largest loss: JSON's largest exact integer."""

EVALUATION_TRIES: Final = 2
"""After so many failures of a worker a model is not evaluated; the result needs no evaluation."""

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
        rows: TaskRows,
        verifier: WorkerPool,
    ) -> None:
        self._chain_id = chain_id
        self._index = index
        self._content = content
        self._gradients = gradients
        self._states = states
        self._rows = rows
        self._verifier = verifier
        self._trees = RewardTrees(index)

    async def compute(self, task: ServedTask, attempt: Attempt) -> None:
        """Have the accepted gradients aggregated and the next state stored.

        Raises:
            WorkOverError: The attempt ended.
            UnavailableError: An accepted gradient, or the state, cannot be fetched yet.
            WorkerFailedError: The worker did not finish.
            WorkerRefusedError: The worker refused a file.
            BlobQuotaError: The blob quota has no room for the state.
            BlobDiskError: The disk refused the state.
        """
        work, round_number = task.work, attempt.id.round_number
        outcome = await self._compute_outcome(task, attempt)
        if outcome.kind is not ResultKind.SETTLED:
            vote = build_empty_vote(outcome.kind, outcome.timely_voters)
            work.results = {attempt.ballot_number: vote}
            return
        if work.state is None:
            raise UnavailableError("the state that the round starts from is not held yet")
        part_ids = await self._advance(task, attempt, outcome.accepted)
        root = await self._states.record(task, round_number + 1, part_ids)

        def build() -> ResultVote:
            return build_result_vote(
                task.task_id,
                self._index.rewards(task.task_id),
                outcome,
                chain_id=self._chain_id,
                training_state_root=root,
                model_root=part_ids[0],
            )

        is_wanted = partial(self._gradients.is_in_progress, attempt.id)
        vote = await self._trees.build(attempt.id, is_wanted, build)
        work.results = {attempt.ballot_number: vote}

    async def compute_payment(self, task: ServedTask, attempt: Attempt) -> None:
        """Replace the result of a last ballot, which no quorum shares, by one that only pays.

        Raises:
            WorkOverError: The attempt ended.
        """
        outcome = await self._compute_outcome(task, attempt)

        def build() -> ResultVote:
            if outcome.kind is not ResultKind.SETTLED:
                return build_empty_vote(outcome.kind, outcome.timely_voters)
            earned = self._index.rewards(task.task_id)
            return build_payment_vote(task.task_id, earned, outcome, self._chain_id)

        is_wanted = partial(self._gradients.is_in_progress, attempt.id)
        vote = await self._trees.build(attempt.id, is_wanted, build)
        task.work.results = {attempt.ballot_number: vote}

    async def _compute_outcome(self, task: ServedTask, attempt: Attempt) -> RoundOutcome:
        """The consequences of the verdicts, which takes 20 ms with 1 024 of 100 validators."""
        return await trio.to_thread.run_sync(
            compute_outcome, attempt, task.spec, self._index.validator_set
        )

    async def _advance(
        self, task: ServedTask, attempt: Attempt, accepted: tuple[int, ...]
    ) -> tuple[Hash32, ...]:
        """The parts of the state after a round with these accepted gradients."""
        work = task.work
        assert work.state is not None
        known = work.next_state
        if (
            known is not None
            and (known.attempt_id, known.accepted) == (attempt.id, accepted)
            and self._states.holds(known.part_ids)
        ):
            return known.part_ids
        files: list[Json] = [
            await self._gradients.prepare_input(task, attempt, index) for index in accepted
        ]
        try:
            part_ids = await self._states.compute(
                task,
                attempt.id.round_number + 1,
                "advance",
                {
                    "state": [self._content.get_file(each) for each in work.state],
                    "header": self._gradients.describe_place(task, attempt),
                    "gradients": files,
                },
                # A further ballot may accept other gradients. Its phase has time for them again.
                (attempt.id, attempt.ballot_number, "advance"),
                partial(self._gradients.is_in_progress, attempt.id),
            )
        except WorkerRefusedError as refusal:
            if refusal.reason == RejectionReason.CONTENT_MISMATCH:
                await self._check_inputs(task, attempt, accepted)
            raise
        except WorkerFilesError:
            await self._check_inputs(task, attempt, accepted)
            raise
        work.next_state = NextState(attempt.id, accepted, part_ids)
        return part_ids

    async def _check_inputs(
        self, task: ServedTask, attempt: Attempt, accepted: tuple[int, ...]
    ) -> None:
        """Delete the inputs that the disk has damaged; those of the state are then fetched again.

        Raises:
            UnavailableError: A blob is missing or was damaged.
        """
        state, task.work.state = task.work.state, None
        await self._content.check_intact(state or (), is_urgent=True)
        task.work.state = state
        await self._content.check_intact(
            [self._gradients.get_root(attempt, index) for index in accepted], is_urgent=True
        )

    async def evaluate(self, task: ServedTask, attempt: Attempt, model_root: Hash32) -> None:
        """Evaluate a model on the held-out rows.

        Raises:
            WorkerFailedError: The worker did not finish; the model is given up the next time.
            WorkOverError: The attempt ended.
            UnavailableError: The rows are lost, and the data as well.
            BlobQuotaError: The quota has no room for rows that were lost.
            BlobDiskError: The disk refused.
        """
        work = task.work
        found: Evaluation | None = None
        try:
            found = await self._evaluate_parts(task, attempt, model_root)
        except WorkerFailedError as error:
            work.evaluation_failures += 1
            if work.evaluation_failures < EVALUATION_TRIES:
                raise
            _log.warning("model not evaluated", task=task.task_id, reason=str(error))
        except WorkerRefusedError as refusal:
            _log.warning("model not evaluated", task=task.task_id, reason=str(refusal))
        work.evaluation_failures = 0
        work.evaluations = {model_root: found}

    async def _evaluate_parts(
        self, task: ServedTask, attempt: Attempt, model_root: Hash32
    ) -> Evaluation:
        """The evaluation of a model, in parts between which other requests have their turn."""
        inputs = self._rows.get_inputs(task, model_root, await self._rows.ensure(task))
        row_count = task.spec.held_out.row_count
        rows, correct_count, micronats = 0, 0, 0

        def is_wanted() -> bool:
            # The model of an earlier result, which counted other verdicts, keeps no worker.
            is_current = any(vote.model_root == model_root for vote in task.work.results.values())
            return is_current and self._gradients.is_in_progress(attempt.id)

        turn = Turn(
            (attempt.id, "evaluate"),
            task.work.get_promised_seconds(task.spec.resources.evaluation_milliseconds),
            task.task_id,
            compute_rate(compute_promised_ppm(task.spec)),
            lambda: task.work.due_at,
            is_wanted,
        )
        while rows < row_count:
            answer = await self._verifier.ask("evaluate_part", {**inputs, "first": rows}, turn)
            rows += max(1, get_integer(answer, "row_count"))
            correct_count += get_integer(answer, "correct_count")
            micronats += get_integer(answer, "loss_micronats")
        # A diverged model has an infinite loss, which is shown as the largest one.
        is_finite = micronats < MAX_LOSS
        loss_millinats = micronats // (1_000 * row_count) if is_finite else MAX_LOSS
        return Evaluation(correct_count, loss_millinats)
