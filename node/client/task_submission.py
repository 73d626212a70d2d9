"""Submitting a task and downloading its model (docs/spec/training.md, section 1).

The command line and the development network use it.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from chain.amounts import format_amount
from chain.contracts import task_registry, training_token
from chain.contracts.abi import (
    SELECTOR_BYTES,
    WORD_BYTES,
    ContractCall,
    InvalidAnswerError,
    decode_values,
)
from chain.contracts.addresses import TASK_REGISTRY, TRAINING_TOKEN
from chain.contracts.events import decode_event
from chain.contracts.task_registry import Prices, Purchase, Quote, TaskResources, TaskSubmitted
from chain.contracts.training_token import describe_amount
from chain.crypto import get_address
from chain.errors import RejectedInputError
from chain.hexadecimal import to_hex
from chain.json_types import JsonObject
from chain.params import ChainParameters, InvalidGenesisError, parse_parameters
from chain.primitives import Address, Hash32, PrivateKey, TaskId
from chain.training.architectures import Model
from chain.training.model_file import encode_model_file
from chain.training.task_spec import (
    TaskSpec,
)
from chain.training.task_spec_codec import compute_terms, decode_task_spec, encode_task_spec
from node.client.durations import format_exact_duration
from node.client.rpc_client import (
    Progress,
    RpcClient,
    decode_log,
    get_integer,
    get_objects,
    get_text,
    get_value,
)
from node.client.task_bundle import TaskBundle, Wishes
from pot_common.errors import OperatorError
from pot_common.json_text import parse_json
from pot_common.rpc_client import ContentUnavailableError
from pot_common.rpc_replies import read_bytes
from pot_common.waiting import Signer

SPARE_SHARE: Final = 4
"""One attempt in so many may fail before a task runs out of attempts."""

MIN_SPARE_ATTEMPTS: Final = 3
"""The least attempts beyond the rounds: as many as may fail in a row until a task is paused."""

FINDING_SECONDS: Final = 3_600
"""The part of a lifetime in which miners may be found."""

LISTED_TASKS: Final = 100
"""The most tasks that one answer lists; more than there are slots by default."""

KNOWN_SECONDS: Final = 30.0
"""The longest wait until a node knows a task that another node has in a final block."""

KNOWN_POLL_SECONDS: Final = 0.2
"""Between two questions whether it does."""

MAX_ATTEMPTS: Final = 2**31
"""The most attempts that the registry sells."""

PRICE_MARGIN: Final = 10
"""By default a submitter pays up to a tenth more than the price it was shown."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A submitted task."""

    task_id: TaskId
    spec_hash: Hash32
    budget: int
    """The base units of the task's token in escrow."""
    transaction_hash: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What is bought for a task, and what that costs now."""

    purchase: Purchase
    quote: Quote
    max_fee: int
    """The most that the submitter pays, in base units of POT."""
    pending_seconds: int
    """The longest time for which a task is pending on this network."""


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """The model of a task after a settled round. The chain holds its root, but not the model."""

    model: Model
    root: Hash32
    round_number: int
    byte_count: int


def compute_full_budget(spec: TaskSpec) -> int:
    """The base units that pay every round with all of its units."""
    return spec.round_count * compute_round_budget(spec)


def compute_round_budget(spec: TaskSpec) -> int:
    """The base units that pay one round with all of its units; the least that a task may escrow."""
    return spec.reward.max_units * spec.reward.unit_price + spec.reward.validator_fee


def choose_purchase(spec: TaskSpec, attempt_seconds: int, longest_seconds: int) -> Purchase:
    """A lifetime and attempts with which a task probably gets through all its rounds.

    A quarter of the rounds may fail, each attempt may last until the end of its phases, and an hour
    is for finding miners.

    Args:
        spec: The task's specification.
        attempt_seconds: The longest course of an attempt.
        longest_seconds: The longest lifetime that the network allows.
    """
    phases = spec.phases
    attempts = spec.round_count + max(MIN_SPARE_ATTEMPTS, spec.round_count // SPARE_SHARE)
    seconds = phases.commit_seconds + phases.verdict_seconds + phases.result_seconds
    wanted = attempts * seconds + attempt_seconds + FINDING_SECONDS
    return Purchase(min(wanted, longest_seconds), attempts)


def make_offer(client: RpcClient, bundle: TaskBundle, wishes: Wishes) -> Offer:
    """What the submitter buys for a task, at today's price.

    Args:
        client: A node.
        bundle: The task, with what it declares.
        wishes: What the submitter wants; the task file and defaults fill what is None.

    Raises:
        OperatorError: The network does not sell that.
    """
    spec = bundle.spec
    purchase, prices = plan_purchase(client, bundle, wishes)
    quote = client.read(task_registry.get_quote(compute_terms(spec), spec.resources, purchase))
    wanted = wishes.max_fee if wishes.max_fee is not None else bundle.wishes.max_fee
    max_fee = quote.fee + quote.fee // PRICE_MARGIN if wanted is None else wanted
    return Offer(purchase, quote, max_fee, prices.pending_seconds)


def plan_purchase(client: RpcClient, bundle: TaskBundle, wishes: Wishes) -> tuple[Purchase, Prices]:
    """What the submitter buys for a task, whatever it declares, and the network's prices.

    Raises:
        OperatorError: The network does not sell that.
    """
    spec, filed = bundle.spec, bundle.wishes
    prices = client.read(task_registry.get_prices())
    attempt_seconds = client.read(task_registry.get_attempt_seconds(compute_terms(spec)))
    default = choose_purchase(spec, attempt_seconds, prices.max_lifetime_seconds)
    purchase = Purchase(
        wishes.lifetime_seconds or filed.lifetime_seconds or default.lifetime_seconds,
        wishes.attempts or filed.attempts or default.attempts,
    )
    if not attempt_seconds <= purchase.lifetime_seconds <= prices.max_lifetime_seconds:
        raise OperatorError(
            f"a lifetime of {format_exact_duration(purchase.lifetime_seconds)} is not sold: one "
            f"attempt of this task can take {format_exact_duration(attempt_seconds)}, and the "
            f"network allows {format_exact_duration(prices.max_lifetime_seconds)} at most; change "
            "--lifetime or the phases"
        )
    if not 0 < purchase.attempts <= MAX_ATTEMPTS:
        raise OperatorError(
            f"{purchase.attempts} attempts are not sold; give from 1 to {MAX_ATTEMPTS}"
        )
    return purchase, prices


def check_token(client: RpcClient, token: Address) -> None:
    """Check that a task's token is a contract that knows balances.

    Raises:
        OperatorError: There is no such contract at its address.
    """
    if token != TRAINING_TOKEN:
        client.read(training_token.balance_of(token, TASK_REGISTRY))


def check_balance(client: RpcClient, account: Address, token: Address, budget: int) -> None:
    """Check that an account has the budget of a task, before its fee is known.

    Raises:
        OperatorError: It has less.
    """
    balance = client.read(training_token.balance_of(token, account))
    if balance < budget:
        raise OperatorError(
            f"account {to_hex(account)} has {describe_amount(balance, token)}, and needs "
            f"{describe_amount(budget, token)} for the budget alone; {name_cure(token)}, or give a "
            "smaller --budget"
        )


def fetch_parameters(client: RpcClient) -> ChainParameters:
    """The parameters of the node's network.

    Raises:
        OperatorError: The node's answer is not understood.
    """
    genesis = client.call_object("pot_getGenesis")
    try:
        parameters = parse_json(read_bytes(get_text(genesis, "parameters")))
        if not isinstance(parameters, dict):
            raise ValueError("the parameters are no object")
        return parse_parameters(parameters)
    except (ValueError, InvalidGenesisError) as error:
        raise OperatorError(
            f"{client.url} runs a network with rules that this version does not know: {error}"
        ) from error


def find_open_namesake(client: RpcClient, submitter: Address, name: str) -> int | None:
    """An open task of the submitter with the same name; None if none of the newest has it.

    Names are compared, because what a dry run measures differs from one submission to the next.
    """
    count = client.read(task_registry.task_count())
    page: JsonObject = {"offset": max(0, count - LISTED_TASKS), "limit": LISTED_TASKS}
    for task in client.call_list("pot_listTasks", page):
        is_own = get_text(task, "submitter") == to_hex(submitter)
        if is_own and get_value(task, "name") == name and get_text(task, "status") != "closed":
            return get_integer(task, "id")
    return None


def submit_task(
    client: RpcClient,
    private_key: PrivateKey,
    bundle: TaskBundle,
    offer: Offer,
    budget: int | None = None,
) -> Submission:
    """Approve budget and fee, submit the specification, and wait until all are final.

    Raises:
        OperatorError: The account cannot pay, or the registry refuses the task.
    """
    spec = bundle.spec
    submitter, token = get_address(private_key), spec.reward.token
    amount = compute_full_budget(spec) if budget is None else budget
    fee = offer.quote.fee
    if fee > offer.max_fee:
        raise OperatorError(
            f"the fee is {format_amount(fee)} POT, above --max-fee "
            f"({format_amount(offer.max_fee)} POT); raise it, or buy less with --lifetime and "
            "--attempts"
        )
    submission = task_registry.submit_task(
        compute_terms(spec),
        spec.resources,
        encode_task_spec(spec),
        amount,
        offer.purchase,
        offer.max_fee,
    )
    waiting = _find_waiting(client, private_key, submission, _read_submission, fee)
    needed = {token: amount}
    needed[TRAINING_TOKEN] = needed.get(TRAINING_TOKEN, 0) + fee
    for each, sum_ in needed.items():
        balance = client.read(training_token.balance_of(each, submitter))
        if balance < sum_:
            raise OperatorError(
                f"account {to_hex(submitter)} has {describe_amount(balance, each)}, and needs "
                f"{describe_amount(sum_, each)}: a budget of {describe_amount(amount, token)} and "
                f"a fee of {format_amount(fee)} POT; {name_cure(each)}, or give a smaller --budget"
            )
    allowed = {**needed, TRAINING_TOKEN: needed[TRAINING_TOKEN] - fee + offer.max_fee}
    if waiting is None:
        for each, sum_ in allowed.items():
            _approve(client, private_key, each, sum_)
    receipt = client.transact(private_key, waiting or submission, is_repeat=True)
    event = _find_submission(receipt)
    return Submission(
        task_id=event.task_id,
        spec_hash=event.spec_hash,
        budget=event.budget,
        transaction_hash=get_text(receipt, "transactionHash"),
    )


def wait_for_task(client: RpcClient, task_id: TaskId) -> None:
    """Return once a node knows a submitted task; it may be a few blocks behind another one.

    Raises:
        OperatorError: It does not know the task in time.
    """
    deadline = time.monotonic() + KNOWN_SECONDS
    while client.call_object("pot_getTask", task_id) is None:
        if time.monotonic() > deadline:
            raise OperatorError(
                f"{client.url} has not seen task {task_id} in {KNOWN_SECONDS:.0f} s; its node is "
                "behind, or belongs to another network"
            )
        time.sleep(KNOWN_POLL_SECONDS)


def fund_task(
    client: RpcClient, private_key: PrivateKey, task_id: TaskId, amount: int
) -> JsonObject:
    """Add to a task's escrow, which any account may do; returns the receipt.

    Raises:
        OperatorError: There is no such open task, or the account cannot pay.
    """
    token = client.read(task_registry.get_terms(task_id)).token
    _require_balance(client, get_address(private_key), token, amount)
    _approve(client, private_key, token, amount)
    return client.transact(private_key, task_registry.fund_task(task_id, amount))


def make_extension(
    client: RpcClient, task_id: TaskId, purchase: Purchase, max_fee: int | None, now: int
) -> Offer:
    """What more lifetime or attempts of an open task cost now.

    Args:
        client: A node.
        task_id: The task.
        purchase: What is added.
        max_fee: The most that is paid; None for a tenth above the price.
        now: The time in seconds since the Unix epoch.

    Raises:
        OperatorError: There is no such open task, or its lifetime would end too late.
    """
    quote = client.read(task_registry.get_extension_quote(task_id, purchase))
    lease = client.read(task_registry.get_lease(task_id))
    prices = client.read(task_registry.get_prices())
    longest = prices.max_lifetime_seconds
    # The lifetime of a pending task has not begun.
    left = max(0, lease.end_time - now) if lease.end_time else lease.lifetime_seconds
    if purchase.lifetime_seconds and left + purchase.lifetime_seconds > longest:
        raise OperatorError(
            f"a lifetime that ends in {format_exact_duration(left + purchase.lifetime_seconds)} is "
            f"not sold: task {task_id} has {format_exact_duration(left)} left, and the network "
            f"allows {format_exact_duration(longest)} at most; give --lifetime "
            f"{max(0, longest - left)}s at most"
        )
    limit = quote.fee + quote.fee // PRICE_MARGIN if max_fee is None else max_fee
    return Offer(purchase, quote, limit, prices.pending_seconds)


def extend_task(
    client: RpcClient, private_key: PrivateKey, task_id: TaskId, offer: Offer
) -> JsonObject:
    """Buy more lifetime or attempts, which any account may do; returns the receipt.

    Raises:
        OperatorError: There is no such open task, the price is above the largest fee, or the
            account cannot pay.
    """
    fee, limit = offer.quote.fee, offer.max_fee
    if fee > limit:
        raise OperatorError(
            f"the extension costs {format_amount(fee)} POT, above --max-fee "
            f"({format_amount(limit)} POT); raise it"
        )
    extension = task_registry.extend_task(task_id, offer.purchase, limit)
    waiting = _find_waiting(client, private_key, extension, _read_extension, fee)
    if waiting is None:
        _require_balance(client, get_address(private_key), TRAINING_TOKEN, fee)
        _approve(client, private_key, TRAINING_TOKEN, limit)
    return client.transact(private_key, waiting or extension, is_repeat=True)


UNMEASURED: Final = TaskResources(0, 0, 0, 0)
"""In the place of what a dry run measured, since that differs each time."""

Order: TypeAlias = tuple[object, int]
"""What a call buys, and the most that it pays as fee."""


def _find_waiting(
    client: RpcClient,
    private_key: PrivateKey,
    call: ContractCall,
    read_order: Callable[[bytes], Order | None],
    fee: int,
) -> ContractCall | None:
    """The call for the same order that waits for a block, if it would pay the fee.

    A command that is given again must not buy a second time. Two calls for one order differ: what a
    dry run measures differs each time, and so does the largest fee once prices have changed.
    """
    order = read_order(call.data)
    assert order is not None, "it was encoded here"
    for each in client.list_waiting(Signer(private_key, client.quantity("eth_chainId"))):
        if each.to != call.to or each.data[:SELECTOR_BYTES] != call.data[:SELECTOR_BYTES]:
            continue
        found = read_order(each.data)
        if found is not None and found[0] == order[0] and found[1] >= fee:
            return ContractCall(call.to, each.data)
    return None


def _read_submission(data: bytes) -> Order | None:
    types = task_registry.CONTRACT.abi.functions["submitTask"].inputs
    try:
        _, _, spec, *order, max_fee = decode_values(types, data[SELECTOR_BYTES:])
        decoded = decode_task_spec(spec) if isinstance(spec, bytes) else None
    except (InvalidAnswerError, RejectedInputError):
        return None
    assert isinstance(max_fee, int)
    return None if decoded is None else ((replace(decoded, resources=UNMEASURED), order), max_fee)


def _read_extension(data: bytes) -> Order:
    return data[:-WORD_BYTES], int.from_bytes(data[-WORD_BYTES:], "big")


def _require_balance(client: RpcClient, account: Address, token: Address, amount: int) -> None:
    """Refuse a payment that the account cannot make.

    Raises:
        OperatorError: It has less of the token.
    """
    balance = client.read(training_token.balance_of(token, account))
    if balance < amount:
        raise OperatorError(
            f"account {to_hex(account)} has {describe_amount(balance, token)}, and needs "
            f"{describe_amount(amount, token)}; {name_cure(token)}"
        )


def name_cure(token: Address) -> str:
    """How an account gets more of a token."""
    cure = "send it more"
    if token == TRAINING_TOKEN:
        cure += ", on a development network with pot wallet faucet"
    return cure


def _approve(client: RpcClient, private_key: PrivateKey, token: Address, amount: int) -> None:
    owner = get_address(private_key)
    allowance = client.read(training_token.allowance(token, owner, TASK_REGISTRY))
    if allowance < amount:
        client.transact(private_key, training_token.approve(token, TASK_REGISTRY, amount))


def _find_submission(receipt: JsonObject) -> TaskSubmitted:
    for entry in get_objects(receipt, "logs"):
        event = decode_event(decode_log(entry))
        if isinstance(event, TaskSubmitted):
            return event
    raise OperatorError("the receipt has no TaskSubmitted event; is --rpc the right network?")


def find_model(client: RpcClient, task_id: int, round_number: int | None = None) -> PublishedModel:
    """The model of a task after a round, or after the last settled one.

    Raises:
        OperatorError: There is no such task, or no round of it is settled.
    """
    found = client.call_object("pot_getTask", task_id)
    if found is None:
        raise OperatorError(f"there is no task {task_id}; `pot task list` lists all tasks")
    arguments = (task_id,) if round_number is None else (task_id, round_number)
    published = client.call_object("pot_getModel", *arguments)
    if published is None:
        raise OperatorError(f"task {task_id} has no such settled round; `pot task watch {task_id}`")
    spec = decode_task_spec(_canonical(found))
    return PublishedModel(
        model=spec.model,
        root=Hash32(read_bytes(get_text(published, "modelRoot"))),
        round_number=get_integer(published, "round"),
        byte_count=get_integer(published, "bytes"),
    )


def _canonical(task: JsonObject) -> bytes:

    return json.dumps(
        get_value(task, "spec"), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()


def download_model(
    client: RpcClient, model: PublishedModel, progress: Progress | None = None
) -> bytes:
    """The safetensors file of a model; its parameters hash to the root on the chain."""
    try:
        theta = client.get_blob(model.root, model.byte_count, progress)
    except ContentUnavailableError as error:
        raise OperatorError(
            f"{client.url} does not have the model of round {model.round_number + 1} (blob "
            f"{to_hex(model.root)}) any more: nodes keep a closed task's last "
            "model for a day, and up to blobs.closed_task_days if they have room; earlier ones "
            'with blobs.retention = "task"; ask one that has it with --rpc'
        ) from error
    return encode_model_file(model.model, theta)
