"""The contract that holds the validators: calls, answers and events."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from chain.contracts import tables
from chain.contracts.abi import Contract, ContractCall, ContractView
from chain.contracts.addresses import VALIDATOR_SET
from chain.crypto import keccak256
from chain.primitives import Address, BlockNumber, Hash32
from chain.types.validator_set import ValidatorSet

CONTRACT: Final = Contract(VALIDATOR_SET, tables.VALIDATOR_SET)
"""The contract that genesis deploys."""

JOIN_DOMAIN: Final = keccak256(b"ProofOfTraining.join")
"""Separates the proof of a candidate's key from what a consensus key signs elsewhere."""


class ValidatorStatus(IntEnum):
    """The statuses of a validator, numbered as in the contract."""

    NONE = 0
    ACTIVE = 1
    """In the set, or scheduled to join it."""
    EXITING = 2
    """Will be removed as soon as a change can be scheduled."""
    EXITED = 3


@dataclass(frozen=True, slots=True)
class ValidatorState:
    """The contract's record of a validator."""

    operator: Address
    status: ValidatorStatus
    is_slashed: bool
    unlock_block: BlockNumber
    """The first block in which its stake can be withdrawn; 0 unless it has left."""
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
    """From this block on the proposal cannot be carried out."""
    stake: int
    """The deposit of an open join, in base units of POT; 0 otherwise."""
    votes: int
    """The number of current members that voted for it, without slashed ones."""
    needed: int
    """The number of votes that it needs: a quorum of the members that were not slashed."""


@dataclass(frozen=True, slots=True)
class ProposalMade:
    """A join or a removal was proposed; members may vote on it."""

    proposal_id: int
    validator: Address
    operator: Address
    is_join: bool
    expiry_block: BlockNumber


@dataclass(frozen=True, slots=True)
class ProposalVoted:
    """A member voted for a proposal."""

    proposal_id: int
    validator: Address


@dataclass(frozen=True, slots=True)
class ProposalClosed:
    """A proposal was carried out or withdrawn."""

    proposal_id: int
    carried_out: bool


@dataclass(frozen=True, slots=True)
class ExitRequested:
    """A validator will be removed at the next possible change."""

    validator: Address


@dataclass(frozen=True, slots=True)
class SetScheduled:
    """A change of the set was scheduled; it takes effect at `activation_block`."""

    version: int
    validator: Address
    is_join: bool
    activation_block: BlockNumber


@dataclass(frozen=True, slots=True)
class ValidatorSlashed:
    """A validator lost all its stake, because it signed conflicting votes at block `number`."""

    validator: Address
    reporter: Address
    number: BlockNumber
    amount: int


@dataclass(frozen=True, slots=True)
class StakeWithdrawn:
    """An operator took the stake of its former validator back."""

    validator: Address
    operator: Address
    amount: int


@dataclass(frozen=True, slots=True)
class VotePlace:
    """The place of a consensus vote. An honest validator signs only one vote for a place."""

    kind: int
    version: int
    """The protocol version."""
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
    """The validators and operators of the set in force."""
    return CONTRACT.view("committee", returns=ValidatorSet)


def get_version(version: int) -> ContractView[ValidatorSet]:
    """The validators and operators of a set that is or was in force."""
    return CONTRACT.view("committeeOf", version, returns=ValidatorSet)


def next_validators() -> ContractView[tuple[Address, ...]]:
    """The validators after the scheduled change; empty if no change is scheduled."""
    return CONTRACT.view("nextValidators", returns=tuple)


def activation_block() -> ContractView[BlockNumber]:
    """The first block of the scheduled change; meaningful only if there are next validators."""
    return CONTRACT.view("activationBlock", returns=BlockNumber)


def get_validator(validator: Address) -> ContractView[ValidatorState]:
    """The record of a validator; its status is NONE if it never was one."""
    return CONTRACT.view("getValidator", validator, returns=ValidatorState)


