"""Operators take turns in slashing guilty miners."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.contracts.addresses import GRADIENT_LEDGER
from chain.contracts.task_registry import TaskStatus
from tests.worlds.training import TASK, at
from tests.worlds.training_node import (
    CHEAT,
    MISSING,
    OK,
    Node,
    settled_round,
    slashing_chain,
)
from tests.worlds.waiting import until

pytestmark = pytest.mark.usefixtures("inline_threads")


async def test_cheats_are_slashed_when_it_is_our_turn(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    # Round 1: operator 1 first, and operator 0 three turns of two blocks after block 90.
    chain = slashing_chain(95, 2, r1=settled_round(1, OK, CHEAT, MISSING))
    node = Node(tmp_path, chain)

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(3)
        assert node.sent == []
        chain.head = 96
        await until(lambda: len(node.sent) == 2)
        await trio.sleep(3)
        assert len(node.sent) == 2, "sent votes are not repeated at once"
        chain.reverts = "LedgerAlreadySlashed"
        chain.head = 103
        await trio.sleep(3)
        nursery.cancel_scope.cancel()
    assert len(node.sent) == 2
    assert {call.to for call in node.sent} == {GRADIENT_LEDGER}


async def test_cheats_of_last_round_are_slashed_after_task_is_closed(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    chain = slashing_chain(96, 2, r1=settled_round(1, OK, CHEAT, OK))
    over = replace(chain.histories[TASK], status=TaskStatus.CLOSED, closed=at(90))
    chain.histories[TASK] = over
    node = Node(tmp_path / "in time", chain)
    await node.run(lambda: len(node.sent) == 1)

    chain.head = 90 + 17
    late = Node(tmp_path / "late", chain)
    await late.run_for(3)
    assert late.sent == []
    assert late.host._work == {}


async def test_no_slash_is_sent_after_the_ledger_dropped_the_evidence(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    old = slashing_chain(200, 6, r1=settled_round(1, OK, CHEAT, OK))
    node = Node(tmp_path / "old", old)
    await node.run_for(3)
    assert node.sent == []

    young = slashing_chain(200, 6, r2=settled_round(2, OK, CHEAT, OK))
    other = Node(tmp_path / "young", young)
    await other.run(lambda: len(other.sent) == 1)
