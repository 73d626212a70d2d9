"""Call data of the system contracts, and the arguments of their constructors."""

from dataclasses import astuple

from chain.contracts.events import EVENT_LAYOUTS, decode_event
from chain.contracts.faucet import encode_drip, encode_faucet_arguments
from chain.contracts.gradient_ledger import (
    CommitmentEvidence,
    ResultVote,
    encode_advance_round,
    encode_commit_gradient,
    encode_commitment_position,
    encode_credit_of,
    encode_deadline,
    encode_get_miner,
    encode_get_round,
    encode_gradient_ledger_arguments,
    encode_judges_of,
    encode_leave,
    encode_participants,
    encode_phase,
    encode_phase_floor_blocks,
    encode_post_result,
    encode_post_verdict,
    encode_register,
    encode_required_bond,
    encode_settle_round,
    encode_slash,
    encode_withdraw_bond,
    encode_withdraw_credit,
)
from chain.contracts.reward_distributor import (
    RewardClaim,
    encode_claim,
    encode_claim_for,
    encode_claim_many,
    encode_claimed_of,
    encode_claimed_total_of,
    encode_paid_total_of,
    encode_root_of,
)
from chain.contracts.task_registry import (
    TaskTerms,
    encode_cancel_task,
    encode_fund_task,
    encode_get_account,
    encode_get_terms,
    encode_is_ready,
    encode_post_ready,
    encode_refund_task,
    encode_resume_task,
    encode_submit_task,
    encode_task_count,
)
from chain.contracts.training_token import (
    encode_allowance,
    encode_approve,
    encode_balance_of,
    encode_training_token_arguments,
    encode_transfer,
)
from chain.contracts.validator_set import (
    encode_activation_block,
    encode_candidacy_of,
    encode_carry_out,
    encode_committee,
    encode_committee_of,
    encode_genesis_hash,
    encode_get_proposal,
    encode_get_validator,
    encode_has_voted,
    encode_leave_set,
    encode_min_validators,
    encode_next_validators,
    encode_operator_of,
    encode_proposal_count,
    encode_propose_join,
    encode_propose_removal,
    encode_record_genesis,
    encode_remove_exiting,
    encode_report_equivocation,
    encode_report_lost_lock,
    encode_required_stake,
    encode_validator_of,
    encode_validator_set_arguments,
    encode_vote_on_proposal,
    encode_withdraw_proposal,
    encode_withdraw_stake,
)
from tests.conformance.registry import Value, sample
from tests.conformance.values import (
    TASK,
    build_log,
    make_address,
    make_bytes,
    make_hash,
)

TERMS = TaskTerms(make_hash(1), make_address(2), 3, 4, 5, 6, 7, 8, 9, 10, 11)
VOTE = ResultVote(make_hash(12), make_hash(13), make_hash(14), 15)
PROOF = (make_hash(16), make_hash(17))
ONE, OTHER = make_address(18), make_address(19)
COMMITMENTS = (
    CommitmentEvidence(make_address(20), 21, make_hash(22)),
    CommitmentEvidence(make_address(23), 24, make_hash(25)),
)
VERDICTS = ((make_address(26), b"\x1b"), (make_address(28), b"\x1d\x02"))
CLAIMS = (
    RewardClaim(TASK, make_address(30), 31, PROOF),
    RewardClaim(TASK, make_address(32), 33, ()),
)

