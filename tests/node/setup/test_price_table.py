"""The table of prices: what the cheapest way to waste something costs."""

from dataclasses import replace
from pathlib import Path

import pytest
from eth.db.atomic import AtomicDB

from chain.amounts import format_short
from chain.contracts import task_registry
from chain.contracts.miner_seats import MISS_WINDOW
from chain.contracts.task_registry import CloseReason, Purchase, Quote, TaskClosed, TaskResources
from chain.params import ChainParameters
from chain.primitives import TOKEN_UNIT, Hash32, TaskId
from chain.training.fees import PROMISED_SHARE
from chain.training.history import BlockContext
from chain.training.resources import count_disk_bytes
from chain.training.task_checks import CONTENT_QUOTA_SHARE, Promise
from chain.training.task_spec import Shard
from node.config import BlobsSection
from node.setup.network_genesis import Seat, build_prices, plan_development_network
from node.setup.price_table import (
    DAY_SECONDS,
    SHORT_EXAMINATION_SECONDS,
    PriceRow,
    list_prices,
)
from node.storage.blobs import PROMISED_SHARE as PROMISED_DISK_SHARE
from node.training.capacity import Capacity
from node.training.closed_disk import ClosedDisk
from node.training.dry_runs import compute_dry_run_seconds
from node.training.preparation import DRY_RUN_TRIES
from tests.worlds.contracts import (
    MINERS,
    OK,
    OPERATORS,
    SUBMITTER,
    VALIDATORS,
    World,
    deploy_contracts,
    result,
    with_terms,
)
from tests.worlds.training import SPEC, history_after

PAGE = (Path(__file__).parents[3] / "docs" / "prices.md").read_text(encoding="utf-8")
PUBLIC = ChainParameters()
DEVELOPMENT = plan_development_network(tuple(map(Seat, VALIDATORS, OPERATORS))).parameters
NOTHING = TaskResources(1, 1, 1, 1)


def render(rows: tuple[PriceRow, ...]) -> str:
    lines = [f"| {row.role} | {row.what} | {format_short(row.amount)} |" for row in rows]
    return "\n".join(("| who wastes | what | POT |", "|---|---|---|", *lines))


@pytest.mark.parametrize("parameters", [PUBLIC, DEVELOPMENT], ids=["public", "development"])
def test_page_shows_the_prices_of_four_validators(parameters: ChainParameters) -> None:
    assert render(list_prices(parameters, 4)) in PAGE


@pytest.mark.parametrize("parameters", [PUBLIC, DEVELOPMENT], ids=["public", "development"])
def test_nothing_is_wasted_for_nothing(parameters: ChainParameters) -> None:
    assert all(row.amount > 0 for row in list_prices(parameters, 1))


def test_prices_are_what_the_contract_asks() -> None:
    world = World(AtomicDB())
    deploy_contracts(world, prices=build_prices(PUBLIC))
    price = {row.what: row.amount for row in list_prices(PUBLIC, 4)}
    purchase = Purchase(7 * DAY_SECONDS, 1)

    def quote(resources: TaskResources) -> Quote:
        return world.quote(with_terms(max_units=1, min_miners=1), resources, purchase)

    slot = price["a slot for a day, the first"]
    assert 0 <= quote(NOTHING).rent - 7 * slot < 10**12
    gib = quote(TaskResources(1, 1, 2**30, 1)).rent - quote(NOTHING).rent
    assert abs(gib - 7 * 4 * price["a GiB of one validator for a day"]) < 10**12
    smallest = quote(NOTHING)
    refused = smallest.pending_rent + smallest.examination
    assert 0 <= refused - price["a new task that validators refuse"] < 10**14


def test_task_that_is_cancelled_at_once_costs_what_the_table_says() -> None:
    world = World(AtomicDB())
    deploy_contracts(world, prices=build_prices(PUBLIC))
    before = world.balance(SUBMITTER)
    terms = with_terms(max_units=1, min_miners=1, unit_price=1, validator_fee=0)
    for number in (1, 2):
        world.task = TaskId(number)
        purchase = Purchase(DAY_SECONDS, 1)
        world.submit(terms, budget=1, purchase=purchase, resources=NOTHING, max_fee=10**21)
        world.cancel()
        assert world.read(task_registry.get_open_tasks()) == 0
    world.mine(PUBLIC.pending_seconds, PUBLIC.pending_seconds)
    for number in (1, 2):
        world.task = TaskId(number)
        world.refund()
        world.refund_fee()
    price = {row.what: row.amount for row in list_prices(PUBLIC, 4)}
    row = price["a task's record in all databases, cancelled at once"]
    assert 0 <= before - world.balance(SUBMITTER) - 2 * row < 10**14


