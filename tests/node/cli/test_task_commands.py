import json
import time
from collections.abc import Callable
from dataclasses import astuple, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from eth_abi import decode, encode

from chain.contracts import task_registry, training_token
from chain.contracts.addresses import FAUCET, TASK_REGISTRY, TRAINING_TOKEN
from chain.contracts.events import EVENT_LAYOUTS
from chain.contracts.task_registry import Prices, Purchase, Quote, TaskResources, TaskSubmitted
from chain.crypto import content_id, sha256
from chain.primitives import Address, TaskId
from chain.training.model_file import encode_model_file
from chain.training.resources import count_disk_bytes
from chain.training.task_spec import TaskSpec
from chain.training.task_spec_codec import (
    compute_spec_hash,
    compute_terms,
    decode_task_spec,
    encode_task_spec,
)
from chain.types.transaction import Transaction, decode_transaction
from node.cli.readiness import NEW_SECONDS
from node.cli.task_fee import find_shortages
from node.client import rpc_client, task_checks
from node.client.rpc_client import RpcClient
from node.client.task_bundle import TaskBundle
from node.client.task_checks import TaskMeasurement, find_inflated
from node.client.task_file import load_task_toml
from node.client.task_submission import compute_full_budget, find_open_namesake
from tests.worlds.command_line import Answers, Pot, serve
from tests.worlds.proofs import genesis_answer

TASK_FILE = """
name = "tiny"
[model]
architecture = "mlp"
inputs = 4
hidden = [3]
classes = 2
weights_seed = "a"
[data]
source = "rows.npz"
held_out = 4
[training]
loss = "cross_entropy"
samples_per_unit = 4
rounds = 2
encoding = "int8"
aggregator = "mean"
[optimizer]
kind = "sgd"
learning_rate = 0.5
learning_rate_decay = "none"
[verification]
audit_probability = 1.0
tolerance = 1e-4
[phases]
commit_seconds = 12
verdict_seconds = 16
result_seconds = 5
[reward]
unit_price = 1.5
validator_fee = 0.5
max_units = 4
min_miners = 1
"""


RESOURCES = TaskResources(50, 50, 2**29, 2**20)
POT = 10**18
PURCHASE = Purchase(3_600, 5)
PRICES = Prices(64, 10**13, 10**14, 10**17, 10**16, 5_400, 30 * 86_400, 86_400, 5_000, 8)
QUOTE = Quote(10**15, 10**16, 4 * 10**16, 3 * 10**15, 10**14, 44_100_000_000_000_000)
MAX_FEE = QUOTE.fee + QUOTE.fee // 10
LEASE = {
    "windowTime": 2**40,
    "endTime": 2**40,
    "progressTime": 2**40,
    "idleSeconds": 86_400,
    "attemptsLeft": 7,
    "refusal": None,
    "refundable": "0",
}
ACCOUNT: dict[str, object] = {
    "escrowed": str(10**20),
    "paid": str(44 * 10**18),
    "paidToMiners": str(40 * 10**18),
    "paidToValidators": str(4 * 10**18),
    "reserved": "0",
    "refundable": str(56 * 10**18),
    "refunded": "0",
}
FEE = {
    "paid": str(3 * 10**18),
    "burnt": str(2 * 10**18),
    "answers": str(10**17),
    "returned": str(2 * 10**17),
    "held": str(7 * 10**17),
}
DECLARED = """
[resources]
unit_milliseconds = 50
evaluation_milliseconds = 50
peak_bytes = 536870912
"""


