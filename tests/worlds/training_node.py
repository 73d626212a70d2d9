"""A real training host; its chain, verifier and peers are fakes."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import trio
from eth_abi.abi import encode

from chain.contracts import gradient_ledger, task_registry
from chain.contracts.abi import ContractCall, ContractView
from chain.contracts.addresses import MINER_SEATS
from chain.contracts.gradient_ledger import (
    AttemptOpened,
    Deadline,
    GradientCommitted,
    Phase,
    ResultKind,
    ResultVote,
    RoundSettled,
)
from chain.contracts.task_registry import TaskResources, TaskStatus, TaskTerms
from chain.crypto import content_id
from chain.params import ChainParameters
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.training.acceptance import Verdict, encode_verdicts
from chain.training.architectures import count_parameters
from chain.training.assignment import compute_seed
from chain.training.attempt import AttemptId
from chain.training.attempt_records import EndedAttempt, build_mark
from chain.training.encoding import GradientHeader, compute_commitment, encode_gradient
from chain.training.history import SettledRound, TaskHistory, apply_event
from chain.training.resources import count_disk_bytes
from chain.training.reveal import Reveal
from chain.training.task_spec import (
    Shard,
    TaskSpec,
)
from chain.training.task_spec_codec import compute_terms
from node.chain.phase_cache import TaskPhase
from node.chain.training_index import ClosedTask, describe_closed
from node.network.stream import PeerId
from node.operator.account import Operator
from node.storage.blobs import BlobStore
from node.training import aggregation_worker
from node.training.host import TrainingHost
from node.training.reveal_store import RevealStore
from node.training.served_training import ServedTraining
from node.training.state_parts import StatePartStore
from node.training.turns import Turn
from node.training.worker_pool import WorkerFailedError, WorkerPool, Workers
from pot_common.worker import WorkerRequest
from tests.worlds.training import (
    GENESIS_SET,
    MINERS,
    OPERATORS,
    TASK,
    at,
    history_after,
    random_gradient,
    result,
    verdict,
)
from tests.worlds.training import SPEC as SMALL
from tests.worlds.waiting import until

T = TypeVar("T")
Members = Mapping[str, object]
"""The members of a request to a worker, or of its answer."""
CHAIN_ID = 99
ATTEMPT = AttemptId(TASK, 0, 0)
NOW = 1_700_000_000
SEED_BLOCK_HASH = Hash32(b"\x0d" * 32)
SALT = Hash32(b"\x5a" * 32)
SIZE = count_parameters(SMALL.model)
WEIGHTS = bytes(4 * SIZE)
SHARDS = (b"first shard" * 100, b"second shard" * 100)
SPEC = replace(
    SMALL,
    initial_weights=content_id(WEIGHTS),
    data=replace(
        SMALL.data,
        shards=tuple(Shard(content_id(data), len(data), 50) for data in SHARDS),
    ),
)
SPEC = replace(SPEC, resources=replace(SPEC.resources, disk_bytes=count_disk_bytes(SPEC)))
OK, BAD, CHEAT, MISSING, UNCHECKED = Verdict
MEASURED = {
    "parameter_count": SIZE,
    "unit_milliseconds": 3,
    "evaluation_milliseconds": 5,
    "noise_ppb": 4,
    "peak_bytes": 2**20,
}
HONEST = {"distance_ppb": 4, "exponents": "kept", "noise_ppb": 0}


def header_of(miner: Address) -> GradientHeader:
    return GradientHeader(
        attempt_id=ATTEMPT,
        parameter_count=SIZE,
        chain_id=CHAIN_ID,
        theta_root=SPEC.initial_weights,
        seed=compute_seed(SEED_BLOCK_HASH, ATTEMPT),
        miner=miner,
    )


PAYLOADS = tuple(
    encode_gradient(header_of(miner), random_gradient(i, SIZE)) for i, miner in enumerate(MINERS)
)
REVEALS = tuple(
    Reveal(ATTEMPT, miner, 1, SALT, content_id(payload))
    for miner, payload in zip(MINERS, PAYLOADS, strict=True)
)


def committed(reveal: Reveal, index: int) -> GradientCommitted:
    commitment = compute_commitment(header_of(reveal.miner), reveal.gradient_root, SALT, 1)
    return GradientCommitted(TASK, 0, reveal.miner, 0, index, 1, commitment)


OPENED = AttemptOpened(TASK, 0, 0, 1, 3, 10**19)
COMMITTED = tuple(committed(reveal, i) for i, reveal in enumerate(REVEALS))


@dataclass
class Clock:
    ahead_seconds: int = 0

    def now_ms(self) -> int:
        return (NOW + self.ahead_seconds) * 1000 + int(trio.current_time() * 1000)


@dataclass
class FakeChain:
    """The training index and the contracts; tests set the fields."""

    histories: dict[TaskId, TaskHistory]
    phase_now: Phase = Phase.VERDICT
    head: int = 100
    settled: dict[int, SettledRound] = field(default_factory=dict)
    fined: dict[int, EndedAttempt] = field(default_factory=dict)
    """The ended attempts of the histories, by ordinal."""
    ended_read: int = 0
    earned: dict[Address, int] = field(default_factory=dict)
    simulated: int = 0
    reverts: str | None = None
    phase_calls: int = 0
    histories_read: int = 0
    specs: dict[TaskId, TaskSpec] = field(default_factory=dict)
    """The specifications of tasks that differ from SPEC."""
    paid: dict[TaskId, TaskResources] = field(default_factory=dict)
    """The resources on the chain of tasks that have others than their specifications."""
    seats_over: tuple[Address, ...] = ()
    validator_set = GENESIS_SET

    def task_count(self) -> int:
        return len(self.histories)

    def open_tasks(self) -> dict[TaskId, TaskStatus]:
        return {k: each.status for k, each in self.histories.items() if not each.is_closed}

    def closed_tasks(self, since: BlockNumber) -> list[ClosedTask]:
        closed = [describe_closed(each) for each in self.histories.values() if each.is_closed]
        return [each for each in closed if each.block_number >= since]

    def history(self, task_id: TaskId) -> TaskHistory | None:
        self.histories_read += 1
        return self.histories.get(task_id)

    def spec(self, history: TaskHistory) -> TaskSpec:
        return self.specs.get(history.task_id, SPEC)

    def settled_round(self, _task_id: TaskId, round_number: int) -> SettledRound | None:
        return self.settled.get(round_number)

    def ended(self, _task_id: TaskId, ordinal: int) -> EndedAttempt | None:
        self.ended_read += 1
        return self.fined.get(ordinal)

    def set_ended(self, *ended: EndedAttempt) -> None:
        """Replace the ended attempts, all changed in the block at the head."""
        self.fined = {each.attempt.ordinal: each for each in ended}
        marks = tuple(build_mark(each, self.head_number()) for each in ended)
        self.histories[TASK] = replace(self.histories[TASK], ended=marks)

    def rewards(self, _task_id: TaskId) -> dict[Address, int]:
        return self.earned

    def has_more_rewards(self, _task_id: TaskId, count: int) -> bool:
        return len(self.earned) > count

    def head_number(self) -> BlockNumber:
        return BlockNumber(self.head)

    def phase(self, _task_id: TaskId) -> TaskPhase:
        self.phase_calls += 1
        phases = SPEC.phases
        is_result = self.phase_now is Phase.RESULT
        seconds = phases.result_seconds if is_result else phases.verdict_seconds
        return self.phase_now, Deadline(BlockNumber(0), NOW + seconds)

    def read(self, view: ContractView[T]) -> T:
        """The terms and resources of a task, for its preparation, or the seats that are over."""
        if view.to == MINER_SEATS:
            return view.decode(encode(["address[]"], [self.seats_over]))
        task_id = TaskId(int.from_bytes(view.data[-32:], "big"))
        assert task_id in self.histories
        spec = self.specs.get(task_id, SPEC)
        if view == task_registry.get_resources(task_id):
            resources = self.paid.get(task_id, spec.resources)
            return view.decode(encode_answer("getResources", resources))
        assert view == task_registry.get_terms(task_id)
        return view.decode(encode_answer("getTerms", compute_terms(spec)))

    def participants(
        self, _task_id: TaskId, _open: BlockNumber, _ordinal: int
    ) -> tuple[tuple[Address, int], ...]:
        return tuple((miner, 1) for miner in MINERS)

    def mix_hash_after(self, _number: BlockNumber) -> Hash32:
        return SEED_BLOCK_HASH

    def simulate(self, *_call: object) -> str | None:
        self.simulated += 1
        return self.reverts


@cache
def encode_answer(name: str, value: TaskResources | TaskTerms) -> bytes:
    return encode(task_registry.CONTRACT.abi.functions[name].outputs, [astuple(value)])


@dataclass
class FakePeers:
    blobs: dict[Hash32, bytes] = field(default_factory=dict)
    reveals: list[Reveal] = field(default_factory=list)
    answers: dict[PeerId, list[Reveal]] = field(default_factory=dict)
    """What some peers answer to the question for reveals."""
    parts: dict[Hash32, tuple[Hash32, ...]] = field(default_factory=dict)
    announced: list[Reveal] = field(default_factory=list)
    asked: list[Hash32] = field(default_factory=list)
    reveals_asked: int = 0
    busy: int = 0
    busiest: int = 0
    store: BlobStore | None = None

    async def fetch_blob(
        self, blob_id: Hash32, size_limit: int, *, is_urgent: bool, task_id: TaskId
    ) -> bool:
        self.asked.append(blob_id)
        self.busy += 1
        self.busiest = max(self.busy, self.busiest)
        await trio.sleep(0.01)
        self.busy -= 1
        data = self.blobs.get(blob_id)
        if data is None or len(data) > size_limit:
            return False
        assert self.store is not None
        self.store.put(data)
        return True

    async def fetch_reveals(
        self, _attempt_id: AttemptId, ignored: Container[PeerId]
    ) -> Sequence[tuple[PeerId, Sequence[Reveal]]]:
        """What the peers of `answers` say; each of the `reveals` is held by one more peer."""
        self.reveals_asked += 1
        await trio.sleep(0.01)
        holders = {PeerId(f"peer with {each}"): [each] for each in self.reveals}
        answers = {**self.answers, **holders}
        return [(peer_id, answers[peer_id]) for peer_id in answers if peer_id not in ignored]

    async def fetch_state_parts(self, root: Hash32) -> Sequence[Hash32] | None:
        await trio.sleep(0.01)
        return self.parts.get(root)

    async def announce_reveal(self, reveal: Reveal) -> None:
        await trio.lowlevel.checkpoint()
        self.announced.append(reveal)


@dataclass
class FakeWorker:
    answers: Callable[[str, Mapping[str, object]], Mapping[str, object]]
    asked: list[str] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    """The turns of what was asked."""
    timeout_seconds: float = 120.0
    count: int = 1
    seconds: float = 0
    """How long a check takes."""
    dry_run_seconds: float = 0
    patience: int = 1
    """How many times its limit a request may take by the clock."""

    async def warm_up(self) -> None:
        await trio.lowlevel.checkpoint()

    async def ask(
        self,
        kind: str,
        members: Mapping[str, object],
        turn: Turn,
        *,
        timeout_seconds: float = 120.0,
    ) -> Mapping[str, object]:
        return await self.work(kind, members, turn, timeout_seconds)

    async def work(self, kind: str, members: Members, turn: Turn, limit: float) -> Members:
        """What a subclass replaces that works in another way."""
        seconds = {"verify": self.seconds, "dry_run": self.dry_run_seconds}.get(kind, 0)
        limit_seconds = self.patience * limit
        await trio.sleep(min(seconds, limit_seconds))
        if seconds > limit_seconds:
            raise WorkerFailedError(f"no answer to {kind} in {limit} s")
        self.asked.append(kind)
        self.turns.append(turn)
        return self.answers(kind, members)


def honest_worker(kind: str, _members: Mapping[str, object]) -> Mapping[str, object]:
    match kind:
        case "dry_run":
            return MEASURED
        case "verify":
            return HONEST
        case _:
            return {"correct_count": 6, "row_count": 10, "loss_micronats": 3_450_000}


def aggregate_here(kind: str, members: Mapping[str, object]) -> Mapping[str, object]:
    """What the aggregation worker answers, computed in this process."""
    return aggregation_worker.answer(WorkerRequest({"kind": kind, **members}))


class Node:
    """A training host on a directory; a second one on the same directory is a restart."""

    def __init__(
        self,
        path: Path,
        chain: FakeChain,
        *,
        has_content: bool = True,
        quota_bytes: int = 2**26,
        verifier: WorkerPool | None = None,
        dry_runs: WorkerPool | None = None,
    ) -> None:
        assert (verifier is None) == (dry_runs is None)
        self.chain = chain
        self.path = path
        self.blobs = BlobStore(path / "blobs", quota_bytes=quota_bytes)
        self.reveals = RevealStore(path / "reveals")
        self.parts = StatePartStore(path / "parts")
        self.peers = FakePeers(store=self.blobs)
        self.verifier = FakeWorker(honest_worker)
        self.aggregator = FakeWorker(aggregate_here)
        self.clock = Clock()
        self.sent: list[ContractCall] = []
        if has_content:
            for data in (WEIGHTS, *SHARDS):
                self.blobs.put(data)
        self.served = ServedTraining(self.reveals, self.parts)
        self.host = TrainingHost(
            chain_id=CHAIN_ID,
            parameters=ChainParameters(phase_floor_blocks=4, blob_bytes_per_second=10**9),
            index=chain,
            contracts=chain,
            blobs=self.blobs,
            reveals=self.reveals,
            state_parts=self.parts,
            announced=self.served.announced,
            workers=Workers(
                checks=self.verifier if verifier is None else verifier,
                dry_runs=self.verifier if dry_runs is None else dry_runs,
                aggregator=self.aggregator,
            ),
            peers=self.peers,
            operator=Operator(OPERATORS[0], self._send),
            clock=self.clock,
            directory=path / "training",
        )

    async def _send(self, call: ContractCall, _gas_limit: int) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(call)

    def hold(self, *indices: int) -> None:
        for index in indices:
            self.blobs.put(PAYLOADS[index])
            self.reveals.put(REVEALS[index])

    async def run(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.host.run)
            await until(condition, seconds=seconds)
            nursery.cancel_scope.cancel()

    async def run_for(self, seconds: float) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.host.run)
            await trio.sleep(seconds)
            nursery.cancel_scope.cancel()

    def verdicts(self) -> list[bytes]:
        start = gradient_ledger.post_verdict(TASK, 0, 0, 0, b"").data[:4]
        return [call.data for call in self.sent if call.data[:4] == start]


def expected_verdict(*verdicts: Verdict) -> bytes:
    return gradient_ledger.post_verdict(TASK, 0, 0, 0, encode_verdicts(verdicts)).data


def judging(count: int = 3) -> FakeChain:
    return FakeChain({TASK: history_after(OPENED, *COMMITTED[:count], spec=SPEC)})


VOTE = ResultVote(
    Hash32(b"\x01" * 32),
    Hash32(b"\x02" * 32),
    Hash32(b"\x03" * 32),
    2,
    123,
    ResultKind.SETTLED,
    0b111,
)


def with_results(history: TaskHistory, *events: object) -> TaskHistory:
    for number, event in enumerate(events, 20):
        history = apply_event(
            history, event, at(number), spec=SPEC, validator_set=GENESIS_SET
        ).history
    return history


def settled_round(round_number: int, *verdicts: Verdict) -> SettledRound:
    events = [verdict(i, *verdicts) for i in range(4)]
    results = [result(i, VOTE) for i in range(3)]
    history = with_results(judging().histories[TASK], *events, *results)
    over = RoundSettled(TASK, 0, 0, 0, VOTE)
    settled = apply_event(history, over, at(90), spec=SPEC, validator_set=GENESIS_SET).settled
    assert settled is not None
    attempt_id = replace(settled.attempt.id, round_number=round_number)
    attempt = replace(settled.attempt, id=attempt_id, ballot_number=round_number + 1)
    return replace(settled, attempt=attempt)


def ended_attempt(*words: Sequence[Verdict], at_block: int = 90) -> EndedAttempt:
    """An attempt of three miners that ended after these verdicts of the first validators."""
    events = [verdict(i, *each) for i, each in enumerate(words)]
    results = [result(i, VOTE) for i in range(3)]
    history = with_results(judging().histories[TASK], *events, *results)
    over = RoundSettled(TASK, 0, 0, 0, VOTE)
    ended = apply_event(history, over, at(at_block), spec=SPEC, validator_set=GENESIS_SET).ended
    assert ended is not None
    return ended


def fining_chain(head: int, *ended: EndedAttempt) -> FakeChain:
    """A chain with a settled round, whose ended attempts may be fined."""
    history = replace(history_after(), rounds_settled=1)
    chain = FakeChain({TASK: history}, Phase.WAITING, head)
    chain.set_ended(*ended)
    return chain
