"""What nodes answer to a miner, as typed values (docs/spec/rpc.md)."""

from chain.primitives import TaskId
from chain.training.attempt import AttemptId
from pot_common.rpc_replies import HexAddress, HexBytes, HexHash, Items, Reply


class TaskReply(Reply):
    """A task, as `pot_getTask` and `pot_listTasks` tell it."""

    id: int
    status: str
    """pending, active, paused or closed."""
    spec_hash: HexHash


class AttemptReply(Reply):
    """The attempt in progress at a task's round, as `pot_getAttempt` tells it: not proven."""

    round: int
    attempt: int
    ballot: int
    phase: str
    open_block: int
    participants: Items[tuple[HexAddress, int]]
    """Miners with their declared units, by ascending address."""
    seats: Items[HexAddress]
    """All seats after the opening block; some may have been taken after the attempt opened."""

    def get_attempt_id(self, task: TaskId) -> AttemptId:
        """The id of the attempt, which is one of `task`."""
        return AttemptId(task, self.round, self.attempt)


class HoldersReply(Reply):
    """`pot_getRevealHolders`: the validators that hold a gradient, as the node found."""

    validators: Items[HexAddress]


class VerdictReply(Reply):
    """A validator's verdict on a gradient, in a receipt."""

    validator: HexAddress
    verdict: str
    """ok, bad, cheat, missing or unchecked."""
    reason: str | None = None
    """Why it is not ok; known only to the node of that validator."""


class ReceiptReply(Reply):
    """`pot_getReceipt`: what became of a gradient."""

    accepted: bool | None
    """None while the round is not settled."""
    pay: int
    """Base units of the task's token."""
    reason: str
    """Why it was paid or not, in a few words."""
    verdicts: Items[VerdictReply]


class GenesisReply(Reply):
    """`pot_getGenesis`: the encoded header of block 0, and the parameters that it commits to."""

    header: HexBytes
    parameters: HexBytes


class StateProof(Reply):
    """`pot_getProof`: an encoded header, its commit certificate, and trie nodes of its state."""

    header: HexBytes
    certificate: HexBytes | None
    """None for block 0."""
    nodes: Items[HexBytes]


class ValidatorSetChange(Reply):
    """An entry of `pot_getValidatorSets`: a claim that the caller must check."""

    first_block: int
    """The first block that this set decides."""
    validators: Items[HexAddress]
