"""The `pot_` methods and uploads, with one training round on the real contracts."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from eth_account import Account as Signer
from eth_account.signers.local import LocalAccount
from structlog.testing import capture_logs

from chain.contracts import (
    gradient_ledger,
    miner_seats,
    reward_distributor,
    task_registry,
    training_token,
)
from chain.contracts.abi import ContractCall
from chain.contracts.addresses import (
    MINER_SEATS,
    REWARD_DISTRIBUTOR,
    TASK_REGISTRY,
    TRAINING_TOKEN,
)
from chain.contracts.gradient_ledger import ResultKind, ResultVote
from chain.contracts.task_registry import Purchase
from chain.crypto import content_id, keccak256
from chain.params import ChainParameters
from chain.primitives import Address, Hash32, TaskId
from chain.training.acceptance import Verdict, encode_verdicts
from chain.training.architectures import count_parameters
from chain.training.assignment import assign, compute_seed
from chain.training.encoding import GradientHeader, compute_commitment, count_payload_bytes
from chain.training.rewards import RewardTree, build_reward_tree, compute_leaf
from chain.training.task_spec import (
    Shard,
)
from chain.training.task_spec_codec import compute_spec_hash, compute_terms, encode_task_spec
from node.chain.training_index import TrainingIndex
from node.rpc import pot, reward_proofs, rounds
from node.rpc.errors import ErrorCode, RpcError
from node.rpc.parameters import Parameters
from node.setup.network_genesis import NetworkPlan, Seat, build_network, encode_genesis
from node.storage.blobs import BlobStore
from node.training.checks import get_checks_path
from node.training.reveal_store import RevealStore
from tests.node.full_disk import limited_file_size
from tests.node.rpc.recorded_answers import check_answers
from tests.worlds.blobs import build_upload_body
from tests.worlds.rpc import RpcHarness, rpc_harness
from tests.worlds.stored_chain import CHAIN_ID, StoredChain, sign
from tests.worlds.training import SPEC as SMALL
from tests.worlds.training import verify_reward_proof
from tests.worlds.training_node import ATTEMPT

POT = 10**18
TASK = TaskId(1)
START = 2_000_000_000
"""A time in the future, so that no phase depends on the clock of the test machine."""

OPERATORS = [Signer.from_key(bytes([n]) * 32) for n in range(1, 5)]
VALIDATORS = tuple(Address(bytes([0x20 + n]) * 20) for n in range(4))
SUBMITTER, ANN, BEN = (Signer.from_key(bytes([n]) * 32) for n in (11, 12, 13))
SHARD = b"rows and columns" * 30_000
WEIGHTS = bytes(4 * count_parameters(SMALL.model))
GRADIENT = bytes(range(256)) * 20
FEE = 60 * POT
PURCHASE = Purchase(lifetime_seconds=20 * 86_400, attempts=1_000)
SALT = Hash32(b"\x5a" * 32)


def address_of(signer: LocalAccount) -> Address:
    return Address(bytes.fromhex(signer.address[2:]))


SPEC = replace(
    SMALL,
    initial_weights=content_id(WEIGHTS),
    data=replace(
        SMALL.data,
        shards=(
            Shard(content_id(SHARD), len(SHARD), 2_000),
            Shard(Hash32(b"\x33" * 32), 4_000, 40),
        ),
    ),
    reward=replace(SMALL.reward, token=TRAINING_TOKEN, min_miners=2, min_units=2),
)
PAYLOAD = (GRADIENT * 20)[: count_payload_bytes(count_parameters(SPEC.model))]


@dataclass(frozen=True)
class Round:
    """The harness, with the round's inputs and result."""

    rpc: RpcHarness
    seed: Hash32
    vote: ResultVote
    reveal: dict[str, object]
    early: dict[str, object]
    """The result of pot_getAttempt when the head was the block that opened the attempt."""
    obstacles: list[object]
    """What kept the task from opening an attempt before miners registered."""
    open_reveals: dict[str, int]
    """The statuses of uploads while the attempt was in progress, by case."""