class FakeRegistry:
    """A chain that takes submissions, and knows what tests put into it."""

    def __init__(self, bundle: TaskBundle) -> None:
        self.bundle = bundle
        self.tokens = 10**24
        self.transactions: list[Transaction] = []
        self.waiting: list[Transaction] = []
        """The last transactions, if they are in no block yet; at most one."""
        self.status = "closed"
        self.readiness: object = None
        self.settled = 2
        self.account: dict[str, object] = ACCOUNT
        self.fee: dict[str, str] | None = FEE
        self.refundable = 0
        self.submitted_time: int | None = None
        self.close_reason = "completed"
        self.refusal: str | None = None
        self.obstacles: list[object] = []
        self.model = b"\x00" * (4 * 23)
        views = (
            (task_registry.get_prices(), "prices", PRICES),
            (
                task_registry.get_attempt_seconds(compute_terms(bundle.spec)),
                "attemptSecondsOf",
                600,
            ),
            (
                task_registry.get_quote(compute_terms(bundle.spec), RESOURCES, PURCHASE),
                "quote",
                QUOTE,
            ),
            (task_registry.get_resources(TaskId(1)), "getResources", RESOURCES),
        )
        self.views = {
            view.data[:4].hex(): encode(
                task_registry.CONTRACT.abi.functions[name].outputs,
                [astuple(answer) if is_dataclass(answer) else answer],
            )
            for view, name, answer in views
        }

    def answers(self) -> Answers:
        return {
            "eth_chainId": lambda: "0x5",
            "eth_call": self.call,
            "eth_estimateGas": lambda call: "0x5208",
            "eth_getBlockByNumber": lambda number, full: {"baseFeePerGas": "0x0"},
            "eth_maxPriorityFeePerGas": lambda: "0x0",
            "eth_getTransactionCount": lambda account, block: hex(
                len(self.transactions) - len(self.waiting) * (block == "latest")
            ),
            "txpool_contentFrom": lambda account: {
                "pending": {str(each.nonce): {"hash": "0x" + each.hash.hex()}}
                if (each := next(iter(self.waiting), None))
                else {}
            },
            "eth_getRawTransactionByHash": lambda name: next(
                "0x" + each.raw.hex() for each in self.waiting if "0x" + each.hash.hex() == name
            ),
            "eth_sendRawTransaction": self.send,
            "eth_getTransactionReceipt": self.receipt,
            "pot_getGenesis": genesis_answer,
            "pot_getReadiness": lambda task: self.readiness,
            "pot_getTask": self.task,
            "pot_listTasks": lambda page: [self.task(1)],
            "pot_getRound": self.round,
            "pot_getModel": lambda task, number=1: {
                "round": number,
                "modelRoot": "0x" + content_id(self.model).hex(),
                "bytes": len(self.model),
            },
        }

    def call(self, call: dict[str, str], block: str) -> str:
        answer = self.views.get(call["data"][2:10])
        if answer is not None:
            return "0x" + answer.hex()
        allowance = training_token.allowance(TRAINING_TOKEN, FAUCET, FAUCET)
        is_allowance = call["data"].startswith("0x" + allowance.data[:4].hex())
        return "0x" + (0 if is_allowance else self.tokens).to_bytes(32, "big").hex()

    def send(self, raw: str) -> str:
        self.transactions.append(decode_transaction(bytes.fromhex(raw[2:])))
        return "0x00"

    def receipt(self, name: str) -> object:
        layout = next(layout for layout in EVENT_LAYOUTS if layout.kind is TaskSubmitted)
        spec = encode_task_spec(self.bundle.spec)
        topics = [layout.topic, bytes(31) + b"\x01", bytes(32), sha256(spec)]
        log = {
            "address": "0x" + TASK_REGISTRY.hex(),
            "topics": ["0x" + topic.hex() for topic in topics],
            "data": "0x" + encode(["uint256", "bytes"], [77, spec]).hex(),
        }
        return {"status": "0x1", "blockNumber": "0x1", "transactionHash": name, "logs": [log]}

    @property
    def spec(self) -> TaskSpec:
        """The specification as it was submitted, with what was measured."""
        return replace(self.bundle.spec, resources=RESOURCES)

    def task(self, task: int) -> object:
        if task != 1:
            return None
        zero = "0x" + "00" * 32
        return {
            "id": 1,
            "name": "tiny",
            "status": self.status,
            "submittedTime": self.submitted_time,
            "phase": "inactive",
            "obstacles": self.obstacles,
            "submitter": "0x" + "11" * 20,
            "specHash": "0x" + compute_spec_hash(self.spec).hex(),
            "spec": json.loads(encode_task_spec(self.spec)),
            "closeReason": self.close_reason if self.status == "closed" else None,
            "lease": {**LEASE, "refusal": self.refusal, "refundable": str(self.refundable)},
            "terms": {
                "rounds": 2,
                "token": "0x" + TRAINING_TOKEN.hex(),
                "unitPrice": str(15 * POT // 10),
                "maxUnits": 4,
                "validatorFee": str(POT // 2),
            },
            "rounds": 2,
            "account": self.account,
            "fee": self.fee,
            "roundsSettled": self.settled,
            "modelRoot": zero,
            "trainingStateRoot": zero,
        }

    def round(self, task: int, number: int) -> object:
        return {
            "round": number,
            "blockNumber": 30 + number,
            "commitments": [{}, {}],
            "accepted": [0],
            "lossMillinats": 1_250 if number else None,
            "accuracyPpm": 875_000 if number else None,
            "payout": str(2 * 10**18),
            "seconds": 4,
        }


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    rows = np.arange(80, dtype=np.float32).reshape(20, 4) / 80
    np.savez(tmp_path / "rows.npz", x=rows, y=np.arange(20) % 2)
    path = tmp_path / "task.toml"
    path.write_text(TASK_FILE)
    return path


@pytest.fixture
def registry(task_file: Path) -> FakeRegistry:
    return FakeRegistry(load_task_toml(TASK_FILE, task_file.parent, TRAINING_TOKEN))


@pytest.fixture
def key(pot: Pot, tmp_path: Path) -> list[str]:
    password = tmp_path / "password"
    password.write_text("secret\n")
    made = pot.json(
        *("wallet", "new", "a", "--wallet", tmp_path, "--password-file", password, "--light")
    )
    return ["--key", str(made["key"]), "--password-file", str(password)]


@pytest.fixture
def refuse(pot: Pot, task_file: Path, registry: FakeRegistry, key: list[str]) -> Callable[..., str]:
    """Submits the task file with options, and returns why that fails before anything is sent."""

    def submit(*options: object) -> str:
        with serve(registry.answers()) as url:
            refusal = pot.fails("task", "submit", task_file, *key, *options, "--rpc", url)
        assert registry.transactions == []
        return refusal

    return submit


def encode_submitted_spec(submission: Transaction) -> bytes:
    """The specification in the data of a submission."""
    types = task_registry.CONTRACT.abi.functions["submitTask"].inputs
    return decode(types, submission.data[4:])[2]


def test_submit_approves_the_budget_sends_the_spec_and_uploads_blobs(
    pot: Pot,
    task_file: Path,
    registry: FakeRegistry,
    key: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blobs: dict[str, bytes] = {}
    with serve(registry.answers(), blobs) as url:
        monkeypatch.setenv("ETH_RPC_URL", url)
        submitted = pot.json("task", "submit", task_file, *key)
    budget = compute_full_budget(registry.bundle.spec)
    spec = decode_task_spec(encode_submitted_spec(registry.transactions[1]))
    assert budget == 2 * (4 * 15 * 10**17 + 5 * 10**17)
    assert submitted["id"] == 1
    approval, submission = registry.transactions
    allowed = budget + MAX_FEE
    assert approval.data == training_token.approve(TRAINING_TOKEN, TASK_REGISTRY, allowed).data
    purchase = Purchase(5 * 33 + 600 + 3_600, 2 + 3)
    expected = task_registry.submit_task(
        compute_terms(spec), spec.resources, encode_task_spec(spec), budget, purchase, MAX_FEE
    )
    assert submission.data == expected.data
    assert replace(spec, resources=RESOURCES) == registry.spec
    assert submitted["resources"]["unitMilliseconds"] == spec.resources.unit_milliseconds >= 50
    assert spec.resources.disk_bytes == count_disk_bytes(spec)
    assert (submitted["fee"], submitted["maxFee"]) == (str(QUOTE.fee), str(MAX_FEE))
    assert sorted(blobs.values()) == sorted(registry.bundle.blobs.values())
    assert all(path == f"/v1/blobs/0x{content_id(blob).hex()}" for path, blob in blobs.items())


def test_order_that_waits_is_paid_for_and_not_bought_again(
    pot: Pot, task_file: Path, registry: FakeRegistry, key: list[str]
) -> None:
    """Each dry run measures something else, so the second submission is another call."""
    task_file.write_text(TASK_FILE + DECLARED)
    submit: list[object] = ["task", "submit", task_file, "--no-dry-run", *key]
    extend: list[object] = ["task", "extend", 1, "--attempts", 5, *key]
    quote = task_registry.get_extension_quote(TaskId(1), Purchase(0, 5)).data[:4].hex()
    lease = task_registry.get_lease(TaskId(1)).data[:4].hex()
    registry.views[quote] = encode(["uint256"] * 6, astuple(QUOTE))
    registry.views[lease] = bytes(15 * 32)
    registry.status = "active"
    for order in (submit, extend):
        registry.transactions.clear()
        registry.waiting.clear()
        with serve(registry.answers(), {}) as url:
            pot(*order, "--rpc", url)
            _, first = registry.transactions
            registry.waiting = [first]
            task_file.write_text(TASK_FILE + DECLARED.replace("= 50", "= 60"))
            pot(*order, "--rpc", url)
            assert registry.transactions[2:] == [first]
            registry.transactions.pop()
            pot(*order, "--gas-price", 10**9, "--rpc", url)
        *_, raised, again = registry.transactions
        assert (raised.nonce, raised.data, raised.max_fee_per_gas) == (1, first.data, 10**9)
        assert again == raised


def test_content_waits_for_a_node_that_is_a_block_behind(
    pot: Pot, task_file: Path, registry: FakeRegistry, key: list[str]
) -> None:
    task_file.write_text(TASK_FILE + DECLARED)
    blobs: dict[str, bytes] = {}
    seen: list[object] = []

    def known_at_last(number: int) -> object:
        seen.append(blobs.copy())
        return None if len(seen) < 3 else registry.task(number)

    behind = {**registry.answers(), "pot_getTask": known_at_last}
    with serve(registry.answers()) as url, serve(behind, blobs) as late:
        pot("task", "submit", task_file, *key, "--no-dry-run", "--rpc", url, "--rpc", late)
    assert seen == [{}, {}, {}]
    assert sorted(blobs.values()) == sorted(registry.bundle.blobs.values())


def test_content_that_one_node_does_not_take_reaches_the_others(
    pot: Pot,
    task_file: Path,
    registry: FakeRegistry,
    key: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rpc_client, "UPLOAD_PATIENCE_SECONDS", 0.0)
    task_file.write_text(TASK_FILE + DECLARED)
    blobs: dict[str, bytes] = {}
    submit = ("task", "submit", task_file, *key, "--no-dry-run", "--rounds", 2)
    with (
        serve(registry.answers()) as url,
        serve(registry.answers(), refuses_blobs=True) as full,
        serve(registry.answers(), blobs) as other,
    ):
        error = pot.fails(*submit, "--rpc", url, "--rpc", full, "--rpc", other)
    refused = f"task 1 is submitted and paid, but 1 of 3 nodes did not take its data: {full} has no"
    assert refused in error
    assert error.endswith(f"next: pot task upload 1 {task_file} --rounds 2 --rpc {full}")
    assert sorted(blobs.values()) == sorted(registry.bundle.blobs.values())


def test_rounds_and_budget_can_be_given(
    pot: Pot, task_file: Path, registry: FakeRegistry, key: list[str]
) -> None:
    task_file.write_text(TASK_FILE + DECLARED)
    with serve(registry.answers()) as url:
        pot(
            *("task", "submit", task_file, *key, "--rounds", 9, "--budget", "7"),
            *("--no-dry-run", "--lifetime", "2h", "--attempts", 20, "--max-fee", "1"),
            *("--rpc", url),
        )
    assert (
        registry.transactions[0].data
        == training_token.approve(TRAINING_TOKEN, TASK_REGISTRY, 8 * 10**18).data
    )
    words = registry.transactions[1].data[4:]
    bought = [int.from_bytes(words[at : at + 32], "big") for at in range(18 * 32, 21 * 32, 32)]
    assert bought == [7_200, 20, 10**18]
    assert b'"rounds":9' in registry.transactions[1].data


def test_budget_that_pays_for_no_round_is_refused_before_anything_is_sent(
    refuse: Callable[..., str],
) -> None:
    assert "pays for no round: one costs up to 6.5 POT" in refuse("--budget", "6.4")


def test_budget_above_the_balance_is_refused_before_any_transaction(
    task_file: Path, registry: FakeRegistry, refuse: Callable[..., str]
) -> None:
    task_file.write_text(TASK_FILE + DECLARED)
    registry.tokens = 3
    refusal = refuse("--no-dry-run")
    assert "has 0.000000000000000003 POT, and needs 13 POT for the budget alone" in refusal
    registry.tokens = 13 * POT
    refusal = refuse("--no-dry-run")
    assert "has 13 POT, and needs 13.0441 POT: a budget of 13 POT" in refusal
    assert "--budget" in refusal


def test_task_that_declares_nothing_needs_a_dry_run(refuse: Callable[..., str]) -> None:
    assert "declare what the task takes, in [resources]" in refuse("--no-dry-run")


def test_fee_above_the_largest_is_refused_before_any_transaction(
    task_file: Path, refuse: Callable[..., str]
) -> None:
    task_file.write_text(TASK_FILE + DECLARED + "[fee]\nmax_fee = 0.01\n")
    assert "the fee is 0.0441 POT, above --max-fee (0.01 POT)" in refuse("--no-dry-run")
    long = refuse("--no-dry-run", "--lifetime", "31d")
    assert "a lifetime of 31 d is not sold" in long
    short = refuse("--no-dry-run", "--lifetime", "599s")
    assert "one attempt of this task can take 10 m" in short


def test_price_shows_the_parts_of_the_fee_in_80_columns(
    pot: Pot, task_file: Path, registry: FakeRegistry
) -> None:
    task_file.write_text(TASK_FILE + DECLARED)
    with serve(registry.answers()) as url:
        shown = pot("task", "price", task_file, "--rpc", url)
        document = pot.json("task", "price", task_file, "--rpc", url)
    assert max(map(len, shown.splitlines())) <= 80
    assert shown == (
        "declared     50 ms a unit, 50 ms an evaluation,\n"
        "             512 MiB of memory, 1 MiB of disk\n"
        "miners       at least 1, with 2 of 4 units, to open an attempt\n"
        "lifetime     1 h 12 m, 5 attempts\n"
        "examination  0.04 POT  to 4 validators, for their answers\n"
        "pending      0.001 POT  burnt now, for the wait until validators are ready, at\n"
        "               most 1 h 30 m\n"
        "rent         0.003 POT  slot, memory and disk for the lifetime\n"
        "computation  0.0001 POT  1.2 % of a worker, promised for the lifetime\n"
        "fee          0.0441 POT  at most 0.04851 POT\n"
        "budget       13 POT  in escrow for miners; what is left comes back\n"
        "in all       13.0441 POT\n"
    )
    assert (document["fee"], document["attempts"]) == (str(QUOTE.fee), 5)
    assert registry.transactions == []


def test_task_in_another_token_is_told_no_pot_that_it_does_not_pay(
    pot: Pot, task_file: Path, registry: FakeRegistry, key: list[str]
) -> None:
    token = "0x" + "44" * 20
    task_file.write_text(TASK_FILE + f'token = "{token}"\n' + DECLARED)
    shown = registry.task(1)
    assert isinstance(shown, dict)
    answers = {
        **registry.answers(),
        "pot_getTask": lambda task: {**shown, "terms": {**shown["terms"], "token": token}},
    }
    with serve(answers) as url:
        options = (*key, "--rpc", url)
        priced = pot("task", "price", task_file, "--rpc", url)
        submitted = pot("task", "submit", task_file, *options, "--no-dry-run")
        registry.views[task_registry.get_terms(TaskId(1)).data[:4].hex()] = encode(
            task_registry.CONTRACT.abi.functions["getTerms"].outputs,
            [astuple(replace(compute_terms(registry.spec), token=bytes.fromhex(token[2:])))],
        )
        funded = pot("task", "fund", 1, "--amount", "2.5", *options)
        watched = pot("task", "watch", 1, "--rpc", url)
        few = pot.fails("task", "submit", task_file, *options, "--no-dry-run", "--budget", "6")
        registry.tokens = 3 * 10**18
        poor = pot.fails("task", "submit", task_file, *options, "--no-dry-run")
    assert "budget       13 of the task's token, in escrow for miners" in priced
    assert (
        "escrowed 0.000000000000000077 of the task's token; what is not spent can be taken back"
        in submitted
    )
    assert funded.startswith("task 1: added 2.5 of the task's token in\n")
    assert all("2 tokens  4 s" in line for line in watched.splitlines()[:2])
    assert "pays for no round: one costs up to 6.5 of the task's token" in few
    assert f"has 3 of token {token}, and needs 13 of token {token} for the budget alone" in poor


def test_token_without_a_contract_is_refused_when_its_price_is_asked(
    pot: Pot, task_file: Path, registry: FakeRegistry
) -> None:
    token = "0x" + "44" * 20
    task_file.write_text(TASK_FILE + f'token = "{token}"\n' + DECLARED)

    def call(call: dict[str, str], block: str) -> str:
        return "0x" if call["to"] == token else registry.call(call, block)

    with serve({**registry.answers(), "eth_call": call}) as url:
        refused = pot.fails("task", "price", task_file, "--rpc", url)
    assert f"there is no contract at {token} that answers" in refused


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        (("--lifetime", "3"), "is not a duration"),
        (("--budget", "much"), "--budget 'much' is not an amount"),
        (("--lifetime", "31d"), "is not sold"),
        (("--attempts", 2**31 + 1), "attempts are not sold"),
        (("--budget", "7"), "and needs 7 POT for the budget alone"),
    ],
)
def test_options_are_refused_before_the_dry_run(
    monkeypatch: pytest.MonkeyPatch,
    registry: FakeRegistry,
    refuse: Callable[..., str],
    options: tuple[object, ...],
    refused: str,
) -> None:
    runs: list[TaskBundle] = []
    monkeypatch.setattr(task_checks, "measure_task", runs.append)
    registry.tokens = 3
    assert refused in refuse(*options)
    assert runs == []


def test_price_names_attempts_if_they_take_more_than_is_promised(
    pot: Pot, task_file: Path, registry: FakeRegistry
) -> None:
    task_file.write_text(TASK_FILE + DECLARED)
    with serve(registry.answers()) as url:
        shown = pot("task", "price", task_file, "--attempts", "5000", "--rpc", url)
    assert "computation  0.0001 POT  the validators' checks in the attempts\n" in shown


@pytest.mark.parametrize(
    ("declared", "refused"),
    [
        ("unit_milliseconds = 2500", "more than half of verdict_seconds"),
        (
            "unit_milliseconds = 6500",
            "commit_seconds 12 leaves 6000 ms for both; make its phases longer",
        ),
        (
            "peak_bytes = 10000000000000",
            "a worker of a validator has 4294967296: declare less in [resources]",
        ),
    ],
)
def test_declaration_that_validators_would_refuse_is_refused_unpaid(
    task_file: Path, refuse: Callable[..., str], declared: str, refused: str
) -> None:
    name = declared.partition(" ")[0]
    lines = [declared if line.startswith(name) else line for line in DECLARED.splitlines()]
    task_file.write_text(TASK_FILE + "\n".join(lines))
    for options in (("--no-dry-run",), ()):
        refusal = refuse(*options)
        assert refused in refusal
        assert "nothing was paid" in refusal


def test_far_more_than_the_dry_run_took_is_warned_of() -> None:
    measured = TaskMeasurement(unit_milliseconds=3, evaluation_milliseconds=100, peak_bytes=2**20)
    fitting = TaskResources(16 * 50, 1_600, 2**24, 2**20)
    assert find_inflated(fitting, measured) == []
    assert find_inflated(TaskResources(801, 1_601, 2**24 + 1, 2**20), measured) == [
        f"{name} declares {declared}, and the dry run took {taken}: the fee pays for what is "
        "declared"
        for name, declared, taken in (
            ("unit_milliseconds", 801, 3),
            ("evaluation_milliseconds", 1_601, 100),
            ("peak_bytes", 2**24 + 1, 2**20),
        )
    ]


def test_purchase_that_is_too_short_for_the_rounds_is_warned_of(registry: FakeRegistry) -> None:
    seconds = 2 * (12 + 16 + 5)
    assert find_shortages(registry.spec, Purchase(seconds, 2), 13 * POT) == []
    attempts, lifetime = find_shortages(registry.spec, Purchase(seconds - 1, 1), 13 * POT)
    assert attempts == "1 attempts are too few for 2 rounds; give --attempts 2 or more"
    assert lifetime.startswith("2 rounds can take 1 m 6 s if their phases last to the end, and the")


def test_budget_that_does_not_pay_all_rounds_is_warned_of(
    pot: Pot, task_file: Path, registry: FakeRegistry, key: list[str]
) -> None:
    task_file.write_text(TASK_FILE + DECLARED)
    submit = ("task", "submit", task_file, *key, "--no-dry-run", "--budget", "12.9")
    with serve(registry.answers(), {}) as url:
        status, _, notes = pot._run((*submit, "--rpc", url))
    warning = (
        "warning: 12.9 POT pay for 1 of 2 rounds if all their units are done; then the\n"
        "  task waits for money. Give --budget 13, or add to it later with pot task fund\n"
    )
    assert (status, warning in notes) == (0, True)


def test_open_task_of_the_same_submitter_and_name_is_found(registry: FakeRegistry) -> None:
    submitter = Address(b"\x11" * 20)
    with serve(registry.answers()) as url:
        client = RpcClient(url)
        assert find_open_namesake(client, submitter, "tiny") is None
        registry.status = "active"
        assert find_open_namesake(client, submitter, "tiny") == 1
        assert find_open_namesake(client, submitter, "large") is None
        assert find_open_namesake(client, Address(bytes(20)), "tiny") is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("min_miners = 1", "min_miners = 1\n[fee]\nlife = 3"), "[fee] life is not a known"),
        (("min_miners = 1", "min_miners = 1\n[resources]\npeak_bytes = 3"), "unit_milliseconds"),
        (("rounds = 2", "round = 2"), "round is not a known setting; did you mean rounds?"),
        (("max_units = 4", "max_units = 4\nmin_unit = 2"), "setting; did you mean min_units?"),
        (("max_units = 4", "max_units = 4\nzebra = 2"), "zebra is not a known setting"),
        (('"mean"', '"median"'), "aggregator must be one of"),
        (("rows.npz", "none.npz"), "none.npz"),
        (("[data]", "[data"), "not TOML"),
        (("min_miners = 1", "min_miners = 9"), "min_miners"),
    ],
)
def test_malformed_task_file_is_one_line_that_names_the_setting(
    pot: Pot, task_file: Path, key: list[str], change: tuple[str, str], named: str
) -> None:
    task_file.write_text(TASK_FILE.replace(*change))
    assert named in pot.fails("task", "submit", task_file, *key)


