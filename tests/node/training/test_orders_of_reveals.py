"""A validator votes in every attempt, in whatever order commitments, reveals and restarts come.

Every order of a few events is played. The validator's own preparation is one of the events: it
lists no checks before its dry run, or before it has restored the state, and reveals come meanwhile.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.contracts.gradient_ledger import Phase
from chain.crypto import content_id
from node.training.turns import Turn
from tests.worlds.training import history_after
from tests.worlds.training_node import (
    COMMITTED,
    OK,
    OPENED,
    PAYLOADS,
    REVEALS,
    SPEC,
    TASK,
    UNCHECKED,
    FakeChain,
    FakeWorker,
    Members,
    Node,
    expected_verdict,
    honest_worker,
    judging,
)
from tests.worlds.waiting import until

pytestmark = pytest.mark.usefixtures("inline_threads")

GAP_SECONDS = 1.5
"""The time between two events. The store is read about once a second while a reveal is missing."""

EVENTS = (
    ("commit", "announce", "restart", "prepare"),
    ("commit", "announce", "store", "restart", "prepare"),
)
"""Of an attempt with one commitment, whose reveal is announced, and of one with two. The RPC
process stores the second reveal, and the node process does not hear of it."""

ORDERS = [order for events in EVENTS for order in permutations(events)]


def is_revealed(order: tuple[str, ...]) -> bool:
    """Whether all that is to be held late in the phase has come by then."""
    revealing = [order.index(each) for each in ("commit", "announce", "store") if each in order]
    return order.index("late") > max(revealing)


LATE_ORDERS = [
    order for events in EVENTS for order in permutations((*events, "late")) if is_revealed(order)
]


class GatedWorker(FakeWorker):
    """A worker whose dry runs wait for the event "prepare"."""

    def __init__(self) -> None:
        super().__init__(honest_worker)
        self.may_begin = trio.Event()

    async def work(self, kind: str, members: Members, turn: Turn, limit: float) -> Members:
        await self.may_begin.wait()
        return await super().work(kind, members, turn, limit)


@dataclass
class Story:
    """One node on one directory, and the events of an attempt."""

    path: Path
    commitment_count: int
    chain: FakeChain = field(
        default_factory=lambda: FakeChain(
            {TASK: history_after(OPENED, spec=SPEC)}, phase_now=Phase.COMMITMENT
        )
    )
    check_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.dry_runs = GatedWorker()
        self.node = self._build()

    def _build(self) -> Node:
        checks = FakeWorker(honest_worker, seconds=self.check_seconds)
        return Node(self.path, self.chain, verifier=checks, dry_runs=self.dry_runs)

    async def play(self, order: tuple[str, ...], is_over: Callable[[], bool]) -> None:
        """Let one event follow the other, and then wait for an end."""
        while order:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.node.host.run)
                await trio.sleep(GAP_SECONDS)
                while order and order[0] != "restart":
                    self._do(order[0])
                    order = order[1:]
                    await trio.sleep(GAP_SECONDS)
                if not order:
                    with trio.move_on_after(5):
                        await until(is_over)
                nursery.cancel_scope.cancel()
            if order:
                order = order[1:] or ("nothing",)
                peers, clock = self.node.peers, self.node.clock
                self.node = self._build()
                peers.store = self.node.blobs
                self.node.peers.blobs, self.node.peers.reveals = peers.blobs, peers.reveals
                self.node.clock.ahead_seconds = clock.ahead_seconds

    def _do(self, event: str) -> None:
        node, chain = self.node, self.chain
        match event:
            case "commit":
                chain.histories[TASK] = history_after(
                    OPENED, *COMMITTED[: self.commitment_count], spec=SPEC
                )
                chain.phase_now = Phase.VERDICT
                chain.head += 1
                node.host.on_new_head([TASK])
            case "announce":
                node.peers.blobs[content_id(PAYLOADS[0])] = PAYLOADS[0]
                node.peers.reveals.append(REVEALS[0])
                node.served.on_announced_reveal(REVEALS[0])
            case "store":
                node.hold(1)
                node.host.on_blob()
            case "prepare":
                self.dry_runs.may_begin.set()
            case "late":
                node.clock.ahead_seconds = SPEC.phases.verdict_seconds * 3 // 4
            case _:
                assert event == "nothing"


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
async def test_validator_votes_whatever_comes_first(
    autojump_clock: MockClock, tmp_path: Path, order: tuple[str, ...]
) -> None:
    count = 2 if "store" in order else 1
    story = Story(tmp_path, count)
    await story.play(order, lambda: bool(story.node.verdicts()))
    assert story.node.verdicts()[:1] == [expected_verdict(*[OK] * count)]


@pytest.mark.parametrize("order", LATE_ORDERS, ids="-".join)
async def test_validator_without_time_says_unchecked_of_all_it_holds(
    autojump_clock: MockClock, tmp_path: Path, order: tuple[str, ...]
) -> None:
    count = 2 if "store" in order else 1
    story = Story(tmp_path, count, check_seconds=1_000)
    await story.play(order, lambda: bool(story.node.verdicts()))
    assert story.node.verdicts()[:1] == [expected_verdict(*[UNCHECKED] * count)]


async def test_gradients_that_come_before_the_verdict_phase_are_voted_on(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Miners may reveal as soon as their commitments are final."""
    chain = judging()
    chain.phase_now = Phase.COMMITMENT
    node = Node(tmp_path, chain)
    node.peers.blobs = {content_id(payload): payload for payload in PAYLOADS}
    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(1)
        for reveal in REVEALS:
            node.served.on_announced_reveal(reveal)
        await trio.sleep(1)
        chain.phase_now = Phase.VERDICT
        node.host.on_new_head([TASK])
        await until(lambda: bool(node.verdicts()), seconds=5)
        nursery.cancel_scope.cancel()
    assert node.verdicts()[:1] == [expected_verdict(OK, OK, OK)]


async def test_attempt_without_commitments_gets_a_verdict(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """The phase begins so if the last miners that were expected lose their seats."""
    node = Node(tmp_path, FakeChain({TASK: history_after(OPENED, spec=SPEC)}))
    await node.run(lambda: bool(node.verdicts()), seconds=10)
    assert node.verdicts()[:1] == [expected_verdict()]
