"""Finding, opening and judging committed gradients (docs/spec/training.md, 3 to 5 and 10)."""

import json
from array import array
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog
import trio
from cachetools import FIFOCache

from chain.errors import RejectionReason
from chain.hexadecimal import to_hex
from chain.primitives import Address, Hash32
from chain.training.acceptance import ExponentRule, Measurement, Verdict, compute_verdict
from chain.training.assignment import Assignment
from chain.training.attempt import AttemptId
from chain.training.attempt_description import AttemptDescription, describe_attempt
from chain.training.encoding import GradientHeader, count_payload_bytes
from chain.training.history import Attempt, CommitmentRecord, get_theta_root
from chain.training.reveal import Reveal
from chain.training.state import FLOAT32_BYTES
from node.chain.contract_reader import ContractReader
from node.storage.blobs import BlobStore
from node.training.checks import get_checks_path
from node.training.content import Content, get_integer, list_shard_ids
from node.training.jobs import RETRY_SECONDS
from node.training.reveal_store import RevealStore
from node.training.work import CheckedGradient, ServedTask, TrainingPeers, UnavailableError
from node.training.worker_pool import WorkerFailedError, WorkerPool, WorkerRefusedError

HINT_LIMIT: Final = 4_096
"""The most announced reveals that are remembered until their commitments are checked."""

ANNOUNCED_LIMIT: Final = 4_096
"""The most gradients that are remembered as announced. A forgotten one is announced again."""

_log = structlog.get_logger("node.training")


