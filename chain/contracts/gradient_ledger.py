"""The contract that runs rounds: calls, answers and events (docs/spec/contracts.md)."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from chain.contracts import tables
from chain.contracts.abi import Contract, ContractCall, ContractView
from chain.contracts.addresses import GRADIENT_LEDGER
from chain.primitives import Address, BlockNumber, Hash32, TaskId

CONTRACT: Final = Contract(GRADIENT_LEDGER, tables.GRADIENT_LEDGER)
"""The contract that genesis deploys."""

NOT_EVALUATED: Final = 2**32 - 1
"""The correct count of a validator that did not evaluate the held-out split."""

MAX_BALLOTS: Final = 3
"""Ballots of one attempt at most. If the last one fails, the attempt is void."""

RING: Final = 512
"""The ledger keeps the records of so many latest attempts and ballots of a task."""

MIN_WINDOW_BLOCKS: Final = 64
"""The least number of blocks of each window after an attempt: late verdicts, fines, slashes."""

BLOCKS_PER_SECOND: Final = 2
"""The window for late verdicts has so many blocks for each second of the verdict phase. It lasts at
least as long as that phase, unless blocks come faster than this."""


class Phase(IntEnum):
    """The phases of a task, numbered as in the contract."""

    INACTIVE = 0
    WAITING = 1
    COMMITMENT = 2
    VERDICT = 3
    AUDIT = 4
    RESULT = 5
    PAYMENT = 6
    SETTLEABLE = 7
    STALLED = 8


class ResultKind(IntEnum):
    """What a result does to its attempt, numbered as in the contract."""

    SETTLED = 0
    """The round is settled: the model advances, and accepted units are paid."""
    FAILED = 1
    """The ballot could not decide on every gradient: the attempt's next ballot is held."""
    VOID = 2
    """No gradient was accepted: the attempt ends without pay."""
    PAID_ONLY = 3
    """The last ballot has no result in time: accepted units are paid, and the model stays."""


@dataclass(frozen=True, slots=True)
class ResultVote:
    """The result of a ballot, of which a quorum must post the same.

    Fields that a kind does not use are 0; every kind uses `timely_voters`.
    """

    training_state_root: Hash32
    model_root: Hash32
    rewards_root: Hash32
    accepted_units: int
    payout: int
    """Base units of the task's token, for miners and operators together."""
    kind: ResultKind
    timely_voters: int
    """Which judges' timely verdicts it was computed from: bit i stands for the judge with index i.
    The ledger refuses a result that counts other verdicts than the ballot has."""


@dataclass(frozen=True, slots=True)
class RoundState:
    """The progress of a task: its current round, attempt and ballot."""

    round: int
    """0-based; equals the number of rounds settled so far."""
    attempt: int
    ballot: int
    void_streak: int
    ballot_number: int
    """Counts all ballots of the task, from 1."""
    attempt_count: int
    """Counts all attempts of the task: the ordinal of the one that opened last."""
    open: bool
    open_block: BlockNumber
    """The opening block S: miners that had a seat when it opened take part. If no attempt is open,
    this field and the others up to `result_count` are 0."""
    open_time: int
    verdict_block: BlockNumber
    verdict_time: int
    result_block: BlockNumber
    result_time: int
    expected_commitments: int
    commitment_count: int
    committed_units: int
    verdict_count: int
    """The validators with a timely verdict in this ballot."""
    result_count: int
    training_state_root: Hash32
    """The root after the last settled round; zero before the first."""
    model_root: Hash32
    paid_total: int


@dataclass(frozen=True, slots=True)
class Deadline:
    """The deadline of a phase: over when both values are reached. Both are 0 if it has none."""

    block_number: BlockNumber
    timestamp: int


@dataclass(frozen=True, slots=True)
class EndedAttemptState:
    """An attempt that has ended; all fields are 0 if the ledger does not keep it any more."""

    ordinal: int
    ballot_number: int
    """The number of its last ballot."""
    judges: int
    """The version of the validator set that judged its last ballot."""
    window_blocks: int
    """The blocks after late verdicts in which fines are voted on; slashes have as many more."""
    late_blocks: int
    """The blocks after its end in which late verdicts are taken."""
    ended_block: BlockNumber


@dataclass(frozen=True, slots=True)
class AttemptOpened:
    """An attempt opened, for the miners that have a seat.

    `reserved` base units of the escrow are set aside for it.
    """

    task_id: TaskId
    round: int
    attempt: int
    ordinal: int
    """Counts all attempts of the task, from 1."""
    expected_commitments: int
    reserved: int


@dataclass(frozen=True, slots=True)
class GradientCommitted:
    """A miner committed to a gradient; `index` is the position in the attempt's commitments."""

    task_id: TaskId
    round: int
    miner: Address
    attempt: int
    index: int
    units: int
    commitment: Hash32


@dataclass(frozen=True, slots=True)
class VerdictPosted:
    """An operator voted on all commitments of an attempt."""

    task_id: TaskId
    round: int
    validator: Address
    """The validator; its operator account sent the vote."""
    attempt: int
    ballot: int
    timely: bool
    verdicts: bytes


