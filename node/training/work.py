"""The values that the jobs of a task share (docs/spec/training.md, section 10)."""

import math
from collections.abc import Awaitable, Callable, Container, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

import trio

from chain.contracts.gradient_ledger import Phase, ResultVote
from chain.contracts.miner_seats import Fine
from chain.primitives import BlockNumber, Hash32, TaskId
from chain.training.acceptance import Measurement, Verdict
from chain.training.assignment import Assignment
from chain.training.attempt import AttemptId
from chain.training.attempt_records import EndedAttempt, EndedMark
from chain.training.history import TaskHistory
from chain.training.leases import READY_CODE
from chain.training.reveal import Reveal
from chain.training.slashing import FineTrees
from chain.training.task_checks import UNCHECKED_CODES
from chain.training.task_spec import (
    TaskSpec,
)
from node.network.stream import PeerId


class JobKind(StrEnum):
    """What a job does; the values appear in log lines."""

    PREPARE = "prepare"
    """Fetch a task's content and dry-run the task."""
    STATE = "state"
    """Restore the training state that the round starts from."""
    ANSWER = "answer"
    """The answer of this validator to a task: that it is ready, or why not."""
    EXPIRE = "expire"
    """Close a task that is over."""
    REVEALS = "reveals"
    """Look for the reveals of an attempt."""
    CHECK = "check"
    """Check one gradient."""
    FETCH = "fetch"
    """Fetch one gradient that this node cannot check now."""
    VERDICT = "verdict"
    """Vote on the gradients of an attempt."""
    RESULT = "result"
    """Compute the outcome of a ballot."""
    EVALUATE = "evaluate"
    """Evaluate the model of an outcome."""
    PAYMENT = "payment"
    """Compute the result that only pays."""
    POST = "post"
    """Vote for the outcome of a ballot."""
    SCORE = "score"
    """Vote for the same outcome again, with the evaluation that was not there before."""
    SETTLE = "settle"
    """Settle a round with the result that a quorum posted."""
    ADVANCE = "advance"
    """End a stalled ballot, or open an attempt."""
    ENDED = "ended"
    """Work out what there is to do about an attempt that has ended."""
    LATE = "late"
    """Give late verdicts on an attempt that has ended."""
    FINES = "fines"
    """Vote on the fines of an attempt."""
    SLASH = "slash"
    """Impose fines that a quorum approved."""
    END_SEATS = "end_seats"
    """End the seats of miners that missed twice."""


class JobKey(NamedTuple):
    """The identity of a job: a job is not started while one with an equal key runs or waits."""

    task_id: TaskId
    kind: JobKind
    attempt_id: AttemptId | None = None
    """None if the job belongs to the whole task."""
    ballot_number: int | None = None
    """Set for a job that every ballot needs again."""
    commitment_index: int | None = None
    """Set for a job on one commitment of the attempt."""
    timely_voters: int | None = None
    """Set for a vote on a result, which is another vote if the result counts other verdicts."""

    def __str__(self) -> str:
        """A short form for log lines, such as 3/check-7-0-1."""
        attempt = self.attempt_id
        place = () if attempt is None else (attempt.round_number, attempt.attempt_number)
        numbers = (*place, self.ballot_number, self.commitment_index)
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
    """The phase of a task and the ballot that it belongs to."""

    phase: Phase
    attempt_id: AttemptId | None = None
    """None between attempts."""
    ballot_number: int | None = None
    is_expired: bool = False
    """Whether the task is over."""


