"""Fines by a root, bonds taken and credits (docs/spec/contracts.md, section 6)."""

from dataclasses import replace

import pytest

from chain.contracts import miner_seats, validator_set
from chain.contracts.addresses import MINER_SEATS, TRAINING_TOKEN
from chain.contracts.errors import ContractError
from chain.contracts.gradient_ledger import Phase, ResultKind
from chain.contracts.miner_seats import (
    BondWithdrawn,
    CreditWithdrawn,
    Fine,
    FineKind,
    FinesApproved,
    FinesPosted,
    MinerFined,
    MinerLeft,
    SeatBondBurnt,
)
from chain.crypto import keccak256
from chain.primitives import Hash32
from chain.training.slashing import FineTree, build_fine_tree
from node.training.votes import SLASH_GAS
from tests.training_simulation.chain import EngineWorld, validators_of
from tests.worlds.contracts import (
    CHAIN_ID,
    CHANGE_BLOCKS,
    CHEAT,
    MINERS,
    OPERATORS,
    POT,
    SEAT_BOND,
    STRANGER,
    SUBMITTER,
    SUPPLY_EACH,
    VALIDATORS,
    Answer,
    World,
    account,
    deploy_contracts,
    empty_result,
    refusal,
    result,
    started_world,
    with_terms,
)

MISS = POT // 4
BOND = 2 * POT + 2 * MISS
LATE = 80
"""Blocks for late verdicts: twice the seconds of the verdict phase."""
WINDOW = 64
"""Blocks for votes on fines after that, and again for slashes."""
WINDOWS = LATE + 2 * WINDOW
EIGHTH = SEAT_BOND // 8
"""What a miss costs of the seat bond."""
FRAUD = Fine(0, 1, MINERS[1], FineKind.FRAUD, 0b0111)
MISSED = Fine(0, 1, MINERS[1], FineKind.MISS, 0)


@pytest.fixture
def world() -> World:
    """A settled round, and the next attempt in its commitment phase."""
    world = started_world()
    world.play_round()
    return world


def tree_of(*fines: Fine, ordinal: int = 1) -> FineTree:
    return build_fine_tree(CHAIN_ID, World.task, ordinal, fines)


def post(world: World, operator: bytes, root: Hash32, ordinal: int = 1) -> Answer:
    return world.send(operator, miner_seats.post_fines(world.task, ordinal, root))


def approve(world: World, tree: FineTree, ordinal: int = 1) -> Answer:
    for operator in OPERATORS[:3]:
        answer = post(world, operator, tree.root, ordinal)
    return answer


def slash(world: World, tree: FineTree, *indices: int, ordinal: int = 1) -> Answer:
    fines = [tree.prove(i) for i in indices or range(len(tree.fines))]
    return world.send(STRANGER, miner_seats.slash(world.task, ordinal, fines))


def fine(world: World, *fines: Fine, ordinal: int = 1) -> Answer:
    tree = tree_of(*fines, ordinal=ordinal)
    approve(world, tree, ordinal)
    return slash(world, tree, ordinal=ordinal)


def closed(ordinal: int = 1) -> ContractError:
    return ContractError("SeatsWindowClosed", (1, ordinal))


# ---- votes


def test_quorum_of_equal_votes_approves_a_root(world: World) -> None:
    tree = tree_of(FRAUD)
    assert post(world, OPERATORS[0], tree.root).events == (
        FinesPosted(world.task, VALIDATORS[0], 1, False, tree.root),
    )
    post(world, OPERATORS[1], keccak256(b"other"))
    assert refusal(slash, world, tree) == ContractError("SeatsInvalidFine", (0,))
    post(world, OPERATORS[2], tree.root)
    assert post(world, OPERATORS[3], tree.root).events[-1] == FinesApproved(
        world.task, 1, False, tree.root
    )
    assert slash(world, tree).events


def test_a_judge_votes_once_and_no_other_account_does(world: World) -> None:
    root = tree_of(FRAUD).root
    post(world, OPERATORS[0], root)
    again = refusal(post, world, OPERATORS[0], keccak256(b"other"))
    assert again == ContractError("SeatsAlreadyVoted", ("0x" + VALIDATORS[0].hex(),))
    refused = refusal(post, world, STRANGER, root)
    assert refused == ContractError("ValidatorSetNotOperator", ("0x" + STRANGER.hex(),))


