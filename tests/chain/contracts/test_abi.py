"""The calls, events and errors in Python agree with the compiled contracts."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
from eth_abi.abi import decode, encode

from chain.contracts import (
    faucet,
    gradient_ledger,
    reward_distributor,
    task_registry,
    training_token,
    validator_set,
)
from chain.contracts.abi import compute_selector
from chain.contracts.addresses import (
    FAUCET,
    GRADIENT_LEDGER,
    REWARD_DISTRIBUTOR,
    TASK_REGISTRY,
    TRAINING_TOKEN,
    VALIDATOR_SET,
)
from chain.contracts.calls import CallKind, classify_call, decode_task_id
from chain.contracts.errors import ERROR_SIGNATURES, ContractError, decode_error
from chain.contracts.events import EVENT_LAYOUTS, decode_event
from chain.contracts.faucet import encode_drip
from chain.contracts.gradient_ledger import (
    CommitmentEvidence,
    ResultPosted,
    ResultVote,
    encode_advance_round,
    encode_commit_gradient,
    encode_commitment_position,
    encode_credit_of,
    encode_deadline,
    encode_get_miner,
    encode_get_round,
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
    encode_vote_on_proposal,
    encode_withdraw_proposal,
    encode_withdraw_stake,
)
from chain.crypto import keccak256
from chain.primitives import Address, Hash32, TaskId
from chain.types.receipt import Log

MODULES = (
    training_token,
    validator_set,
    task_registry,
    gradient_ledger,
    reward_distributor,
    faucet,
)
BUILD = Path(__file__).parents[3] / "contracts" / "build"
ABI = {path.stem: json.loads(path.read_text())["abi"] for path in BUILD.glob("*.json")}
CONTRACT = {
    TRAINING_TOKEN: "TrainingToken",
    VALIDATOR_SET: "ValidatorSet",
    TASK_REGISTRY: "TaskRegistry",
    GRADIENT_LEDGER: "GradientLedger",
    REWARD_DISTRIBUTOR: "RewardDistributor",
    FAUCET: "Faucet",
}
TASK = TaskId(7)
WHO = Address(b"\x11" * 20)
WHOM = Address(b"\x22" * 20)
HASH = Hash32(b"\x33" * 32)
VOTE = ResultVote(HASH, Hash32(b"\x44" * 32), Hash32(b"\x55" * 32), 9)
TERMS = TaskTerms(HASH, WHO, 1, 2, 3, 4, 5, 1_000_000, 6, 7, 8)
WHO_TEXT, WHOM_TEXT = "0x" + WHO.hex(), "0x" + WHOM.hex()
VOTE_WORDS = (HASH, b"\x44" * 32, b"\x55" * 32, 9)
TERMS_WORDS = (HASH, WHO_TEXT, 1, 2, 3, 4, 5, 1_000_000, 6, 7, 8)

CALLS = [
    ("TaskRegistry", "submitTask", encode_submit_task(TERMS, b"{}", 5)),
    ("TaskRegistry", "fundTask", encode_fund_task(TASK, 5)),
    ("TaskRegistry", "postReady", encode_post_ready(TASK)),
    ("TaskRegistry", "cancelTask", encode_cancel_task(TASK)),
    ("TaskRegistry", "resumeTask", encode_resume_task(TASK)),
    ("TaskRegistry", "refundTask", encode_refund_task(TASK)),
    ("TaskRegistry", "taskCount", encode_task_count()),
    ("TaskRegistry", "getTerms", encode_get_terms(TASK)),
    ("TaskRegistry", "getAccount", encode_get_account(TASK)),
    ("TaskRegistry", "isReady", encode_is_ready(TASK, WHO)),
    ("GradientLedger", "register", encode_register(TASK, 5)),
    ("GradientLedger", "leave", encode_leave(TASK)),
    ("GradientLedger", "withdrawBond", encode_withdraw_bond(TASK)),
    (
        "GradientLedger",
        "commitGradient",
        encode_commit_gradient(TASK, 1, 2, 3, HASH),
    ),
    (
        "GradientLedger",
        "postVerdict",
        encode_post_verdict(TASK, 1, 2, 0, b"\x01"),
    ),
    (
        "GradientLedger",
        "postResult",
        encode_post_result(TASK, 1, 2, 0, VOTE, 5, 6),
    ),
    ("GradientLedger", "settleRound", encode_settle_round(TASK, VOTE)),
    ("GradientLedger", "advanceRound", encode_advance_round(TASK)),
    (
        "GradientLedger",
        "slash",
        encode_slash(TASK, 4, [CommitmentEvidence(WHO, 2, HASH)], [(WHOM, b"\x02")], [0]),
    ),
    ("GradientLedger", "withdrawCredit", encode_withdraw_credit(WHO)),
    ("GradientLedger", "phase", encode_phase(TASK)),
    ("GradientLedger", "deadline", encode_deadline(TASK)),
    ("GradientLedger", "getRound", encode_get_round(TASK)),
    ("GradientLedger", "getMiner", encode_get_miner(TASK, WHO)),
    ("GradientLedger", "participants", encode_participants(TASK)),
    ("GradientLedger", "requiredBond", encode_required_bond(TASK, 5)),
    (
        "GradientLedger",
        "commitmentPosition",
        encode_commitment_position(TASK, WHO),
    ),
    ("GradientLedger", "creditOf", encode_credit_of(WHO, WHOM)),
    ("GradientLedger", "phaseFloorBlocks", encode_phase_floor_blocks()),
    ("RewardDistributor", "claim", encode_claim(TASK, 5, [HASH])),
    ("RewardDistributor", "claimFor", encode_claim_for(TASK, WHO, 5, [HASH])),
    (
        "RewardDistributor",
        "claimMany",
        encode_claim_many([RewardClaim(TASK, WHO, 5, (HASH,))]),
    ),
    ("RewardDistributor", "rootOf", encode_root_of(TASK)),
    ("RewardDistributor", "paidTotalOf", encode_paid_total_of(TASK)),
    ("RewardDistributor", "claimedOf", encode_claimed_of(TASK, WHO)),
    ("RewardDistributor", "claimedTotalOf", encode_claimed_total_of(TASK)),
    ("ValidatorSet", "committee", encode_committee()),
    ("ValidatorSet", "committeeOf", encode_committee_of(7)),
    ("GradientLedger", "judgesOf", encode_judges_of(TASK)),
    ("ValidatorSet", "nextValidators", encode_next_validators()),
    ("ValidatorSet", "activationBlock", encode_activation_block()),
    ("ValidatorSet", "operatorOf", encode_operator_of(WHO)),
    ("ValidatorSet", "validatorOf", encode_validator_of(WHO)),
    ("ValidatorSet", "getValidator", encode_get_validator(WHO)),
    ("ValidatorSet", "proposeJoin", encode_propose_join(WHO)),
    ("ValidatorSet", "proposeRemoval", encode_propose_removal(WHO)),
    ("ValidatorSet", "voteOnProposal", encode_vote_on_proposal(7)),
    ("ValidatorSet", "carryOut", encode_carry_out(7)),
    ("ValidatorSet", "withdrawProposal", encode_withdraw_proposal(7)),
    ("ValidatorSet", "leaveSet", encode_leave_set()),
    ("ValidatorSet", "removeExiting", encode_remove_exiting(WHO)),
    ("ValidatorSet", "withdrawStake", encode_withdraw_stake()),
    ("ValidatorSet", "proposalCount", encode_proposal_count()),
    ("ValidatorSet", "getProposal", encode_get_proposal(7)),
    ("ValidatorSet", "candidacyOf", encode_candidacy_of(WHO)),
    ("ValidatorSet", "hasVoted", encode_has_voted(7, WHO)),
    ("ValidatorSet", "requiredStake", encode_required_stake()),
    ("ValidatorSet", "minValidators", encode_min_validators()),
    ("ValidatorSet", "recordGenesis", encode_record_genesis()),
    ("ValidatorSet", "genesisHash", encode_genesis_hash()),
    (
        "ValidatorSet",
        "reportEquivocation",
        encode_report_equivocation((3, 1, 8, 2), (HASH, b"\x01"), (HASH, b"\x02")),
    ),
    (
        "ValidatorSet",
        "reportLostLock",
        encode_report_lost_lock((3, 1, 8, 2), (HASH, b"\x01"), (4, 1, HASH, b"\x02")),
    ),
    ("TrainingToken", "balanceOf", encode_balance_of(WHO)),
    ("TrainingToken", "allowance", encode_allowance(WHO, WHOM)),
    ("TrainingToken", "approve", encode_approve(WHO, 5)),
    ("TrainingToken", "transfer", encode_transfer(WHO, 5)),
    ("Faucet", "drip", encode_drip(WHO)),
]
"""Every call, with the contract that takes it."""

ARGUMENTS = {
    "submitTask": (TERMS_WORDS, b"{}", 5),
    "fundTask": (7, 5),
    "isReady": (7, WHO_TEXT),
    "register": (7, 5),
    "commitGradient": (7, 1, 2, 3, HASH),
    "postVerdict": (7, 1, 2, 0, b"\x01"),
    "postResult": (7, 1, 2, 0, VOTE_WORDS, 5, 6),
    "settleRound": (7, VOTE_WORDS),
    "slash": (7, 4, ((WHO_TEXT, 2, HASH),), (WHOM_TEXT,), (b"\x02",), (0,)),
    "withdrawCredit": (WHO_TEXT,),
    "getMiner": (7, WHO_TEXT),
    "requiredBond": (7, 5),
    "commitmentPosition": (7, WHO_TEXT),
    "creditOf": (WHO_TEXT, WHOM_TEXT),
    "claim": (7, 5, (HASH,)),
    "claimFor": (7, WHO_TEXT, 5, (HASH,)),
    "claimMany": (((7, WHO_TEXT, 5, (HASH,)),),),
    "claimedOf": (7, WHO_TEXT),
    "operatorOf": (WHO_TEXT,),
    "validatorOf": (WHO_TEXT,),
    "getValidator": (WHO_TEXT,),
    "proposeJoin": (WHO_TEXT,),
    "proposeRemoval": (WHO_TEXT,),
    "removeExiting": (WHO_TEXT,),
    "candidacyOf": (WHO_TEXT,),
    "hasVoted": (7, WHO_TEXT),
    "reportEquivocation": ((3, 1, 8, 2), (HASH, b"\x01"), (HASH, b"\x02")),
    "reportLostLock": ((3, 1, 8, 2), (HASH, b"\x01"), (4, 1, HASH, b"\x02")),
    "balanceOf": (WHO_TEXT,),
    "allowance": (WHO_TEXT, WHOM_TEXT),
    "approve": (WHO_TEXT, 5),
    "transfer": (WHO_TEXT, 5),
    "drip": (WHO_TEXT,),
    "taskCount": (),
    "phaseFloorBlocks": (),
    "committee": (),
    "nextValidators": (),
    "activationBlock": (),
    "leaveSet": (),
    "withdrawStake": (),
    "proposalCount": (),
    "requiredStake": (),
    "minValidators": (),
    "recordGenesis": (),
    "genesisHash": (),
}
"""The arguments that the compiler's types must decode to; (7,) for all others."""