def test_task_file_that_is_no_text_is_named(pot: Pot, task_file: Path, key: list[str]) -> None:
    task_file.write_bytes(b"\xd0\x00\xff")
    refusal = pot.fails("task", "submit", task_file, *key)
    assert f"{task_file} is not text" in refusal


def test_task_that_validators_would_refuse_is_refused_before_money_moves(
    task_file: Path, refuse: Callable[..., str]
) -> None:
    rows = np.arange(80, dtype=np.float32).reshape(20, 4) / 80
    np.savez(task_file.parent / "rows.npz", x=rows, y=np.arange(20) % 2 + 1)
    assert "a label is not one of 2 classes" in refuse()


def test_task_without_time_for_verdicts_is_refused_before_money_moves(
    task_file: Path, refuse: Callable[..., str]
) -> None:
    task_file.write_text(TASK_FILE.replace("verdict_seconds = 16", "verdict_seconds = 15"))
    refusal = refuse("--no-dry-run")
    assert "verdict_seconds is 15" in refusal
    assert refusal.endswith("nothing was paid")


OBSTACLES: list[object] = [
    {"kind": "miners", "reason": "too few miners: 1 of 3"},
    {"kind": "attempts", "reason": "no attempts are left of those that were bought"},
]
WHY_NO_ATTEMPT = """\
too few miners: 1 of 3; no attempts are left of those that were bought; next: pot task extend 1 \
--attempts N"""


