"""The training index of a snapshot (docs/spec/consensus.md, section 10).

A late node has no old events, but the contracts' state is verified. It says how far each task is
and holds the hashes of what is too large for it: the specification and the cumulative rewards. The
attempt in progress is folded from the receipts since it opened, as every node folds it.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from chain.contracts import gradient_ledger, reward_distributor, task_registry
from chain.contracts import validator_set as set_contract
from chain.contracts.addresses import REWARD_DISTRIBUTOR
from chain.contracts.events import Event, decode_event
from chain.contracts.gradient_ledger import AttemptOpened, RoundState
from chain.contracts.set_reader import read_next_set
from chain.contracts.state_reader import StateReader
from chain.contracts.task_registry import TaskStatus
from chain.contracts.task_storage import ClosedTask, read_closed_task
from chain.crypto import sha256
from chain.errors import InvalidSpec, RejectedInputError, RejectionReason
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.state.world_state import ReadableDatabase, get_storage
from chain.training.history import BlockContext, TaskHistory, apply_event
from chain.training.leases import READY_CODE
from chain.training.rewards import build_reward_tree
from chain.training.task_spec import TaskSpec
from chain.training.task_spec_codec import decode_task_spec
from chain.types.header import Header
from chain.types.receipt import Receipt
from chain.types.validator_set import ValidatorSet
from node.network.protocols.state import TaskRecord


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """A task as the contracts alone know it."""

    history: TaskHistory
    """Without the attempt in progress."""
    rewards: tuple[tuple[Address, int], ...]
    """What each account has earned, by ascending address."""
    round: RoundState | None
    """None if no attempt is in progress."""

    @property
    def open_block(self) -> BlockNumber | None:
        """Where the attempt in progress opened; None if there is none."""
        return None if self.round is None else self.round.open_block


class StateView:
    """The contracts in the state after one block."""

    def __init__(self, database: ReadableDatabase, header: Header, chain_id: int) -> None:
        self._database = database
        self._header = header
        self._chain_id = chain_id
        self.read = StateReader.at(database, header, chain_id).read

    def read_slot(self, contract: Address, slot: int) -> int:
        """The value of a storage slot of a contract."""
        return get_storage(self._database, self._header.state_root, contract, slot)

    def task_count(self) -> int:
        """The number of tasks submitted so far; their ids are 1 to this."""
        return self.read(task_registry.task_count())

    def validator_set(self) -> ValidatorSet:
        """The validator set that decided this block."""
        return self.read(set_contract.get_current())

    def next_validator_set(self, current: ValidatorSet) -> ValidatorSet:
        """The validator set that decides the next block."""
        found = read_next_set(self._database, self._header, self._chain_id, current.validators)
        return found or current

    def judges(self, progress: TaskProgress) -> tuple[ValidatorSet, ...]:
        """The validator set that judges each ballot of the attempt in progress; none without one.

        The set may have changed between two ballots.
        """
        if progress.round is None:
            return ()
        last, task_id = progress.round.ballot_number, progress.history.task_id
        versions = (
            self.read(gradient_ledger.judges_of(task_id, number))
            for number in range(last - progress.round.ballot, last + 1)
        )
        return tuple(self.read(set_contract.get_version(version)) for version in versions)

    def build_progress(
        self, task_id: TaskId, record: TaskRecord, validator_set: ValidatorSet
    ) -> TaskProgress:
        """A task, from the contracts and from what a peer says of it.

        Raises:
            RejectedInputError: CONTENT_MISMATCH: the contracts hold other hashes.
        """
        closed = read_closed_task(self.read_slot, task_id, validator_set.validators)
        if closed is not None:
            return self._build_closed(task_id, record, validator_set, closed)
        root = self.read(reward_distributor.root_of(task_id))
        spec_hash = self.read(task_registry.get_terms(task_id)).spec_hash
        self._validate_record(task_id, record, spec_hash, root)
        account = self.read(task_registry.get_account(task_id))
        state = self.read(gradient_ledger.get_round(task_id))
        answers = self._list_answers(task_id, validator_set)
        history = TaskHistory(
            task_id=task_id,
            submitter=account.submitter,
            spec_hash=spec_hash,
            spec=record.spec,
            budget=account.escrowed,
            submitted_block=account.submitted_block,
            status=account.status,
            ready=tuple(validator for validator, code in answers if code == READY_CODE),
            refusals=tuple(each for each in answers if each[1] != READY_CODE),
            lease=self.read(task_registry.get_lease(task_id)),
            rounds_settled=state.round,
            training_state_root=state.training_state_root,
            model_root=state.model_root,
            ballot_count=state.ballot_number,
        )
        return TaskProgress(history, record.rewards, state if state.open else None)

    def _build_closed(
        self, task_id: TaskId, record: TaskRecord, validator_set: ValidatorSet, closed: ClosedTask
    ) -> TaskProgress:
        self._validate_record(task_id, record, closed.spec_hash, closed.rewards_root)
        answers = _name_answers(validator_set, closed.answers)
        history = TaskHistory(
            task_id=task_id,
            submitter=closed.submitter,
            spec_hash=closed.spec_hash,
            spec=record.spec,
            budget=closed.escrowed,
            submitted_block=closed.submitted_block,
            status=TaskStatus.CLOSED,
            close_reason=closed.close_reason,
            closed=BlockContext(closed.closed_block, closed.closed_time),
            ready=tuple(validator for validator, code in answers if code == READY_CODE),
            refusals=tuple(each for each in answers if each[1] != READY_CODE),
            lease=closed.lease,
            rounds_settled=closed.rounds_settled,
            training_state_root=closed.training_state_root,
            model_root=closed.model_root,
            ballot_count=closed.ballot_count,
        )
        return TaskProgress(history, record.rewards, None)

    def _validate_record(
        self, task_id: TaskId, record: TaskRecord, spec_hash: Hash32, rewards_root: Hash32
    ) -> None:
        if sha256(record.spec) != spec_hash:
            raise RejectedInputError(RejectionReason.CONTENT_MISMATCH, f"spec of task {task_id}")
        rewards = dict(record.rewards)
        is_canonical = tuple(sorted(rewards.items())) == record.rewards and all(rewards.values())
        tree = build_reward_tree(self._chain_id, REWARD_DISTRIBUTOR, task_id, rewards)
        if not is_canonical or tree.root != rewards_root:
            raise RejectedInputError(RejectionReason.CONTENT_MISMATCH, f"rewards of task {task_id}")

    def _list_answers(
        self, task_id: TaskId, validator_set: ValidatorSet
    ) -> list[tuple[Address, int]]:
        """The validators of a set that answered to a task, with their codes."""
        found = (
            self.read(task_registry.get_answer(task_id, operator))
            for operator in validator_set.operators
        )
        return _name_answers(validator_set, found)


def _name_answers(validator_set: ValidatorSet, answers: Iterable[int]) -> list[tuple[Address, int]]:
    """The validators that answered, with their codes, from each one's code plus 1, or 0."""
    found = zip(validator_set.validators, answers, strict=True)
    return [(validator, answer - 1) for validator, answer in found if answer]