def proposal_count() -> ContractView[int]:
    """The number of proposals so far; their ids are 1 to this."""
    return CONTRACT.view("proposalCount", returns=int)


def get_proposal(proposal_id: int) -> ContractView[ValidatorProposal]:
    """A proposal, with the number of its votes."""
    return CONTRACT.view("getProposal", proposal_id, returns=ValidatorProposal)


def candidacy_of(operator: Address) -> ContractView[int]:
    """The id of the open join that an account proposed; 0 if there is none."""
    return CONTRACT.view("candidacyOf", operator, returns=int)


def required_stake() -> ContractView[int]:
    """The base units of POT that a join needs."""
    return CONTRACT.view("requiredStake", returns=int)


def genesis_hash() -> ContractView[Hash32]:
    """The hash of block 0; zero until it was recorded."""
    return CONTRACT.view("genesisHash", returns=Hash32)


def compute_join_digest(
    chain_id: int, validator: Address, operator: Address, contract: Address = VALIDATOR_SET
) -> Hash32:
    """What the consensus key of a candidate signs, to prove that it wants this operator.

    It is keccak256(abi.encode(JOIN_DOMAIN, chainId, contract, validator, operator)).
    """
    return keccak256(
        JOIN_DOMAIN
        + chain_id.to_bytes(32, "big")
        + b"".join(each.rjust(32, b"\x00") for each in (contract, validator, operator))
    )


def propose_join(validator: Address, proof: bytes) -> ContractCall:
    """Propose that `validator` joins, operated by the caller; the stake must have been approved.

    Args:
        validator: The address of the consensus key.
        proof: That key's signature of `compute_join_digest`.
    """
    return CONTRACT.call("proposeJoin", validator, proof)


def propose_removal(validator: Address) -> ContractCall:
    """Propose the removal of a validator; for operators of members."""
    return CONTRACT.call("proposeRemoval", validator)


def vote_on_proposal(proposal_id: int) -> ContractCall:
    """Vote for a proposal; for operators of members."""
    return CONTRACT.call("voteOnProposal", proposal_id)


def carry_out(proposal_id: int) -> ContractCall:
    """Carry out a join that has a quorum; any account may call this."""
    return CONTRACT.call("carryOut", proposal_id)


def withdraw_proposal(proposal_id: int) -> ContractCall:
    """Withdraw a join proposal and take the stake back; only the candidate may call this."""
    return CONTRACT.call("withdrawProposal", proposal_id)


def leave_set() -> ContractCall:
    """Leave the set with the caller's validator; for operators of members."""
    return CONTRACT.call("leaveSet")


def remove_exiting(validator: Address) -> ContractCall:
    """Schedule the removal of an exiting validator; any account may call this."""
    return CONTRACT.call("removeExiting", validator)


def withdraw_stake() -> ContractCall:
    """Take the stake of a former validator back; only its operator may call this."""
    return CONTRACT.call("withdrawStake")


def record_genesis() -> ContractCall:
    """Store the genesis hash, which evidence needs; any account, within the first 8191 blocks."""
    return CONTRACT.call("recordGenesis")


def report_equivocation(
    place: VotePlace, first: SignedDigest, second: SignedDigest
) -> ContractCall:
    """Report two votes of a validator for one place; any account may call this."""
    return CONTRACT.call("reportEquivocation", place, first, second)


def report_lost_lock(
    place: VotePlace, commit: SignedDigest, view_change: SignedViewChange
) -> ContractCall:
    """Report a VIEW-CHANGE that denies an earlier COMMIT of the validator; any account may."""
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
        validators: The validators' addresses, ascending.
        operators: The operator account of each validator.
        stake: Base units of POT for each validator; genesis allocates them to the contract.
        min_validators: The smallest size of the set.
        change_blocks: Blocks from scheduling a change to its activation.
        evidence_blocks: Blocks for which evidence is accepted and a former stake locked.
    """
    return CONTRACT.encode_constructor(
        validators, operators, stake, min_validators, change_blocks, evidence_blocks
    )