def test_show_says_why_an_active_task_opens_no_attempt(pot: Pot, registry: FakeRegistry) -> None:
    registry.status, registry.obstacles = "active", OBSTACLES
    with serve(registry.answers()) as url:
        shown = pot("task", "show", 1, "--rpc", url)
        assert f"no attempt {WHY_NO_ATTEMPT} submitter" in " ".join(shown.split())
        assert max(map(len, shown.splitlines())) <= 80
        registry.obstacles = []
        assert "no attempt" not in pot("task", "show", 1, "--rpc", url)


def test_watch_says_once_why_a_task_opens_no_attempt(pot: Pot, registry: FakeRegistry) -> None:
    registry.obstacles = OBSTACLES
    asked = iter(range(3))
    task = registry.task

    def active_at_first(number: int) -> object:
        registry.status = "closed" if next(asked, None) is None else "active"
        return task(number)

    with serve({**registry.answers(), "pot_getTask": active_at_first}) as url:
        _, _, notes = pot._run(("task", "watch", 1, "--rpc", url))
    told = " ".join(notes.split())
    assert told.count(f"the task opens no attempt: {WHY_NO_ATTEMPT}") == 1
    assert max(map(len, notes.splitlines())) <= 80


def test_show_says_why_a_validator_is_not_ready_in_80_columns(
    pot: Pot, registry: FakeRegistry
) -> None:
    registry.status = "pending"
    answer = {"validator": "0x" + "ab" * 20, "voted": False, "code": None, "reason": None}
    refused = {
        **answer,
        "state": "refused",
        "code": "dry_run_refused",
        "reason": "bad_spec: a label is not one of 2 classes",
    }
    with serve(registry.answers()) as first, serve(registry.answers()) as second:
        registry.readiness = refused
        shown = pot("task", "show", 1, "--rpc", first, "--rpc", second)
        document = pot.json("task", "show", 1, "--rpc", first)
        registry.readiness = {**answer, "state": "ready", "voted": True}
        assert "validator 0xabababab: ready" in pot("task", "show", 1, "--rpc", first)
    expected = (
        "validator 0xabababab refuses the task: bad_spec: a label is not one of 2 classes\n"
        "  next: cancel the task; mend its data or model, and submit it again\n"
    )
    assert shown.endswith(2 * expected)
    assert max(map(len, expected.splitlines())) <= 80
    assert document["readiness"] == [{"node": first, **refused}]


