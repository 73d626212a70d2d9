"""What a simulated validator holds and has computed: on its disk, and in its memory."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from chain.contracts.gradient_ledger import Phase, ResultVote
from chain.primitives import Address, Hash32, TaskId
from chain.training.acceptance import Verdict
from chain.training.attempt import AttemptId
from chain.training.leases import READY_CODE
from chain.training.reveal import Reveal
from chain.training.slashing import FineTrees
from chain.training.task_checks import UNCHECKED_CODES
from node.training.capacity import Capacity

DISK_BYTES: Final = 2**30
"""What is promised to all tasks together: enough for 64 of the world's tasks."""

JobKey = tuple[object, ...]
"""A job runs once at a time; its key says what it works on."""


PIECE_MS: Final = 1_000
"""How long a worker works on one task before it looks for more urgent work."""


@dataclass
class Job:
    """What a worker that re-executes gradients and evaluates models was asked for."""

    promise: JobKey
    """What its time is counted against."""
    promised_ms: int
    """What its task declares for that."""
    place: int
    """Its place among those of the same promise, of which one that has begun is first."""
    number: int
    """Its place among equals: the first one has its turn first."""
    left_ms: int
    get_deadline_ms: Callable[[], int]
    """When its result is due; a moment in the past if it is due no more."""
    done: Callable[[], None]
    is_begun: bool = False


@dataclass
class Queue:
    """The work of one worker, in pieces; docs/spec/training.md, section 10.2, has the order."""

    jobs: list[Job] = field(default_factory=list)
    is_busy: bool = False
    count: int = 0
    used_ms: Counter[JobKey] = field(default_factory=Counter)

    def choose(self, now_ms: int) -> Job:
        """The job whose piece is next."""
        first = min(self.jobs, key=lambda job: self._rank(job, now_ms))
        of_promise = (job for job in self.jobs if job.promise == first.promise)
        return min(of_promise, key=lambda job: (not job.is_begun, job.place, job.number))

    def _rank(self, job: Job, now_ms: int) -> tuple[bool, int, int, int]:
        used, deadline_ms = self.used_ms[job.promise], job.get_deadline_ms()
        is_beyond = used >= job.promised_ms or deadline_ms <= now_ms
        return is_beyond, used if is_beyond else deadline_ms, used, job.number


@dataclass
class Disk:
    """What survives a crash."""

    content: set[TaskId] = field(default_factory=set)
    reveals: dict[tuple[AttemptId, Address], Reveal] = field(default_factory=dict)
    payloads: dict[Hash32, int] = field(default_factory=dict)
    """When each gradient arrived, in milliseconds."""
    states: set[Hash32] = field(default_factory=set)


@dataclass
class PlannedFines:
    """What is known about the fines of an ended attempt."""

    changed_block: int
    is_closing: bool
    trees: FineTrees
    next_block: int | None
    """The first head at which to plan again; None if an event must come before."""


@dataclass
class Work:
    """The progress on one task, which a crash loses."""

    is_content_held: bool = False
    is_accepted: bool | None = None
    answer_code: int | None = None
    can_check: bool | None = None
    state_root: Hash32 | None = None
    seen: tuple[Phase, AttemptId | None, int | None, bool] | None = None
    since_block: int = 0
    checks: dict[tuple[AttemptId, int], Verdict] = field(default_factory=dict)
    results: dict[int, ResultVote] = field(default_factory=dict)
    evaluated: set[Hash32] = field(default_factory=set)
    """The models that were evaluated."""
    sent: dict[JobKey, int] = field(default_factory=dict)
    fines: dict[int, PlannedFines] = field(default_factory=dict)
    """By ordinal of the attempt."""
    seats_checked: int = 0
    """The ordinal of the last attempt in which no seat was left to end."""

    @classmethod
    def after_answer(cls, code: int | None) -> "Work":
        """The work on a task to which the validator has answered on the chain."""
        is_refused = code is not None and code != READY_CODE
        return cls(
            is_accepted=False if is_refused else None,
            answer_code=code,
            can_check=False if code in UNCHECKED_CODES else None,
        )


@dataclass
class Memory:
    """All that a crash loses."""

    work: dict[TaskId, Work] = field(default_factory=dict)
    closed: set[TaskId] = field(default_factory=set)
    hints: dict[tuple[AttemptId, Address], Reveal] = field(default_factory=dict)
    announced: set[Hash32] = field(default_factory=set)
    running: set[JobKey] = field(default_factory=set)
    retry_at: dict[JobKey, int] = field(default_factory=dict)
    wait_ms: dict[TaskId, int] = field(default_factory=dict)
    preparing: list[TaskId] = field(default_factory=list)
    """Tasks in preparation and those that wait for a turn; the first PREPARING_LIMIT run."""
    capacity: Capacity = field(default_factory=lambda: Capacity(1, DISK_BYTES, lambda: 0))
    dry_runs_end_ms: int = 0
    """When the worker for dry runs is through with what it was asked for."""
    checks: Queue = field(default_factory=Queue)
