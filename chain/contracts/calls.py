"""What call data asks for, as the mempool and the builder see it."""

from enum import Enum, auto
from typing import Final

from chain.contracts.abi import SELECTOR_BYTES, WORD_BYTES, compute_selector
from chain.contracts.addresses import GRADIENT_LEDGER, TASK_REGISTRY, VALIDATOR_SET
from chain.contracts.gradient_ledger import COMMIT_GRADIENT, POST_RESULT, POST_VERDICT
from chain.contracts.task_registry import POST_READY
from chain.contracts.validator_set import REPORT_EQUIVOCATION, REPORT_LOST_LOCK, VOTE_ON_PROPOSAL
from chain.primitives import Address, TaskId


class CallKind(Enum):
    """What the mempool and the builder tell apart."""

    OPERATOR_VOTE = auto()
    """ready, verdict, result, a vote on the validator set, or evidence."""
    COMMITMENT = auto()
    OTHER = auto()


_KIND_OF: Final = {
    (TASK_REGISTRY, compute_selector(POST_READY)): CallKind.OPERATOR_VOTE,
    (GRADIENT_LEDGER, compute_selector(POST_VERDICT)): CallKind.OPERATOR_VOTE,
    (GRADIENT_LEDGER, compute_selector(POST_RESULT)): CallKind.OPERATOR_VOTE,
    (GRADIENT_LEDGER, compute_selector(COMMIT_GRADIENT)): CallKind.COMMITMENT,
    (VALIDATOR_SET, compute_selector(VOTE_ON_PROPOSAL)): CallKind.OPERATOR_VOTE,
    (VALIDATOR_SET, compute_selector(REPORT_EQUIVOCATION)): CallKind.OPERATOR_VOTE,
    (VALIDATOR_SET, compute_selector(REPORT_LOST_LOCK)): CallKind.OPERATOR_VOTE,
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