CALLS = {
    "submit_task": lambda: encode_submit_task(TERMS, b"spec", 40),
    "fund_task": lambda: encode_fund_task(TASK, 41),
    "post_ready": lambda: encode_post_ready(TASK),
    "cancel_task": lambda: encode_cancel_task(TASK),
    "resume_task": lambda: encode_resume_task(TASK),
    "refund_task": lambda: encode_refund_task(TASK),
    "task_count": lambda: encode_task_count(),
    "get_terms": lambda: encode_get_terms(TASK),
    "get_account": lambda: encode_get_account(TASK),
    "is_ready": lambda: encode_is_ready(TASK, ONE),
    "register": lambda: encode_register(TASK, 42),
    "leave": lambda: encode_leave(TASK),
    "withdraw_bond": lambda: encode_withdraw_bond(TASK),
    "commit_gradient": lambda: encode_commit_gradient(TASK, 43, 44, 45, make_hash(46)),
    "post_verdict": lambda: encode_post_verdict(TASK, 47, 48, 49, b"\x32\x33"),
    "post_result": lambda: [
        encode_post_result(TASK, 52, 53, 54, VOTE, 55, 56),
        encode_post_result(TASK, 52, 53, 54, VOTE, None, 56),
    ],
    "settle_round": lambda: encode_settle_round(TASK, VOTE),
    "advance_round": lambda: encode_advance_round(TASK),
    "slash": lambda: encode_slash(TASK, 57, COMMITMENTS, VERDICTS, (0, 1)),
    "withdraw_credit": lambda: encode_withdraw_credit(ONE),
    "phase": lambda: encode_phase(TASK),
    "deadline": lambda: encode_deadline(TASK),
    "get_round": lambda: encode_get_round(TASK),
    "get_miner": lambda: encode_get_miner(TASK, ONE),
    "participants": lambda: encode_participants(TASK),
    "required_bond": lambda: encode_required_bond(TASK, 58),
    "commitment_position": lambda: encode_commitment_position(TASK, ONE),
    "judges_of": lambda: encode_judges_of(TASK),
    "credit_of": lambda: encode_credit_of(ONE, OTHER),
    "phase_floor_blocks": lambda: encode_phase_floor_blocks(),
    "claim": lambda: encode_claim(TASK, 59, PROOF),
    "claim_for": lambda: encode_claim_for(TASK, ONE, 60, PROOF),
    "claim_many": lambda: encode_claim_many(CLAIMS),
    "root_of": lambda: encode_root_of(TASK),
    "paid_total_of": lambda: encode_paid_total_of(TASK),
    "claimed_of": lambda: encode_claimed_of(TASK, ONE),
    "claimed_total_of": lambda: encode_claimed_total_of(TASK),
    "committee": lambda: encode_committee(),
    "committee_of": lambda: encode_committee_of(61),
    "next_validators": lambda: encode_next_validators(),
    "activation_block": lambda: encode_activation_block(),
    "operator_of": lambda: encode_operator_of(ONE),
    "validator_of": lambda: encode_validator_of(OTHER),
    "get_validator": lambda: encode_get_validator(ONE),
    "propose_join": lambda: encode_propose_join(ONE),
    "propose_removal": lambda: encode_propose_removal(ONE),
    "vote_on_proposal": lambda: encode_vote_on_proposal(62),
    "carry_out": lambda: encode_carry_out(63),
    "withdraw_proposal": lambda: encode_withdraw_proposal(64),
    "leave_set": lambda: encode_leave_set(),
    "remove_exiting": lambda: encode_remove_exiting(ONE),
    "withdraw_stake": lambda: encode_withdraw_stake(),
    "proposal_count": lambda: encode_proposal_count(),
    "get_proposal": lambda: encode_get_proposal(65),
    "candidacy_of": lambda: encode_candidacy_of(OTHER),
    "has_voted": lambda: encode_has_voted(66, ONE),
    "required_stake": lambda: encode_required_stake(),
    "min_validators": lambda: encode_min_validators(),
    "record_genesis": lambda: encode_record_genesis(),
    "genesis_hash": lambda: encode_genesis_hash(),
    "report_equivocation": lambda: encode_report_equivocation(
        (67, 68, 69, 70), (make_hash(71), make_bytes(72, 65)), (make_hash(73), make_bytes(74, 65))
    ),
    "report_lost_lock": lambda: encode_report_lost_lock(
        (75, 76, 77, 78),
        (make_hash(79), make_bytes(80, 65)),
        (81, 82, make_hash(83), make_bytes(84, 65)),
    ),
    "balance_of": lambda: encode_balance_of(ONE),
    "allowance": lambda: encode_allowance(ONE, OTHER),
    "approve": lambda: encode_approve(ONE, 85),
    "transfer": lambda: encode_transfer(OTHER, 86),
    "drip": lambda: encode_drip(ONE),
    "training_token_arguments": lambda: encode_training_token_arguments([ONE, OTHER], [87, 88]),
    "validator_set_arguments": lambda: encode_validator_set_arguments(
        [ONE], [OTHER], stake=89, min_validators=90, change_blocks=91, evidence_blocks=92
    ),
    "gradient_ledger_arguments": lambda: encode_gradient_ledger_arguments(93),
    "faucet_arguments": lambda: encode_faucet_arguments(94, 95, 96),
}
"""The calls by the name of their function without its verb."""


@sample("call", "encode_call", *(f"encode_{name}" for name in CALLS))
def build_calls() -> Value:
    return {name: build() for name, build in CALLS.items()}


@sample("event")
def build_events() -> Value:
    """The events decoded from logs; contracts/build defines how contracts write them."""
    arguments: dict[str, object] = {
        "address": make_address(97),
        "bool": True,
        "bytes": b"\x62\x63",
        "bytes32": make_hash(98),
        "(bytes32,bytes32,bytes32,uint32)": (make_hash(99), make_hash(100), make_hash(101), 102),
    }
    found = {}
    for layout in EVENT_LAYOUTS:
        name, _, kinds = layout.signature.partition("(")
        kinds = kinds.removesuffix(")").replace("(bytes32,bytes32,bytes32,uint32)", "vote")
        given = [
            arguments.get("(bytes32,bytes32,bytes32,uint32)" if kind == "vote" else kind, 103 + at)
            for at, kind in enumerate(kinds.split(","))
        ]
        log = build_log(name, *given)
        decoded = decode_event(log)
        assert decoded is not None
        found[name] = [log.address, log.topics, log.data, astuple(decoded)]
    return found
