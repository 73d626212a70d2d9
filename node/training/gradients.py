"""Finding, opening and judging committed gradients (docs/spec/training.md, 3 to 5 and 10)."""

import json
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import trio
from cachetools import FIFOCache

from chain.errors import RejectionReason
from chain.hexadecimal import to_hex
from chain.json_types import JsonObject
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.training.acceptance import ExponentRule, Measurement, Verdict, compute_verdict
from chain.training.architectures import count_parameters
from chain.training.assignment import Assignment
from chain.training.attempt import AttemptId
from chain.training.attempt_description import AttemptDescription, describe_attempt
from chain.training.attempt_records import Attempt
from chain.training.encoding import GradientHeader, count_payload_bytes
from chain.training.fees import compute_promised_ppm
from chain.training.reveal import Reveal
from chain.training.state import FLOAT32_BYTES
from chain.training.task_spec import TaskSpec
from node.chain.contract_reader import ContractReader
from node.chain.training_index import TrainingIndex
from node.storage.blobs import BlobStore
from node.training.checks import get_checks_path
from node.training.content import Content, Need, get_integer
from node.training.intact import ROWS_INTACT_SECONDS
from node.training.jobs import RETRY_SECONDS
from node.training.known_reveals import AttemptReveals, KnownReveals
from node.training.reveal_hints import RevealHints
from node.training.reveal_store import RevealStore
from node.training.rows import TaskRows
from node.training.turns import Turn, compute_rate
from node.training.work import (
    CheckedGradient,
    KnownTask,
    ServedTask,
    TrainingPeers,
    UnavailableError,
)
from node.training.worker_pool import WorkerFailedError, WorkerPool, WorkerRefusedError

ANNOUNCED_LIMIT: Final = 4_096
"""The most gradients that are remembered as announced. A forgotten one is announced again."""

MISSING_SECONDS: Final = 1.0
"""The wait before missing reveals are looked for again. One that is announced is not waited for."""

RETRIES_PER_SECOND: Final = 32
"""How many checks of an attempt look again for a gradient that no peer sends. A thousand miners can
keep back their gradients, and consensus runs in the same thread."""

DESCRIPTIONS_LIMIT: Final = 256
"""Attempts whose descriptions are kept: more than there are tasks in progress."""

FETCH_RETRY_SECONDS: Final = 2.0
"""The wait before an announced gradient that no peer sends is fetched again."""

REASON_LIMIT: Final = 400
"""The longest reason that is kept for a receipt, in characters."""

PARTIAL_SUFFIX: Final = ".partial"
"""The ending of the name of a file with the sums of an unfinished check."""

_log = structlog.get_logger("node.training")


