"""Python's view of the system contracts is the compiler's."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
from eth_abi.abi import decode, encode

from chain.contracts import system_contracts as contracts
from chain.contracts.system_contracts import (
    EVENT_LAYOUTS,
    CallKind,
    CommitmentEvidence,
    ContractError,
    ResultPosted,
    ResultVote,
    RewardClaim,
    TaskTerms,
)
from chain.crypto import keccak256
from chain.primitives import Address, Hash32, TaskId
from chain.types.receipt import Log

BUILD = Path(__file__).parents[3] / "contracts" / "build"
ABI = {path.stem: json.loads(path.read_text())["abi"] for path in BUILD.glob("*.json")}
CONTRACT = {
    contracts.TRAINING_TOKEN: "TrainingToken",
    contracts.VALIDATOR_SET: "ValidatorSet",
    contracts.TASK_REGISTRY: "TaskRegistry",
    contracts.GRADIENT_LEDGER: "GradientLedger",
    contracts.REWARD_DISTRIBUTOR: "RewardDistributor",
    contracts.FAUCET: "Faucet",
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
    ("TaskRegistry", "submitTask", contracts.encode_submit_task(TERMS, b"{}", 5)),
    ("TaskRegistry", "fundTask", contracts.encode_fund_task(TASK, 5)),
    ("TaskRegistry", "postReady", contracts.encode_post_ready(TASK)),
    ("TaskRegistry", "cancelTask", contracts.encode_cancel_task(TASK)),
    ("TaskRegistry", "resumeTask", contracts.encode_resume_task(TASK)),
    ("TaskRegistry", "refundTask", contracts.encode_refund_task(TASK)),
    ("TaskRegistry", "taskCount", contracts.encode_task_count()),
    ("TaskRegistry", "getTerms", contracts.encode_get_terms(TASK)),
    ("TaskRegistry", "getAccount", contracts.encode_get_account(TASK)),
    ("TaskRegistry", "isReady", contracts.encode_is_ready(TASK, WHO)),
    ("GradientLedger", "register", contracts.encode_register(TASK, 5)),
    ("GradientLedger", "leave", contracts.encode_leave(TASK)),
    ("GradientLedger", "withdrawBond", contracts.encode_withdraw_bond(TASK)),
    (
        "GradientLedger",
        "commitGradient",
        contracts.encode_commit_gradient(TASK, 1, 2, 3, HASH),
    ),
    (
        "GradientLedger",
        "postVerdict",
        contracts.encode_post_verdict(TASK, 1, 2, 0, b"\x01"),
    ),
    (
        "GradientLedger",
        "postResult",
        contracts.encode_post_result(TASK, 1, 2, 0, VOTE, 5, 6),
    ),
    ("GradientLedger", "settleRound", contracts.encode_settle_round(TASK, VOTE)),
    ("GradientLedger", "advanceRound", contracts.encode_advance_round(TASK)),
    (
        "GradientLedger",
        "slash",
        contracts.encode_slash(TASK, 4, [CommitmentEvidence(WHO, 2, HASH)], [(WHOM, b"\x02")], [0]),
    ),
    ("GradientLedger", "withdrawCredit", contracts.encode_withdraw_credit(WHO)),
    ("GradientLedger", "phase", contracts.encode_phase(TASK)),
    ("GradientLedger", "deadline", contracts.encode_deadline(TASK)),
    ("GradientLedger", "getRound", contracts.encode_get_round(TASK)),
    ("GradientLedger", "getMiner", contracts.encode_get_miner(TASK, WHO)),
    ("GradientLedger", "participants", contracts.encode_participants(TASK)),
    ("GradientLedger", "requiredBond", contracts.encode_required_bond(TASK, 5)),
    (
        "GradientLedger",
        "commitmentPosition",
        contracts.encode_commitment_position(TASK, WHO),
    ),
    ("GradientLedger", "creditOf", contracts.encode_credit_of(WHO, WHOM)),
    ("GradientLedger", "phaseFloorBlocks", contracts.encode_phase_floor_blocks()),
    ("RewardDistributor", "claim", contracts.encode_claim(TASK, 5, [HASH])),
    ("RewardDistributor", "claimFor", contracts.encode_claim_for(TASK, WHO, 5, [HASH])),
    (
        "RewardDistributor",
        "claimMany",
        contracts.encode_claim_many([RewardClaim(TASK, WHO, 5, (HASH,))]),
    ),
    ("RewardDistributor", "rootOf", contracts.encode_root_of(TASK)),
    ("RewardDistributor", "paidTotalOf", contracts.encode_paid_total_of(TASK)),
    ("RewardDistributor", "claimedOf", contracts.encode_claimed_of(TASK, WHO)),
    ("RewardDistributor", "claimedTotalOf", contracts.encode_claimed_total_of(TASK)),
    ("ValidatorSet", "committee", contracts.encode_committee()),
    ("ValidatorSet", "committeeOf", contracts.encode_committee_of(7)),
    ("GradientLedger", "judgesOf", contracts.encode_judges_of(TASK)),
    ("ValidatorSet", "nextValidators", contracts.encode_next_validators()),
    ("ValidatorSet", "activationBlock", contracts.encode_activation_block()),
    ("ValidatorSet", "operatorOf", contracts.encode_operator_of(WHO)),
    ("ValidatorSet", "validatorOf", contracts.encode_validator_of(WHO)),
    ("ValidatorSet", "getValidator", contracts.encode_get_validator(WHO)),
    ("ValidatorSet", "proposeJoin", contracts.encode_propose_join(WHO)),
    ("ValidatorSet", "proposeRemoval", contracts.encode_propose_removal(WHO)),
    ("ValidatorSet", "voteOnProposal", contracts.encode_vote_on_proposal(7)),
    ("ValidatorSet", "carryOut", contracts.encode_carry_out(7)),
    ("ValidatorSet", "withdrawProposal", contracts.encode_withdraw_proposal(7)),
    ("ValidatorSet", "leaveSet", contracts.encode_leave_set()),
    ("ValidatorSet", "removeExiting", contracts.encode_remove_exiting(WHO)),
    ("ValidatorSet", "withdrawStake", contracts.encode_withdraw_stake()),
    ("ValidatorSet", "proposalCount", contracts.encode_proposal_count()),
    ("ValidatorSet", "getProposal", contracts.encode_get_proposal(7)),
    ("ValidatorSet", "candidacyOf", contracts.encode_candidacy_of(WHO)),
    ("ValidatorSet", "hasVoted", contracts.encode_has_voted(7, WHO)),
    ("ValidatorSet", "requiredStake", contracts.encode_required_stake()),
    ("ValidatorSet", "minValidators", contracts.encode_min_validators()),
    ("ValidatorSet", "recordGenesis", contracts.encode_record_genesis()),
    ("ValidatorSet", "genesisHash", contracts.encode_genesis_hash()),
    (
        "ValidatorSet",
        "reportEquivocation",
        contracts.encode_report_equivocation((3, 1, 8, 2), (HASH, b"\x01"), (HASH, b"\x02")),
    ),
    (
        "ValidatorSet",
        "reportLostLock",
        contracts.encode_report_lost_lock((3, 1, 8, 2), (HASH, b"\x01"), (4, 1, HASH, b"\x02")),
    ),
    ("TrainingToken", "balanceOf", contracts.encode_balance_of(WHO)),
    ("TrainingToken", "allowance", contracts.encode_allowance(WHO, WHOM)),
    ("TrainingToken", "approve", contracts.encode_approve(WHO, 5)),
    ("TrainingToken", "transfer", contracts.encode_transfer(WHO, 5)),
    ("Faucet", "drip", contracts.encode_drip(WHO)),
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
"""What the compiler's types must decode; (7,) for the others."""


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
        for name in vars(contracts)
        if name.startswith("encode_") and not name.endswith("_arguments")
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
    event = contracts.decode_event(Log(layout.contract, (layout.topic, *topics), data))
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
    event = contracts.decode_event(Log(layout.contract, (layout.topic, *topics), data))
    assert event == ResultPosted(TASK, 3, WHO, 0, 0, VOTE, None, 0)
    posted = contracts.encode_post_result(TASK, 3, 0, 0, VOTE, None, 0)
    assert posted == contracts.encode_post_result(TASK, 3, 0, 0, VOTE, 2**32 - 1, 0)