def abi_type(parameter: dict) -> str:
    if not parameter["type"].startswith("tuple"):
        return parameter["type"]
    inner = ",".join(abi_type(component) for component in parameter["components"])
    return f"({inner}){parameter['type'][5:]}"


def signature(entry: dict) -> str:
    return f"{entry['name']}({','.join(abi_type(each) for each in entry['inputs'])})"


def entries(contract: str, kind: str) -> dict[str, dict]:
    return {each["name"]: each for each in ABI[contract] if each["type"] == kind}


@pytest.mark.parametrize(("contract", "name", "data"), CALLS, ids=[call[1] for call in CALLS])
def test_a_call_is_what_the_compiler_expects(contract: str, name: str, data: bytes) -> None:
    entry = entries(contract, "function")[name]
    assert data[:4] == keccak256(signature(entry).encode())[:4]
    types = [abi_type(each) for each in entry["inputs"]]
    assert decode(types, data[4:]) == ARGUMENTS.get(name, (7,))


def test_every_encoder_is_covered_above() -> None:
    def camel(name: str) -> str:
        first, *rest = name.removeprefix("encode_").split("_")
        return first + "".join(word.title() for word in rest)

    encoders = {
        camel(name)
        for module in MODULES
        for name in vars(module)
        if name.startswith("encode_") and not name.endswith("_arguments") and name != "encode_call"
    }
    assert encoders == {name for _, name, _ in CALLS}


