"""The training host: what validators owe tasks is done here (docs/spec/training.md, section 10).

After every block, blob and finished job chain/training/rounds.py is asked again what is owed; a job
runs once at a time and is started again while its duty stands. So a restart, a lost blob or a dead
worker needs no code of its own.
"""

import json
from array import array
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, assert_never

import structlog
import trio

from chain.crypto import content_id as compute_content_id
from chain.errors import RejectedInputError, RejectionReason
from chain.execution import system_contracts
from chain.execution.system_contracts import (
    GRADIENT_LEDGER,
    REWARD_DISTRIBUTOR,
    TASK_REGISTRY,
    CommitmentEvidence,
    ResultVote,
)
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.training import rounds
from chain.training.acceptance import (
    ExponentRule,
    Measurement,
    Verdict,
    compute_verdict,
    encode_verdicts,
)
from chain.training.aggregation import aggregate
from chain.training.architectures import count_parameters
from chain.training.assignment import Assignment, assign, compute_seed
from chain.training.encoding import GradientHeader, count_payload_bytes, decode_gradient
from chain.training.history import (
    Attempt,
    SettledRound,
    TaskHistory,
    add_rewards,
    compute_outcome,
)
from chain.training.optimizer import apply_update, initial_state
from chain.training.rewards import build_reward_tree
from chain.training.state import (
    FLOAT32_BYTES,
    TrainingState,
    build_training_state,
    compute_layout,
    compute_model_root,
    compute_part_ids,
    compute_state_root,
)
from chain.training.task_spec import TaskSpec, learning_rate_ppb, terms
from node.atomic_file import write_atomically
from node.blobs import BlobDamaged, BlobDiskFailed, BlobQuotaExceeded, BlobStore
from node.clock import Clock
from node.ledger import LedgerReader
from node.measurements import get_checks_path
from node.reveals import Reveal, RevealStore
from node.state_parts import StatePartStore
from node.training_index import TrainingIndex, get_theta_root
from node.verifier import Verifier, VerifierFailed, VerifierRefused

if TYPE_CHECKING:
    # The stubs that py-libp2p's dependency installs hide trio's own types from the checker.
    from trio_typing import TaskStatus

TICK_SECONDS: Final = 0.25
"""How often duties are looked at when nothing happens: deadlines pass without an event."""

RETRY_SECONDS: Final = 0.5
"""Until a job that could not finish (a blob nobody has yet) is tried again."""

RETRY_LIMIT_SECONDS: Final = 30.0
"""The longest such wait: each failure of a job doubles its own, up to this for content."""

SERVED_TASKS_LIMIT: Final = 64
"""Tasks that this node has said it is ready for: each is looked at after every block."""

PREPARING_LIMIT: Final = 4
"""Tasks whose content is fetched and tried at once; submitting one costs next to nothing."""

REMEMBERED_LIMIT: Final = 4_096
"""Entries of the tables that only spare repetitions; the oldest is forgotten first."""

RESEND_BLOCKS: Final = 6
"""A transaction that is in no block by then is sent again."""

VOTE_GAS: Final = 1_500_000
"""Gas limit of every operator's call; the dearest, slashing 32 miners, takes less."""

CONTENT_QUOTA_SHARE: Final = 8
"""Initial weights and data of one task take at most one part in this many of the blob quota."""

HINT_LIMIT: Final = 4_096
"""Announced reveals that are remembered until their commitment is checked."""

SLASH_LIMIT: Final = 32
"""Calls of slash that are sent together; each shows the whole list of commitments."""

EVIDENCE_BALLOTS: Final = 4
"""The ledger keeps the evidence of this many ballots."""

_log = structlog.get_logger("node.training")


class Unavailable(Exception):
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


@dataclass(frozen=True, slots=True)
class Operator:
    """The account that votes for this validator."""

    validator_index: int
    address: Address
    send: Callable[[Address, bytes, int], Awaitable[None]]
    """Signs and submits a call: contract, calldata, gas limit. Raises RejectedInputError."""


@dataclass(slots=True)
class _Work:
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


