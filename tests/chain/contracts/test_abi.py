"""The calls, events and errors in Python agree with the compiled contracts."""

import json
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FunctionType

import pytest
from eth_abi.abi import decode, encode

from chain.contracts import (
    faucet,
    gradient_ledger,
    miner_seats,
    reward_distributor,
    task_registry,
    training_token,
    validator_set,
)
from chain.contracts.abi import ContractCall, ContractView, InvalidAnswerError, compute_selector
from chain.contracts.addresses import (
    FAUCET,
    GRADIENT_LEDGER,
    MINER_SEATS,
    REWARD_DISTRIBUTOR,
    TASK_REGISTRY,
    TRAINING_TOKEN,
    VALIDATOR_SET,
)
from chain.contracts.calls import CallKind, decode_task_id, identify_call
from chain.contracts.errors import ERRORS, ContractError, decode_error
from chain.contracts.events import EVENT_LAYOUTS, EventLayout, decode_event
from chain.contracts.gradient_ledger import (
    Deadline,
    EndedAttemptState,
    Phase,
    ResultKind,
    ResultPosted,
    ResultVote,
    RoundState,
)
from chain.contracts.miner_seats import (
    Fine,
    FineKind,
    ListedSeat,
    MinerFined,
    Participant,
    SeatState,
)
from chain.contracts.reward_distributor import RewardClaim
from chain.contracts.task_registry import (
    CloseReason,
    Prices,
    Purchase,
    Quote,
    TaskAccount,
    TaskLease,
    TaskResources,
    TaskStatus,
    TaskTerms,
)
from chain.contracts.validator_set import (
    SignedDigest,
    SignedViewChange,
    ValidatorProposal,
    ValidatorState,
    ValidatorStatus,
    VotePlace,
)
from chain.crypto import keccak256
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.types.receipt import Log
from chain.types.validator_set import ValidatorSet

MODULES = (
    training_token,
    validator_set,
    task_registry,
    gradient_ledger,
    miner_seats,
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
    MINER_SEATS: "MinerSeats",
    REWARD_DISTRIBUTOR: "RewardDistributor",
    FAUCET: "Faucet",
}
TASK = TaskId(7)
WHO = Address(b"\x11" * 20)
WHOM = Address(b"\x22" * 20)
HASH = Hash32(b"\x33" * 32)
VOTE = ResultVote(HASH, Hash32(b"\x44" * 32), Hash32(b"\x55" * 32), 9, 77, ResultKind.PAID_ONLY, 21)
TERMS = TaskTerms(HASH, WHO, 1, 2, 3, 4, 5, 6, 1_000_000, 7, 8, 9)
WHO_TEXT, WHOM_TEXT = "0x" + WHO.hex(), "0x" + WHOM.hex()
VOTE_WORDS = (HASH, b"\x44" * 32, b"\x55" * 32, 9, 77, 3, 21)
TERMS_WORDS = (HASH, WHO_TEXT, 1, 2, 3, 4, 5, 6, 1_000_000, 7, 8, 9)

RESOURCES = TaskResources(9, 10, 11, 12)
PURCHASE = Purchase(13, 14)
PLACE = VotePlace(3, 1, BlockNumber(8), 2)

