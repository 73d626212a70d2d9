"""`pot miner`: start the process that computes gradients."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from node.cli.output import DEFAULT_RPC_URL, RPC_VARIABLE
from node.cli.wallet_command import find_key_file

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
