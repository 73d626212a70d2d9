"""The reasons why a task opens no attempt are those of the contracts."""

from dataclasses import replace

import pytest

from chain.contracts import miner_seats, task_registry
from chain.contracts.gradient_ledger import Phase
from chain.contracts.ledger_storage import OpeningState
from chain.contracts.task_registry import Purchase, TaskStatus
from chain.primitives import BlockNumber, TaskId
from chain.training.openings import (
    Obstacle,
    ObstacleKind,
    describe_obstacles,
    list_obstacles,
)
from tests.worlds.contracts import (
    MINERS,
    PRICES,
    ROUND_COST,
    SUBMITTER,
    World,
    new_world,
    started_world,
    with_terms,
)

TASK = TaskId(1)
TERMS = with_terms(min_units=5)
"""An attempt needs two seats, and five units of them."""
READY = OpeningState(
    status=TaskStatus.ACTIVE,
    is_open=False,
    seat_count=2,
    registered_units=5,
    refundable=ROUND_COST,
    attempts_left=1,
    attempt_seconds=500,
    end_time=10_000,
    end_block=BlockNumber(2_000),
)


def obstacles(state: OpeningState, number: int = 1_900, now: int = 9_500) -> tuple[Obstacle, ...]:
    return list_obstacles(state, TERMS, number=number, now=now, empty_block_interval_ms=5_000)


def look(world: World) -> tuple[list[ObstacleKind], Phase]:
    """The obstacles of the world's task in the next block, and its phase there."""
    account, lease = (
        world.read(view(TASK)) for view in (task_registry.get_account, task_registry.get_lease)
    )
    state = OpeningState(
        status=account.status,
        is_open=world.round.open,
        seat_count=world.read(miner_seats.seat_count(TASK)),
        registered_units=world.read(miner_seats.registered_units(TASK)),
        refundable=account.refundable,
        attempts_left=lease.attempts_left,
        attempt_seconds=lease.attempt_seconds,
        end_time=lease.end_time,
        end_block=lease.end_block,
    )
    found = list_obstacles(
        state,
        world.read(task_registry.get_terms(TASK)),
        number=world.number,
        now=world.timestamp,
        empty_block_interval_ms=PRICES.empty_block_milliseconds,
    )
    return [each.kind for each in found], world.phase


def test_task_that_lacks_nothing_or_has_an_attempt_has_no_obstacle() -> None:
    assert obstacles(READY) == ()
    assert obstacles(replace(READY, is_open=True, attempts_left=0, seat_count=0)) == ()


@pytest.mark.parametrize(
    ("changes", "kind", "reason"),
    [
        ({"status": TaskStatus.PENDING}, "pending", "too few validators are ready for it yet"),
        ({"status": TaskStatus.PAUSED}, "paused", "three attempts in a row failed, and its"),
        ({"status": TaskStatus.CLOSED}, "closed", "it is closed"),
        ({"status": TaskStatus.NONE}, "closed", "it is closed"),
        ({"seat_count": 1}, "miners", "too few miners: 1 of 2"),
        ({"registered_units": 4}, "units", "too few units: 4 of 5"),
        ({"seat_count": 1, "registered_units": 4}, "miners", "too few miners: 1 of 2"),
        ({"attempts_left": 0}, "attempts", "no attempts are left of those that were bought"),
        (
            {"refundable": ROUND_COST - 1},
            "escrow",
            "too little escrow: 18.000000000000000002 POT of the 18.000000000000000003 POT for a",
        ),
        (
            {"end_time": 9_999, "end_block": BlockNumber(1_999)},
            "lifetime",
            "less lifetime is left than an attempt may take (500 s)",
        ),
    ],
)
def test_each_missing_condition_is_named(
    changes: dict[str, object], kind: str, reason: str
) -> None:
    (found,) = obstacles(replace(READY, **changes))  # type: ignore[arg-type]
    assert (found.kind.value, found.reason[: len(reason)]) == (kind, reason)


@pytest.mark.parametrize("changes", [{"end_time": 9_999}, {"end_block": BlockNumber(1_999)}])
def test_lifetime_covers_an_attempt_by_its_time_or_by_its_blocks(
    changes: dict[str, object],
) -> None:
    assert obstacles(replace(READY, **changes)) == ()  # type: ignore[arg-type]


def test_all_missing_conditions_are_told_in_one_text() -> None:
    found = obstacles(replace(READY, seat_count=0, attempts_left=0))
    assert describe_obstacles(found) == (
        "too few miners: 0 of 2; no attempts are left of those that were bought"
    )
    assert describe_obstacles(()) == ""


def test_obstacles_are_those_of_the_contracts_until_an_attempt_opens() -> None:
    world = new_world()
    world.submit()
    assert look(world) == ([ObstacleKind.PENDING], Phase.INACTIVE)
    world.ready()
    assert look(world) == ([ObstacleKind.MINERS], Phase.WAITING)
    world.register(MINERS[0])
    assert look(world) == ([ObstacleKind.MINERS], Phase.WAITING)
    world.register(MINERS[1])
    assert look(world) == ([], Phase.STALLED)
    world.advance()
    assert look(world) == ([], Phase.WAITING)
    world.mine()
    assert look(world) == ([], Phase.COMMITMENT)


def test_task_says_that_it_lacks_units_until_its_seats_have_enough() -> None:
    world = new_world()
    world.submit(TERMS)
    world.ready()
    world.register(MINERS[0], 3)
    assert look(world) == ([ObstacleKind.MINERS, ObstacleKind.UNITS], Phase.WAITING)
    world.register(MINERS[1], 1)
    assert look(world) == ([ObstacleKind.UNITS], Phase.WAITING)
    world.register(MINERS[2], 1)
    assert look(world) == ([], Phase.STALLED)


def test_task_without_money_or_attempts_says_so_until_they_are_bought() -> None:
    world = new_world()
    world.submit(budget=ROUND_COST, purchase=Purchase(86_400, 1))
    world.ready()
    for miner in MINERS[:2]:
        world.register(miner)
    world.advance()
    world.mine(1, 1)
    world.play_round()
    assert look(world) == ([ObstacleKind.ATTEMPTS, ObstacleKind.ESCROW], Phase.WAITING)
    world.fund(ROUND_COST)
    assert look(world) == ([ObstacleKind.ATTEMPTS], Phase.WAITING)
    world.extend(Purchase(0, 1))
    assert look(world) == ([], Phase.WAITING), "the extension opened an attempt in this block"


def test_lifetime_is_too_short_from_the_same_block_as_in_the_contract() -> None:
    world = new_world()
    world.submit(purchase=Purchase(86_400, 9))
    world.ready()
    for miner in MINERS[:2]:
        world.register(miner)
    lease = world.lease
    world.at(lease.end_block - lease.attempt_seconds // 5, lease.end_time - lease.attempt_seconds)
    assert look(world) == ([], Phase.STALLED)
    world.at(world.number + 1, world.timestamp)
    assert look(world) == ([], Phase.STALLED)
    world.at(world.number, world.timestamp + 1)
    assert look(world) == ([ObstacleKind.LIFETIME], Phase.WAITING)


def test_paused_task_says_so_until_its_submitter_resumes_it() -> None:
    world = started_world()
    for _ in range(3):
        world.void_round()
    assert look(world) == ([ObstacleKind.PAUSED], Phase.INACTIVE)
    world.resume(SUBMITTER)
    assert look(world)[0] == []
