"""`pot miner`: starts a miner, leaves a task, takes the bond back."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from chain.contracts.abi import ContractCall
from chain.contracts.events import decode_event
from chain.contracts.miner_seats import (
    BondWithdrawn,
    get_seat,
    withdraw_bond,
    withdraw_seat_bond,
)
from chain.contracts.miner_seats import leave as leave_task
from chain.primitives import TaskId
from node.cli.account import KeyOption, PasswordOption, find_key_file, unlock_account
from node.cli.output import (
    JsonOption,
    RpcOption,
    TaskArgument,
    print_json,
    print_line,
)
from node.client.rpc_client import RpcClient, decode_log, get_objects, get_text
from pot_common.amounts import format_amount
from pot_common.miner_options import EXAMPLE, MinerOptions, build_command
from pot_common.node_url import DEFAULT_RPC_URL

app = typer.Typer(no_args_is_help=True)


def _start(options: MinerOptions) -> None:
    arguments = replace(options, key=find_key_file(options.key)).to_arguments()
    # In a process of its own, because the miner needs torch and nothing of the node.
    os.execv(sys.executable, [sys.executable, "-m", "miner", *arguments])  # noqa: S606


app.command("run", epilog=EXAMPLE)(build_command(_start))


@app.command(epilog="Example:  pot miner leave 1 --key miner-1")
def leave(
    task: TaskArgument,
    key: KeyOption,
    password_file: PasswordOption = None,
    rpc: RpcOption = DEFAULT_RPC_URL,
    as_json: JsonOption = False,
) -> None:
    """Leave a task at the end of the attempt in progress.

    The miner must still finish that attempt, so stop it only afterwards: a seat that misses its
    last attempt loses its bond in POT. After a miss, commit once more before you leave. A new miner
    owes one attempt. Take the bonds back with `pot miner withdraw`.
    """
    _send_to_seats(task, leave_task, key, password_file, rpc, as_json, "left")


@app.command(epilog="Example:  pot miner withdraw 1 --key miner-1")
def withdraw(
    task: TaskArgument,
    key: KeyOption,
    pot_only: Annotated[
        bool,
        typer.Option(
            "--pot-only", help="Only the seat's bond in POT, if the task's token refuses to pay."
        ),
    ] = False,
    password_file: PasswordOption = None,
    rpc: RpcOption = DEFAULT_RPC_URL,
    as_json: JsonOption = False,
) -> None:
    """Take back the bonds in a task that you left or that is closed.

    This is possible 192 blocks after your last attempt there, or later if its verdict phase is
    longer than 32 seconds.
    """
    call = withdraw_seat_bond if pot_only else withdraw_bond
    _send_to_seats(task, call, key, password_file, rpc, as_json, "bond withdrawn")


def _send_to_seats(
    task: int,
    make_call: Callable[[TaskId], ContractCall],
    key: Path,
    password_file: Path | None,
    rpc: str,
    as_json: bool,
    done: str,
) -> None:
    client = RpcClient(rpc)
    account = unlock_account(client, key, password_file)
    receipt = account.send_call(make_call(TaskId(task)))
    bond = client.read(get_seat(TaskId(task), account.address)).bond
    received, received_pot = 0, 0
    for entry in get_objects(receipt, "logs"):
        event = decode_event(decode_log(entry))
        if isinstance(event, BondWithdrawn):
            received, received_pot = event.amount, event.seat_bond
    transaction = get_text(receipt, "transactionHash")
    if as_json:
        print_json(
            {
                "task": task,
                "bond": str(bond),
                "received": str(received),
                "seatBond": str(received_pot),
                "transactionHash": transaction,
            }
        )
        return
    print_line(f"task {task}: {done} in {transaction}")
    if bond:
        print_line(f"bond {format_amount(bond)} POT; next: pot miner withdraw {task}")
    if received or received_pot or not bond:
        print_line(
            f"received {format_amount(received)} of the task's token and "
            f"{format_amount(received_pot)} POT of the seat's bond"
        )
