"""The verdict on each committed gradient."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.contracts.gradient_ledger import Deadline, Phase
from chain.crypto import content_id
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.training.attempt import AttemptId
from chain.training.encoding import GradientHeader
from chain.training.reveal import Reveal
from node.chain.phase_cache import TaskPhase
from node.network.stream import PeerId
from node.training.checks import load_check
from node.training.known_reveals import AttemptReveals
from node.training.reveal_hints import HINT_LIMIT
from node.training.turns import Turn, Turns
from node.training.worker_pool import WorkerRefusedError
from tests.worlds.training import (
    MINERS,
    TASK,
    history_after,
)
from tests.worlds.training_node import (
    ATTEMPT,
    BAD,
    CHEAT,
    HONEST,
    MISSING,
    NOW,
    OK,
    OPENED,
    PAYLOADS,
    REVEALS,
    SPEC,
    FakeChain,
    FakeWorker,
    Members,
    Node,
    committed,
    expected_verdict,
    honest_worker,
    judging,
)
from tests.worlds.waiting import until

pytestmark = pytest.mark.usefixtures("inline_threads")


def refuse_second(kind: str, members: Members) -> Members:
    """A worker's answers, to which the second gradient is malformed."""
    if kind == "verify" and content_id(PAYLOADS[1]).hex() in str(members["payload"]):
        raise WorkerRefusedError("bad_gradient", "a code is -128")
    return honest_worker(kind, members)


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
        {**HONEST, "distance_ppb": distances[str(members["payload"])]}
        if kind == "verify"
        else honest_worker(kind, members)
    )

    await node.run(lambda: bool(node.verdicts()))

    assert node.verdicts() == [expected_verdict(OK, BAD, CHEAT)]
    assert sorted(node.peers.announced, key=lambda each: each.miner) == list(REVEALS)


async def test_late_reveal_is_judged_and_an_absent_one_is_missing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, judging())
    node.hold(0)

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(3)
        assert node.verdicts() == [], "the phase is not nearly over"
        node.hold(1)
        node.host.wake()
        await trio.sleep(3)
        assert node.verdicts() == []
        node.clock.ahead_seconds = SPEC.phases.verdict_seconds * 3 // 4
        await until(lambda: bool(node.verdicts()))
        nursery.cancel_scope.cancel()

    assert node.verdicts() == [expected_verdict(OK, OK, MISSING)]


async def test_false_reveal_does_not_displace_the_true_one(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, judging())
    lies = [replace(reveal, salt=Hash32(b"\x66" * 32)) for reveal in REVEALS]
    node.peers.blobs = {content_id(payload): payload for payload in PAYLOADS}

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(1)
        for lie in lies:
            node.served.on_announced_reveal(lie)
        await trio.sleep(1)
        # The false reveals come first and last, and go on being announced.
        node.peers.reveals = [*lies, *REVEALS, *lies]
        with trio.fail_after(5):
            while not node.verdicts():
                for lie in lies:
                    node.served.on_announced_reveal(lie)
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()

    assert node.verdicts() == [expected_verdict(OK, OK, OK)]
    assert node.reveals.list(ATTEMPT) == REVEALS


