"""Submitting a task and downloading its model (docs/spec/training.md, section 1).

The command line and the development network use it.
"""

import json
from dataclasses import dataclass

from chain.contracts import task_registry, training_token
from chain.contracts.addresses import TASK_REGISTRY
from chain.contracts.events import decode_event
from chain.contracts.task_registry import TaskSubmitted
from chain.crypto import get_address
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
from node.client.rpc_client import (
    Progress,
    RpcClient,
    decode_log,
    get_integer,
    get_objects,
    get_text,
    get_value,
)
from node.client.task_bundle import TaskBundle
from pot_common.errors import OperatorError
from pot_common.rpc_client import ContentUnavailableError
from pot_common.rpc_replies import read_bytes


@dataclass(frozen=True, slots=True)
class Submission:
    """A submitted task."""

    task_id: TaskId
    spec_hash: Hash32
    budget: int
    """The base units of the task's token in escrow."""
    transaction_hash: str


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


def fetch_parameters(client: RpcClient) -> ChainParameters:
    """The parameters of the node's network.

    Raises:
        OperatorError: The node's answer is not understood.
    """
    genesis = client.call_object("pot_getGenesis")
    try:
        return parse_parameters(json.loads(read_bytes(get_text(genesis, "parameters"))))
    except (ValueError, InvalidGenesisError) as error:
        raise OperatorError(
            f"{client.url} runs a network with rules that this version does not know: {error}"
        ) from error


def submit_task(
    client: RpcClient, private_key: PrivateKey, bundle: TaskBundle, budget: int | None = None
) -> Submission:
    """Approve the budget, submit the specification, and wait until both are final.

    Raises:
        OperatorError: The account cannot pay, or the registry refuses the task.
    """
    spec = bundle.spec
    submitter, token = get_address(private_key), spec.reward.token
    amount = compute_full_budget(spec) if budget is None else budget
    balance = client.read(training_token.balance_of(token, submitter))
    if balance < amount:
        raise OperatorError(
            f"account {to_hex(submitter)} has {balance} base units of token {to_hex(token)}, the "
            f"budget is {amount}; send it more, or give a smaller --budget"
        )
    _approve(client, private_key, token, amount)
    submission = task_registry.submit_task(compute_terms(spec), encode_task_spec(spec), amount)
    receipt = client.transact(private_key, submission)
    event = _find_submission(receipt)
    return Submission(
        task_id=event.task_id,
        spec_hash=event.spec_hash,
        budget=event.budget,
        transaction_hash=get_text(receipt, "transactionHash"),
    )


def fund_task(
    client: RpcClient, private_key: PrivateKey, task_id: TaskId, amount: int
) -> JsonObject:
    """Add to a task's escrow, which any account may do; returns the receipt.

    Raises:
        OperatorError: There is no such open task, or the account cannot pay.
    """
    token = client.read(task_registry.get_terms(task_id)).token
    _approve(client, private_key, token, amount)
    return client.transact(private_key, task_registry.fund_task(task_id, amount))


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
            f"{to_hex(model.root)}) any more: nodes keep a task's last model for "
            'blobs.closed_task_days, and earlier ones with blobs.retention = "task"; ask one that '
            "has it with --rpc"
        ) from error
    return encode_model_file(model.model, theta)
