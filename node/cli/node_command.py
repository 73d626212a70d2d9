"""`pot node`: runs a full node."""

from pathlib import Path
from typing import Annotated

import trio
import typer

from node.config import load_config
from pot_common.errors import OperatorError

app = typer.Typer(no_args_is_help=True)


@app.command(
    epilog="Example:  pot node run --config /var/lib/pot/config.toml --rpc-port 8545\n\n"
    "Every setting can also be given as an environment variable, POT_RPC__PORT=8545."
)
def run(
    config: Annotated[Path | None, typer.Option(help="A TOML file; see pot init.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Sets data_dir: the directory of all data.")
    ] = None,
    genesis: Annotated[Path | None, typer.Option(help="Sets genesis: the network's file.")] = None,
    listen: Annotated[
        str | None, typer.Option(help="Sets network.listen: multiaddresses, separated by commas.")
    ] = None,
    bootstrap: Annotated[
        str | None,
        typer.Option(help="Sets network.bootstrap: multiaddresses, separated by commas."),
    ] = None,
    rpc_host: Annotated[str | None, typer.Option(help="Sets rpc.host.")] = None,
    rpc_port: Annotated[int | None, typer.Option(help="Sets rpc.port.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Sets metrics.port.")] = None,
    sync_mode: Annotated[
        str | None, typer.Option(help="Sets sync.mode: auto, full or snapshot.")
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(help="Sets logs.format: console or json.")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(help="Sets logs.level: debug, info, warning or error.")
    ] = None,
) -> None:
    """Run a node until it is stopped (Ctrl-C or SIGTERM)."""
    # Imported here because it takes two seconds, which would delay `--help`.
    from node.node import run_node

    flags = {
        "data_dir": data_dir,
        "genesis": genesis,
        "network.listen": listen,
        "network.bootstrap": bootstrap,
        "rpc.host": rpc_host,
        "rpc.port": rpc_port,
        "metrics.port": metrics_port,
        "sync.mode": sync_mode,
        "logs.format": log_format,
        "logs.level": log_level,
    }
    try:
        trio.run(run_node, load_config(config, flags))
    except BaseExceptionGroup as group:
        # A nursery wraps the exception. The operator gets one line; a bug keeps its traceback.
        expected, rest = group.split((OperatorError, KeyboardInterrupt))
        if rest is not None or expected is None:
            raise
        raise _first_leaf(expected) from None


def _first_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first_leaf(first) if isinstance(first, BaseExceptionGroup) else first
