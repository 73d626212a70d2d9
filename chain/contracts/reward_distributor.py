"""The contract that pays rewards: calls, answers and events (docs/spec/contracts.md)."""

from collections.abc import Sequence
from dataclasses import dataclass

from chain.contracts.abi import encode_call
from chain.primitives import Address, Hash32, TaskId


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


def encode_claim(task_id: TaskId, cumulative: int, proof: Sequence[Hash32]) -> bytes:
    """The caller's reward up to `cumulative`."""
    return encode_call("claim(uint256,uint256,bytes32[])", task_id, cumulative, proof)


def encode_claim_for(
    task_id: TaskId, account: Address, cumulative: int, proof: Sequence[Hash32]
) -> bytes:
    """Anyone pays the gas, `account` gets the money."""
    return encode_call(
        "claimFor(uint256,address,uint256,bytes32[])", task_id, account, cumulative, proof
    )


def encode_claim_many(claims: Sequence[RewardClaim]) -> bytes:
    """Several claims; all or none."""
    return encode_call(
        "claimMany((uint256,address,uint256,bytes32[])[])",
        [(each.task_id, each.account, each.cumulative, each.proof) for each in claims],
    )


def encode_root_of(task_id: TaskId) -> bytes:
    """Answers `decode_hash`."""
    return encode_call("rootOf(uint256)", task_id)


def encode_paid_total_of(task_id: TaskId) -> bytes:
    """Answers `decode_uint`."""
    return encode_call("paidTotalOf(uint256)", task_id)


def encode_claimed_of(task_id: TaskId, account: Address) -> bytes:
    """Answers `decode_uint`."""
    return encode_call("claimedOf(uint256,address)", task_id, account)


def encode_claimed_total_of(task_id: TaskId) -> bytes:
    """Answers `decode_uint`."""
    return encode_call("claimedTotalOf(uint256)", task_id)
