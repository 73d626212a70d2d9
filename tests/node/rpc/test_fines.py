"""What rounds, attempts and tasks show of fines, absences and void attempts."""

from dataclasses import replace
from pathlib import Path

import pytest

from chain.contracts import gradient_ledger, miner_seats
from chain.contracts.gradient_ledger import ResultKind, RoundState
from chain.contracts.miner_seats import SeatState
from chain.crypto import keccak256
from chain.hexadecimal import to_hex
from chain.primitives import ZERO_HASH, BlockNumber
from chain.training.acceptance import Verdict, encode_verdicts
from chain.training.fines import compute_bond, compute_miss
from chain.training.history import compute_outcome
from chain.training.result_vote import build_empty_vote, build_result_vote
from chain.training.slashing import build_fine_trees
from node.cli.task_round import count_costs
from node.rpc.losses import FoundLosses, LossState
from node.rpc.seats import find_reason
from node.rpc.void_attempts import VoidAttempt
from tests.worlds.rpc import rpc_harness
from tests.worlds.stored_chain import CHAIN_ID
from tests.worlds.training_chain import (
    ANN,
    BEN,
    GENESIS_SET,
    OPERATORS,
    POT,
    SPEC,
    SUBMITTER,
    TASK,
    VALIDATORS,
    TrainingChain,
    address_of,
)

NO_SEAT = SeatState(*(0, 0, 0, 0, 0, 0, 0, True, False, BlockNumber(0), False, 0, 0, False))
NO_ROUND = RoundState(
    *(0, 0, 0, 0, 0, 0, True, BlockNumber(0), 0, BlockNumber(0), 0, BlockNumber(0), 0, 0, 0, 0),
    *(0, 0, ZERO_HASH, ZERO_HASH, 0),
)
PRICE = SPEC.reward.unit_price
BEN_BOND = compute_bond(2 * PRICE, SPEC.verification.audit_ppm)
NAMES = [to_hex(each) for each in VALIDATORS]


def play(chain: TrainingChain, *steps: str) -> TrainingChain:
    for step in ("submit", "activate", "register", *steps):
        getattr(chain, step)()
    return chain