async def test_each_peer_has_one_false_reveal_of_an_attempt_hashed(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A miner that never reveals has validators ask for its reveal again and again."""
    node = Node(tmp_path, judging())
    hashed = []
    find = AttemptReveals.find

    def count(known: AttemptReveals, reveal: Reveal, header: GradientHeader) -> int | None:
        hashed.append(reveal)
        return find(known, reveal, header)

    monkeypatch.setattr(AttemptReveals, "find", count)
    lies = [replace(REVEALS[0], salt=Hash32(bytes([number]) * 32)) for number in range(100)]
    node.peers.answers = {PeerId(f"liar {number}"): lies for number in range(8)}
    # The true reveals come last.
    node.peers.answers[PeerId("honest")] = list(REVEALS[1:])
    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    assert node.peers.reveals_asked > 10
    assert hashed == [*lies[:1] * 8, *REVEALS[1:]]
    assert node.reveals.list(ATTEMPT) == REVEALS[1:]


@pytest.mark.parametrize("reason", ["malformed", "content_mismatch", "too_large"])
async def test_bad_input_to_worker_is_not_blamed_on_the_miner(
    autojump_clock: MockClock, tmp_path: Path, reason: str
) -> None:
    node = Node(tmp_path, judging())
    node.hold(0, 1, 2)
    refusals = 6

    def refuse_at_first(kind: str, members: Mapping[str, object]) -> Mapping[str, object]:
        nonlocal refusals
        if kind == "verify" and refusals:
            refusals -= 1
            raise WorkerRefusedError(reason, "theta is not 2400 bytes long")
        return honest_worker(kind, members)

    node.verifier.answers = refuse_at_first
    await node.run(lambda: bool(node.verdicts()))

    assert node.verdicts() == [expected_verdict(OK, OK, OK)]


async def test_a_malformed_gradient_counts_as_missing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, judging())
    node.hold(0, 1, 2)

    node.verifier.answers = refuse_second
    await node.run(lambda: bool(node.verdicts()), seconds=5)

    assert node.verdicts() == [expected_verdict(OK, MISSING, OK)]


async def test_a_committed_blob_of_another_length_counts_as_missing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    short = b"not a gradient"
    reveal = replace(REVEALS[0], gradient_root=content_id(short))
    history = history_after(OPENED, committed(reveal, 0), spec=SPEC)
    node = Node(tmp_path, FakeChain({TASK: history}))
    node.blobs.put(short)
    node.reveals.put(reveal)

    await node.run(lambda: bool(node.verdicts()), seconds=5)

    assert node.verdicts() == [expected_verdict(MISSING)]
    assert node.verifier.asked == ["dry_run"]


async def test_reason_for_refusing_a_gradient_is_kept_for_receipts(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, judging())
    node.hold(0, 1)

    node.verifier.answers = refuse_second
    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(3)
        node.clock.ahead_seconds = SPEC.phases.verdict_seconds * 3 // 4
        await until(lambda: bool(node.verdicts()))
        nursery.cancel_scope.cancel()

    checks = [load_check(tmp_path / "training", ATTEMPT, miner) for miner in MINERS[:3]]
    assert [check and check.reason for check in checks] == [
        None,
        "malformed: bad_gradient: a code is -128",
        "not received in time: no reveal",
    ]


async def test_long_check_is_asked_for_in_parts(autojump_clock: MockClock, tmp_path: Path) -> None:
    node = Node(tmp_path, judging(1))
    node.hold(0)
    asked: list[object] = []

    def check_in_parts(kind: str, members: Mapping[str, object]) -> Mapping[str, object]:
        if kind != "verify":
            return honest_worker(kind, members)
        asked.append(members["done"])
        Path(str(members["partial"])).write_bytes(b"sums")
        return HONEST if members["done"] == 5 else {"done": len(asked) + 2}

    node.verifier.answers = check_in_parts
    await node.run(lambda: bool(node.verdicts()))

    assert asked == [0, 3, 4, 5]
    assert node.verdicts() == [expected_verdict(OK)]
    assert not any(path.name.endswith(".partial") for path in node.path.glob("training/*"))


class Piecework(FakeWorker):
    """One worker that takes pieces by the node's turns; each check takes three of a second."""

    def __init__(self) -> None:
        super().__init__(honest_worker)
        self.shared_turns = Turns(1)
        self.checked: list[str] = []
        """The miner of each piece, in order."""

    async def work(self, kind: str, members: Members, turn: Turn, limit: float) -> Members:
        async with self.shared_turns.take(turn):
            if kind != "verify":
                return await super().work(kind, members, turn, limit)
            await trio.sleep(1)
        self.checked.append(str(members["header"]["miner"]))
        done = int(str(members["done"])) + 1
        _save_sums(members)
        return HONEST if done == 3 else {"done": done}


def _save_sums(members: Mapping[str, object]) -> None:
    Path(str(members["partial"])).write_bytes(b"sums")


async def test_overloaded_attempt_has_one_gradient_checked_after_another(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    worker = Piecework()
    node = Node(tmp_path, judging(3), verifier=worker, dry_runs=worker)
    node.hold(2, 0, 1)
    await node.run(lambda: len(worker.checked) == 9)
    # The first piece may be of any gradient, for all are asked for at the same moment.
    first = worker.checked[0]
    miners = [first, *(miner.hex() for miner in MINERS if miner.hex() != first)]
    assert worker.checked == [miner for miner in miners for _ in range(3)]


async def test_sums_of_one_gradient_are_on_disk_in_whatever_order_gradients_come(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    worker = Piecework()
    node = Node(tmp_path, judging(3), verifier=worker, dry_runs=worker)
    most = 0

    def is_over() -> bool:
        nonlocal most
        most = max(most, sum(1 for _ in tmp_path.glob("training/*.partial")))
        return len(worker.checked) == 9

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        for index in (2, 1, 0):
            node.hold(index)
            node.host.on_blob()
            # The last reveal is found a second before the first check is over.
            await trio.sleep(0.9)
        await until(is_over)
        nursery.cancel_scope.cancel()

    assert most == 1
    assert worker.checked[::3] == [MINERS[index].hex() for index in (2, 0, 1)]


class LastingChain(FakeChain):
    """The verdict phase of each ballot takes six seconds, from the end of the ballot before."""

    def phase(self, task_id: TaskId) -> TaskPhase:
        attempt = self.histories[task_id].attempt
        assert attempt is not None
        return Phase.VERDICT, Deadline(BlockNumber(0), NOW + 6 * (1 + attempt.ballot))


async def test_check_in_progress_has_the_deadline_of_the_further_ballot(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    chain = LastingChain(judging(1).histories)
    turns: list[Turn] = []

    class EndlessWorker(FakeWorker):
        async def work(self, kind: str, members: Members, turn: Turn, limit: float) -> Members:
            if kind != "verify":
                return await super().work(kind, members, turn, limit)
            turns.append(turn)
            await trio.sleep_forever()
            return {}

    worker = EndlessWorker(honest_worker)
    node = Node(tmp_path, chain, verifier=worker, dry_runs=worker)
    node.hold(0)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await until(lambda: bool(turns))
        (turn,) = turns
        left = 6 - SPEC.phases.verdict_seconds // 4
        assert turn.get_deadline() - start == pytest.approx(left, abs=1)
        history = chain.histories[TASK]
        assert history.attempt is not None
        attempt = replace(history.attempt, ballot=1, ballot_number=2)
        chain.histories[TASK] = replace(history, attempt=attempt)
        node.host.on_new_head([TASK])
        await trio.sleep(1)
        assert turn.get_deadline() - start == pytest.approx(6 + left, abs=1)
        nursery.cancel_scope.cancel()


async def test_check_that_makes_no_progress_is_begun_again(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, judging(1))
    node.hold(0)
    asked: list[object] = []

    def stand_still(kind: str, members: Mapping[str, object]) -> Mapping[str, object]:
        if kind != "verify":
            return honest_worker(kind, members)
        asked.append(members["done"])
        return HONEST if len(asked) == 4 else {"done": 3}

    node.verifier.answers = stand_still
    await node.run(lambda: bool(node.verdicts()))

    assert asked == [0, 3, 0, 3]


async def test_flood_of_announcements_neither_grows_memory_nor_wakes_host(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, judging(1))
    node.hold(0)

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await until(lambda: bool(node.verdicts()))
        await trio.sleep(1)
        calls, read = node.chain.phase_calls, node.chain.histories_read
        for number in range(20_000):
            elsewhere = replace(REVEALS[0], attempt_id=AttemptId(TaskId(2 + number % 7), 5, 0))
            node.served.on_announced_reveal(elsewhere)
            if number % 100 == 0:
                await trio.sleep(0.001)
        assert node.chain.phase_calls - calls <= 3
        assert node.chain.histories_read - read <= 3
        for number in range(10_000):
            miner = Address(number.to_bytes(20, "big"))
            node.served.on_announced_reveal(replace(REVEALS[0], miner=miner))
            if number % 100 == 0:
                await trio.sleep(0.001)
        await trio.sleep(0.001)
        assert len(node.host._gradients._hints) == HINT_LIMIT
        nursery.cancel_scope.cancel()


async def test_peers_are_asked_for_reveals_once_for_all_miners(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, judging())
    node.peers.reveals = list(REVEALS)
    node.peers.blobs = {content_id(payload): payload for payload in PAYLOADS}
    await node.run(lambda: bool(node.verdicts()))
    assert node.peers.reveals_asked == 1


async def test_announced_gradient_is_fetched_and_relayed_at_once(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, judging(), has_content=False)
    node.peers.blobs = {content_id(payload): payload for payload in PAYLOADS}

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(1)  # before its first look at the chain the node knows of no task
        node.served.on_announced_reveal(replace(REVEALS[1], salt=Hash32(b"\x66" * 32)))
        node.served.on_announced_reveal(REVEALS[0])
        await until(lambda: bool(node.peers.announced), seconds=5)
        nursery.cancel_scope.cancel()

    assert node.peers.announced == [REVEALS[0]]
    assert node.reveals.list(ATTEMPT) == (REVEALS[0],)
    assert node.blobs.has(content_id(PAYLOADS[0]))
    assert not node.blobs.has(content_id(PAYLOADS[1])), "the false reveal opens no commitment"


async def test_false_reveals_displace_no_reveal_that_is_a_block_ahead(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    chain = FakeChain({TASK: history_after(OPENED, spec=SPEC)})
    node = Node(tmp_path, chain, has_content=False)
    node.peers.blobs = {content_id(payload): payload for payload in PAYLOADS}
    lies = [
        replace(REVEALS[0], salt=Hash32(b"\x66" * 32)),
        replace(REVEALS[0], gradient_root=Hash32(b"\x66" * 32)),
    ]

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(1)
        for reveal in (*lies, REVEALS[0], *lies):
            node.served.on_announced_reveal(reveal)
        await trio.sleep(1)
        assert node.peers.announced == []
        chain.histories[TASK] = judging().histories[TASK]
        chain.head += 1
        node.host.on_new_head([TASK])
        await until(lambda: bool(node.peers.announced), seconds=1)
        nursery.cancel_scope.cancel()

    assert node.peers.announced == [REVEALS[0]]
    assert node.reveals.list(ATTEMPT) == (REVEALS[0],)


async def test_announced_reveal_is_stored_before_its_gradient_comes(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, judging(), has_content=False)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(1)
        node.served.on_announced_reveal(REVEALS[0])
        await until(lambda: REVEALS[0].gradient_root in node.peers.asked)
        # What a peer sends of it is then deleted with the attempt.
        assert node.reveals.list(ATTEMPT) == (REVEALS[0],)
        nursery.cancel_scope.cancel()
    assert not node.blobs.has(REVEALS[0].gradient_root)
    assert node.peers.announced == []


@pytest.mark.parametrize("is_announced", [False, True])
async def test_reveal_of_a_held_blob_that_is_no_gradient_is_not_stored(
    autojump_clock: MockClock, tmp_path: Path, is_announced: bool
) -> None:
    shard = SPEC.data.shards[0].content_id
    named = replace(REVEALS[0], gradient_root=shard)
    history = history_after(OPENED, committed(named, 0), spec=SPEC)
    node = Node(tmp_path, FakeChain({TASK: history}))
    if not is_announced:
        node.peers.reveals = [named]

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        if is_announced:
            await trio.sleep(1)
            node.served.on_announced_reveal(named)
            await trio.sleep(3)
        else:
            await until(lambda: bool(node.verdicts()))
            assert node.verdicts() == [expected_verdict(MISSING)]
        nursery.cancel_scope.cancel()
    assert node.reveals.list(ATTEMPT) == ()
    assert node.peers.announced == []