CALLS: list[tuple[str, str, ContractCall | ContractView]] = [
    (
        "TaskRegistry",
        "submitTask",
        task_registry.submit_task(TERMS, RESOURCES, b"{}", 5, PURCHASE, 9),
    ),
    ("TaskRegistry", "fundTask", task_registry.fund_task(TASK, 5)),
    ("TaskRegistry", "extendTask", task_registry.extend_task(TASK, PURCHASE, 9)),
    ("TaskRegistry", "answerTask", task_registry.answer_task(TASK, 0)),
    ("TaskRegistry", "withdrawExaminationPay", task_registry.withdraw_examination_pay()),
    ("TaskRegistry", "expireTask", task_registry.expire_task(TASK)),
    ("TaskRegistry", "refundFee", task_registry.refund_fee(TASK)),
    ("TaskRegistry", "cancelTask", task_registry.cancel_task(TASK)),
    ("TaskRegistry", "resumeTask", task_registry.resume_task(TASK)),
    ("TaskRegistry", "refundTask", task_registry.refund_task(TASK)),
    ("TaskRegistry", "taskCount", task_registry.task_count()),
    ("TaskRegistry", "getTerms", task_registry.get_terms(TASK)),
    ("TaskRegistry", "getAccount", task_registry.get_account(TASK)),
    ("TaskRegistry", "getResources", task_registry.get_resources(TASK)),
    ("TaskRegistry", "getLease", task_registry.get_lease(TASK)),
    ("TaskRegistry", "prices", task_registry.get_prices()),
    ("TaskRegistry", "quote", task_registry.get_quote(TERMS, RESOURCES, PURCHASE)),
    ("TaskRegistry", "quoteExtension", task_registry.get_extension_quote(TASK, PURCHASE)),
    ("TaskRegistry", "attemptSecondsOf", task_registry.get_attempt_seconds(TERMS)),
    ("TaskRegistry", "isExpired", task_registry.is_expired(TASK)),
    ("TaskRegistry", "openTasks", task_registry.get_open_tasks()),
    ("TaskRegistry", "burnt", task_registry.get_burnt()),
    ("TaskRegistry", "examinationPayOf", task_registry.get_examination_pay(WHO)),
    ("TaskRegistry", "answerOf", task_registry.get_answer(TASK, WHO)),
    ("MinerSeats", "register", miner_seats.register(TASK, 5, [WHO, WHOM])),
    ("MinerSeats", "leave", miner_seats.leave(TASK)),
    ("MinerSeats", "withdrawBond", miner_seats.withdraw_bond(TASK)),
    ("MinerSeats", "withdrawSeatBond", miner_seats.withdraw_seat_bond(TASK)),
    ("MinerSeats", "endSeats", miner_seats.end_seats(TASK, [WHO])),
    ("MinerSeats", "postFines", miner_seats.post_fines(TASK, 4, HASH)),
    ("MinerSeats", "getSeat", miner_seats.get_seat(TASK, WHO)),
    ("MinerSeats", "seatCount", miner_seats.seat_count(TASK)),
    ("MinerSeats", "registeredUnits", miner_seats.registered_units(TASK)),
    ("MinerSeats", "listSeats", miner_seats.list_seats(TASK)),
    ("MinerSeats", "listOver", miner_seats.list_over(TASK, 5)),
    ("MinerSeats", "requiredBond", miner_seats.required_bond(TASK, 5)),
    ("MinerSeats", "seatBond", miner_seats.seat_bond()),
    ("MinerSeats", "seatAttempts", miner_seats.seat_attempts()),
    ("GradientLedger", "endedAttempt", gradient_ledger.ended_attempt(TASK, 4)),
    ("GradientLedger", "postLateVerdict", gradient_ledger.post_late_verdict(TASK, 4, b"\x01")),
    (
        "GradientLedger",
        "commitGradient",
        gradient_ledger.commit_gradient(TASK, 1, 2, 3, HASH),
    ),
    (
        "GradientLedger",
        "postVerdict",
        gradient_ledger.post_verdict(TASK, 1, 2, 0, b"\x01"),
    ),
    (
        "GradientLedger",
        "postResult",
        gradient_ledger.post_result(TASK, 1, 2, 0, VOTE, 5, 6),
    ),
    ("GradientLedger", "settleRound", gradient_ledger.settle_round(TASK, VOTE)),
    ("GradientLedger", "advanceRound", gradient_ledger.advance_round(TASK)),
    (
        "MinerSeats",
        "slash",
        miner_seats.slash(TASK, 4, [(Fine(1, 2, WHO, FineKind.FRAUD, 5), (HASH,))]),
    ),
    ("MinerSeats", "withdrawCredit", miner_seats.withdraw_credit(WHO)),
    ("GradientLedger", "phase", gradient_ledger.phase(TASK)),
    ("GradientLedger", "deadline", gradient_ledger.deadline(TASK)),
    ("GradientLedger", "getRound", gradient_ledger.get_round(TASK)),
    ("MinerSeats", "participants", miner_seats.participants(TASK)),
    ("MinerSeats", "creditOf", miner_seats.credit_of(WHO, WHOM)),
    ("RewardDistributor", "claim", reward_distributor.claim(TASK, 5, [HASH])),
    (
        "RewardDistributor",
        "claimMany",
        reward_distributor.claim_many([RewardClaim(TASK, WHO, 5, (HASH,))]),
    ),
    ("RewardDistributor", "rootOf", reward_distributor.root_of(TASK)),
    ("RewardDistributor", "claimedOf", reward_distributor.claimed_of(TASK, WHO)),
    ("ValidatorSet", "committee", validator_set.get_current()),
    ("ValidatorSet", "committeeOf", validator_set.get_version(7)),
    ("GradientLedger", "judgesOf", gradient_ledger.judges_of(TASK, 4)),
    ("ValidatorSet", "nextValidators", validator_set.next_validators()),
    ("ValidatorSet", "activationBlock", validator_set.activation_block()),
    ("ValidatorSet", "getValidator", validator_set.get_validator(WHO)),
    ("ValidatorSet", "proposeJoin", validator_set.propose_join(WHO, b"\x05" * 65)),
    ("ValidatorSet", "proposeRemoval", validator_set.propose_removal(WHO)),
    ("ValidatorSet", "voteOnProposal", validator_set.vote_on_proposal(7)),
    ("ValidatorSet", "carryOut", validator_set.carry_out(7)),
    ("ValidatorSet", "withdrawProposal", validator_set.withdraw_proposal(7)),
    ("ValidatorSet", "leaveSet", validator_set.leave_set()),
    ("ValidatorSet", "removeExiting", validator_set.remove_exiting(WHO)),
    ("ValidatorSet", "withdrawStake", validator_set.withdraw_stake()),
    ("ValidatorSet", "proposalCount", validator_set.proposal_count()),
    ("ValidatorSet", "getProposal", validator_set.get_proposal(7)),
    ("ValidatorSet", "candidacyOf", validator_set.candidacy_of(WHO)),
    ("ValidatorSet", "requiredStake", validator_set.required_stake()),
    ("ValidatorSet", "recordGenesis", validator_set.record_genesis()),
    ("ValidatorSet", "genesisHash", validator_set.genesis_hash()),
    (
        "ValidatorSet",
        "reportEquivocation",
        validator_set.report_equivocation(
            PLACE, SignedDigest(HASH, b"\x01"), SignedDigest(HASH, b"\x02")
        ),
    ),
    (
        "ValidatorSet",
        "reportLostLock",
        validator_set.report_lost_lock(
            PLACE, SignedDigest(HASH, b"\x01"), SignedViewChange(4, 1, HASH, b"\x02")
        ),
    ),
    ("TrainingToken", "balanceOf", training_token.balance_of(TRAINING_TOKEN, WHO)),
    ("TrainingToken", "allowance", training_token.allowance(TRAINING_TOKEN, WHO, WHOM)),
    ("TrainingToken", "approve", training_token.approve(TRAINING_TOKEN, WHO, 5)),
    ("TrainingToken", "transfer", training_token.transfer(TRAINING_TOKEN, WHO, 5)),
    ("Faucet", "drip", faucet.drip(WHO)),
]
"""Every call, with the contract that takes it."""