def test_vote_that_changes_no_root_is_refused(world: World) -> None:
    ended, first, closing = world.number - 1, tree_of(MISSED), tree_of(FRAUD)
    approve(world, first)
    approved = ContractError("SeatsAlreadyApproved", (world.task, 1))
    last = OPERATORS[3]
    for root in (first.root, closing.root):
        assert refusal(post, world, last, root) == approved
    world.at(ended + LATE + 1, world.timestamp)
    assert refusal(post, world, last, first.root) == approved
    approve(world, closing)
    for root in (first.root, closing.root, keccak256(b"other")):
        assert refusal(post, world, last, root) == approved


def test_closing_vote_comes_after_the_late_verdicts(world: World) -> None:
    """The late verdicts made a miss a fraud; the miner pays the difference."""
    fine(world, MISSED)
    world.mine(LATE)
    tree = tree_of(FRAUD)
    assert approve(world, tree).events[-1] == FinesApproved(world.task, 1, True, tree.root)
    assert slash(world, tree).events[0] == MinerFined(
        world.task, MINERS[1], 1, FineKind.FRAUD, BOND - MISS
    )
    first = tree_of(MISSED).root
    view = miner_seats.CONTRACT.view("finesOf", world.task, 1, returns=lambda *roots: roots)
    assert world.read(view) == (first, tree.root)


def test_windows_are_as_long_as_the_specification_says(world: World) -> None:
    ended = world.number - 1
    tree = tree_of(FRAUD)
    world.at(ended + LATE + WINDOW, world.timestamp)
    approve(world, tree)
    world.at(ended + LATE + WINDOW + 1, world.timestamp)
    assert refusal(post, world, OPERATORS[3], tree.root) == closed()
    world.at(ended + LATE + 2 * WINDOW + 1, world.timestamp)
    assert refusal(slash, world, tree) == closed()
    world.at(ended + LATE + 2 * WINDOW, world.timestamp)
    assert slash(world, tree).events


def test_no_vote_on_an_attempt_that_has_not_ended_or_never_was(world: World) -> None:
    root = tree_of(FRAUD).root
    for ordinal in (0, 2, 3, 513):
        assert refusal(post, world, OPERATORS[0], root, ordinal) == closed(ordinal)


def test_judges_of_the_attempt_vote_after_they_have_left_the_set() -> None:
    world = started_world()
    world.commit_all()
    world.judge()
    world.send(OPERATORS[0], validator_set.leave_set())
    world.mine(CHANGE_BLOCKS)
    world.settle(world.agree(operators=OPERATORS[:3]))
    world.mine(1, 1)
    tree = tree_of(FRAUD)
    assert approve(world, tree).events[-1] == FinesApproved(world.task, 1, False, tree.root)


def test_attempt_without_a_result_can_be_fined() -> None:
    world = started_world()
    world.commit_all()
    for _ in range(3):
        world.judge()
        world.pass_phase()
        world.advance()
    assert world.phase is Phase.PAYMENT
    world.pass_phase()
    world.advance()
    world.mine(1, 1)
    assert fine(world, replace(MISSED, ballot=2)).events


def test_void_attempt_can_be_fined() -> None:
    world = started_world()
    world.commit_all()
    world.judge()
    world.settle(world.agree(empty_result(ResultKind.VOID)))
    world.mine(1, 1)
    assert fine(world, FRAUD).events


# ---- fraud


def test_fraud_takes_the_whole_bond_and_ends_the_seat(world: World) -> None:
    assert fine(world, FRAUD).events == (
        MinerFined(world.task, MINERS[1], 1, FineKind.FRAUD, BOND),
        SeatBondBurnt(world.task, MINERS[1], SEAT_BOND),
        MinerLeft(world.task, MINERS[1]),
    )
    seat = world.seat(MINERS[1])
    assert (seat.bond, seat.is_slashed, seat.position) == (0, True, 0)
    # Validators that said cheat share one half, rounded down; the other stays in the contract.
    share = BOND // 2 // 3
    assert [world.credit(operator) for operator in OPERATORS] == [share] * 3 + [0]
    assert world.balance(MINER_SEATS) == 2 * (BOND + SEAT_BOND)
    gone = ContractError("SeatsNotRegistered", (1, "0x" + MINERS[1].hex()))
    assert refusal(world.withdraw_bond, MINERS[1]) == gone