@dataclass(frozen=True, slots=True)
class LateVerdictPosted:
    """An operator gave its late verdicts on an attempt that has ended."""

    task_id: TaskId
    validator: Address
    """The validator; its operator account sent the vote."""
    ordinal: int
    verdicts: bytes


@dataclass(frozen=True, slots=True)
class ResultPosted:
    """An operator voted on the result of a round; this replaces its earlier vote."""

    task_id: TaskId
    round: int
    validator: Address
    attempt: int
    ballot: int
    result: ResultVote
    correct_count: int | None
    """Correct predictions on the held-out split; None if the voting validator did not evaluate."""
    loss_millinats: int


@dataclass(frozen=True, slots=True)
class RoundSettled:
    """A round was settled."""

    task_id: TaskId
    round: int
    attempt: int
    ballot: int
    result: ResultVote


@dataclass(frozen=True, slots=True)
class AttemptPaid:
    """A void attempt is paid for what it accepted; `AttemptVoided` follows."""

    task_id: TaskId
    round: int
    attempt: int
    ballot: int
    result: ResultVote


@dataclass(frozen=True, slots=True)
class BallotFailed:
    """A ballot missed its quorum. The votes are cast again, or the attempt is void."""

    task_id: TaskId
    round: int
    attempt: int
    ballot: int


@dataclass(frozen=True, slots=True)
class AttemptVoided:
    """An attempt is void. The round starts again with the next attempt."""

    task_id: TaskId
    round: int
    attempt: int


def commit_gradient(
    task_id: TaskId, round_number: int, attempt: int, units: int, commitment: Hash32
) -> ContractCall:
    """Commit to the caller's gradient."""
    return CONTRACT.call("commitGradient", task_id, round_number, attempt, units, commitment)


def post_verdict(
    task_id: TaskId, round_number: int, attempt: int, ballot: int, verdicts: bytes
) -> ContractCall:
    """Vote on all commitments, with four bits for each; for operators."""
    return CONTRACT.call("postVerdict", task_id, round_number, attempt, ballot, verdicts)


def post_late_verdict(task_id: TaskId, ordinal: int, verdicts: bytes) -> ContractCall:
    """Give late verdicts on an attempt that has ended; for operators."""
    return CONTRACT.call("postLateVerdict", task_id, ordinal, verdicts)


def post_result(
    task_id: TaskId,
    round_number: int,
    attempt: int,
    ballot: int,
    vote: ResultVote,
    correct_count: int | None,
    loss_millinats: int,
) -> ContractCall:
    """Vote on the result of a round; for operators. `correct_count` is None if not evaluated."""
    count = NOT_EVALUATED if correct_count is None else correct_count
    return CONTRACT.call(
        "postResult", task_id, round_number, attempt, ballot, vote, count, loss_millinats
    )


def settle_round(task_id: TaskId, vote: ResultVote) -> ContractCall:
    """Settle the round with the result that a quorum posted; any account may call this."""
    return CONTRACT.call("settleRound", task_id, vote)


def advance_round(task_id: TaskId) -> ContractCall:
    """Move a stalled or waiting task on; any account may call this."""
    return CONTRACT.call("advanceRound", task_id)


def phase(task_id: TaskId) -> ContractView[Phase]:
    """The current phase of a task."""
    return CONTRACT.view("phase", task_id, returns=Phase)


def deadline(task_id: TaskId) -> ContractView[Deadline]:
    """The deadline of the current phase of a task."""
    return CONTRACT.view("deadline", task_id, returns=Deadline)


def get_round(task_id: TaskId) -> ContractView[RoundState]:
    """The current round, attempt and ballot of a task."""
    return CONTRACT.view("getRound", task_id, returns=RoundState)


def ended_attempt(task_id: TaskId, ordinal: int) -> ContractView[EndedAttemptState]:
    """An attempt that has ended, as long as the ledger keeps it."""
    return CONTRACT.view("endedAttempt", task_id, ordinal, returns=EndedAttemptState)


def judges_of(task_id: TaskId, ballot_number: int) -> ContractView[int]:
    """The version of the validator set that judges a ballot, one of the latest 512."""
    return CONTRACT.view("judgesOf", task_id, ballot_number, returns=int)


def encode_constructor(phase_floor_blocks: int, grace_blocks: int) -> bytes:
    """The constructor's argument: the number of blocks that a phase lasts at least."""
    return CONTRACT.encode_constructor(phase_floor_blocks, grace_blocks)


def compute_window_blocks(quorum: int) -> int:
    """The blocks of each window after an attempt that a set with this quorum judged.

    All operators have a turn of two blocks in it, and there are some left for a call that f faulty
    primaries in a row leave out of their blocks.
    """
    max_faulty = (quorum - 1) // 2
    return max(MIN_WINDOW_BLOCKS, 3 * quorum + 2 * (max_faulty + 1) + 8)


def compute_late_blocks(quorum: int, verdict_seconds: int) -> int:
    """The blocks after an attempt in which late verdicts are taken."""
    return max(compute_window_blocks(quorum), BLOCKS_PER_SECOND * verdict_seconds)
