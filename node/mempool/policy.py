"""What the mempool asks of the chain, and its limits (docs/spec/wire.md, section 5)."""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol

from chain.primitives import Address, TaskId
from chain.types.transaction import Transaction


class Priority(IntEnum):
    """The class of a transaction; a lower value goes into a block earlier."""

    OPERATOR_VOTE = 0
    """An operator's vote or duty (docs/glossary.md) that the contracts would accept in the next
    block."""
    COMMITMENT = 1
    """A gradient commitment that the ledger would accept in the next block."""
    ORDINARY = 2
    """Any other transaction."""


class Subject(NamedTuple):
    """What a vote, a duty or a commitment is about; a sender does it once."""

    task_id: TaskId
    """The task; 0 for a vote on the validator set."""
    priority: Priority
    """The priority of the transaction if the contracts accept it."""
    call: bytes
    """The contract and the beginning of the call, up to the argument that ends the subject."""
    has_common_turn: bool = False
    """Whether all operators share the turns of such calls: votes on proposals, since two operators
    that break the rules could go on making proposals for the other one's votes."""


class HeadRules(Protocol):
    """The chain's rules and accounts that the mempool needs, in the state of the head."""

    def validate_outline(self, raw: bytes) -> None:
        """Refuse an encoded transaction that is not worth decoding.

        Raises:
            InvalidTransaction: The gas limit cannot pay for the data and the lists.
        """

    def validate(self, transaction: Transaction) -> None:
        """Accept a transaction that could be included once its nonce is due.

        Raises:
            InvalidTransaction: The transaction could never be included. A nonce that is too low is
                a reason for this, but one that is too high is not.
        """

    def nonce(self, sender: Address) -> int:
        """The next nonce of an account."""

    def base_fee(self) -> int:
        """The base fee of the next block, in wei for a unit of gas."""

    def balance(self, sender: Address) -> int:
        """The balance of an account, in wei."""

    def is_delegated(self, account: Address) -> bool:
        """Whether an account delegates to code (EIP-7702)."""

    def find_subject(self, transaction: Transaction) -> Subject | None:
        """The subject of a transaction that may have priority; None for any other one."""

    def is_examinable(self, transaction: Transaction) -> bool:
        """Whether `classify` would execute a transaction that has a subject."""

    def classify(self, transaction: Transaction) -> Priority:
        """The priority of a transaction that has a subject."""


@dataclass(frozen=True, slots=True)
class MempoolLimits:
    """The limits of a mempool."""

    transactions: int = 8_192
    """Limit of transactions: five full blocks of transfers at a gas limit of 30 million."""
    size_bytes: int = 32 * 2**20
    """Limit of encoded bytes: eight blocks of the largest size."""
    sender_transactions: int = 64
    """Limit of a sender's transactions. A nonce must be less than this above the account's next
    nonce. The number is geth's."""
    free_sender_transactions: int = 4
    """Limit of ordinary transactions of a sender without a balance. It needs three to approve a
    bond, to register and to claim."""
    waiting_blocks: int = 3_600
    """A transaction that waited for more blocks than this is dropped: 30 minutes at two blocks a
    second."""
    banned: int = 4_096
    """Limit of banned transactions that are remembered. The earliest ones are forgotten first."""
