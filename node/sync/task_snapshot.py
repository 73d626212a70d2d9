"""The training index of a snapshot (docs/spec/consensus.md, section 10).

A late node has no old events, but the contracts' state is verified. It says how far each task is
and holds the hashes of what is too large for it: the specification and the cumulative rewards. The
attempt in progress is folded from the receipts since it opened, as every node folds it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from chain.contracts.abi import decode_hash, decode_uint
from chain.contracts.addresses import (
    GRADIENT_LEDGER,
    REWARD_DISTRIBUTOR,
    TASK_REGISTRY,
    VALIDATOR_SET,
)
from chain.contracts.events import decode_event
from chain.contracts.gradient_ledger import (
    AttemptOpened,
    RoundState,
    decode_round,
    encode_get_round,
    encode_judges_of,
    encode_participants,
)
from chain.contracts.reward_distributor import encode_root_of
from chain.contracts.set_reader import read_next_set
from chain.contracts.task_registry import (
    CloseReason,
    TaskStatus,
    decode_account,
    decode_terms,
    encode_get_account,
    encode_get_terms,
    encode_is_ready,
    encode_task_count,
)
from chain.contracts.validator_set import decode_committee, encode_committee, encode_committee_of
from chain.crypto import content_id, keccak256
from chain.errors import InvalidSpec, RejectedInputError, RejectionReason
from chain.execution.block_environment import BlockEnvironment
from chain.execution.call_values import CallRequest
from chain.execution.evm import call
from chain.hexadecimal import to_hex
from chain.primitives import Address, BlockNumber, TaskId
from chain.state.world_state import ReadableDatabase
from chain.training.history import BlockContext, TaskHistory, apply_event
from chain.training.rewards import build_reward_tree
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
    round: RoundState

    @property
    def open_block(self) -> BlockNumber | None:
        """Where the attempt in progress opened; None if there is none."""
        is_open = self.round.open and not self.history.is_closed
        return self.round.open_block if is_open else None


class ContractView:
    """Views of the system contracts on the state after one block."""

    def __init__(self, database: ReadableDatabase, header: Header, chain_id: int) -> None:
        self._database = database
        self._header = header
        self._chain_id = chain_id

    def task_count(self) -> int:
        """Tasks submitted so far; their ids are 1 to this."""
        return decode_uint(self._call(TASK_REGISTRY, encode_task_count()))

    def validator_set(self) -> ValidatorSet:
        """Who decided this block."""
        data = self._call(VALIDATOR_SET, encode_committee())
        return ValidatorSet(*decode_committee(data))

    def next_validator_set(self, current: ValidatorSet) -> ValidatorSet:
        """Who decides the next block."""
        found = read_next_set(self._database, self._header, self._chain_id, current.validators)
        return current if found is None else ValidatorSet(*found)

    def judges(self, task_id: TaskId) -> ValidatorSet:
        """Who judges the ballot in progress."""
        version = self._call(GRADIENT_LEDGER, encode_judges_of(task_id))
        data = self._call(
            VALIDATOR_SET,
            encode_committee_of(decode_uint(version)),
        )
        return ValidatorSet(*decode_committee(data))

    def read_participants(self, task_id: TaskId) -> None:
        """Ask who takes part in the attempt that opened in this block, to see if that can be told.

        Raises:
            MissingTrieNodeError: the state is not held as far as that.
        """
        self._call(GRADIENT_LEDGER, encode_participants(task_id))

    def build_progress(
        self, task_id: TaskId, record: TaskRecord, validator_set: ValidatorSet
    ) -> TaskProgress:
        """A task, from the contracts and from what a peer says of it.

        Raises:
            RejectedInputError: CONTENT_MISMATCH: the contracts hold other hashes.
        """
        terms = decode_terms(self._call(TASK_REGISTRY, encode_get_terms(task_id)))
        root = decode_hash(self._call(REWARD_DISTRIBUTOR, encode_root_of(task_id)))
        if content_id(record.spec) != terms.spec_hash:
            raise RejectedInputError(RejectionReason.CONTENT_MISMATCH, f"spec of task {task_id}")
        rewards = dict(record.rewards)
        is_canonical = tuple(sorted(rewards.items())) == record.rewards and all(rewards.values())
        tree = build_reward_tree(self._chain_id, REWARD_DISTRIBUTOR, task_id, rewards)
        if not is_canonical or tree.root != root:
            raise RejectedInputError(RejectionReason.CONTENT_MISMATCH, f"rewards of task {task_id}")
        account = decode_account(self._call(TASK_REGISTRY, encode_get_account(task_id)))
        state = decode_round(self._call(GRADIENT_LEDGER, encode_get_round(task_id)))
        # Why else it was closed is told by its event alone.
        is_completed = account.status is TaskStatus.CLOSED and state.round == terms.rounds
        history = TaskHistory(
            task_id=task_id,
            submitter=account.submitter,
            spec_hash=terms.spec_hash,
            spec=record.spec,
            budget=account.escrowed,
            submitted_block=account.submitted_block,
            status=account.status,
            close_reason=CloseReason.COMPLETED if is_completed else None,
            ready=tuple(
                validator
                for validator, operator in zip(
                    validator_set.validators, validator_set.operators, strict=True
                )
                if self._is_ready(task_id, operator)
            ),
            rounds_settled=state.round,
            training_state_root=state.training_state_root,
            model_root=state.model_root,
            ballot_count=state.ballot_number,
            rewards=record.rewards,
        )
        return TaskProgress(history, state)

    def _is_ready(self, task_id: TaskId, operator: Address) -> bool:
        answer = self._call(TASK_REGISTRY, encode_is_ready(task_id, operator))
        return bool(decode_uint(answer))

    def _call(self, to: Address, data: bytes) -> bytes:
        environment = BlockEnvironment.of(self._header, self._chain_id)
        request = CallRequest(to=to, data=data)
        result = call(self._database, self._header.state_root, environment, request)
        assert result.is_success, f"a view of {to_hex(to)} failed: {result.error}"
        return result.output


def fold_attempt(
    progress: TaskProgress,
    executed: Iterable[tuple[Header, Sequence[Receipt]]],
    validator_set: ValidatorSet,
) -> TaskHistory:
    """The task with its attempt in progress.

    Args:
        progress: what the contracts say.
        executed: blocks with their receipts, ascending: all from where the attempt opened that may
            hold events of the ledger.
        validator_set: who judges.
    """
    if progress.open_block is None:
        return progress.history
    try:
        spec = decode_task_spec(progress.history.spec)
    except InvalidSpec:
        spec = None
    opened = progress.round.ballot_number - progress.round.ballot
    folded = replace(progress.history, ballot_count=opened - 1)
    for header, receipts in executed:
        context = BlockContext(header.number, header.timestamp)
        for receipt in receipts:
            for log in receipt.logs:
                event = decode_event(log)
                if event is None or getattr(event, "task_id", None) != progress.history.task_id:
                    continue
                is_opening = isinstance(event, AttemptOpened) and (
                    header.number,
                    event.round,
                    event.attempt,
                ) == (progress.open_block, progress.round.round, progress.round.attempt)
                if is_opening or folded.attempt is not None:
                    folded = apply_event(
                        folded, event, context, spec=spec, validator_set=validator_set
                    ).history
    attempt = folded.attempt
    assert attempt is not None, "the ledger says that it is open"
    assert _compute_digest(folded) == progress.round.commitment_digest
    return replace(progress.history, attempt=attempt)


def _compute_digest(history: TaskHistory) -> bytes:
    """The ledger's chain of hashes over the commitments of the attempt."""
    assert history.attempt is not None
    digest = bytes(32)
    for record in history.attempt.commitments:
        words = (digest, record.miner, record.units.to_bytes(4, "big"), record.commitment)
        digest = keccak256(b"".join(word.rjust(32, b"\0") for word in words))
    return digest
