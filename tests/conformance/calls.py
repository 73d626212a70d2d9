"""Call data of the system contracts, and the arguments of their constructors."""

from dataclasses import astuple

from chain.contracts import system_contracts as contracts
from chain.contracts.system_contracts import CommitmentEvidence, ResultVote, RewardClaim, TaskTerms
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
    "submit_task": lambda: contracts.encode_submit_task(TERMS, b"spec", 40),
    "fund_task": lambda: contracts.encode_fund_task(TASK, 41),
    "post_ready": lambda: contracts.encode_post_ready(TASK),
    "cancel_task": lambda: contracts.encode_cancel_task(TASK),
    "resume_task": lambda: contracts.encode_resume_task(TASK),
    "refund_task": lambda: contracts.encode_refund_task(TASK),
    "task_count": lambda: contracts.encode_task_count(),
    "get_terms": lambda: contracts.encode_get_terms(TASK),
    "get_account": lambda: contracts.encode_get_account(TASK),
    "is_ready": lambda: contracts.encode_is_ready(TASK, ONE),
    "register": lambda: contracts.encode_register(TASK, 42),
    "leave": lambda: contracts.encode_leave(TASK),
    "withdraw_bond": lambda: contracts.encode_withdraw_bond(TASK),
    "commit_gradient": lambda: contracts.encode_commit_gradient(TASK, 43, 44, 45, make_hash(46)),
    "post_verdict": lambda: contracts.encode_post_verdict(TASK, 47, 48, 49, b"\x32\x33"),
    "post_result": lambda: [
        contracts.encode_post_result(TASK, 52, 53, 54, VOTE, 55, 56),
        contracts.encode_post_result(TASK, 52, 53, 54, VOTE, None, 56),
    ],
    "settle_round": lambda: contracts.encode_settle_round(TASK, VOTE),
    "advance_round": lambda: contracts.encode_advance_round(TASK),
    "slash": lambda: contracts.encode_slash(TASK, 57, COMMITMENTS, VERDICTS, (0, 1)),
    "withdraw_credit": lambda: contracts.encode_withdraw_credit(ONE),
    "phase": lambda: contracts.encode_phase(TASK),
    "deadline": lambda: contracts.encode_deadline(TASK),
    "get_round": lambda: contracts.encode_get_round(TASK),
    "get_miner": lambda: contracts.encode_get_miner(TASK, ONE),
    "participants": lambda: contracts.encode_participants(TASK),
    "required_bond": lambda: contracts.encode_required_bond(TASK, 58),
    "commitment_position": lambda: contracts.encode_commitment_position(TASK, ONE),
    "judges_of": lambda: contracts.encode_judges_of(TASK),
    "credit_of": lambda: contracts.encode_credit_of(ONE, OTHER),
    "phase_floor_blocks": lambda: contracts.encode_phase_floor_blocks(),
    "claim": lambda: contracts.encode_claim(TASK, 59, PROOF),
    "claim_for": lambda: contracts.encode_claim_for(TASK, ONE, 60, PROOF),
    "claim_many": lambda: contracts.encode_claim_many(CLAIMS),
    "root_of": lambda: contracts.encode_root_of(TASK),
    "paid_total_of": lambda: contracts.encode_paid_total_of(TASK),
    "claimed_of": lambda: contracts.encode_claimed_of(TASK, ONE),
    "claimed_total_of": lambda: contracts.encode_claimed_total_of(TASK),
    "committee": lambda: contracts.encode_committee(),
    "committee_of": lambda: contracts.encode_committee_of(61),
    "next_validators": lambda: contracts.encode_next_validators(),
    "activation_block": lambda: contracts.encode_activation_block(),
    "operator_of": lambda: contracts.encode_operator_of(ONE),
    "validator_of": lambda: contracts.encode_validator_of(OTHER),
    "get_validator": lambda: contracts.encode_get_validator(ONE),
    "propose_join": lambda: contracts.encode_propose_join(ONE),
    "propose_removal": lambda: contracts.encode_propose_removal(ONE),
    "vote_on_proposal": lambda: contracts.encode_vote_on_proposal(62),
    "carry_out": lambda: contracts.encode_carry_out(63),
    "withdraw_proposal": lambda: contracts.encode_withdraw_proposal(64),
    "leave_set": lambda: contracts.encode_leave_set(),
    "remove_exiting": lambda: contracts.encode_remove_exiting(ONE),
    "withdraw_stake": lambda: contracts.encode_withdraw_stake(),
    "proposal_count": lambda: contracts.encode_proposal_count(),
    "get_proposal": lambda: contracts.encode_get_proposal(65),
    "candidacy_of": lambda: contracts.encode_candidacy_of(OTHER),
    "has_voted": lambda: contracts.encode_has_voted(66, ONE),
    "required_stake": lambda: contracts.encode_required_stake(),
    "min_validators": lambda: contracts.encode_min_validators(),
    "record_genesis": lambda: contracts.encode_record_genesis(),
    "genesis_hash": lambda: contracts.encode_genesis_hash(),
    "report_equivocation": lambda: contracts.encode_report_equivocation(
        (67, 68, 69, 70), (make_hash(71), make_bytes(72, 65)), (make_hash(73), make_bytes(74, 65))
    ),
    "report_lost_lock": lambda: contracts.encode_report_lost_lock(
        (75, 76, 77, 78),
        (make_hash(79), make_bytes(80, 65)),
        (81, 82, make_hash(83), make_bytes(84, 65)),
    ),
    "balance_of": lambda: contracts.encode_balance_of(ONE),
    "allowance": lambda: contracts.encode_allowance(ONE, OTHER),
    "approve": lambda: contracts.encode_approve(ONE, 85),
    "transfer": lambda: contracts.encode_transfer(OTHER, 86),
    "drip": lambda: contracts.encode_drip(ONE),
    "training_token_arguments": lambda: contracts.encode_training_token_arguments(
        [ONE, OTHER], [87, 88]
    ),
    "validator_set_arguments": lambda: contracts.encode_validator_set_arguments(
        [ONE], [OTHER], stake=89, min_validators=90, change_blocks=91, evidence_blocks=92
    ),
    "gradient_ledger_arguments": lambda: contracts.encode_gradient_ledger_arguments(93),
    "faucet_arguments": lambda: contracts.encode_faucet_arguments(94, 95, 96),
}
"""By the name of the function, without its verb."""


@sample("call", "_call", *(f"encode_{name}" for name in CALLS))
def build_calls() -> Value:
    return {name: build() for name, build in CALLS.items()}


@sample("event")
def build_events() -> Value:
    """What a program reads out of logs; contracts/build says how contracts write them."""
    arguments: dict[str, object] = {
        "address": make_address(97),
        "bool": True,
        "bytes": b"\x62\x63",
        "bytes32": make_hash(98),
        "(bytes32,bytes32,bytes32,uint32)": (make_hash(99), make_hash(100), make_hash(101), 102),
    }
    found = {}
    for layout in contracts.EVENT_LAYOUTS:
        name, _, kinds = layout.signature.partition("(")
        kinds = kinds.removesuffix(")").replace("(bytes32,bytes32,bytes32,uint32)", "vote")
        given = [
            arguments.get("(bytes32,bytes32,bytes32,uint32)" if kind == "vote" else kind, 103 + at)
            for at, kind in enumerate(kinds.split(","))
        ]
        log = build_log(name, *given)
        decoded = contracts.decode_event(log)
        assert decoded is not None
        found[name] = [log.address, log.topics, log.data, astuple(decoded)]
    return found
