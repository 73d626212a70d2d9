"""Tasks, their terms and their escrow (docs/spec/contracts.md, section 4)."""

import hashlib

import pytest

from chain.contracts import reward_distributor, task_registry
from chain.contracts.addresses import GRADIENT_LEDGER, TASK_REGISTRY
from chain.contracts.errors import ContractError
from chain.contracts.gradient_ledger import Phase
from chain.contracts.task_registry import (
    CloseReason,
    TaskAccount,
    TaskActivated,
    TaskAnswered,
    TaskClosed,
    TaskLeased,
    TaskRefunded,
    TaskStatus,
    TaskSubmitted,
)
from chain.primitives import Hash32
from tests.worlds.contracts import (
    BUDGET,
    FEE_LIMIT,
    MINERS,
    OPERATORS,
    PURCHASE,
    RESOURCES,
    ROUND_COST,
    SPEC,
    STRANGER,
    SUBMITTER,
    SUPPLY_EACH,
    TERMS,
    VALIDATORS,
    World,
    new_world,
    refusal,
    with_terms,
)


@pytest.fixture
def world() -> World:
    return new_world()


def test_submission_escrows_the_budget_and_publishes_the_spec(world: World) -> None:
    fee = world.quote().fee
    answer = world.submit()
    assert answer.events[0] == TaskSubmitted(world.task, SUBMITTER, TERMS.spec_hash, BUDGET, SPEC)
    assert int.from_bytes(answer.output, "big") == world.task
    assert world.money == TaskAccount(
        submitter=SUBMITTER,
        status=TaskStatus.PENDING,
        ready_count=0,
        cancelling=False,
        close_reason=CloseReason.COMPLETED,
        submitted_block=world.number,
        activated_block=0,
        closed_block=0,
        closed_time=0,
        escrowed=BUDGET,
        paid=0,
        reserved=0,
        refundable=BUDGET,
        refunded=0,
    )
    terms = world.read(task_registry.get_terms(world.task))
    assert terms == TERMS
    assert world.read(task_registry.get_resources(world.task)) == RESOURCES
    assert world.balance(TASK_REGISTRY) == BUDGET + fee
    assert world.balance(SUBMITTER) == SUPPLY_EACH - BUDGET - fee


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"audit_ppm": 999_999}, "auditPpm"),
        ({"rounds": 0}, "rounds"),
        ({"min_miners": 0}, "minMiners"),
        ({"min_miners": 9}, "minMiners"),
        ({"min_miners": 1025, "max_units": 65_536}, "minMiners"),
        # Each seat has two units at least.
        ({"min_miners": 1001, "max_units": 2000}, "minMiners"),
        ({"min_units": 1}, "minUnits"),
        ({"min_units": 9}, "minUnits"),
        # 63 units that are free have no room for a seat.
        ({"min_units": 65_474, "max_units": 65_536}, "minUnits"),
        ({"max_units": 0}, "maxUnits"),
        ({"max_units": 65_537}, "maxUnits"),
        ({"unit_price": 0}, "unitPrice"),
        ({"unit_price": 2**128 - 1}, "unitPrice"),
        ({"commit_seconds": 3}, "commitSeconds"),
        ({"commit_seconds": 7 * 86_400 + 1}, "commitSeconds"),
        ({"verdict_seconds": 3}, "verdictSeconds"),
        ({"verdict_seconds": 7 * 86_400 + 1}, "verdictSeconds"),
        ({"result_seconds": 3}, "resultSeconds"),
        ({"result_seconds": 7 * 86_400 + 1}, "resultSeconds"),
    ],
)
def test_terms_outside_their_bounds_are_refused_by_name(world: World, changes, field) -> None:
    refused = refusal(world.submit, with_terms(**changes))
    assert refused == ContractError("TaskInvalidTerms", (field,))


def test_terms_at_their_bounds_are_accepted(world: World) -> None:
    week = 7 * 86_400
    terms = with_terms(
        max_units=65_536,
        min_miners=1024,
        min_units=65_473,
        unit_price=1,
        commit_seconds=week,
        verdict_seconds=4,
        result_seconds=week,
    )
    assert world.submit(terms, max_fee=2**200).events


