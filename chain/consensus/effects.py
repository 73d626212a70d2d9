"""The effects: everything that a replica can ask of its host (docs/spec/consensus.md, section 5).

The host's duties:

1. Perform the effects of one transition in order, before the next input.
2. `Persist` means: ask the guard (`guard.permits`), append the record and fsync, write the guard
   and fsync. If any of it fails or is refused, drop this and all later effects, throw the state
   away and go on with `own_index = None`: nothing was sent.
3. Verify every signature of a message of the current number before `MessageReceived`.
4. Never feed a replica its own messages.
5. After a restart `pbft.restore` the records of the number and perform what it returns.
"""

from dataclasses import dataclass

from chain.consensus.guard import GuardState
from chain.consensus.inputs import Timer
from chain.consensus.messages import Message, ViewChangeVote, Vote
from chain.consensus.records import Record
from chain.errors import RejectionReason
from chain.primitives import BlockNumber, Hash32, ValidatorIndex, View
from chain.types.block import Block
from chain.types.certificate import CommitCertificate


@dataclass(frozen=True, slots=True)
class Persist:
    """Make the record and then the guard's new content durable BEFORE any later effect."""

    record: Record
    intent: GuardState


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Send to every other validator. The message may be lost."""

    message: Message


@dataclass(frozen=True, slots=True)
class Send:
    """Send to one validator. The message may be lost."""

    receiver: ValidatorIndex
    message: Message


@dataclass(frozen=True, slots=True)
class SendCertificate:
    """Send a `Committed` with the stored certificate of a final number to one validator."""

    receiver: ValidatorIndex
    number: BlockNumber


@dataclass(frozen=True, slots=True)
class ValidateBlock:
    """Execute a block and answer with `BlockValidated`. The replica asks once for each digest."""

    block: Block
    age_limit_ms: int | None
    """How long before its arrival the primary may have begun to build this block. Only a new
    proposal has such a limit, and must be fresh in timestamp and pace; None if the block need not
    be fresh. The replica itself has checked the coinbase already."""


@dataclass(frozen=True, slots=True)
class BuildBlock:
    """Build a block on the parent, with ourselves as coinbase, and answer with `BlockBuilt`."""

    number: BlockNumber
    view: View


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Answer with `TimerExpired(timer, number, view)` after `delay_ms`. Replaces the same timer."""

    timer: Timer
    number: BlockNumber
    view: View
    delay_ms: int


@dataclass(frozen=True, slots=True)
class Finalize:
    """Store block, certificate and state in one durable step, then answer with `NewNumber`."""

    block: Block
    certificate: CommitCertificate


@dataclass(frozen=True, slots=True)
class FetchBlock:
    """Ask these validators for a block that they committed; answer with `BlockFetched`."""

    digest: Hash32
    validators: tuple[ValidatorIndex, ...]


@dataclass(frozen=True, slots=True)
class ForwardTransactions:
    """Send our pooled transactions to the primary, which may not have any and so not propose."""

    primary: ValidatorIndex


@dataclass(frozen=True, slots=True)
class Redeliver:
    """Verify a message that came before its number began, and give it to the replica again."""

    sender: ValidatorIndex
    message: Message


@dataclass(frozen=True, slots=True)
class ReportRejection:
    """Report a validator that sent something which no honest validator sends."""

    sender: ValidatorIndex
    reason: RejectionReason
    detail: str


@dataclass(frozen=True, slots=True)
class ReportEvidence:
    """Report two signed votes of one author; an honest validator casts at most one of them."""

    first: Vote
    second: Vote | ViewChangeVote


@dataclass(frozen=True, slots=True)
class Halt:
    """Stop: a quorum committed a block that is invalid here. Only an operator can resolve that."""

    block: Block
    certificate: CommitCertificate


Effect = (
    Persist
    | Broadcast
    | Send
    | SendCertificate
    | ValidateBlock
    | BuildBlock
    | SetTimer
    | Finalize
    | FetchBlock
    | ForwardTransactions
    | Redeliver
    | ReportRejection
    | ReportEvidence
    | Halt
)
