"""The inputs: everything that can happen to a replica (docs/spec/consensus.md, section 5)."""

from dataclasses import dataclass
from enum import Enum

from chain.consensus.messages import Message, SigningDomain
from chain.primitives import Address, BlockNumber, Hash32, ValidatorIndex, View
from chain.types.block import Block


@dataclass(frozen=True, slots=True)
class Timing:
    """The durations of one network, in milliseconds."""

    min_block_interval_ms: int
    """From one proposal to the next, at least, if a transaction is waiting."""
    empty_block_interval_ms: int
    """From one proposal to the next if no transaction is waiting."""
    view_timeout_base_ms: int
    """Timeout of view 1; should be at least five times the largest one-way message delay."""
    view_timeout_cap_ms: int
    """Largest timeout of a view; should be at least three times as long as the slowest block."""
    resend_interval_ms: int
    """Between two repetitions of STATUS and VIEW-CHANGE while a number is being decided."""


@dataclass(frozen=True, slots=True)
class NumberConfig:
    """Everything that is fixed while one block number is decided."""

    number: BlockNumber
    parent_hash: Hash32
    validators: tuple[Address, ...]
    """By ascending address. Messages name a validator by its index here."""
    primary_order: tuple[ValidatorIndex, ...]
    """`quorum.compute_primary_order` of this number."""
    own_index: ValidatorIndex | None
    """None if this node is not a validator of this number, or must not sign (rule S8). Such a
    replica sends nothing and learns what is final from certificates."""
    domain: SigningDomain
    timing: Timing
    proposal_age_ms: int = 0
    """How long ago the parent was proposed, by our clock; block intervals are counted from
    there."""
    has_transaction: bool = False
    """Whether the pool holds a transaction that a block could include now."""

    def get_primary(self, view: View) -> ValidatorIndex:
        """The primary of `view`."""
        return self.primary_order[view % len(self.primary_order)]


class Timer(Enum):
    """The timers of a replica. Setting a timer replaces its earlier setting."""

    BUILD_EARLIEST = "build_earliest"
    """The primary of view 0 may now propose a block with transactions."""
    BUILD_LATEST = "build_latest"
    """The primary of view 0 may now propose an empty block."""
    VIEW_EARLIEST = "view_earliest"
    """The timer of view 0 starts now if a transaction is waiting."""
    VIEW_LATEST = "view_latest"
    """The timer of view 0 starts now in any case."""
    VIEW = "view"
    """The time of the view's primary is over: change the view."""
    RESEND = "resend"
    """Resend STATUS and VIEW-CHANGE, which may have been lost."""


@dataclass(frozen=True, slots=True)
class NewNumber:
    """The parent is final and durable; decide the next number (or a later one, after sync)."""

    config: NumberConfig


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A validator sent a message.

    If the message is of the number being decided, the host has verified every signature in it.
    Messages of other numbers come unverified: the replica only answers earlier ones, and holds
    later ones until `Redeliver`, because their validator set is not known before.
    """

    sender: ValidatorIndex
    message: Message


@dataclass(frozen=True, slots=True)
class TimerExpired:
    """A timer set by `SetTimer` ran out; `number` and `view` are copied from that effect."""

    timer: Timer
    number: BlockNumber
    view: View


@dataclass(frozen=True, slots=True)
class TransactionHeld:
    """The pool holds an includable transaction, for the first time at this number."""


@dataclass(frozen=True, slots=True)
class BlockBuilt:
    """The answer to `BuildBlock`: a block that this node executed, with itself as coinbase."""

    number: BlockNumber
    view: View
    block: Block


@dataclass(frozen=True, slots=True)
class BlockValidated:
    """The answer to `ValidateBlock`.

    A block stays valid or invalid for ever, but it can become fresh: if it came too early, the host
    answers first that it is valid but not fresh, and answers again when its time has come. A block
    whose timestamp is too old is not fresh for as long as its view lasts.
    """

    digest: Hash32
    is_valid: bool
    is_fresh: bool


@dataclass(frozen=True, slots=True)
class BlockFetched:
    """An answer to `FetchBlock`; the replica itself checks that the hash is the one it wants."""

    block: Block


Input = (
    NewNumber
    | MessageReceived
    | TimerExpired
    | TransactionHeld
    | BlockBuilt
    | BlockValidated
    | BlockFetched
)