def test_weights_and_data_are_uploaded_again_for_the_same_file_only(
    pot: Pot, task_file: Path, registry: FakeRegistry
) -> None:
    blobs: dict[str, bytes] = {}
    with serve(registry.answers(), blobs) as url:
        other = pot.fails("task", "upload", 1, task_file, "--rounds", 9, "--rpc", url)
        assert (blobs, "is not the file of task 1" in other) == ({}, True)
        assert "uploaded to 1 nodes" in pot("task", "upload", 1, task_file, "--rpc", url)
    assert sorted(blobs.values()) == sorted(registry.bundle.blobs.values())
    assert registry.transactions == []


def test_watch_of_a_pending_task_says_once_why_validators_are_not_ready(
    pot: Pot, registry: FakeRegistry
) -> None:
    registry.readiness = {
        "validator": "0x" + "ab" * 20,
        "voted": False,
        "state": "waiting",
        "code": "content_unavailable",
        "reason": "blob 3a09 cannot be fetched",
    }
    asked = iter(range(3))
    task = registry.task

    def pending_at_first(number: int) -> object:
        registry.status = "closed" if next(asked, None) is None else "pending"
        return task(number)

    answers = {**registry.answers(), "pot_getTask": pending_at_first}
    with serve(answers) as url:
        _, _, notes = pot._run(("task", "watch", 1, "--rpc", url))
    assert notes.count("validator 0xabababab waits: blob 3a09 cannot be fetched") == 1
    assert (
        notes.count(
            "  next: give `pot task upload 1` the file that was submitted, and an --rpc that\n"
            "validators reach\n"
        )
        == 1
    )