class AttemptFold:
    """Folds the attempt in progress of one task from the events of blocks, in their order.

    Nothing is kept of the events but the attempt, because a long one sees any number of them.
    """

    def __init__(self, progress: TaskProgress, judges: Sequence[ValidatorSet]) -> None:
        """Begin before the attempt has opened.

        Args:
            progress: What the contracts say; an attempt is in progress.
            judges: The validator set that judges each ballot of the attempt.
        """
        assert progress.round is not None
        self._progress = progress
        self._round = progress.round
        self._judges = judges
        self._spec: TaskSpec | None = None
        with suppress(InvalidSpec):
            self._spec = decode_task_spec(progress.history.spec)
        opened = progress.round.ballot_number - progress.round.ballot
        self._folded = replace(progress.history, ballot_count=opened - 1)

    def apply(self, event: Event, context: BlockContext) -> None:
        """Fold an event of the task, unless it is of an earlier attempt."""
        state, attempt = self._round, self._folded.attempt
        is_opening = isinstance(event, AttemptOpened) and (
            context.number,
            event.round,
            event.attempt,
        ) == (state.open_block, state.round, state.attempt)
        if is_opening or attempt is not None:
            judges = self._judges[0 if attempt is None else attempt.ballot]
            self._folded = apply_event(
                self._folded, event, context, spec=self._spec, validator_set=judges
            ).history

    def finish(self) -> TaskHistory:
        """The task with its attempt, after all events."""
        attempt = self._folded.attempt
        assert attempt is not None, "the ledger says that it is open"
        assert len(attempt.commitments) == self._round.commitment_count
        return replace(self._progress.history, attempt=attempt)


def fold_attempts(
    view: StateView,
    tasks: Sequence[TaskProgress],
    executed: Iterable[tuple[Header, Sequence[Receipt]]],
) -> list[TaskHistory]:
    """All tasks with their attempts in progress.

    It belongs into a thread: an event takes 70 us to decode, and a day has hundreds of thousands.
    Each is decoded once for all tasks.

    Args:
        view: The contracts after the last of the blocks.
        tasks: What the contracts say of each task.
        executed: Blocks with their receipts, ascending: all since the first of the attempts opened
            that may hold events of the ledger.
    """
    folds = {
        task.history.task_id: AttemptFold(task, view.judges(task))
        for task in tasks
        if task.round is not None
    }
    for header, receipts in executed:
        context = BlockContext(header.number, header.timestamp)
        for event in (decode_event(log) for receipt in receipts for log in receipt.logs):
            task_id = getattr(event, "task_id", None)
            if event is not None and task_id in folds:
                folds[task_id].apply(event, context)
    return [
        task.history if task.round is None else folds[task.history.task_id].finish()
        for task in tasks
    ]


def fold_attempt(
    progress: TaskProgress,
    blocks: Iterable[tuple[BlockContext, Sequence[Event]]],
    judges: Sequence[ValidatorSet],
) -> TaskHistory:
    """The task with its attempt in progress.

    Args:
        progress: What the contracts say.
        blocks: Blocks with their events, ascending: all from where the attempt opened that may hold
            events of the ledger.
        judges: The validator set that judges each ballot of the attempt.
    """
    if progress.round is None:
        return progress.history
    fold = AttemptFold(progress, judges)
    for context, events in blocks:
        for event in events:
            if getattr(event, "task_id", None) == progress.history.task_id:
                fold.apply(event, context)
    return fold.finish()
