"""Encodes tasks, rounds and attempts as JSON for the `pot_` methods (docs/spec/rpc.md, section 2).

Token amounts are decimal strings of base units, because they can exceed 2**53, above which many
JSON parsers round. Block numbers, rounds and units are integers.
"""

from collections.abc import Sequence
from typing import Final

from chain.contracts.gradient_ledger import Deadline, ResultVote, RoundState
from chain.contracts.miner_seats import SeatState
from chain.contracts.task_registry import (
    TaskAccount,
    TaskLease,
    TaskResources,
    TaskStatus,
    TaskTerms,
)
from chain.hexadecimal import to_hex
from chain.json_types import Json, JsonObject
from chain.primitives import Address
from chain.training.acceptance import decode_verdicts
from chain.training.attempt_records import Attempt, CommitmentRecord, ResultRecord, VerdictRecord
from chain.training.history import SettledRound, TaskHistory, get_evaluation
from chain.training.leases import compute_fee_refund
from chain.training.openings import Obstacle
from chain.training.task_checks import describe_refusal
from chain.training.task_money import TaskMoney, compute_earned_answers
from chain.training.task_spec import PPM, TaskSpec

EVALUATION_NAMES: Final = ("correctCount", "lossMillinats", "accuracyPpm")
"""The fields of an evaluation; all are null if a round has no evaluation."""


def encode_summary(history: TaskHistory, spec: TaskSpec | None) -> JsonObject:
    """A task as lists show it; `spec` is None if the submitted bytes are no specification."""
    reason = history.close_reason
    return {
        "id": history.task_id,
        "name": None if spec is None else spec.name,
        "submitter": to_hex(history.submitter),
        "submittedBlock": history.submitted_block,
        "status": history.status.name.lower(),
        "closeReason": None if reason is None else reason.name.lower(),
        "specHash": to_hex(history.spec_hash),
        "budget": str(history.budget),
        "rounds": None if spec is None else spec.round_count,
        "roundsSettled": history.rounds_settled,
        "readyCount": len(history.ready),
        "refusalCount": len(history.refusals),
        "trainingStateRoot": to_hex(history.training_state_root),
        "modelRoot": to_hex(history.model_root),
    }


def encode_terms(terms: TaskTerms) -> JsonObject:
    """The terms that the contracts hold of a task's specification."""
    return {
        "token": to_hex(terms.token),
        "unitPrice": str(terms.unit_price),
        "validatorFee": str(terms.validator_fee),
        "rounds": terms.rounds,
        "minMiners": terms.min_miners,
        "minUnits": terms.min_units,
        "maxUnits": terms.max_units,
        "auditPpm": terms.audit_ppm,
        "commitSeconds": terms.commit_seconds,
        "verdictSeconds": terms.verdict_seconds,
        "resultSeconds": terms.result_seconds,
    }


def encode_resources(resources: TaskResources) -> JsonObject:
    """The most that a task takes of one validator, as declared."""
    return {
        "unitMilliseconds": resources.unit_milliseconds,
        "evaluationMilliseconds": resources.evaluation_milliseconds,
        "peakBytes": resources.peak_bytes,
        "diskBytes": resources.disk_bytes,
    }


def encode_lease(lease: TaskLease, status: TaskStatus, number: int, now: int) -> JsonObject:
    """What was bought for a task, when it ends, and what can be taken back at this moment."""
    is_active = status in (TaskStatus.ACTIVE, TaskStatus.PAUSED)
    code = lease.refusal_code
    return {
        "windowTime": lease.window_time,
        "windowBlock": lease.window_block,
        "lifetimeSeconds": lease.lifetime_seconds,
        "endTime": lease.end_time if is_active else None,
        "endBlock": lease.end_block if is_active else None,
        "progressTime": lease.progress_time if is_active else None,
        "progressBlock": lease.progress_block if is_active else None,
        "idleSeconds": lease.idle_seconds,
        "attemptsLeft": lease.attempts_left,
        "attemptSeconds": lease.attempt_seconds,
        "answerPay": str(lease.answer_pay),
        "heldPay": str(lease.held_pay),
        "heldRent": str(lease.held_rent),
        "refundable": str(compute_fee_refund(lease, status, number, now)),
        "refusal": describe_refusal(code) if code else None,
    }


def encode_obstacles(obstacles: Sequence[Obstacle]) -> Json:
    """Why a task opens no attempt; empty if one is in progress, or can open."""
    return [{"kind": each.kind.value, "reason": each.reason} for each in obstacles]


