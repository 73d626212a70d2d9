"""The contract that holds the validators: calls, answers and events."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from chain.contracts import tables
from chain.contracts.abi import Contract, ContractCall, ContractView
from chain.contracts.addresses import VALIDATOR_SET
from chain.primitives import Address, BlockNumber, Hash32
from chain.types.validator_set import ValidatorSet

CONTRACT: Final = Contract(VALIDATOR_SET, tables.VALIDATOR_SET)
"""As genesis deploys it."""


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


@dataclass(frozen=True, slots=True)
class VotePlace:
    """What a consensus vote is for: an honest validator signs one vote for each place."""

    kind: int
    version: int
    """Of the protocol."""
    number: BlockNumber
    view: int


@dataclass(frozen=True, slots=True)
class SignedDigest:
    """A digest with a validator's signature."""

    digest: Hash32
    signature: bytes


@dataclass(frozen=True, slots=True)
class SignedViewChange:
    """A VIEW-CHANGE with a validator's signature."""

    view: int
    prepared_view: int
    prepared_digest: Hash32
    signature: bytes


def get_current() -> ContractView[ValidatorSet]:
    """The set in force."""
    return CONTRACT.view("committee", returns=ValidatorSet)


def get_version(version: int) -> ContractView[ValidatorSet]:
    """A set that is or was in force."""
    return CONTRACT.view("committeeOf", version, returns=ValidatorSet)


def next_validators() -> ContractView[tuple[Address, ...]]:
    """The validators after the scheduled change; none if no change is scheduled."""
    return CONTRACT.view("nextValidators", returns=tuple)


def activation_block() -> ContractView[BlockNumber]:
    """The first block of the change scheduled last, if there are next validators."""
    return CONTRACT.view("activationBlock", returns=BlockNumber)


def get_validator(validator: Address) -> ContractView[ValidatorState]:
    """A validator's account; of status NONE if it never was one."""
    return CONTRACT.view("getValidator", validator, returns=ValidatorState)


def proposal_count() -> ContractView[int]:
    """The number of proposals so far; their ids are 1 to this."""
    return CONTRACT.view("proposalCount", returns=int)


def get_proposal(proposal_id: int) -> ContractView[ValidatorProposal]:
    """A join or a removal, with its votes."""
    return CONTRACT.view("getProposal", proposal_id, returns=ValidatorProposal)


def candidacy_of(operator: Address) -> ContractView[int]:
    """The id of the join that an account proposed, or 0."""
    return CONTRACT.view("candidacyOf", operator, returns=int)


def required_stake() -> ContractView[int]:
    """The base units of POT that a join needs."""
    return CONTRACT.view("requiredStake", returns=int)


def genesis_hash() -> ContractView[Hash32]:
    """The hash of block 0; zero until it was recorded."""
    return CONTRACT.view("genesisHash", returns=Hash32)


def propose_join(validator: Address) -> ContractCall:
    """Ask to operate `validator`; the stake must have been approved to the set."""
    return CONTRACT.call("proposeJoin", validator)


def propose_removal(validator: Address) -> ContractCall:
    """Ask, as a member's operator, for the removal of another member."""
    return CONTRACT.call("proposeRemoval", validator)


def vote_on_proposal(proposal_id: int) -> ContractCall:
    """Vote, as an operator, for a join or a removal."""
    return CONTRACT.call("voteOnProposal", proposal_id)


def carry_out(proposal_id: int) -> ContractCall:
    """Schedule a join that has a quorum; any account may."""
    return CONTRACT.call("carryOut", proposal_id)


def withdraw_proposal(proposal_id: int) -> ContractCall:
    """Give a join up and take the stake back; the candidate may."""
    return CONTRACT.call("withdrawProposal", proposal_id)


def leave_set() -> ContractCall:
    """Leave; a member's operator may."""
    return CONTRACT.call("leaveSet")


def remove_exiting(validator: Address) -> ContractCall:
    """Schedule the removal of a validator that waits for it; any account may."""
    return CONTRACT.call("removeExiting", validator)


def withdraw_stake() -> ContractCall:
    """Take the stake back; the operator of a validator that has left may."""
    return CONTRACT.call("withdrawStake")


def record_genesis() -> ContractCall:
    """Store the genesis hash, which evidence needs; any account may, in the first 8191 blocks."""
    return CONTRACT.call("recordGenesis")


def report_equivocation(
    place: VotePlace, first: SignedDigest, second: SignedDigest
) -> ContractCall:
    """Report two votes for one place; any account may."""
    return CONTRACT.call("reportEquivocation", place, first, second)


def report_lost_lock(
    place: VotePlace, commit: SignedDigest, view_change: SignedViewChange
) -> ContractCall:
    """Report a VIEW-CHANGE that hides what the validator's COMMIT shows; any account may."""
    return CONTRACT.call("reportLostLock", place, commit, view_change)


def encode_constructor(
    validators: Sequence[Address],
    operators: Sequence[Address],
    *,
    stake: int,
    min_validators: int,
    change_blocks: int,
    evidence_blocks: int,
) -> bytes:
    """The constructor's arguments: the first set and the network's constants.

    Args:
        validators: The consensus accounts, ascending.
        operators: One account for each.
        stake: Base units of POT for each validator; genesis gives them to the contract.
        min_validators: The size from which no validator can be removed.
        change_blocks: From a change's scheduling to its activation.
        evidence_blocks: How old evidence may be, and how long stake stays after a removal.
    """
    return CONTRACT.encode_constructor(
        validators, operators, stake, min_validators, change_blocks, evidence_blocks
    )
