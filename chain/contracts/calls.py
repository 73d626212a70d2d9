"""Classifies transactions to the system contracts, for the mempool and the builder."""

from collections.abc import Mapping
from enum import Enum, auto
from functools import cache
from typing import Final

from chain.contracts import (
    faucet,
    gradient_ledger,
    miner_seats,
    reward_distributor,
    task_registry,
    training_token,
    validator_set,
)
from chain.contracts.abi import SELECTOR_BYTES, WORD_BYTES
from chain.hexadecimal import to_hex
from chain.primitives import Address, TaskId


class CallKind(Enum):
    """The kinds of calls that the mempool and the builder treat differently."""

    OPERATOR_VOTE = auto()
    """An answer to a task, a vote on verdicts, results, fines or the validator set, or evidence."""
    OPERATOR_DUTY = auto()
    """A call that any account may make, and operators make in turn: it ends a round, a ballot, a
    task or a seat, imposes fines, or changes the validator set. The contract accepts it once, when
    it is due."""
    COMMITMENT = auto()
    OTHER = auto()


_KIND_OF: Final = {
    (module.CONTRACT.address, module.CONTRACT.compute_selector(name)): (kind, words)
    for module, name, kind, words in (
        (task_registry, "answerTask", CallKind.OPERATOR_VOTE, 1),
        (gradient_ledger, "postVerdict", CallKind.OPERATOR_VOTE, 4),
        (gradient_ledger, "postResult", CallKind.OPERATOR_VOTE, 4),
        (gradient_ledger, "postLateVerdict", CallKind.OPERATOR_VOTE, 2),
        (miner_seats, "postFines", CallKind.OPERATOR_VOTE, 2),
        (gradient_ledger, "settleRound", CallKind.OPERATOR_DUTY, 1),
        (gradient_ledger, "advanceRound", CallKind.OPERATOR_DUTY, 1),
        (task_registry, "expireTask", CallKind.OPERATOR_DUTY, 1),
        (miner_seats, "slash", CallKind.OPERATOR_DUTY, 7),
        (miner_seats, "endSeats", CallKind.OPERATOR_DUTY, 1),
        (validator_set, "carryOut", CallKind.OPERATOR_DUTY, 1),
        (validator_set, "removeExiting", CallKind.OPERATOR_DUTY, 1),
        (gradient_ledger, "commitGradient", CallKind.COMMITMENT, 1),
        (validator_set, "voteOnProposal", CallKind.OPERATOR_VOTE, 1),
        (validator_set, "reportEquivocation", CallKind.OPERATOR_VOTE, 0),
        (validator_set, "reportLostLock", CallKind.OPERATOR_VOTE, 0),
    )
}
"""The kind of a call, and how many of its first arguments say what it is about, by contract and
selector. A miner commits once in a task at a time; an operator reports one validator at a time.
Seven words of slash end with the first of its fines. recordGenesis is missing, because the contract
accepts it again and again."""


def identify_call(to: Address | None, data: bytes) -> tuple[CallKind, bytes | None]:
    """The kind of a call, and the part of it that says what it is about.

    That part is equal for two votes of an operator on the same ballot, for two duties of one kind
    to the same task, and for two commitments of a miner in the same task. It is None for other
    calls, and for data that is too short. Whether the sender is allowed to make the call is checked
    by the contract.
    """
    if to is None:
        return CallKind.OTHER, None
    kind, words = _KIND_OF.get((to, data[:SELECTOR_BYTES]), (CallKind.OTHER, 0))
    end = SELECTOR_BYTES + words * WORD_BYTES
    is_known = kind is not CallKind.OTHER and len(data) >= end
    return kind, to + data[:end] if is_known else None


@cache
def _name_functions() -> Mapping[tuple[Address, bytes], str]:
    return {
        (module.CONTRACT.address, module.CONTRACT.compute_selector(name)): name
        for module in (
            faucet,
            gradient_ledger,
            miner_seats,
            reward_distributor,
            task_registry,
            training_token,
            validator_set,
        )
        for name in module.CONTRACT.abi.functions
    }


def name_call(to: Address | None, data: bytes) -> str:
    """What a transaction does, in few words: the function of a system contract, or a transfer."""
    if to is None:
        return "a new contract"
    if not data:
        return "a transfer of coins"
    return _name_functions().get((to, data[:SELECTOR_BYTES]), f"a call of {to_hex(to)[:10]}")


def decode_task_id(data: bytes) -> TaskId | None:
    """The task id in a vote, duty or commitment; None if the data is too short."""
    word = data[SELECTOR_BYTES : SELECTOR_BYTES + WORD_BYTES]
    return TaskId(int.from_bytes(word, "big")) if len(word) == WORD_BYTES else None