def test_shortest_examination_is_that_of_nodes() -> None:
    nothing = replace(SPEC, resources=NOTHING)
    seconds = DRY_RUN_TRIES * compute_dry_run_seconds(nothing, 120)
    assert SHORT_EXAMINATION_SECONDS <= seconds < SHORT_EXAMINATION_SECONDS + 1


def test_time_of_workers_costs_what_the_table_says() -> None:
    world = World(AtomicDB())
    deploy_contracts(world, prices=build_prices(PUBLIC))
    price = {row.what: row.amount for row in list_prices(PUBLIC, 4)}
    worker = price["a day of one validator's worker, in attempts or promised"]
    week = 7 * DAY_SECONDS
    used = world.quote(
        with_terms(max_units=1, min_miners=1, verdict_seconds=week, result_seconds=week),
        TaskResources(1_000 * DAY_SECONDS, 1, 1, 1),
        Purchase(DAY_SECONDS, 1),
    )
    assert 0 < used.computation - 4 * worker < 10**13
    # Checks of 20 s in a verdict phase of 40 s are all that one worker is promised for.
    promised = world.quote(
        with_terms(max_units=1, min_miners=1, verdict_seconds=40),
        TaskResources(20_000, 1, 1, 1),
        Purchase(DAY_SECONDS, 1),
    )
    assert promised.computation == 4 * worker // PROMISED_SHARE
    row = price["a day of all the time that one-worker validators promise"]
    assert 0 <= promised.rent + promised.computation - row < 10**12