def test_content_of_a_new_task_is_waited_for(pot: Pot, registry: FakeRegistry) -> None:
    registry.status = "pending"
    registry.readiness = {
        "validator": "0x" + "ab" * 20,
        "voted": False,
        "state": "waiting",
        "code": "content_unavailable",
        "reason": "blob 3a09 cannot be fetched",
    }
    with serve(registry.answers()) as url:
        registry.submitted_time = int(time.time())
        shown = pot("task", "show", 1, "--rpc", url)
        registry.submitted_time -= NEW_SECONDS
        later = pot("task", "show", 1, "--rpc", url)
    assert shown.endswith("  next: wait: what was uploaded just now is found within a minute\n")
    assert "pot task upload 1" in later


def test_watch_prints_a_line_for_every_round_and_ends_with_the_task(
    pot: Pot, registry: FakeRegistry
) -> None:
    with serve(registry.answers()) as url:
        lines = pot("task", "watch", 1, "--rpc", url).splitlines()
    assert lines[0] == (
        "round 1/2  block  30  accepted 1/2  loss     -  accuracy     -    2 POT  4 s"
    )
    assert lines[1].endswith("loss 1.250  accuracy 87.50 %  2 POT  4 s")


def test_watch_of_a_task_that_closed_early_fails(pot: Pot, registry: FakeRegistry) -> None:
    registry.settled = 1
    with serve(registry.answers()) as url:
        for reason, refusal, text in (
            ("expired", None, "after 1 of 2 rounds: it expired; `pot task refund 1`"),
            ("refused", "too_noisy", "rounds: validators refuse it (too_noisy);"),
            ("cancelled", None, "rounds: cancelled;"),
        ):
            registry.close_reason, registry.refusal = reason, refusal
            assert text in pot.fails("task", "watch", 1, "--rpc", url)
        shown = pot("task", "show", 1, "--rpc", url)
    assert "closed           cancelled" in shown


