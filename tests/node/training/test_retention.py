"""Which parts of a task are kept in each of its states."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import pytest

from chain.contracts.gradient_ledger import (
    AttemptOpened,
    AttemptVoided,
    GradientCommitted,
    RoundSettled,
    VerdictPosted,
)
from chain.contracts.task_registry import TaskClosed, TaskStatus
from chain.primitives import Address, BlockNumber, Hash32
from chain.training.acceptance import Verdict, encode_verdicts
from chain.training.attempt import AttemptId
from chain.training.attempt_records import list_accused
from chain.training.history import SettledRound, TaskHistory, apply_event
from chain.training.task_spec import TaskSpec
from node.config import Retention
from node.training.retention import KeptTask, RetentionPolicy, compute_kept
from tests.worlds.training import (
    GENESIS_SET,
    MINERS,
    SPEC,
    TASK,
    VALIDATORS,
    VOTE,
    at,
    history_after,
)

OK, BAD, CHEAT, MISSING, UNCHECKED = Verdict
LIVE = RetentionPolicy(Retention.LIVE, closed_seconds=1_000)
EVERYTHING = RetentionPolicy(Retention.TASK, closed_seconds=1_000)
CONTENT = frozenset({SPEC.initial_weights, *(shard.content_id for shard in SPEC.data.shards)})


class Played(NamedTuple):
    """A task after some events, and what is kept beside its history."""

    history: TaskHistory
    settled: list[SettledRound | None]
    accused: dict[int, tuple[Address, ...]]
    """The miners that late verdicts may find guilty, by ordinal of the attempt."""


def play(*events: object) -> Played:
    history, rounds, accused = history_after(), [], {}
    for number, event in enumerate(events, 10):
        fold = apply_event(history, event, at(number), spec=SPEC, validator_set=GENESIS_SET)
        history, settled = fold.history, fold.settled
        if settled is not None:
            rounds.append(settled)
        if fold.ended is not None:
            attempt = fold.ended.attempt
            indices = list_accused(attempt, fold.ended.validator_set)
            accused[attempt.ordinal] = tuple(attempt.commitments[i].miner for i in indices)
    return Played(history, rounds, accused)


def keep(
    history: TaskHistory,
    settled: Sequence[SettledRound | None],
    accused: Mapping[int, Sequence[Address]] = MappingProxyType({}),
    policy: RetentionPolicy = LIVE,
    head: int = 100,
    own: int | None = 0,
    spec: TaskSpec = SPEC,
) -> KeptTask | None:
    return compute_kept(
        history,
        spec,
        lambda number: settled[number],
        lambda mark: accused[mark.ordinal],
        policy,
        head_number=BlockNumber(head),
        head_timestamp=at(head).timestamp,
        own_validator=None if own is None else VALIDATORS[own],
    )


def keeps(kept: KeptTask, round_number: int, attempt: int = 0, miner: int = 0) -> bool:
    return kept.keeps_gradient(AttemptId(TASK, round_number, attempt), MINERS[miner])


def judged(number: int, *words: tuple[Verdict, Verdict], attempt: int = 0) -> list[object]:
    """An attempt of two miners with the verdicts of the first validators, before its end."""
    verdicts = [
        VerdictPosted(TASK, number, VALIDATORS[i], attempt, 0, True, encode_verdicts(each))
        for i, each in enumerate(words)
    ]
    commitments = [
        GradientCommitted(TASK, number, MINERS[i], attempt, i, 1, Hash32(bytes(32)))
        for i in range(2)
    ]
    opened = AttemptOpened(TASK, number, attempt, number + attempt + 1, 2, 1)
    return [opened, *commitments, *verdicts]


def settle(count: int, first: int = 0) -> list[object]:
    """Rounds in which all gradients are ok."""
    return [
        event
        for number in range(first, first + count)
        for event in (
            *judged(number, *[(OK, OK)] * 3),
            RoundSettled(TASK, number, 0, 0, VOTE),
        )
    ]


@pytest.mark.parametrize("is_open", [True, False])
def test_gradients_of_two_attempts_are_kept(is_open: bool) -> None:
    events = settle(7) + ([AttemptOpened(TASK, 7, 0, 8, 3, 1)] if is_open else [])
    kept = keep(*play(*events))
    assert kept is not None
    assert [number for number in range(10) if keeps(kept, number)] == [6, 7, 8, 9]


def test_rounds_before_the_snapshot_of_a_node_are_not_kept() -> None:
    history, settled, _ = play(*settle(7))
    known: list[SettledRound | None] = [None] * 7
    kept = keep(history, known)
    assert kept is not None
    assert [number for number in range(9) if keeps(kept, number)] == [7, 8]
    assert kept.keeps_state(7)
    assert settled


def test_accused_gradients_stay_while_late_verdicts_are_taken() -> None:
    guilty = [*judged(0, *[(OK, CHEAT)] * 2, (OK, OK)), RoundSettled(TASK, 0, 0, 0, VOTE)]
    history, settled, accused = play(*guilty, *settle(4, first=1))
    (ended,) = history.ended
    kept = keep(history, settled, accused, head=ended.late_until)
    assert kept is not None
    # A late cheat of the fourth validator would convict the second miner.
    assert [keeps(kept, 0, miner=miner) for miner in range(2)] == [False, True]
    assert not keeps(kept, 1)
    kept = keep(history, settled, accused, head=ended.late_until + 1)
    assert kept is not None
    assert not keeps(kept, 0, miner=1)


def test_models_of_the_latest_two_accused_rounds_stay_with_their_gradients() -> None:
    """Late verdicts were impossible once two later rounds, of seconds each, had settled."""
    guilty = [
        event
        for number in (0, 1, 2, 3)
        for event in (
            *judged(number, *[(OK, CHEAT)] * 2, (OK, OK)),
            RoundSettled(TASK, number, 0, 0, VOTE),
        )
    ]
    history, settled, accused = play(*guilty, *settle(3, first=4))
    assert [mark.attempt_id.round_number for mark in history.ended] == [0, 1, 2, 3]
    kept = keep(history, settled, accused, head=history.ended[0].late_until)
    assert kept is not None
    assert [kept.needs_model(count) for count in range(8)] == [False] * 2 + [True] * 2 + [
        *(False, False),
        *(True, True),
    ]
    assert not any(kept.keeps_state(count) for count in range(6))
    closed = apply_event(
        history, TaskClosed(TASK, 1), at(90), spec=SPEC, validator_set=GENESIS_SET
    ).history
    kept = keep(closed, settled, accused, head=history.ended[0].late_until)
    assert kept is not None
    assert [count for count in range(8) if kept.needs_model(count)] == [2, 3, 6, 7]
    kept = keep(history, settled, accused, head=history.ended[-1].late_until + 1)
    assert kept is not None
    assert not any(kept.needs_model(count) for count in range(6))


def test_no_more_accused_gradients_are_kept_than_a_round_has() -> None:
    spec = replace(SPEC, reward=replace(SPEC.reward, max_units=3, min_miners=1, min_units=1))
    guilty = [
        event
        for number in range(5)
        for event in (
            *judged(number, *[(CHEAT, CHEAT)] * 3),
            RoundSettled(TASK, number, 0, 0, VOTE),
        )
    ]
    history, settled, accused = play(*guilty, *settle(2, first=5))
    kept = keep(history, settled, accused, spec=spec)
    assert kept is not None
    found = [(n, m) for n in range(5) for m in range(2) if keeps(kept, n, miner=m)]
    assert found == [(3, 0), (4, 0), (4, 1)]


def test_a_state_stays_until_two_later_rounds_are_settled() -> None:
    kept = keep(*play(*settle(7)))
    assert kept is not None
    # 8 is the state after the round in progress, which is not settled yet.
    assert [count for count in range(9) if kept.keeps_state(count)] == [6, 7, 8]


def test_gradients_of_a_void_attempt_go_when_the_next_but_one_opens() -> None:
    void = [AttemptOpened(TASK, 1, 0, 2, 3, 1), AttemptVoided(TASK, 1, 0)]
    again = [AttemptOpened(TASK, 1, 1, 3, 3, 1), AttemptVoided(TASK, 1, 1)]
    history, settled, accused = play(*settle(1), *void, *again[:1])
    kept = keep(history, settled, accused)
    assert kept is not None
    assert [keeps(kept, 1, attempt) for attempt in range(2)] == [True, True]
    assert not keeps(kept, 0)
    kept = keep(*play(*settle(1), *void, *again, AttemptOpened(TASK, 1, 2, 4, 3, 1)))
    assert kept is not None
    assert [keeps(kept, 1, attempt) for attempt in range(3)] == [False, True, True]


def test_a_paused_task_is_live() -> None:
    history, settled, accused = play(*settle(2))
    assert keep(replace(history, status=TaskStatus.PAUSED), settled) == keep(
        history, settled, accused
    )


def test_closed_task_keeps_its_model_and_accused_gradients() -> None:
    guilty = [*judged(5, *[(OK, CHEAT)] * 2), RoundSettled(TASK, 5, 0, 0, VOTE)]
    history, settled, accused = play(*settle(5), *guilty, TaskClosed(TASK, 1))
    (ended,) = history.ended
    closed = history.closed
    assert closed is not None
    early = keep(history, settled, accused, head=ended.late_until)
    assert early is not None
    assert early.content == CONTENT | {VOTE.model_root}
    assert [keeps(early, number, miner=1) for number in range(6)] == [False] * 5 + [True]
    # The gradient is checked with the model from which round 5 started.
    assert [early.keeps_state(count) for count in (4, 5, 6)] == [False, True, True]
    late = keep(history, settled, accused, head=ended.late_until + 1)
    assert late is not None
    assert late.content == early.content
    assert not any(keeps(late, number, miner=1) for number in range(6))
    assert not late.keeps_state(6)
    assert keep(history, settled, accused, head=closed.number + 999) == late
    assert keep(history, settled, accused, head=closed.number + 1_000) is None


def test_accused_gradients_stay_whatever_closed_their_task() -> None:
    guilty = [*judged(0, *[(OK, CHEAT)] * 2), AttemptVoided(TASK, 0, 0), TaskClosed(TASK, 1)]
    history, settled, accused = play(*guilty)
    (ended,) = history.ended
    for policy in (LIVE, replace(LIVE, closed_seconds=0)):
        kept = keep(history, settled, accused, policy=policy, head=ended.late_until)
        assert kept is not None
        assert kept.content == CONTENT
        assert [keeps(kept, 0, miner=miner) for miner in range(2)] == [False, True]
        assert keep(history, settled, accused, policy=policy, head=ended.late_until + 1) is None


@pytest.mark.parametrize("policy", [LIVE, EVERYTHING])
def test_nothing_is_kept_of_task_cancelled_before_its_first_round(
    policy: RetentionPolicy,
) -> None:
    history, settled, accused = play(AttemptOpened(TASK, 0, 0, 1, 3, 1), TaskClosed(TASK, 1))
    assert keep(history, settled, accused, policy=policy, head=20) is None


def test_retention_task_keeps_everything_until_the_task_goes() -> None:
    void = [AttemptOpened(TASK, 6, 0, 7, 3, 1), AttemptVoided(TASK, 6, 0)]
    history, settled, _ = play(*settle(6), *void, AttemptOpened(TASK, 6, 1, 8, 3, 1))
    closed = apply_event(
        history, TaskClosed(TASK, 1), at(90), spec=SPEC, validator_set=GENESIS_SET
    ).history
    for each in (history, closed):
        kept = keep(each, settled, policy=EVERYTHING)
        assert kept is not None
        assert all(keeps(kept, number) for number in range(8))
        assert all(kept.keeps_state(count) for count in range(8))
    assert keep(closed, settled, policy=EVERYTHING, head=90 + 1_000) is None


@pytest.mark.parametrize("policy", [LIVE, EVERYTHING])
def test_content_of_pending_task_is_kept_if_ready_was_posted(policy: RetentionPolicy) -> None:
    pending = replace(history_after(), status=TaskStatus.PENDING, ready=VALIDATORS[:1])
    promised = keep(pending, [], policy=policy, own=0)
    assert promised is not None
    assert promised.content == CONTENT
    assert keep(pending, [], policy=policy, own=1) is None
    assert keep(pending, [], policy=policy, own=None) is None