def test_every_event_of_the_contracts_has_its_layout() -> None:
    for address, contract in CONTRACT.items():
        if contract == "TrainingToken":
            continue
        compiled = {
            signature(entry): tuple(i for i, each in enumerate(entry["inputs"]) if each["indexed"])
            for entry in ABI[contract]
            if entry["type"] == "event"
        }
        layouts = {
            layout.signature: layout.indexed
            for layout in EVENT_LAYOUTS
            if layout.contract == address
        }
        assert layouts == compiled, contract


@pytest.mark.parametrize("layout", EVENT_LAYOUTS, ids=lambda layout: layout.signature)
def test_an_event_decodes_field_by_field(layout) -> None:
    entry = entries(CONTRACT[layout.contract], "event")[layout.signature.split("(")[0]]
    samples = {
        "address": (WHO_TEXT, WHO),
        "bytes32": (HASH, HASH),
        "bytes": (b"spec", b"spec"),
        "bool": (True, True),
        "(bytes32,bytes32,bytes32,uint32)": (VOTE_WORDS, VOTE),
    }
    wire, expected = [], []
    for i, parameter in enumerate(entry["inputs"]):
        sample = samples.get(abi_type(parameter), (i + 1, i + 1))
        wire.append(sample[0])
        expected.append(sample[1])
    types = [abi_type(each) for each in entry["inputs"]]
    topics = [Hash32(encode([types[i]], [wire[i]])) for i in layout.indexed]
    others = [i for i in range(len(types)) if i not in layout.indexed]
    data = encode([types[i] for i in others], [wire[i] for i in others])
    event = decode_event(Log(layout.contract, (layout.topic, *topics), data))
    assert event is not None
    assert type(event).__name__ == entry["name"]
    assert [getattr(event, field.name) for field in fields(event)] == expected