def test_another_contracts_log_is_no_event() -> None:
    topic = EVENT_LAYOUTS[3].topic
    assert contracts.decode_event(Log(WHO, (topic, HASH), b"")) is None
    assert contracts.decode_event(Log(contracts.TASK_REGISTRY, (HASH,), b"")) is None
    assert contracts.decode_event(Log(contracts.TASK_REGISTRY, (), b"")) is None


def test_every_custom_error_of_ours_is_known() -> None:
    compiled = {
        signature(entry)
        for contract in ABI
        for entry in ABI[contract]
        if entry["type"] == "error"
        and entry["name"].startswith(("Task", "Ledger", "Distributor", "ValidatorSet", "Faucet"))
    }
    known = set(contracts.ERROR_SIGNATURES)
    assert compiled <= known
    assert {each for each in known if each.startswith(("Task", "Ledger", "Dist"))} <= compiled


def test_an_error_is_decoded_for_people() -> None:
    data = contracts.compute_selector("LedgerAlreadyCommitted(uint256,address)") + encode(
        ["uint256", "address"], [7, WHO]
    )
    error = contracts.decode_error(data)
    assert error == ContractError("LedgerAlreadyCommitted", (7, WHO_TEXT))
    assert str(error) == f"LedgerAlreadyCommitted(7, {WHO_TEXT})"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x02",
        b"\x00" * 36,
        contracts.compute_selector("TaskUnknown(uint256)"),
        contracts.compute_selector("TaskUnknown(uint256)") + b"\x01",
        contracts.compute_selector("TaskInvalidTerms(string)") + b"\xff" * 32,
        contracts.compute_selector("TaskAlreadyReady(uint256,address)") + b"\xff" * 64,
        contracts.compute_selector("Error(string)") + encode(["bytes"], [b"\xff"]),
    ],
    ids=range(8),
)
def test_revert_data_that_is_no_error_of_ours_is_none(data: bytes) -> None:
    assert contracts.decode_error(data) is None


def test_call_data_is_classified_by_contract_and_function() -> None:
    ledger, registry = contracts.GRADIENT_LEDGER, contracts.TASK_REGISTRY
    kinds = {
        (contract, name): contracts.classify_call(
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
    vote = contracts.encode_post_ready(TASK)
    assert contracts.classify_call(ledger, vote) is CallKind.OTHER
    assert contracts.classify_call(None, vote) is CallKind.OTHER
    assert contracts.classify_call(registry, vote[:3]) is CallKind.OTHER
    assert contracts.decode_task_id(vote) == TASK
    assert contracts.decode_task_id(vote[:-1]) is None
