"""The contract that holds the validators: calls, answers and events."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from eth_abi.abi import decode, encode

from chain.contracts.abi import convert_value, decode_struct, encode_call, list_types
from chain.primitives import Address, BlockNumber, Hash32


class ValidatorStatus(IntEnum):
    """The validator set's enum, number by number."""

    NONE = 0
    ACTIVE = 1
    """In the set, or scheduled to be."""
    EXITING = 2
    """Removed as soon as a change can be scheduled."""
    EXITED = 3


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


VOTE_ON_PROPOSAL: Final = "voteOnProposal(uint256)"
"""An operator vote."""


_PLACE: Final = "(uint8,uint32,uint64,uint64)"
"""VotePlace."""


_DIGEST: Final = "(bytes32,bytes)"
"""SignedDigest."""


REPORT_EQUIVOCATION: Final = f"reportEquivocation({_PLACE},{_DIGEST},{_DIGEST})"
"""Anyone's; sent by an operator it has an operator vote's place in a block."""


REPORT_LOST_LOCK: Final = f"reportLostLock({_PLACE},{_DIGEST},(uint64,uint64,bytes32,bytes))"
"""As above."""


def encode_committee() -> bytes:
    """Answers `decode_committee`."""
    return encode_call("committee()")


def encode_committee_of(version: int) -> bytes:
    """Answers `decode_committee`: of a set that is or was in force."""
    return encode_call("committeeOf(uint256)", version)


def encode_next_validators() -> bytes:
    """Answers `decode_addresses`: the set that a scheduled change leads to, or none."""
    return encode_call("nextValidators()")


def encode_activation_block() -> bytes:
    """Answers `decode_uint`: of the change scheduled last, if `nextValidators` is not empty."""
    return encode_call("activationBlock()")


def encode_operator_of(validator: Address) -> bytes:
    """Answers `decode_address`; the zero address for no validator."""
    return encode_call("operatorOf(address)", validator)


def encode_validator_of(operator: Address) -> bytes:
    """Answers `decode_address`; the zero address for no operator."""
    return encode_call("validatorOf(address)", operator)


def encode_get_validator(validator: Address) -> bytes:
    """Answers `decode_validator`."""
    return encode_call("getValidator(address)", validator)


def encode_propose_join(validator: Address) -> bytes:
    """The caller wants to operate `validator`; the stake must have been approved to the set."""
    return encode_call("proposeJoin(address)", validator)


def encode_propose_removal(validator: Address) -> bytes:
    """A member's operator asks for another's removal."""
    return encode_call("proposeRemoval(address)", validator)


def encode_vote_on_proposal(proposal_id: int) -> bytes:
    """An operator vote for a join or a removal."""
    return encode_call(VOTE_ON_PROPOSAL, proposal_id)


def encode_carry_out(proposal_id: int) -> bytes:
    """Anyone's, of a join that has a quorum."""
    return encode_call("carryOut(uint256)", proposal_id)


def encode_withdraw_proposal(proposal_id: int) -> bytes:
    """The candidate's; returns the stake."""
    return encode_call("withdrawProposal(uint256)", proposal_id)


def encode_leave_set() -> bytes:
    """A member's operator leaves."""
    return encode_call("leaveSet()")


def encode_remove_exiting(validator: Address) -> bytes:
    """Anyone's, of a validator that waits for its removal."""
    return encode_call("removeExiting(address)", validator)


def encode_withdraw_stake() -> bytes:
    """The operator's, of a validator that has left."""
    return encode_call("withdrawStake()")


def encode_proposal_count() -> bytes:
    """Answers `decode_uint`; ids are 1 to this."""
    return encode_call("proposalCount()")


def encode_get_proposal(proposal_id: int) -> bytes:
    """Answers `decode_proposal`."""
    return encode_call("getProposal(uint256)", proposal_id)


def encode_candidacy_of(operator: Address) -> bytes:
    """Answers `decode_uint`: the id of the join that an account proposed, or 0."""
    return encode_call("candidacyOf(address)", operator)


def encode_has_voted(proposal_id: int, validator: Address) -> bytes:
    """Answers `decode_uint`: 0 or 1."""
    return encode_call("hasVoted(uint256,address)", proposal_id, validator)


def encode_required_stake() -> bytes:
    """Answers `decode_uint`: base units of POT."""
    return encode_call("requiredStake()")


def encode_min_validators() -> bytes:
    """Answers `decode_uint`."""
    return encode_call("minValidators()")


def encode_record_genesis() -> bytes:
    """Anyone's, in the first 8191 blocks: evidence needs the genesis hash."""
    return encode_call("recordGenesis()")


def encode_genesis_hash() -> bytes:
    """Answers `decode_hash`: zero until it was recorded."""
    return encode_call("genesisHash()")


def encode_report_equivocation(
    place: tuple[int, int, int, int],
    first: tuple[Hash32, bytes],
    second: tuple[Hash32, bytes],
) -> bytes:
    """Anyone's: two signed digests, for one (kind, version, number, view)."""
    return encode_call(REPORT_EQUIVOCATION, place, first, second)


def encode_report_lost_lock(
    place: tuple[int, int, int, int],
    commit: tuple[Hash32, bytes],
    view_change: tuple[int, int, Hash32, bytes],
) -> bytes:
    """Anyone's: a COMMIT, and a VIEW-CHANGE (view, prepared view and digest, signature)."""
    return encode_call(REPORT_LOST_LOCK, place, commit, view_change)


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


def decode_committee(data: bytes) -> tuple[tuple[Address, ...], tuple[Address, ...]]:
    """The validators in force, and the operator account of each."""
    validators, operators = decode(["address[]", "address[]"], data)
    return (
        tuple(Address(bytes.fromhex(each[2:])) for each in validators),
        tuple(Address(bytes.fromhex(each[2:])) for each in operators),
    )


def decode_validator(data: bytes) -> ValidatorState:
    """The validator set's `getValidator`."""
    operator, status, *rest = decode_struct("(address,uint8,bool,uint64,uint256)", data)
    build: Callable[..., ValidatorState] = ValidatorState
    assert isinstance(status, int)
    return build(operator, ValidatorStatus(status), *rest)


def decode_proposal(data: bytes) -> ValidatorProposal:
    """The validator set's `getProposal`."""
    layout = "(address,address,bool,bool,uint64,uint256)"
    (values, votes) = decode([layout, "uint256"], data)
    build: Callable[..., ValidatorProposal] = ValidatorProposal
    typed = (
        convert_value(kind, value) for kind, value in zip(list_types(layout), values, strict=True)
    )
    return build(*typed, votes)