class TrainingHost:
    """Serves every live task of the chain."""

    def __init__(
        self,
        *,
        chain_id: int,
        blob_bytes_per_second: int,
        index: TrainingIndex,
        ledger: LedgerReader,
        blobs: BlobStore,
        reveals: RevealStore,
        state_parts: StatePartStore,
        verifier: Verifier,
        peers: TrainingPeers,
        operator: Operator | None,
        clock: Clock,
        directory: Path,
    ) -> None:
        self._chain_id = chain_id
        self._blob_bytes_per_second = blob_bytes_per_second
        self._index = index
        self._ledger = ledger
        self._blobs = blobs
        self._reveals = reveals
        self._state_parts = state_parts
        self._verifier = verifier
        self._peers = peers
        self._operator = operator
        self._clock = clock
        self._directory = directory
        self._work: dict[TaskId, _Work] = {}
        self._running: set[str] = set()
        self._retry_at: OrderedDict[str, float] = OrderedDict()
        self._preparing = trio.CapacityLimiter(PREPARING_LIMIT)
        self._prepare_seconds: dict[TaskId, float] = {}
        """How long the next failure to prepare a task makes it wait."""
        self._changed = trio.Event()
        self._closed: set[TaskId] = set()
        """Closed, or refused: not looked at any more."""
        self._hints: OrderedDict[tuple[TaskId, int, int, Address], Reveal] = OrderedDict()
        self._announced: OrderedDict[Hash32, None] = OrderedDict()
        directory.mkdir(parents=True, exist_ok=True)

    def wake(self) -> None:
        """Look at the duties again: a block is final, or something else has happened."""
        self._changed.set()

    def on_blob(self) -> None:
        """The RPC process stored a blob: a check that waits for one need not wait any longer."""
        self._end_waits("/check-")

    def _end_waits(self, part_of_name: str) -> None:
        for name in [name for name in self._retry_at if part_of_name in name]:
            del self._retry_at[name]
        self.wake()

    # What peers are told (node.network.protocols.training.TrainingSource).

    def list_reveals(self, task_id: TaskId, round_number: int, attempt: int) -> Sequence[Reveal]:
        """The reveals of an attempt that are held here."""
        return self._reveals.list(task_id, round_number, attempt)

    def get_state_parts(self, state_root: Hash32) -> Sequence[Hash32] | None:
        """The content ids below a training state root; None if they are not known here."""
        return self._state_parts.get(state_root)

    def on_announced_reveal(self, reveal: Reveal) -> None:
        """A peer says that it holds a reveal; it is looked at when its commitment is checked."""
        work = self._work.get(reveal.task_id)
        if work is None or work.phase_key[1:3] != (reveal.round_number, reveal.attempt):
            return  # nobody waits for it; who comes to wait asks his peers
        place = (reveal.task_id, reveal.round_number, reveal.attempt, reveal.miner)
        self._hints[place] = reveal
        if len(self._hints) > HINT_LIMIT:
            self._hints.popitem(last=False)
        self._end_waits(f"{reveal.task_id}/check-{reveal.round_number}-{reveal.attempt}-")

    async def run(self, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Serve tasks until cancelled."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            if self._operator is not None:
                nursery.start_soon(self._verifier.warm_up)
            while True:
                self._changed = trio.Event()
                for number in range(1, self._index.task_count() + 1):
                    task_id = TaskId(number)
                    if task_id not in self._closed and not self._is_waiting(task_id):
                        await self._step(task_id, nursery)
                        # Many tasks must not keep consensus from its turn.
                        await trio.lowlevel.checkpoint()
                with trio.move_on_after(TICK_SECONDS):
                    await self._changed.wait()

    def _is_waiting(self, task_id: TaskId) -> bool:
        """Whether the task's content is being fetched, or will be tried again later."""
        name = f"{task_id}/prepare"
        return name in self._running or trio.current_time() < self._retry_at.get(name, 0)

    async def _step(self, task_id: TaskId, nursery: trio.Nursery) -> None:
        head = self._ledger.head_number()
        history = self._index.history(task_id)
        assert history is not None
        spec = self._index.spec(history)
        held = self._work.get(task_id)
        is_refused = held is not None and held.is_accepted is False
        if history.status == "closed" or spec is None or is_refused:
            self._closed.add(task_id)
            self._work.pop(task_id, None)
            return
        work = self._work.setdefault(task_id, _Work())
        view = self._get_view(history, work)
        if self._ledger.head_number() != head:
            # A block became final in between: history and phase may not be of one state.
            self.wake()
            return
        own_index = None if self._operator is None else self._operator.validator_index
        for duty in rounds.list_duties(
            history,
            spec,
            view,
            self._get_own_work(history, work),
            self._index.committee,
            own_index,
            self._clock.now_ms() // 1000,
        ):
            for name, job in self._list_jobs(duty, history, spec, work):
                self._start(nursery, f"{task_id}/{name}", job)
        if self._operator is not None:
            for name, job in self._list_slashings(history, spec, work):
                self._start(nursery, f"{task_id}/{name}", job)

    def _start(self, nursery: trio.Nursery, name: str, job: Callable[[], Awaitable[None]]) -> None:
        if name in self._running or trio.current_time() < self._retry_at.get(name, 0):
            return
        self._running.add(name)
        nursery.start_soon(self._run_job, name, job)

    async def _run_job(self, name: str, job: Callable[[], Awaitable[None]]) -> None:
        try:
            await job()
        except (Unavailable, VerifierFailed) as error:
            _log.debug("job waits", job=name, reason=str(error))
            self._put_off(name, RETRY_SECONDS)
        except (
            RejectedInputError,
            VerifierRefused,
            BlobQuotaExceeded,
            BlobDiskFailed,
            BlobDamaged,
        ) as error:
            _log.warning("job refused", job=name, reason=str(error))
            self._put_off(name, RETRY_SECONDS)
        else:
            self._retry_at.pop(name, None)
        finally:
            self._running.discard(name)
            self.wake()

    def _put_off(self, name: str, seconds: float) -> None:
        self._retry_at[name] = max(trio.current_time() + seconds, self._retry_at.get(name, 0))
        self._retry_at.move_to_end(name)
        if len(self._retry_at) > REMEMBERED_LIMIT:
            self._retry_at.popitem(last=False)

    def _get_view(self, history: TaskHistory, work: _Work) -> rounds.PhaseView:
        phase, deadline_timestamp = self._ledger.phase(history.task_id)
        attempt = history.attempt
        ballot = () if attempt is None else (attempt.round_number, attempt.attempt, attempt.ballot)
        key = (phase.value, *ballot)
        head = self._ledger.head_number()
        if key != work.phase_key:
            work.phase_key, work.since_block = key, head
        return rounds.PhaseView(phase, deadline_timestamp, head, work.since_block)

    def _get_own_work(self, history: TaskHistory, work: _Work) -> rounds.OwnWork:
        attempt = history.attempt
        verdicts: tuple[Verdict | None, ...] = ()
        result = None
        if attempt is not None:
            found = (
                work.checks.get((attempt.round_number, attempt.attempt, i))
                for i in range(len(attempt.commitments))
            )
            verdicts = tuple(None if check is None else check[0] for check in found)
            computed = work.results.get(attempt.ballot_number)
            result = None if computed is None else computed[0]
        wanted = history.training_state_root if history.rounds_settled else None
        is_state_held = work.state is not None and wanted in (None, work.state_root)
        if history.rounds_settled == 0 and work.state_root is not None:
            is_state_held = work.state is not None
        return rounds.OwnWork(
            work.is_content_held, work.is_accepted, is_state_held, verdicts, result
        )

    def _list_jobs(
        self, duty: rounds.Duty, history: TaskHistory, spec: TaskSpec, work: _Work
    ) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """The jobs that fulfil a duty, each with a name that stays while it is the same job."""
        attempt = history.attempt
        match duty:
            case rounds.PrepareContent():
                return [("prepare", lambda: self._prepare(history, spec, work))]
            case rounds.RestoreState():
                return [("state", lambda: self._restore_state(history, spec, work))]
            case rounds.PostReady():
                encode = partial(system_contracts.encode_post_ready, history.task_id)
                return [self._vote(work, "ready", TASK_REGISTRY, encode)]
            case rounds.AdvanceRound():
                encode = partial(system_contracts.encode_advance_round, history.task_id)
                return [self._vote(work, f"advance-{work.phase_key}", GRADIENT_LEDGER, encode)]
            case rounds.CheckGradients(indices):
                assert attempt is not None
                place = f"check-{attempt.round_number}-{attempt.attempt}"
                return [
                    (f"{place}-{i}", self._bind_check(history, spec, work, attempt, i))
                    for i in indices
                ]
            case rounds.PostVerdict(verdicts):
                assert attempt is not None
                encode = partial(self._encode_verdict, history, work, attempt, verdicts)
                name = f"verdict-{attempt.ballot_number}"
                return [self._vote(work, name, GRADIENT_LEDGER, encode)]
            case rounds.ComputeResult():
                assert attempt is not None
                name = f"result-{attempt.ballot_number}"
                return [(name, lambda: self._compute_result(history, spec, work, attempt))]
            case rounds.PostResult(vote):
                assert attempt is not None
                encode = partial(self._encode_result, history, work, attempt, vote)
                return [self._vote(work, f"post-{attempt.ballot_number}", GRADIENT_LEDGER, encode)]
            case rounds.SettleRound(vote):
                assert attempt is not None
                encode = partial(system_contracts.encode_settle_round, history.task_id, vote)
                name = f"settle-{attempt.ballot_number}"
                return [self._vote(work, name, GRADIENT_LEDGER, encode)]
            case _:
                assert_never(duty)

    # Operator votes.

    def _vote(
        self, work: _Work, name: str, contract: Address, encode: Callable[[], bytes]
    ) -> tuple[str, Callable[[], Awaitable[None]]]:
        async def send() -> None:
            head = self._ledger.head_number()
            sent_at = work.sent.get(name)
            if sent_at is not None and head < sent_at + RESEND_BLOCKS:
                raise Unavailable(f"{name} is on its way into a block")
            operator = self._operator
            assert operator is not None
            data = encode()
            refusal = await trio.to_thread.run_sync(
                self._ledger.simulate, operator.address, contract, data, VOTE_GAS
            )
            if refusal is not None:
                # Somebody was faster, or the phase is over: the next look at the chain tells.
                raise Unavailable(f"{name} would revert: {refusal}")
            await operator.send(contract, data, VOTE_GAS)
            work.sent = {
                each: sent for each, sent in work.sent.items() if head < sent + RESEND_BLOCKS
            }
            work.sent[name] = head
            _log.info("operator vote sent", vote=name)

        return name, send

    def _encode_verdict(
        self, history: TaskHistory, work: _Work, attempt: Attempt, verdicts: Sequence[Verdict]
    ) -> bytes:
        self._save_checks(history, work, attempt)
        return system_contracts.encode_post_verdict(
            history.task_id,
            attempt.round_number,
            attempt.attempt,
            attempt.ballot,
            encode_verdicts(verdicts),
        )

    def _encode_result(
        self, history: TaskHistory, work: _Work, attempt: Attempt, vote: ResultVote
    ) -> bytes:
        _, correct_count, loss = work.results[attempt.ballot_number]
        return system_contracts.encode_post_result(
            history.task_id,
            attempt.round_number,
            attempt.attempt,
            attempt.ballot,
            vote,
            correct_count,
            loss,
        )

    # Content and dry run.

    async def _prepare(self, history: TaskHistory, spec: TaskSpec, work: _Work) -> None:
        """As below, for a few tasks at once, and less and less often for content nobody has."""
        task_id = history.task_id
        try:
            async with self._preparing:
                served = sum(each.is_accepted is True for each in self._work.values())
                if history.status == "pending" and served >= SERVED_TASKS_LIMIT:
                    raise Unavailable(f"{served} tasks are served already")
                await self._prepare_content(history, spec, work)
        except (Unavailable, VerifierFailed):
            seconds = self._prepare_seconds.get(task_id, RETRY_SECONDS)
            self._prepare_seconds[task_id] = min(2 * seconds, RETRY_LIMIT_SECONDS)
            self._put_off(f"{task_id}/prepare", seconds)
            raise
        self._prepare_seconds.pop(task_id, None)

    async def _prepare_content(self, history: TaskHistory, spec: TaskSpec, work: _Work) -> None:
        wanted = {spec.initial_weights: FLOAT32_BYTES * count_parameters(spec.model)}
        wanted.update((shard.content_id, shard.byte_count) for shard in spec.data.shards)
        objection = self._find_objection(history, spec, sum(wanted.values()))
        if objection is not None:
            # Before anything is fetched: whoever submits must not fill the disks of validators.
            _log.warning("task refused", task=history.task_id, reason=objection)
            work.is_accepted = False
            work.is_content_held = True
            return
        for content_id, size in sorted(wanted.items()):
            await self._ensure_blob(content_id, size)
        work.is_content_held = True
        try:
            answer = await self._verifier.ask(
                "dry_run", self._get_inputs(history, spec, spec.initial_weights)
            )
        except VerifierRefused as refusal:
            await self._check_intact([spec.initial_weights, *_shard_ids(spec)])
            _log.warning("task refused", task=history.task_id, reason=str(refusal))
            work.is_accepted = False
            return
        _log.info("task accepted", task=history.task_id, **answer)
        work.is_accepted = True

    def _find_objection(
        self, history: TaskHistory, spec: TaskSpec, content_bytes: int
    ) -> str | None:
        """Why this node takes no part in a task; None if it may."""
        if self._ledger.terms(history.task_id) != terms(spec):
            return "terms differ from the spec"
        limit = self._blobs.quota_bytes // CONTENT_QUOTA_SHARE
        if content_bytes > limit:
            return f"content of {content_bytes} bytes, blobs.quota_bytes allows a task {limit}"
        payload_bytes = count_payload_bytes(count_parameters(spec.model))
        needed_seconds = payload_bytes * spec.reward.max_units // self._blob_bytes_per_second
        if needed_seconds > spec.phases.verdict_seconds:
            return (
                f"verdict_seconds {spec.phases.verdict_seconds} is too short to fetch "
                f"{spec.reward.max_units} gradients, which takes {needed_seconds} s"
            )
        return None

    async def _ensure_blob(self, content_id: Hash32, size_limit: int) -> None:
        if self._blobs.has(content_id):
            return
        if not await self._peers.fetch_blob(content_id, size_limit):
            raise Unavailable(f"blob {content_id.hex()[:16]} is not to be had")

    async def _check_intact(self, content_ids: Sequence[Hash32]) -> None:
        """Before anybody is blamed: the disk may have changed what was judged.

        Raises:
            Unavailable: it has; the blob was deleted, and is fetched again.
        """
        for content_id in content_ids:
            await self._read_blob(content_id)

    def _get_inputs(
        self, history: TaskHistory, spec: TaskSpec, theta_root: Hash32
    ) -> dict[str, object]:
        """What every question to a verifier worker names."""
        spec_path = self._directory / f"{history.task_id}.spec.json"
        if not spec_path.exists():
            write_atomically(spec_path, history.spec)
        return {
            "spec": str(spec_path),
            "theta": str(self._blobs.path(theta_root)),
            "shards": [str(self._blobs.path(shard.content_id)) for shard in spec.data.shards],
        }

    # Training state.

    async def _restore_state(self, history: TaskHistory, spec: TaskSpec, work: _Work) -> None:
        if history.rounds_settled == 0:
            await self._ensure_blob(spec.initial_weights, 4 * count_parameters(spec.model))
            theta = await self._read_blob(spec.initial_weights)
            state = initial_state(spec.optimizer, theta)
            root = await trio.to_thread.run_sync(self._save_state, state)
        else:
            root = history.training_state_root
            state = await self._load_state(spec, root)
        work.state, work.state_root = state, root

    async def _load_state(self, spec: TaskSpec, root: Hash32) -> TrainingState:
        part_ids = self._state_parts.get(root)
        if part_ids is None:
            answer = await self._peers.fetch_state_parts(root)
            if answer is None or compute_state_root(answer) != root:
                raise Unavailable(f"training state {root.hex()[:16]} is not to be had")
            part_ids = tuple(answer)
        layout = compute_layout(spec.optimizer, count_parameters(spec.model))
        if len(part_ids) != len(layout):
            raise Unavailable(f"training state {root.hex()[:16]} has {len(part_ids)} parts")
        for part_id, size in zip(part_ids, layout, strict=True):
            await self._ensure_blob(part_id, size)
        parts = [await self._read_blob(part_id) for part_id in part_ids]
        state = build_training_state(parts, spec, root)
        self._state_parts.put(root, part_ids)
        return state

    def _save_state(self, state: TrainingState) -> Hash32:
        for part in state.parts:
            self._blobs.put(part)
        part_ids = compute_part_ids(state)
        root = compute_state_root(part_ids)
        self._state_parts.put(root, part_ids)
        return root

    async def _read_blob(self, content_id: Hash32) -> bytes:
        """The bytes of a blob; damaged ones are deleted, to be fetched again.

        Raises:
            Unavailable: it is not here, or the disk changed it.
        """
        try:
            with self._blobs.open(content_id) as file:
                data = await trio.to_thread.run_sync(file.read)
        except KeyError as error:
            raise Unavailable(f"blob {content_id.hex()[:16]} is not here") from error
        if await trio.to_thread.run_sync(compute_content_id, data) != content_id:
            self._blobs.delete(content_id)
            raise Unavailable(f"blob {content_id.hex()[:16]} was damaged on our disk")
        return data

    # Gradients.

    def _get_assignment(
        self, history: TaskHistory, spec: TaskSpec, work: _Work, attempt: Attempt
    ) -> Assignment:
        key = (attempt.round_number, attempt.attempt)
        if key not in work.assignments:
            mix_hash = self._ledger.mix_hash_after(attempt.open_block)
            seed = compute_seed(mix_hash, history.task_id, attempt.round_number, attempt.attempt)
            miners = self._ledger.participants(history.task_id, attempt.open_block)
            work.assignments = {
                key: assign(
                    seed, miners, spec.sample_count, spec.samples_per_unit, spec.reward.max_units
                )
            }
        return work.assignments[key]

    def _get_header(
        self,
        history: TaskHistory,
        spec: TaskSpec,
        attempt: Attempt,
        assignment: Assignment,
        miner: Address,
    ) -> GradientHeader:
        return GradientHeader(
            parameter_count=count_parameters(spec.model),
            round_number=attempt.round_number,
            chain_id=self._chain_id,
            theta_root=get_theta_root(history, spec),
            seed=assignment.seed,
            miner=miner,
            task=history.task_id,
            attempt=attempt.attempt,
        )

    def _bind_check(
        self, history: TaskHistory, spec: TaskSpec, work: _Work, attempt: Attempt, index: int
    ) -> Callable[[], Awaitable[None]]:
        return lambda: self._check_gradient(history, spec, work, attempt, index)

    async def _check_gradient(
        self, history: TaskHistory, spec: TaskSpec, work: _Work, attempt: Attempt, index: int
    ) -> None:
        record = attempt.commitments[index]
        assignment = self._get_assignment(history, spec, work, attempt)
        key = (attempt.round_number, attempt.attempt, index)
        if assignment.units_of(record.miner) != record.units:
            # It claims other units than it was assigned: nothing opens to honest work.
            work.checks[key] = (Verdict.CHEAT, None)
            return
        header = self._get_header(history, spec, attempt, assignment, record.miner)
        reveal = await self._find_reveal(
            history, work, attempt, record.miner, record.commitment, header
        )
        payload_bytes = count_payload_bytes(header.parameter_count)
        await self._ensure_blob(reveal.gradient_root, payload_bytes)
        if self._blobs.size_bytes(reveal.gradient_root) != payload_bytes:
            _log.warning("gradient malformed", miner=record.miner.hex(), reason="its length")
            work.checks[key] = (Verdict.UNAVAILABLE, None)
            return
        await self._ensure_blob(header.theta_root, 4 * header.parameter_count)
        for shard in spec.data.shards:
            await self._ensure_blob(shard.content_id, shard.byte_count)
        if reveal.gradient_root not in self._announced:
            self._announced[reveal.gradient_root] = None
            if len(self._announced) > REMEMBERED_LIMIT:
                self._announced.popitem(last=False)
            await self._peers.announce_reveal(reveal)
        indices_path = self._directory / f"{history.task_id}-{attempt.round_number}-{index}.indices"
        indices = await trio.to_thread.run_sync(assignment.sample_indices, record.miner)
        indices_path.write_bytes(array("Q", indices).tobytes())
        inputs = self._get_inputs(history, spec, header.theta_root)
        inputs["payload"] = str(self._blobs.path(reveal.gradient_root))
        inputs["indices"] = str(indices_path)
        inputs["header"] = {
            "round": header.round_number,
            "chain_id": header.chain_id,
            "seed": header.seed.hex(),
            "miner": header.miner.hex(),
            "task": header.task,
            "attempt": header.attempt,
        }
        try:
            answer = await self._verifier.ask("verify", inputs)
        except VerifierRefused as refusal:
            if refusal.reason != RejectionReason.BAD_GRADIENT:
                raise  # what we gave the worker is at fault, not the miner
            await self._check_intact([reveal.gradient_root, header.theta_root])
            # A malformed gradient counts as one that is missing.
            _log.warning("gradient malformed", miner=record.miner.hex(), reason=str(refusal))
            work.checks[key] = (Verdict.UNAVAILABLE, None)
            return
        finally:
            indices_path.unlink(missing_ok=True)
        distance, exponents = _get_integer(answer, "distance_ppb"), answer.get("exponents")
        if exponents not in tuple(ExponentRule):
            raise VerifierFailed(f"exponents are {exponents!r}")
        measurement = Measurement(distance, ExponentRule(str(exponents)))
        verdict = compute_verdict(measurement, spec.verification.tolerance_ppb)
        if verdict is not Verdict.OK:
            await self._check_intact([reveal.gradient_root, header.theta_root, *_shard_ids(spec)])
        work.checks[key] = (verdict, measurement)
        if verdict is not Verdict.OK:
            _log.warning(
                "gradient judged",
                task=history.task_id,
                round=attempt.round_number,
                miner="0x" + record.miner.hex(),
                verdict=verdict.name.lower(),
                distance_ppb=distance,
            )

    async def _find_reveal(
        self,
        history: TaskHistory,
        work: _Work,
        attempt: Attempt,
        miner: Address,
        commitment: Hash32,
        header: GradientHeader,
    ) -> Reveal:
        place = (history.task_id, attempt.round_number, attempt.attempt)
        held = self._reveals.get(*place, miner)
        if held is not None and held.opens(commitment, header):
            return held
        async with work.asking:
            hint = self._hints.get((*place, miner))
            found = [] if hint is None else [hint]
            is_open = hint is not None and hint.opens(commitment, header)
            if not is_open and trio.current_time() >= work.ask_again_at:
                work.ask_again_at = trio.current_time() + RETRY_SECONDS
                commitments = {each.miner: each.commitment for each in attempt.commitments}
                for reveal in await self._peers.fetch_reveals(*place):
                    if reveal.miner == miner:
                        found.append(reveal)
                    elif reveal.miner in commitments and reveal.opens(
                        commitments[reveal.miner], replace(header, miner=reveal.miner)
                    ):
                        self._reveals.put(reveal)
        for reveal in found:
            if reveal.miner == miner and reveal.opens(commitment, header):
                self._hints.pop((*place, miner), None)
                self._reveals.put(reveal)
                return reveal
        raise Unavailable(f"no reveal of 0x{miner.hex()}")

    def _save_checks(self, history: TaskHistory, work: _Work, attempt: Attempt) -> None:
        """Keep what was measured, for the receipts that JSON-RPC shows."""
        rows: dict[str, Mapping[str, object]] = {}
        for i, record in enumerate(attempt.commitments):
            check = work.checks.get((attempt.round_number, attempt.attempt, i))
            if check is not None:
                measurement = check[1]
                rows["0x" + record.miner.hex()] = {
                    "verdict": check[0].name.lower(),
                    "distancePpb": None if measurement is None else measurement.distance_ppb,
                    "exponents": None if measurement is None else measurement.exponents.value,
                }
        path = get_checks_path(
            self._directory, history.task_id, attempt.round_number, attempt.attempt
        )
        path.write_text(json.dumps(rows))

    # Results.

    async def _compute_result(
        self, history: TaskHistory, spec: TaskSpec, work: _Work, attempt: Attempt
    ) -> None:
        outcome = compute_outcome(attempt, spec, self._index.committee)
        assert work.state is not None
        state = work.state
        if outcome.accepted:
            assignment = self._get_assignment(history, spec, work, attempt)
            payloads: list[tuple[int, bytes, GradientHeader]] = []
            for i in outcome.accepted:
                record = attempt.commitments[i]
                header = self._get_header(history, spec, attempt, assignment, record.miner)
                reveal = await self._find_reveal(
                    history, work, attempt, record.miner, record.commitment, header
                )
                await self._ensure_blob(
                    reveal.gradient_root, count_payload_bytes(header.parameter_count)
                )
                payloads.append((record.units, await self._read_blob(reveal.gradient_root), header))
            state = await trio.to_thread.run_sync(
                _advance_state, spec, state, attempt.round_number, payloads
            )
        root = await trio.to_thread.run_sync(self._save_state, state)
        model_root = compute_model_root(state)
        tree = build_reward_tree(
            self._chain_id,
            REWARD_DISTRIBUTOR,
            history.task_id,
            dict(add_rewards(history.rewards, outcome.payouts)),
        )
        vote = ResultVote(root, model_root, tree.root, outcome.accepted_units)
        correct_count: int | None = None
        loss = 0
        is_last = attempt.round_number + 1 == spec.round_count
        if is_last or (attempt.round_number + 1) % spec.evaluate_every == 0:
            try:
                answer = await self._verifier.ask(
                    "evaluate", self._get_inputs(history, spec, model_root)
                )
            except VerifierRefused as refusal:
                # The roots need no evaluation: others may have one, and the round goes on.
                _log.warning("not evaluated", task=history.task_id, reason=str(refusal))
            else:
                correct_count = _get_integer(answer, "correct_count")
                loss = _get_integer(answer, "loss_millinats")
        work.results = {attempt.ballot_number: (vote, correct_count, loss)}
        work.checks = {
            key: check for key, check in work.checks.items() if key[0] >= attempt.round_number
        }

    # Slashing.

    def _list_slashings(
        self, history: TaskHistory, spec: TaskSpec, work: _Work
    ) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """The calls of slash that settled rounds still ask for."""
        too_old = history.rounds_settled - EVIDENCE_BALLOTS - 1
        work.slashed_through = max(work.slashed_through, too_old)
        jobs = []
        for round_number in range(work.slashed_through + 1, history.rounds_settled):
            settled = self._index.settled_round(history.task_id, round_number)
            assert settled is not None
            job = self._bind_slashing(history, spec, work, settled)
            if job is None:
                if round_number == work.slashed_through + 1:
                    work.slashed_through = round_number
            else:
                jobs.append((f"slash-{round_number}", job))
        return jobs

    def _bind_slashing(
        self, history: TaskHistory, spec: TaskSpec, work: _Work, settled: SettledRound
    ) -> Callable[[], Awaitable[None]] | None:
        attempt = settled.attempt
        outcome = compute_outcome(attempt, spec, self._index.committee)
        guilty = sorted({*outcome.slashed, *outcome.fined})
        operator = self._operator
        assert operator is not None
        if not guilty or self._ledger.head_number() < settled.block_number:
            return None
        place = (operator.validator_index - attempt.round_number) % len(
            self._index.committee.validators
        )
        due = settled.block_number + rounds.TURN_BLOCKS * place
        verdicts = [(r.validator, r.bitmap) for r in attempt.verdicts if r.is_timely]
        records = [CommitmentEvidence(r.miner, r.units, r.commitment) for r in attempt.commitments]

        async def send() -> None:
            if self._ledger.head_number() < due:
                raise Unavailable("another operator's turn")
            sent_count = 0
            for i in guilty:
                encode = partial(
                    system_contracts.encode_slash,
                    history.task_id,
                    attempt.ballot_number,
                    records,
                    verdicts,
                    [i],
                )
                name = f"slash-{attempt.ballot_number}-{i}"
                try:
                    await self._vote(work, name, GRADIENT_LEDGER, encode)[1]()
                except Unavailable:
                    continue  # done by another operator, or the evidence is too old
                sent_count += 1
                if sent_count == SLASH_LIMIT:
                    break
            # Again until nothing is left to slash: a call may have been lost.
            if not sent_count and self._ledger.head_number() >= due + RESEND_BLOCKS:
                work.slashed_through = max(work.slashed_through, attempt.round_number)
            else:
                raise Unavailable("to be looked at again")

        return send


def _get_integer(answer: Mapping[str, object], key: str) -> int:
    value = answer.get(key)
    if not isinstance(value, int):
        raise VerifierFailed(f"{key} is {value!r}")
    return value


def _shard_ids(spec: TaskSpec) -> list[Hash32]:
    return [shard.content_id for shard in spec.data.shards]


def _advance_state(
    spec: TaskSpec,
    state: TrainingState,
    round_number: int,
    payloads: Sequence[tuple[int, bytes, GradientHeader]],
) -> TrainingState:
    """The state after a round with these accepted gradients."""
    gradients = [(units, decode_gradient(payload, header)) for units, payload, header in payloads]
    mean = aggregate(spec.aggregator, count_parameters(spec.model), gradients)
    return apply_update(spec.optimizer, learning_rate_ppb(spec, round_number), state, mean)