class Gradients:
    """Checks the gradients of commitments; the verdicts are kept in the task's work."""

    def __init__(
        self,
        *,
        chain_id: int,
        index: TrainingIndex,
        contracts: ContractReader,
        blobs: BlobStore,
        content: Content,
        reveals: RevealStore,
        rows: TaskRows,
        verifier: WorkerPool,
        peers: TrainingPeers,
        directory: Path,
    ) -> None:
        self._chain_id = chain_id
        self._index = index
        self._contracts = contracts
        self._blobs = blobs
        self._content = content
        self._rows = rows
        self._verifier = verifier
        self._peers = peers
        self._directory = directory
        self._hints = RevealHints()
        self._announced: FIFOCache[Hash32, None] = FIFOCache(ANNOUNCED_LIMIT)
        self._descriptions: FIFOCache[tuple[AttemptId, BlockNumber], AttemptDescription] = (
            FIFOCache(DESCRIPTIONS_LIMIT)
        )
        self._reveals = reveals
        self._known = KnownReveals(reveals, blobs)
        self._fetching: set[Hash32] = set()
        for path in directory.glob("*" + PARTIAL_SUFFIX):
            path.unlink()  # left by a node that was killed

    def keep_reveals(self, task: KnownTask) -> None:
        """Forget the reveals of attempts that ended, unless they wait for a late verdict."""
        attempt, fines = task.history.attempt, task.work.fines.values()
        kept = {each.ended.attempt.id for each in fines if each.open_words}
        self._known.keep(task.task_id, kept if attempt is None else {*kept, attempt.id})

    def forget_reveals(self, task_id: TaskId) -> None:
        """Forget the reveals of a task that this node has no duty to any more."""
        self._known.forget(task_id)

    def is_wanted(self, reveal: Reveal) -> bool:
        """Whether a reveal opens a commitment of an attempt in progress and is to be fetched.

        A reveal without a commitment is remembered: this node may be a block behind.
        """
        history = self._index.history(reveal.attempt_id.task_id)
        spec = None if history is None else self._index.spec(history)
        if history is None or spec is None or history.is_closed:
            return False
        attempt = history.attempt
        root = reveal.gradient_root
        if attempt is not None and attempt.id > reveal.attempt_id:
            return False
        if attempt is None or self.find_index(attempt, reveal) is None:
            self._hints.note(reveal)
            return False
        if root in self._announced or root in self._fetching:
            return False
        header = self._describe(spec, attempt).build_header(reveal.miner, attempt.theta_root)
        if self._known.get(attempt).find(reveal, header) is None:
            return False
        return not self._is_other_blob(root, header)

    def find_index(self, attempt: Attempt, reveal: Reveal) -> int | None:
        """The index of the commitment that a reveal is about; None if it is not there (yet)."""
        if attempt.id != reveal.attempt_id:
            return None
        return self._known.get(attempt).indices.get(reveal.miner)

    def pop_hints(self, attempt: Attempt) -> list[Reveal]:
        """The reveals that peers announced before this node knew of the commitments to them.

        They are to be taken as any that is announced. Each commitment is looked up once.
        """
        known = self._known.get(attempt)
        new = attempt.commitments[known.hinted_count :]
        known.hinted_count += len(new)
        return [hint for each in new for hint in self._hints.pop(attempt.id, each.miner)]

    async def take(self, reveal: Reveal) -> None:
        """Fetch the gradient of a wanted reveal at once, and announce it in turn.

        Neither the task's content nor its state is needed for that, so no work of this node delays
        the gradient's way to other validators. If no peer sends it, this is repeated until the
        attempt is over.

        Raises:
            StorageError: The disk refused the reveal.
            BlobQuotaError: The quota has no room for the gradient.
        """
        root = reveal.gradient_root
        is_noted = False
        while self.is_wanted(reveal):
            self._fetching.add(root)
            try:
                if not is_noted:
                    # First, so that what comes of the gradient is deleted with the attempt.
                    await trio.to_thread.run_sync(self._reveals.put, reveal)
                    is_noted = True
                await self._fetch(reveal)
                await self._announce(reveal)
                return
            except UnavailableError:
                await trio.sleep(FETCH_RETRY_SECONDS)
            finally:
                self._fetching.discard(root)

    async def _fetch(self, reveal: Reveal) -> None:
        history = self._index.history(reveal.attempt_id.task_id)
        spec = None if history is None else self._index.spec(history)
        if history is None or spec is None:
            return
        size = count_payload_bytes(count_parameters(spec.model))
        need = Need(reveal.attempt_id.task_id, reveal.attempt_id)
        await self._content.ensure(reveal.gradient_root, size, need)
        attempt = history.attempt
        if attempt is not None and attempt.id == reveal.attempt_id:
            header = self._describe(spec, attempt).build_header(reveal.miner, attempt.theta_root)
            await self._known.put(self._known.get(attempt), reveal, header, is_stored=False)
            if self._is_other_blob(reveal.gradient_root, header):
                raise UnavailableError(f"{reveal.gradient_root.hex()[:16]} is no gradient")

    def _is_other_blob(self, root: Hash32, header: GradientHeader) -> bool:
        """Whether what a miner names as its gradient is held and is none, such as a task's rows.

        The reveal is then not stored: the gradients of reveals are deleted when they are over.
        """
        return self._blobs.get_size(root) not in (None, count_payload_bytes(header.parameter_count))

    async def _open(self, known: AttemptReveals, reveal: Reveal, header: GradientHeader) -> bool:
        """Take note of a reveal if it opens a commitment; False if it does not.

        Raises:
            StorageError: The disk refused.
        """
        is_other = self._is_other_blob(reveal.gradient_root, header)
        return await self._known.put(known, reveal, header, is_stored=not is_other)

    async def check(self, task: ServedTask, attempt: Attempt, index: int) -> None:
        """Judge the gradient of one commitment.

        Raises:
            UnavailableError: The gradient, or content to check it with, cannot be fetched yet.
            WorkerFailedError: The worker died or took too long.
            WorkerRefusedError: The worker refused what this node gave it.
            BlobQuotaError: The quota has no room for rows that were lost.
            BlobDiskError: The disk refused.
        """
        async with self._retry_paced(task, attempt, index):
            await self._check(task, attempt, index)

    async def fetch(self, task: ServedTask, attempt: Attempt, index: int) -> None:
        """Fetch the gradient of one commitment, which cannot be checked now.

        Raises:
            UnavailableError: It cannot be fetched yet.
        """
        async with self._retry_paced(task, attempt, index):
            await self._hold(task, attempt, index)

    @asynccontextmanager
    async def _retry_paced(
        self, task: ServedTask, attempt: Attempt, index: int
    ) -> AsyncIterator[None]:
        """Put work on a commitment off for the longer, the more of them lack something."""
        known = self._known.get(attempt)
        try:
            yield
        except UnavailableError as error:
            header = self._build_header(task, attempt, attempt.commitments[index].miner)
            if not self._known.is_held(known.opened[index], header):
                known.held.discard(index)
            known.lacking.add(index)
            seconds = max(RETRY_SECONDS, len(known.lacking) / RETRIES_PER_SECOND)
            raise UnavailableError(str(error), wait_seconds=seconds) from error
        known.lacking.discard(index)

    async def _hold(self, task: ServedTask, attempt: Attempt, index: int) -> bool:
        """Fetch and announce a gradient; False if its length shows that it is none."""
        known, miner = self._known.get(attempt), attempt.commitments[index].miner
        reveal = known.opened[index]
        payload_bytes = count_payload_bytes(count_parameters(task.spec.model))
        await self._content.ensure(reveal.gradient_root, payload_bytes, self._build_need(attempt))
        size = self._content.get_size(reveal.gradient_root)
        if size != payload_bytes:
            problem = f"{size} bytes instead of {payload_bytes}"
            task.work.note_check(attempt.id, index, _refuse(miner, problem))
            return False
        known.held.add(index)
        await self._announce(reveal)
        return True

    async def _check(self, task: ServedTask, attempt: Attempt, index: int) -> None:
        spec, work = task.spec, task.work
        record, reveal = attempt.commitments[index], self._known.get(attempt).opened[index]
        header = self._build_header(task, attempt, record.miner)
        if not await self._hold(task, attempt, index):
            return
        need = self._build_need(attempt)
        theta_bytes = FLOAT32_BYTES * header.parameter_count
        await self._content.ensure(header.theta_root, theta_bytes, need)
        await self._content.ensure_shards(spec, need)
        rows_id = await self._rows.ensure(task)
        used = [reveal.gradient_root, header.theta_root]
        try:
            measurement = await self._measure(task, attempt, index, header, reveal, rows_id)
        except WorkerRefusedError as refusal:
            if refusal.reason != RejectionReason.BAD_GRADIENT:
                # The fault is in what this node gave the worker, not in the gradient.
                await self._content.check_intact([*used, rows_id])
                raise
            await self._content.check_intact(used)
            # No other bytes open the commitment, so there is no gradient to wait for.
            work.note_check(attempt.id, index, _refuse(record.miner, str(refusal)))
            return
        tolerance_ppb = spec.verification.tolerance_ppb
        verdict = compute_verdict(measurement, tolerance_ppb)
        if verdict is not Verdict.OK:
            await self._content.check_intact(used)
            await self._content.check_intact([rows_id], trusted_seconds=ROWS_INTACT_SECONDS)
        reason = None if verdict is Verdict.OK else describe_fault(measurement, tolerance_ppb)
        work.note_check(attempt.id, index, CheckedGradient(verdict, measurement, reason))
        if verdict is not Verdict.OK:
            _log.warning(
                "gradient failed the check",
                task=task.task_id,
                round=attempt.id.round_number,
                miner=to_hex(record.miner),
                verdict=verdict.name.lower(),
                distance_ppb=measurement.distance_ppb,
            )

    def get_reveals(self, attempt: Attempt) -> AttemptReveals:
        """What is known of an attempt's reveals."""
        return self._known.get(attempt)

    async def prepare_input(self, task: ServedTask, attempt: Attempt, index: int) -> JsonObject:
        """An accepted gradient, which is held from now on, as the aggregation worker is told of it.

        Raises:
            UnavailableError: The gradient cannot be fetched yet.
            StorageError: The disk refused a reveal.
        """
        record, known = attempt.commitments[index], self._known.get(attempt)
        header = self._build_header(task, attempt, record.miner)
        if index not in known.opened:
            await self._look_for_reveals(task, attempt)
        reveal = known.opened.get(index)
        if reveal is None:
            raise UnavailableError(f"no reveal of {to_hex(record.miner)}")
        payload_bytes = count_payload_bytes(header.parameter_count)
        need = Need(task.task_id, attempt.id, attempt.ballot_number)
        await self._content.ensure(reveal.gradient_root, payload_bytes, need)
        file = self._content.get_file(reveal.gradient_root)
        return {**file, "units": record.units, "miner": record.miner.hex()}

    def get_root(self, attempt: Attempt, index: int) -> Hash32:
        """The content id of a gradient whose reveal is held.

        Raises:
            UnavailableError: The reveal is not held.
        """
        reveal = self._known.get(attempt).opened.get(index)
        if reveal is None:
            raise UnavailableError(f"no reveal of {to_hex(attempt.commitments[index].miner)}")
        return reveal.gradient_root

    def describe_place(self, task: ServedTask, attempt: Attempt) -> JsonObject:
        """What the headers of all gradients of an attempt share, as workers are told of it."""
        header = self._build_header(task, attempt, Address(bytes(20)))
        return {
            "round": attempt.id.round_number,
            "chain_id": header.chain_id,
            "seed": header.seed.hex(),
            "theta_root": header.theta_root.hex(),
            "task": attempt.id.task_id,
            "attempt": attempt.id.attempt_number,
        }

    def save_checks(self, task: ServedTask, attempt: Attempt, verdicts: Sequence[Verdict]) -> None:
        """Write the checks of an attempt to its file, for the receipts that JSON-RPC shows.

        Args:
            task: The task.
            attempt: The attempt.
            verdicts: The verdict on each commitment, also on those that were not checked.
        """
        rows: dict[str, Mapping[str, object]] = {}
        for i, record in enumerate(attempt.commitments):
            check = task.work.find_check(attempt.id, i) or CheckedGradient(
                verdicts[i], reason=self._describe_lack(task, attempt, i)
            )
            measurement = check.measurement
            rows[to_hex(record.miner)] = {
                "verdict": check.verdict.name.lower(),
                "distancePpb": None if measurement is None else measurement.distance_ppb,
                "exponents": None if measurement is None else measurement.exponents.value,
                "reason": None if check.reason is None else check.reason[:REASON_LIMIT],
            }
        get_checks_path(self._directory, attempt.id).write_text(json.dumps(rows))

    def _describe_lack(self, task: ServedTask, attempt: Attempt, index: int) -> str:
        """What was missing when the verdict on a gradient was due."""
        known = self._known.get(attempt)
        if index not in known.opened:
            return "not received in time: no reveal"
        if index not in known.held:
            return "not received in time: the reveal came, but the gradient could not be fetched"
        if not task.work.can_check:
            return "received, but this validator cannot check gradients of this task"
        return "received, but this validator had no time to check it"

    # The description of an attempt.

    def _describe(self, spec: TaskSpec, attempt: Attempt) -> AttemptDescription:
        key = (attempt.id, attempt.open_block)
        known = self._descriptions.get(key)
        if known is None:
            mix_hash = self._contracts.mix_hash_after(attempt.open_block)
            known = describe_attempt(attempt.id, spec, chain_id=self._chain_id, mix_hash=mix_hash)
            self._descriptions[key] = known
        return known

    def _get_assignment(self, task: ServedTask, attempt: Attempt) -> Assignment:
        work = task.work
        if attempt.id not in work.assignments:
            participants = self._contracts.participants(
                task.task_id, attempt.open_block, attempt.ordinal
            )
            work.assignments = {attempt.id: self._describe(task.spec, attempt).assign(participants)}
        return work.assignments[attempt.id]

    def _build_header(self, task: ServedTask, attempt: Attempt, miner: Address) -> GradientHeader:
        return self._describe(task.spec, attempt).build_header(miner, attempt.theta_root)

    # Reveals.

    async def find_reveals(self, task: ServedTask, attempt: Attempt) -> None:
        """Look for the reveals of an attempt that are not known yet, here and at peers.

        Raises:
            UnavailableError: Some are still missing.
            StorageError: The disk refused a reveal.
        """
        await self._look_for_reveals(task, attempt)
        missing = self._known.get(attempt).list_missing()
        if missing:
            raise UnavailableError(f"{len(missing)} reveals", wait_seconds=MISSING_SECONDS)

    async def _look_for_reveals(self, task: ServedTask, attempt: Attempt) -> None:
        work, known = task.work, self._known.get(attempt)
        header = self._build_header(task, attempt, Address(bytes(20)))
        async with work.asking:
            await self._known.read(known, header)
            now = trio.current_time()
            if len(known.opened) == len(attempt.commitments) or now < work.ask_again_at:
                return
            work.ask_again_at = now + RETRY_SECONDS
            for peer_id, reveals in await self._peers.fetch_reveals(attempt.id, known.liars):
                if not await self._open_all(known, reveals, header):
                    known.liars[peer_id] = None
                # Many peers may have sent a thousand each; consensus runs in the same thread.
                await trio.lowlevel.checkpoint()

    async def _open_all(
        self, known: AttemptReveals, reveals: Sequence[Reveal], header: GradientHeader
    ) -> bool:
        """Take note of what a peer sent, up to the first false reveal; False if there is one.

        So each peer can have one false reveal hashed in an attempt.

        Raises:
            StorageError: The disk refused.
        """
        for reveal in reveals:
            index = known.indices.get(reveal.miner)
            if index is None or index in known.opened:
                continue
            if not await self._open(known, reveal, header):
                return False
            await trio.lowlevel.checkpoint()
        return True

    async def _announce(self, reveal: Reveal) -> None:
        if reveal.gradient_root in self._announced:
            return
        self._announced[reveal.gradient_root] = None
        await self._peers.announce_reveal(reveal)

    # Re-execution.

    async def _measure(
        self,
        task: ServedTask,
        attempt: Attempt,
        index: int,
        header: GradientHeader,
        reveal: Reveal,
        rows_id: Hash32,
    ) -> Measurement:
        """The distance between the gradient and that which a verifier worker computes."""
        first, count = self._get_assignment(task, attempt).sample_range(header.miner)
        # A miner's gradients of two attempts may be checked at the same time.
        place = f"{attempt.id.task_id}-{attempt.id.round_number}-{attempt.id.attempt_number}"
        path = self._directory / f"{place}-{header.miner.hex()}{PARTIAL_SUFFIX}"
        inputs: JsonObject = {
            **self._rows.get_inputs(task, header.theta_root, rows_id),
            "payload": str(self._blobs.path(reveal.gradient_root)),
            "partial": str(path),
            "first": first,
            "count": count,
            "header": {**self.describe_place(task, attempt), "miner": header.miner.hex()},
        }
        turn = Turn(
            (attempt.id, "check"),
            task.work.get_promised_seconds(
                task.spec.reward.max_units * task.spec.resources.unit_milliseconds
            ),
            task.task_id,
            compute_rate(compute_promised_ppm(task.spec)),
            partial(_get_check_deadline, task, attempt.id),
            partial(self._is_judged, attempt.id),
            # All validators check in the order of the chain. So if there is not time for all, most
            # of the gradients that are checked have a quorum.
            index,
        )
        answer: JsonObject = {"done": 0}
        try:
            while "done" in answer:
                done = get_integer(answer, "done")
                answer = await self._verifier.ask("verify", {**inputs, "done": done}, turn)
                turn = replace(turn, is_begun=True)
                if "done" in answer and get_integer(answer, "done") <= done:
                    raise WorkerFailedError("the check makes no progress")
        finally:
            path.unlink(missing_ok=True)
        distance, exponents = get_integer(answer, "distance_ppb"), answer.get("exponents")
        if exponents not in tuple(ExponentRule):
            raise WorkerFailedError(f"exponents are {exponents!r}")
        noise_ppb = get_integer(answer, "noise_ppb")
        return Measurement(distance, ExponentRule(str(exponents)), noise_ppb)

    def is_in_progress(self, attempt_id: AttemptId) -> bool:
        """Whether an attempt is still the latest of its task."""
        history = self._index.history(attempt_id.task_id)
        attempt = None if history is None else history.attempt
        return attempt is not None and attempt.id == attempt_id

    def _is_judged(self, attempt_id: AttemptId) -> bool:
        """Whether verdicts on an attempt still count, for its result or, late, for fines."""
        history, head = self._index.history(attempt_id.task_id), self._contracts.head_number()
        return self.is_in_progress(attempt_id) or any(
            each.attempt_id == attempt_id and head < each.late_until
            for each in (() if history is None else history.ended)
        )

    def _build_need(self, attempt: Attempt) -> Need:
        """The reason for which a check of an attempt fetches blobs."""
        is_live = self.is_in_progress(attempt.id)
        return Need(attempt.id.task_id, attempt.id if is_live else None)


def _get_check_deadline(task: ServedTask, attempt_id: AttemptId) -> float:
    """When the verdicts of the ballot in progress are posted, by trio's clock.

    It has passed if only a late verdict can follow: such checks come after those of rounds in
    progress.
    """
    seen = task.work.seen
    if seen is None or seen.attempt_id != attempt_id:
        return -math.inf
    return task.work.due_at - task.spec.phases.verdict_seconds // 4


def describe_fault(measurement: Measurement, tolerance_ppb: int) -> str:
    """Why a re-executed gradient is not ok: its distance, or the exponent rule."""
    faults = []
    if measurement.distance_ppb > tolerance_ppb:
        faults.append(
            f"distance {measurement.distance_ppb} ppb, the tolerance is {tolerance_ppb} ppb"
        )
    if measurement.exponents is not ExponentRule.KEPT:
        faults.append(f"the exponent rule is {measurement.exponents.value.replace('_', ' ')}")
    return "; ".join(faults)


def _refuse(miner: Address, problem: str) -> CheckedGradient:
    """The check of a malformed gradient, which counts as missing."""
    _log.warning("gradient malformed", miner=to_hex(miner), reason=problem)
    return CheckedGradient(Verdict.MISSING, reason=f"malformed: {problem}")
