"""Repeating a task's training from events and gradients (docs/spec/training.md, section 10).

The contracts' events contain registrations, commitments and votes. From them and from the gradients
that open the commitments, the fold and the arithmetic of validators compute every settled root. If
a node leaves out or invents events, the roots differ.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from chain.contracts.addresses import (
    GRADIENT_LEDGER,
    MINER_SEATS,
    REWARD_DISTRIBUTOR,
    TASK_REGISTRY,
)
from chain.contracts.events import Event, decode_event
from chain.contracts.gradient_ledger import AttemptOpened, ResultVote, VerdictPosted
from chain.contracts.miner_seats import MinerLeft, MinerRegistered
from chain.contracts.task_registry import TaskSubmitted
from chain.contracts.validator_set import get_current
from chain.errors import InvalidGradient
from chain.hexadecimal import to_hex
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.training.aggregation import aggregate
from chain.training.architectures import count_parameters
from chain.training.attempt_description import describe_attempt
from chain.training.attempt_records import CommitmentRecord, EndedAttempt
from chain.training.encoding import (
    Gradient,
    GradientHeader,
    compute_commitment,
    count_payload_bytes,
    decode_gradient,
)
from chain.training.history import (
    BlockContext,
    SettledRound,
    TaskHistory,
    add_rewards,
    apply_event,
    build_history,
    compute_outcome,
)
from chain.training.optimizer import apply_update, initial_state
from chain.training.rewards import build_reward_tree
from chain.training.state import (
    FLOAT32_BYTES,
    TrainingState,
    compute_model_root,
    compute_training_state_root,
)
from chain.training.task_spec import (
    TaskSpec,
    compute_learning_rate_ppb,
)
from chain.training.task_spec_codec import decode_task_spec
from chain.types.validator_set import ValidatorSet
from node.client.rpc_client import (
    RpcClient,
    decode_log,
    get_integer,
    get_text,
    get_value,
)
from pot_common.errors import OperatorError
from pot_common.rpc_client import ContentUnavailableError
from pot_common.rpc_replies import read_bytes


@dataclass(frozen=True, slots=True)
class ReplayedRound:
    """A settled round and the same round computed again."""

    round_number: int
    block_number: BlockNumber
    accepted_count: int
    rejected_count: int
    settled: ResultVote
    replayed: ResultVote

    @property
    def is_equal(self) -> bool:
        """Whether the chain settled the result that the gradients give."""
        return self.settled == self.replayed


class TaskReplay:
    """The rounds of one task, computed again one after the other.

    Args:
        client: A node that has the events and the gradients.
        task_id: The task.

    Raises:
        OperatorError: There is no such task.
    """

    def __init__(self, client: RpcClient, task_id: TaskId) -> None:
        self._client = client
        self._task_id = task_id
        self._chain_id = client.quantity("eth_chainId")
        self._validator_set = self._fetch_validator_set(BlockNumber(0))
        self._events = self._fetch_events()
        number, submission = next(self._events, (BlockNumber(0), None))
        if not isinstance(submission, TaskSubmitted):
            raise OperatorError(f"there is no task {task_id}; `pot task list` lists all tasks")
        self._history: TaskHistory = build_history(submission, BlockContext(number, 0))
        self.spec: TaskSpec = decode_task_spec(submission.spec)
        """The specification that was submitted."""
        self._members: dict[Address, int] = {}
        self._ended: dict[int, EndedAttempt] = {}
        self._earned: dict[Address, int] = {}

    def rounds(self) -> Iterator[ReplayedRound]:
        """Every settled round, computed again.

        Raises:
            OperatorError: A blob is gone, or a commitment contradicts an assignment or a gradient.
        """
        weights, size = self.spec.initial_weights, count_parameters(self.spec.model) * FLOAT32_BYTES
        try:
            state = initial_state(self.spec.optimizer, self._client.get_blob(weights, size))
        except ContentUnavailableError as error:
            raise OperatorError(
                f"{self._client.url} does not have the initial weights (blob {to_hex(weights)}) "
                "any more: nodes keep a closed task for a day, and up to blobs.closed_task_days "
                "if they have room; ask one that has them with --rpc"
            ) from error
        participants: dict[BlockNumber, tuple[tuple[Address, int], ...]] = {}
        for number, event in self._events:
            self._fold_members(event)
            attempt = self._history.attempt
            is_first = attempt is not None and attempt.validator_set is None
            if isinstance(event, VerdictPosted) and is_first:
                self._validator_set = self._fetch_validator_set(number)
            before = self._history
            fold = apply_event(
                before,
                event,
                BlockContext(number, 0),
                spec=self.spec,
                validator_set=self._validator_set,
                find_ended=self._ended.get,
            )
            self._history, settled = fold.history, fold.settled
            if fold.ended is not None:
                self._ended[fold.ended.attempt.ordinal] = fold.ended
            self._earned = add_rewards(self._earned, fold.payouts)
            if isinstance(event, AttemptOpened):
                participants[number] = tuple(sorted(self._members.items()))
            if settled is None:
                continue
            state = self._advance(before, settled, participants[settled.attempt.open_block], state)
            yield self._compare(settled, state)
            participants = {
                block: members for block, members in participants.items() if block >= number
            }

    def _fold_members(self, event: Event) -> None:
        match event:
            case MinerRegistered():
                self._members[event.miner] = event.units
            case MinerLeft():
                self._members.pop(event.miner, None)
            case _:
                pass

    # One round.

    def _advance(
        self,
        history: TaskHistory,
        settled: SettledRound,
        participants: tuple[tuple[Address, int], ...],
        state: TrainingState,
    ) -> TrainingState:
        attempt = settled.attempt
        outcome = compute_outcome(attempt, self.spec, self._validator_set)
        if not outcome.accepted:
            return state
        block = self._client.call_object("eth_getBlockByNumber", hex(attempt.open_block + 1), False)
        mix_hash = Hash32(read_bytes(get_value(block, "mixHash")))
        description = describe_attempt(
            attempt.id, self.spec, chain_id=self._chain_id, mix_hash=mix_hash
        )
        declared, theta_root = dict(participants), compute_model_root(state)
        gradients = [
            (
                record.units,
                self._open_commitment(
                    record,
                    description.build_header(record.miner, theta_root),
                    declared.get(record.miner, 0),
                ),
            )
            for record in (attempt.commitments[i] for i in outcome.accepted)
        ]
        mean = aggregate(self.spec.aggregator, count_parameters(self.spec.model), gradients)
        rate = compute_learning_rate_ppb(self.spec, attempt.id.round_number)
        return apply_update(self.spec.optimizer, rate, state, mean)

    def _open_commitment(
        self, record: CommitmentRecord, header: GradientHeader, declared_units: int
    ) -> Gradient:
        """The gradient behind an accepted commitment."""
        round_number = header.attempt_id.round_number
        place = f"round {round_number + 1}, miner {to_hex(record.miner)}"
        if declared_units != record.units:
            raise OperatorError(
                f"{place}: the commitment is for {record.units} units, but the miner declared "
                f"{declared_units}; the settlement is wrong"
            )
        receipt = self._client.call_object(
            "pot_getReceipt", self._task_id, round_number, to_hex(record.miner)
        )
        if get_value(receipt, "gradientRoot") is None:
            raise self._build_gone(place, "the gradient")
        root = Hash32(read_bytes(get_text(receipt, "gradientRoot")))
        salt = Hash32(read_bytes(get_text(receipt, "salt")))
        if compute_commitment(header, root, salt, record.units) != record.commitment:
            raise OperatorError(
                f"{place}: the gradient from {self._client.url} does not open the commitment"
            )
        try:
            payload = self._client.get_blob(root, count_payload_bytes(header.parameter_count))
        except ContentUnavailableError as error:
            raise self._build_gone(place, f"the gradient (blob {to_hex(root)})") from error
        try:
            return decode_gradient(payload, header)
        except InvalidGradient as error:
            raise OperatorError(f"{place}: an accepted gradient is malformed: {error}") from error

    def _build_gone(self, place: str, what: str) -> OperatorError:
        return OperatorError(
            f"{place}: {self._client.url} does not have {what} any more: nodes with "
            'blobs.retention = "task" keep it; ask one with --rpc'
        )

    def _compare(self, settled: SettledRound, state: TrainingState) -> ReplayedRound:
        attempt = settled.attempt
        outcome = compute_outcome(attempt, self.spec, self._validator_set)
        rewards = build_reward_tree(self._chain_id, REWARD_DISTRIBUTOR, self._task_id, self._earned)
        return ReplayedRound(
            round_number=attempt.id.round_number,
            block_number=settled.block_number,
            accepted_count=len(outcome.accepted),
            rejected_count=len(attempt.commitments) - len(outcome.accepted),
            settled=settled.vote,
            replayed=ResultVote(
                training_state_root=compute_training_state_root(state),
                model_root=compute_model_root(state),
                rewards_root=rewards.root,
                accepted_units=outcome.accepted_units,
                payout=outcome.payout,
                kind=outcome.kind,
                timely_voters=outcome.timely_voters,
            ),
        )

    # Reading the chain.

    def _fetch_validator_set(self, number: BlockNumber) -> ValidatorSet:
        """The validators in force in a block."""
        return self._client.read(get_current(), hex(number))

    def _fetch_events(self) -> Iterator[tuple[BlockNumber, Event]]:
        """The task's events with their block numbers, in the order of the chain."""
        task = self._client.call_object("pot_getTask", self._task_id)
        if task is None:
            return
        first = get_integer(task, "submittedBlock")
        last = self._client.quantity("eth_blockNumber")
        topics = [None, to_hex(self._task_id.to_bytes(32, "big"))]
        for entry in self._client.logs(
            (TASK_REGISTRY, GRADIENT_LEDGER, MINER_SEATS), topics, first, last
        ):
            event = decode_event(decode_log(entry))
            if event is not None and getattr(event, "task_id", None) == self._task_id:
                yield BlockNumber(int(get_text(entry, "blockNumber"), 16)), event
