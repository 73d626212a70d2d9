"""Which parts of a task are kept in each of its states."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from chain.contracts.gradient_ledger import AttemptOpened, AttemptVoided, BallotFailed, RoundSettled
from chain.contracts.task_registry import TaskClosed, TaskStatus
from chain.primitives import BlockNumber
from chain.training.attempt import AttemptId
from chain.training.history import SettledRound, TaskHistory, apply_event
from node.config import Retention
from node.training.retention import KeptTask, RetentionPolicy, compute_kept
from tests.worlds.training import (
    GENESIS_SET,
    SPEC,
    TASK,
    VALIDATORS,
    VOTE,
    at,
    history_after,
)

LIVE = RetentionPolicy(Retention.LIVE, closed_seconds=1_000)
EVERYTHING = RetentionPolicy(Retention.TASK, closed_seconds=1_000)
CONTENT = frozenset({SPEC.initial_weights, *(shard.content_id for shard in SPEC.data.shards)})


def play(*events: object) -> tuple[TaskHistory, list[SettledRound]]:
    history, rounds = history_after(), []
    for number, event in enumerate(events, 10):
        fold = apply_event(history, event, at(number), spec=SPEC, validator_set=GENESIS_SET)
        history, settled = fold.history, fold.settled
        if settled is not None:
            rounds.append(settled)
    return history, rounds


def settle(count: int) -> list[object]:
    return [
        event
        for number in range(count)
        for event in (
            AttemptOpened(TASK, number, 0, 3, 1),
            RoundSettled(TASK, number, 0, 0, VOTE),
        )
    ]


def keep(
    history: TaskHistory,
    settled: Sequence[SettledRound | None],
    policy: RetentionPolicy = LIVE,
    head: int = 100,
    own: int | None = 0,
) -> KeptTask | None:
    return compute_kept(
        history,
        SPEC,
        lambda number: settled[number],
        policy,
        head_number=BlockNumber(head),
        head_timestamp=at(head).timestamp,
        own_validator=None if own is None else VALIDATORS[own],
    )


@pytest.mark.parametrize(
    ("open_round", "first_round"),
    [(True, 4), (False, 3)],  # the open ballot replaces the oldest of four
)
def test_gradients_stay_while_the_ledger_has_their_evidence(
    open_round: bool, first_round: int
) -> None:
    events = settle(7) + ([AttemptOpened(TASK, 7, 0, 3, 1)] if open_round else [])
    kept = keep(*play(*events))
    assert kept is not None
    stays = [number for number in range(10) if kept.keeps_gradients(AttemptId(TASK, number, 0))]
    assert stays == list(range(first_round, 10))


def test_rounds_before_the_snapshot_of_a_node_are_not_kept() -> None:
    history, settled = play(*settle(7))
    known: list[SettledRound | None] = [*[None] * 5, *settled[5:]]
    kept = keep(history, known)
    assert kept is not None
    assert [number for number in range(8) if kept.keeps_gradients(AttemptId(TASK, number, 0))] == [
        5,
        6,
        7,
    ]
    assert kept.keeps_state(7)


def test_further_ballots_push_older_evidence_out() -> None:
    opened = AttemptOpened(TASK, 3, 0, 3, 1)
    kept = keep(*play(*settle(3), opened, BallotFailed(TASK, 3, 0, 0)))
    assert kept is not None
    assert [kept.keeps_gradients(AttemptId(TASK, number, 0)) for number in range(4)] == [
        False,
        True,
        True,
        True,
    ]


def test_a_state_stays_until_two_later_rounds_are_settled() -> None:
    kept = keep(*play(*settle(7)))
    assert kept is not None
    # 8 is the state after the round in progress, which is not settled yet.
    assert [count for count in range(9) if kept.keeps_state(count)] == [6, 7, 8]


def test_gradients_of_a_void_attempt_go() -> None:
    void = [AttemptOpened(TASK, 1, 0, 3, 1), AttemptVoided(TASK, 1, 0)]
    kept = keep(*play(*settle(1), *void, AttemptOpened(TASK, 1, 1, 3, 1)))
    assert kept is not None
    assert (
        kept.keeps_gradients(AttemptId(TASK, 1, 0)),
        kept.keeps_gradients(AttemptId(TASK, 1, 1)),
    ) == (False, True)
    assert kept.keeps_gradients(AttemptId(TASK, 0, 0))


def test_a_paused_task_is_live() -> None:
    history, settled = play(*settle(2))
    assert keep(replace(history, status=TaskStatus.PAUSED), settled) == keep(history, settled)


def test_closed_task_keeps_its_model_and_slashable_gradients() -> None:
    history, settled = play(*settle(6), TaskClosed(TASK, 1))
    assert history.closed == at(22)
    early = keep(history, settled, head=22 + 16)
    assert early is not None
    assert early.content == CONTENT | {VOTE.model_root}
    assert [early.keeps_gradients(AttemptId(TASK, number, 0)) for number in range(6)] == [
        False,
        False,
        *[True] * 4,
    ]
    assert not early.keeps_state(6)
    late = keep(history, settled, head=22 + 17)
    assert late is not None
    assert late.content == early.content
    assert not any(late.keeps_gradients(AttemptId(TASK, number, 0)) for number in range(6))
    assert keep(history, settled, head=22 + 999) == late
    assert keep(history, settled, head=22 + 1_000) is None


@pytest.mark.parametrize("policy", [LIVE, EVERYTHING])
def test_nothing_is_kept_of_task_cancelled_before_its_first_round(
    policy: RetentionPolicy,
) -> None:
    history, settled = play(AttemptOpened(TASK, 0, 0, 3, 1), TaskClosed(TASK, 1))
    assert keep(history, settled, policy, head=20) is None


def test_retention_task_keeps_everything_until_the_task_goes() -> None:
    void = [AttemptOpened(TASK, 6, 0, 3, 1), AttemptVoided(TASK, 6, 0)]
    history, settled = play(*settle(6), *void, AttemptOpened(TASK, 6, 1, 3, 1))
    closed = apply_event(
        history, TaskClosed(TASK, 1), at(30), spec=SPEC, validator_set=GENESIS_SET
    ).history
    for each in (history, closed):
        kept = keep(each, settled, EVERYTHING)
        assert kept is not None
        assert all(kept.keeps_gradients(AttemptId(TASK, number, 0)) for number in range(8))
        assert all(kept.keeps_state(count) for count in range(8))
    assert keep(closed, settled, EVERYTHING, head=30 + 1_000) is None


@pytest.mark.parametrize("policy", [LIVE, EVERYTHING])
def test_content_of_pending_task_is_kept_if_ready_was_posted(policy: RetentionPolicy) -> None:
    pending = replace(history_after(), status=TaskStatus.PENDING, ready=VALIDATORS[:1])
    promised = keep(pending, [], policy, own=0)
    assert promised is not None
    assert promised.content == CONTENT
    assert keep(pending, [], policy, own=1) is None
    assert keep(pending, [], policy, own=None) is None
