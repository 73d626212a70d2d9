"""The contract that pays rewards: calls, answers and events (docs/spec/contracts.md)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from chain.contracts import tables
from chain.contracts.abi import Contract, ContractCall, ContractView
from chain.contracts.addresses import REWARD_DISTRIBUTOR
from chain.primitives import Address, Hash32, TaskId

CONTRACT: Final = Contract(REWARD_DISTRIBUTOR, tables.REWARD_DISTRIBUTOR)
"""The contract that genesis deploys."""


@dataclass(frozen=True, slots=True)
class RewardClaim:
    """One claim of `claimMany`."""

    task_id: TaskId
    account: Address
    cumulative: int
    proof: tuple[Hash32, ...]


@dataclass(frozen=True, slots=True)
class RootSet:
    """A task's rewards root was replaced; claims are checked against the new root."""

    task_id: TaskId
    root: Hash32
    paid_total: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """An account was paid `amount`; `cumulative` is the sum of all its claims."""

    task_id: TaskId
    account: Address
    amount: int
    cumulative: int


def claim(task_id: TaskId, cumulative: int, proof: Sequence[Hash32]) -> ContractCall:
    """Claim the caller's rewards, up to the sum `cumulative`."""
    return CONTRACT.call("claim", task_id, cumulative, proof)


def claim_many(claims: Sequence[RewardClaim]) -> ContractCall:
    """Pay several claims, either all of them or none."""
    return CONTRACT.call("claimMany", claims)


def root_of(task_id: TaskId) -> ContractView[Hash32]:
    """The root of a task's reward tree; zero before the first settled round."""
    return CONTRACT.view("rootOf", task_id, returns=Hash32)


def claimed_of(task_id: TaskId, account: Address) -> ContractView[int]:
    """The base units that an account has claimed from a task."""
    return CONTRACT.view("claimedOf", task_id, account, returns=int)
