"""What tasks pay, and how each of them ends (docs/spec/contracts.md, section 4)."""

from dataclasses import replace
from functools import cache

import pytest
from eth.db.atomic import AtomicDB
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.contracts import task_registry
from chain.contracts.addresses import TASK_REGISTRY
from chain.contracts.errors import ContractError
from chain.contracts.gradient_ledger import Phase
from chain.contracts.task_registry import (
    CloseReason,
    Purchase,
    Quote,
    TaskAnswered,
    TaskClosed,
    TaskLease,
    TaskLeased,
    TaskResources,
    TaskStatus,
)
from chain.params import (
    BOUNDS,
    ChainParameters,
    InvalidGenesisError,
    compute_attempt_seconds,
    parse_parameters,
)
from chain.primitives import Hash32, TaskId
from chain.training.fees import (
    compute_computation_fee,
    compute_promised_time,
    compute_time_fee,
)
from chain.training.leases import is_expired
from chain.training.task_spec import Phases, TaskSpec
from chain.training.task_spec_codec import compute_terms
from miner.limits import compute_lock_seconds
from tests.worlds.contracts import (
    BUDGET,
    FEE_LIMIT,
    FLOOR,
    MINERS,
    OPERATORS,
    PRICES,
    PURCHASE,
    RESOURCES,
    ROUND_COST,
    STRANGER,
    SUBMITTER,
    SUPPLY_EACH,
    TERMS,
    VALIDATORS,
    World,
    deploy_contracts,
    new_world,
    refusal,
    started_world,
    with_terms,
)
from tests.worlds.training import SPEC as SMALL_SPEC

N = 4
SLOT, BYTES = 1_000, 200 * 3 // 2 * N
"""The prices of a second: of the first slots, and of 1.5 GiB at each of four validators."""
ANSWER = 5_000 + 7_000 * 240
ATTEMPT = 7_000 * N * (8 * 100 + 3 * 200) // 1_000
PROMISE = 7_000 * N * 800 // 40_000
"""The price of a second of what is promised: eight checks of 100 ms in 40 s."""
DAY = 86_400
ATTEMPT_SECONDS = 30 + 3 * (40 + 40 + 15 + 40 + 50) + 40 + 50 + 40
BLOCK_SECONDS = 5
CHEAPEST = TaskResources(1, 1, 1, 1)


@pytest.fixture
def world() -> World:
    return new_world()