def test_list_and_show_print_what_the_chain_says(pot: Pot, registry: FakeRegistry) -> None:
    with serve(registry.answers()) as url:
        assert "tiny" in pot("task", "list", "--rpc", url)
        shown = pot("task", "show", 1, "--rpc", url)
        assert pot.json("task", "show", 1, "--rpc", url)["status"] == "closed"
        assert "there is no task 2; `pot task list`" in pot.fails("task", "show", 2, "--rpc", url)
    assert "2 of 2" in shown


def test_show_says_what_a_round_costs_and_how_many_are_paid(
    pot: Pot, registry: FakeRegistry
) -> None:
    registry.status = "active"
    with serve(registry.answers()) as url:
        shown = pot("task", "show", 1, "--rpc", url)
    assert "round price      at most 6.5 POT: 4 units of 1.5, and 0.5 for the" in shown
    assert "what is left of the budget pays 8 rounds or more" in " ".join(shown.split())
    assert "model root  none before the first settled round\n" in shown
    assert max(map(len, shown.splitlines())) <= 80


def list_money(shown: str) -> list[str]:
    """The lines about the budget and the fee."""
    lines = shown.splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("budget "))
    last = next(place for place, line in enumerate(lines) if line.startswith("spec hash"))
    return lines[first:last]


