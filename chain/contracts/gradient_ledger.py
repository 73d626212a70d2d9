"""The contract that runs rounds: calls, answers and events (docs/spec/contracts.md)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from eth_abi.abi import decode, encode

from chain.contracts.abi import decode_struct, encode_call
from chain.primitives import Address, BlockNumber, Hash32, TaskId

NOT_EVALUATED: Final = 2**32 - 1
"""The correct count of a validator that did not evaluate the held-out split."""


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


RESULT_VOTE_TYPE: Final = "(bytes32,bytes32,bytes32,uint32)"
"""ResultVote."""


_ROUND: Final = (
    "(uint32,uint32,uint32,uint32,uint64,bool,uint64,uint64,uint64,uint64,uint64,uint64,"
    "uint32,uint32,uint32,uint32,uint32,bytes32,bytes32,bytes32,uint256)"
)
"""Round."""


def build_result_posted(*values: object) -> ResultPosted:
    """The event, from its fields as the log has them."""
    *first, vote, correct_count, loss = values
    known = None if correct_count == NOT_EVALUATED else correct_count
    build: Callable[..., ResultPosted] = ResultPosted
    return build(*first, build_result_vote(vote), known, loss)


def build_round_settled(*values: object) -> RoundSettled:
    """The event, from its fields as the log has them."""
    *first, vote, payout = values
    build: Callable[..., RoundSettled] = RoundSettled
    return build(*first, build_result_vote(vote), payout)


def build_result_vote(values: object) -> ResultVote:
    """A vote from its decoded struct."""
    assert isinstance(values, tuple)
    build: Callable[..., ResultVote] = ResultVote
    return build(*values)


COMMIT_GRADIENT: Final = "commitGradient(uint256,uint32,uint32,uint32,bytes32)"
"""A miner's commitment."""


POST_VERDICT: Final = "postVerdict(uint256,uint32,uint32,uint32,bytes)"
"""An operator vote."""


POST_RESULT: Final = f"postResult(uint256,uint32,uint32,uint32,{RESULT_VOTE_TYPE},uint32,uint64)"
"""An operator vote."""


def encode_register(task_id: TaskId, units: int) -> bytes:
    """A miner takes part; the required bond must have been approved to the ledger."""
    return encode_call("register(uint256,uint32)", task_id, units)


def encode_leave(task_id: TaskId) -> bytes:
    """A miner's last attempt is the one that is open."""
    return encode_call("leave(uint256)", task_id)


def encode_withdraw_bond(task_id: TaskId) -> bytes:
    """Once the bond is no longer locked."""
    return encode_call("withdrawBond(uint256)", task_id)


def encode_commit_gradient(
    task_id: TaskId, round_number: int, attempt: int, units: int, commitment: Hash32
) -> bytes:
    """A gradient commitment of the calling miner."""
    return encode_call(COMMIT_GRADIENT, task_id, round_number, attempt, units, commitment)


def encode_post_verdict(
    task_id: TaskId, round_number: int, attempt: int, ballot: int, verdicts: bytes
) -> bytes:
    """An operator vote: two bits a commitment."""
    return encode_call(POST_VERDICT, task_id, round_number, attempt, ballot, verdicts)


def encode_post_result(
    task_id: TaskId,
    round_number: int,
    attempt: int,
    ballot: int,
    vote: ResultVote,
    correct_count: int | None,
    loss_millinats: int,
) -> bytes:
    """An operator vote on the outcome; `correct_count` is None if not evaluated."""
    return encode_call(
        POST_RESULT,
        task_id,
        round_number,
        attempt,
        ballot,
        _vote_values(vote),
        NOT_EVALUATED if correct_count is None else correct_count,
        loss_millinats,
    )


def encode_settle_round(task_id: TaskId, vote: ResultVote) -> bytes:
    """Anyone's, with the result that a quorum posted."""
    return encode_call(f"settleRound(uint256,{RESULT_VOTE_TYPE})", task_id, _vote_values(vote))


def encode_advance_round(task_id: TaskId) -> bytes:
    """Anyone's, when the task is stalled or waiting."""
    return encode_call("advanceRound(uint256)", task_id)