def test_a_credit_is_withdrawn_once(world: World) -> None:
    fine(world, FRAUD)
    data = miner_seats.withdraw_credit(TRAINING_TOKEN)
    share = BOND // 2 // 3
    assert world.send(OPERATORS[0], data).events == (
        CreditWithdrawn(TRAINING_TOKEN, OPERATORS[0], share),
    )
    assert world.balance(OPERATORS[0]) == share
    nothing = ContractError("SeatsNothingToWithdraw", ())
    assert refusal(world.send, OPERATORS[0], data) == nothing
    assert refusal(world.send, STRANGER, data) == nothing


def test_fraud_without_a_timely_accuser_credits_no_account(world: World) -> None:
    fine(world, replace(FRAUD, accusers=0))
    assert [world.credit(operator) for operator in OPERATORS] == [0] * 4


def test_no_fine_is_imposed_twice(world: World) -> None:
    fine(world, FRAUD)
    tree = tree_of(FRAUD)
    nothing = ContractError("SeatsNothingToFine", (1, 1))
    assert refusal(slash, world, tree) == nothing
    other = started_world()
    other.play_round()
    tree = tree_of(MISSED)
    approve(other, tree)
    slash(other, tree)
    assert refusal(slash, other, tree) == nothing
    assert refusal(slash, other, tree, 0, 0) == nothing


def test_a_new_bond_does_not_answer_for_an_old_attempt(world: World) -> None:
    fine(world, FRAUD)
    world.register(MINERS[1])
    assert refusal(slash, world, tree_of(FRAUD)) == ContractError("SeatsNothingToFine", (1, 1))
    assert world.seat(MINERS[1]).bond == BOND


@pytest.mark.parametrize(
    "other",
    [
        replace(FRAUD, miner=MINERS[0]),
        replace(FRAUD, accusers=0b1000),
        replace(FRAUD, index=0),
        replace(FRAUD, ballot=1),
        replace(FRAUD, kind=FineKind.MISS),
    ],
)
def test_a_fine_must_be_what_was_approved(world: World, other: Fine) -> None:
    tree = tree_of(FRAUD, replace(MISSED, index=0, miner=MINERS[0]))
    approve(world, tree)
    forged = [(other, tree.prove(0)[1])]
    refused = refusal(world.send, STRANGER, miner_seats.slash(world.task, 1, forged))
    assert refused == ContractError("SeatsInvalidFine", (0,))


def test_an_inner_node_is_no_fine_and_other_attempts_have_other_roots(world: World) -> None:
    tree = tree_of(FRAUD)
    approve(world, tree)
    world.play_round()
    assert refusal(slash, world, tree, ordinal=2) == ContractError("SeatsInvalidFine", (0,))


def test_first_root_after_the_window_counts_as_the_closing_vote(world: World) -> None:
    """So operators do not send it in the last blocks of the window (`plan_fines`)."""
    ended, root = world.number - 1, tree_of(MISSED).root
    world.at(ended + LATE + 1, world.timestamp)
    assert post(world, OPERATORS[0], root).events == (
        FinesPosted(world.task, VALIDATORS[0], 1, True, root),
    )
    again = refusal(post, world, OPERATORS[0], tree_of(FRAUD).root)
    assert again == ContractError("SeatsAlreadyVoted", ("0x" + VALIDATORS[0].hex(),))


def test_slashed_miner_is_out_of_the_attempt_in_progress(world: World) -> None:
    world.commit(MINERS[0])
    # The slashed miner's commitment was the last one expected.
    fine(world, FRAUD)
    assert (world.phase, world.round.expected_commitments) == (Phase.VERDICT, 1)
    assert (world.round.verdict_block, world.round.verdict_time) == (world.number, world.timestamp)
    assert [one.miner for one in world.participants()] == [MINERS[0]]


def test_attempt_whose_last_miner_is_slashed_ends_as_an_empty_one(world: World) -> None:
    fine(world, replace(FRAUD, index=0, miner=MINERS[0]), FRAUD)
    attempt = world.round.attempt
    assert (world.phase, world.round.expected_commitments) == (Phase.COMMITMENT, 0)
    world.pass_phase()
    assert world.phase is Phase.STALLED
    world.advance()
    assert (world.round.attempt, world.round.void_streak) == (attempt + 1, 0)