ARGUMENTS = {
    "submitTask": (TERMS_WORDS, (9, 10, 11, 12), b"{}", 5, 13, 14, 9),
    "extendTask": (7, 13, 14, 9),
    "answerTask": (7, 0),
    "withdrawExaminationPay": (),
    "prices": (),
    "quote": (TERMS_WORDS, (9, 10, 11, 12), 13, 14),
    "quoteExtension": (7, 13, 14),
    "attemptSecondsOf": (TERMS_WORDS,),
    "openTasks": (),
    "burnt": (),
    "examinationPayOf": (WHO_TEXT,),
    "fundTask": (7, 5),
    "answerOf": (7, WHO_TEXT),
    "register": (7, 5, (WHO_TEXT, WHOM_TEXT)),
    "endSeats": (7, (WHO_TEXT,)),
    "postFines": (7, 4, HASH),
    "getSeat": (7, WHO_TEXT),
    "listOver": (7, 5),
    "requiredBond": (7, 5),
    "endedAttempt": (7, 4),
    "judgesOf": (7, 4),
    "postLateVerdict": (7, 4, b"\x01"),
    "commitGradient": (7, 1, 2, 3, HASH),
    "postVerdict": (7, 1, 2, 0, b"\x01"),
    "postResult": (7, 1, 2, 0, VOTE_WORDS, 5, 6),
    "settleRound": (7, VOTE_WORDS),
    "slash": (7, 4, ((1, 2, WHO_TEXT, 2, 5),), ((HASH,),)),
    "withdrawCredit": (WHO_TEXT,),
    "creditOf": (WHO_TEXT, WHOM_TEXT),
    "claim": (7, 5, (HASH,)),
    "claimMany": (((7, WHO_TEXT, 5, (HASH,)),),),
    "claimedOf": (7, WHO_TEXT),
    "getValidator": (WHO_TEXT,),
    "proposeJoin": (WHO_TEXT, b"\x05" * 65),
    "proposeRemoval": (WHO_TEXT,),
    "removeExiting": (WHO_TEXT,),
    "candidacyOf": (WHO_TEXT,),
    "reportEquivocation": ((3, 1, 8, 2), (HASH, b"\x01"), (HASH, b"\x02")),
    "reportLostLock": ((3, 1, 8, 2), (HASH, b"\x01"), (4, 1, HASH, b"\x02")),
    "balanceOf": (WHO_TEXT,),
    "allowance": (WHO_TEXT, WHOM_TEXT),
    "approve": (WHO_TEXT, 5),
    "transfer": (WHO_TEXT, 5),
    "drip": (WHO_TEXT,),
    "taskCount": (),
    "seatBond": (),
    "seatAttempts": (),
    "committee": (),
    "nextValidators": (),
    "activationBlock": (),
    "leaveSet": (),
    "withdrawStake": (),
    "proposalCount": (),
    "requiredStake": (),
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


@pytest.mark.parametrize(("contract", "name", "made"), CALLS, ids=[call[1] for call in CALLS])
def test_call_is_what_the_compiler_expects(
    contract: str, name: str, made: ContractCall | ContractView
) -> None:
    entry = entries(contract, "function")[name]
    assert CONTRACT[made.to] == contract
    assert made.data[:4] == keccak256(signature(entry).encode())[:4]
    types = [abi_type(each) for each in entry["inputs"]]
    assert decode(types, made.data[4:]) == ARGUMENTS.get(name, (7,))
    is_view = entry["stateMutability"] == "view"
    assert type(made) is (ContractView if is_view else ContractCall)


def test_every_call_and_view_is_covered_above() -> None:
    functions = [
        function
        for module in MODULES
        for function in vars(module).values()
        if isinstance(function, FunctionType)
        and function.__module__ == module.__name__
        and re.search("ContractCall|ContractView", str(function.__annotations__.get("return")))
    ]
    assert len(functions) == len({name for _, name, _ in CALLS}) == len(CALLS)


LEASE = TaskLease(*[3] * 15)
LEASE_TYPE = (
    "(uint64,uint64,uint64,uint64,uint64,uint64,uint32,uint32,uint32,uint8,uint128,uint32,uint64,"
    "uint256,uint256)"
)
SAMPLES = {
    "uint": (3, 3),
    "bool": (True, True),
    "address": (WHO_TEXT, WHO),
    "bytes32": (HASH, HASH),
    "bytes": (b"spec", b"spec"),
    "address[]": ([WHOM_TEXT, WHO_TEXT], (WHOM, WHO)),
    "uint32[]": ([6, 7], (6, 7)),
    "(bytes32,bytes32,bytes32,uint32,uint128,uint8,uint104)": (VOTE_WORDS, VOTE),
    LEASE_TYPE: ((3,) * 15, LEASE),
}
"""By type: a value for the encoder, and how Python has it."""

ANSWERS = {
    "phase": Phase.VERDICT,
    "deadline": Deadline(BlockNumber(3), 3),
    "participants": (Participant(WHO, 7), Participant(WHOM, 6)),
    "committee": ValidatorSet((WHOM, WHO), (WHOM, WHO)),
    "committeeOf": ValidatorSet((WHOM, WHO), (WHOM, WHO)),
    "nextValidators": (WHOM, WHO),
    "getTerms": TaskTerms(HASH, WHO, *[3] * 10),
    "getAccount": TaskAccount(WHO, TaskStatus.PAUSED, 3, True, CloseReason.REFUSED, *[3] * 9),
    "getRound": RoundState(*[3] * 6, True, *[3] * 11, HASH, HASH, 3),
    "endedAttempt": EndedAttemptState(*[3] * 6),
    "getSeat": SeatState(*[3] * 7, True, True, 3, True, 3, 3, True),
    "listSeats": (ListedSeat(WHO, 7, 7), ListedSeat(WHOM, 6, 6)),
    "listOver": (WHOM, WHO),
    "getValidator": ValidatorState(WHO, ValidatorStatus.EXITED, True, BlockNumber(3), 3),
    "getProposal": ValidatorProposal(WHO, WHO, True, True, BlockNumber(3), 3, 3, 3),
    "isExpired": True,
    "getResources": TaskResources(*[3] * 4),
    "getLease": LEASE,
    "prices": Prices(*[3] * 10),
    "quote": Quote(*[3] * 6),
    "quoteExtension": Quote(*[3] * 6),
    "rootOf": HASH,
    "genesisHash": HASH,
}
"""What each view makes of the samples; 3 for the others."""

VIEWS = [(contract, name, made) for contract, name, made in CALLS if isinstance(made, ContractView)]
OTHER_NAMES = {
    "slashed": "is_slashed",
    "closed": "is_closed",
    "from": "sender",
}
"""Names of the contracts that Python has in other words."""


def snake(name: str) -> str:
    words = re.sub(r"(?<!^)(?=[A-Z])", "_", name.strip("_")).lower()
    return OTHER_NAMES.get(words, words)


def sample(parameter: dict) -> tuple[object, object]:
    kind = abi_type(parameter)
    if "components" in parameter and kind not in SAMPLES:
        wire = [sample(each)[0] for each in parameter["components"]]
        return (tuple(wire), None)
    return SAMPLES[re.sub(r"^uint\d+$", "uint", kind)]


@pytest.mark.parametrize(("contract", "name", "view"), VIEWS, ids=[view[1] for view in VIEWS])
def test_answer_of_a_view_is_decoded_field_by_field(
    contract: str, name: str, view: ContractView
) -> None:
    outputs = entries(contract, "function")[name]["outputs"]
    data = encode([abi_type(each) for each in outputs], [sample(each)[0] for each in outputs])
    answer = view.decode(data)
    expected = ANSWERS.get(name, 3)
    assert (answer, type(answer)) == (expected, type(expected))
    for broken in (b"", data[:-1], data[:31]):
        with pytest.raises(InvalidAnswerError):
            view.decode(broken)


@pytest.mark.parametrize("name", [name for name in ANSWERS if is_dataclass(ANSWERS[name])])
def test_fields_of_an_answer_are_named_as_in_the_contract(name: str) -> None:
    (contract,) = {contract for contract, called, _ in VIEWS if called == name}
    outputs = entries(contract, "function")[name]["outputs"]
    compiled = [part["name"] for each in outputs for part in each.get("components", [each])]
    assert [field.name for field in fields(ANSWERS[name])] == [snake(each) for each in compiled]


def test_status_that_no_enum_has_is_an_invalid_answer() -> None:
    with pytest.raises(InvalidAnswerError):
        gradient_ledger.phase(TASK).decode((9).to_bytes(32, "big"))


def test_views_are_equal_if_they_ask_the_same() -> None:
    assert gradient_ledger.phase(TASK) == gradient_ledger.phase(TASK)
    assert gradient_ledger.phase(TASK) != gradient_ledger.deadline(TASK)


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
            f"{layout.kind.__name__}({','.join(layout.inputs)})": layout.indexed
            for layout in EVENT_LAYOUTS
            if layout.contract == address
        }
        assert layouts == compiled, contract