def test_a_result_without_an_evaluation_says_so() -> None:
    (layout,) = (each for each in EVENT_LAYOUTS if each.signature.startswith("ResultPosted"))
    topics = [Hash32(encode(["uint256"], [i])) for i in (7, 3)] + [
        Hash32(encode(["address"], [WHO]))
    ]
    types = ["uint32", "uint32", "(bytes32,bytes32,bytes32,uint32)", "uint32", "uint64"]
    data = encode(types, [0, 0, VOTE_WORDS, 2**32 - 1, 0])
    event = decode_event(Log(layout.contract, (layout.topic, *topics), data))
    assert event == ResultPosted(TASK, 3, WHO, 0, 0, VOTE, None, 0)
    posted = encode_post_result(TASK, 3, 0, 0, VOTE, None, 0)
    assert posted == encode_post_result(TASK, 3, 0, 0, VOTE, 2**32 - 1, 0)


def test_another_contracts_log_is_no_event() -> None:
    topic = EVENT_LAYOUTS[3].topic
    assert decode_event(Log(WHO, (topic, HASH), b"")) is None
    assert decode_event(Log(TASK_REGISTRY, (HASH,), b"")) is None
    assert decode_event(Log(TASK_REGISTRY, (), b"")) is None


def test_every_custom_error_of_ours_is_known() -> None:
    compiled = {
        signature(entry)
        for contract in ABI
        for entry in ABI[contract]
        if entry["type"] == "error"
        and entry["name"].startswith(("Task", "Ledger", "Distributor", "ValidatorSet", "Faucet"))
    }
    known = set(ERROR_SIGNATURES)
    assert compiled <= known
    assert {each for each in known if each.startswith(("Task", "Ledger", "Dist"))} <= compiled


def test_an_error_is_decoded_for_people() -> None:
    data = compute_selector("LedgerAlreadyCommitted(uint256,address)") + encode(
        ["uint256", "address"], [7, WHO]
    )
    error = decode_error(data)
    assert error == ContractError("LedgerAlreadyCommitted", (7, WHO_TEXT))
    assert str(error) == f"LedgerAlreadyCommitted(7, {WHO_TEXT})"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x02",
        b"\x00" * 36,
        compute_selector("TaskUnknown(uint256)"),
        compute_selector("TaskUnknown(uint256)") + b"\x01",
        compute_selector("TaskInvalidTerms(string)") + b"\xff" * 32,
        compute_selector("TaskAlreadyReady(uint256,address)") + b"\xff" * 64,
        compute_selector("Error(string)") + encode(["bytes"], [b"\xff"]),
    ],
    ids=range(8),
)
def test_revert_data_that_is_no_error_of_ours_is_none(data: bytes) -> None:
    assert decode_error(data) is None


def test_call_data_is_classified_by_contract_and_function() -> None:
    ledger, registry = GRADIENT_LEDGER, TASK_REGISTRY
    kinds = {
        (contract, name): classify_call(
            next(address for address, known in CONTRACT.items() if known == contract), data
        )
        for contract, name, data in CALLS
    }
    votes = {each for each, kind in kinds.items() if kind is CallKind.OPERATOR_VOTE}
    assert votes == {
        ("TaskRegistry", "postReady"),
        ("GradientLedger", "postVerdict"),
        ("GradientLedger", "postResult"),
        ("ValidatorSet", "voteOnProposal"),
        ("ValidatorSet", "reportEquivocation"),
        ("ValidatorSet", "reportLostLock"),
    }
    commitments = {each for each, kind in kinds.items() if kind is CallKind.COMMITMENT}
    assert commitments == {("GradientLedger", "commitGradient")}
    vote = encode_post_ready(TASK)
    assert classify_call(ledger, vote) is CallKind.OTHER
    assert classify_call(None, vote) is CallKind.OTHER
    assert classify_call(registry, vote[:3]) is CallKind.OTHER
    assert decode_task_id(vote) == TASK
    assert decode_task_id(vote[:-1]) is None
