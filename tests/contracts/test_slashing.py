"""Evidence, bonds taken and credits (docs/spec/contracts.md, section 6)."""

from collections.abc import Sequence

import pytest

from chain.contracts import gradient_ledger
from chain.contracts.addresses import GRADIENT_LEDGER, TRAINING_TOKEN
from chain.contracts.errors import ContractError
from chain.contracts.gradient_ledger import (
    CommitmentEvidence,
    CreditWithdrawn,
    MinerLeft,
    MinerSlashed,
    Phase,
    ResultKind,
)
from chain.crypto import keccak256
from chain.primitives import Address
from tests.worlds.contracts import (
    BAD,
    CHEAT,
    MINERS,
    MISSING,
    OK,
    OPERATORS,
    POT,
    STRANGER,
    SUPPLY_EACH,
    UNCHECKED,
    VALIDATORS,
    Answer,
    World,
    empty_result,
    pack,
    refusal,
    result,
    started_world,
)

COMMITMENTS = tuple(
    CommitmentEvidence(miner, 2, keccak256(b"commitment" + miner)) for miner in MINERS[:2]
)
MISMATCH = ContractError("LedgerEvidenceMismatch", ())


@pytest.fixture
def world() -> World:
    return started_world()


def slash(
    world: World,
    verdicts: Sequence[tuple[Address, Sequence[int]]],
    indices: Sequence[int] = (1,),
    commitments: Sequence[CommitmentEvidence] = COMMITMENTS,
    ballot_number: int = 1,
) -> Answer:
    shown = [(validator, pack(each)) for validator, each in verdicts]
    data = gradient_ledger.slash(world.task, ballot_number, commitments, shown, indices)
    return world.send(STRANGER, data)


def play(world: World, verdicts: Sequence[Sequence[int]]) -> list[tuple[Address, Sequence[int]]]:
    """Settle a round in which validator i votes verdicts[i]; return the evidence of it."""
    world.commit_all()
    for operator, each in zip(OPERATORS, verdicts, strict=False):
        world.verdict(operator, each)
    if len(verdicts) < len(OPERATORS):
        world.pass_phase()
    world.settle(world.agree(result(accepted_units=2)))
    world.mine(1, 1)
    return list(zip(VALIDATORS, verdicts, strict=False))