def test_a_budget_below_one_round_is_refused(world: World) -> None:
    refused = refusal(world.submit, budget=ROUND_COST - 1)
    assert refused == ContractError("TaskInvalidTerms", ("budget",))
    assert world.submit(budget=ROUND_COST).events


def test_a_spec_must_hash_to_the_spec_hash(world: World) -> None:
    actual = hashlib.sha256(b"other").digest()
    assert refusal(world.submit, spec=b"other") == ContractError(
        "TaskSpecHashMismatch", ("0x" + TERMS.spec_hash.hex(), "0x" + actual.hex())
    )


def test_a_spec_is_at_most_16_kib(world: World) -> None:
    for size, is_accepted in ((16 * 1024, True), (16 * 1024 + 1, False)):
        spec = bytes(size)
        terms = with_terms(spec_hash=Hash32(hashlib.sha256(spec).digest()))
        if is_accepted:
            assert world.submit(terms, spec).events
        else:
            refused = refusal(world.submit, terms, spec)
            assert refused == ContractError("TaskSpecTooLarge", (size, 16 * 1024))


def test_a_submission_without_allowance_takes_nothing(world: World) -> None:
    data = task_registry.submit_task(TERMS, RESOURCES, SPEC, BUDGET, PURCHASE, FEE_LIMIT)
    refused = refusal(world.send, SUBMITTER, data)
    assert refused == ContractError(
        "ERC20InsufficientAllowance", ("0x" + TASK_REGISTRY.hex(), 0, BUDGET)
    )
    assert world.read(task_registry.task_count()) == 0


def test_a_quorum_of_ready_votes_activates_a_task(world: World) -> None:
    world.submit()
    rent = world.lease.held_rent
    votes = [world.ready([operator]) for operator in OPERATORS[:3]]
    assert [vote.events for vote in votes] == [
        (TaskAnswered(world.task, VALIDATORS[0], 0, 1),),
        (TaskAnswered(world.task, VALIDATORS[1], 0, 2),),
        (
            TaskAnswered(world.task, VALIDATORS[2], 0, 3),
            TaskActivated(world.task),
            TaskLeased(world.task, OPERATORS[2], rent, world.lease),
        ),
    ]
    assert (world.money.status, world.money.activated_block) == (TaskStatus.ACTIVE, world.number)
    answers = [world.read(task_registry.get_answer(world.task, one)) for one in OPERATORS]
    assert answers == [1, 1, 1, 0]


def test_an_answer_is_refused_twice_and_from_a_non_validator(world: World) -> None:
    world.submit()
    world.ready(OPERATORS[:1])
    hexadecimal = "0x" + OPERATORS[0].hex()
    assert refusal(world.ready, OPERATORS[:1]) == ContractError(
        "TaskAlreadyAnswered", (world.task, hexadecimal)
    )
    assert refusal(world.ready, [STRANGER]) == ContractError(
        "ValidatorSetNotOperator", ("0x" + STRANGER.hex(),)
    )


def test_an_unknown_task_is_named(world: World) -> None:
    unknown = ContractError("TaskUnknown", (1,))
    assert refusal(world.ready) == unknown
    assert refusal(world.cancel) == unknown
    assert refusal(world.refund) == unknown
    assert refusal(world.resume) == unknown
    assert refusal(world.fund, 1) == unknown
    assert refusal(world.register, MINERS[0]) == unknown
    assert refusal(lambda: world.money) == unknown


def test_a_pending_task_is_cancelled_at_once_and_refunded(world: World) -> None:
    world.submit()
    before = world.balance(SUBMITTER) + BUDGET
    assert world.cancel().events == (TaskClosed(world.task, CloseReason.CANCELLED),)
    assert world.refund().events == (TaskRefunded(world.task, SUBMITTER, BUDGET),)
    assert world.balance(SUBMITTER) == before
    assert (world.money.refunded, world.money.refundable) == (BUDGET, 0)
    assert refusal(world.refund) == ContractError("TaskNothingToRefund", (world.task,))


