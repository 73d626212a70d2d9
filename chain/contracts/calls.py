"""Classifies transactions to the system contracts, for the mempool and the builder."""

from enum import Enum, auto
from typing import Final

from chain.contracts import gradient_ledger, task_registry, validator_set
from chain.contracts.abi import SELECTOR_BYTES, WORD_BYTES
from chain.primitives import Address, TaskId


class CallKind(Enum):
    """The kinds of calls that the mempool and the builder treat differently."""

    OPERATOR_VOTE = auto()
    """A ready, verdict or result vote, a vote on the validator set, or evidence."""
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
"""The kind of a call, by contract and selector."""


def classify_call(to: Address | None, data: bytes) -> CallKind:
    """The kind of a call. Whether the sender is allowed to make it is checked by the contract."""
    if to is None:
        return CallKind.OTHER
    return _KIND_OF.get((to, data[:SELECTOR_BYTES]), CallKind.OTHER)


def decode_task_id(data: bytes) -> TaskId | None:
    """The task id in an operator vote or a commitment; None if the data is too short."""
    word = data[SELECTOR_BYTES : SELECTOR_BYTES + WORD_BYTES]
    return TaskId(int.from_bytes(word, "big")) if len(word) == WORD_BYTES else None