def end_commitments(chain: TrainingChain) -> None:
    for _ in range(SPEC.phases.commit_seconds // 2 + 2):
        chain.finalize()


def let_attempt_pass(chain: TrainingChain) -> None:
    """Let an attempt end without a commitment."""
    end_commitments(chain)
    chain.finalize(chain.call(OPERATORS[0], gradient_ledger.advance_round(TASK)))
    chain.finalize()


def test_fine_is_shown_from_the_verdict_until_it_is_taken(tmp_path: Path) -> None:
    chain = play(TrainingChain(tmp_path / "database"), "commit", "judge", "agree", "settle")
    with rpc_harness(tmp_path, chain.local) as rpc:
        (due,) = rpc.result("pot_getFines", TASK)
        assert (due["round"], due["attempt"], due["ordinal"], due["quorum"]) == (0, 0, 1, 3)
        assert (due["votes"], due["silent"]) == ([], NAMES)
        assert due["fines"] == [
            {
                "miner": BEN.address.lower(),
                "units": 2,
                "ballot": 0,
                "kind": "fraud",
                "reason": "validators found its gradient to be wrong",
                "amount": str(BEN_BOND),
                "seatBond": str(POT),
                "state": "due",
                "accusers": NAMES,
            }
        ]
        ended = chain.index.ended(TASK, 1)
        assert ended is not None
        tree = build_fine_trees(CHAIN_ID, ended, chain.store.head_number()).first
        assert tree is not None
        vote = miner_seats.post_fines(TASK, 1, tree.root)
        chain.finalize(*(chain.call(each, vote) for each in OPERATORS[:3]))
        (approved,) = rpc.result("pot_getFines", TASK)
        assert [each["validator"] for each in approved["votes"]] == NAMES[:3]
        assert (approved["silent"], approved["fines"][0]["state"]) == (NAMES[3:], "approved")
        slash = miner_seats.slash(TASK, 1, [tree.prove(0)])
        chain.finalize(chain.call(OPERATORS[0], slash))
        (imposed,) = rpc.result("pot_getFines", TASK)
        assert imposed["fines"] == [{**due["fines"][0], "state": "imposed"}]
        assert rpc.result("pot_getRound", TASK, 0)["fines"] == imposed
        assert rpc.result("pot_listTasks")[0]["finableAttempts"] == 1
        while chain.store.head_number() < imposed["slashedUntil"]:
            chain.finalize()
        assert rpc.result("pot_getFines", TASK) == []
        assert rpc.result("pot_listTasks")[0]["finableAttempts"] == 0
        assert rpc.result("pot_getRound", TASK, 0)["fines"] == imposed, "it is history now"
        assert rpc.result("pot_getFines", 9) is None


def test_fine_that_nobody_voted_for_lapses(tmp_path: Path) -> None:
    chain = play(TrainingChain(tmp_path / "database"), "commit", "judge", "agree", "settle")
    with rpc_harness(tmp_path, chain.local) as rpc:
        (due,) = rpc.result("pot_getFines", TASK)
        while chain.store.head_number() < due["votedUntil"]:
            chain.finalize()
        (lapsed,) = rpc.result("pot_getFines", TASK)
    assert lapsed["fines"] == [{**due["fines"][0], "state": "lapsed"}]


def test_receipt_shows_what_a_late_delivery_loses(tmp_path: Path) -> None:
    chain = play(TrainingChain(tmp_path / "database"), "commit")
    late = (Verdict.MISSING, Verdict.MISSING, Verdict.UNCHECKED, Verdict.OK)
    failed = build_empty_vote(ResultKind.FAILED, 0b1111)
    for ballot, words in enumerate((late, (Verdict.OK,) * 4)):
        for operator, word in zip(OPERATORS, words, strict=True):
            said = encode_verdicts([word, Verdict.OK])
            chain.finalize(
                chain.call(operator, gradient_ledger.post_verdict(TASK, 0, 0, ballot, said))
            )
        chain.finalize()
        if ballot == 0:
            vote = gradient_ledger.post_result(TASK, 0, 0, 0, failed, 0, 0)
            chain.finalize(*(chain.call(each, vote) for each in OPERATORS[:3]))
            chain.finalize(chain.call(OPERATORS[0], gradient_ledger.advance_round(TASK)))
            chain.finalize()
    history = chain.index.history(TASK)
    assert history is not None
    assert history.attempt is not None
    outcome = compute_outcome(history.attempt, SPEC, GENESIS_SET)
    root = keccak256(b"root")
    result = build_result_vote(
        TASK, {}, outcome, chain_id=CHAIN_ID, training_state_root=root, model_root=root
    )
    vote = gradient_ledger.post_result(TASK, 0, 0, 1, result, 0, 0)
    chain.finalize(*(chain.call(each, vote) for each in OPERATORS))
    chain.finalize(chain.call(OPERATORS[0], gradient_ledger.settle_round(TASK, result)))
    with rpc_harness(tmp_path, chain.local) as rpc:
        ann, ben = (rpc.result("pot_getReceipt", TASK, 0, each.address) for each in (ANN, BEN))
        fines = rpc.result("pot_getFines", TASK)
    assert (ann["pay"], ben["pay"]) == (str(PRICE * 7 // 8), str(2 * PRICE))
    assert ann["reason"] == "accepted for 7/8 of the pay: it came so late that a ballot failed"
    assert (ben["reason"], fines) == ("accepted", [])
    assert (ann["seat"]["misses"], ann["seat"]["hasSeatBond"]) == (0, True)


def test_absences_are_shown_in_attempts_rounds_and_receipts(tmp_path: Path) -> None:
    chain = play(TrainingChain(tmp_path / "database"))
    due = {"state": "due", "seatBond": str(POT // 8)}
    ann = {"miner": ANN.address.lower(), "units": 1, "amount": str(compute_miss(PRICE)), **due}
    ben = {"miner": BEN.address.lower(), "units": 2, "amount": str(compute_miss(2 * PRICE)), **due}
    charged = {**ann, "state": "taken"}
    with rpc_harness(tmp_path, chain.local) as rpc:
        assert rpc.result("pot_getAttempt", TASK)["absent"] == [], "they may still commit"
        let_attempt_pass(chain)
        commitment = keccak256(b"gradient")
        commit = gradient_ledger.commit_gradient(TASK, 0, 1, 1, commitment)
        chain.finalize(chain.call(ANN, commit))
        end_commitments(chain)
        chain.finalize(chain.call(OPERATORS[0], gradient_ledger.advance_round(TASK)))
        assert rpc.result("pot_getAttempt", TASK)["absent"] == [ben]
        in_progress = rpc.result("pot_getRound", TASK, 0)
        verdicts = encode_verdicts([Verdict.OK])
        vote = chain.compute_vote()
        for call in (
            gradient_ledger.post_verdict(TASK, 0, 1, 0, verdicts),
            gradient_ledger.post_result(TASK, 0, 1, 0, vote, 15, 700),
        ):
            chain.finalize(*(chain.call(each, call) for each in OPERATORS))
            chain.finalize()
        chain.settle()
        settled = rpc.result("pot_getRound", TASK, 0)
        receipt = rpc.result("pot_getReceipt", TASK, 0, ANN.address)
    assert settled["totalSeconds"] >= settled["seconds"] + SPEC.phases.commit_seconds
    told = f"3 absences, 1 void attempt, {settled['totalSeconds']} s in all"
    assert count_costs(settled) == told
    for shown in (in_progress, settled):
        assert (shown["attempt"], shown["ordinal"], shown["absent"]) == (1, 2, [ben])
        (void,) = shown["voidAttempts"]
        assert (void["attempt"], void["ordinal"]) == (0, 1)
        assert (void["reason"], void["commitments"]) == ("no miner committed", [])
        # Ann's commitment to the second attempt charged her for the first.
        assert void["absent"] == sorted([charged, ben], key=lambda each: str(each["miner"]))
        assert void["openBlock"] < void["endBlock"] <= shown["openBlock"]
    assert receipt["voidAttempts"] == [
        {
            "attempt": 0,
            "ordinal": 1,
            "reason": "no miner committed",
            "fine": "absence",
            "fineState": "taken",
            "fineAmount": ann["amount"],
            "fineSeatBond": str(POT // 8),
        }
    ]


def test_seat_that_had_ended_owes_nothing_for_a_later_attempt(tmp_path: Path) -> None:
    """Two misses end a seat, but the chain may notice after the next attempt has opened."""
    chain = play(TrainingChain(tmp_path / "database"))
    miss, eighth = str(compute_miss(2 * PRICE)), str(POT // 8)
    with rpc_harness(tmp_path, chain.local) as rpc:
        let_attempt_pass(chain)
        let_attempt_pass(chain)
        assert len(rpc.result("pot_getAttempt", TASK)["participants"]) == 2
        chain.finalize(chain.call(OPERATORS[0], miner_seats.end_seats(TASK, [address_of(BEN)])))
        end_commitments(chain)
        chain.finalize(chain.call(OPERATORS[0], gradient_ledger.advance_round(TASK)))
        void = rpc.result("pot_getRound", TASK, 0)["voidAttempts"]
        receipt = rpc.result("pot_getReceipt", TASK, 0, BEN.address)
    ben = [
        {each["miner"]: each for each in attempt["absent"]}[BEN.address.lower()] for attempt in void
    ]
    known = {"miner": BEN.address.lower(), "units": 2}
    assert ben == [
        {**known, "state": "taken", "amount": miss, "seatBond": eighth},
        # The second miss within eight attempts burns all that is left.
        {**known, "state": "taken", "amount": miss, "seatBond": str(POT - POT // 8)},
        {**known, "state": "none", "amount": "0", "seatBond": "0"},
    ]
    assert [(each["fine"], each["fineState"]) for each in receipt["voidAttempts"]] == [
        ("absence", "taken"),
        ("absence", "taken"),
        (None, "none"),
    ]


def test_absence_that_was_charged_before_this_node_began_is_not_known() -> None:
    given = FoundLosses({}, is_complete=False)
    progress = replace(NO_ROUND, attempt_count=3)
    seat = replace(NO_SEAT, units=2, position=1, accounted_attempt=2)
    states = [given.find_state(address_of(BEN), each, seat, progress) for each in (2, 3, 4)]
    assert states == [LossState.UNKNOWN, LossState.DUE, LossState.UNKNOWN]


def test_round_without_an_attempt_in_progress_shows_its_void_ones(tmp_path: Path) -> None:
    chain = play(TrainingChain(tmp_path / "database"))
    with rpc_harness(tmp_path, chain.local) as rpc:
        let_attempt_pass(chain)
        chain.cancel()
        let_attempt_pass(chain)
        assert rpc.result("pot_getAttempt", TASK) is None, "the task closed with its attempt"
        shown = rpc.result("pot_getRound", TASK, 0)
        assert [each["ordinal"] for each in shown["voidAttempts"]] == [1, 2]
        assert rpc.result("pot_getRound", TASK, 1) is None
        receipt = rpc.result("pot_getReceipt", TASK, 0, ANN.address)
        assert [each["fine"] for each in receipt["voidAttempts"]] == ["absence", "absence"]
        assert (receipt["units"], receipt["accepted"], receipt["pay"]) == (0, None, "0")
        assert receipt["reason"] == "the account took part in void attempts of this round only"
        assert receipt["seat"]["units"] == 1
        assert rpc.result("pot_getReceipt", TASK, 0, SUBMITTER.address) is None
        assert rpc.result("pot_getReceipt", TASK, 1, ANN.address) is None


def test_receipt_of_a_miner_that_left_after_a_void_attempt(tmp_path: Path) -> None:
    spec = replace(SPEC, reward=replace(SPEC.reward, min_miners=1, min_units=1))
    chain = play(TrainingChain(tmp_path / "database", spec=spec))
    with rpc_harness(tmp_path, chain.local) as rpc:
        chain.finalize(chain.call(BEN, miner_seats.leave(TASK)))
        let_attempt_pass(chain)
        attempt = rpc.result("pot_getAttempt", TASK)
        assert len(attempt["participants"]) == 1
        receipt = rpc.result("pot_getReceipt", TASK, 0, BEN.address)
    assert [each["ordinal"] for each in receipt["voidAttempts"]] == [1]
    assert (receipt["units"], receipt["accepted"]) == (0, None)


@pytest.mark.parametrize(
    ("failed_ballots", "is_paid", "reason"),
    [
        (0, False, "validators accepted no gradient"),
        (3, False, "three ballots in a row had no result"),
        (3, True, "accepted work was paid, but validators agreed on no model in time"),
    ],
)
def test_void_attempt_with_commitments_says_why(
    failed_ballots: int, is_paid: bool, reason: str
) -> None:
    void = VoidAttempt(
        attempt=0,
        ordinal=1,
        open_block=BlockNumber(5),
        commitments=((VALIDATORS[0], 1),),
        failed_ballots=failed_ballots,
        is_paid=is_paid,
    )
    assert void.reason == reason


@pytest.mark.parametrize(
    ("seat", "misses", "reason"),
    [
        (NO_SEAT, 0, "left"),
        (replace(NO_SEAT, is_displaced=True), 1, "displaced"),
        (NO_SEAT, 2, "misses"),
        (replace(NO_SEAT, is_slashed=True), 2, "fraud"),
    ],
)
def test_ended_seat_says_whether_its_miner_left_or_was_displaced(
    seat: SeatState, misses: int, reason: str
) -> None:
    assert find_reason(seat, misses) == reason
