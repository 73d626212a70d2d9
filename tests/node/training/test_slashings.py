"""An operator votes on fines, imposes them in its turn, gives late verdicts, and ends seats."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chain.contracts import gradient_ledger, miner_seats
from chain.contracts.miner_seats import FineKind
from chain.contracts.task_registry import TaskStatus
from chain.primitives import BlockNumber
from chain.training.acceptance import Verdict, encode_verdicts
from chain.training.attempt import AttemptId
from chain.training.attempt_records import ApprovedFines, EndedAttempt
from chain.training.slashing import (
    FinePlan,
    FineTrees,
    build_fine_tree,
    build_fine_trees,
    compute_fines,
    plan_fines,
)
from node.training import slashings
from node.training.work import CheckedGradient, TaskWork
from tests.worlds.training import MINERS, TASK, VALIDATORS, at
from tests.worlds.training_node import (
    BAD,
    CHAIN_ID,
    CHEAT,
    HONEST,
    MISSING,
    OK,
    UNCHECKED,
    FakeChain,
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


async def test_closed_task_is_looked_at_only_when_its_fines_ask_for_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """A thousand of them, which no slot limits, took a tenth of the thread of consensus."""
    imposed = replace(
        APPROVED,
        imposed=tuple((fine.miner, fine.kind) for fine in TREE.fines),
        late_until=BlockNumber(200),
        voted_until=BlockNumber(300),
        slashed_until=BlockNumber(400),
    )
    chain = fining_chain(100, imposed)
    over = replace(chain.histories[TASK], status=TaskStatus.CLOSED, closed=at(90), attempt=None)
    chain.histories[TASK] = over
    node = Node(tmp_path, chain)
    looks = {}
    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await trio.sleep(5)
        for head in (191, 199, 200, 399, 400):
            before = chain.histories_read
            await pass_heads(node, chain, head - chain.head)
            looks[head] = chain.histories_read - before
        nursery.cancel_scope.cancel()
    assert node.host._work == {}
    # Late verdicts are in a hurry at 192; at 200 the attempt is read again, which is a job.
    assert looks == {191: 0, 199: 1, 200: 2, 399: 0, 400: 1}
    assert node.sent == []


def approved_attempt(ordinal: int) -> EndedAttempt:
    """An attempt of a round of its own, of which the fines are approved."""
    attempt_id = replace(GUILTY.attempt.id, round_number=ordinal)
    ended = replace(GUILTY, attempt=replace(GUILTY.attempt, ordinal=ordinal, id=attempt_id))
    tree = build_fine_tree(CHAIN_ID, TASK, ordinal, compute_fines(ended, is_closing=False))
    approval = replace(APPROVED.approved[0], root=tree.root)
    return replace(ended, approved=(approval,), fines_votes=APPROVED.fines_votes)


HEADS = 30
"""Many more heads than the turns of all operators take."""


async def pass_heads(node: Node, chain: FakeChain, count: int = HEADS) -> None:
    """Finalize blocks without an event of the task, a second apart."""
    for _ in range(count):
        chain.head += 1
        node.host.on_new_head([])
        await trio.sleep(1)


async def test_attempt_with_nothing_to_do_is_read_once(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[int] = []
    planned: list[int] = []

    def build(chain_id: int, ended: EndedAttempt, head: BlockNumber) -> FineTrees:
        built.append(ended.attempt.ordinal)
        return build_fine_trees(chain_id, ended, head)

    def plan(ended: EndedAttempt, *rest: object) -> FinePlan:
        planned.append(ended.attempt.ordinal)
        return plan_fines(ended, *rest)

    monkeypatch.setattr(slashings, "build_fine_trees", build)
    monkeypatch.setattr(slashings, "plan_fines", plan)
    paid = tuple((miner, FineKind.FRAUD) for miner in MINERS)
    over = [replace(approved_attempt(k), imposed=paid) for k in range(1, 9)]
    chain = fining_chain(97, *over)
    node = Node(tmp_path, chain)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await pass_heads(node, chain)
        assert (chain.ended_read, chain.simulated) == (8, 0)
        assert sorted(built) == sorted(planned) == list(range(1, 9))
        # An event of one attempt has that attempt read again, and its trees stay.
        chain.set_ended(*over[:7], replace(over[7], imposed=()))
        marks = chain.histories[TASK].ended
        old = tuple(replace(each, changed_block=BlockNumber(97)) for each in marks[:7])
        chain.histories[TASK] = replace(chain.histories[TASK], ended=(*old, marks[7]))
        node.host.on_new_head([TASK])
        await until(lambda: bool(node.sent))
        assert (chain.ended_read, len(built)) == (9, 8)
        nursery.cancel_scope.cancel()


async def test_fines_that_cannot_be_imposed_are_tried_once(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """A second fraud of a miner that was slashed meanwhile has no bond to take."""
    chain = fining_chain(97, APPROVED)
    chain.reverts = "SeatsNothingToFine"
    node = Node(tmp_path, chain)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await pass_heads(node, chain)
        nursery.cancel_scope.cancel()
    assert (chain.simulated, node.sent) == (1, [])


async def test_fines_refused_for_the_moment_are_tried_again(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    chain = fining_chain(97, APPROVED)
    chain.reverts = "SeatsAttemptOpening"
    node = Node(tmp_path, chain)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await until(lambda: chain.simulated > 0)
        chain.reverts = None
        await pass_heads(node, chain, 2)
        assert node.sent == [SLASH]
        nursery.cancel_scope.cancel()


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


async def test_of_an_ended_attempt_only_checks_for_late_verdicts_are_kept(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """An attempt has up to 1024 checks, and 512 of a task may wait for fines."""
    judged = ended_attempt(*[(OK, CHEAT, OK)] * 4)
    open_word = ended_attempt((OK, UNCHECKED, OK), (OK, CHEAT, OK), (OK, CHEAT, OK))
    open_word = replace(
        open_word,
        attempt=replace(open_word.attempt, id=AttemptId(TASK, 0, 1), ordinal=2),
    )
    node = Node(tmp_path, fining_chain(91, judged, open_word))
    over, later, unknown = judged.attempt.id, open_word.attempt.id, AttemptId(TASK, 0, 2)
    checked = CheckedGradient(BAD)
    work = node.host._work[TASK] = TaskWork()
    work.checks = {each: dict.fromkeys(range(3), checked) for each in (over, later, unknown)}
    await node.run_for(3)
    assert work.checks == {later: {1: checked}}


def test_node_without_an_operator_keeps_no_checks_of_ended_attempts() -> None:
    ended = ended_attempt(*[(OK, CHEAT, OK)] * 4)
    history = fining_chain(91, ended).histories[TASK]
    work = TaskWork(checks={ended.attempt.id: {1: CheckedGradient(CHEAT)}})
    work.keep_checks(history, gives_late_verdicts=True)
    assert work.checks == {ended.attempt.id: {1: CheckedGradient(CHEAT)}}
    work.keep_checks(history, gives_late_verdicts=False)
    assert work.checks == {}


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