def test_funding_with_nothing_is_refused(world: World) -> None:
    """It would cost nothing but gas, and leave an event of the task in every block."""
    world.submit()
    nothing = ContractError("TaskInvalidTerms", ("amount",))
    assert refusal(world.fund, 0, STRANGER) == nothing


def test_only_the_submitter_cancels_and_resumes(world: World) -> None:
    world.submit()
    not_submitter = ContractError("TaskNotSubmitter", ("0x" + STRANGER.hex(),))
    assert refusal(world.cancel, STRANGER) == not_submitter
    assert refusal(world.resume, STRANGER) == not_submitter


def test_a_cancelled_task_finishes_the_round_that_is_open(world: World) -> None:
    world.start_round()
    assert world.cancel().events == ()
    assert world.money.cancelling
    settled = world.play_round()
    assert settled.events[-1] == TaskClosed(world.task, CloseReason.CANCELLED)
    assert (world.phase, world.money.reserved) == (Phase.INACTIVE, 0)


def test_a_cancelled_task_ends_with_a_void_attempt_too(world: World) -> None:
    world.start_round()
    world.cancel()
    world.pass_phase()
    assert world.advance().events[-1] == TaskClosed(world.task, CloseReason.CANCELLED)


def test_a_closed_task_takes_no_money_and_no_calls(world: World) -> None:
    world.submit()
    world.cancel()
    closed = ContractError("TaskWrongStatus", (world.task, TaskStatus.CLOSED))
    assert refusal(world.fund, 1) == closed
    assert refusal(world.cancel) == closed
    assert refusal(world.resume) == closed
    assert refusal(world.extend, PURCHASE) == closed
    assert refusal(world.expire) == closed
    assert refusal(world.register, MINERS[0]) == ContractError("SeatsNotActive", (world.task,))


def test_an_open_task_cannot_be_refunded(world: World) -> None:
    world.submit()
    assert refusal(world.refund) == ContractError(
        "TaskWrongStatus", (world.task, TaskStatus.PENDING)
    )


def test_anyone_may_add_to_the_escrow(world: World) -> None:
    world.submit()
    world.fund(5, MINERS[3])
    assert (world.money.escrowed, world.money.refundable) == (BUDGET + 5, BUDGET + 5)


def test_a_task_that_runs_out_of_money_waits_and_goes_on_when_funded(world: World) -> None:
    world.submit(budget=ROUND_COST)
    world.ready()
    for miner in MINERS[:2]:
        world.register(miner)
    world.advance()
    world.mine(1, 1)
    world.play_round()
    assert (world.phase, world.round.open) == (Phase.WAITING, False)

    world.fund(ROUND_COST)
    assert (world.round.open, world.round.open_block) == (True, world.number)
    world.fund(1)
    assert world.money.reserved == ROUND_COST


def test_the_calls_of_other_contracts_are_theirs_alone(world: World) -> None:
    world.submit()
    not_ledger = ContractError("TaskNotLedger", ("0x" + SUBMITTER.hex(),))
    for name, values in (
        ("reserveRound", (1, 1)),
        ("settleReservation", (1, 0, False)),
        ("pauseTask", (1,)),
        ("closeTask", (1, 0)),
    ):
        call = task_registry.CONTRACT.call(name, *values)
        assert refusal(world.send, SUBMITTER, call) == not_ledger
    payout = task_registry.CONTRACT.call("payOut", 0, bytes(20), 0)
    for sender in (SUBMITTER, GRADIENT_LEDGER):
        assert refusal(world.send, sender, payout) == ContractError(
            "TaskNotDistributor", ("0x" + sender.hex(),)
        )
    root = reward_distributor.CONTRACT.call("setRoot", 0, bytes(32), 0)
    assert refusal(world.send, SUBMITTER, root) == ContractError(
        "DistributorNotLedger", ("0x" + SUBMITTER.hex(),)
    )
