"""What call data asks for, as the mempool and the builder see it."""

from enum import Enum, auto
from typing import Final

from chain.contracts import gradient_ledger, task_registry, validator_set
from chain.contracts.abi import SELECTOR_BYTES, WORD_BYTES
from chain.primitives import Address, TaskId


class CallKind(Enum):
    """What the mempool and the builder tell apart."""

    OPERATOR_VOTE = auto()
    """ready, verdict, result, a vote on the validator set, or evidence."""
    COMMITMENT = auto()
    OTHER = auto()


_KIND_OF: Final = {
    (module.CONTRACT.address, module.CONTRACT.compute_selector(name)): kind
    for module, name, kind in (
        (task_registry, "postReady", CallKind.OPERATOR_VOTE),
        (gradient_ledger, "postVerdict", CallKind.OPERATOR_VOTE),
        (gradient_ledger, "postResult", CallKind.OPERATOR_VOTE),
        (gradient_ledger, "commitGradient", CallKind.COMMITMENT),
        (validator_set, "voteOnProposal", CallKind.OPERATOR_VOTE),
        (validator_set, "reportEquivocation", CallKind.OPERATOR_VOTE),
        (validator_set, "reportLostLock", CallKind.OPERATOR_VOTE),
    )
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
