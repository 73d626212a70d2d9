"""What a validator does for tasks, with the chain, the worker and the peers played here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.crypto import content_id
from chain.execution import system_contracts
from chain.execution.system_contracts import (
    GRADIENT_LEDGER,
    TASK_REGISTRY,
    AttemptOpened,
    GradientCommitted,
    ResultVote,
    RoundSettled,
)
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.training.acceptance import Verdict, encode_verdicts
from chain.training.architectures import count_parameters
from chain.training.assignment import compute_seed
from chain.training.encoding import GradientHeader, compute_commitment, encode_gradient
from chain.training.history import SettledRound, TaskHistory, apply_event
from chain.training.optimizer import initial_state
from chain.training.rounds import Phase
from chain.training.state import compute_model_root, compute_part_ids, compute_state_root
from chain.training.task_spec import Shard, TaskSpec, TaskTerms, terms
from node import training_host
from node.blobs import BlobStore
from node.reveals import Reveal, RevealStore
from node.state_parts import StatePartStore
from node.training_host import Operator, TrainingHost
from node.verifier import VerifierFailed, VerifierRefused
from tests.chain.training.history_factory import (
    COMMITTEE,
    MINERS,
    OPERATORS,
    TASK,
    at,
    history_after,
    result,
    verdict,
)
from tests.chain.training.training_factory import SPEC as SMALL
from tests.chain.training.training_factory import random_gradient
from tests.node.consensus_cluster import run_thread_inline, until

CHAIN_ID = 99
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
OK, BAD, CHEAT, UNAVAILABLE = Verdict
HONEST = {"distance_ppb": 4, "exponents": "kept"}


@pytest.fixture(autouse=True)
def inline_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio.to_thread, "run_sync", run_thread_inline)


def header_of(miner: Address) -> GradientHeader:
    return GradientHeader(
        parameter_count=SIZE,
        round_number=0,
        chain_id=CHAIN_ID,
        theta_root=SPEC.initial_weights,
        seed=compute_seed(SEED_BLOCK_HASH, TASK, 0, 0),
        miner=miner,
        task=TASK,
        attempt=0,
    )


PAYLOADS = tuple(
    encode_gradient(header_of(miner), random_gradient(i, SIZE)) for i, miner in enumerate(MINERS)
)
REVEALS = tuple(
    Reveal(TASK, 0, 0, miner, 1, SALT, content_id(payload))
    for miner, payload in zip(MINERS, PAYLOADS, strict=True)
)


def committed(reveal: Reveal, index: int) -> GradientCommitted:
    commitment = compute_commitment(header_of(reveal.miner), reveal.gradient_root, SALT, 1)
    return GradientCommitted(TASK, 0, reveal.miner, 0, index, 1, commitment)


OPENED = AttemptOpened(TASK, 0, 0, 3, 10**19)
COMMITTED = tuple(committed(reveal, i) for i, reveal in enumerate(REVEALS))


@dataclass
class Clock:
    ahead_seconds: int = 0

    def now_ms(self) -> int:
        return (NOW + self.ahead_seconds) * 1000 + int(trio.current_time() * 1000)


@dataclass
class FakeChain:
    """Index and ledger: what the final chain says."""

    histories: dict[TaskId, TaskHistory]
    phase_now: Phase = Phase.VERDICT
    head: int = 100
    settled: dict[int, SettledRound] = field(default_factory=dict)
    reverts: str | None = None
    phase_calls: int = 0
    committee = COMMITTEE

    def task_count(self) -> int:
        return len(self.histories)

    def history(self, task_id: TaskId) -> TaskHistory:
        return self.histories[task_id]

    def spec(self, _history: TaskHistory) -> TaskSpec:
        return SPEC

    def settled_round(self, _task_id: TaskId, round_number: int) -> SettledRound | None:
        return self.settled.get(round_number)

    def head_number(self) -> BlockNumber:
        return BlockNumber(self.head)

    def phase(self, _task_id: TaskId) -> tuple[Phase, int]:
        self.phase_calls += 1
        return self.phase_now, NOW + SPEC.phases.verdict_seconds

    def terms(self, _task_id: TaskId) -> TaskTerms:
        return terms(SPEC)

    def participants(self, _task_id: TaskId, _open: BlockNumber) -> tuple[tuple[Address, int], ...]:
        return tuple((miner, 1) for miner in MINERS)

    def mix_hash_after(self, _number: BlockNumber) -> Hash32:
        return SEED_BLOCK_HASH

    def simulate(self, *_call: object) -> str | None:
        return self.reverts


@dataclass
class FakePeers:
    blobs: dict[Hash32, bytes] = field(default_factory=dict)
    reveals: list[Reveal] = field(default_factory=list)
    parts: dict[Hash32, tuple[Hash32, ...]] = field(default_factory=dict)
    announced: list[Reveal] = field(default_factory=list)
    asked: list[Hash32] = field(default_factory=list)
    reveals_asked: int = 0
    busy: int = 0
    busiest: int = 0
    store: BlobStore | None = None

    async def fetch_blob(self, blob_id: Hash32, size_limit: int) -> bool:
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

    async def fetch_reveals(self, *_place: int) -> Sequence[Reveal]:
        self.reveals_asked += 1
        await trio.sleep(0.01)
        return list(self.reveals)

    async def fetch_state_parts(self, root: Hash32) -> Sequence[Hash32] | None:
        await trio.sleep(0.01)
        return self.parts.get(root)

    async def announce_reveal(self, reveal: Reveal) -> None:
        await trio.lowlevel.checkpoint()
        self.announced.append(reveal)


@dataclass
class FakeVerifier:
    answers: Callable[[str, Mapping[str, object]], Mapping[str, object]]
    asked: list[str] = field(default_factory=list)

    async def warm_up(self) -> None:
        await trio.lowlevel.checkpoint()

    async def ask(self, kind: str, members: Mapping[str, object]) -> Mapping[str, object]:
        await trio.lowlevel.checkpoint()
        self.asked.append(kind)
        return self.answers(kind, members)


def honest_worker(kind: str, _members: Mapping[str, object]) -> Mapping[str, object]:
    match kind:
        case "dry_run":
            return {"parameter_count": SIZE}
        case "verify":
            return HONEST
        case _:
            return {"correct_count": 12, "loss_millinats": 345}


class Node:
    """A training host on a directory; built anew on the same one, it is a restart."""

    def __init__(
        self,
        path: Path,
        chain: FakeChain,
        *,
        has_content: bool = True,
        quota_bytes: int = 2**26,
    ) -> None:
        self.chain = chain
        self.path = path
        self.blobs = BlobStore(path / "blobs", quota_bytes=quota_bytes)
        self.reveals = RevealStore(path / "reveals")
        self.parts = StatePartStore(path / "parts")
        self.peers = FakePeers(store=self.blobs)
        self.verifier = FakeVerifier(honest_worker)
        self.clock = Clock()
        self.sent: list[tuple[Address, bytes]] = []
        if has_content:
            for data in (WEIGHTS, *SHARDS):
                self.blobs.put(data)
        self.host = TrainingHost(
            chain_id=CHAIN_ID,
            blob_bytes_per_second=10**9,
            index=chain,
            ledger=chain,
            blobs=self.blobs,
            reveals=self.reveals,
            state_parts=self.parts,
            verifier=self.verifier,
            peers=self.peers,
            operator=Operator(0, OPERATORS[0], self._send),
            clock=self.clock,
            directory=path / "training",
        )

    async def _send(self, contract: Address, data: bytes, _gas_limit: int) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append((contract, data))

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
        start = system_contracts.encode_post_verdict(TASK, 0, 0, 0, b"")[:4]
        return [data for _, data in self.sent if data[:4] == start]


def expected_verdict(*verdicts: Verdict) -> bytes:
    return system_contracts.encode_post_verdict(TASK, 0, 0, 0, encode_verdicts(verdicts))


def judging(count: int = 3) -> FakeChain:
    return FakeChain({TASK: history_after(OPENED, *COMMITTED[:count])})


async def test_content_that_peers_hold_is_fetched_tried_and_called_ready(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    history = replace(history_after(), status="pending")
    node = Node(tmp_path, FakeChain({TASK: history}), has_content=False)
    node.peers.blobs = {content_id(data): data for data in (WEIGHTS, *SHARDS)}

    await node.run(lambda: bool(node.sent))

    assert node.sent == [(TASK_REGISTRY, system_contracts.encode_post_ready(TASK))]
    assert node.verifier.asked == ["dry_run"]
    assert sorted(node.blobs.content_ids()) == sorted(node.peers.blobs)


async def test_revealed_gradients_are_checked_announced_and_judged(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, judging())
    node.hold(0, 1, 2)
    distances = {
        str(node.blobs.path(content_id(payload))): distance
        for payload, distance in zip(PAYLOADS, (4, 500_000, 500_000_000), strict=True)
    }
    node.verifier.answers = lambda kind, members: (
        {"distance_ppb": distances[str(members["payload"])], "exponents": "kept"}
        if kind == "verify"
        else honest_worker(kind, members)
    )

    await node.run(lambda: bool(node.verdicts()))

    assert node.verdicts() == [expected_verdict(OK, BAD, CHEAT)]
    assert sorted(node.peers.announced, key=lambda each: each.miner) == list(REVEALS)


async def test_a_late_reveal_is_judged_and_one_that_never_comes_is_unavailable(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, judging())
    node.hold(0)

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(3)
        assert node.verdicts() == [], "there is time yet"
        node.hold(1)
        node.host.wake()
        await trio.sleep(3)
        assert node.verdicts() == []
        node.clock.ahead_seconds = SPEC.phases.verdict_seconds * 3 // 4
        await until(lambda: bool(node.verdicts()))
        nursery.cancel_scope.cancel()

    assert node.verdicts() == [expected_verdict(OK, OK, UNAVAILABLE)]


async def test_a_reveal_that_does_not_open_its_commitment_hides_no_true_one(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, judging())
    lies = [replace(reveal, salt=Hash32(b"\x66" * 32)) for reveal in REVEALS]
    node.peers.blobs = {content_id(payload): payload for payload in PAYLOADS}

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(1)
        for lie in lies:
            node.host.on_announced_reveal(lie)
        await trio.sleep(1)
        # The liar answers first and last, and goes on announcing.
        node.peers.reveals = [*lies, *REVEALS, *lies]
        with trio.fail_after(5):
            while not node.verdicts():
                for lie in lies:
                    node.host.on_announced_reveal(lie)
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()

    assert node.verdicts() == [expected_verdict(OK, OK, OK)]
    assert node.reveals.list(TASK, 0, 0) == REVEALS


@pytest.mark.parametrize("reason", ["malformed", "content_mismatch", "too_large"])
async def test_what_the_node_gave_its_worker_is_not_the_miners_fault(
    autojump_clock: MockClock, tmp_path: Path, reason: str
) -> None:
    node = Node(tmp_path, judging())
    node.hold(0, 1, 2)
    refusals = 6

    def refuse_at_first(kind: str, members: Mapping[str, object]) -> Mapping[str, object]:
        nonlocal refusals
        if kind == "verify" and refusals:
            refusals -= 1
            raise VerifierRefused(reason, "theta is not 2400 bytes long")
        return honest_worker(kind, members)

    node.verifier.answers = refuse_at_first
    await node.run(lambda: bool(node.verdicts()))

    assert node.verdicts() == [expected_verdict(OK, OK, OK)]


async def test_a_malformed_gradient_counts_as_missing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, judging())
    node.hold(0, 1, 2)

    def refuse_second(kind: str, members: Mapping[str, object]) -> Mapping[str, object]:
        if kind == "verify" and content_id(PAYLOADS[1]).hex() in str(members["payload"]):
            raise VerifierRefused("bad_gradient", "a code is -128")
        return honest_worker(kind, members)

    node.verifier.answers = refuse_second
    await node.run(lambda: bool(node.verdicts()), seconds=5)

    assert node.verdicts() == [expected_verdict(OK, UNAVAILABLE, OK)]


async def test_a_committed_blob_of_another_length_counts_as_missing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    short = b"not a gradient"
    reveal = replace(REVEALS[0], gradient_root=content_id(short))
    history = history_after(OPENED, committed(reveal, 0))
    node = Node(tmp_path, FakeChain({TASK: history}))
    node.blobs.put(short)
    node.reveals.put(reveal)

    await node.run(lambda: bool(node.verdicts()), seconds=5)

    assert node.verdicts() == [expected_verdict(UNAVAILABLE)]
    assert node.verifier.asked == ["dry_run"]


@pytest.mark.parametrize("victim", [PAYLOADS[0], WEIGHTS, SHARDS[1]])
async def test_a_blob_that_our_disk_changed_is_fetched_again_before_anybody_is_blamed(
    autojump_clock: MockClock, tmp_path: Path, victim: bytes
) -> None:
    node = Node(tmp_path, judging(1))
    node.hold(0)
    node.peers.blobs = {content_id(victim): victim}
    path = node.blobs.path(content_id(victim))

    def measure(kind: str, members: Mapping[str, object]) -> Mapping[str, object]:
        if kind == "verify" and path.read_bytes() != victim:
            return {"distance_ppb": 10**9, "exponents": "broken_tenfold"}
        return honest_worker(kind, members)

    node.verifier.answers = measure
    async with trio.open_nursery() as nursery:
        await until(lambda: True)
        path.chmod(0o600)
        path.write_bytes(bytes([victim[0] ^ 1]) + victim[1:])
        await nursery.start(node.host.run)
        await until(lambda: bool(node.verdicts()), seconds=10)
        nursery.cancel_scope.cancel()

    assert node.verdicts() == [expected_verdict(OK)]
    assert path.read_bytes() == victim


async def test_a_worker_that_fails_is_asked_again(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, judging(1))
    node.hold(0)
    failures = iter([VerifierFailed("the worker ended"), VerifierFailed("no answer")])

    def fail_twice(kind: str, members: Mapping[str, object]) -> Mapping[str, object]:
        error = next(failures, None) if kind == "verify" else None
        if error is not None:
            raise error
        return honest_worker(kind, members)

    node.verifier.answers = fail_twice
    await node.run(lambda: bool(node.verdicts()), seconds=10)
    assert node.verdicts() == [expected_verdict(OK)]


async def test_a_restart_in_the_middle_of_a_round_loses_no_duty(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    before = Node(tmp_path, judging())
    before.hold(0, 1)
    await before.run(lambda: before.verifier.asked.count("verify") == 2)
    assert before.verdicts() == []

    after = Node(tmp_path, before.chain)
    after.hold(2)
    await after.run(lambda: bool(after.verdicts()))
    assert after.verdicts() == [expected_verdict(OK, OK, OK)]


def with_results(history: TaskHistory, *events: object) -> TaskHistory:
    for number, event in enumerate(events, 20):
        history, _ = apply_event(history, event, at(number), spec=SPEC, committee=COMMITTEE)
    return history


async def test_the_result_is_that_of_every_other_validator(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    judged = with_results(judging().histories[TASK], *(verdict(i, OK, OK, BAD) for i in range(4)))
    votes = []
    for name, holding in (("holder", True), ("fetcher", False)):
        node = Node(tmp_path / name, FakeChain({TASK: judged}, Phase.RESULT))
        if holding:
            node.hold(0, 1)
        else:
            node.peers.reveals = list(REVEALS)
            node.peers.blobs = {content_id(payload): payload for payload in PAYLOADS}
        await node.run(lambda node=node: bool(node.sent))
        votes.append(node.sent[0])
    assert votes[0] == votes[1]
    assert votes[0][0] == GRADIENT_LEDGER


async def test_a_model_that_cannot_be_evaluated_still_has_a_result(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    judged = with_results(judging().histories[TASK], *(verdict(i, OK, OK, OK) for i in range(4)))
    node = Node(tmp_path, FakeChain({TASK: judged}, Phase.RESULT))
    node.hold(0, 1, 2)

    def refuse(kind: str, members: Mapping[str, object]) -> Mapping[str, object]:
        if kind == "evaluate":
            raise VerifierRefused("content_mismatch", "a shard")
        return honest_worker(kind, members)

    node.verifier.answers = refuse
    await node.run(lambda: bool(node.sent))
    start = system_contracts.encode_post_result(TASK, 0, 0, 0, VOTE, None, 0)[:4]
    assert [data[:4] for _, data in node.sent] == [start]


VOTE = ResultVote(Hash32(b"\x01" * 32), Hash32(b"\x02" * 32), Hash32(b"\x03" * 32), 2)


async def test_the_state_of_a_settled_round_is_restored_from_peers(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    state = initial_state(SPEC.optimizer, WEIGHTS)
    part_ids = compute_part_ids(state)
    root = compute_state_root(part_ids)
    history = replace(
        history_after(),
        rounds_settled=1,
        training_state_root=root,
        model_root=compute_model_root(state),
    )
    opened = AttemptOpened(TASK, 1, 0, 3, 10**19)
    history, _ = apply_event(history, opened, at(50), spec=SPEC, committee=COMMITTEE)
    node = Node(tmp_path, FakeChain({TASK: history}, Phase.COMMITMENT))
    node.chain.settled = {0: settled_round(0, OK, OK, OK)}
    node.peers.parts = {root: (Hash32(bytes(32)), *part_ids[1:])}

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(3)
        assert node.host.get_state_parts(root) is None, "these parts are not the root's"
        node.peers.parts = {root: part_ids}
        node.peers.blobs = {content_id(bytes(part)): bytes(part) for part in state.parts}
        await until(lambda: node.host.get_state_parts(root) == part_ids, seconds=10)
        nursery.cancel_scope.cancel()


def settled_round(round_number: int, *verdicts: Verdict) -> SettledRound:
    events = [verdict(i, *verdicts) for i in range(4)]
    results = [result(i, VOTE) for i in range(3)]
    history = with_results(judging().histories[TASK], *events, *results)
    over = RoundSettled(TASK, 0, 0, 0, VOTE, 0)
    _, settled = apply_event(history, over, at(90), spec=SPEC, committee=COMMITTEE)
    assert settled is not None
    return replace(
        settled,
        attempt=replace(settled.attempt, round_number=round_number, ballot_number=round_number + 1),
    )


def slashing_chain(head: int, rounds_settled: int, **settled: SettledRound) -> FakeChain:
    history = replace(history_after(), rounds_settled=rounds_settled)
    by_number = {int(name[1:]): each for name, each in settled.items()}
    quiet = {n: settled_round(n, OK, OK, OK) for n in range(rounds_settled) if n not in by_number}
    return FakeChain({TASK: history}, Phase.WAITING, head, {**quiet, **by_number})


async def test_cheats_are_slashed_when_it_is_our_turn(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    # Round 1: operator 1 first, and operator 0 three turns of two blocks after block 90.
    chain = slashing_chain(95, 2, r1=settled_round(1, OK, CHEAT, UNAVAILABLE))
    node = Node(tmp_path, chain)

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(3)
        assert node.sent == []
        chain.head = 96
        await until(lambda: len(node.sent) == 2)
        await trio.sleep(3)
        assert len(node.sent) == 2, "they are on their way"
        chain.reverts = "LedgerAlreadySlashed"
        chain.head = 103
        await trio.sleep(3)
        nursery.cancel_scope.cancel()
    assert len(node.sent) == 2
    assert {contract for contract, _ in node.sent} == {GRADIENT_LEDGER}


async def test_evidence_that_the_ledger_forgot_is_shown_to_nobody(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    old = slashing_chain(200, 6, r1=settled_round(1, OK, CHEAT, OK))
    node = Node(tmp_path / "old", old)
    await node.run_for(3)
    assert node.sent == []

    young = slashing_chain(200, 6, r2=settled_round(2, OK, CHEAT, OK))
    other = Node(tmp_path / "young", young)
    await other.run(lambda: len(other.sent) == 1)


# What strangers can do.


async def test_a_thousand_tasks_whose_content_nobody_has_cost_little(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    pending = replace(history_after(), status="pending")
    histories = {TaskId(n): replace(pending, task_id=TaskId(n)) for n in range(1, 1_001)}
    chain = FakeChain(histories)
    node = Node(tmp_path, chain, has_content=False)

    await node.run_for(20)

    # Each was looked at and asked for a few times, and a few at once.
    assert node.peers.busiest == training_host.PREPARING_LIMIT
    assert 1_000 <= len(node.peers.asked) <= 6_000
    assert chain.phase_calls <= 6_000


async def test_no_more_tasks_are_called_ready_than_can_be_served(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_host, "SERVED_TASKS_LIMIT", 2)
    monkeypatch.setattr(training_host, "PREPARING_LIMIT", 1)
    pending = replace(history_after(), status="pending")
    chain = FakeChain({TaskId(n): replace(pending, task_id=TaskId(n)) for n in range(1, 9)})
    node = Node(tmp_path, chain)

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(60)
        ready = {data for _, data in node.sent}
        assert len(ready) == 2
        for task_id in list(chain.histories)[:2]:
            chain.histories[task_id] = replace(chain.histories[task_id], status="closed")
        await trio.sleep(60)
        assert len({data for _, data in node.sent}) == 4
        nursery.cancel_scope.cancel()


async def test_a_refused_task_is_not_looked_at_again(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    pending = replace(history_after(), status="pending")
    chain = FakeChain({TASK: pending})
    node = Node(tmp_path, chain)

    def refuse(_kind: str, _members: Mapping[str, object]) -> Mapping[str, object]:
        raise VerifierRefused("bad_spec", "too large")

    node.verifier.answers = refuse
    await node.run_for(20)
    assert node.verifier.asked == ["dry_run"]
    assert chain.phase_calls <= 3


async def test_a_task_too_large_for_the_quota_is_refused_before_anything_is_fetched(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    size = len(WEIGHTS) + sum(len(shard) for shard in SHARDS)
    for name, quota_bytes, is_taken in (("large", 8 * size, True), ("small", 8 * size - 8, False)):
        chain = FakeChain({TASK: replace(history_after(), status="pending")})
        node = Node(tmp_path / name, chain, has_content=False, quota_bytes=quota_bytes)
        node.peers.blobs = {content_id(data): data for data in (WEIGHTS, *SHARDS)}
        await node.run_for(20)
        assert node.blobs.has(content_id(WEIGHTS)) == is_taken
        assert bool(node.sent) == is_taken


async def test_a_flood_of_announcements_neither_grows_nor_wakes_anything(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, judging(1))
    node.hold(0)

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await until(lambda: bool(node.verdicts()))
        await trio.sleep(1)
        calls = node.chain.phase_calls
        for number in range(20_000):
            elsewhere = replace(REVEALS[0], task_id=TaskId(number % 7), round_number=5)
            node.host.on_announced_reveal(elsewhere)
            if number % 100 == 0:
                await trio.sleep(0.001)
        assert node.chain.phase_calls - calls <= 3
        for number in range(10_000):
            miner = Address(number.to_bytes(20, "big"))
            node.host.on_announced_reveal(replace(REVEALS[0], miner=miner))
        assert len(node.host._hints) == training_host.HINT_LIMIT
        nursery.cancel_scope.cancel()


async def test_peers_are_asked_for_reveals_once_for_all_miners(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, judging())
    node.peers.reveals = list(REVEALS)
    node.peers.blobs = {content_id(payload): payload for payload in PAYLOADS}
    await node.run(lambda: bool(node.verdicts()))
    assert node.peers.reveals_asked == 1


async def test_what_is_remembered_of_votes_and_jobs_does_not_grow_with_rounds(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_host, "REMEMBERED_LIMIT", 8)
    chain = FakeChain({TASK: history_after()}, Phase.STALLED)
    node = Node(tmp_path, chain)

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        for round_number in range(40):
            chain.head += 3
            opened = AttemptOpened(TASK, 0, round_number, 3, 10**19)
            history, _ = apply_event(
                history_after(), opened, at(50), spec=SPEC, committee=COMMITTEE
            )
            chain.histories = {TASK: history}
            node.host.wake()
            await trio.sleep(1)
        assert len(node.sent) == 40
        (work,) = node.host._work.values()
        assert len(work.sent) <= 3
        assert len(node.host._retry_at) <= 8
        nursery.cancel_scope.cancel()