class AlwaysBusy:
    """Call workers that strangers keep busy."""

    async def call(self, *_: object, **_options: object) -> bytes:
        raise RpcError(ErrorCode.LIMIT_EXCEEDED, "busy")

    async def estimate_gas(self, *_: object, **_options: object) -> int:
        raise RpcError(ErrorCode.LIMIT_EXCEEDED, "busy")


def text(value: bytes) -> str:
    return "0x" + value.hex()


def build_chain(path: Path) -> StoredChain:
    seats = tuple(
        Seat(validator, address_of(operator))
        for validator, operator in zip(VALIDATORS, OPERATORS, strict=True)
    )
    config = build_network(
        NetworkPlan(
            chain_id=CHAIN_ID,
            seats=seats,
            parameters=ChainParameters(phase_floor_blocks=1),
            gas_limit=30_000_000,
            base_fee_per_gas=0,
            timestamp=START,
            tokens={address_of(signer): 1_000 * POT for signer in (SUBMITTER, ANN, BEN)},
        )
    )
    return StoredChain(path, genesis=encode_genesis(config))


def upload_reveal(rpc: RpcHarness, query: dict[str, object], body: bytes = PAYLOAD) -> int:
    return rpc.http("POST", "/v1/reveals", params=query, content=body).status_code


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Round]:
    directory = tmp_path_factory.mktemp("pot")
    chain = build_chain(directory / "database")
    nonces: dict[str, int] = {}

    def send(signer: LocalAccount, call: ContractCall) -> bytes:
        nonce = nonces.get(signer.address, 0)
        nonces[signer.address] = nonce + 1
        return sign(signer, nonce=nonce, to=text(call.to), data=call.data, gas=3_000_000)

    def finalize(*raw: bytes) -> None:
        chain.extend(*raw)
        receipts = chain.store.receipts(chain.store.head_number())
        assert [receipt.status for receipt in receipts] == [1] * len(raw)

    with rpc_harness(directory, chain) as rpc:
        rpc.node.get_node_info = lambda: {"peerId": "me", "validator": text(VALIDATORS[0])}
        budget = 100 * POT
        spec = encode_task_spec(SPEC)
        terms = compute_terms(SPEC)
        finalize(
            send(SUBMITTER, training_token.approve(TRAINING_TOKEN, TASK_REGISTRY, budget + FEE)),
            send(
                SUBMITTER,
                task_registry.submit_task(terms, SPEC.resources, spec, budget, PURCHASE, FEE),
            ),
        )
        finalize(*(send(op, task_registry.answer_task(TASK, 0)) for op in OPERATORS[:3]))
        obstacles = rpc.result("pot_getTask", TASK)["obstacles"]
        finalize(
            *(
                send(miner, training_token.approve(TRAINING_TOKEN, MINER_SEATS, 500 * POT))
                for miner in (ANN, BEN)
            ),
            send(ANN, miner_seats.register(TASK, 1)),
            send(BEN, miner_seats.register(TASK, 2)),
            send(BEN, gradient_ledger.advance_round(TASK)),
        )
        early = rpc.result("pot_getAttempt", TASK)
        assert early is not None
        finalize()
        header = chain.store.header(early["openBlock"] + 1)
        seed = compute_seed(header.mix_hash, ATTEMPT)

        def commit(miner: LocalAccount, units: int, root: Hash32) -> Hash32:
            where = GradientHeader(
                parameter_count=count_parameters(SPEC.model),
                attempt_id=ATTEMPT,
                chain_id=CHAIN_ID,
                theta_root=SPEC.initial_weights,
                seed=seed,
                miner=address_of(miner),
            )
            return compute_commitment(where, root, SALT, units)

        root = content_id(PAYLOAD)
        reveal: dict[str, object] = {
            "task": 1,
            "round": 0,
            "attempt": 0,
            "miner": ANN.address,
            "units": 1,
            "salt": text(SALT),
            "gradientRoot": text(root),
        }
        statuses = {"before the commitment": upload_reveal(rpc, reveal)}
        finalize(
            send(ANN, gradient_ledger.commit_gradient(TASK, 0, 0, 1, commit(ANN, 1, root))),
            send(
                BEN,
                gradient_ledger.commit_gradient(TASK, 0, 0, 2, commit(BEN, 2, Hash32(bytes(32)))),
            ),
        )
        for name, changes in (
            ("another salt", {"salt": text(bytes(32))}),
            ("other units", {"units": 2}),
            ("another miner", {"miner": SUBMITTER.address}),
            ("another round", {"round": 1}),
            ("another task", {"task": 9}),
            ("no number", {"units": "1x"}),
            ("no address", {"miner": "0x12"}),
        ):
            statuses[name] = upload_reveal(rpc, {**reveal, **changes})
        statuses["too short"] = upload_reveal(rpc, reveal, PAYLOAD[:-1])
        statuses["other bytes"] = upload_reveal(rpc, reveal, bytes(len(PAYLOAD)))
        with limited_file_size(len(PAYLOAD) - 1):
            statuses["a full disk"] = upload_reveal(rpc, reveal)
        rpc.options.reveals.touch()
        statuses["no folder for reveals"] = upload_reveal(rpc, reveal)
        rpc.options.reveals.unlink()
        statuses["right"] = upload_reveal(rpc, reveal)
        statuses["again"] = upload_reveal(rpc, reveal)
        finalize()
        bitmap = encode_verdicts([Verdict.OK, Verdict.CHEAT])
        finalize(
            *(send(op, gradient_ledger.post_verdict(TASK, 0, 0, 0, bitmap)) for op in OPERATORS)
        )
        earned = {address_of(ANN): SPEC.reward.unit_price}
        earned |= {address_of(op): SPEC.reward.validator_fee // 4 for op in OPERATORS}
        tree = build_reward_tree(CHAIN_ID, REWARD_DISTRIBUTOR, TASK, earned)
        vote = ResultVote(
            Hash32(b"\x71" * 32),
            Hash32(b"\x72" * 32),
            tree.root,
            1,
            sum(earned.values()),
            ResultKind.SETTLED,
            0b1111,
        )
        finalize()
        finalize(
            *(
                send(op, gradient_ledger.post_result(TASK, 0, 0, 0, vote, 15 + place, 700 + place))
                for place, op in enumerate(OPERATORS)
            )
        )
        finalize(send(OPERATORS[0], gradient_ledger.settle_round(TASK, vote)))
        path = get_checks_path(rpc.options.checks, ATTEMPT)
        path.parent.mkdir()
        row = {
            "verdict": "cheat",
            "distancePpb": 2_000_000,
            "exponents": "kept",
            "reason": "distance 2000000 ppb, the tolerance is 100000 ppb",
        }
        path.write_text(json.dumps({text(address_of(BEN)): row}))
        yield Round(rpc, seed, vote, reveal, early, obstacles, statuses)


def test_tasks_are_listed_in_pages(training: Round) -> None:
    (task,) = training.rpc.result("pot_listTasks")
    assert (task["id"], task["name"], task["status"]) == (1, "small", "active")
    assert (task["rounds"], task["roundsSettled"]) == (10, 1)
    assert task["submitter"] == SUBMITTER.address.lower()
    assert training.rpc.result("pot_listTasks", {"offset": 1}) == []
    for page in ({"limit": 101}, {"limit": 0}, {"offset": -1}, {"page": 1}, []):
        assert training.rpc.error("pot_listTasks", page)["code"] == -32602


def test_task_shows_specification_amounts_and_round(training: Round) -> None:
    task = training.rpc.result("pot_getTask", 1)
    assert task["spec"] == json.loads(encode_task_spec(SPEC))
    assert task["specHash"] == text(compute_spec_hash(SPEC))
    account = {name: task["account"][name] for name in ("escrowed", "paid", "refunded")}
    paid = SPEC.reward.unit_price + SPEC.reward.validator_fee
    assert account == {"escrowed": str(100 * POT), "paid": str(paid), "refunded": "0"}
    assert task["terms"]["unitPrice"] == str(SPEC.reward.unit_price)
    assert task["round"]["round"] == 1
    assert task["evaluation"] == {
        "round": 0,
        "correctCount": 16,
        "lossMillinats": 701,
        "accuracyPpm": 800_000,
    }
    assert training.rpc.result("pot_getTask", 2) is None
    for task_id in (0, -1, "one", None, 1.5, True):
        assert training.rpc.error("pot_getTask", task_id)["code"] == -32602


def test_task_says_why_it_opens_no_attempt(training: Round) -> None:
    assert training.obstacles == [{"kind": "miners", "reason": "too few miners: 0 of 2"}]
    assert training.rpc.result("pot_getTask", 1)["obstacles"] == []


def test_attempt_waits_for_no_call_of_a_stranger(training: Round) -> None:
    now = training.rpc.result("pot_getAttempt", 1)
    with training.rpc.calls_by(AlwaysBusy()):
        assert training.rpc.error("eth_call", {"data": "0x00"})["message"] == "busy"
        assert training.rpc.result("pot_getAttempt", 1) == now
        assert "error" not in training.rpc.ask("pot_getSeat", 1, ANN.address)


def test_attempt_shows_seed_participants_and_roots(training: Round) -> None:
    participants = [[text(miner), units] for miner, units in _participants()]
    early = training.early
    assert early["seed"] == text(training.seed), "known as soon as that block is final"
    assert (early["phase"], early["participants"]) == ("commitment", participants)
    assert early["thetaRoot"] == text(SPEC.initial_weights)
    now = training.rpc.result("pot_getAttempt", 1)
    assert (now["round"], now["attempt"]) == (1, 0)
    assert now["thetaRoot"] == text(training.vote.model_root)
    assert training.rpc.result("pot_getAttempt", 2) is None


def _participants() -> list[tuple[Address, int]]:
    return sorted([(address_of(ANN), 1), (address_of(BEN), 2)])


def test_round_shows_how_it_was_settled(training: Round) -> None:
    got = training.rpc.result("pot_getRound", 1, 0)
    assert got["seed"] == text(training.seed)
    assert [(c["miner"], c["units"]) for c in got["commitments"]] == [
        (ANN.address.lower(), 1),
        (BEN.address.lower(), 2),
    ]
    assert [v["verdicts"] for v in got["verdicts"]] == [["ok", "cheat"]] * 4
    assert {v["validator"] for v in got["verdicts"]} == {text(each) for each in VALIDATORS}
    assert got["accepted"] == [0]
    assert got["result"] == {
        "trainingStateRoot": text(training.vote.training_state_root),
        "modelRoot": text(training.vote.model_root),
        "rewardsRoot": text(training.vote.rewards_root),
        "acceptedUnits": 1,
    }
    assert got["payout"] == str(SPEC.reward.unit_price + SPEC.reward.validator_fee)
    assert (got["correctCount"], got["accuracyPpm"], len(got["evaluations"])) == (16, 800_000, 4)
    assert got["seconds"] > 0
    in_progress = training.rpc.result("pot_getRound", 1, 1)
    assert (in_progress["result"], in_progress["payout"], in_progress["accepted"]) == (
        None,
        None,
        [],
    )
    assert training.rpc.result("pot_getRound", 1, 2) is None


def test_work_receipt_shows_the_work_and_why_it_was_not_paid(training: Round) -> None:
    assignment = assign(training.seed, _participants(), SPEC.sample_count, 8)
    ann = training.rpc.result("pot_getReceipt", 1, 0, ANN.address)
    assert ann["samples"] == list(assignment.sample_indices(address_of(ANN)))
    assert (ann["units"], ann["accepted"], ann["pay"]) == (1, True, str(SPEC.reward.unit_price))
    assert (ann["revealed"], ann["reason"]) == (True, "accepted")
    assert (ann["gradientRoot"], ann["salt"]) == (text(content_id(PAYLOAD)), text(SALT))
    ben = training.rpc.result("pot_getReceipt", 1, 0, BEN.address)
    assert (ben["accepted"], ben["pay"], ben["revealed"]) == (False, "0", True)
    assert (ann["collected"], ben["collected"]) == (False, True)
    assert (ben["gradientRoot"], ben["salt"]) == (None, None)
    assert ben["reason"] == "rejected as a cheat; the bond is lost"
    excess = {each["validator"]: each["excess"] for each in ben["verdicts"]}
    assert excess == {
        **dict.fromkeys(text(each) for each in VALIDATORS[1:]),
        text(VALIDATORS[0]): "2000000",
    }
    reasons = [each["reason"] for each in ben["verdicts"] if each["reason"] is not None]
    assert reasons == ["distance 2000000 ppb, the tolerance is 100000 ppb"]
    assert training.rpc.result("pot_getReceipt", 1, 0, SUBMITTER.address) is None


def test_receipt_of_a_paid_round_stays_revealed_after_collection(training: Round) -> None:
    reveals = RevealStore(training.rpc.options.reveals)
    (held,) = reveals.list(ATTEMPT)
    before = training.rpc.result("pot_getReceipt", 1, 0, ANN.address)
    reveals.remove(ATTEMPT)
    try:
        after = training.rpc.result("pot_getReceipt", 1, 0, ANN.address)
    finally:
        reveals.put(held)
    assert before["collected"] is False
    gone = {"collected": True, "gradientRoot": None, "salt": None}
    assert after == {**before, "revealed": True, **gone}


def test_node_says_why_its_validator_is_not_ready(training: Round) -> None:
    answer = {"validator": None, "state": "waiting", "code": "no_room", "reason": "full"}
    assert training.rpc.result("pot_getReadiness", 1) == {**answer, "voted": False}
    assert training.rpc.result("pot_getReadiness", 2) is None


def test_node_says_which_validators_hold_a_gradient(training: Round) -> None:
    held = training.rpc.result("pot_getRevealHolders", 1, 0, 0, ANN.address)
    assert held == {"validators": ["0x" + "22" * 20]}
    assert training.rpc.result("pot_getRevealHolders", 2, 0, 0, ANN.address) is None
    assert training.rpc.error("pot_getRevealHolders", 1, 0, 0, "ann")["code"] == -32602


def test_tree_of_rewards_is_built_once_for_each_payment(
    training: Round, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[int] = []

    def build(*arguments: object) -> RewardTree:
        built.append(len(arguments))
        return build_reward_tree(*arguments)

    monkeypatch.setattr(reward_proofs, "build_reward_tree", build)
    for account in (ANN, BEN, ANN):
        assert training.rpc.result("pot_getRewardProof", 1, account.address) is not None
    assert len(built) <= 1


def test_reward_proof_is_valid_for_the_claimable_amount(training: Round) -> None:
    rpc = training.rpc
    proof = rpc.result("pot_getRewardProof", 1, ANN.address)
    cumulative = int(proof["cumulative"])
    assert cumulative == SPEC.reward.unit_price
    assert (proof["claimed"], proof["claimable"]) == ("0", str(cumulative))
    siblings = tuple(Hash32(bytes.fromhex(each[2:])) for each in proof["proof"])
    leaf = compute_leaf(CHAIN_ID, REWARD_DISTRIBUTOR, TASK, address_of(ANN), cumulative)
    assert verify_reward_proof(training.vote.rewards_root, leaf, siblings)
    claim = reward_distributor.claim(TASK, cumulative, siblings)
    call = {"from": ANN.address, "to": text(REWARD_DISTRIBUTOR), "input": text(claim.data)}
    assert rpc.result("eth_call", call) == "0x"
    nothing = rpc.result("pot_getRewardProof", 1, BEN.address)
    assert (nothing["cumulative"], nothing["proof"]) == ("0", [])
    assert rpc.result("pot_getRewardProof", 2, ANN.address) is None


def test_model_is_named_by_its_root(training: Round) -> None:
    got = training.rpc.result("pot_getModel", 1)
    root = text(training.vote.model_root)
    assert (got["round"], got["modelRoot"], got["contentId"]) == (0, root, root)
    assert (got["bytes"], got["parameters"]) == (len(WEIGHTS), len(WEIGHTS) // 4)
    assert got["path"] == f"/v1/blobs/{root}"
    assert training.rpc.result("pot_getModel", 1, 0) == got
    assert training.rpc.result("pot_getModel", 1, 1) is None


def test_node_info_names_chain_client_and_contracts(training: Round) -> None:
    rpc = training.rpc
    info = rpc.result("pot_nodeInfo")
    head = rpc.chain.store.head()
    assert info["head"] == {"number": head.number, "hash": text(head.hash)}
    assert info["genesisHash"] == text(rpc.chain.store.genesis_hash())
    assert (info["peerId"], info["chainId"]) == ("me", CHAIN_ID)
    assert info["systemContracts"]["token"] == text(TRAINING_TOKEN)
    assert info["systemContracts"]["faucet"] is None
    assert rpc.result("pot_validators") == []
    assert rpc.result("pot_consensusState")["view"] == 0


def test_reveal_is_accepted_only_if_it_opens_a_commitment(training: Round) -> None:
    assert training.open_reveals == {
        "before the commitment": 403,
        "another salt": 403,
        "other units": 403,
        "another miner": 403,
        "another round": 409,
        "another task": 404,
        "no number": 400,
        "no address": 400,
        "too short": 422,
        "other bytes": 422,
        "a full disk": 500,
        "no folder for reveals": 500,
        "right": 200,
        "again": 200,
    }
    assert upload_reveal(training.rpc, training.reveal) == 409, "the round is settled"
    root = content_id(PAYLOAD)
    assert training.rpc.http("GET", f"/v1/blobs/{root.hex()}").content == PAYLOAD
    held = RevealStore(training.rpc.options.reveals).get(ATTEMPT, address_of(ANN))
    assert (held.salt, held.gradient_root) == (SALT, root)
    assert training.rpc.node.reveals == [held], "the node was told of it once"


def test_error_for_upload_that_the_disk_refuses_names_the_cure(training: Round) -> None:
    rpc = training.rpc
    path = f"/v1/blobs/{text(content_id(SHARD))}"
    with capture_logs() as lines, limited_file_size(len(SHARD) - 1):
        refused = rpc.http("PUT", path, content=build_upload_body(SHARD))
    assert (refused.status_code, refused.json()["error"]) == (500, "storage")
    assert "send it to another node" in refused.json()["message"]
    (line,) = lines
    assert line["event"] == "uploaded blob not stored"
    assert "free or repair the disk of data_dir" in line["reason"]
    assert rpc.http("GET", path).status_code == 404, "nothing half done is served"


def test_chunk_hashes_of_a_damaged_blob_are_not_found(training: Round) -> None:
    rpc = training.rpc
    blob = BlobStore(rpc.options.blobs, quota_bytes=2**20).put(b"sound")
    (rpc.options.blobs / f"{blob.hex()}.leaves").unlink()
    (rpc.options.blobs / f"{blob.hex()}.blob").write_bytes(b"harmed")
    assert rpc.http("GET", f"/v1/blobs/{text(blob)}/chunks").status_code == 404


def test_blob_is_accepted_only_if_a_live_task_names_it(training: Round) -> None:
    rpc = training.rpc
    stored_before = rpc.node.stored_blobs
    path = f"/v1/blobs/{text(content_id(SHARD))}"
    unknown = f"/v1/blobs/{text(keccak256(b'unknown'))}"
    assert rpc.http("PUT", unknown, content=b"x").status_code == 404
    for wrong in (SHARD, build_upload_body(SHARD)[:-1], build_upload_body(bytes(len(SHARD)))):
        refused = rpc.http("PUT", path, content=wrong)
        assert (refused.status_code, refused.json()["error"]) == (422, "content_mismatch")
    assert rpc.http("GET", path).status_code == 404, "nothing half done is served"
    quota_bytes = rpc.options.blob_quota_bytes
    with BlobStore(rpc.options.blobs, quota_bytes=quota_bytes).upload(quota_bytes // 2):
        full = rpc.http("PUT", path, content=build_upload_body(SHARD))
        assert (full.status_code, full.json()["error"]) == (507, "quota"), (
            "the rest of the quota is for rounds"
        )
    assert rpc.http("PUT", path, content=build_upload_body(SHARD)).status_code == 201
    assert rpc.http("PUT", path, content=build_upload_body(SHARD)).status_code == 200
    assert rpc.http("GET", path).content == SHARD
    weights = f"/v1/blobs/{text(SPEC.initial_weights)}"
    assert rpc.http("PUT", weights, content=build_upload_body(WEIGHTS)).status_code == 201
    assert rpc.node.stored_blobs == stored_before + 2, "the node is told of each new blob"


def test_answers_are_as_recorded(training: Round) -> None:
    token = text(TRAINING_TOKEN)
    check_answers(
        training.rpc,
        "pot",
        [
            ("pot_consensusState", []),
            ("pot_getAttempt", [TASK]),
            ("pot_getAttempt", [2]),
            ("pot_getGenesis", []),
            ("pot_getModel", [TASK]),
            ("pot_getProof", [{token: ["0x0"]}, "0x1"]),
            ("pot_getReadiness", [TASK]),
            ("pot_getReceipt", [TASK, 0, ANN.address]),
            ("pot_getReceipt", [TASK, 0, BEN.address]),
            ("pot_getReceipt", [TASK, 1, ANN.address]),
            ("pot_getRevealHolders", [TASK, 0, 0, ANN.address]),
            ("pot_getRewardProof", [TASK, ANN.address]),
            ("pot_getRound", [TASK, 0]),
            ("pot_getRound", [TASK, 1]),
            ("pot_getRound", [TASK, 2]),
            ("pot_getSeat", [TASK, ANN.address]),
            ("pot_getSeat", [TASK, BEN.address]),
            ("pot_getSeat", [TASK, SUBMITTER.address]),
            ("pot_getTask", [TASK]),
            ("pot_getTask", [2]),
            ("pot_getTask", ["one"]),
            ("pot_getValidatorSets", [0]),
            ("pot_listTasks", []),
            ("pot_validators", []),
        ],
    )


def test_nothing_that_can_be_large_is_computed_in_the_event_loop(
    training: Round, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop_threads: set[int] = set()
    computed: dict[str, set[int]] = {}

    def watch(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def noted(*args: object, **kwargs: object) -> object:
            computed.setdefault(name, set()).add(threading.get_ident())
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, noted)

    take = Parameters.end

    def end(params: Parameters) -> None:
        loop_threads.add(threading.get_ident())
        take(params)

    monkeypatch.setattr(Parameters, "end", end)
    watch(pot, "compute_outcome")
    watch(pot, "compute_samples")
    watch(pot, "decode_verdicts")
    watch(pot, "load_check")
    watch(rounds, "compute_outcome")
    watch(rounds, "encode_records")
    watch(TrainingIndex, "settled_round")
    for method, *params in (
        ("pot_getTask", TASK),
        ("pot_getRound", TASK, 0),
        ("pot_getReceipt", TASK, 0, ANN.address),
    ):
        assert training.rpc.result(method, *params) is not None
    assert sorted(computed) == [
        "compute_outcome",
        "compute_samples",
        "decode_verdicts",
        "encode_records",
        "load_check",
        "settled_round",
    ]
    assert loop_threads
    assert not loop_threads & set().union(*computed.values())