def let_pass(world: World, seconds: int) -> None:
    """Let time pass on a chain without transactions."""
    world.mine(-(-seconds // BLOCK_SECONDS), seconds)


def submit_many(world: World, count: int) -> None:
    """Submit tasks that are as cheap as the rules allow."""
    terms = with_terms(max_units=1, min_miners=1, unit_price=1, validator_fee=0)
    for _ in range(count):
        world.submit(terms, budget=1, purchase=Purchase(ATTEMPT_SECONDS, 1), resources=CHEAPEST)


# ---- the fee


def test_a_fee_is_the_sum_of_parts_that_anyone_can_compute(world: World) -> None:
    assert world.quote(purchase=Purchase(10 * DAY, 20)) == Quote(
        pending_rent=(SLOT + PROMISE) * 3_600 + BYTES * (3_600 + DAY),
        answer_pay=ANSWER,
        examination=N * ANSWER,
        rent=(SLOT + BYTES) * 10 * DAY,
        computation=PROMISE * 10 * DAY,
        fee=(SLOT + PROMISE) * 3_600
        + BYTES * (3_600 + DAY)
        + N * ANSWER
        + (SLOT + BYTES + PROMISE) * 10 * DAY,
    )


def test_time_is_paid_as_promised_or_as_used_whichever_is_more(world: World) -> None:
    lifetime = DAY
    attempts = PROMISE * lifetime // ATTEMPT
    for bought, expected in (
        (attempts, PROMISE * lifetime),
        (attempts + 1, ATTEMPT * (attempts + 1)),
    ):
        assert world.quote(purchase=Purchase(lifetime, bought)).computation == expected


def test_evaluations_are_promised_the_share_of_their_phase(world: World) -> None:
    resources = replace(RESOURCES, evaluation_milliseconds=5_000)
    quote = world.quote(resources=resources, purchase=Purchase(DAY, 1))
    assert quote.computation == 7_000 * N * DAY * 5 // 50
    less = replace(resources, evaluation_milliseconds=RESOURCES.evaluation_milliseconds)
    price = world.quote(resources=less, purchase=Purchase(DAY, 1)).pending_rent
    assert quote.pending_rent - price == (7_000 * N // 10 - PROMISE) * 3_600


SPECIFICATIONS = st.builds(
    lambda units, times, phases: replace(
        SMALL_SPEC,
        reward=replace(SMALL_SPEC.reward, max_units=units, min_miners=1, min_units=1),
        phases=Phases(*phases),
        resources=TaskResources(*times, 1, 1),
    ),
    st.integers(1, 65_536),
    st.tuples(*[st.integers(1, 86_400_000)] * 2),
    st.tuples(*[st.integers(4, 86_400)] * 3),
)
PURCHASES = st.builds(Purchase, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))


@cache
def quiet_world() -> World:
    """A world in which prices are asked for and nothing else happens."""
    return new_world()


@given(SPECIFICATIONS, PURCHASES)
def test_nodes_compute_the_price_of_time_as_the_contract_does(
    spec: TaskSpec, purchase: Purchase
) -> None:
    world, price = quiet_world(), PRICES.second_price
    quote = world.quote(compute_terms(spec), spec.resources, purchase)
    assert quote.computation == compute_computation_fee(
        spec, purchase, validator_count=N, second_price=price
    )
    promised = compute_promised_time(spec, PRICES.pending_seconds)
    rent = SLOT * 3_600 + -(-N * PRICES.byte_price * 2 * (3_600 + DAY) // (2**30 * DAY))
    assert quote.pending_rent == rent + compute_time_fee(
        promised, validator_count=N, second_price=price
    )


@given(SPECIFICATIONS, st.lists(PURCHASES, min_size=2, max_size=5))
def test_no_split_of_a_purchase_is_cheaper_than_the_whole(
    spec: TaskSpec, parts: list[Purchase]
) -> None:
    def price(purchase: Purchase) -> int:
        return compute_computation_fee(spec, purchase, validator_count=N, second_price=3)

    lifetime = sum(part.lifetime_seconds for part in parts)
    whole = Purchase(lifetime, sum(part.attempts for part in parts))
    paid = sum(map(price, parts))
    assert paid >= price(whole)
    promised = compute_promised_time(spec, lifetime)
    assert paid >= compute_time_fee(promised, validator_count=N, second_price=3)


@cache
def active_state() -> tuple[AtomicDB, Hash32]:
    """A task that has just become active, for a day and an attempt."""
    world = World(database := AtomicDB())
    deploy_contracts(world)
    world.submit(purchase=Purchase(DAY, 1))
    world.ready()
    return world.save(database)


def test_lifetime_bought_by_the_second_ends_when_it_is_paid_for() -> None:
    """Each second added a whole block, so an idle chain kept the task for five times as long."""
    world = World(*active_state())
    end = world.lease
    for _ in range(10):
        world.extend(Purchase(1, 0))
    lease = world.lease
    assert (lease.end_time, lease.end_block) == (end.end_time + 10, end.end_block)
    let_pass(world, DAY + 10)
    assert world.expire().events == (TaskClosed(world.task, CloseReason.EXPIRED),)


STEPS = st.tuples(st.integers(0, 40), st.integers(0, 3))
"""Seconds and attempts of a purchase."""


@settings(max_examples=30)
@given(st.lists(STEPS.filter(any), min_size=2, max_size=8), st.integers(0, DAY + 100))
def test_no_split_of_an_extension_is_cheaper_or_lasts_longer(
    parts: list[tuple[int, int]], seconds: int
) -> None:
    """With rent and disk, and also if the lifetime ends while an attempt is open."""

    def buy(purchases: list[tuple[int, int]]) -> tuple[int, TaskLease]:
        world = World(*active_state())
        for miner in MINERS[:2]:
            world.register(miner)
        world.advance()
        let_pass(world, seconds)
        burnt = world.burnt
        for purchase in purchases:
            world.extend(Purchase(*purchase))
        blocks, left = world.lease.end_block - world.number, world.lease.end_time - world.timestamp
        assert (blocks - 1) * BLOCK_SECONDS < left
        return world.burnt - burnt, world.lease

    paid, lease = buy(parts)
    price, whole = buy([(sum(each for each, _ in parts), sum(each for _, each in parts))])
    assert paid >= price
    assert (lease.end_time, lease.attempts_left) == (whole.end_time, whole.attempts_left)
    assert lease.end_block <= whole.end_block


def test_extensions_pay_what_one_purchase_of_all_pays(world: World) -> None:
    whole = world.quote(purchase=Purchase(9 * DAY, 30))
    world.submit(purchase=Purchase(DAY, 10))
    world.extend(Purchase(3 * DAY, 0))
    held = world.lease.held_rent
    world.ready()
    burnt = world.burnt
    world.extend(Purchase(5 * DAY, 20))
    assert held + world.burnt - burnt == whole.rent + whole.computation


def test_a_submission_takes_the_fee_and_burns_the_pending_part(world: World) -> None:
    quote = world.quote()
    (_, leased) = world.submit(max_fee=quote.fee).events
    assert world.balance(SUBMITTER) == SUPPLY_EACH - BUDGET - quote.fee
    assert world.burnt == quote.pending_rent
    lease = world.lease
    assert leased == TaskLeased(world.task, SUBMITTER, quote.pending_rent, lease)
    assert (lease.held_pay, lease.held_rent) == (quote.examination, quote.rent + quote.computation)
    assert (lease.lifetime_seconds, lease.attempts_left) == (
        PURCHASE.lifetime_seconds,
        PURCHASE.attempts,
    )
    assert lease.attempt_seconds == ATTEMPT_SECONDS
    assert (lease.window_time, lease.window_block) == (world.timestamp + 3_600, world.number + 720)
    assert (lease.idle_seconds, lease.idle_blocks) == (7 * DAY, 7 * DAY // BLOCK_SECONDS)


def test_no_one_pays_more_than_the_stated_fee(world: World) -> None:
    fee = world.quote().fee
    assert refusal(world.submit, max_fee=fee - 1) == ContractError("TaskFeeTooHigh", (fee, fee - 1))
    assert world.balance(TASK_REGISTRY) == 0


@pytest.mark.parametrize(
    ("purchase", "field"),
    [
        (Purchase(ATTEMPT_SECONDS - 1, 1), "lifetimeSeconds"),
        (Purchase(200 * DAY + 1, 1), "lifetimeSeconds"),
        (Purchase(ATTEMPT_SECONDS, 0), "attempts"),
    ],
)
def test_a_task_buys_at_least_one_attempt(world: World, purchase: Purchase, field: str) -> None:
    refused = refusal(world.submit, purchase=purchase)
    assert refused == ContractError("TaskInvalidTerms", (field,))
    assert world.submit(purchase=Purchase(ATTEMPT_SECONDS, 1)).events


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("unit_milliseconds", "unitMilliseconds"),
        ("evaluation_milliseconds", "evaluationMilliseconds"),
        ("peak_bytes", "peakBytes"),
        ("disk_bytes", "diskBytes"),
    ],
)
def test_nothing_is_declared_to_be_free(world: World, name: str, field: str) -> None:
    refused = refusal(world.submit, resources=replace(RESOURCES, **{name: 0}))
    assert refused == ContractError("TaskInvalidTerms", (field,))


def test_the_price_of_a_slot_doubles_with_each_eighth_that_is_taken(world: World) -> None:
    rents = []
    for _ in range(PRICES.task_slots):
        rents.append(world.quote(resources=CHEAPEST, purchase=Purchase(DAY, 1)).rent // DAY)
        submit_many(world, 1)
    assert rents == [SLOT << at // 2 for at in range(16)]


def test_all_slots_of_base_unit_tasks_cost_what_genesis_says_and_end(world: World) -> None:
    before = world.balance(SUBMITTER)
    submit_many(world, PRICES.task_slots)
    paid = before - world.balance(SUBMITTER)
    # Each eighth of the slots is twice as dear as the one before: 255 times two slots.
    assert paid >= 2 * 255 * SLOT * (3_600 + ATTEMPT_SECONDS)
    assert refusal(world.submit) == ContractError("TaskNoFreeSlot", (PRICES.task_slots,))

    let_pass(world, 3_600)
    for number in range(1, PRICES.task_slots + 1):
        world.send(STRANGER, task_registry.expire_task(TaskId(number)))
    assert world.read(task_registry.get_open_tasks()) == 0
    assert world.submit().events


def test_the_largest_numbers_of_all_overflow_no_fee() -> None:
    world = World(AtomicDB())
    most = 2**63 - 1
    deploy_contracts(
        world,
        prices=replace(
            PRICES,
            task_slots=1,
            slot_price=most,
            second_price=most,
            byte_price=most,
            examination_fee=most,
            max_lifetime_seconds=365 * DAY,
        ),
    )
    terms = with_terms(max_units=65_536)
    resources = TaskResources(2**32 - 1, 2**32 - 1, 2**64 - 1, 2**64 - 1)
    purchase = Purchase(2**32 - 1, 2**32 - 1)
    quote = world.quote(terms, resources, purchase)
    milliseconds = 65_536 * (2**32 - 1) + 3 * (2**32 - 1)
    assert quote.computation == -(-N * most * milliseconds * (2**32 - 1) // 1_000)
    promise = -(-N * most * -(-65_536_000 * (2**32 - 1) // 40) * 3_600 // 10**6)
    rent = most * 3_600 + -(-N * most * 2 * (2**64 - 1) * (3_600 + DAY) // (2**30 * DAY))
    assert quote.pending_rent == rent + promise
    assert quote.examination == N * 241 * most


# ---- answers


def test_every_validator_is_paid_for_its_answer_whatever_it_says(world: World) -> None:
    world.submit()
    held = world.lease.held_pay
    world.answer(OPERATORS[:1], 7)
    world.ready(OPERATORS[1:])
    assert world.money.status is TaskStatus.ACTIVE
    for operator in OPERATORS:
        assert world.read(task_registry.get_examination_pay(operator)) == ANSWER
        world.send(operator, task_registry.withdraw_examination_pay())
        assert world.balance(operator) == ANSWER
        again = refusal(world.send, operator, task_registry.withdraw_examination_pay())
        assert again == ContractError("TaskNothingToWithdraw", ("0x" + operator.hex(),))
    assert (held, world.lease.held_pay) == (N * ANSWER, 0)


def test_an_answer_after_the_decision_is_paid_and_decides_nothing(world: World) -> None:
    world.submit()
    world.ready()
    last = world.answer(OPERATORS[3:], 7)
    assert last.events == (TaskAnswered(world.task, VALIDATORS[3], 7, 1),)
    assert world.read(task_registry.get_examination_pay(OPERATORS[3])) == ANSWER
    assert world.money.status is TaskStatus.ACTIVE


def test_a_task_closes_when_more_than_f_validators_give_one_reason(world: World) -> None:
    world.submit()
    world.answer(OPERATORS[:1], 3)
    closed = world.answer(OPERATORS[1:2], 3)
    assert closed.events == (
        TaskAnswered(world.task, VALIDATORS[1], 3, 2),
        TaskClosed(world.task, CloseReason.REFUSED),
    )
    assert (world.money.status, world.lease.refusal_code) == (TaskStatus.CLOSED, 3)
    assert world.ready(OPERATORS[2:3]).events == (TaskAnswered(world.task, VALIDATORS[2], 0, 1),)
    assert world.money.status is TaskStatus.CLOSED


def test_different_reasons_do_not_add_up(world: World) -> None:
    world.submit()
    for code, operator in enumerate(OPERATORS, 1):
        world.answer([operator], code)
    assert world.money.status is TaskStatus.PENDING


def test_answers_are_over_when_seconds_and_blocks_are(world: World) -> None:
    world.submit()
    lease = world.lease
    world.at(lease.window_block - 1, lease.window_time + DAY)
    world.ready(OPERATORS[:1])
    world.at(lease.window_block + DAY, lease.window_time - 1)
    world.ready(OPERATORS[1:2])
    world.at(lease.window_block, lease.window_time)
    over = ContractError("TaskAnswersOver", (world.task,))
    assert refusal(world.ready, OPERATORS[2:3]) == over
    assert world.money.status is TaskStatus.PENDING


def test_pay_that_no_answer_earned_goes_back_after_the_window(world: World) -> None:
    world.submit()
    world.ready()
    nothing = ContractError("TaskNothingToRefund", (world.task,))
    assert refusal(world.refund_fee) == nothing
    let_pass(world, 3_600)
    before = world.balance(SUBMITTER)
    world.refund_fee()
    assert world.balance(SUBMITTER) == before + ANSWER
    assert refusal(world.refund_fee) == nothing


def test_rent_goes_back_if_the_task_never_became_active(world: World) -> None:
    quote = world.quote()
    world.submit()
    world.answer(OPERATORS[:2], 3)
    before = world.balance(SUBMITTER)
    world.refund_fee()
    assert world.balance(SUBMITTER) == before + quote.rent + quote.computation
    let_pass(world, 3_600)
    world.refund_fee()
    assert world.balance(SUBMITTER) == SUPPLY_EACH - BUDGET - quote.pending_rent - 2 * ANSWER


def test_rent_is_burnt_when_the_task_becomes_active(world: World) -> None:
    quote = world.quote()
    world.submit()
    world.ready()
    assert world.burnt == quote.pending_rent + quote.rent + quote.computation
    assert world.lease.held_rent == 0
    lease = world.lease
    seconds = PURCHASE.lifetime_seconds
    assert lease.end_time == world.timestamp + seconds
    assert lease.end_block == world.number + seconds // BLOCK_SECONDS


# ---- attempts and lifetime


def test_no_more_attempts_open_than_were_bought(world: World) -> None:
    world.submit(purchase=Purchase(10 * DAY, 1))
    world.ready()
    for miner in MINERS[:2]:
        world.register(miner)
    world.advance()
    assert (world.round.open, world.lease.attempts_left) == (True, 0)
    world.mine(1, 1)
    world.play_round()
    assert (world.round.open, world.phase) == (False, Phase.WAITING)

    world.extend(Purchase(0, 1))
    assert (world.round.open, world.lease.attempts_left) == (True, 0)


def start_with_miners(world: World, lifetime_seconds: int, *, seconds: int, blocks: int) -> bool:
    """Whether an attempt opens if miners come so long after the task became active."""
    world.submit(purchase=Purchase(lifetime_seconds, 10))
    world.ready()
    world.mine(blocks, seconds)
    for miner in MINERS[:2]:
        world.register(miner)
    if world.phase is not Phase.STALLED:
        assert refusal(world.advance).name == "LedgerWrongPhase"
        return False
    world.advance()
    return world.round.open


@pytest.mark.parametrize(
    ("seconds", "blocks", "is_opened"),
    [
        (DAY - ATTEMPT_SECONDS, DAY // BLOCK_SECONDS, True),
        (DAY - ATTEMPT_SECONDS + 1, DAY // BLOCK_SECONDS, False),
        (DAY, (DAY - ATTEMPT_SECONDS) // BLOCK_SECONDS, True),
        (DAY, (DAY - ATTEMPT_SECONDS) // BLOCK_SECONDS + 1, False),
    ],
)
def test_no_attempt_opens_that_the_lifetime_may_not_cover(
    world: World, seconds: int, blocks: int, is_opened: bool
) -> None:
    assert start_with_miners(world, DAY, seconds=seconds, blocks=blocks) is is_opened


def test_an_expired_pending_task_gets_back_all_but_the_pending_rent(world: World) -> None:
    quote = world.quote()
    world.submit()
    let_pass(world, 3_595)
    assert refusal(world.expire) == ContractError("TaskNotExpired", (world.task,))
    let_pass(world, 5)
    assert world.read(task_registry.is_expired(world.task))
    assert world.expire().events == (TaskClosed(world.task, CloseReason.EXPIRED),)
    assert not world.read(task_registry.is_expired(world.task))
    world.refund()
    world.refund_fee()
    assert world.balance(SUBMITTER) == SUPPLY_EACH - quote.pending_rent


def test_a_task_ends_with_its_lifetime_and_its_escrow_returns(world: World) -> None:
    world.submit(purchase=Purchase(DAY, 10))
    world.ready()
    let_pass(world, DAY - BLOCK_SECONDS)
    assert refusal(world.expire).name == "TaskNotExpired"
    let_pass(world, BLOCK_SECONDS)
    assert world.expire().events == (TaskClosed(world.task, CloseReason.EXPIRED),)
    before = world.balance(SUBMITTER)
    world.refund()
    assert world.balance(SUBMITTER) == before + BUDGET
    assert world.read(task_registry.get_open_tasks()) == 0


def test_a_chain_that_stood_still_takes_no_lifetime(world: World) -> None:
    world.submit(purchase=Purchase(DAY, 10))
    world.ready()
    world.mine(1, 30 * DAY)
    assert refusal(world.expire).name == "TaskNotExpired"
    for miner in MINERS[:2]:
        world.register(miner)
    world.advance()
    assert world.round.open


def test_a_task_expires_only_at_the_end_of_its_attempt() -> None:
    world = started_world()
    let_pass(world, PURCHASE.lifetime_seconds)
    assert refusal(world.expire).name == "TaskNotExpired"
    world.advance()
    assert not world.round.open
    assert world.expire().events == (TaskClosed(world.task, CloseReason.EXPIRED),)


def test_a_paused_task_waits_for_its_submitter_until_its_lifetime_ends() -> None:
    """Miners that make attempts fail must not cost the submitter the rent that it has paid."""
    world = started_world()
    for _ in range(3):
        world.void_round()
    assert world.money.status is TaskStatus.PAUSED
    let_pass(world, 90 * DAY)
    assert refusal(world.expire).name == "TaskNotExpired"
    # Its idle time is counted anew, even if it has no miners.
    for miner in MINERS[:2]:
        world.leave(miner)
    world.resume()
    let_pass(world, 7 * DAY - BLOCK_SECONDS)
    assert refusal(world.expire).name == "TaskNotExpired"
    let_pass(world, BLOCK_SECONDS)
    assert world.expire().events == (TaskClosed(world.task, CloseReason.EXPIRED),)


def test_a_paused_task_ends_with_its_lifetime() -> None:
    world = started_world()
    for _ in range(3):
        world.void_round()
    let_pass(world, PURCHASE.lifetime_seconds)
    assert world.expire().events == (TaskClosed(world.task, CloseReason.EXPIRED),)


def test_an_idle_task_expires_long_before_its_lifetime(world: World) -> None:
    world.submit()
    world.ready()
    let_pass(world, 7 * DAY - BLOCK_SECONDS)
    assert refusal(world.expire).name == "TaskNotExpired"
    let_pass(world, BLOCK_SECONDS)
    assert world.expire().events == (TaskClosed(world.task, CloseReason.EXPIRED),)


def test_a_paid_attempt_is_progress_and_a_void_one_is_not() -> None:
    world = started_world()
    began = world.lease.progress_time
    world.void_round()
    assert world.lease.progress_time == began
    world.play_round()
    assert world.lease.progress_time == world.timestamp - 1


def test_idle_time_is_longer_than_any_chain_of_attempts() -> None:
    week = 7 * DAY
    world = World(AtomicDB())
    deploy_contracts(world, prices=replace(PRICES, idle_seconds=60))
    terms = with_terms(commit_seconds=week, verdict_seconds=week, result_seconds=week)
    world.submit(terms)
    lease = world.lease
    assert lease.idle_seconds == 6 * lease.attempt_seconds > 6 * 8 * week


# ---- extensions


def test_an_extension_costs_todays_price_without_the_tasks_own_slot(world: World) -> None:
    world.submit()
    world.ready()
    burnt, end = world.burnt, world.lease.end_time
    submit_many(world, 1)
    before, burnt = world.balance(MINERS[3]), world.burnt
    extension = Purchase(DAY, 3)
    quote = world.read(task_registry.get_extension_quote(world.task, extension))
    assert quote.fee == quote.rent + quote.computation == (SLOT + BYTES + PROMISE) * DAY
    world.extend(extension, MINERS[3], quote.fee)
    assert world.balance(MINERS[3]) == before - quote.fee
    assert world.burnt == burnt + quote.fee
    assert world.lease.end_time == end + DAY
    assert world.lease.attempts_left == PURCHASE.attempts + 3
    too_low = refusal(world.extend, extension, MINERS[3], quote.fee - 1)
    assert too_low == ContractError("TaskFeeTooHigh", (quote.fee, quote.fee - 1))


def test_a_pending_task_is_extended_with_money_that_is_held(world: World) -> None:
    world.submit(purchase=Purchase(DAY, 1))
    held, burnt = world.lease.held_rent, world.burnt
    world.extend(Purchase(DAY, 2))
    assert (world.lease.lifetime_seconds, world.lease.attempts_left) == (2 * DAY, 3)
    assert world.lease.held_rent == held + (SLOT + BYTES + PROMISE) * DAY
    assert world.burnt == burnt
    let_pass(world, 3_600)
    assert refusal(world.extend, Purchase(DAY, 0)) == ContractError("TaskIsOver", (world.task,))


def test_no_lifetime_ends_beyond_the_longest_one(world: World) -> None:
    world.submit(purchase=Purchase(199 * DAY, 1))
    too_long = ContractError("TaskInvalidTerms", ("lifetimeSeconds",))
    assert refusal(world.extend, Purchase(DAY + 1, 0)) == too_long
    world.ready()
    assert refusal(world.extend, Purchase(DAY + 1, 0)) == too_long
    world.extend(Purchase(DAY, 0))
    let_pass(world, DAY)
    world.extend(Purchase(DAY, 0))
    assert world.lease.end_time == world.timestamp + 200 * DAY


def test_longest_lifetime_bounds_the_blocks_of_a_chain_that_stood_still(world: World) -> None:
    world.submit(purchase=Purchase(200 * DAY, 1))
    world.ready()
    world.mine(DAY // BLOCK_SECONDS, 3 * DAY)
    too_long = ContractError("TaskInvalidTerms", ("lifetimeSeconds",))
    assert refusal(world.extend, Purchase(DAY + BLOCK_SECONDS, 0)) == too_long
    world.extend(Purchase(DAY, 0))
    assert world.lease.end_time == world.timestamp + 198 * DAY
    assert world.lease.end_block == world.number + 200 * DAY // BLOCK_SECONDS


def test_nobody_can_buy_so_many_attempts_that_none_can_be_given_back(world: World) -> None:
    """An attempt without a commitment is given back, which must fit the counter for ever."""
    too_many = ContractError("TaskInvalidTerms", ("attempts",))
    assert refusal(world.submit, purchase=Purchase(DAY, 2**31 + 1)) == too_many
    world.submit(purchase=Purchase(DAY, 3))
    world.ready()
    for miner in MINERS[:2]:
        world.register(miner)
    world.advance()
    world.mine(1, 1)
    assert world.phase is Phase.COMMITMENT
    assert refusal(world.extend, Purchase(0, 2**32 - 3), STRANGER) == too_many
    world.extend(Purchase(0, 2**31 - 2))
    world.pass_phase()
    assert world.advance().events
    assert world.lease.attempts_left <= 2**31


def test_a_task_that_is_over_cannot_be_extended(world: World) -> None:
    world.submit(purchase=Purchase(DAY, 1))
    world.ready()
    let_pass(world, DAY)
    assert refusal(world.extend, Purchase(DAY, 1)) == ContractError("TaskIsOver", (world.task,))


def test_purchase_of_nothing_is_refused(world: World) -> None:
    """It would cost no fee, and any account could have all nodes write the task's row again."""
    world.submit(purchase=Purchase(DAY, 1))
    nothing = ContractError("TaskInvalidTerms", ("attempts",))
    assert refusal(world.extend, Purchase(0, 0), STRANGER) == nothing
    world.ready()
    assert refusal(world.extend, Purchase(0, 0), STRANGER) == nothing


def test_time_after_the_end_is_not_extended() -> None:
    world = started_world()
    let_pass(world, PURCHASE.lifetime_seconds + DAY)
    world.extend(Purchase(DAY, 0))
    assert world.lease.end_time == world.timestamp + DAY
    assert world.lease.end_block == world.number + DAY // BLOCK_SECONDS


def test_one_task_pays_nothing_for_another(world: World) -> None:
    world.submit()
    world.submit(budget=ROUND_COST)
    world.ready()
    world.task = TaskId(2)
    world.answer(OPERATORS[:2], 5)
    world.refund()
    world.refund_fee()
    world.task = TaskId(1)
    assert world.money.refundable == BUDGET
    let_pass(world, 3_600)
    world.refund_fee()
    assert world.money.status is TaskStatus.ACTIVE
    pay = 3 * ANSWER + 2 * ANSWER
    assert world.balance(TASK_REGISTRY) == BUDGET + world.burnt + pay + 2 * ANSWER


def test_prices_are_those_of_genesis(world: World) -> None:
    assert world.read(task_registry.get_prices()) == PRICES
    assert world.read(task_registry.get_attempt_seconds(TERMS)) == ATTEMPT_SECONDS
    assert world.quote().fee < FEE_LIMIT


@pytest.mark.parametrize("status", [TaskStatus.PENDING, TaskStatus.ACTIVE, TaskStatus.PAUSED])
def test_nodes_know_the_moment_at_which_a_task_is_over(status: TaskStatus) -> None:
    world = new_world()
    if status is TaskStatus.PAUSED:
        world = started_world()
        for _ in range(3):
            world.void_round()
    else:
        world.submit(purchase=Purchase(3 * DAY, 10))
    if status is TaskStatus.ACTIVE:
        world.ready()
    assert world.money.status is status
    lease = world.lease
    times = (lease.window_time, lease.end_time, lease.progress_time + lease.idle_seconds)
    blocks = (lease.window_block, lease.end_block, lease.progress_block + lease.idle_blocks)
    found = set()
    for time in {moment + shift for moment in times if moment for shift in (-1, 0)}:
        for number in {moment + shift for moment in blocks if moment for shift in (-1, 0)}:
            world.at(number, time)
            is_over = is_expired(status, lease, is_attempt_open=False, number=number, now=time)
            assert world.read(task_registry.is_expired(world.task)) == is_over
            found.add(is_over)
    assert found == {True, False}


@pytest.mark.parametrize("interval_ms", BOUNDS["empty_block_interval_ms"])
def test_the_longest_times_of_genesis_fit_a_lease(interval_ms: int) -> None:
    pending, lifetime, idle = (
        BOUNDS[name][1] for name in ("pending_seconds", "max_lifetime_seconds", "idle_seconds")
    )
    prices = replace(
        PRICES,
        pending_seconds=pending,
        max_lifetime_seconds=lifetime,
        idle_seconds=idle,
        empty_block_milliseconds=interval_ms,
    )
    world = World(AtomicDB())
    deploy_contracts(world, prices=prices)
    world.submit(purchase=Purchase(lifetime, 2**31))
    number, now = world.number, world.timestamp
    assert world.lease.window_block == number - (-pending * 1000 // interval_ms)
    assert world.lease.window_time == now + pending
    world.ready()
    assert (world.lease.idle_seconds, world.lease.end_time) == (idle, now + lifetime)
    assert world.lease.idle_blocks == -(-idle * 1000 // interval_ms)
    assert world.lease.end_block == number - (-lifetime * 1000 // interval_ms)


@pytest.mark.parametrize(("floor", "interval_ms"), [(1, 10), (8, 5_000), (65_535, 599)])
def test_genesis_allows_the_longest_lifetime_that_one_attempt_fills(
    floor: int, interval_ms: int
) -> None:
    parameters = ChainParameters(
        validators=VALIDATORS,
        min_block_interval_ms=10,
        empty_block_interval_ms=interval_ms,
        phase_floor_blocks=floor,
    )
    least = compute_attempt_seconds(parameters, len(VALIDATORS))
    prices = replace(
        PRICES,
        max_lifetime_seconds=least,
        empty_block_milliseconds=interval_ms,
        phase_floor_blocks=floor,
    )
    world = World(AtomicDB())
    deploy_contracts(world, prices=prices)
    terms = with_terms(commit_seconds=1, verdict_seconds=1, result_seconds=1)
    assert world.read(task_registry.get_attempt_seconds(terms)) == least
    longest = replace(parameters, max_lifetime_seconds=max(3_600, least))
    section = {**longest.to_json(), "validators": [f"0x{each.hex()}" for each in VALIDATORS]}
    assert parse_parameters(section) == longest
    if least > 3_600:
        with pytest.raises(InvalidGenesisError, match="no task could ever be active"):
            parse_parameters({**section, "max_lifetime_seconds": least - 1})


@pytest.mark.parametrize("seconds", [1, 39, 40, 41, 86_400])
def test_miner_counts_an_attempt_as_the_registry_does(seconds: int) -> None:
    """It was counted without the least blocks of phases and the turns of operators."""
    parameters = ChainParameters(phase_floor_blocks=FLOOR)
    phases = {"commit_seconds": seconds, "verdict_seconds": 5, "result_seconds": 2 * seconds}
    world = World(AtomicDB())
    deploy_contracts(world, prices=PRICES)
    needed = world.read(task_registry.get_attempt_seconds(with_terms(**phases)))
    assert compute_attempt_seconds(parameters, len(VALIDATORS), **phases) == needed
    spec = replace(SMALL_SPEC, phases=Phases(**phases))
    fined_blocks = 3 * 64 + 1
    assert compute_lock_seconds(spec, parameters, len(VALIDATORS)) == needed + 5 * fined_blocks
