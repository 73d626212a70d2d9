"""What the jobs of a task share (docs/spec/training.md, section 10)."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import trio

from chain.contracts.gradient_ledger import ResultVote
from chain.primitives import BlockNumber, Hash32, TaskId
from chain.training.acceptance import Measurement, Verdict
from chain.training.assignment import Assignment
from chain.training.history import TaskHistory
from chain.training.reveal import Reveal
from chain.training.state import TrainingState
from chain.training.task_spec import TaskSpec

Job: TypeAlias = Callable[[], Awaitable[None]]
"""Something to be done that may wait, fail and be started again."""

NamedJob: TypeAlias = tuple[str, Job]
"""A job with a name that stays while it is the same job."""


class UnavailableError(Exception):
    """Something that nobody could give us now; asked again later."""


class TrainingPeers(Protocol):
    """What other nodes hold for us."""

    async def fetch_blob(self, content_id: Hash32, size_limit: int) -> bool:
        """Bring a blob into the blob store; False if no peer has it."""

    async def fetch_reveals(
        self, task_id: TaskId, round_number: int, attempt: int
    ) -> Sequence[Reveal]:
        """The reveals of an attempt that peers hold; nothing is checked yet."""

    async def fetch_state_parts(self, state_root: Hash32) -> Sequence[Hash32] | None:
        """The content ids below a training state root; None if no peer knows them."""

    async def announce_reveal(self, reveal: Reveal) -> None:
        """Tell peers of a reveal that this node holds with its gradient."""


@dataclass(slots=True)
class TaskWork:
    """What this node found out about one task; all of it can be found out again."""

    is_content_held: bool = False
    is_accepted: bool | None = None
    state_root: Hash32 | None = None
    state: TrainingState | None = None
    phase_key: tuple[int, ...] = ()
    since_block: BlockNumber = field(default=BlockNumber(0))
    checks: dict[tuple[int, int, int], tuple[Verdict, Measurement | None]] = field(
        default_factory=dict
    )
    """By round, attempt and commitment index."""
    assignments: dict[tuple[int, int], Assignment] = field(default_factory=dict)
    results: dict[int, tuple[ResultVote, int | None, int]] = field(default_factory=dict)
    """By ballot number: the vote, correct count (None: not evaluated) and loss in millinats."""
    sent: dict[str, BlockNumber] = field(default_factory=dict)
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
