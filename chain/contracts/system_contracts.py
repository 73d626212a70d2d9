"""The predeployed contracts as typed calls, answers and events (docs/spec/contracts.md, section 3).

Addresses and layouts are protocol; the contracts' code comes from genesis. The sources are in
contracts/src, and a test compares every signature here with what they compile to.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum, auto
from functools import lru_cache
from typing import Final

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_abi.grammar import TupleType, parse

from chain.crypto import keccak256
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.types.receipt import Log

TRAINING_TOKEN: Final = Address(bytes.fromhex("706f740000000000000000000000000000000001"))
"""POT, the default reward token. All six are "pot" in ASCII, zeros and an index."""

VALIDATOR_SET: Final = Address(bytes.fromhex("706f740000000000000000000000000000000002"))
"""Validators and their operator accounts."""

TASK_REGISTRY: Final = Address(bytes.fromhex("706f740000000000000000000000000000000003"))
"""Tasks and their escrow."""

GRADIENT_LEDGER: Final = Address(bytes.fromhex("706f740000000000000000000000000000000004"))
"""Miners, commitments, operator votes, rounds, slashing."""

REWARD_DISTRIBUTOR: Final = Address(bytes.fromhex("706f740000000000000000000000000000000005"))
"""Claims."""

FAUCET: Final = Address(bytes.fromhex("706f740000000000000000000000000000000006"))
"""Money for the asking; predeployed on development networks only."""

NOT_EVALUATED: Final = 2**32 - 1
"""The correct count of a validator that did not evaluate the held-out split."""

SELECTOR_BYTES: Final = 4
"""How much of a signature's hash names a function or an error."""

WORD_BYTES: Final = 32
"""The unit of ABI encoding."""


class TaskStatus(IntEnum):
    """The registry's enum, number by number."""

    NONE = 0
    PENDING = 1
    ACTIVE = 2
    PAUSED = 3
    CLOSED = 4


class CloseReason(IntEnum):
    """Why a task was closed: the registry's enum."""

    COMPLETED = 0
    CANCELLED = 1
    EXPIRED = 2
    EXHAUSTED = 3


class ValidatorStatus(IntEnum):
    """The validator set's enum, number by number."""

    NONE = 0
    ACTIVE = 1
    """In the set, or scheduled to be."""
    EXITING = 2
    """Removed as soon as a change can be scheduled."""
    EXITED = 3


# ---- values


@dataclass(frozen=True, slots=True)
class TaskTerms:
    """What settlement needs of a task."""

    spec_hash: Hash32
    token: Address
    unit_price: int
    """Base units of the token for one accepted unit."""
    validator_fee: int
    """Base units a settled round."""
    rounds: int
    min_miners: int
    max_units: int
    """Of one round."""
    audit_ppm: int
    commit_seconds: int
    verdict_seconds: int
    result_seconds: int


@dataclass(frozen=True, slots=True)
class TaskAccount:
    """A task's state and money; amounts in base units of its token."""

    submitter: Address
    status: TaskStatus
    ready_count: int
    submitted_block: BlockNumber
    activated_block: BlockNumber
    """0 before."""
    cancelling: bool
    escrowed: int
    paid: int
    reserved: int
    refundable: int
    refunded: int


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
class RewardClaim:
    """One claim of `claimMany`."""

    task_id: TaskId
    account: Address
    cumulative: int
    proof: tuple[Hash32, ...]


@dataclass(frozen=True, slots=True)
class ValidatorState:
    """A validator's account in the validator set."""

    operator: Address
    status: ValidatorStatus
    is_slashed: bool
    unlock_block: BlockNumber
    """From which on its stake can be withdrawn; 0 unless it has left."""
    stake: int
    """Base units of POT."""


@dataclass(frozen=True, slots=True)
class ValidatorProposal:
    """A join or a removal that members vote on."""

    validator: Address
    operator: Address
    is_join: bool
    is_closed: bool
    expiry_block: BlockNumber
    """From which on it cannot be carried out."""
    stake: int
    """Base units of POT, of an open join."""
    votes: int
    """Of who is a member now."""


@dataclass(frozen=True, slots=True)
class ContractError:
    """A custom error, decoded: its name and its arguments, addresses and bytes in hexadecimal."""

    name: str
    arguments: tuple[int | str | bool, ...]

    def __str__(self) -> str:
        """As Solidity would write it."""
        return f"{self.name}({', '.join(map(str, self.arguments))})"


# ---- events


@dataclass(frozen=True, slots=True)
class TaskSubmitted:
    """A task is there, Pending."""

    task_id: TaskId
    submitter: Address
    spec_hash: Hash32
    budget: int
    spec: bytes


@dataclass(frozen=True, slots=True)
class TaskFunded:
    """Its escrow grew; `sender` paid."""

    task_id: TaskId
    sender: Address
    amount: int


@dataclass(frozen=True, slots=True)
class TaskReady:
    """A validator can judge it."""

    task_id: TaskId
    validator: Address
    ready_count: int


