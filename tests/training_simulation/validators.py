"""Simulated validators: real duties and calls, on a fake disk, network and verifier worker.

The duties come from chain/training/rounds.py, as in node/training/host.py; what fulfils a duty is
imitated here. One worker does the dry runs of new tasks and another one the checks of gradients,
each in the order in which they were asked for.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from chain.contracts import gradient_ledger, miner_seats, task_registry
from chain.contracts.abi import ContractCall
from chain.contracts.gradient_ledger import Deadline, Phase, ResultKind
from chain.contracts.miner_seats import MAX_ENDED_SEATS
from chain.contracts.task_registry import TaskStatus
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.training import rounds
from chain.training.acceptance import Verdict, compute_verdict, encode_verdicts
from chain.training.attempt import AttemptId
from chain.training.attempt_records import Attempt, EndedAttempt
from chain.training.decisions import LATE_VERDICTS
from chain.training.history import TaskHistory, compute_outcome
from chain.training.leases import READY_CODE, is_window_over
from chain.training.result_vote import (
    build_empty_vote,
    build_payment_vote,
    build_result_vote,
)
from chain.training.reveal import Reveal
from chain.training.slashing import (
    HURRY_BLOCKS,
    ImposeFines,
    PostFines,
    build_fine_trees,
    list_open_words,
    plan_fines,
)
from chain.training.task_checks import (
    REFUSAL_CODES,
    UNCHECKED_CODES,
    ObjectionCode,
    Promise,
    compute_promise,
)
from chain.training.task_spec import TaskSpec
from node.operator.account import RESEND_BLOCKS
from node.training.dry_runs import compute_dry_run_seconds
from node.training.jobs import RETRY_SECONDS
from node.training.preparation import (
    DRY_RUN_TRIES,
    PREPARING_LIMIT,
    RETRY_LIMIT_SECONDS,
)
from node.training.worker_pool import WorkerSettings
from tests.training_simulation.cluster import Actor, Cluster
from tests.training_simulation.formats import (
    ABSENT,
    build_result_call,
    build_verdict_call,
    describe_words,
)
from tests.training_simulation.values import (
    compute_initial_state,
    compute_model_root,
    compute_next_state,
)
from tests.training_simulation.work import (
    PIECE_MS,
    Disk,
    Job,
    JobKey,
    Memory,
    PlannedFines,
    Queue,
    Work,
)
from tests.worlds.contracts import CHAIN_ID

if TYPE_CHECKING:
    from tests.training_simulation.liars import Lie

RETRY_MS: Final = int(RETRY_SECONDS * 1000)
RETRY_LIMIT_MS: Final = int(RETRY_LIMIT_SECONDS * 1000)
WORKER_LIMIT_MS: Final = int(WorkerSettings(()).timeout_seconds * 1000)
SLOWNESS: Final = 3
"""How many times longer a slow validator takes for a check."""

AGGREGATE_MS: Final = 200
"""How long the aggregation of the accepted gradients takes."""


class Validator(Actor):
    """One validator with its operator account."""

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        accounts: tuple[Address, Address],
        lie: "Lie | None" = None,
    ) -> None:
        super().__init__(cluster, name if lie is None else f"{name} ({lie.habit})")
        self.address, self.operator = accounts
        self.lie = lie
        self.is_deciding = True
        """Whether it takes part in consensus."""
        self.is_slow = False
        """Whether its dry runs take more than tasks declare, so that it is ready for none."""
        self.is_unfit = False
        """Whether its dry runs run out of memory, so that it checks no gradient."""
        self.pace = 1
        """How many times longer than others it takes for a check."""
        self.disk = Disk()
        self.memory = Memory()
        self._lives = 0
        self._silent_since = BlockNumber(0)
        self.silences: list[tuple[BlockNumber, BlockNumber]] = []
        """The heads at the start and the end of each time without its training host."""

    @property
    def is_member(self) -> bool:
        """Whether it is in the validator set in force."""
        return self.address in self.cluster.chain.validator_set.validators

    @property
    def _takes_turns(self) -> bool:
        return self.lie is None or self.lie.takes_turns

    # Crashes.

    def crash(self, down_ms: int, *, is_whole: bool = True) -> None:
        """Lose the memory, and start again after that time.

        Unless the node is down as a whole, its consensus goes on without its training host.
        """
        if not self.is_up:
            return
        what = "crashes" if is_whole else "stops training"
        self.cluster.trace(f"{self.name} {what} for {down_ms} ms")
        self.cluster.counts[what] += 1
        self.is_up, self.is_deciding = False, not is_whole
        self._lives += 1
        self._silent_since = self.cluster.chain.view.number
        self.cluster.after(down_ms, self.boot)

    def boot(self) -> None:
        """Start with what the disk holds."""
        if not self.is_up:
            self.silences.append((self._silent_since, self.cluster.chain.view.number))
            self.is_up, self.is_deciding, self.memory = True, True, Memory()
            for history in self.view.histories.values():
                spec = self.cluster.chain.spec(history)
                is_ready = history.get_answer(self.address) == READY_CODE
                if spec is not None and is_ready and not history.is_closed:
                    self.memory.capacity.promise(history.task_id, compute_promise(spec))
            self.cluster.wake(self)

    def later(self, delay_ms: int, action: Callable[[], None]) -> None:
        """Run `action` after a while, unless this process has ended by then."""
        life = self._lives
        self.cluster.after(delay_ms, lambda: action() if self._lives == life else None)

    # Jobs.

    def _is_waiting(self, key: JobKey) -> bool:
        memory = self.memory
        return key in memory.running or self.cluster.now_ms < memory.retry_at.get(key, 0)

    def _put_off(self, key: JobKey, delay_ms: int = RETRY_MS) -> None:
        self.memory.running.discard(key)
        self.memory.retry_at[key] = self.cluster.now_ms + delay_ms
        self.later(delay_ms, lambda: self.cluster.wake(self))

    def _finish(self, key: JobKey) -> None:
        self.memory.running.discard(key)
        self.cluster.wake(self)

    def _ask_for_dry_run(
        self, task_id: TaskId, took_ms: int, done: Callable[[bool], None], limit_ms: int
    ) -> None:
        """Call `done` when the dry run is over; False if it took longer than its limit."""
        start = max(self.cluster.now_ms, self.memory.dry_runs_end_ms)
        end = start + min(took_ms, limit_ms)
        self.memory.dry_runs_end_ms = end
        self.cluster.checkers.note_work(task_id, end - start)
        self.later(end - self.cluster.now_ms, lambda: done(took_ms <= limit_ms))

    def _ask_for_check(
        self,
        attempt_id: AttemptId,
        kind: str,
        took_ms: int,
        promised_ms: int,
        done: Callable[[], None],
        *,
        place: int = 0,
    ) -> None:
        """Call `done` when the worker is through, which does the most urgent pieces first."""
        queue, task_id = self.memory.checks, attempt_id.task_id
        self.cluster.checkers.note_work(task_id, took_ms)

        def get_deadline_ms() -> int:
            history = self.view.histories[task_id]
            attempt = history.attempt
            if attempt is None or attempt.id != attempt_id:
                return 0
            _, deadline = self.view.phase(task_id, self.cluster.now)
            spec = self.cluster.chain.spec(history)
            assert spec is not None
            early = spec.phases.verdict_seconds // 4 if kind == "check" else 0
            return 1_000 * (deadline.timestamp - early)

        queue.count += 1
        promise = (attempt_id, kind)
        queue.jobs.append(
            Job(promise, promised_ms, place, queue.count, took_ms, get_deadline_ms, done)
        )
        if not queue.is_busy:
            self._work_on(queue)

    def _work_on(self, queue: Queue) -> None:
        """Do the next piece."""
        job = queue.choose(self.cluster.now_ms)
        piece_ms = min(job.left_ms, PIECE_MS)
        queue.is_busy = True

        def end() -> None:
            queue.is_busy = False
            queue.used_ms[job.promise] += piece_ms
            job.left_ms -= piece_ms
            job.is_begun = True
            if job.left_ms == 0:
                queue.jobs.remove(job)
                job.done()
            if queue.jobs and not queue.is_busy:
                self._work_on(queue)

        self.later(piece_ms, end)

    # Duties.

    def step(self) -> None:
        """List the duties to every task, and do them."""
        view = self.view
        for task_id, history in tuple(view.histories.items()):
            if task_id not in self.memory.closed:
                self._step_task(task_id, history)

    def _step_task(self, task_id: TaskId, history: TaskHistory) -> None:
        memory, view = self.memory, self.view
        spec = self.cluster.chain.spec(history)
        is_done = history.is_closed and not self._may_slash(history)
        if history.is_closed:
            self._release(task_id)
        if spec is None or (is_done and not self._may_answer(history)):
            memory.closed.add(task_id)
            memory.work.pop(task_id, None)
            return
        work = memory.work.get(task_id)
        if work is None:
            work = memory.work[task_id] = Work.after_answer(history.get_answer(self.address))
        if history.status is TaskStatus.PENDING and self._is_preparing(history):
            return
        phase, deadline = Phase.INACTIVE, Deadline(BlockNumber(0), 0)
        if history.status is TaskStatus.ACTIVE:
            phase, deadline = view.phase(task_id, self.cluster.now)
        attempt = history.attempt
        is_expired = history.is_expired(view.number + 1, self.cluster.now)
        seen = (phase, attempt and attempt.id, attempt and attempt.ballot_number, is_expired)
        if seen != work.seen:
            work.seen, work.since_block = seen, view.number
        self.cluster.checkers.note_phase(history, phase, deadline)
        if self.lie is not None:
            self.lie.act(self, history, spec, phase)
        phase_view = self._build_view(history, phase, deadline, work)
        is_late = rounds.is_late(spec, phase_view, self.cluster.now)
        duties = rounds.list_duties(
            history,
            spec,
            phase_view,
            self._get_own_work(history, work, is_late=is_late),
            self.view.validator_set,
            self.operator,
            self.cluster.now,
        )
        for duty in duties:
            self._do(duty, history, spec, work)
        self._slash(history, spec, work)

    def _is_preparing(self, pending: TaskHistory) -> bool:
        """Whether there is nothing to do for a new task but to wait, as nearly always for junk."""
        is_waiting = self._is_waiting(("prepare", pending.task_id))
        return is_waiting and not pending.is_expired(self.view.number + 1, self.cluster.now)

    def _build_view(
        self, history: TaskHistory, phase: Phase, deadline: Deadline, work: Work
    ) -> rounds.PhaseView:
        max_faulty = self.view.validator_set.max_faulty
        return rounds.PhaseView(
            phase,
            deadline,
            rounds.compute_late_blocks(self.cluster.world.floor, max_faulty),
            BlockNumber(self.view.number),
            BlockNumber(work.since_block),
            history.is_expired(self.view.number + 1, self.cluster.now),
        )

    def _may_answer(self, closed: TaskHistory) -> bool:
        work, key = self.memory.work.get(closed.task_id), ("prepare", closed.task_id)
        if work is None or closed.has_answered(self.address):
            return False
        is_coming = work.answer_code is not None or key in self.memory.running
        return is_coming and not is_window_over(
            closed.lease, self.view.number + 1, self.cluster.now
        )

    def _may_slash(self, history: TaskHistory) -> bool:
        return any(self.view.number < ended.slashed_until for ended in history.ended)

    def _get_own_work(self, history: TaskHistory, work: Work, *, is_late: bool) -> rounds.OwnWork:
        attempt = history.attempt
        verdicts: tuple[Verdict | None, ...] = ()
        held: frozenset[int] = frozenset()
        result = None
        if attempt is not None:
            count = len(attempt.commitments)
            verdicts = tuple(work.checks.get((attempt.id, i)) for i in range(count))
            held = frozenset(
                i
                for i, verdict in enumerate(verdicts)
                if (is_late or work.can_check is False)
                and verdict is None
                and self._is_held(history, attempt, i)
            )
            result = work.results.get(attempt.ballot_number)
        wanted = history.training_state_root if history.rounds_settled else work.state_root
        is_state_held = work.state_root is not None and work.state_root == wanted
        is_evaluated = result is not None and result.model_root in work.evaluated
        return rounds.OwnWork(
            is_accepted=work.is_accepted,
            answer_code=work.answer_code,
            has_room=self.memory.capacity.has_promise(history.task_id),
            is_content_held=work.is_content_held,
            can_check=work.can_check,
            is_state_held=is_state_held,
            verdicts=verdicts,
            held=held,
            result=result,
            is_evaluation_over=is_evaluated,
            is_evaluated=is_evaluated,
        )

    def _is_held(self, history: TaskHistory, attempt: Attempt, index: int) -> bool:
        """Whether the gradient of a commitment is here."""
        record = attempt.commitments[index]
        reveal = self.disk.reveals.get((attempt.id, record.miner))
        return (
            reveal is not None
            and reveal.gradient_root in self.disk.payloads
            and self._opens(history, attempt, reveal, record.commitment)
        )

    def _do(self, duty: rounds.Duty, history: TaskHistory, spec: TaskSpec, work: Work) -> None:
        task_id, attempt = history.task_id, history.attempt
        match duty:
            case rounds.PrepareContent():
                self._prepare(task_id, history, spec, work)
            case rounds.RestoreState():
                self._restore_state(history, spec, work)
            case rounds.AnswerTask(code):
                if self.lie is not None:
                    code = self.lie.distort_answer(code)
                call = task_registry.answer_task(task_id, code)
                self.vote(work, ("answer",), call, f"answer {code}")
            case rounds.AdvanceRound() | rounds.SettleRound() | rounds.ExpireTask() if (
                not self._takes_turns
            ):
                return
            case rounds.ExpireTask():
                self.vote(work, ("expire",), task_registry.expire_task(task_id), "expire")
            case rounds.AdvanceRound():
                call = gradient_ledger.advance_round(task_id)
                self._vote_in_ballot(work, attempt, "advance", call)
            case rounds.CheckGradients(indices):
                assert attempt is not None
                for index in indices:
                    self._check(history, attempt, spec, work, index)
            case rounds.FetchGradients(indices):
                assert attempt is not None
                for index in indices:
                    self._fetch(history, attempt, index)
            case rounds.PostVerdict(verdicts):
                assert attempt is not None
                words = verdicts
                if self.lie is not None:
                    words = self.lie.distort_verdicts(self, verdicts)
                    if words is None:
                        return
                call = build_verdict_call(attempt, words)
                self._vote_in_ballot(work, attempt, "verdict", call, describe_words(words))
                world = self.cluster.world
                if (
                    self.random.random() < world.crashes_after_verdict
                    and not self.cluster.is_healed
                ):
                    down_ms = self.random.randrange(500, world.down_ms)
                    self.later(
                        self.random.randrange(1, 3_000), lambda: self.crash(down_ms, is_whole=False)
                    )
            case rounds.ComputeResult():
                assert attempt is not None
                self._compute_result(history, attempt, spec, work)
            case rounds.ComputePayment():
                assert attempt is not None
                self._compute_payment(history, attempt, spec, work)
            case rounds.EvaluateModel(model_root):
                assert attempt is not None
                self._evaluate(attempt.id, spec, model_root, work)
            case rounds.PostEvaluation(vote):
                assert attempt is not None
                call = build_result_call(attempt, vote, is_evaluated=True)
                key = ("evaluation", attempt.id, attempt.ballot_number, vote.timely_voters)
                self.vote(work, key, call, "evaluation")
            case rounds.PostResult(vote):
                assert attempt is not None
                if self.lie is not None:
                    vote = self.lie.distort_result(self, vote)
                    if vote is None:
                        return
                is_evaluated = vote.model_root in work.evaluated
                call = build_result_call(attempt, vote, is_evaluated=is_evaluated)
                key = ("result", attempt.id, attempt.ballot_number, vote.timely_voters)
                root = vote.training_state_root.hex()[:6]
                self.vote(work, key, call, f"result {root} of {vote.timely_voters:b}")
            case rounds.SettleRound(vote):
                call = gradient_ledger.settle_round(task_id, vote)
                self._vote_in_ballot(work, attempt, "settle", call)

    def _vote_in_ballot(
        self, work: Work, attempt: Attempt | None, kind: str, call: ContractCall, text: str = ""
    ) -> None:
        key = (kind, None) if attempt is None else (kind, attempt.id, attempt.ballot_number)
        self.vote(work, key, call, f"{kind} {text}".strip())

    def vote(self, work: Work, key: JobKey, call: ContractCall, label: str) -> None:
        """Send an operator's call, unless it was sent a moment ago."""
        sent_at = work.sent.get(key)
        if sent_at is None or self.view.number >= sent_at + RESEND_BLOCKS:
            work.sent[key] = self.view.number
            self.send(self.operator, call, label)

    # Preparing for a task.

    def _prepare(self, task_id: TaskId, history: TaskHistory, spec: TaskSpec, work: Work) -> None:
        memory, key = self.memory, ("prepare", task_id)
        is_active = history.status is not TaskStatus.PENDING
        promise = compute_promise(spec)
        if work.is_accepted is False:
            promise = Promise(0, 0, promise.disk_bytes)
        memory.capacity.claim(task_id, promise, is_active=is_active)
        if self._is_waiting(key):
            return
        memory.running.add(key)
        memory.preparing.append(task_id)
        if len(memory.preparing) <= PREPARING_LIMIT:
            self._start_preparation(task_id, history, spec, work)

    def _start_preparation(
        self, task_id: TaskId, history: TaskHistory, spec: TaskSpec, work: Work
    ) -> None:
        is_new = history.status is TaskStatus.PENDING
        run_ms, tries = WORKER_LIMIT_MS, 1
        if is_new:
            run_ms = math.ceil(1_000 * compute_dry_run_seconds(spec, WORKER_LIMIT_MS / 1_000))
            tries = DRY_RUN_TRIES
        limit_ms = tries * run_ms
        is_refused = work.is_accepted is False
        if is_refused and self.memory.capacity.find_objection(task_id) is not None:
            self._end_preparation(task_id, is_done=False)
            return
        if is_new and self.memory.capacity.find_objection(task_id) is not None:
            is_too_late = self.cluster.now_ms + limit_ms > 1_000 * history.lease.window_time
            if is_too_late:
                self._refuse(work, task_id, ObjectionCode.WORKERS_BUSY)
            self._end_preparation(task_id, is_done=is_too_late)
            return
        if task_id not in self.disk.content:
            holders = (each for each in self._peers() if task_id in each.disk.content)
            if next(holders, None) is None:
                self._end_preparation(task_id, is_done=False)
                return
            self.disk.content.add(task_id)
        work.is_content_held = True
        if work.answer_code == READY_CODE:
            work.is_accepted = work.can_check = True
        if work.answer_code == READY_CODE or (is_refused and work.can_check is not None):
            self._end_preparation(task_id, is_done=True)
            return
        start = max(self.cluster.now_ms, self.memory.dry_runs_end_ms)
        if is_new and start + limit_ms > 1_000 * history.lease.window_time:
            self._end_preparation(task_id, is_done=False)
            return

        def done(is_in_time: bool) -> None:
            work.can_check = True if is_in_time else None
            if self.is_unfit and not is_refused:
                self._refuse(work, task_id, ObjectionCode.DRY_RUN_FAILED)
            elif is_in_time and self.is_slow and not is_refused:
                self._refuse(work, task_id, ObjectionCode.RESOURCES_EXCEEDED)
            elif is_in_time and not is_refused:
                work.is_accepted, work.answer_code = True, READY_CODE
            elif is_new:
                self._refuse(work, task_id, ObjectionCode.DRY_RUN_FAILED)
            self._end_preparation(task_id, is_done=is_in_time or is_new)

        took_ms = self.cluster.cost(spec).dry_run_ms
        if took_ms > run_ms:
            took_ms = limit_ms + 1  # every try runs into the limit
        self._ask_for_dry_run(task_id, took_ms, done, limit_ms)

    def _refuse(self, work: Work, task_id: TaskId, code: ObjectionCode) -> None:
        work.is_accepted, work.answer_code = False, REFUSAL_CODES[code]
        if work.answer_code in UNCHECKED_CODES:
            work.can_check = False
        self._release(task_id)

    def _release(self, task_id: TaskId) -> None:
        for each in self.memory.capacity.release(task_id):
            self.memory.retry_at.pop(("prepare", each), None)
            self.cluster.wake(self)

    def _end_preparation(self, task_id: TaskId, *, is_done: bool) -> None:
        memory, key = self.memory, ("prepare", task_id)
        memory.preparing.remove(task_id)
        if is_done:
            self._finish(key)
        else:
            wait = memory.wait_ms.get(task_id, RETRY_MS)
            memory.wait_ms[task_id] = min(2 * wait, RETRY_LIMIT_MS)
            self._put_off(key, wait)
        if len(memory.preparing) >= PREPARING_LIMIT:
            following = memory.preparing[PREPARING_LIMIT - 1]
            history = self.view.histories.get(following)
            spec = None if history is None else self.cluster.chain.spec(history)
            if history is not None and spec is not None:
                self._start_preparation(following, history, spec, memory.work[following])

    def _restore_state(self, history: TaskHistory, spec: TaskSpec, work: Work) -> None:
        if history.rounds_settled == 0:
            root = compute_initial_state(spec)
            self.disk.states.add(root)
        else:
            root = history.training_state_root
            if root not in self.disk.states:
                if not any(root in each.disk.states for each in self._peers()):
                    return
                self.disk.states.add(root)
        work.state_root = root
        self.cluster.wake(self)

    # Gradients.

    def _peers(self) -> list["Validator"]:
        """The validators that answer this one now."""
        return [
            each
            for each in self.cluster.validators
            if each is not self
            and self.cluster.is_connected(self, each)
            and (each.lie is None or each.lie.serves)
        ]

    def take_reveal(self, reveal: Reveal) -> bool:
        """Store a gradient that a miner uploads, if it opens a commitment of the open attempt."""
        history = self.view.histories.get(reveal.attempt_id.task_id)
        attempt = None if history is None else history.attempt
        if history is None or attempt is None or attempt.id != reveal.attempt_id:
            return False
        record = next((r for r in attempt.commitments if r.miner == reveal.miner), None)
        if record is None or record.units != reveal.units:
            return False
        if not self._opens(history, attempt, reveal, record.commitment):
            return False
        self._store(reveal)
        self._end_waits()
        return True

    def _opens(
        self, history: TaskHistory, attempt: Attempt, reveal: Reveal, commitment: Hash32
    ) -> bool:
        spec = self.cluster.chain.spec(history)
        assert spec is not None
        description = self.cluster.chain.describe(attempt, spec)
        header = description.build_header(reveal.miner, attempt.theta_root)
        return reveal.opens(commitment, header)

    def _store(self, reveal: Reveal) -> None:
        self.disk.reveals[reveal.attempt_id, reveal.miner] = reveal
        self.disk.payloads.setdefault(reveal.gradient_root, self.cluster.now_ms)

    def _end_waits(self) -> None:
        memory = self.memory
        memory.retry_at = {key: at for key, at in memory.retry_at.items() if key[0] != "check"}
        self.cluster.wake(self)

    def hear(self, reveal: Reveal) -> None:
        """Take note of a reveal that a peer holds."""
        work = self.memory.work.get(reveal.attempt_id.task_id)
        if not self.is_up or work is None or not work.seen or work.seen[1] != reveal.attempt_id:
            return
        self.memory.hints[reveal.attempt_id, reveal.miner] = reveal
        history = self.view.histories[reveal.attempt_id.task_id]
        attempt = history.attempt
        commitments = () if attempt is None else attempt.commitments
        record = next((each for each in commitments if each.miner == reveal.miner), None)
        if (
            attempt is not None
            and record is not None
            and self.memory.capacity.has_promise(history.task_id)
            and self._opens(history, attempt, reveal, record.commitment)
        ):
            self._fetch_announced(reveal)
        self._end_waits()

    def _fetch_announced(self, reveal: Reveal) -> None:
        """Fetch an announced gradient at once, also while this node cannot check it."""
        if self._ensure_payload(("fetch", reveal.gradient_root), reveal):
            self._store(reveal)

    def _fetch(self, history: TaskHistory, attempt: Attempt, index: int) -> None:
        """Fetch a gradient that is not checked now."""
        key = ("check", attempt.id, index)
        if self._is_waiting(key) or not self.memory.capacity.has_promise(history.task_id):
            return
        record = attempt.commitments[index]
        reveal = self._find_reveal(history, attempt, record.miner, record.commitment)
        if reveal is not None and self._ensure_payload(key, reveal):
            self._announce(reveal)

    def _check(
        self, history: TaskHistory, attempt: Attempt, spec: TaskSpec, work: Work, index: int
    ) -> None:
        key = ("check", attempt.id, index)
        if self._is_waiting(key):
            return
        record = attempt.commitments[index]
        checks = work.checks
        reveal = self._find_reveal(history, attempt, record.miner, record.commitment)
        if reveal is None or not self._ensure_payload(key, reveal):
            return
        self._announce(reveal)
        self.memory.running.add(key)
        payload = self.cluster.payloads[reveal.gradient_root]

        def done() -> None:
            verdict = ABSENT
            if not payload.is_malformed:
                measurement = payload.measure(self.address)
                verdict = compute_verdict(measurement, spec.verification.tolerance_ppb)
            checks[attempt.id, index] = verdict
            self._finish(key)

        is_promised = history.is_closed or self.memory.capacity.has_time(history.task_id)
        has_time = is_promised and work.is_accepted is not False
        promised_ms = spec.reward.max_units * spec.resources.unit_milliseconds if has_time else 0
        took_ms = self.cluster.cost(spec).check_ms * self.pace * (SLOWNESS if self.is_slow else 1)
        self._ask_for_check(attempt.id, "check", took_ms, promised_ms, done, place=index)

    def _find_reveal(
        self, history: TaskHistory, attempt: Attempt, miner: Address, commitment: Hash32
    ) -> Reveal | None:
        """The reveal that opens a commitment; None, and a later try, if it is not known."""
        key = (attempt.id, miner)
        held = self.disk.reveals.get(key)
        if held is not None and self._opens(history, attempt, held, commitment):
            return held
        found = [
            self.memory.hints.get(key),
            *(peer.disk.reveals.get(key) for peer in self._peers()),
        ]
        for reveal in found:
            if reveal is not None and self._opens(history, attempt, reveal, commitment):
                self.disk.reveals[key] = reveal
                return reveal
        index = next(i for i, r in enumerate(attempt.commitments) if r.miner == miner)
        self._put_off(("check", attempt.id, index))
        return None

    def _ensure_payload(self, key: JobKey, reveal: Reveal) -> bool:
        """Whether the gradient is held; if not, the job goes on when it has come."""
        root = reveal.gradient_root
        if root in self.disk.payloads:
            return True
        if not any(root in peer.disk.payloads for peer in self._peers()):
            self._put_off(key)
            return False

        def arrived() -> None:
            self._store(reveal)
            self._finish(key)

        self.memory.running.add(key)
        self.later(self.random.randrange(20, self.cluster.world.download_ms), arrived)
        return False

    def _announce(self, reveal: Reveal) -> None:
        if reveal.gradient_root in self.memory.announced or (self.lie and not self.lie.serves):
            return
        self.memory.announced.add(reveal.gradient_root)
        for peer in self.cluster.validators:
            if peer is not self and self.cluster.is_connected(self, peer):
                delay = self.cluster.draw_delay()
                self.cluster.after(delay, lambda peer=peer: peer.hear(reveal))

    # Results.

    def _compute_result(
        self, history: TaskHistory, attempt: Attempt, spec: TaskSpec, work: Work
    ) -> None:
        key = ("result", attempt.id, attempt.ballot_number)
        if self._is_waiting(key):
            return
        outcome = compute_outcome(attempt, spec, self.view.validator_set)
        if outcome.kind is ResultKind.SETTLED and work.state_root is None:
            self._put_off(key)
            return
        if outcome.kind is not ResultKind.SETTLED:
            vote = build_empty_vote(outcome.kind, outcome.timely_voters)
            work.results = {attempt.ballot_number: vote}
            self.cluster.wake(self)
            return
        accepted = []
        for index in outcome.accepted:
            record = attempt.commitments[index]
            reveal = self._find_reveal(history, attempt, record.miner, record.commitment)
            if reveal is None:
                self._put_off(key)
                return
            if not self._ensure_payload(key, reveal):
                return
            accepted.append((record.units, reveal.gradient_root))
        self.memory.running.add(key)

        def done() -> None:
            assert work.state_root is not None
            root = compute_next_state(work.state_root, accepted)
            self.disk.states.add(root)
            work.results = {
                attempt.ballot_number: build_result_vote(
                    history.task_id,
                    self.view.rewards[history.task_id],
                    outcome,
                    chain_id=CHAIN_ID,
                    training_state_root=root,
                    model_root=compute_model_root(root),
                )
            }
            self._finish(key)

        self.later(AGGREGATE_MS, done)

    def _compute_payment(
        self, history: TaskHistory, attempt: Attempt, spec: TaskSpec, work: Work
    ) -> None:
        outcome = compute_outcome(attempt, spec, self.view.validator_set)
        vote = (
            build_payment_vote(
                history.task_id, self.view.rewards[history.task_id], outcome, CHAIN_ID
            )
            if outcome.kind is ResultKind.SETTLED
            else build_empty_vote(outcome.kind, outcome.timely_voters)
        )
        work.results = {attempt.ballot_number: vote}
        self.cluster.wake(self)

    def _evaluate(
        self, attempt_id: AttemptId, spec: TaskSpec, model_root: Hash32, work: Work
    ) -> None:
        key = ("evaluate", model_root)
        if self._is_waiting(key):
            return
        self.memory.running.add(key)

        def done() -> None:
            work.evaluated.add(model_root)
            self._finish(key)

        took_ms, promised_ms = (
            self.cluster.world.evaluate_ms,
            spec.resources.evaluation_milliseconds,
        )
        self._ask_for_check(attempt_id, "evaluate", took_ms, promised_ms, done)

    # Fines and seats.

    def _slash(self, history: TaskHistory, spec: TaskSpec, work: Work) -> None:
        if not self._takes_turns:
            return
        number = BlockNumber(self.view.number)
        self._end_seats(history, work)
        for mark in history.ended:
            ended = self.view.fined[history.task_id, mark.ordinal]
            self._give_late_verdicts(history, ended, spec, work)
            known = work.fines.get(mark.ordinal)
            is_closing = number >= mark.late_until
            if (
                known is None
                or known.is_closing != is_closing
                or known.changed_block != mark.changed_block
            ):
                trees = build_fine_trees(CHAIN_ID, ended, number)
                if known is not None and known.is_closing == is_closing:
                    # Nodes build the trees of a vote once.
                    assert known.trees == trees
                known = PlannedFines(mark.changed_block, is_closing, trees, number)
                work.fines[mark.ordinal] = known
            if known.next_block is None or number < known.next_block:
                continue
            plan = plan_fines(ended, known.trees, self.operator, number)
            known.next_block = plan.next_block
            for duty in plan.duties:
                self._do_fines(history.task_id, work, duty)

    def _do_fines(self, task_id: TaskId, work: Work, duty: PostFines | ImposeFines) -> None:
        match duty:
            case PostFines(ordinal, is_closing, root):
                if self.lie is not None:
                    root = self.lie.distort_fines(root)
                call = miner_seats.post_fines(task_id, ordinal, root)
                key = ("fines", ordinal, is_closing)
                self.vote(work, key, call, f"fines of {ordinal} {is_closing}")
            case ImposeFines(ordinal, batch, fines):
                call = miner_seats.slash(task_id, ordinal, fines)
                # A node remembers which fines are hopeless. Here they are sent again and again, and
                # must not stand in the way of the same batch of the closing tree.
                self.vote(work, ("slash", ordinal, batch, fines), call, f"slash for {ordinal}")

    def _give_late_verdicts(
        self, history: TaskHistory, ended: EndedAttempt, spec: TaskSpec, work: Work
    ) -> None:
        if self.view.number >= ended.late_until:
            return
        attempt = ended.attempt
        indices = list_open_words(ended, self.address)
        missing = [i for i in indices if (attempt.id, i) not in work.checks]
        may_check = work.is_accepted is not False or work.can_check
        if missing and may_check and self.view.number < ended.late_until - HURRY_BLOCKS:
            for index in missing:
                self._check(history, attempt, spec, work, index)
            return
        found = {i: work.checks[attempt.id, i] for i in indices if i not in missing}
        words = [found.get(i, Verdict.UNCHECKED) for i in range(len(attempt.commitments))]
        if self.lie is not None:
            words = self.lie.distort_late_verdicts(attempt, words)
        if any(verdict in LATE_VERDICTS for verdict in words):
            call = gradient_ledger.post_late_verdict(
                history.task_id, attempt.ordinal, encode_verdicts(words)
            )
            self.vote(work, ("late", attempt.id), call, f"late {describe_words(words)}")

    def _end_seats(self, history: TaskHistory, work: Work) -> None:
        attempt = history.attempt
        if attempt is None or work.seats_checked >= attempt.ordinal:
            return
        own_index = self.view.validator_set.find_operator(self.operator)
        if own_index is None:
            return
        place = (own_index - attempt.id.round_number) % len(self.view.validator_set.validators)
        if self.view.number < attempt.open_block + rounds.TURN_BLOCKS * place:
            return
        over = self.view.contracts.read(miner_seats.list_over(history.task_id, MAX_ENDED_SEATS))
        if not over:
            work.seats_checked = attempt.ordinal
            return
        call = miner_seats.end_seats(history.task_id, over)
        self.vote(work, ("end seats", attempt.id), call, f"end {len(over)} seats")