@pytest.mark.parametrize("layout", EVENT_LAYOUTS, ids=lambda layout: layout.kind.__name__)
def test_event_is_decoded_field_by_field(layout: EventLayout) -> None:
    entry = entries(CONTRACT[layout.contract], "event")[layout.kind.__name__]
    samples = {
        "address": (WHO_TEXT, WHO),
        "bytes32": (HASH, HASH),
        "bytes": (b"spec", b"spec"),
        "bool": (True, True),
        LEASE_TYPE: ((3,) * 15, LEASE),
        "uint8": (2, FineKind.FRAUD if layout.kind is MinerFined else 2),
        "(bytes32,bytes32,bytes32,uint32,uint128,uint8,uint104)": (VOTE_WORDS, VOTE),
    }
    wire, expected = [], []
    for i, parameter in enumerate(entry["inputs"]):
        pair = samples.get(abi_type(parameter), (i + 1, i + 1))
        wire.append(pair[0])
        expected.append(pair[1])
    types = [abi_type(each) for each in entry["inputs"]]
    topics = [Hash32(encode([types[i]], [wire[i]])) for i in layout.indexed]
    others = [i for i in range(len(types)) if i not in layout.indexed]
    data = encode([types[i] for i in others], [wire[i] for i in others])
    topic = keccak256(signature(entry).encode())
    event = decode_event(Log(layout.contract, (topic, *topics), data))
    assert event is not None
    assert type(event).__name__ == entry["name"]
    assert [getattr(event, field.name) for field in fields(event)] == expected
    assert [field.name for field in fields(event)] == [snake(p["name"]) for p in entry["inputs"]]