@dataclass(frozen=True, slots=True)
class TaskActivated:
    """A quorum is ready."""

    task_id: TaskId


@dataclass(frozen=True, slots=True)
class TaskPaused:
    """Three attempts in a row were void."""

    task_id: TaskId


@dataclass(frozen=True, slots=True)
class TaskResumed:
    """Its submitter goes on."""

    task_id: TaskId


@dataclass(frozen=True, slots=True)
class TaskClosed:
    """It is over."""

    task_id: TaskId
    reason: int
    """A `CloseReason`."""


@dataclass(frozen=True, slots=True)
class TaskRefunded:
    """What was left went back."""

    task_id: TaskId
    to: Address
    amount: int


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


@dataclass(frozen=True, slots=True)
class RootSet:
    """Claims go by this root now."""

    task_id: TaskId
    root: Hash32
    paid_total: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """`amount` was paid, `cumulative` in all."""

    task_id: TaskId
    account: Address
    amount: int
    cumulative: int


@dataclass(frozen=True, slots=True)
class Dripped:
    """The faucet paid."""

    to: Address
    token_amount: int
    coin_amount: int


@dataclass(frozen=True, slots=True)
class ProposalMade:
    """Members may vote on a join or a removal."""

    proposal_id: int
    validator: Address
    operator: Address
    is_join: bool
    expiry_block: BlockNumber


@dataclass(frozen=True, slots=True)
class ProposalVoted:
    """A member is for it."""

    proposal_id: int
    validator: Address


@dataclass(frozen=True, slots=True)
class ProposalClosed:
    """It was carried out, or given up."""

    proposal_id: int
    carried_out: bool


@dataclass(frozen=True, slots=True)
class ExitRequested:
    """A validator leaves at the next possible change."""

    validator: Address


@dataclass(frozen=True, slots=True)
class SetScheduled:
    """From `activation_block` on the set is another."""

    version: int
    validator: Address
    is_join: bool
    activation_block: BlockNumber


@dataclass(frozen=True, slots=True)
class ValidatorSlashed:
    """It signed two things for one place, about block `number`; all its stake is lost."""

    validator: Address
    reporter: Address
    number: BlockNumber
    amount: int


@dataclass(frozen=True, slots=True)
class StakeWithdrawn:
    """An operator has its stake back."""

    validator: Address
    operator: Address
    amount: int


Event = (
    TaskSubmitted
    | TaskFunded
    | TaskReady
    | TaskActivated
    | TaskPaused
    | TaskResumed
    | TaskClosed
    | TaskRefunded
    | MinerRegistered
    | MinerLeft
    | BondWithdrawn
    | AttemptOpened
    | GradientCommitted
    | VerdictPosted
    | ResultPosted
    | RoundSettled
    | BallotFailed
    | AttemptVoided
    | MinerSlashed
    | CreditWithdrawn
    | RootSet
    | Claimed
    | Dripped
    | ProposalMade
    | ProposalVoted
    | ProposalClosed
    | ExitRequested
    | SetScheduled
    | ValidatorSlashed
    | StakeWithdrawn
)
"""Everything that `decode_event` can answer."""

_VOTE: Final = "(bytes32,bytes32,bytes32,uint32)"
"""ResultVote."""

_TERMS: Final = "(bytes32,address,uint128,uint128,uint32,uint32,uint32,uint32,uint32,uint32,uint32)"
"""TaskTerms."""

_ACCOUNT: Final = (
    "(address,uint8,uint32,uint64,uint64,bool,uint256,uint256,uint256,uint256,uint256)"
)
"""TaskAccount."""

_ROUND: Final = (
    "(uint32,uint32,uint32,uint32,uint64,bool,uint64,uint64,uint64,uint64,uint64,uint64,"
    "uint32,uint32,uint32,uint32,uint32,bytes32,bytes32,bytes32,uint256)"
)
"""Round."""


@dataclass(frozen=True, slots=True)
class EventLayout:
    """How an event lies in a log."""

    contract: Address
    signature: str
    indexed: tuple[int, ...]
    """Which parameters are topics; the fields of the event follow the signature's order."""
    build: Callable[..., Event]

    @property
    def topic(self) -> Hash32:
        """The first topic."""
        return keccak256(self.signature.encode())


def _build_result_posted(*values: object) -> ResultPosted:
    *first, correct_count, loss = values
    known = None if correct_count == NOT_EVALUATED else correct_count
    build: Callable[..., ResultPosted] = ResultPosted
    return build(*first, known, loss)