def test_a_quorum_of_cheat_takes_the_whole_bond(world: World) -> None:
    evidence = play(world, [(OK, CHEAT)] * 3 + [(OK, BAD)])
    assert slash(world, evidence).events == (
        MinerSlashed(world.task, MINERS[1], 2 * POT, True),
        MinerLeft(world.task, MINERS[1]),
    )
    assert world.miner(MINERS[1]).bond == 0
    assert world.miner(MINERS[1]).left_block == world.number
    # Validators that voted CHEAT share one half, rounded down; the other stays in the contract.
    assert [world.credit(operator) for operator in OPERATORS] == [POT // 3] * 3 + [0]
    assert world.balance(GRADIENT_LEDGER) == 4 * POT


def test_a_credit_is_withdrawn_once(world: World) -> None:
    slash(world, play(world, [(OK, CHEAT)] * 4))
    data = gradient_ledger.withdraw_credit(TRAINING_TOKEN)
    assert world.send(OPERATORS[0], data).events == (
        CreditWithdrawn(TRAINING_TOKEN, OPERATORS[0], POT // 4),
    )
    assert world.balance(OPERATORS[0]) == POT // 4
    nothing = ContractError("LedgerNothingToWithdraw", ())
    assert refusal(world.send, OPERATORS[0], data) == nothing
    assert refusal(world.send, STRANGER, data) == nothing


def test_gradient_that_a_quorum_misses_costs_an_eighth_of_the_pay(world: World) -> None:
    evidence = play(world, [(OK, MISSING)] * 3 + [(OK, OK)])
    assert slash(world, evidence).events[0] == MinerSlashed(world.task, MINERS[1], POT // 4, False)
    assert [world.credit(operator) for operator in OPERATORS] == [0] * 4
    assert world.miner(MINERS[1]).bond == 2 * POT - POT // 4


def test_false_gradient_shown_to_two_validators_costs_the_bond(world: World) -> None:
    evidence = play(world, [(OK, MISSING), (OK, CHEAT), (OK, CHEAT), (OK, OK)])
    assert slash(world, evidence).events[0] == MinerSlashed(world.task, MINERS[1], 2 * POT, True)
    assert [world.credit(operator) for operator in OPERATORS] == [0, POT // 2, POT // 2, 0]


def test_cheat_of_one_validator_beside_missing_costs_a_miss(world: World) -> None:
    evidence = play(world, [(OK, MISSING)] * 2 + [(OK, CHEAT), (OK, OK)])
    assert slash(world, evidence).events[0] == MinerSlashed(world.task, MINERS[1], POT // 4, False)


def test_validators_without_time_cost_a_miner_nothing(world: World) -> None:
    for verdicts in ([UNCHECKED] * 4, [UNCHECKED] * 2 + [MISSING, CHEAT]):
        evidence = play(world, [(OK, each) for each in verdicts])
        assert isinstance(refusal(slash, world, evidence), ContractError)
        world.mine(1, 1)


def test_less_than_a_quorum_slashes_nobody(world: World) -> None:
    evidence = play(world, [(OK, CHEAT), (OK, MISSING), (OK, BAD), (OK, UNCHECKED)])
    assert refusal(slash, world, evidence) == ContractError("LedgerNoQuorum", (2, 3))
    assert refusal(slash, world, evidence, indices=[0]) == ContractError("LedgerNoQuorum", (0, 3))


def test_a_late_verdict_convicts_but_earns_nothing(world: World) -> None:
    evidence = play(world, [(OK, CHEAT), (OK, CHEAT), (OK, BAD)])
    assert refusal(slash, world, evidence) == ContractError("LedgerNoQuorum", (2, 3))
    world.verdict(OPERATORS[3], (OK, CHEAT), round=0, attempt=0, ballot=0)
    slash(world, [*evidence, (VALIDATORS[3], (OK, CHEAT))])
    assert [world.credit(operator) for operator in OPERATORS] == [POT // 2, POT // 2, 0, 0]


def test_several_miners_are_slashed_in_one_call(world: World) -> None:
    evidence = play(world, [(CHEAT, CHEAT)] * 4)
    events = slash(world, evidence, indices=[0, 1]).events
    assert [event.miner for event in events if isinstance(event, MinerSlashed)] == list(MINERS[:2])


def test_nobody_is_slashed_twice(world: World) -> None:
    evidence = play(world, [(OK, CHEAT)] * 4)
    twice = ContractError("LedgerAlreadySlashed", (1, "0x" + MINERS[1].hex()))
    assert refusal(slash, world, evidence, indices=[1, 1]) == twice
    slash(world, evidence)
    assert refusal(slash, world, evidence) == twice
    assert refusal(world.withdraw_bond, MINERS[1]) == ContractError(
        "LedgerNotRegistered", (1, "0x" + MINERS[1].hex())
    )


def test_a_new_bond_does_not_answer_for_an_old_round(world: World) -> None:
    evidence = play(world, [(OK, CHEAT)] * 4)
    slash(world, evidence)
    world.register(MINERS[1])
    assert refusal(slash, world, evidence) == ContractError(
        "LedgerNotParticipating", (1, "0x" + MINERS[1].hex())
    )
    assert world.miner(MINERS[1]).bond == 2 * POT


def test_evidence_must_be_what_was_posted(world: World) -> None:
    evidence = play(world, [(OK, CHEAT)] * 3 + [(OK, BAD)])
    forged = [(VALIDATORS[0], (CHEAT, CHEAT)), *evidence[1:]]
    assert refusal(slash, world, forged) == MISMATCH
    # All timely verdicts must be given, so the caller cannot choose who shares the bond.
    assert refusal(slash, world, evidence[:3]) == MISMATCH
    assert refusal(slash, world, [*evidence, evidence[0]]) == MISMATCH
    assert refusal(slash, world, evidence, commitments=COMMITMENTS[:1]) == MISMATCH
    assert refusal(slash, world, evidence, commitments=COMMITMENTS[::-1]) == MISMATCH
    assert refusal(slash, world, evidence, indices=[2]) == MISMATCH
    stranger = [*evidence, (STRANGER, (OK, CHEAT))]
    refused = refusal(slash, world, stranger)
    assert refused == ContractError("ValidatorSetNotMember", ("0x" + STRANGER.hex(),))
    assert slash(world, evidence).events


def test_at_most_32_are_slashed_in_one_call(world: World) -> None:
    refused = refusal(slash, world, [], indices=[0] * 33)
    assert refused == ContractError("LedgerTooManySlashes", (33, 32))


def test_a_ballot_that_settled_nothing_slashes_nobody(world: World) -> None:
    world.commit_all()
    world.judge((OK, CHEAT))
    evidence = [(validator, (OK, CHEAT)) for validator in VALIDATORS]
    not_settled = ContractError("LedgerBallotNotSettled", (1,))
    assert refusal(slash, world, evidence) == not_settled
    # The ballot fails, the votes are cast again, and those settle the round.
    world.pass_phase()
    world.advance()
    world.judge((OK, CHEAT))
    world.settle(world.agree(result(accepted_units=2)))
    assert refusal(slash, world, evidence) == not_settled
    assert slash(world, evidence, ballot_number=2).events


def test_attempt_that_a_quorum_found_void_slashes_its_cheats(world: World) -> None:
    world.commit_all()
    world.judge((CHEAT, CHEAT))
    world.settle(world.agree(empty_result(ResultKind.VOID)))
    evidence = [(validator, (CHEAT, CHEAT)) for validator in VALIDATORS]
    assert slash(world, evidence).events[0] == MinerSlashed(world.task, MINERS[1], 2 * POT, True)


def test_ballot_without_a_result_slashes_no_miner(world: World) -> None:
    world.commit_all()
    for _ in range(3):
        world.judge((OK, CHEAT))
        world.pass_phase()
        if world.phase is Phase.PAYMENT:
            world.pass_phase()
        world.advance()
    evidence = [(validator, (OK, CHEAT)) for validator in VALIDATORS]
    for ballot_number in (1, 2, 3):
        refused = refusal(slash, world, evidence, ballot_number=ballot_number)
        assert refused == ContractError("LedgerBallotNotSettled", (ballot_number,))


def test_evidence_expires_with_the_fourth_ballot_after(world: World) -> None:
    expired = ContractError("LedgerEvidenceExpired", ())
    assert refusal(slash, world, [], ballot_number=0) == expired
    assert refusal(slash, world, [], ballot_number=1) == expired
    evidence = play(world, [(OK, CHEAT)] * 4)
    for _ in range(2):
        world.pass_phase()
        world.advance()
        world.mine(1, 1)
    assert world.round.ballot_number == 4
    other = started_world()
    assert slash(world, evidence).events

    evidence = play(other, [(OK, CHEAT)] * 4)
    for _ in range(3):
        other.pass_phase()
        other.advance()
        other.mine(1, 1)
    other.resume()
    assert other.round.ballot_number == 5
    assert refusal(slash, other, evidence) == expired


def test_a_bitmap_of_an_older_ballot_in_the_same_slot_is_no_evidence(world: World) -> None:
    """Ballots 1 and 5 share a slot, and validator 3 voted in the first only."""
    play(world, [(OK, CHEAT)] * 4)
    for _ in range(3):
        world.pass_phase()
        world.advance()
        world.mine(1, 1)
    world.resume()
    world.mine(1, 1)
    assert world.round.ballot_number == 5
    evidence = play(world, [(OK, CHEAT), (OK, CHEAT), (OK, OK)])
    forged = [*evidence, (VALIDATORS[3], (OK, CHEAT))]
    assert refusal(slash, world, forged, ballot_number=5) == MISMATCH


def test_a_slashed_miner_is_out_of_the_attempt_in_progress(world: World) -> None:
    evidence = play(world, [(OK, CHEAT)] * 4)
    assert world.phase is Phase.COMMITMENT
    world.commit(MINERS[0])
    # The slashed miner's commitment was the last one expected.
    slash(world, evidence)
    assert (world.phase, world.round.expected_commitments) == (Phase.VERDICT, 1)
    assert (world.round.verdict_block, world.round.verdict_time) == (world.number, world.timestamp)
    assert [one.miner for one in world.participants()] == [MINERS[0]]


def test_a_slashed_miner_cannot_commit(world: World) -> None:
    evidence = play(world, [(OK, CHEAT)] * 4)
    slash(world, evidence)
    assert world.phase is Phase.COMMITMENT
    assert refusal(world.commit, MINERS[1]) == ContractError(
        "LedgerNotParticipating", (1, "0x" + MINERS[1].hex())
    )


def test_a_miner_slashed_in_the_opening_block_is_not_expected(world: World) -> None:
    world.commit_all()
    world.judge((OK, CHEAT))
    world.settle(world.agree(result(accepted_units=2)))
    assert world.round.expected_commitments == 2
    slash(world, [(validator, (OK, CHEAT)) for validator in VALIDATORS])
    assert world.round.expected_commitments == 1
    world.mine(1, 1)
    world.commit(MINERS[0])
    assert world.phase is Phase.VERDICT


def test_a_slashed_miner_that_has_committed_already_is_judged_by_its_work(world: World) -> None:
    evidence = play(world, [(OK, CHEAT)] * 4)
    world.commit_all()
    slash(world, evidence)
    assert (world.round.expected_commitments, world.round.commitment_count) == (2, 2)
    world.judge()
    assert world.settle(world.agree(result(accepted_units=4))).events


def test_a_miner_that_left_is_slashed_while_its_bond_is_locked(world: World) -> None:
    evidence = play(world, [(OK, CHEAT)] * 4)
    world.leave(MINERS[1])
    assert slash(world, evidence).events == (MinerSlashed(world.task, MINERS[1], 2 * POT, True),)
    assert world.balance(MINERS[1]) == SUPPLY_EACH - 2 * POT
