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
"""As genesis deploys it."""

NOT_EVALUATED: Final = 2**32 - 1
"""The correct count of a validator that did not evaluate the held-out split."""

MAX_BALLOTS: Final = 3
"""The most ballots of one attempt: an attempt whose last ballot fails is void."""

EVIDENCE_BALLOTS: Final = 4
"""The ledger keeps the evidence of so many ballots of a task, and slashes by no older one."""

BOND_CLOSED_BLOCKS: Final = 16
"""A closed task has no further ballots. So many blocks after it closed, the ledger returns its
bonds, and no miner can be slashed any more."""


class Phase(IntEnum):
    """The ledger's enum, number by number."""

    INACTIVE = 0
    WAITING = 1
    COMMITMENT = 2
    VERDICT = 3
    DISPUTE = 4
    RESULT = 5
    SETTLEABLE = 6
    STALLED = 7


@dataclass(frozen=True, slots=True)
class ResultVote:
    """What q validators must say alike to settle a round."""

    training_state_root: Hash32
    model_root: Hash32
    rewards_root: Hash32
    accepted_units: int


@dataclass(frozen=True, slots=True)
class RoundState:
    """Where a task stands: the round, its attempt and its ballot in progress."""

    round: int
    """0-based; equals the rounds settled so far."""
    attempt: int
    ballot: int
    void_streak: int
    ballot_number: int
    """Counts every ballot of the task."""
    open: bool
    open_block: BlockNumber
    """S: those registered by its end take part. This and what follows is 0 if none is open."""
    open_time: int
    verdict_block: BlockNumber
    verdict_time: int
    result_block: BlockNumber
    result_time: int
    expected_commitments: int
    commitment_count: int
    committed_units: int
    verdict_count: int
    """Timely ones of this ballot."""
    result_count: int
    commitment_digest: Hash32
    training_state_root: Hash32
    """After the last settled round; zero before the first."""
    model_root: Hash32
    paid_total: int


@dataclass(frozen=True, slots=True)
class MinerState:
    """A miner's registration; units 0 if there is none."""

    units: int
    registered_block: BlockNumber
    left_block: BlockNumber
    """0 while taking part."""
    left_ballot_number: int
    bond: int


@dataclass(frozen=True, slots=True)
class Participant:
    """A registered miner and its declared units a round."""

    miner: Address
    units: int


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a phase ends at the latest: both must be reached. Both are 0 if it has no end."""

    block_number: BlockNumber
    timestamp: int


@dataclass(frozen=True, slots=True)
class CommitmentEvidence:
    """One entry of a ballot's commitment list, as `slash` wants to be shown it."""

    miner: Address
    units: int
    commitment: Hash32


@dataclass(frozen=True, slots=True)
class MinerRegistered:
    """A miner takes part from the next attempt on."""

    task_id: TaskId
    miner: Address
    units: int
    bond: int


@dataclass(frozen=True, slots=True)
class MinerLeft:
    """It takes part no more, of its own will or slashed."""

    task_id: TaskId
    miner: Address


@dataclass(frozen=True, slots=True)
class BondWithdrawn:
    """It has its bond back."""

    task_id: TaskId
    miner: Address
    amount: int


@dataclass(frozen=True, slots=True)
class AttemptOpened:
    """Those registered by the end of this block take part; `reserved` is in escrow for them."""

    task_id: TaskId
    round: int
    attempt: int
    expected_commitments: int
    reserved: int


@dataclass(frozen=True, slots=True)
class GradientCommitted:
    """The commitment number `index` of the attempt."""

    task_id: TaskId
    round: int
    miner: Address
    attempt: int
    index: int
    units: int
    commitment: Hash32


@dataclass(frozen=True, slots=True)
class VerdictPosted:
    """An operator vote on all commitments."""

    task_id: TaskId
    round: int
    validator: Address
    """Of the consensus set; its operator account sent the vote."""
    attempt: int
    ballot: int
    timely: bool
    verdicts: bytes


@dataclass(frozen=True, slots=True)
class ResultPosted:
    """An operator vote on the outcome; replaces the validator's earlier one."""

    task_id: TaskId
    round: int
    validator: Address
    attempt: int
    ballot: int
    result: ResultVote
    correct_count: int | None
    """Of the held-out split; None if this validator did not evaluate."""
    loss_millinats: int