def test_slashed_miner_cannot_commit(world: World) -> None:
    fine(world, FRAUD)
    assert refusal(world.commit, MINERS[1]) == ContractError(
        "SeatsNotParticipating", (1, "0x" + MINERS[1].hex())
    )


def test_slashed_miner_that_has_committed_already_is_judged_by_its_work(world: World) -> None:
    world.commit_all()
    fine(world, FRAUD)
    assert (world.round.expected_commitments, world.round.commitment_count) == (2, 2)
    world.judge()
    assert world.settle(world.agree(result(accepted_units=4))).events


def test_miner_that_left_is_slashed_while_its_bond_is_locked(world: World) -> None:
    world.leave(MINERS[1])
    fine(world, FRAUD)
    assert world.balance(MINERS[1]) == SUPPLY_EACH - BOND - SEAT_BOND
    # It takes part in the attempt in which it left, which expects its commitment no more.
    assert world.round.expected_commitments == 1


def test_no_miner_is_slashed_in_the_block_that_opens_an_attempt() -> None:
    world = started_world()
    world.commit_all()
    world.judge()
    world.settle(world.agree())
    tree = tree_of(FRAUD)
    approve(world, tree)
    assert refusal(slash, world, tree) == ContractError("SeatsAttemptOpening", (1,))
    world.mine(1, 1)
    assert slash(world, tree).events


# ---- misses


def test_miss_costs_an_eighth_of_the_pay_and_not_the_seat(world: World) -> None:
    assert fine(world, MISSED).events == (
        MinerFined(world.task, MINERS[1], 1, FineKind.MISS, MISS),
        SeatBondBurnt(world.task, MINERS[1], EIGHTH),
    )
    seat = world.seat(MINERS[1])
    assert (seat.bond, seat.miss_count, seat.position != 0) == (BOND - MISS, 1, True)
    assert [world.credit(operator) for operator in OPERATORS] == [0] * 4
    assert world.commit(MINERS[1]).events


def test_second_miss_ends_the_seat(world: World) -> None:
    fine(world, MISSED)
    world.play_round()
    assert fine(world, MISSED, ordinal=2).events == (
        MinerFined(world.task, MINERS[1], 2, FineKind.MISS, MISS),
        SeatBondBurnt(world.task, MINERS[1], EIGHTH),
        SeatBondBurnt(world.task, MINERS[1], SEAT_BOND - 2 * EIGHTH),
        MinerLeft(world.task, MINERS[1]),
    )
    # A third miss, found late, is charged as well; the seat ended without it.
    assert world.seat(MINERS[1]).bond == 2 * POT


def test_misses_may_be_found_in_any_order(world: World) -> None:
    world.play_round()
    fine(world, MISSED, ordinal=2)
    events = fine(world, MISSED, ordinal=1).events
    assert SeatBondBurnt(world.task, MINERS[1], SEAT_BOND - 2 * EIGHTH) in events
    assert refusal(slash, world, tree_of(MISSED)) == ContractError("SeatsNothingToFine", (1, 1))


def test_fines_that_were_imposed_do_not_stop_the_others(world: World) -> None:
    both = tree_of(FRAUD, Fine(0, 0, MINERS[0], FineKind.MISS, 0))
    approve(world, both)
    slash(world, both, 0)
    events = slash(world, both, 0, 1).events
    assert events == (
        MinerFined(world.task, MINERS[0], 1, FineKind.MISS, MISS),
        SeatBondBurnt(world.task, MINERS[0], EIGHTH),
    )


def test_gradient_missed_in_the_last_attempt_costs_the_seat_bond(world: World) -> None:
    """Who commits and delivers nothing fares no better than who is absent."""
    world.leave(MINERS[1])
    world.register(MINERS[2])
    world.play_round()
    fine(world, MISSED, ordinal=2)
    world.mine(WINDOWS)
    assert world.withdraw_bond(MINERS[1]).events == (
        SeatBondBurnt(world.task, MINERS[1], SEAT_BOND - EIGHTH),
        BondWithdrawn(world.task, MINERS[1], BOND - MISS, 0),
    )


