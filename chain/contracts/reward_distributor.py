"""The contract that pays rewards: calls, answers and events (docs/spec/contracts.md)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from chain.contracts import tables
from chain.contracts.abi import Contract, ContractCall, ContractView
from chain.contracts.addresses import REWARD_DISTRIBUTOR
from chain.primitives import Address, Hash32, TaskId

CONTRACT: Final = Contract(REWARD_DISTRIBUTOR, tables.REWARD_DISTRIBUTOR)
"""As genesis deploys it."""


@dataclass(frozen=True, slots=True)
class RewardClaim:
    """One claim of `claimMany`."""

    task_id: TaskId
    account: Address
    cumulative: int
    proof: tuple[Hash32, ...]


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


def claim(task_id: TaskId, cumulative: int, proof: Sequence[Hash32]) -> ContractCall:
    """Pay the caller its rewards up to `cumulative`."""
    return CONTRACT.call("claim", task_id, cumulative, proof)


def claim_many(claims: Sequence[RewardClaim]) -> ContractCall:
    """Pay several claims: all of them or none."""
    return CONTRACT.call("claimMany", claims)


def root_of(task_id: TaskId) -> ContractView[Hash32]:
    """The root of a task's reward tree; zero before the first settled round."""
    return CONTRACT.view("rootOf", task_id, returns=Hash32)


def claimed_of(task_id: TaskId, account: Address) -> ContractView[int]:
    """The base units that an account has claimed of a task."""
    return CONTRACT.view("claimedOf", task_id, account, returns=int)
