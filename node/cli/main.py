"""`pot`: one command for operators, submitters, miners and wallet owners."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from chain.errors import RejectedInputError
from chain.params import InvalidGenesisError
from node.cli import (
    config_command,
    devnet_command,
    doctor_command,
    genesis_command,
    init_command,
    miner_command,
    node_command,
    task_command,
    validator_command,
    wallet_command,
)
from pot_common.errors import OperatorError

app = typer.Typer(
    name="pot",
    help="Proof of Training: a blockchain whose useful work is training models.",
    epilog="Start with:  pot devnet",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(genesis_command.app, name="genesis")
app.command("init", epilog=init_command.EXAMPLE)(init_command.init)
app.add_typer(node_command.app, name="node")
app.add_typer(config_command.app, name="config")
app.add_typer(miner_command.app, name="miner")
app.add_typer(task_command.app, name="task")
app.add_typer(wallet_command.app, name="wallet")
app.add_typer(validator_command.app, name="validator")
app.command("doctor", epilog=doctor_command.EXAMPLE)(doctor_command.doctor)
app.command("devnet", epilog=devnet_command.EXAMPLE)(devnet_command.devnet)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pot {version('proof-of-training')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; what only the operator can put right is one line and status 1."""
    try:
        app()
    except (OperatorError, InvalidGenesisError, RejectedInputError) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename or 'input/output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        sys.exit(130)
