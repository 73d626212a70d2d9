"""Tasks, validator_sets and events for the tests of what the chain says and what is owed."""

from chain.contracts.events import Event
from chain.contracts.gradient_ledger import (
    AttemptOpened,
    GradientCommitted,
    ResultPosted,
    ResultVote,
    VerdictPosted,
)
from chain.contracts.task_registry import TaskActivated, TaskSubmitted
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.training.acceptance import Verdict, encode_verdicts
from chain.training.history import BlockContext, TaskHistory, apply_event, build_history
from chain.training.task_spec import encode_task_spec
from chain.types.validator_set import ValidatorSet
from tests.worlds.training import SPEC

TASK = TaskId(1)
VALIDATORS = tuple(Address(bytes([0xA0 + i]) * 20) for i in range(4))
OPERATORS = tuple(Address(bytes([0xB0 + i]) * 20) for i in range(4))
COMMITTEE = ValidatorSet(VALIDATORS, OPERATORS)
MINERS = tuple(Address(bytes([0xC0 + i]) * 20) for i in range(3))
VOTE = ResultVote(Hash32(b"\x01" * 32), Hash32(b"\x02" * 32), Hash32(b"\x03" * 32), 2)
SUBMITTED = TaskSubmitted(
    task_id=TASK,
    submitter=Address(b"\xdd" * 20),
    spec_hash=Hash32(b"\xee" * 32),
    budget=10**20,
    spec=encode_task_spec(SPEC),
)


def at(number: int) -> BlockContext:
    """A block, one second after another."""
    return BlockContext(BlockNumber(number), 1_000 + number)


def opened(round_number: int = 0, attempt: int = 0) -> AttemptOpened:
    """An attempt for which three commitments are expected."""
    return AttemptOpened(TASK, round_number, attempt, 3, 10**19)


def committed(index: int, units: int = 1) -> GradientCommitted:
    """The commitment of one miner in the first attempt."""
    return GradientCommitted(TASK, 0, MINERS[index], 0, index, units, Hash32(bytes([index]) * 32))


def verdict(
    validator: int, *verdicts: Verdict, timely: bool = True, ballot: int = 0
) -> VerdictPosted:
    """One validator's verdicts."""
    return VerdictPosted(
        TASK, 0, VALIDATORS[validator], 0, ballot, timely, encode_verdicts(verdicts)
    )


def result(validator: int, vote: ResultVote = VOTE, correct: int | None = None) -> ResultPosted:
    """One validator's result."""
    return ResultPosted(TASK, 0, VALIDATORS[validator], 0, 0, vote, correct, 500 + validator)


def history_after(*events: Event, start: int = 2) -> TaskHistory:
    """The history of an active task after events, each in a block of its own."""
    history = build_history(SUBMITTED, at(1))
    for number, event in enumerate((TaskActivated(TASK), *events), start):
        history, _ = apply_event(history, event, at(number), spec=SPEC, validator_set=COMMITTEE)
    return history