EVENT_LAYOUTS: Final = (
    EventLayout(
        TASK_REGISTRY,
        "TaskSubmitted(uint256,address,bytes32,uint256,bytes)",
        (0, 1, 2),
        TaskSubmitted,
    ),
    EventLayout(TASK_REGISTRY, "TaskFunded(uint256,address,uint256)", (0, 1), TaskFunded),
    EventLayout(TASK_REGISTRY, "TaskReady(uint256,address,uint32)", (0, 1), TaskReady),
    EventLayout(TASK_REGISTRY, "TaskActivated(uint256)", (0,), TaskActivated),
    EventLayout(TASK_REGISTRY, "TaskPaused(uint256)", (0,), TaskPaused),
    EventLayout(TASK_REGISTRY, "TaskResumed(uint256)", (0,), TaskResumed),
    EventLayout(TASK_REGISTRY, "TaskClosed(uint256,uint8)", (0,), TaskClosed),
    EventLayout(TASK_REGISTRY, "TaskRefunded(uint256,address,uint256)", (0, 1), TaskRefunded),
    EventLayout(
        GRADIENT_LEDGER, "MinerRegistered(uint256,address,uint32,uint256)", (0, 1), MinerRegistered
    ),
    EventLayout(GRADIENT_LEDGER, "MinerLeft(uint256,address)", (0, 1), MinerLeft),
    EventLayout(GRADIENT_LEDGER, "BondWithdrawn(uint256,address,uint256)", (0, 1), BondWithdrawn),
    EventLayout(
        GRADIENT_LEDGER,
        "AttemptOpened(uint256,uint32,uint32,uint32,uint256)",
        (0, 1),
        AttemptOpened,
    ),
    EventLayout(
        GRADIENT_LEDGER,
        "GradientCommitted(uint256,uint32,address,uint32,uint32,uint32,bytes32)",
        (0, 1, 2),
        GradientCommitted,
    ),
    EventLayout(
        GRADIENT_LEDGER,
        "VerdictPosted(uint256,uint32,address,uint32,uint32,bool,bytes)",
        (0, 1, 2),
        VerdictPosted,
    ),
    EventLayout(
        GRADIENT_LEDGER,
        f"ResultPosted(uint256,uint32,address,uint32,uint32,{_VOTE},uint32,uint64)",
        (0, 1, 2),
        _build_result_posted,
    ),
    EventLayout(
        GRADIENT_LEDGER,
        f"RoundSettled(uint256,uint32,uint32,uint32,{_VOTE},uint256)",
        (0, 1),
        RoundSettled,
    ),
    EventLayout(
        GRADIENT_LEDGER, "BallotFailed(uint256,uint32,uint32,uint32)", (0, 1), BallotFailed
    ),
    EventLayout(GRADIENT_LEDGER, "AttemptVoided(uint256,uint32,uint32)", (0, 1), AttemptVoided),
    EventLayout(
        GRADIENT_LEDGER, "MinerSlashed(uint256,address,uint256,bool)", (0, 1), MinerSlashed
    ),
    EventLayout(
        GRADIENT_LEDGER, "CreditWithdrawn(address,address,uint256)", (0, 1), CreditWithdrawn
    ),
    EventLayout(REWARD_DISTRIBUTOR, "RootSet(uint256,bytes32,uint256)", (0,), RootSet),
    EventLayout(REWARD_DISTRIBUTOR, "Claimed(uint256,address,uint256,uint256)", (0, 1), Claimed),
    EventLayout(FAUCET, "Dripped(address,uint256,uint256)", (0,), Dripped),
    EventLayout(
        VALIDATOR_SET, "ProposalMade(uint256,address,address,bool,uint64)", (0, 1, 2), ProposalMade
    ),
    EventLayout(VALIDATOR_SET, "ProposalVoted(uint256,address)", (0, 1), ProposalVoted),
    EventLayout(VALIDATOR_SET, "ProposalClosed(uint256,bool)", (0,), ProposalClosed),
    EventLayout(VALIDATOR_SET, "ExitRequested(address)", (0,), ExitRequested),
    EventLayout(VALIDATOR_SET, "SetScheduled(uint256,address,bool,uint64)", (0, 1), SetScheduled),
    EventLayout(
        VALIDATOR_SET, "ValidatorSlashed(address,address,uint64,uint256)", (0, 1), ValidatorSlashed
    ),
    EventLayout(VALIDATOR_SET, "StakeWithdrawn(address,address,uint256)", (0, 1), StakeWithdrawn),
)
"""Every event of the system contracts but the token's, which are ERC-20's."""