class UnavailableError(Exception):
    """Something that a job needs is not available now; the job is tried again later.

    Attributes:
        wait_seconds: When to try again; None if soon.
    """

    def __init__(self, reason: str, *, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class TrainingPeers(Protocol):
    """What the jobs ask of other nodes."""

    async def fetch_blob(
        self, content_id: Hash32, size_limit: int, *, is_urgent: bool, task_id: TaskId
    ) -> bool:
        """Fetch a blob for a task; False if no peer has it or it exceeds `size_limit`."""

    async def fetch_reveals(
        self, attempt_id: AttemptId, ignored: Container[PeerId]
    ) -> Sequence[tuple[PeerId, Sequence[Reveal]]]:
        """The reveals of an attempt that each peer holds, unverified; some peers are not asked."""

    async def fetch_state_parts(self, state_root: Hash32) -> Sequence[Hash32] | None:
        """The content ids below a training state root; None if no peer knows them."""

    async def announce_reveal(self, reveal: Reveal) -> None:
        """Tell peers of a reveal that this node holds with its gradient."""


@dataclass(frozen=True, slots=True)
class CheckedGradient:
    """The result of this node's check of one gradient."""

    verdict: Verdict
    measurement: Measurement | None = None
    """None if the verdict needed no re-execution."""
    reason: str | None = None
    """Why the gradient was not ok, for its miner; None if it was."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well a model does on the held-out rows."""

    correct_count: int
    loss_millinats: int


@dataclass(frozen=True, slots=True)
class NextState:
    """A training state that this node computed, and what it was computed from."""

    attempt_id: AttemptId
    accepted: tuple[int, ...]
    """The indices of the commitments whose gradients were accepted."""
    part_ids: tuple[Hash32, ...]
    """The content ids of the parts of the state, theta first."""


@dataclass(slots=True)
class AttemptFines:
    """What this node has worked out about an attempt that may be fined."""

    ended: EndedAttempt
    """Without its commitments and verdicts, unless there are open words."""
    changed_block: BlockNumber
    """The block of the attempt's latest event when this was worked out."""
    trees: FineTrees
    is_closing: bool
    """Whether the window for late verdicts was over, so that the trees are final."""
    open_words: tuple[int, ...] = ()
    """The commitments on which a late verdict of this validator would count."""
    next_block: BlockNumber | None = None
    """The first head at which to plan again; None if only an event can bring something to do."""
    hopeless: set[Fine] = field(default_factory=set)
    """Fines for which the contract has nothing to take."""

    def holds_at(self, mark: EndedMark, head: BlockNumber) -> bool:
        """Whether this is still right at a head: without a further event or the end of a window."""
        is_in_time = self.is_closing or head < mark.late_until
        return is_in_time and self.changed_block == mark.changed_block


@dataclass(slots=True)
class TaskWork:
    """This node's progress on one task; all of it can be computed again after a restart."""

    is_content_held: bool = False
    is_accepted: bool | None = None
    """Whether this validator is ready for the task; None before it knows."""
    answer_code: int | None = None
    """The answer to the task: 0 for ready, else why not; None before it is known."""
    is_answered: bool = False
    """Whether the contract refused the answer as a second one. A history that began with a snapshot
    lacks the first if this validator was not in the set then."""
    can_check: bool | None = None
    """Whether a worker can check the task's gradients; None before a dry run has shown it."""
    has_time: bool = True
    """Whether workers' time is promised to the task. Else its work has what others leave."""
    state_root: Hash32 | None = None
    state: tuple[Hash32, ...] | None = None
    """The content ids of the parts of the state that the round starts from, theta first."""
    next_state: NextState | None = None
    """The latest; a further ballot with the same accepted gradients has the same."""
    seen: SeenPhase | None = None
    since_block: BlockNumber = field(default=BlockNumber(0))
    checks: dict[AttemptId, dict[int, CheckedGradient]] = field(default_factory=dict)
    """By attempt, and then by index of the commitment."""
    assignments: dict[AttemptId, Assignment] = field(default_factory=dict)
    """At most one: that of the latest attempt."""
    results: dict[int, ResultVote] = field(default_factory=dict)
    """By ballot number. A result says which verdicts it counts; while the ballot has others, it is
    computed again."""
    evaluations: dict[Hash32, Evaluation | None] = field(default_factory=dict)
    """At most one: that of the latest model, by its root; None if it cannot be evaluated."""
    evaluation_failures: int = 0
    """How often a worker has failed since the last evaluation was done or given up."""
    sent: dict[JobKey, BlockNumber] = field(default_factory=dict)
    """The block at which each vote was last sent; old entries are removed."""
    asking: trio.Lock = field(default_factory=trio.Lock)
    """Held while peers are asked for reveals, so that two jobs do not ask for the same."""
    ask_again_at: float = 0.0
    storing_rows: trio.Lock = field(default_factory=trio.Lock)
    """Held while a worker may fill a file with the task's rows."""
    due_at: float = math.inf
    """When the votes of the phase are due, by trio's clock."""
    fines: dict[int, AttemptFines] = field(default_factory=dict)
    """By ordinal of the attempt."""
    seats_checked: int = 0
    """The ordinal of the last attempt in which no seat was left to end."""

    def has_attempt(self) -> bool:
        """Whether an attempt was in progress when the duties to the task were last listed."""
        return self.seen is not None and self.seen.attempt_id is not None

    @classmethod
    def after_answer(cls, code: int | None) -> "TaskWork":
        """The work on a task to which this validator has answered on the chain; None if it has not.

        It is not asked again after a restart, whatever a second dry run would find: others rely on
        the answer.
        """
        is_accepted = None if code in (None, READY_CODE) else False
        can_check = False if code in UNCHECKED_CODES else None
        return cls(is_accepted=is_accepted, answer_code=code, can_check=can_check)

    @property
    def may_check(self) -> bool:
        """Whether gradients may be checked: the task is not refused, or a dry run was good."""
        return self.is_accepted is not False or self.can_check is True

    def get_promised_seconds(self, milliseconds: int) -> float:
        """The promise of a piece of work, of the time that the task declares for it."""
        return milliseconds / 1_000 if self.has_time else 0.0

    def find_check(self, attempt_id: AttemptId, index: int) -> CheckedGradient | None:
        """The result of the check of a commitment; None if it has none."""
        return self.checks.get(attempt_id, {}).get(index)

    def note_check(self, attempt_id: AttemptId, index: int, check: CheckedGradient) -> None:
        """Keep the result of a check."""
        self.checks.setdefault(attempt_id, {})[index] = check

    def keep_checks(self, history: TaskHistory, *, gives_late_verdicts: bool) -> None:
        """Forget the checks that no verdict needs any more.

        Needed are those of the attempt in progress, and of ended ones those for a late verdict. A
        task can have 512 attempts of 1024 commitments that may be fined, so the others must go.

        Args:
            history: The task at the head.
            gives_late_verdicts: Whether this node has an operator, who gives late verdicts.
        """
        if not self.checks:
            return
        needed = set() if history.attempt is None else {history.attempt.id}
        for mark in history.ended if gives_late_verdicts else ():
            fines = self.fines.get(mark.ordinal)
            # What an attempt that has just ended needs is worked out next, by another thread.
            if mark.attempt_id in self.checks and (fines is None or fines.open_words):
                needed.add(mark.attempt_id)
                known = self.checks[mark.attempt_id]
                if fines is not None and len(known) > len(fines.open_words):
                    kept = {i: known[i] for i in fines.open_words if i in known}
                    self.checks[mark.attempt_id] = kept
        self.checks = {k: each for k, each in self.checks.items() if k in needed}


class VotedTask(Protocol):
    """A task that an operator's call is about."""

    @property
    def task_id(self) -> TaskId:
        """The id of the task."""

    @property
    def history(self) -> TaskHistory:
        """The task at one head."""

    @property
    def work(self) -> TaskWork:
        """This node's work on it."""


@dataclass(frozen=True, slots=True)
class KnownTask:
    """A task at one head, whether its specification is valid or not."""

    history: TaskHistory
    work: TaskWork

    @property
    def task_id(self) -> TaskId:
        """The id of the task."""
        return self.history.task_id


@dataclass(frozen=True, slots=True)
class ServedTask:
    """A task at one head: its history, its specification and this node's work on it."""

    history: TaskHistory
    spec: TaskSpec
    work: TaskWork

    @property
    def task_id(self) -> TaskId:
        """The id of the task."""
        return self.history.task_id
