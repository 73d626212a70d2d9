"""The contract that runs rounds: calls, answers and events (docs/spec/contracts.md)."""

from collections.abc import Sequence
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

EVIDENCE_BALLOTS: Final = 4
"""The ledger keeps the evidence of this many latest ballots of a task; slashing needs one of
them."""

BOND_CLOSED_BLOCKS: Final = 16
"""Blocks after the end of a closed task until its bonds are free. From then on no miner of it can
be slashed."""


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

    Fields that a kind does not use are 0.
    """

    training_state_root: Hash32
    model_root: Hash32
    rewards_root: Hash32
    accepted_units: int
    payout: int
    """Base units of the task's token, for miners and operators together."""
    kind: ResultKind


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
    open: bool
    open_block: BlockNumber
    """The opening block S: miners registered by its end take part. If no attempt is open, this and
    the following fields are 0."""
    open_time: int
    verdict_block: BlockNumber
    verdict_time: int
    result_block: BlockNumber
    result_time: int
    expected_commitments: int
    commitment_count: int
    committed_units: int
    verdict_count: int
    """Timely verdicts in this ballot."""
    result_count: int
    commitment_digest: Hash32
    training_state_root: Hash32
    """The root after the last settled round; zero before the first."""
    model_root: Hash32
    paid_total: int


@dataclass(frozen=True, slots=True)
class MinerState:
    """A miner's registration; `units` is 0 if it never registered."""

    units: int
    registered_block: BlockNumber
    left_block: BlockNumber
    """0 until the miner leaves."""
    left_ballot_number: int
    bond: int


@dataclass(frozen=True, slots=True)
class Participant:
    """A registered miner and its declared units of work in a round."""

    miner: Address
    units: int


@dataclass(frozen=True, slots=True)
class Deadline:
    """The deadline of a phase: over when both values are reached. Both are 0 if it has none."""

    block_number: BlockNumber
    timestamp: int


@dataclass(frozen=True, slots=True)
class CommitmentEvidence:
    """One entry of a ballot's list of commitments, as an argument of `slash`."""

    miner: Address
    units: int
    commitment: Hash32


@dataclass(frozen=True, slots=True)
class MinerRegistered:
    """A miner registered; it takes part from the next attempt on."""

    task_id: TaskId
    miner: Address
    units: int
    bond: int


@dataclass(frozen=True, slots=True)
class MinerLeft:
    """A miner left, or was removed because it was slashed."""

    task_id: TaskId
    miner: Address


@dataclass(frozen=True, slots=True)
class BondWithdrawn:
    """A miner took its bond back."""

    task_id: TaskId
    miner: Address
    amount: int


@dataclass(frozen=True, slots=True)
class AttemptOpened:
    """An attempt opened, for miners registered by the end of this block.

    `reserved` base units of the escrow are set aside for it.
    """

    task_id: TaskId
    round: int
    attempt: int
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


@dataclass(frozen=True, slots=True)
class MinerSlashed:
    """A miner lost its bond (`cheated`), or what a miss costs."""

    task_id: TaskId
    miner: Address
    amount: int
    cheated: bool


@dataclass(frozen=True, slots=True)
class CreditWithdrawn:
    """An account withdrew its share of slashed bonds."""

    token: Address
    account: Address
    amount: int


def register(task_id: TaskId, units: int) -> ContractCall:
    """Register the caller as a miner; the bond must have been approved to the ledger."""
    return CONTRACT.call("register", task_id, units)


def leave(task_id: TaskId) -> ContractCall:
    """Leave a task; the caller still takes part in an attempt that is open already."""
    return CONTRACT.call("leave", task_id)


def withdraw_bond(task_id: TaskId) -> ContractCall:
    """Take the caller's bond back, once it is not locked any more."""
    return CONTRACT.call("withdrawBond", task_id)


def commit_gradient(
    task_id: TaskId, round_number: int, attempt: int, units: int, commitment: Hash32
) -> ContractCall:
    """Commit to the caller's gradient."""
    return CONTRACT.call("commitGradient", task_id, round_number, attempt, units, commitment)


def post_verdict(
    task_id: TaskId, round_number: int, attempt: int, ballot: int, verdicts: bytes
) -> ContractCall:
    """Vote on all commitments, with two bits for each; for operators."""
    return CONTRACT.call("postVerdict", task_id, round_number, attempt, ballot, verdicts)


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


def slash(
    task_id: TaskId,
    ballot_number: int,
    commitments: Sequence[CommitmentEvidence],
    verdicts: Sequence[tuple[Address, bytes]],
    indices: Sequence[int],
) -> ContractCall:
    """Slash miners that a ballot found guilty; any account may call this.

    Args:
        task_id: The task.
        ballot_number: The ballot's number within the task.
        commitments: All commitments of the attempt, in their order.
        verdicts: All timely verdicts of the ballot, each with the validator that posted it.
        indices: The positions of the guilty miners among the commitments.
    """
    return CONTRACT.call(
        "slash",
        task_id,
        ballot_number,
        commitments,
        [validator for validator, _ in verdicts],
        [each for _, each in verdicts],
        indices,
    )


def withdraw_credit(token: Address) -> ContractCall:
    """Withdraw the caller's share of slashed bonds."""
    return CONTRACT.call("withdrawCredit", token)


def phase(task_id: TaskId) -> ContractView[Phase]:
    """The current phase of a task."""
    return CONTRACT.view("phase", task_id, returns=Phase)


def deadline(task_id: TaskId) -> ContractView[Deadline]:
    """The deadline of the current phase of a task."""
    return CONTRACT.view("deadline", task_id, returns=Deadline)


def get_round(task_id: TaskId) -> ContractView[RoundState]:
    """The current round, attempt and ballot of a task."""
    return CONTRACT.view("getRound", task_id, returns=RoundState)


def get_miner(task_id: TaskId, miner: Address) -> ContractView[MinerState]:
    """A miner's registration for a task."""
    return CONTRACT.view("getMiner", task_id, miner, returns=MinerState)


def participants(task_id: TaskId) -> ContractView[tuple[Participant, ...]]:
    """The registered miners of a task, by ascending address."""
    return CONTRACT.view("participants", task_id, returns=_build_participants)


def judges_of(task_id: TaskId) -> ContractView[int]:
    """The version of the validator set that judges the ballot in progress."""
    return CONTRACT.view("judgesOf", task_id, returns=int)


def credit_of(token: Address, account: Address) -> ContractView[int]:
    """The base units of slashed bonds that an account may withdraw."""
    return CONTRACT.view("creditOf", token, account, returns=int)


def encode_constructor(phase_floor_blocks: int, grace_blocks: int) -> bytes:
    """The constructor's argument: the number of blocks that a phase lasts at least."""
    return CONTRACT.encode_constructor(phase_floor_blocks, grace_blocks)


def _build_participants(
    miners: tuple[Address, ...], units: tuple[int, ...]
) -> tuple[Participant, ...]:
    return tuple(Participant(*pair) for pair in sorted(zip(miners, units, strict=True)))
