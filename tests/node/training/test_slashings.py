"""An operator votes on fines, imposes them in its turn, gives late verdicts, and ends seats."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.contracts import gradient_ledger, miner_seats
from chain.contracts.task_registry import TaskStatus
from chain.primitives import BlockNumber
from chain.training.acceptance import Verdict, encode_verdicts
from chain.training.attempt_records import ApprovedFines
from chain.training.slashing import build_fine_tree, compute_fines
from tests.worlds.training import MINERS, TASK, VALIDATORS, at
from tests.worlds.training_node import (
    CHAIN_ID,
    CHEAT,
    HONEST,
    MISSING,
    OK,
    UNCHECKED,
    Node,
    ended_attempt,
    fining_chain,
    judging,
)
from tests.worlds.waiting import until

pytestmark = pytest.mark.usefixtures("inline_threads")
GUILTY = ended_attempt(*[(OK, CHEAT, MISSING)] * 4)
TREE = build_fine_tree(CHAIN_ID, TASK, 1, compute_fines(GUILTY, is_closing=False))
VOTE = miner_seats.post_fines(TASK, 1, TREE.root)
SLASH = miner_seats.slash(TASK, 1, [TREE.prove(0), TREE.prove(1)])
APPROVED = replace(
    GUILTY,
    approved=(ApprovedFines(TREE.root, False, BlockNumber(92)),),
    fines_votes=((VALIDATORS[0], False),),
)


async def test_fines_are_voted_on_at_once_and_not_twice(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = Node(tmp_path, fining_chain(90, GUILTY))
    await node.run_for(3)
    assert node.sent == [VOTE]
    voted = Node(tmp_path, fining_chain(90, replace(APPROVED, approved=())))
    await voted.run_for(3)
    assert voted.sent == []


async def test_approved_fines_are_imposed_when_it_is_our_turn(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    # Round 0: operator 0 is the first. It comes last if the round is 1.
    later = replace(GUILTY.attempt, id=replace(GUILTY.attempt.id, round_number=1))
    chain = fining_chain(97, replace(APPROVED, attempt=later))
    node = Node(tmp_path, chain)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(3)
        assert node.sent == []
        chain.head = 98
        await until(lambda: node.sent == [SLASH])
        await trio.sleep(3)
        assert node.sent == [SLASH], "a call that waits for a block is not repeated"
        chain.reverts = "SeatsNothingToFine"
        chain.head = 120
        await trio.sleep(3)
        nursery.cancel_scope.cancel()
    assert node.sent == [SLASH]


async def test_fines_of_the_last_attempt_are_imposed_after_the_task_is_closed(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    chain = fining_chain(95, APPROVED)
    over = replace(chain.histories[TASK], status=TaskStatus.CLOSED, closed=at(90))
    chain.histories[TASK] = over
    node = Node(tmp_path / "in time", chain)
    await node.run(lambda: node.sent == [SLASH])

    chain.head = APPROVED.slashed_until
    late = Node(tmp_path / "late", chain)
    await late.run_for(3)
    assert late.sent == []
    assert late.host._work == {}


def late_call(*verdicts: Verdict) -> object:
    return gradient_ledger.post_late_verdict(TASK, 1, encode_verdicts(verdicts))


async def test_validator_that_was_shut_out_gives_its_verdicts_late(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    # Validator 0 is silent, and its cheat would convict the second miner.
    others = [(), (OK, CHEAT, OK), (OK, CHEAT, OK), (OK, UNCHECKED, OK)]
    ended = ended_attempt((OK, UNCHECKED, OK), *others[1:3], (OK, UNCHECKED, OK))
    node = Node(tmp_path, fining_chain(91, ended))
    node.hold(0, 1, 2)
    node.verifier.answers = lambda kind, _members: (
        {**HONEST, "distance_ppb": 10**9} if kind == "verify" else {}
    )
    node.host._work.clear()
    await node.run(lambda: len(node.sent) == 1)
    assert node.sent == [late_call(UNCHECKED, CHEAT, UNCHECKED)]
    assert node.verifier.asked.count("verify") == 1, "only what is accused is checked"


async def test_no_late_verdict_is_given_on_a_gradient_that_cannot_be_had(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    ended = ended_attempt((OK, UNCHECKED, OK), (OK, CHEAT, OK), (OK, CHEAT, OK))
    node = Node(tmp_path, fining_chain(91, ended))
    await node.run_for(3)
    assert node.sent == []


async def test_seats_that_are_over_are_ended_in_turn_and_once_an_attempt(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    chain = judging()
    chain.seats_over = MINERS[:2]
    node = Node(tmp_path, chain)
    end = miner_seats.end_seats(TASK, MINERS[:2])
    await node.run(lambda: end in node.sent)
    chain.seats_over = ()
    other = Node(tmp_path, chain)
    await other.run_for(3)
    assert end not in other.sent
    assert other.host._work[TASK].seats_checked == 1