ERROR_SIGNATURES: Final = (
    "DistributorExceedsPaid(uint256,uint256,uint256)",
    "DistributorInvalidProof(uint256,address)",
    "DistributorNotLedger(address)",
    "DistributorNothingToClaim(uint256,address)",
    "ERC20InsufficientAllowance(address,uint256,uint256)",
    "ERC20InsufficientBalance(address,uint256,uint256)",
    "Error(string)",
    "FaucetTooSoon(address,uint256)",
    "LedgerAlreadyCommitted(uint256,address)",
    "LedgerAlreadyRegistered(uint256,address)",
    "LedgerAlreadySlashed(uint256,address)",
    "LedgerAlreadyVoted(address)",
    "LedgerBallotNotSettled(uint64)",
    "LedgerBondLocked(uint256,address)",
    "LedgerEvidenceExpired()",
    "LedgerEvidenceMismatch()",
    "LedgerInvalidUnits(uint32)",
    "LedgerInvalidVerdicts(uint256,uint256)",
    "LedgerNoQuorum(uint256,uint256)",
    "LedgerNotParticipating(uint256,address)",
    "LedgerNotRegistered(uint256,address)",
    "LedgerNothingToWithdraw()",
    "LedgerPayoutTooLarge(uint256,uint256)",
    "LedgerTooManyMiners(uint256)",
    "LedgerTooManySlashes(uint256,uint256)",
    "LedgerWrongPhase(uint256,uint8)",
    "LedgerWrongRound(uint32,uint32,uint32)",
    "Panic(uint256)",
    "ReentrancyGuardReentrantCall()",
    "TaskAlreadyReady(uint256,address)",
    "TaskInexactTransfer(uint256,uint256)",
    "TaskInvalidTerms(string)",
    "TaskNotDistributor(address)",
    "TaskNotLedger(address)",
    "TaskNotSubmitter(address)",
    "TaskNothingToRefund(uint256)",
    "TaskSpecHashMismatch(bytes32,bytes32)",
    "TaskSpecTooLarge(uint256,uint256)",
    "TaskUnknown(uint256)",
    "TaskWrongStatus(uint256,uint8)",
    "TokenAllocationMismatch(uint256,uint256)",
    "ValidatorSetAlreadySlashed(address)",
    "ValidatorSetAlreadyVoted(uint256,address)",
    "ValidatorSetBadEvidence(string)",
    "ValidatorSetGenesisUnknown()",
    "ValidatorSetInvalid(string)",
    "ValidatorSetNotCandidate(address)",
    "ValidatorSetNotMember(address)",
    "ValidatorSetNotOperator(address)",
    "ValidatorSetNotReady()",
    "ValidatorSetProposalClosed(uint256)",
    "ValidatorSetStakeLocked(address,uint64)",
    "ValidatorSetTaken(address)",
    "ValidatorSetUnknownProposal(uint256)",
    "ValidatorSetWrongStatus(address,uint8)",
)
"""The custom errors of the system contracts, those of POT that callers meet, and Solidity's two."""


@lru_cache(maxsize=256)
def _types(signature: str) -> tuple[str, ...]:
    """The parameter types of a function, an event or an error."""
    parameters = signature[signature.index("(") :]
    if parameters == "()":
        return ()
    parsed = parse(parameters)
    assert isinstance(parsed, TupleType)
    return tuple(component.to_type_str() for component in parsed.components)


@lru_cache(maxsize=256)
def compute_selector(signature: str) -> bytes:
    """The first four bytes of call data for a function, or of revert data for an error."""
    return keccak256(signature.encode())[:SELECTOR_BYTES]


def _call(signature: str, *values: object) -> bytes:
    return compute_selector(signature) + encode(_types(signature), values)


def _typed(abi_type: str, value: object) -> object:
    """A decoded value in the types of chain.primitives."""
    if abi_type == "address":
        assert isinstance(value, str)
        return Address(bytes.fromhex(value[2:]))
    if abi_type == _VOTE:
        assert isinstance(value, tuple)
        build: Callable[..., ResultVote] = ResultVote
        return build(*value)
    return value


def _values(types: Sequence[str], data: bytes) -> list[object]:
    decoded = decode(types, data)
    return [_typed(kind, value) for kind, value in zip(types, decoded, strict=True)]


def _struct(abi_type: str, data: bytes) -> list[object]:
    components = _types(abi_type)
    (values,) = decode([abi_type], data)
    return [_typed(kind, value) for kind, value in zip(components, values, strict=True)]


# ---- events and errors


_LAYOUT_OF: Final = {(layout.contract, layout.topic): layout for layout in EVENT_LAYOUTS}
"""By the two things that name an event in a log."""


def decode_event(log: Log) -> Event | None:
    """What a system contract said, or None for any other log."""
    if not log.topics:
        return None
    layout = _LAYOUT_OF.get((log.address, log.topics[0]))
    if layout is None:
        return None
    types = _types(layout.signature)
    topics = [
        _values([types[position]], topic)[0]
        for position, topic in zip(layout.indexed, log.topics[1:], strict=True)
    ]
    others = [kind for position, kind in enumerate(types) if position not in layout.indexed]
    data = iter(_values(others, log.data))
    topic_at = dict(zip(layout.indexed, topics, strict=True))
    return layout.build(*(topic_at[i] if i in topic_at else next(data) for i in range(len(types))))


_ERROR_OF: Final = {compute_selector(signature): signature for signature in ERROR_SIGNATURES}
"""By selector."""


def decode_error(data: bytes) -> ContractError | None:
    """What revert data says, or None if no system contract says such a thing."""
    signature = _ERROR_OF.get(data[:SELECTOR_BYTES])
    if signature is None:
        return None
    types = _types(signature)
    try:
        arguments = decode(types, data[SELECTOR_BYTES:])
    except (DecodingError, UnicodeDecodeError):
        # Any contract may revert with any bytes.
        return None
    return ContractError(
        signature[: signature.index("(")],
        tuple("0x" + each.hex() if isinstance(each, bytes) else each for each in arguments),
    )


