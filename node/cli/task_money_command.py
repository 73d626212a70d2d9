"""`pot task`: the commands that pay for a task, end it, and take money back."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from chain.amounts import format_amount, format_short
from chain.contracts.abi import ContractCall
from chain.contracts.task_registry import (
    Purchase,
    cancel_task,
    refund_fee,
    refund_task,
    resume_task,
)
from chain.json_types import JsonObject
from chain.primitives import TaskId
from node.cli.account import GasPriceOption, KeyOption, PasswordOption, unlock_account
from node.cli.output import (
    JsonOption,
    RpcOption,
    TaskArgument,
    format_fields,
    parse_amount,
    print_done,
    print_fields,
    print_json,
    print_note,
)
from node.cli.task_fee import (
    build_extension_answer,
    describe_extension,
    describe_lease,
    describe_money,
    describe_purchase,
    name_token,
    parse_duration,
)
from node.client.rpc_client import RpcClient, get_integer, get_text, get_value
from node.client.task_bundle import Wishes
from node.client.task_submission import extend_task, fund_task, make_extension
from pot_common.errors import OperatorError
from pot_common.node_url import DEFAULT_RPC_URL

app = typer.Typer()
"""Its commands are added to those of `pot task`."""

LifetimeOption = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="How long the task may be open, such as 90m, 36h or 2d."),
]
"""The option for the lifetime of a task."""

AttemptsOption = Annotated[
    int | None, typer.Option(help="How many attempts at rounds may open, failed ones included.")
]
"""The option for the attempts of a task."""

MaxFeeOption = Annotated[
    str | None,
    typer.Option(help="The most POT to pay as fee; by default a tenth above the price shown."),
]
"""The option for the largest fee."""


@app.command(epilog="Example:  pot task fund 1 --amount 25 --key alice")
def fund(
    task: TaskArgument,
    amount: Annotated[
        str, typer.Option(help="What to add to the escrow, in whole tokens, such as 12.5.")
    ],
    key: KeyOption,
    password_file: PasswordOption = None,
    gas_price: GasPriceOption = 0,
    rpc: RpcOption = DEFAULT_RPC_URL,
    as_json: JsonOption = False,
) -> None:
    """Add to a task's escrow.

    Any account may do so. A round that waited for money then starts. What the task does not spend
    goes to its submitter, whoever added it.
    """
    base_units = parse_amount(amount, "--amount")
    if base_units == 0:
        raise OperatorError("--amount is 0; give what is to be added")
    client = RpcClient(rpc)
    token = name_token(get_value(get_task(client, task), "terms", "token"))
    account = unlock_account(client, key, password_file, gas_price)
    receipt = fund_task(client, account.private_key, TaskId(task), base_units)
    _print_done(client, task, receipt, as_json, f"added {format_amount(base_units)} {token}")


@app.command(epilog="Example:  pot task extend 1 --lifetime 2d --attempts 20 --key alice")
def extend(
    task: TaskArgument,
    key: Annotated[
        Path | None,
        typer.Option("--key", help="The account that pays; not needed with --dry-run."),
    ] = None,
    lifetime: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="How much longer it may be open, such as 90m, 36h or 2d."
        ),
    ] = None,
    attempts: Annotated[
        int | None, typer.Option(help="How many more attempts at rounds may open.")
    ] = None,
    max_fee: MaxFeeOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the price, and pay nothing.")
    ] = False,
    password_file: PasswordOption = None,
    gas_price: GasPriceOption = 0,
    rpc: RpcOption = DEFAULT_RPC_URL,
    as_json: JsonOption = False,
) -> None:
    """Buy more lifetime or attempts for an open task.

    They are added to what the task has. Any account may do so, at today's price, which is shown
    before it is paid. With --dry-run the price is all that is shown.
    """
    # 0 attempts beside a lifetime are as good as none.
    wishes = read_wishes(lifetime, attempts or None, max_fee)
    purchase = Purchase(wishes.lifetime_seconds or 0, wishes.attempts or 0)
    if purchase == Purchase(0, 0):
        raise OperatorError("nothing to buy; give --lifetime, --attempts or both")
    if key is None and not dry_run:
        raise OperatorError("--key is missing: give the account that pays, or --dry-run")
    client = RpcClient(rpc)
    if get_text(get_task(client, task), "status") == "closed":
        raise OperatorError(
            f"task {task} is closed, so nothing can be added to it: submit it again as a new task "
            "(pot task submit)"
        )
    offer = make_extension(client, TaskId(task), purchase, wishes.max_fee, int(time.time()))
    if dry_run:
        if as_json:
            print_json({"id": task, **build_extension_answer(offer)})
        else:
            print_fields(describe_extension(offer))
        return
    assert key is not None, "it was asked for above"
    if not as_json:
        for line in format_fields(describe_extension(offer)):
            print_note(line)
    account = unlock_account(client, key, password_file, gas_price)
    receipt = extend_task(client, account.private_key, TaskId(task), offer)
    done = f"added {describe_purchase(purchase)} for about {format_short(offer.quote.fee)} POT"
    _print_done(client, task, receipt, as_json, done)
    if not as_json:
        print_fields(describe_lease(get_task(client, task), int(time.time())))


@app.command(epilog="Example:  pot task cancel 1 --key alice")
def cancel(
    task: TaskArgument,
    key: KeyOption,
    password_file: PasswordOption = None,
    gas_price: GasPriceOption = 0,
    rpc: RpcOption = DEFAULT_RPC_URL,
    as_json: JsonOption = False,
) -> None:
    """Cancel a task that you submitted.

    It is closed at once, or after the round in progress is settled and paid.
    """
    _send_to_registry(task, cancel_task, key, password_file, gas_price, rpc, as_json, "cancelled")


@app.command(epilog="Example:  pot task resume 1 --key alice")
def resume(
    task: TaskArgument,
    key: KeyOption,
    password_file: PasswordOption = None,
    gas_price: GasPriceOption = 0,
    rpc: RpcOption = DEFAULT_RPC_URL,
    as_json: JsonOption = False,
) -> None:
    """Resume a paused task that you submitted.

    A task is paused after three attempts in a row without a result.
    """
    _send_to_registry(task, resume_task, key, password_file, gas_price, rpc, as_json, "resumed")


@app.command(epilog="Example:  pot task refund 1 --key alice")
def refund(
    task: TaskArgument,
    key: KeyOption,
    password_file: PasswordOption = None,
    gas_price: GasPriceOption = 0,
    rpc: RpcOption = DEFAULT_RPC_URL,
    as_json: JsonOption = False,
) -> None:
    """Refund what a task did not need.

    That is the unspent budget of a closed task, pay for validators that did not answer in time, and
    the rent of a task that never became active. Any account may send this; the submitter gets the
    money.
    """
    client = RpcClient(rpc)
    found = get_task(client, task)
    account = unlock_account(client, key, password_file, gas_price)
    receipt: JsonObject | None = None
    if get_integer(found, "lease", "refundable"):
        receipt = account.send_call(refund_fee(TaskId(task)))
    has_budget = get_text(found, "status") == "closed" and get_integer(
        found, "account", "refundable"
    )
    if receipt is None or has_budget:
        receipt = account.send_call(refund_task(TaskId(task)))
    _print_done(client, task, receipt, as_json, "refunded")


def _send_to_registry(
    task: int,
    make_call: Callable[[TaskId], ContractCall],
    key: Path,
    password_file: Path | None,
    gas_price: int,
    rpc: str,
    as_json: bool,
    done: str,
) -> None:

    client = RpcClient(rpc)
    get_task(client, task)
    account = unlock_account(client, key, password_file, gas_price)
    receipt = account.send_call(make_call(TaskId(task)))
    _print_done(client, task, receipt, as_json, done)


def _print_done(
    client: RpcClient, task: int, receipt: JsonObject, as_json: bool, done: str
) -> None:
    """Print what was done to a task, and its state now."""
    found = get_task(client, task)
    transaction, status = get_text(receipt, "transactionHash"), get_text(found, "status")
    is_cancelling = status != "closed" and get_value(found, "account", "cancelling") is True
    amounts = {
        name: get_integer(found, "account", name)
        for name in ("escrowed", "paid", "refundable", "refunded")
    }
    if as_json:
        print_json(
            {
                "id": task,
                "status": status,
                "cancelling": is_cancelling,
                **{name: str(amount) for name, amount in amounts.items()},
                "fee": found["fee"],
                "transactionHash": transaction,
            }
        )
        return
    print_done(f"task {task}: {done}", transaction)
    print_fields(
        [
            ("status", f"{status}, closes with its round" if is_cancelling else status),
            *describe_money(found),
        ]
    )


def get_task(client: RpcClient, task: int) -> JsonObject:
    """The task as RPC shows it.

    Raises:
        OperatorError: There is no such task.
    """
    found = client.call_object("pot_getTask", task)
    if found is None:
        raise OperatorError(f"there is no task {task}; `pot task list` lists all tasks")
    return found


def read_wishes(lifetime: str | None, attempts: int | None, max_fee: str | None) -> Wishes:
    """What the options ask for.

    Raises:
        OperatorError: An option is malformed.
    """
    if attempts is not None and attempts < 1:
        raise OperatorError(f"--attempts is {attempts}; give at least 1")
    return Wishes(
        lifetime_seconds=None if lifetime is None else parse_duration(lifetime),
        attempts=attempts,
        max_fee=None if max_fee is None else parse_amount(max_fee, "--max-fee"),
    )
