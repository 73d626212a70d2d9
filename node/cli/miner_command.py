"""`pot miner`: start the process that computes gradients, leave a task, take the bond back."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.output import (
    DEFAULT_RPC_URL,
    RPC_VARIABLE,
    JsonOption,
    RpcOption,
    format_amount,
    print_json,
    print_line,
)
from node.cli.wallet_command import KeyOption, PasswordOption, find_key_file, load_private_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from chain.primitives import TaskId

app = typer.Typer(help="Compute gradients and be paid for them.", no_args_is_help=True)


@app.command(
    epilog="Example:  pot miner run --rpc http://127.0.0.1:8545 --task auto --units 1 "
    "--key miner.json --password-file miner.password"
)
def run(
    key: Annotated[Path, typer.Option(help="V3 keystore, or an account of pot wallet.")],
    rpc: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="A node; repeat for failover.", envvar=RPC_VARIABLE),
    ] = None,
    genesis: Annotated[
        str | None,
        typer.Option(
            metavar="HASH|FILE",
            help="The network's genesis hash or file; else the first node is trusted, once.",
        ),
    ] = None,
    task: Annotated[str, typer.Option(help="Task id, or auto: the newest open one.")] = "auto",
    units: Annotated[
        int, typer.Option(help="Units of work a round; the bond grows with them.")
    ] = 1,
    password_file: Annotated[Path | None, typer.Option(help="Asked for if not given.")] = None,
    data_dir: Annotated[
        Path, typer.Option(help="Where gradients and data are kept; one a miner.")
    ] = Path("miner-data"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    claim: Annotated[
        bool, typer.Option("--claim", help="Claim the rewards when the task closes.")
    ] = False,
    log_format: Annotated[str, typer.Option(help="text or json.")] = "text",
) -> None:
    """Register for a task with a bond and mine it.

    The miner needs no port of its own: it speaks HTTP to nodes. It believes none of them: what it
    works on is proven from the network's genesis hash.
    """
    key = find_key_file(key)
    urls = rpc or [DEFAULT_RPC_URL]
    arguments = [
        *(argument for url in urls for argument in ("--rpc", url)),
        *("--task", task, "--units", str(units), "--key", str(key), "--data-dir", str(data_dir)),
        *("--device", device, "--threads", str(threads), "--log-format", log_format),
        *(("--genesis", genesis) if genesis is not None else ()),
        *(("--password-file", str(password_file)) if password_file is not None else ()),
        *(("--claim",) if claim else ()),
    ]
    # A process of its own: what computes has torch, and the node's code is no part of it.
    os.execv(sys.executable, [sys.executable, "-m", "miner", *arguments])  # noqa: S606


TaskArgument = Annotated[int, typer.Argument(metavar="ID", help="Task id.")]


@app.command(epilog="Example:  pot miner leave 1 --key miner-1")
def leave(
    task: TaskArgument,
    key: KeyOption,
    password_file: PasswordOption = None,
    rpc: RpcOption = DEFAULT_RPC_URL,
    as_json: JsonOption = False,
) -> None:
    """Take no part in a task's further rounds.

    You still owe the round in progress: stop the miner after it. The bond comes back with `pot
    miner withdraw`.
    """
    from chain.contracts.gradient_ledger import encode_leave

    _send_to_ledger(task, encode_leave, key, password_file, rpc, as_json, "left")


@app.command(epilog="Example:  pot miner withdraw 1 --key miner-1")
def withdraw(
    task: TaskArgument,
    key: KeyOption,
    password_file: PasswordOption = None,
    rpc: RpcOption = DEFAULT_RPC_URL,
    as_json: JsonOption = False,
) -> None:
    """Take back the bond in a task.

    Once it has been closed for 16 blocks, or once you have left it for some rounds.
    """
    from chain.contracts.gradient_ledger import encode_withdraw_bond

    _send_to_ledger(task, encode_withdraw_bond, key, password_file, rpc, as_json, "bond withdrawn")


def _send_to_ledger(
    task: int,
    encode: "Callable[[TaskId], bytes]",
    key: Path,
    password_file: Path | None,
    rpc: str,
    as_json: bool,
    done: str,
) -> None:
    from chain.contracts.addresses import GRADIENT_LEDGER
    from chain.contracts.gradient_ledger import decode_miner, encode_get_miner
    from chain.crypto import get_address
    from chain.primitives import TaskId
    from node.client.rpc_client import RpcClient, get_text

    client = RpcClient(rpc)
    private_key = load_private_key(key, password_file)
    asked = encode_get_miner(TaskId(task), get_address(private_key))
    before = decode_miner(client.call_contract(GRADIENT_LEDGER, asked)).bond
    receipt = client.transact(private_key, GRADIENT_LEDGER, encode(TaskId(task)))
    bond = decode_miner(client.call_contract(GRADIENT_LEDGER, asked)).bond
    transaction = get_text(receipt, "transactionHash")
    if as_json:
        print_json(
            {
                "task": task,
                "bond": str(bond),
                "received": str(before - bond),
                "transactionHash": transaction,
            }
        )
        return
    print_line(f"task {task}: {done} in {transaction}")
    if bond:
        print_line(f"bond {format_amount(bond)} POT; next: pot miner withdraw {task}")
    else:
        print_line(f"received {format_amount(before - bond)} POT")