# ---- what call data is


class CallKind(Enum):
    """What the mempool and the builder tell apart."""

    OPERATOR_VOTE = auto()
    """ready, verdict, result, a vote on the validator set, or evidence."""
    COMMITMENT = auto()
    OTHER = auto()


_POST_READY: Final = "postReady(uint256)"
"""An operator vote."""

_COMMIT_GRADIENT: Final = "commitGradient(uint256,uint32,uint32,uint32,bytes32)"
"""A miner's commitment."""

_POST_VERDICT: Final = "postVerdict(uint256,uint32,uint32,uint32,bytes)"
"""An operator vote."""

_POST_RESULT: Final = f"postResult(uint256,uint32,uint32,uint32,{_VOTE},uint32,uint64)"
"""An operator vote."""

_VOTE_ON_PROPOSAL: Final = "voteOnProposal(uint256)"
"""An operator vote."""

_PLACE: Final = "(uint8,uint32,uint64,uint64)"
"""VotePlace."""

_DIGEST: Final = "(bytes32,bytes)"
"""SignedDigest."""

_REPORT_EQUIVOCATION: Final = f"reportEquivocation({_PLACE},{_DIGEST},{_DIGEST})"
"""Anyone's; sent by an operator it has an operator vote's place in a block."""

_REPORT_LOST_LOCK: Final = f"reportLostLock({_PLACE},{_DIGEST},(uint64,uint64,bytes32,bytes))"
"""As above."""

_KIND_OF: Final = {
    (TASK_REGISTRY, compute_selector(_POST_READY)): CallKind.OPERATOR_VOTE,
    (GRADIENT_LEDGER, compute_selector(_POST_VERDICT)): CallKind.OPERATOR_VOTE,
    (GRADIENT_LEDGER, compute_selector(_POST_RESULT)): CallKind.OPERATOR_VOTE,
    (GRADIENT_LEDGER, compute_selector(_COMMIT_GRADIENT)): CallKind.COMMITMENT,
    (VALIDATOR_SET, compute_selector(_VOTE_ON_PROPOSAL)): CallKind.OPERATOR_VOTE,
    (VALIDATOR_SET, compute_selector(_REPORT_EQUIVOCATION)): CallKind.OPERATOR_VOTE,
    (VALIDATOR_SET, compute_selector(_REPORT_LOST_LOCK)): CallKind.OPERATOR_VOTE,
}
"""By the contract and the selector."""


def classify_call(to: Address | None, data: bytes) -> CallKind:
    """What a transaction claims to be; whether its sender may is the contract's question."""
    if to is None:
        return CallKind.OTHER
    return _KIND_OF.get((to, data[:SELECTOR_BYTES]), CallKind.OTHER)


def decode_task_id(data: bytes) -> TaskId | None:
    """The task that an operator vote or a commitment names; None if the data is too short."""
    word = data[SELECTOR_BYTES : SELECTOR_BYTES + WORD_BYTES]
    return TaskId(int.from_bytes(word, "big")) if len(word) == WORD_BYTES else None


# ---- calls: the registry's


def encode_submit_task(terms: TaskTerms, spec: bytes, budget: int) -> bytes:
    """A new task; `budget` base units must have been approved to the registry."""
    return _call(
        f"submitTask({_TERMS},bytes,uint256)",
        (
            terms.spec_hash,
            terms.token,
            terms.unit_price,
            terms.validator_fee,
            terms.rounds,
            terms.min_miners,
            terms.max_units,
            terms.audit_ppm,
            terms.commit_seconds,
            terms.verdict_seconds,
            terms.result_seconds,
        ),
        spec,
        budget,
    )


def encode_fund_task(task_id: TaskId, amount: int) -> bytes:
    """More escrow; `amount` base units must have been approved to the registry."""
    return _call("fundTask(uint256,uint256)", task_id, amount)


def encode_post_ready(task_id: TaskId) -> bytes:
    """An operator vote: this validator can judge the task."""
    return _call(_POST_READY, task_id)


def encode_cancel_task(task_id: TaskId) -> bytes:
    """The submitter's."""
    return _call("cancelTask(uint256)", task_id)


def encode_resume_task(task_id: TaskId) -> bytes:
    """The submitter's, of a paused task."""
    return _call("resumeTask(uint256)", task_id)


def encode_refund_task(task_id: TaskId) -> bytes:
    """Anyone's, of a closed task."""
    return _call("refundTask(uint256)", task_id)


def encode_task_count() -> bytes:
    """Answers `decode_uint`."""
    return _call("taskCount()")


def encode_get_terms(task_id: TaskId) -> bytes:
    """Answers `decode_terms`."""
    return _call("getTerms(uint256)", task_id)