def test_result_without_an_evaluation_says_so() -> None:
    (layout,) = (each for each in EVENT_LAYOUTS if each.kind is ResultPosted)
    topics = [Hash32(encode(["uint256"], [i])) for i in (7, 3)] + [
        Hash32(encode(["address"], [WHO]))
    ]
    types = [
        "uint32",
        "uint32",
        "(bytes32,bytes32,bytes32,uint32,uint128,uint8,uint104)",
        "uint32",
        "uint64",
    ]
    data = encode(types, [0, 0, VOTE_WORDS, 2**32 - 1, 0])
    event = decode_event(Log(layout.contract, (layout.topic, *topics), data))
    assert event == ResultPosted(TASK, 3, WHO, 0, 0, VOTE, None, 0)
    posted = gradient_ledger.post_result(TASK, 3, 0, 0, VOTE, None, 0)
    assert posted == gradient_ledger.post_result(TASK, 3, 0, 0, VOTE, 2**32 - 1, 0)


def test_log_of_another_contract_is_no_event() -> None:
    topic = EVENT_LAYOUTS[3].topic
    assert decode_event(Log(WHO, (topic, HASH), b"")) is None
    assert decode_event(Log(TASK_REGISTRY, (HASH,), b"")) is None
    assert decode_event(Log(TASK_REGISTRY, (), b"")) is None


