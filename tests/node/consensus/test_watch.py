"""What the watch of a consensus host counts, over hosts that run."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from chain.consensus.messages import MessageKind, decode_message, encode_message
from chain.crypto import keccak256
from chain.primitives import BlockNumber, Hash32
from node.consensus.watch import ConsensusWatch
from node.metrics.registry import NodeMetrics
from tests.node.consensus.test_host import _proposals, _signed_vote
from tests.worlds.cluster import (
    VALIDATORS,
    ClusterNode,
    VirtualClock,
    Wire,
    build_cluster,
    heads,
)
from tests.worlds.waiting import until

pytestmark = pytest.mark.usefixtures("inline_threads")


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[Wire]:
    wire = build_cluster(path)
    async with trio.open_nursery() as nursery:
        for node in wire.nodes:
            await nursery.start(node.run)
        yield wire
        nursery.cancel_scope.cancel()


def value(node: ClusterNode, name: str, **labels: str) -> float:
    """A sample of the node's metrics; 0 if there is none."""
    return node.metrics.registry.get_sample_value(name, labels) or 0.0


def by_validator(node: ClusterNode, name: str) -> list[float]:
    return [value(node, name, validator="0x" + each.hex()) for each in VALIDATORS]


async def test_every_step_of_every_block_is_timed_and_every_block_is_a_line(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    with capture_logs() as lines:
        async with running(tmp_path) as wire:
            await until(lambda: min(heads(wire.nodes)) >= 5)
            node = wire.nodes[0]
            count = node.store.head_number()
            for step in ("propose", "commit", "decide", "finalize"):
                timed = value(node, "pot_pbft_step_seconds_count", step=step)
                assert count - 2 <= timed <= count + 1, step
            assert value(node, "pot_chain_blocks_total") == count
            assert value(node, "pot_pbft_view_changes_total", cause="timeout") == 0
            works = ("build", "execute")
            executed = [value(node, "pot_execution_seconds_count", work=work) for work in works]
            assert sum(executed) >= count
    blocks = [line for line in lines if line["event"] == "block finalized"]
    (first, *_) = [line for line in blocks if line["number"] == 2]
    assert first["log_level"] == "info"
    assert (first["view"], first["transactions"], first["gas"]) == (0, 0, 0)
    assert 0.9 <= first["seconds"] <= 1.2


async def test_a_dead_primary_costs_a_view_with_its_cause(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    with capture_logs() as lines:
        async with running(tmp_path) as wire:
            await until(lambda: min(heads(wire.nodes)) >= 1)
            dead = wire.nodes[3]
            dead.kill()
            await until(lambda: min(heads(wire.nodes[:3])) >= 7)
            live = wire.nodes[:3]
            causes = {
                cause: sum(value(node, "pot_pbft_view_changes_total", cause=cause) for node in live)
                for cause in ("timeout", "jump", "new_view")
            }
            assert causes["timeout"] >= 1
            assert sum(causes.values()) % 3 == 0, "all three enter each view"
            for node in live:
                assert value(node, "pot_pbft_failed_views_total") >= 1
                assert node.host.watch.failed_views >= 1
                missed = by_validator(node, "pot_pbft_missed_commits_total")
                assert missed[3] >= 4
                assert value(node, "pot_pbft_missing_validators") >= 1
    entered = [line for line in lines if line["event"] == "view entered"]
    assert {line["cause"] for line in entered} >= {"timeout"}
    assert all(line["log_level"] == "warning" and line["view"] > 0 for line in entered)


async def test_late_commits_are_counted_and_forgeries_of_them_are_not(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with running(tmp_path) as wire:
        node, slow = wire.nodes[0], wire.nodes[2]
        held: list[bytes] = []

        def lose(sender: int, receiver: int, payload: bytes) -> bool:
            is_commit = payload[0] == MessageKind.COMMIT and (sender, receiver) == (2, 0)
            if is_commit:
                held.append(payload)
            return is_commit

        wire.lost = lose
        await until(lambda: bool(held))
        number = decode_message(held[0]).number
        await until(lambda: node.store.head_number() >= number)
        before = by_validator(node, "pot_pbft_late_commits_total")
        # Whose it is is not verified any more: passed on by another it counts for nobody.
        await node.host.handle_message(VALIDATORS[1], held[0])
        await node.host.handle_message(VALIDATORS[2], held[0])
        await node.host.handle_message(VALIDATORS[2], held[0])
        await until(lambda: by_validator(node, "pot_pbft_late_commits_total")[2] > before[2])
        await trio.sleep(0.1)
        assert node.host.watch.get_record(VALIDATORS[2]).voted_number >= number
        after = by_validator(node, "pot_pbft_late_commits_total")
        assert after[1] == before[1]
        assert after[2] == before[2] + 1
        assert slow.is_running


async def test_conflicting_votes_are_counted_by_author(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with running(tmp_path) as wire:
        node = wire.nodes[0]
        await until(lambda: min(heads(wire.nodes)) >= 1)
        number = node.host.state.config.number
        for text in (b"one", b"another"):
            digest = Hash32(keccak256(text))
            vote = _signed_vote(MessageKind.PREPARE, 1, number, digest, view=7)
            await node.host.handle_message(VALIDATORS[1], encode_message(vote))
        await until(lambda: by_validator(node, "pot_pbft_equivocations_total") == [0, 1, 0, 0])


async def test_a_clock_that_is_ahead_shows_in_its_proposals(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with running(tmp_path) as wire:
        wire.nodes[1].clock.ahead_ms = 30_000
        offsets = lambda node: [  # noqa: E731
            node.host.watch.get_record(each).clock_offset_seconds for each in VALIDATORS
        ]
        await until(lambda: (offsets(wire.nodes[0])[1] or 0) > 2)
        assert 29 <= offsets(wire.nodes[0])[1] <= 31
        await until(lambda: None not in offsets(wire.nodes[0])[2:])
        assert all(abs(each) <= 1 for each in offsets(wire.nodes[0])[2:])


@pytest.mark.parametrize(
    ("seconds_ago", "offset"),
    [
        (1, None),  # blocks of the same second have the same time
        (30, -29.5),
    ],
)
async def test_clock_that_is_behind_the_parent_shows_in_its_proposals(
    autojump_clock: MockClock, tmp_path: Path, seconds_ago: int, offset: float | None
) -> None:
    """Its primary repeats the time of the parent, which may be too old."""
    async with running(tmp_path) as wire:
        await until(lambda: min(heads(wire.nodes)) >= 2)
    proposal = next(m for m in _proposals(wire) if m.block.number == 2)
    header = proposal.block.header
    parent = replace(header, number=BlockNumber(1))
    clock = VirtualClock()
    clock.ahead_ms = 1_000 * (header.timestamp + seconds_ago) - clock.now_ms()
    watch = ConsensusWatch(NodeMetrics(), clock, lambda: parent)
    watch.on_message(header.coinbase, proposal)
    assert watch.get_record(header.coinbase).clock_offset_seconds == offset


async def test_who_was_heard_when_is_known(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with running(tmp_path) as wire:
        await until(lambda: min(heads(wire.nodes)) >= 3)
        wire.nodes[2].kill()
        killed_at = trio.current_time()
        await trio.sleep(8)
        watch = wire.nodes[0].host.watch
        gone, live = (watch.get_record(VALIDATORS[index]) for index in (2, 1))
        assert killed_at - 2 <= gone.heard_at <= killed_at + 0.1
        assert live.heard_at >= trio.current_time() - 2
        assert gone.voted_number < live.voted_number
        assert watch.seconds_since_head() < 10
