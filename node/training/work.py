"""What the jobs of a task share (docs/spec/training.md, section 10)."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import trio

from chain.contracts.gradient_ledger import Phase, ResultVote
from chain.primitives import BlockNumber, Hash32, TaskId
from chain.training.acceptance import Measurement, Verdict
from chain.training.assignment import Assignment
from chain.training.attempt import AttemptId
from chain.training.history import TaskHistory
from chain.training.reveal import Reveal
from chain.training.state import TrainingState
from chain.training.task_spec import (
    TaskSpec,
)


class JobKind(Enum):
    """What a job does; the values appear in log lines."""

    PREPARE = "prepare"
    """Fetch a task's content and dry-run the task."""
    STATE = "state"
    """Restore the training state that the round starts from."""
    READY = "ready"
    """Vote that this validator is ready for a task."""
    CHECK = "check"
    """Check one gradient."""
    VERDICT = "verdict"
    """Vote on the gradients of an attempt."""
    RESULT = "result"
    """Compute the outcome of a ballot."""
    POST = "post"
    """Vote for the outcome of a ballot."""
    SETTLE = "settle"
    """Settle a round with the result that a quorum posted."""
    ADVANCE = "advance"
    """End a stalled ballot, or open an attempt."""
    SLASH = "slash"
    """Slash the miners that a settled round found guilty."""


@dataclass(frozen=True, slots=True)
class JobKey:
    """The identity of a job: a job is not started while one with an equal key runs or waits."""

    task_id: TaskId
    kind: JobKind
    attempt_id: AttemptId | None = None
    """None if the job belongs to the whole task."""
    ballot_number: int | None = None
    """Set for a job that every ballot needs again."""
    index: int | None = None
    """Set for a job on one commitment of the attempt."""

    def __str__(self) -> str:
        """A short form for log lines, such as 3/check-7-0-1."""
        attempt = self.attempt_id
        place = () if attempt is None else (attempt.round_number, attempt.attempt_number)
        numbers = (*place, self.ballot_number, self.index)
        return "-".join(
            [f"{self.task_id}/{self.kind.value}", *(str(n) for n in numbers if n is not None)]
        )


@dataclass(frozen=True, slots=True)
class Job:
    """Work that may wait, fail and be started again."""

    key: JobKey
    run: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class SeenPhase:
    """The phase of a task's ballot, as the ledger told it."""

    phase: Phase
    attempt_id: AttemptId | None = None
    """None between attempts."""
    ballot_number: int | None = None


class UnavailableError(Exception):
    """Something that nobody could give us now; asked again later."""


class TrainingPeers(Protocol):
    """What other nodes hold for us."""

    async def fetch_blob(self, content_id: Hash32, size_limit: int) -> bool:
        """Bring a blob into the blob store; False if no peer has it."""

    async def fetch_reveals(self, attempt_id: AttemptId) -> Sequence[Reveal]:
        """The reveals of an attempt that peers hold; nothing is checked yet."""

    async def fetch_state_parts(self, state_root: Hash32) -> Sequence[Hash32] | None:
        """The content ids below a training state root; None if no peer knows them."""

    async def announce_reveal(self, reveal: Reveal) -> None:
        """Tell peers of a reveal that this node holds with its gradient."""


@dataclass(frozen=True, slots=True)
class CheckedGradient:
    """What this node found out about one gradient."""

    verdict: Verdict
    measurement: Measurement | None = None
    """None if the gradient was judged without re-execution."""


@dataclass(frozen=True, slots=True)
class ComputedResult:
    """What this node computed as the outcome of a ballot."""

    vote: ResultVote
    correct_count: int | None
    """Correct answers on the held-out split; None if this node did not evaluate."""
    loss_millinats: int


@dataclass(slots=True)
class TaskWork:
    """What this node found out about one task; all of it can be found out again."""

    is_content_held: bool = False
    is_accepted: bool | None = None
    state_root: Hash32 | None = None
    state: TrainingState | None = None
    seen: SeenPhase | None = None
    since_block: BlockNumber = field(default=BlockNumber(0))
    checks: dict[tuple[AttemptId, int], CheckedGradient] = field(default_factory=dict)
    """By attempt and index of the commitment."""
    assignments: dict[AttemptId, Assignment] = field(default_factory=dict)
    """At most one: that of the latest attempt."""
    results: dict[int, ComputedResult] = field(default_factory=dict)
    """By ballot number."""
    sent: dict[JobKey, BlockNumber] = field(default_factory=dict)
    """Votes on their way into a block; older ones are forgotten."""
    asking: trio.Lock = field(default_factory=trio.Lock)
    """Peers are asked for reveals once for all miners that are waited for."""
    ask_again_at: float = 0.0
    slashed_through: int = -1
    """The last settled round whose slashing is over with."""


@dataclass(frozen=True, slots=True)
class ServedTask:
    """A task as a job finds it: what the chain says at one head, and our own work on it."""

    history: TaskHistory
    spec: TaskSpec
    work: TaskWork

    @property
    def task_id(self) -> TaskId:
        """Its id on the chain."""
        return self.history.task_id