def test_every_error_of_the_contracts_is_known() -> None:
    compiled = {
        signature(entry) for contract in ABI for entry in ABI[contract] if entry["type"] == "error"
    }
    known = {f"{name}({','.join(types)})" for name, types in ERRORS.items()}
    assert known == compiled | {"Error(string)", "Panic(uint256)"}


def test_error_is_decoded_for_people() -> None:
    types = ["uint256", "address"]
    data = compute_selector("SeatsAlreadyCommitted", types) + encode(types, [7, WHO])
    error = decode_error(data)
    assert error == ContractError("SeatsAlreadyCommitted", (7, WHO_TEXT))
    assert str(error) == f"SeatsAlreadyCommitted(7, {WHO_TEXT})"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x02",
        b"\x00" * 36,
        compute_selector("TaskUnknown", ["uint256"]),
        compute_selector("TaskUnknown", ["uint256"]) + b"\x01",
        compute_selector("TaskInvalidTerms", ["string"]) + b"\xff" * 32,
        compute_selector("TaskAlreadyAnswered", ["uint256", "address"]) + b"\xff" * 64,
        compute_selector("Error", ["string"]) + encode(["bytes"], [b"\xff"]),
    ],
    ids=range(8),
)
def test_revert_data_that_is_no_error_of_ours_is_none(data: bytes) -> None:
    assert decode_error(data) is None