def encode_slash(
    task_id: TaskId,
    ballot_number: int,
    commitments: Sequence[CommitmentEvidence],
    verdicts: Sequence[tuple[Address, bytes]],
    indices: Sequence[int],
) -> bytes:
    """Anyone's: the whole commitment list, verdicts (all timely ones) by validator, the accused."""
    return encode_call(
        "slash(uint256,uint64,(address,uint32,bytes32)[],address[],bytes[],uint32[])",
        task_id,
        ballot_number,
        [(each.miner, each.units, each.commitment) for each in commitments],
        [validator for validator, _ in verdicts],
        [bitmap for _, bitmap in verdicts],
        indices,
    )


def encode_withdraw_credit(token: Address) -> bytes:
    """The caller's share of slashed bonds."""
    return encode_call("withdrawCredit(address)", token)


def encode_phase(task_id: TaskId) -> bytes:
    """Answers `decode_uint`: the ledger's enum Phase."""
    return encode_call("phase(uint256)", task_id)


def encode_deadline(task_id: TaskId) -> bytes:
    """Answers `decode_deadline`."""
    return encode_call("deadline(uint256)", task_id)


def encode_get_round(task_id: TaskId) -> bytes:
    """Answers `decode_round`."""
    return encode_call("getRound(uint256)", task_id)


def encode_get_miner(task_id: TaskId, miner: Address) -> bytes:
    """Answers `decode_miner`."""
    return encode_call("getMiner(uint256,address)", task_id, miner)


def encode_participants(task_id: TaskId) -> bytes:
    """Answers `decode_participants`."""
    return encode_call("participants(uint256)", task_id)


def encode_required_bond(task_id: TaskId, units: int) -> bytes:
    """Answers `decode_uint`: base units of the task's token."""
    return encode_call("requiredBond(uint256,uint32)", task_id, units)


def encode_commitment_position(task_id: TaskId, miner: Address) -> bytes:
    """Answers `decode_uint`: index + 1 in the attempt in progress, or 0."""
    return encode_call("commitmentPosition(uint256,address)", task_id, miner)


def encode_judges_of(task_id: TaskId) -> bytes:
    """Answers `decode_uint`: the version of the validator set that judges the ballot."""
    return encode_call("judgesOf(uint256)", task_id)


def encode_credit_of(token: Address, account: Address) -> bytes:
    """Answers `decode_uint`."""
    return encode_call("creditOf(address,address)", token, account)


def encode_phase_floor_blocks() -> bytes:
    """Answers `decode_uint`."""
    return encode_call("phaseFloorBlocks()")


def encode_gradient_ledger_arguments(phase_floor_blocks: int) -> bytes:
    """The fewest blocks a phase lasts unless everybody spoke before."""
    return encode(["uint32"], [phase_floor_blocks])


def decode_deadline(data: bytes) -> Deadline:
    """The ledger's `deadline`."""
    block_number, timestamp = decode(["uint64", "uint64"], data)
    return Deadline(BlockNumber(block_number), timestamp)


def decode_round(data: bytes) -> RoundState:
    """The ledger's `getRound`."""
    build: Callable[..., RoundState] = RoundState
    return build(*decode_struct(_ROUND, data))


def decode_miner(data: bytes) -> MinerState:
    """The ledger's `getMiner`."""
    build: Callable[..., MinerState] = MinerState
    return build(*decode_struct("(uint32,uint64,uint64,uint64,uint256)", data))


def decode_participants(data: bytes) -> tuple[Participant, ...]:
    """The ledger's `participants`, by ascending address."""
    miners, units = decode(["address[]", "uint32[]"], data)
    pairs = zip(miners, units, strict=True)
    return tuple(
        sorted(
            (Participant(Address(bytes.fromhex(miner[2:])), count) for miner, count in pairs),
            key=lambda participant: participant.miner,
        )
    )


def _vote_values(vote: ResultVote) -> tuple[Hash32, Hash32, Hash32, int]:
    return (vote.training_state_root, vote.model_root, vote.rewards_root, vote.accepted_units)