def test_bond_of_a_seat_taken_again_answers_for_earlier_attempts(world: World) -> None:
    world.leave(MINERS[1])
    world.register(MINERS[2])
    world.play_round()
    world.register(MINERS[1])
    assert fine(world, FRAUD).events == (
        MinerFined(world.task, MINERS[1], 1, FineKind.FRAUD, BOND),
        SeatBondBurnt(world.task, MINERS[1], SEAT_BOND),
        MinerLeft(world.task, MINERS[1]),
    )
    # The attempt in progress, in which it takes no part, waits for as many as before.
    assert world.round.expected_commitments == 2


def test_fine_for_an_attempt_of_an_earlier_seat_takes_nothing(world: World) -> None:
    """The bond in POT can be withdrawn alone, and a seat can be followed by another one."""
    world.leave(MINERS[1])
    world.register(MINERS[2])
    world.play_round()
    tree = tree_of(MISSED, ordinal=2)
    approve(world, tree, ordinal=2)
    world.mine(WINDOWS)
    world.send(MINERS[1], miner_seats.withdraw_seat_bond(world.task))
    assert refusal(slash, world, tree, ordinal=2) == closed(2)
    world.withdraw_bond(MINERS[1])
    world.register(MINERS[1])
    assert refusal(slash, world, tree, ordinal=2) == closed(2)
    assert world.balance(MINERS[1]) == SUPPLY_EACH - BOND - SEAT_BOND


def test_deviation_is_reserved_for_tasks_that_audit_a_sample(world: World) -> None:
    tree = tree_of(replace(FRAUD, kind=FineKind.DEVIATION))
    approve(world, tree)
    assert refusal(slash, world, tree) == ContractError("SeatsNothingToFine", (1, 1))


# ---- size


def test_at_most_16_fines_are_imposed_in_one_call(world: World) -> None:
    fines = [replace(FRAUD, index=i) for i in range(17)]
    tree = tree_of(*fines)
    refused = refusal(slash, world, tree)
    assert refused == ContractError("SeatsListTooLong", (17, 16))


def test_fine_in_a_round_of_1024_costs_little_more_than_in_a_small_one(world: World) -> None:
    crowd = [Fine(0, i, account(f"crowd {i}"), FineKind.MISS, 0) for i in range(1_022)]
    large = tree_of(FRAUD, Fine(0, 0, MINERS[0], FineKind.MISS, 0), *crowd)
    approve(world, large)
    gas = slash(world, large, 0).gas
    other = started_world()
    other.play_round()
    small = tree_of(FRAUD, Fine(0, 0, MINERS[0], FineKind.MISS, 0))
    approve(other, small)
    assert gas < slash(other, small, 0).gas + 10 * 1_000


@pytest.mark.parametrize("kind", [FineKind.FRAUD, FineKind.MISS])
def test_largest_batch_of_fines_fits_the_gas_that_operators_send(kind: FineKind) -> None:
    """16 of 1 024 fines, with 100 validators that all accuse; each miss is the seat's second."""
    world = EngineWorld()
    validators = validators_of(100)
    crowd = [account(f"crowd {i}") for i in range(16)]
    holders = (SUBMITTER, *crowd)
    deploy_contracts(world, validators.validators, validators.operators, holders)
    quorum = validators.operators[: validators.quorum]
    terms = with_terms(max_units=16, min_miners=1)
    world.submit(terms, budget=3 * (16 * POT + terms.validator_fee))
    world.ready(quorum)
    for miner in crowd:
        world.register(miner, units=1)
    world.advance()
    for _ in range(2):
        world.mine(1, 1)
        for miner in crowd:
            world.commit(miner, 1)
        for operator in validators.operators:
            world.verdict(operator, [CHEAT] * 16)
        void = empty_result(ResultKind.VOID)
        for operator in quorum:
            world.result(operator, void)
        world.settle(void)
    world.mine(1, 1)
    for ordinal in (1, 2):
        accusers = (1 << 100) - 1 if kind is FineKind.FRAUD else 0
        fines = [Fine(0, i, account(f"crowd {i}"), kind, accusers) for i in range(1_024)]
        tree = tree_of(*fines, ordinal=ordinal)
        for operator in quorum:
            post(world, operator, tree.root, ordinal)
        proofs = [tree.prove(i) for i in range(16)]
        call = miner_seats.slash(world.task, ordinal, proofs)
        gas = world.send(STRANGER, call).gas + 21_000 + 16 * len(call.data)
        assert gas <= SLASH_GAS
        if kind is FineKind.FRAUD:
            break