def test_disk_of_all_validators_costs_rent_for_as_long_as_it_is_promised() -> None:
    world = World(AtomicDB())
    deploy_contracts(world, prices=build_prices(PUBLIC))
    share = BlobsSection().quota_bytes // PROMISED_DISK_SHARE
    eighth = TaskResources(1, 1, 1, share // 8)
    terms = with_terms(max_units=1, min_miners=1, unit_price=1, validator_fee=0)
    purchase = Purchase(DAY_SECONDS, 1)
    rents = 0
    for _ in range(8):
        rents += world.quote(terms, eighth, purchase).rent
        world.submit(terms, budget=1, purchase=purchase, resources=eighth, max_fee=10**21)
    capacity = Capacity(1, share, lambda: 0)
    promise = Promise(check_ppm=0, aggregation_ppm=0, disk_bytes=share // 8)
    for number in range(9):
        capacity.claim(TaskId(number), promise)
        assert (capacity.find_objection(TaskId(number)) is None) is (number < 8)
    price = {row.what: row.amount for row in list_prices(PUBLIC, 4)}
    assert rents >= 4 * price["a GiB of one validator for a day"] * share // 2**30
    row = price["a day of all the disk that validators with 64 GiB promise"]
    empty = World(AtomicDB())
    deploy_contracts(empty, prices=build_prices(PUBLIC))
    one = empty.quote(terms, replace(eighth, disk_bytes=share), purchase)
    assert 0 <= one.rent - row < 10**12
    assert row < rents
    # And the promise ends with the lifetime.
    world.ready()
    world.mine(DAY_SECONDS // 5, DAY_SECONDS)
    assert world.expire().events == (TaskClosed(world.task, CloseReason.EXPIRED),)


def test_disk_that_closed_tasks_keep_costs_what_the_table_says() -> None:
    world = World(AtomicDB())
    deploy_contracts(world, prices=build_prices(PUBLIC))
    share = BlobsSection().quota_bytes // PROMISED_DISK_SHARE
    largest = BlobsSection().quota_bytes // CONTENT_QUOTA_SHARE
    # The tasks name the same files. They are stored once, and counted and paid for each time.
    shards = tuple(Shard(Hash32(bytes([i] * 32)), largest // 8, 1) for i in range(8))
    spec = replace(SPEC, data=replace(SPEC.data, shards=shards))
    terms = with_terms(max_units=1, min_miners=1, rounds=1, unit_price=1, validator_fee=0)
    purchase = Purchase(world.read(task_registry.get_attempt_seconds(terms)), 1)
    closed = ClosedDisk()
    before = world.balance(SUBMITTER)
    for number in range(1, share // largest + 1):
        world.task = TaskId(number)
        resources = TaskResources(1, 1, 1, count_disk_bytes(spec))
        world.submit(terms, budget=1, purchase=purchase, resources=resources, max_fee=10**21)
        world.ready(OPERATORS)
        world.register(MINERS[0], units=1)
        world.advance()
        world.mine(1, 1)
        world.commit(MINERS[0], units=1)
        world.judge([OK])
        settled = world.settle(world.agree(replace(result(accepted_units=1), payout=1)))
        assert TaskClosed(world.task, CloseReason.COMPLETED) in settled.events
        history = replace(
            history_after(),
            task_id=world.task,
            closed=BlockContext(world.number, world.timestamp),
            rounds_settled=1,
        )
        closed.add(history, spec)

    now = world.timestamp
    capacity = Capacity(1, share, lambda: closed.count(now))
    honest = Promise(check_ppm=0, aggregation_ppm=0, disk_bytes=2**20)
    capacity.claim(TaskId(99), honest)
    assert capacity.find_objection(TaskId(99)) is not None
    price = {row.what: row.amount for row in list_prices(PUBLIC, 4)}
    row = price["a day of all the disk that validators with 64 GiB promise"]
    paid = before - world.balance(SUBMITTER)
    assert row < paid < row + TOKEN_UNIT
    now += DAY_SECONDS
    assert capacity.find_objection(TaskId(99)) is None, "and not for longer"


def test_last_slot_of_the_network_costs_what_the_table_says() -> None:
    world = World(AtomicDB())
    deploy_contracts(world, prices=build_prices(PUBLIC))
    terms = with_terms(max_units=1, min_miners=1, unit_price=1, validator_fee=0)
    purchase = Purchase(DAY_SECONDS, 1)
    before, rents = world.balance(SUBMITTER), 0
    for _ in range(PUBLIC.task_slots):
        quote = world.quote(terms, NOTHING, purchase)
        rents += quote.rent
        world.submit(terms, budget=1, purchase=purchase, resources=NOTHING, max_fee=10**21)
    assert world.read(task_registry.get_open_tasks()) == PUBLIC.task_slots
    price = {row.what: row.amount for row in list_prices(PUBLIC, 4)}
    assert 0 <= quote.rent - price["a slot for a day, the last"] < 10**12
    assert 0 <= rents - price["all slots for a day"] < 64 * 10**12
    pending = price["all slots while one new task is pending"]
    assert before - world.balance(SUBMITTER) > rents + pending


class Waster:
    """A miner without company, whose wasted attempts and burnt POT are counted."""

    def __init__(self) -> None:
        self.world = World(AtomicDB())
        deploy_contracts(self.world, seat_bond=PUBLIC.seat_bond_pot * TOKEN_UNIT)
        terms = with_terms(min_miners=1, max_units=1, unit_price=1, validator_fee=0, rounds=100)
        self.world.submit(terms, budget=100)
        self.world.ready()
        self.world.register(MINERS[0], units=1)
        self.world.advance()
        self.world.mine(1, 1)
        self.missed = 0

    def miss(self) -> None:
        self.world.pass_phase()
        self.world.advance()
        self.world.mine(1, 1)
        self.missed += 1

    def commit(self) -> None:
        self.world.commit(MINERS[0], units=1)
        self.world.judge([OK])
        self.world.settle(self.world.agree(replace(result(accepted_units=1), payout=1)))
        self.world.mine(1, 1)

    def compute_price(self) -> int:
        """Take the bonds back; returns the burnt POT for each attempt missed."""
        self.world.mine(1_000)
        before = self.world.balance(MINERS[0])
        self.world.withdraw_bond(MINERS[0])
        # The bond for one unit is worth less than three base units.
        returned = self.world.balance(MINERS[0]) - before
        burnt = PUBLIC.seat_bond_pot * TOKEN_UNIT - returned
        return burnt // self.missed


def test_least_that_a_wasted_attempt_of_a_seat_costs() -> None:
    price = {row.what: row.amount for row in list_prices(PUBLIC, 4)}
    never = price["a seat in an attempt, by miners that never commit"]
    other = price["a seat in an attempt, by miners that skip every other"]

    silent = Waster()
    silent.miss()
    silent.miss()
    silent.world.end_seats(MINERS[0])
    silent.miss()
    assert -2 <= silent.compute_price() - never <= 0

    leaver = Waster()
    leaver.world.leave(MINERS[0])
    leaver.miss()
    assert leaver.compute_price() > never

    worker = Waster()
    worker.miss()
    worker.world.leave(MINERS[0])
    worker.commit()
    assert -3 <= worker.compute_price() - other <= 0

    patient = Waster()
    patient.miss()
    for _ in range(MISS_WINDOW - 1):
        patient.commit()
    patient.miss()
    patient.world.end_seats(MINERS[0])
    patient.commit()
    assert -3 <= patient.compute_price() - other <= 0

    hasty = Waster()
    for _ in range(2):
        hasty.miss()
        hasty.commit()
    assert hasty.compute_price() > never