def encode_get_account(task_id: TaskId) -> bytes:
    """Answers `decode_account`."""
    return _call("getAccount(uint256)", task_id)


def encode_is_ready(task_id: TaskId, operator: Address) -> bytes:
    """Answers `decode_uint`: 0 or 1."""
    return _call("isReady(uint256,address)", task_id, operator)


# ---- calls: the ledger's


def encode_register(task_id: TaskId, units: int) -> bytes:
    """A miner takes part; the required bond must have been approved to the ledger."""
    return _call("register(uint256,uint32)", task_id, units)


def encode_leave(task_id: TaskId) -> bytes:
    """A miner's last attempt is the one that is open."""
    return _call("leave(uint256)", task_id)


def encode_withdraw_bond(task_id: TaskId) -> bytes:
    """Once the bond is no longer locked."""
    return _call("withdrawBond(uint256)", task_id)


def encode_commit_gradient(
    task_id: TaskId, round_number: int, attempt: int, units: int, commitment: Hash32
) -> bytes:
    """A gradient commitment of the calling miner."""
    return _call(_COMMIT_GRADIENT, task_id, round_number, attempt, units, commitment)


def encode_post_verdict(
    task_id: TaskId, round_number: int, attempt: int, ballot: int, verdicts: bytes
) -> bytes:
    """An operator vote: two bits a commitment."""
    return _call(_POST_VERDICT, task_id, round_number, attempt, ballot, verdicts)


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
    return _call(
        _POST_RESULT,
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
    return _call(f"settleRound(uint256,{_VOTE})", task_id, _vote_values(vote))


def encode_advance_round(task_id: TaskId) -> bytes:
    """Anyone's, when the task is stalled or waiting."""
    return _call("advanceRound(uint256)", task_id)


def encode_slash(
    task_id: TaskId,
    ballot_number: int,
    commitments: Sequence[CommitmentEvidence],
    verdicts: Sequence[tuple[Address, bytes]],
    indices: Sequence[int],
) -> bytes:
    """Anyone's: the whole commitment list, verdicts (all timely ones) by validator, the accused."""
    return _call(
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
    return _call("withdrawCredit(address)", token)


def encode_phase(task_id: TaskId) -> bytes:
    """Answers `decode_uint`: the ledger's enum Phase."""
    return _call("phase(uint256)", task_id)


def encode_deadline(task_id: TaskId) -> bytes:
    """Answers `decode_deadline`."""
    return _call("deadline(uint256)", task_id)


def encode_get_round(task_id: TaskId) -> bytes:
    """Answers `decode_round`."""
    return _call("getRound(uint256)", task_id)


def encode_get_miner(task_id: TaskId, miner: Address) -> bytes:
    """Answers `decode_miner`."""
    return _call("getMiner(uint256,address)", task_id, miner)


def encode_participants(task_id: TaskId) -> bytes:
    """Answers `decode_participants`."""
    return _call("participants(uint256)", task_id)


def encode_required_bond(task_id: TaskId, units: int) -> bytes:
    """Answers `decode_uint`: base units of the task's token."""
    return _call("requiredBond(uint256,uint32)", task_id, units)


def encode_commitment_position(task_id: TaskId, miner: Address) -> bytes:
    """Answers `decode_uint`: index + 1 in the attempt in progress, or 0."""
    return _call("commitmentPosition(uint256,address)", task_id, miner)


def encode_judges_of(task_id: TaskId) -> bytes:
    """Answers `decode_uint`: the version of the validator set that judges the ballot."""
    return _call("judgesOf(uint256)", task_id)


def encode_credit_of(token: Address, account: Address) -> bytes:
    """Answers `decode_uint`."""
    return _call("creditOf(address,address)", token, account)


def encode_phase_floor_blocks() -> bytes:
    """Answers `decode_uint`."""
    return _call("phaseFloorBlocks()")


# ---- calls: the distributor's


def encode_claim(task_id: TaskId, cumulative: int, proof: Sequence[Hash32]) -> bytes:
    """The caller's reward up to `cumulative`."""
    return _call("claim(uint256,uint256,bytes32[])", task_id, cumulative, proof)


def encode_claim_for(
    task_id: TaskId, account: Address, cumulative: int, proof: Sequence[Hash32]
) -> bytes:
    """Anyone pays the gas, `account` gets the money."""
    return _call("claimFor(uint256,address,uint256,bytes32[])", task_id, account, cumulative, proof)


def encode_claim_many(claims: Sequence[RewardClaim]) -> bytes:
    """Several claims; all or none."""
    return _call(
        "claimMany((uint256,address,uint256,bytes32[])[])",
        [(each.task_id, each.account, each.cumulative, each.proof) for each in claims],
    )


def encode_root_of(task_id: TaskId) -> bytes:
    """Answers `decode_hash`."""
    return _call("rootOf(uint256)", task_id)


def encode_paid_total_of(task_id: TaskId) -> bytes:
    """Answers `decode_uint`."""
    return _call("paidTotalOf(uint256)", task_id)


def encode_claimed_of(task_id: TaskId, account: Address) -> bytes:
    """Answers `decode_uint`."""
    return _call("claimedOf(uint256,address)", task_id, account)


def encode_claimed_total_of(task_id: TaskId) -> bytes:
    """Answers `decode_uint`."""
    return _call("claimedTotalOf(uint256)", task_id)


# ---- calls: the validator set's


def encode_committee() -> bytes:
    """Answers `decode_committee`."""
    return _call("committee()")


def encode_committee_of(version: int) -> bytes:
    """Answers `decode_committee`: of a set that is or was in force."""
    return _call("committeeOf(uint256)", version)


def encode_next_validators() -> bytes:
    """Answers `decode_addresses`: the set that a scheduled change leads to, or none."""
    return _call("nextValidators()")


def encode_activation_block() -> bytes:
    """Answers `decode_uint`: of the change scheduled last, if `nextValidators` is not empty."""
    return _call("activationBlock()")


def encode_operator_of(validator: Address) -> bytes:
    """Answers `decode_address`; the zero address for no validator."""
    return _call("operatorOf(address)", validator)


def encode_validator_of(operator: Address) -> bytes:
    """Answers `decode_address`; the zero address for no operator."""
    return _call("validatorOf(address)", operator)


def encode_get_validator(validator: Address) -> bytes:
    """Answers `decode_validator`."""
    return _call("getValidator(address)", validator)


def encode_propose_join(validator: Address) -> bytes:
    """The caller wants to operate `validator`; the stake must have been approved to the set."""
    return _call("proposeJoin(address)", validator)


def encode_propose_removal(validator: Address) -> bytes:
    """A member's operator asks for another's removal."""
    return _call("proposeRemoval(address)", validator)


def encode_vote_on_proposal(proposal_id: int) -> bytes:
    """An operator vote for a join or a removal."""
    return _call(_VOTE_ON_PROPOSAL, proposal_id)


def encode_carry_out(proposal_id: int) -> bytes:
    """Anyone's, of a join that has a quorum."""
    return _call("carryOut(uint256)", proposal_id)


def encode_withdraw_proposal(proposal_id: int) -> bytes:
    """The candidate's; returns the stake."""
    return _call("withdrawProposal(uint256)", proposal_id)


def encode_leave_set() -> bytes:
    """A member's operator leaves."""
    return _call("leaveSet()")


def encode_remove_exiting(validator: Address) -> bytes:
    """Anyone's, of a validator that waits for its removal."""
    return _call("removeExiting(address)", validator)


def encode_withdraw_stake() -> bytes:
    """The operator's, of a validator that has left."""
    return _call("withdrawStake()")


def encode_proposal_count() -> bytes:
    """Answers `decode_uint`; ids are 1 to this."""
    return _call("proposalCount()")


def encode_get_proposal(proposal_id: int) -> bytes:
    """Answers `decode_proposal`."""
    return _call("getProposal(uint256)", proposal_id)


def encode_candidacy_of(operator: Address) -> bytes:
    """Answers `decode_uint`: the id of the join that an account proposed, or 0."""
    return _call("candidacyOf(address)", operator)


def encode_has_voted(proposal_id: int, validator: Address) -> bytes:
    """Answers `decode_uint`: 0 or 1."""
    return _call("hasVoted(uint256,address)", proposal_id, validator)


def encode_required_stake() -> bytes:
    """Answers `decode_uint`: base units of POT."""
    return _call("requiredStake()")


def encode_min_validators() -> bytes:
    """Answers `decode_uint`."""
    return _call("minValidators()")


def encode_record_genesis() -> bytes:
    """Anyone's, in the first 8191 blocks: evidence needs the genesis hash."""
    return _call("recordGenesis()")


def encode_genesis_hash() -> bytes:
    """Answers `decode_hash`: zero until it was recorded."""
    return _call("genesisHash()")


def encode_report_equivocation(
    place: tuple[int, int, int, int],
    first: tuple[Hash32, bytes],
    second: tuple[Hash32, bytes],
) -> bytes:
    """Anyone's: two signed digests, for one (kind, version, number, view)."""
    return _call(_REPORT_EQUIVOCATION, place, first, second)


def encode_report_lost_lock(
    place: tuple[int, int, int, int],
    commit: tuple[Hash32, bytes],
    view_change: tuple[int, int, Hash32, bytes],
) -> bytes:
    """Anyone's: a COMMIT, and a VIEW-CHANGE (view, prepared view and digest, signature)."""
    return _call(_REPORT_LOST_LOCK, place, commit, view_change)


# ---- calls: the token's, the faucet's


def encode_balance_of(account: Address) -> bytes:
    """Answers `decode_uint`."""
    return _call("balanceOf(address)", account)


def encode_allowance(owner: Address, spender: Address) -> bytes:
    """Answers `decode_uint`."""
    return _call("allowance(address,address)", owner, spender)


def encode_approve(spender: Address, amount: int) -> bytes:
    """Let `spender` pull `amount` base units."""
    return _call("approve(address,uint256)", spender, amount)


def encode_transfer(to: Address, amount: int) -> bytes:
    """Send `amount` base units."""
    return _call("transfer(address,uint256)", to, amount)


def encode_drip(to: Address) -> bytes:
    """Ask the faucet to pay `to`."""
    return _call("drip(address)", to)


# ---- constructor arguments, behind the creation code


def encode_training_token_arguments(holders: Sequence[Address], amounts: Sequence[int]) -> bytes:
    """Who holds how many base units of POT."""
    return encode(["address[]", "uint256[]"], [holders, amounts])


def encode_validator_set_arguments(
    validators: Sequence[Address],
    operators: Sequence[Address],
    *,
    stake: int,
    min_validators: int,
    change_blocks: int,
    evidence_blocks: int,
) -> bytes:
    """The first set, ascending, with the operator account of each, and the network's constants.

    Args:
        validators: Their consensus accounts.
        operators: One account for each.
        stake: Base units of POT a validator; genesis gives them to the contract.
        min_validators: Nobody is removed from so few.
        change_blocks: From a change's scheduling to its activation.
        evidence_blocks: How old evidence may be, and how long stake stays after a removal.
    """
    return encode(
        ["address[]", "address[]", "uint256", "uint256", "uint64", "uint64"],
        [validators, operators, stake, min_validators, change_blocks, evidence_blocks],
    )


def encode_gradient_ledger_arguments(phase_floor_blocks: int) -> bytes:
    """The fewest blocks a phase lasts unless everybody spoke before."""
    return encode(["uint32"], [phase_floor_blocks])


def encode_faucet_arguments(token_amount: int, coin_amount: int, blocks_between: int) -> bytes:
    """Base units of POT and wei of the native coin a drip, and an account's wait in blocks."""
    return encode(["uint256", "uint256", "uint64"], [token_amount, coin_amount, blocks_between])


# ---- answers


def decode_uint(data: bytes) -> int:
    """One number, or a boolean as 0 or 1."""
    return int.from_bytes(data[:WORD_BYTES], "big")


def decode_hash(data: bytes) -> Hash32:
    """One 32-byte word."""
    return Hash32(data[:WORD_BYTES])


def decode_address(data: bytes) -> Address:
    """One account."""
    return Address(data[WORD_BYTES - 20 : WORD_BYTES])


def decode_addresses(data: bytes) -> tuple[Address, ...]:
    """A list of accounts, in the contract's order."""
    (addresses,) = decode(["address[]"], data)
    return tuple(Address(bytes.fromhex(each[2:])) for each in addresses)


def decode_committee(data: bytes) -> tuple[tuple[Address, ...], tuple[Address, ...]]:
    """The validators in force, and the operator account of each."""
    validators, operators = decode(["address[]", "address[]"], data)
    return (
        tuple(Address(bytes.fromhex(each[2:])) for each in validators),
        tuple(Address(bytes.fromhex(each[2:])) for each in operators),
    )


def decode_validator(data: bytes) -> ValidatorState:
    """The validator set's `getValidator`."""
    operator, status, *rest = _struct("(address,uint8,bool,uint64,uint256)", data)
    build: Callable[..., ValidatorState] = ValidatorState
    assert isinstance(status, int)
    return build(operator, ValidatorStatus(status), *rest)


def decode_proposal(data: bytes) -> ValidatorProposal:
    """The validator set's `getProposal`."""
    layout = "(address,address,bool,bool,uint64,uint256)"
    (values, votes) = decode([layout, "uint256"], data)
    build: Callable[..., ValidatorProposal] = ValidatorProposal
    typed = (_typed(kind, value) for kind, value in zip(_types(layout), values, strict=True))
    return build(*typed, votes)


def decode_deadline(data: bytes) -> Deadline:
    """The ledger's `deadline`."""
    block_number, timestamp = decode(["uint64", "uint64"], data)
    return Deadline(BlockNumber(block_number), timestamp)


def decode_terms(data: bytes) -> TaskTerms:
    """The registry's `getTerms`."""
    build: Callable[..., TaskTerms] = TaskTerms
    return build(*_struct(_TERMS, data))


def decode_account(data: bytes) -> TaskAccount:
    """The registry's `getAccount`."""
    submitter, status, *rest = _struct(_ACCOUNT, data)
    build: Callable[..., TaskAccount] = TaskAccount
    assert isinstance(status, int)
    return build(submitter, TaskStatus(status), *rest)


def decode_round(data: bytes) -> RoundState:
    """The ledger's `getRound`."""
    build: Callable[..., RoundState] = RoundState
    return build(*_struct(_ROUND, data))


def decode_miner(data: bytes) -> MinerState:
    """The ledger's `getMiner`."""
    build: Callable[..., MinerState] = MinerState
    return build(*_struct("(uint32,uint64,uint64,uint64,uint256)", data))


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