@dataclass(frozen=True, slots=True)
class RoundSettled:
    """The outcome stands; `payout` is for miners and operators together."""

    task_id: TaskId
    round: int
    attempt: int
    ballot: int
    result: ResultVote
    payout: int


@dataclass(frozen=True, slots=True)
class BallotFailed:
    """No quorum in time; votes are cast again, or the attempt is void."""

    task_id: TaskId
    round: int
    attempt: int
    ballot: int


@dataclass(frozen=True, slots=True)
class AttemptVoided:
    """The round starts again with the next attempt."""

    task_id: TaskId
    round: int
    attempt: int


@dataclass(frozen=True, slots=True)
class MinerSlashed:
    """`cheated` says why: a quorum called cheat, else it found the gradient unavailable."""

    task_id: TaskId
    miner: Address
    amount: int
    cheated: bool


@dataclass(frozen=True, slots=True)
class CreditWithdrawn:
    """An operator took its share of slashed bonds."""

    token: Address
    account: Address
    amount: int


def register(task_id: TaskId, units: int) -> ContractCall:
    """Take part as a miner; the required bond must have been approved to the ledger."""
    return CONTRACT.call("register", task_id, units)


def leave(task_id: TaskId) -> ContractCall:
    """Take no part in the attempts after the one that is open."""
    return CONTRACT.call("leave", task_id)


def withdraw_bond(task_id: TaskId) -> ContractCall:
    """Take the caller's bond back; it must not be locked any more."""
    return CONTRACT.call("withdrawBond", task_id)


def commit_gradient(
    task_id: TaskId, round_number: int, attempt: int, units: int, commitment: Hash32
) -> ContractCall:
    """Commit to the calling miner's gradient."""
    return CONTRACT.call("commitGradient", task_id, round_number, attempt, units, commitment)


def post_verdict(
    task_id: TaskId, round_number: int, attempt: int, ballot: int, verdicts: bytes
) -> ContractCall:
    """Vote, as an operator, on all commitments: two bits for each."""
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
    """Vote, as an operator, on the outcome; `correct_count` is None if not evaluated."""
    count = NOT_EVALUATED if correct_count is None else correct_count
    return CONTRACT.call(
        "postResult", task_id, round_number, attempt, ballot, vote, count, loss_millinats
    )


def settle_round(task_id: TaskId, vote: ResultVote) -> ContractCall:
    """Settle with the result that a quorum posted; any account may."""
    return CONTRACT.call("settleRound", task_id, vote)


def advance_round(task_id: TaskId) -> ContractCall:
    """Move a stalled or waiting task on; any account may."""
    return CONTRACT.call("advanceRound", task_id)


def slash(
    task_id: TaskId,
    ballot_number: int,
    commitments: Sequence[CommitmentEvidence],
    verdicts: Sequence[tuple[Address, bytes]],
    indices: Sequence[int],
) -> ContractCall:
    """Take the bonds of miners that a ballot condemned; any account may.

    Args:
        task_id: The task.
        ballot_number: The ballot's number within the task.
        commitments: All commitments of the attempt, in their order.
        verdicts: All timely verdicts of the ballot, each with the validator that posted it.
        indices: The accused, as positions among the commitments.
    """
    return CONTRACT.call(
        "slash",
        task_id,
        ballot_number,
        commitments,
        [validator for validator, _ in verdicts],
        [bitmap for _, bitmap in verdicts],
        indices,
    )


def withdraw_credit(token: Address) -> ContractCall:
    """Take the caller's share of slashed bonds."""
    return CONTRACT.call("withdrawCredit", token)


def phase(task_id: TaskId) -> ContractView[Phase]:
    """The phase that a task is in."""
    return CONTRACT.view("phase", task_id, returns=Phase)


def deadline(task_id: TaskId) -> ContractView[Deadline]:
    """When the phase that a task is in ends at the latest."""
    return CONTRACT.view("deadline", task_id, returns=Deadline)


def get_round(task_id: TaskId) -> ContractView[RoundState]:
    """The round, attempt and ballot that a task is at."""
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


def encode_constructor(phase_floor_blocks: int) -> bytes:
    """The constructor's argument: the fewest blocks of a phase in which some votes are missing."""
    return CONTRACT.encode_constructor(phase_floor_blocks)


def _build_participants(
    miners: tuple[Address, ...], units: tuple[int, ...]
) -> tuple[Participant, ...]:
    return tuple(Participant(*pair) for pair in sorted(zip(miners, units, strict=True)))
