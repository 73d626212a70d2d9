"""The results that validators compute from accepted gradients."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from eth_abi.abi import decode
from trio.testing import MockClock

from chain.contracts import gradient_ledger
from chain.contracts.abi import ContractCall
from chain.contracts.addresses import GRADIENT_LEDGER
from chain.contracts.gradient_ledger import BallotFailed, Phase, ResultKind, ResultVote
from chain.crypto import content_id
from chain.primitives import ZERO_HASH
from chain.training.acceptance import Verdict
from chain.training.history import TaskHistory, compute_outcome
from chain.training.result_vote import build_payment_vote
from node.training import results
from node.training.work import ServedTask, TaskWork
from node.training.worker_pool import WorkerFailedError, WorkerRefusedError
from tests.worlds.training import (
    GENESIS_SET,
    TASK,
    verdict,
)
from tests.worlds.training_node import (
    BAD,
    CHAIN_ID,
    OK,
    PAYLOADS,
    REVEALS,
    SPEC,
    VOTE,
    FakeChain,
    Members,
    Node,
    honest_worker,
    judging,
    with_results,
)
from tests.worlds.waiting import until


def judge(*words: Verdict, voters: int = 4) -> TaskHistory:
    """The task in whose attempt so many validators gave these verdicts."""
    return with_results(judging().histories[TASK], *(verdict(i, *words) for i in range(voters)))


def build_holder(path: Path, history: TaskHistory) -> Node:
    """A node that holds all gradients of a task in its result phase."""
    node = Node(path, FakeChain({TASK: history}, Phase.RESULT))
    node.hold(0, 1, 2)
    return node


@pytest.mark.usefixtures("inline_threads")
async def test_the_result_is_that_of_every_other_validator(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    judged = judge(OK, OK, BAD)
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
    assert votes[0].to == GRADIENT_LEDGER


@pytest.mark.parametrize(
    ("given", "kind"),
    [(Verdict.BAD, ResultKind.VOID), (Verdict.UNCHECKED, ResultKind.FAILED)],
)
@pytest.mark.usefixtures("inline_threads")
async def test_ballot_without_an_accepted_gradient_computes_no_state(
    autojump_clock: MockClock, tmp_path: Path, given: Verdict, kind: ResultKind
) -> None:
    judged = judge(given, given, given)
    node = Node(tmp_path, FakeChain({TASK: judged}, Phase.RESULT))
    await node.run(lambda: bool(node.sent))
    vote = ResultVote(ZERO_HASH, ZERO_HASH, ZERO_HASH, 0, 0, kind, 0b1111)
    assert node.sent[0] == gradient_ledger.post_result(TASK, 0, 0, 0, vote, None, 0)
    assert "advance" not in node.aggregator.asked


@pytest.mark.usefixtures("inline_threads")
async def test_payment_is_posted_for_what_was_accepted(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    failed = [BallotFailed(TASK, 0, 0, number) for number in range(2)]
    votes = [verdict(i, OK, OK, BAD, ballot=2) for i in range(4)]
    judged = with_results(judging().histories[TASK], *failed, *votes)
    node = Node(tmp_path, FakeChain({TASK: judged}, Phase.PAYMENT))
    await node.run(lambda: bool(node.sent))
    assert judged.attempt is not None
    outcome = compute_outcome(judged.attempt, SPEC, GENESIS_SET)
    vote = build_payment_vote(TASK, {}, outcome, CHAIN_ID)
    assert node.sent[0] == gradient_ledger.post_result(TASK, 0, 0, 2, vote, None, 0)
    assert (vote.accepted_units, vote.payout) == (2, outcome.payout)


@pytest.mark.usefixtures("inline_threads")
async def test_block_with_a_further_timely_verdict_brings_another_result(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """The clock of this node ended the phase while the block was on its way."""
    three, four = (judge(OK, OK, OK, voters=count) for count in (3, 4))
    node = build_holder(tmp_path, three)
    results_of: list[tuple[int, int, int]] = []

    def take_block() -> bool:
        """Whether a result was posted after the block with the fourth verdict, in less than the
        blocks after which a vote is sent again."""
        results_of[:] = [_read_result(call) for call in node.sent]
        if len(results_of) == 1 and node.chain.histories[TASK] is three:
            node.chain.histories[TASK] = four
            node.chain.head += 1
            node.host.on_new_head([TASK])
        return len(results_of) > 1

    await node.run(take_block)
    expected = [compute_outcome(each.attempt, SPEC, GENESIS_SET) for each in (three, four)]
    assert results_of == [(3, each.payout, each.timely_voters) for each in expected]
    assert [each.timely_voters for each in expected] == [0b0111, 0b1111]


@pytest.mark.usefixtures("inline_threads")
async def test_worker_evaluates_no_model_of_an_earlier_result(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    node = build_holder(tmp_path, judge(OK, OK, OK, voters=3))
    await node.run(lambda: bool(node.sent))
    turn, work = node.verifier.turns[-1], node.host._work[TASK]
    assert turn.is_wanted()
    # The same model is the result of all verdicts, too; another one is not.
    (vote,) = work.results.values()
    work.results = {1: replace(vote, timely_voters=0b1111)}
    assert turn.is_wanted()
    work.results = {1: replace(vote, model_root=ZERO_HASH)}
    assert not turn.is_wanted()


def _read_result(call: ContractCall) -> tuple[int, int, int]:
    """Units, payout and voters of the result that a call posts."""
    types = gradient_ledger.CONTRACT.abi.functions["postResult"].inputs
    vote = decode(types, call.data[4:])[4]
    return vote[3], vote[4], vote[6]


async def test_payment_is_computed_outside_the_thread_of_consensus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tree of rewards grows with the accounts that the task has paid."""
    threads: set[int] = set()

    def note(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            threads.add(threading.get_ident())
            return function(*arguments)

        return call

    monkeypatch.setattr(results, "compute_outcome", note(compute_outcome))
    monkeypatch.setattr(results, "build_payment_vote", note(build_payment_vote))
    judged = judge(OK, OK, OK)
    node, work = Node(tmp_path, FakeChain({TASK: judged}, Phase.PAYMENT)), TaskWork()
    assert judged.attempt is not None
    await node.host._results.compute_payment(ServedTask(judged, SPEC, work), judged.attempt)
    assert work.results
    assert threads
    assert threading.get_ident() not in threads


@pytest.mark.parametrize(
    "failure",
    [
        WorkerRefusedError("content_mismatch", "a shard"),
        WorkerFailedError("no answer to evaluate in 120 s"),
    ],
    ids=["refused", "failed"],
)
@pytest.mark.usefixtures("inline_threads")
async def test_result_is_posted_even_if_evaluation_fails(
    autojump_clock: MockClock, tmp_path: Path, failure: Exception
) -> None:
    node = build_holder(tmp_path, judge(OK, OK, OK))

    def fail(kind: str, members: Members) -> Members:
        if kind == "evaluate_part":
            raise failure
        return honest_worker(kind, members)

    node.verifier.answers = fail
    await node.run(lambda: bool(node.sent), seconds=20)
    start = gradient_ledger.post_result(TASK, 0, 0, 0, VOTE, None, 0).data[:4]
    assert [call.data[:4] for call in node.sent] == [start]


@pytest.mark.usefixtures("inline_threads")
async def test_result_is_posted_with_its_evaluation(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    for name, micronats, loss in (("finite", 3_450_000, 345), ("diverged", 2**53 - 1, 2**53 - 1)):
        node = build_holder(tmp_path / name, judge(OK, OK, OK))
        part = {"correct_count": 6, "row_count": 10, "loss_micronats": micronats}
        node.verifier.answers = lambda kind, members, part=part: (
            part if kind == "evaluate_part" else honest_worker(kind, members)
        )
        await node.run(lambda node=node: bool(node.sent))
        (call,) = node.sent
        assert call.data[-64:] == (12).to_bytes(32, "big") + loss.to_bytes(32, "big")


@pytest.mark.usefixtures("inline_threads")
async def test_further_ballot_on_the_same_gradients_computes_no_state(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    first = judge(OK, OK, BAD)
    again = [verdict(i, OK, OK, BAD, ballot=1) for i in range(4)]
    chain = FakeChain({TASK: first}, Phase.RESULT)
    node = Node(tmp_path, chain)
    node.hold(0, 1)

    async with trio.open_nursery() as nursery:
        await nursery.start(node.host.run)
        await until(lambda: len(node.sent) == 1)
        chain.histories[TASK] = with_results(first, BallotFailed(TASK, 0, 0, 0), *again)
        node.host.wake()
        await until(lambda: len({call.data for call in node.sent}) == 2)
        nursery.cancel_scope.cancel()

    assert node.aggregator.asked == ["begin", "advance"]
    assert node.verifier.asked == ["dry_run", "evaluate_part", "evaluate_part"]