class Gradients:
    """Checks the gradients of commitments; the verdicts are kept in the task's work."""

    def __init__(
        self,
        *,
        chain_id: int,
        contracts: ContractReader,
        blobs: BlobStore,
        content: Content,
        reveals: RevealStore,
        verifier: WorkerPool,
        peers: TrainingPeers,
        directory: Path,
    ) -> None:
        self._chain_id = chain_id
        self._contracts = contracts
        self._blobs = blobs
        self._content = content
        self._reveals = reveals
        self._verifier = verifier
        self._peers = peers
        self._directory = directory
        self._hints: FIFOCache[tuple[AttemptId, Address], Reveal] = FIFOCache(HINT_LIMIT)
        self._announced: FIFOCache[Hash32, None] = FIFOCache(ANNOUNCED_LIMIT)

    def remember(self, reveal: Reveal) -> None:
        """Remember a reveal that a peer announced until its commitment is checked."""
        self._hints[reveal.attempt_id, reveal.miner] = reveal

    async def check(self, task: ServedTask, attempt: Attempt, index: int) -> None:
        """Judge the gradient of one commitment.

        Raises:
            UnavailableError: The gradient, or content to check it with, cannot be fetched yet.
            WorkerFailedError: The worker died or took too long.
            WorkerRefusedError: The worker refused what this node gave it.
        """
        spec, work = task.spec, task.work
        record = attempt.commitments[index]
        key = (attempt.id, index)
        header = self._build_header(task, attempt, record.miner)
        reveal = await self._find_reveal(task, attempt, record, header)
        payload_bytes = count_payload_bytes(header.parameter_count)
        await self._content.ensure(reveal.gradient_root, payload_bytes)
        if self._content.get_size(reveal.gradient_root) != payload_bytes:
            _log.warning("gradient malformed", miner=to_hex(record.miner), reason="wrong length")
            work.checks[key] = CheckedGradient(Verdict.MISSING)
            return
        await self._content.ensure(header.theta_root, FLOAT32_BYTES * header.parameter_count)
        await self._content.ensure_shards(spec)
        await self._announce(reveal)
        try:
            measurement = await self._measure(task, attempt, index, header, reveal)
        except WorkerRefusedError as refusal:
            if refusal.reason != RejectionReason.BAD_GRADIENT:
                raise  # the fault is in what this node gave the worker, not in the gradient
            await self._content.check_intact([reveal.gradient_root, header.theta_root])
            # No other bytes open the commitment, so there is no gradient to wait for.
            _log.warning("gradient malformed", miner=to_hex(record.miner), reason=str(refusal))
            work.checks[key] = CheckedGradient(Verdict.MISSING)
            return
        verdict = compute_verdict(measurement, spec.verification.tolerance_ppb)
        if verdict is not Verdict.OK:
            used = [reveal.gradient_root, header.theta_root, *list_shard_ids(spec)]
            await self._content.check_intact(used)
        work.checks[key] = CheckedGradient(verdict, measurement)
        if verdict is not Verdict.OK:
            _log.warning(
                "gradient failed the check",
                task=task.task_id,
                round=attempt.id.round_number,
                miner=to_hex(record.miner),
                verdict=verdict.name.lower(),
                distance_ppb=measurement.distance_ppb,
            )

    def is_held(self, task: ServedTask, attempt: Attempt, index: int) -> bool:
        """Whether this node holds all bytes that it needs to check a commitment."""
        record = attempt.commitments[index]
        reveal = self._reveals.get(attempt.id, record.miner)
        header = self._build_header(task, attempt, record.miner)
        if reveal is None or not reveal.opens(record.commitment, header):
            return False
        needed = [reveal.gradient_root, header.theta_root, *list_shard_ids(task.spec)]
        return all(self._blobs.has(content_id) for content_id in needed)

    async def read_payload(
        self, task: ServedTask, attempt: Attempt, index: int
    ) -> tuple[int, bytes, GradientHeader]:
        """The units, the payload and the expected header of an accepted commitment.

        Raises:
            UnavailableError: The gradient cannot be fetched yet.
        """
        record = attempt.commitments[index]
        header = self._build_header(task, attempt, record.miner)
        reveal = await self._find_reveal(task, attempt, record, header)
        payload_bytes = count_payload_bytes(header.parameter_count)
        await self._content.ensure(reveal.gradient_root, payload_bytes)
        return record.units, await self._content.read(reveal.gradient_root), header

    def save_checks(self, task: ServedTask, attempt: Attempt) -> None:
        """Write the checks of an attempt to its file, for the receipts that JSON-RPC shows."""
        rows: dict[str, Mapping[str, object]] = {}
        for i, record in enumerate(attempt.commitments):
            check = task.work.checks.get((attempt.id, i))
            if check is not None:
                measurement = check.measurement
                rows[to_hex(record.miner)] = {
                    "verdict": check.verdict.name.lower(),
                    "distancePpb": None if measurement is None else measurement.distance_ppb,
                    "exponents": None if measurement is None else measurement.exponents.value,
                }
        get_checks_path(self._directory, attempt.id).write_text(json.dumps(rows))

    # The description of an attempt.

    def _describe(self, task: ServedTask, attempt: Attempt) -> AttemptDescription:
        mix_hash = self._contracts.mix_hash_after(attempt.open_block)
        return describe_attempt(attempt.id, task.spec, chain_id=self._chain_id, mix_hash=mix_hash)

    def _get_assignment(self, task: ServedTask, attempt: Attempt) -> Assignment:
        work = task.work
        if attempt.id not in work.assignments:
            participants = self._contracts.participants(task.task_id, attempt.open_block)
            work.assignments = {attempt.id: self._describe(task, attempt).assign(participants)}
        return work.assignments[attempt.id]

    def _build_header(self, task: ServedTask, attempt: Attempt, miner: Address) -> GradientHeader:
        theta_root = get_theta_root(task.history, task.spec)
        return self._describe(task, attempt).build_header(miner, theta_root)

    # Reveals.

    async def _find_reveal(
        self, task: ServedTask, attempt: Attempt, record: CommitmentRecord, header: GradientHeader
    ) -> Reveal:
        work, miner, commitment = task.work, record.miner, record.commitment
        held = self._reveals.get(attempt.id, miner)
        if held is not None and held.opens(commitment, header):
            return held
        async with work.asking:
            hint = self._hints.get((attempt.id, miner))
            found = [] if hint is None else [hint]
            is_open = hint is not None and hint.opens(commitment, header)
            if not is_open and trio.current_time() >= work.ask_again_at:
                work.ask_again_at = trio.current_time() + RETRY_SECONDS
                commitments = {each.miner: each.commitment for each in attempt.commitments}
                for reveal in await self._peers.fetch_reveals(attempt.id):
                    if reveal.miner == miner:
                        found.append(reveal)
                    elif reveal.miner in commitments and reveal.opens(
                        commitments[reveal.miner], replace(header, miner=reveal.miner)
                    ):
                        self._reveals.put(reveal)
        for reveal in found:
            if reveal.miner == miner and reveal.opens(commitment, header):
                self._hints.pop((attempt.id, miner), None)
                self._reveals.put(reveal)
                return reveal
        raise UnavailableError(f"no reveal of {to_hex(miner)}")

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
    ) -> Measurement:
        """The distance between the gradient and that which a verifier worker computes."""
        name = f"{task.task_id}-{attempt.id.round_number}-{index}.indices"
        indices_path = self._directory / name
        assignment = self._get_assignment(task, attempt)
        indices = await trio.to_thread.run_sync(assignment.sample_indices, header.miner)
        indices_path.write_bytes(array("Q", indices).tobytes())
        inputs = self._content.get_inputs(task, header.theta_root)
        inputs["payload"] = str(self._blobs.path(reveal.gradient_root))
        inputs["indices"] = str(indices_path)
        inputs["header"] = {
            "round": attempt.id.round_number,
            "chain_id": header.chain_id,
            "seed": header.seed.hex(),
            "miner": header.miner.hex(),
            "task": attempt.id.task_id,
            "attempt": attempt.id.attempt_number,
        }
        try:
            answer = await self._verifier.ask("verify", inputs)
        finally:
            indices_path.unlink(missing_ok=True)
        distance, exponents = get_integer(answer, "distance_ppb"), answer.get("exponents")
        if exponents not in tuple(ExponentRule):
            raise WorkerFailedError(f"exponents are {exponents!r}")
        return Measurement(distance, ExponentRule(str(exponents)))