def test_show_says_where_budget_and_fee_went_in_80_columns(
    pot: Pot, registry: FakeRegistry
) -> None:
    registry.refundable = 6 * 10**17
    with serve(registry.answers()) as url:
        closed = list_money(pot("task", "show", 1, "--rpc", url))
        registry.status, registry.refundable = "active", 0
        registry.account = {**ACCOUNT, "reserved": str(10**18), "refundable": str(55 * 10**18)}
        active = list_money(pot("task", "show", 1, "--rpc", url))
    assert closed == [
        "budget           100 POT",
        "  to miners      40 POT for accepted work",
        "  to validators  4 POT for their votes",
        "  left           56 POT to take back: pot task refund 1",
        "fee              3 POT",
        "  burnt          2 POT for slot and validators' time",
        "  to validators  0.1 POT for their answers",
        "  held           0.1 POT for answers",
        "  left           0.6 POT to take back: pot task refund 1",
        "  given back     0.2 POT to the submitter",
    ]
    assert active[3:5] == [
        "  reserved       1 POT for the attempt in progress",
        "  left           55 POT for further rounds",
    ]
    assert active[8] == "  held           0.7 POT for answers"
    assert max(map(len, closed)) <= 80


def test_show_of_a_node_that_is_younger_than_the_task_says_so(
    pot: Pot, registry: FakeRegistry
) -> None:
    registry.fee, registry.refundable = None, 6 * 10**17
    registry.account = {**ACCOUNT, "paidToMiners": None, "paidToValidators": None}
    with serve(registry.answers()) as url:
        lines = list_money(pot("task", "show", 1, "--rpc", url))
    assert lines[1:] == [
        "  paid          44 POT to miners and validators",
        "  left          56 POT to take back: pot task refund 1",
        "fee             not known to this younger node; ask another with --rpc",
        "  left          0.6 POT to take back: pot task refund 1",
    ]


def test_download_writes_the_model_that_hashes_to_the_root_and_no_other(
    pot: Pot, tmp_path: Path, registry: FakeRegistry
) -> None:
    path = tmp_path / "model.safetensors"
    place = f"/v1/blobs/0x{content_id(registry.model).hex()}"
    arguments = ("task", "download", 1, "-o", path)
    with serve(registry.answers(), {place: registry.model[:-1] + b"\x01"}) as url:
        assert "do not trust this node" in pot.fails(*arguments, "--rpc", url)
    with serve(registry.answers(), {}) as url:
        assert "blobs.closed_task_days" in pot.fails(*arguments, "--rpc", url)
    assert not path.exists()
    with serve(registry.answers(), {place: registry.model}) as url:
        root, settled, _ = pot(*arguments, "--rpc", url).splitlines()
        assert (len(root), settled) == (78, "settled in  round 2")
        assert path.read_bytes() == encode_model_file(registry.bundle.spec.model, registry.model)
        assert "--force" in pot.fails(*arguments, "--rpc", url)
        pot(*arguments, "--rpc", url, "--force")