def encode_refusals(history: TaskHistory) -> Json:
    """The validators that refused a task, with their reasons, in the order of the chain."""
    return [
        {"validator": to_hex(validator), "reason": describe_refusal(code)}
        for validator, code in history.refusals
    ]


def encode_fee(money: TaskMoney | None, history: TaskHistory) -> Json:
    """What became of a task's fee in POT; None if this node began after the submission."""
    if money is None:
        return None
    return {
        "paid": str(money.fee_paid),
        "burnt": str(money.fee_burnt),
        "answers": str(compute_earned_answers(money, history)),
        "returned": str(money.fee_returned),
        "held": str(history.lease.held_pay + history.lease.held_rent),
    }


def encode_account(account: TaskAccount, money: TaskMoney | None) -> JsonObject:
    """The amounts that the registry holds for a task."""
    return {
        "paidToMiners": None if money is None else str(money.miners_paid),
        "paidToValidators": None if money is None else str(account.paid - money.miners_paid),
        "escrowed": str(account.escrowed),
        "paid": str(account.paid),
        "reserved": str(account.reserved),
        "refundable": str(account.refundable),
        "refunded": str(account.refunded),
        "readyCount": account.ready_count,
        "cancelling": account.cancelling,
    }


def encode_round_state(state: RoundState) -> JsonObject:
    """The ledger's state of the round in progress."""
    return {
        "round": state.round,
        "attempt": state.attempt,
        "ballot": state.ballot,
        "openBlock": state.open_block if state.open else None,
        "expectedCommitments": state.expected_commitments,
        "commitmentCount": state.commitment_count,
        "verdictCount": state.verdict_count,
        "resultCount": state.result_count,
    }


def encode_seat(seat: SeatState) -> JsonObject:
    """A miner's seat as it is at the head."""
    return {
        "units": seat.units,
        "firstAttempt": seat.first_attempt,
        "misses": seat.miss_count,
        "bond": str(seat.bond),
        "hasSeatBond": seat.has_seat_bond,
        "ended": seat.position == 0,
        "slashed": seat.is_slashed,
    }


def encode_deadline(deadline: Deadline) -> JsonObject:
    """The end of a phase."""
    return {"blockNumber": deadline.block_number, "timestamp": deadline.timestamp}


def encode_participants(participants: Sequence[tuple[Address, int]]) -> Json:
    """The miners of an attempt with their declared units, by ascending address."""
    return [[to_hex(miner), units] for miner, units in sorted(participants)]


def encode_records(attempt: Attempt) -> JsonObject:
    """The commitments, verdicts and evaluations of an attempt."""
    count = len(attempt.commitments)
    return {
        "commitments": [
            _encode_commitment(index, record) for index, record in enumerate(attempt.commitments)
        ],
        "verdicts": [_encode_verdicts(record, count) for record in attempt.verdicts],
        "evaluations": [
            _encode_result_record(record)
            for record in attempt.results
            if record.correct_count is not None
        ],
    }


def _encode_commitment(index: int, record: CommitmentRecord) -> JsonObject:
    return {
        "index": index,
        "miner": to_hex(record.miner),
        "units": record.units,
        "commitment": to_hex(record.commitment),
        "blockNumber": record.block_number,
    }


def _encode_verdicts(record: VerdictRecord, count: int) -> JsonObject:
    return {
        "validator": to_hex(record.validator),
        "timely": record.is_timely,
        "verdicts": [each.name.lower() for each in decode_verdicts(record.verdicts, count)],
        "blockNumber": record.block_number,
    }


def _encode_result_record(record: ResultRecord) -> JsonObject:
    return {
        "validator": to_hex(record.validator),
        "correctCount": record.correct_count,
        "lossMillinats": record.loss_millinats,
    }


def encode_vote(vote: ResultVote) -> JsonObject:
    """The result with which a round was settled."""
    return {
        "trainingStateRoot": to_hex(vote.training_state_root),
        "modelRoot": to_hex(vote.model_root),
        "rewardsRoot": to_hex(vote.rewards_root),
        "acceptedUnits": vote.accepted_units,
    }


def encode_evaluation(settled: SettledRound, spec: TaskSpec) -> JsonObject:
    """The model's score on the held-out rows; all null if the validators did not measure it."""
    evaluation = get_evaluation(settled)
    if evaluation is None:
        return dict.fromkeys(EVALUATION_NAMES)
    correct_count, loss_millinats = evaluation
    return {
        "correctCount": correct_count,
        "lossMillinats": loss_millinats,
        "accuracyPpm": correct_count * PPM // spec.held_out.row_count,
    }
