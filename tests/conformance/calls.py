"""Call data of the system contracts, and the arguments of their constructors."""

from dataclasses import astuple

from chain.contracts import (
    faucet,
    gradient_ledger,
    miner_seats,
    reward_distributor,
    task_registry,
    training_token,
    validator_set,
)
from chain.contracts.abi import ContractCall, ContractView
from chain.contracts.addresses import TRAINING_TOKEN
from chain.contracts.events import EVENT_LAYOUTS, decode_event
from chain.contracts.gradient_ledger import ResultKind, ResultVote
from chain.contracts.miner_seats import Fine, FineKind
from chain.contracts.reward_distributor import RewardClaim
from chain.contracts.task_registry import Prices, Purchase, TaskResources, TaskTerms
from chain.contracts.validator_set import SignedDigest, SignedViewChange, VotePlace
from chain.primitives import Address, BlockNumber
from tests.conformance.registry import Value, sample
from tests.conformance.values import (
    TASK,
    build_log,
    make_address,
    make_bytes,
    make_hash,
)

TERMS = TaskTerms(make_hash(1), make_address(2), 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
RESOURCES = TaskResources(62, 63, 64, 65)
PURCHASE = Purchase(66, 67)
VOTE = ResultVote(make_hash(12), make_hash(13), make_hash(14), 15, 98, ResultKind.PAID_ONLY, 99)
PROOF = (make_hash(16), make_hash(17))
ONE, OTHER = make_address(18), make_address(19)
FINES = (
    (Fine(20, 21, make_address(22), FineKind.FRAUD, 23), (make_hash(24), make_hash(25))),
    (Fine(26, 27, make_address(28), FineKind.MISS, 0), ()),
)
CLAIMS = (
    RewardClaim(TASK, make_address(30), 31, PROOF),
    RewardClaim(TASK, make_address(32), 33, ()),
)

CALLS = {
    "submit_task": lambda: task_registry.submit_task(TERMS, RESOURCES, b"spec", 40, PURCHASE, 60),
    "fund_task": lambda: task_registry.fund_task(TASK, 41),
    "answer_task": lambda: task_registry.answer_task(TASK, 0),
    "cancel_task": lambda: task_registry.cancel_task(TASK),
    "resume_task": lambda: task_registry.resume_task(TASK),
    "refund_task": lambda: task_registry.refund_task(TASK),
    "task_count": lambda: task_registry.task_count(),
    "get_terms": lambda: task_registry.get_terms(TASK),
    "get_account": lambda: task_registry.get_account(TASK),
    "extend_task": lambda: task_registry.extend_task(TASK, PURCHASE, 61),
    "withdraw_examination_pay": lambda: task_registry.withdraw_examination_pay(),
    "expire_task": lambda: task_registry.expire_task(TASK),
    "refund_fee": lambda: task_registry.refund_fee(TASK),
    "get_resources": lambda: task_registry.get_resources(TASK),
    "get_lease": lambda: task_registry.get_lease(TASK),
    "get_prices": lambda: task_registry.get_prices(),
    "get_quote": lambda: task_registry.get_quote(TERMS, RESOURCES, PURCHASE),
    "get_extension_quote": lambda: task_registry.get_extension_quote(TASK, PURCHASE),
    "get_attempt_seconds": lambda: task_registry.get_attempt_seconds(TERMS),
    "is_expired": lambda: task_registry.is_expired(TASK),
    "get_open_tasks": lambda: task_registry.get_open_tasks(),
    "get_burnt": lambda: task_registry.get_burnt(),
    "get_examination_pay": lambda: task_registry.get_examination_pay(ONE),
    "get_answer": lambda: task_registry.get_answer(TASK, ONE),
    "register": lambda: miner_seats.register(TASK, 42, (ONE, OTHER)),
    "leave": lambda: miner_seats.leave(TASK),
    "withdraw_bond": lambda: miner_seats.withdraw_bond(TASK),
    "withdraw_seat_bond": lambda: miner_seats.withdraw_seat_bond(TASK),
    "end_seats": lambda: miner_seats.end_seats(TASK, (ONE, OTHER)),
    "post_fines": lambda: miner_seats.post_fines(TASK, 57, make_hash(58)),
    "post_late_verdict": lambda: gradient_ledger.post_late_verdict(TASK, 59, b"\x32\x33"),
    "ended_attempt": lambda: gradient_ledger.ended_attempt(TASK, 60),
    "progress_of": lambda: gradient_ledger.CONTRACT.view(
        "progressOf", TASK, returns=lambda *fields: fields
    ),
    "commit_gradient": lambda: gradient_ledger.commit_gradient(TASK, 43, 44, 45, make_hash(46)),
    "post_verdict": lambda: gradient_ledger.post_verdict(TASK, 47, 48, 49, b"\x32\x33"),
    "post_result": lambda: [
        gradient_ledger.post_result(TASK, 52, 53, 54, VOTE, 55, 56),
        gradient_ledger.post_result(TASK, 52, 53, 54, VOTE, None, 56),
    ],
    "settle_round": lambda: gradient_ledger.settle_round(TASK, VOTE),
    "advance_round": lambda: gradient_ledger.advance_round(TASK),
    "slash": lambda: miner_seats.slash(TASK, 57, FINES),
    "withdraw_credit": lambda: miner_seats.withdraw_credit(ONE),
    "phase": lambda: gradient_ledger.phase(TASK),
    "deadline": lambda: gradient_ledger.deadline(TASK),
    "get_round": lambda: gradient_ledger.get_round(TASK),
    "get_seat": lambda: miner_seats.get_seat(TASK, ONE),
    "list_seats": lambda: miner_seats.list_seats(TASK),
    "list_over": lambda: miner_seats.list_over(TASK, 58),
    "participants": lambda: miner_seats.participants(TASK),
    "required_bond": lambda: miner_seats.required_bond(TASK, 58),
    "seat_bond": lambda: miner_seats.seat_bond(),
    "seat_attempts": lambda: miner_seats.seat_attempts(),
    "fines_of": lambda: miner_seats.CONTRACT.view(
        "finesOf", TASK, 58, returns=lambda *roots: roots
    ),
    "judges_of": lambda: gradient_ledger.judges_of(TASK, 7),
    "credit_of": lambda: miner_seats.credit_of(ONE, OTHER),
    "phase_floor_blocks": lambda: gradient_ledger.CONTRACT.view("phaseFloorBlocks", returns=int),
    "grace_blocks": lambda: gradient_ledger.CONTRACT.view("graceBlocks", returns=int),
    "claim": lambda: reward_distributor.claim(TASK, 59, PROOF),
    "claim_for": lambda: reward_distributor.CONTRACT.call("claimFor", TASK, ONE, 60, PROOF),
    "claim_many": lambda: reward_distributor.claim_many(CLAIMS),
    "root_of": lambda: reward_distributor.root_of(TASK),
    "paid_total_of": lambda: reward_distributor.CONTRACT.view("paidTotalOf", TASK, returns=int),
    "claimed_of": lambda: reward_distributor.claimed_of(TASK, ONE),
    "claimed_total_of": lambda: reward_distributor.CONTRACT.view(
        "claimedTotalOf", TASK, returns=int
    ),
    "committee": lambda: validator_set.get_current(),
    "committee_of": lambda: validator_set.get_version(61),
    "next_validators": lambda: validator_set.next_validators(),
    "activation_block": lambda: validator_set.activation_block(),
    "operator_of": lambda: validator_set.CONTRACT.view("operatorOf", ONE, returns=Address),
    "validator_of": lambda: validator_set.CONTRACT.view("validatorOf", OTHER, returns=Address),
    "get_validator": lambda: validator_set.get_validator(ONE),
    "propose_join": lambda: validator_set.propose_join(ONE, bytes(range(65))),
    "propose_removal": lambda: validator_set.propose_removal(ONE),
    "vote_on_proposal": lambda: validator_set.vote_on_proposal(62),
    "carry_out": lambda: validator_set.carry_out(63),
    "withdraw_proposal": lambda: validator_set.withdraw_proposal(64),
    "leave_set": lambda: validator_set.leave_set(),
    "remove_exiting": lambda: validator_set.remove_exiting(ONE),
    "withdraw_stake": lambda: validator_set.withdraw_stake(),
    "proposal_count": lambda: validator_set.proposal_count(),
    "get_proposal": lambda: validator_set.get_proposal(65),
    "candidacy_of": lambda: validator_set.candidacy_of(OTHER),
    "has_voted": lambda: validator_set.CONTRACT.view("hasVoted", 66, ONE, returns=bool),
    "required_stake": lambda: validator_set.required_stake(),
    "min_validators": lambda: validator_set.CONTRACT.view("minValidators", returns=int),
    "record_genesis": lambda: validator_set.record_genesis(),
    "genesis_hash": lambda: validator_set.genesis_hash(),
    "report_equivocation": lambda: validator_set.report_equivocation(
        VotePlace(67, 68, BlockNumber(69), 70),
        SignedDigest(make_hash(71), make_bytes(72, 65)),
        SignedDigest(make_hash(73), make_bytes(74, 65)),
    ),
    "report_lost_lock": lambda: validator_set.report_lost_lock(
        VotePlace(75, 76, BlockNumber(77), 78),
        SignedDigest(make_hash(79), make_bytes(80, 65)),
        SignedViewChange(81, 82, make_hash(83), make_bytes(84, 65)),
    ),
    "balance_of": lambda: training_token.balance_of(TRAINING_TOKEN, ONE),
    "allowance": lambda: training_token.allowance(TRAINING_TOKEN, ONE, OTHER),
    "approve": lambda: training_token.approve(TRAINING_TOKEN, ONE, 85),
    "transfer": lambda: training_token.transfer(TRAINING_TOKEN, OTHER, 86),
    "drip": lambda: faucet.drip(ONE),
    "training_token_arguments": lambda: training_token.encode_constructor([ONE, OTHER], [87, 88]),
    "task_registry_arguments": lambda: task_registry.encode_constructor(Prices(*range(126, 136))),
    "validator_set_arguments": lambda: validator_set.encode_constructor(
        [ONE], [OTHER], stake=89, min_validators=90, change_blocks=91, evidence_blocks=92
    ),
    "gradient_ledger_arguments": lambda: gradient_ledger.encode_constructor(93, 97),
    "miner_seats_arguments": lambda: miner_seats.encode_constructor(98, 99),
    "faucet_arguments": lambda: faucet.encode_constructor(94, 95, 96),
}
"""The calls by the name of their function without its verb."""


@sample("call", "Contract._encode", "Contract.encode_constructor", "encode_constructor")
def build_calls() -> Value:
    return {name: _get_data(build()) for name, build in CALLS.items()}


def _get_data(built: object) -> Value:
    match built:
        case ContractCall() | ContractView():
            return built.data
        case list():
            return [_get_data(each) for each in built]
        case _:
            assert isinstance(built, bytes)
            return built


@sample("event")
def build_events() -> Value:
    """The events decoded from logs; contracts/build defines how contracts write them."""
    arguments: dict[str, object] = {
        "address": make_address(97),
        "bool": True,
        "bytes": b"\x62\x63",
        "bytes32": make_hash(98),
        "uint8": int(FineKind.FRAUD),
        "(bytes32,bytes32,bytes32,uint32,uint128,uint8,uint104)": (
            *(make_hash(99), make_hash(100), make_hash(101)),
            *(102, 10**18, ResultKind.SETTLED, 103),
        ),
    }
    (lease,) = (
        layout.inputs[3] for layout in EVENT_LAYOUTS if layout.kind is task_registry.TaskLeased
    )
    arguments[lease] = tuple(range(110, 125))
    found = {}
    for layout in EVENT_LAYOUTS:
        name = layout.kind.__name__
        given = [arguments.get(kind, 103 + at) for at, kind in enumerate(layout.inputs)]
        log = build_log(name, *given)
        decoded = decode_event(log)
        assert decoded is not None
        found[name] = [log.address, log.topics, log.data, astuple(decoded)]
    return found