def test_call_data_is_classified_by_contract_and_function() -> None:
    kinds = {
        (contract, name): identify_call(made.to, made.data)[0] for contract, name, made in CALLS
    }
    votes = {each for each, kind in kinds.items() if kind is CallKind.OPERATOR_VOTE}
    assert votes == {
        ("TaskRegistry", "answerTask"),
        ("GradientLedger", "postVerdict"),
        ("GradientLedger", "postLateVerdict"),
        ("GradientLedger", "postResult"),
        ("MinerSeats", "postFines"),
        ("ValidatorSet", "voteOnProposal"),
        ("ValidatorSet", "reportEquivocation"),
        ("ValidatorSet", "reportLostLock"),
    }
    duties = {each for each, kind in kinds.items() if kind is CallKind.OPERATOR_DUTY}
    assert duties == {
        ("TaskRegistry", "expireTask"),
        ("GradientLedger", "settleRound"),
        ("GradientLedger", "advanceRound"),
        ("MinerSeats", "slash"),
        ("MinerSeats", "endSeats"),
        ("ValidatorSet", "carryOut"),
        ("ValidatorSet", "removeExiting"),
    }
    commitments = {each for each, kind in kinds.items() if kind is CallKind.COMMITMENT}
    assert commitments == {("GradientLedger", "commitGradient")}
    vote = task_registry.answer_task(TASK, 0).data
    assert identify_call(GRADIENT_LEDGER, vote) == (CallKind.OTHER, None)
    assert identify_call(None, vote) == (CallKind.OTHER, None)
    assert identify_call(TASK_REGISTRY, vote[:3]) == (CallKind.OTHER, None)
    assert identify_call(TASK_REGISTRY, vote[:5]) == (CallKind.OPERATOR_VOTE, None)
    assert decode_task_id(vote) == TASK
    assert decode_task_id(vote[:35]) is None


def test_two_votes_on_the_same_ballot_are_about_the_same_thing() -> None:
    first, again, other = (
        gradient_ledger.post_verdict(TASK, 1, 2, ballot, bitmap)
        for ballot, bitmap in ((0, b"\0"), (0, b"\1"), (1, b"\0"))
    )
    assert identify_call(first.to, first.data) == identify_call(again.to, again.data)
    assert identify_call(first.to, first.data) != identify_call(other.to, other.data)
