"""Everything that can happen to a replica (docs/spec/consensus.md, section 5)."""

from dataclasses import dataclass
from enum import Enum

from chain.consensus.messages import Message, SigningDomain
from chain.primitives import Address, BlockNumber, Hash32, ValidatorIndex, View
from chain.types.block import Block


@dataclass(frozen=True, slots=True)
class Timing:
    """The durations of one network, in milliseconds."""

    min_block_interval_ms: int
    """Between a block's proposal and the next one, if a transaction waits."""
    empty_block_interval_ms: int
    """Between a block's proposal and the next one, if none does."""
    view_timeout_base_ms: int
    """At least five times the largest one-way delay."""
    view_timeout_cap_ms: int
    """At least three times the worst full block."""
    resend_interval_ms: int
    """Between two repetitions of status and VIEW-CHANGE while a number lasts."""


@dataclass(frozen=True, slots=True)
class NumberConfig:
    """Everything that is fixed while one block number is decided."""

    number: BlockNumber
    parent_hash: Hash32
    validators: tuple[Address, ...]
    """By ascending address; the index of each is its name in every message."""
    primary_order: tuple[ValidatorIndex, ...]
    """`quorum.compute_primary_order` of this number."""
    own_index: ValidatorIndex | None
    """None: not a validator of this number, or one that must not sign (rule S8). Such a replica
    follows by certificates and says nothing."""
    domain: SigningDomain
    timing: Timing
    proposal_age_ms: int = 0
    """How long ago the parent was proposed, as far as we know: the pace counts from there."""
    has_transaction: bool = False
    """Whether an includable transaction is held already."""

    def get_primary(self, view: View) -> ValidatorIndex:
        """The validator whose turn `view` is."""
        return self.primary_order[view % len(self.primary_order)]


class Timer(Enum):
    """The timers of a replica; setting one again replaces it."""

    BUILD_EARLIEST = "build_earliest"
    """The pace lets the primary of view 0 propose a block with transactions."""
    BUILD_LATEST = "build_latest"
    """The pace lets the primary of view 0 propose an empty block."""
    VIEW_EARLIEST = "view_earliest"
    """The timer of view 0 may start if a transaction is held."""
    VIEW_LATEST = "view_latest"
    """The timer of view 0 starts."""
    VIEW = "view"
    """The primary of the view had its time."""
    RESEND = "resend"
    """Say again what may have been lost."""


@dataclass(frozen=True, slots=True)
class NewNumber:
    """The parent is final and durable; decide the next number (or a later one, after sync)."""

    config: NumberConfig


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A validator sent a message.

    The host verifies every signature in it if it is of the number being decided. Others it passes
    on as they are: earlier ones are only answered, later ones held and given back by `Redeliver`,
    since their validator set is known only then.
    """

    sender: ValidatorIndex
    message: Message


@dataclass(frozen=True, slots=True)
class TimerExpired:
    """A timer set by `SetTimer` ran out; `number` and `view` are the effect's."""

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

    Whether a block is valid never changes. Whether it is fresh may: a host that finds it too early
    says valid and not fresh at once, and says fresh when its time has come.
    """

    digest: Hash32
    is_valid: bool
    is_fresh: bool


@dataclass(frozen=True, slots=True)
class BlockFetched:
    """An answer to `FetchBlock`; the replica compares the hash itself."""

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
