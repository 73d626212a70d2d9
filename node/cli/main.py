"""`pot`: one command for operators, submitters, miners and wallet owners."""

import sys
from collections.abc import Collection, Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Final

import typer

from chain.errors import RejectedInputError
from chain.params import InvalidGenesisError
from pot_common.errors import OperatorError

COMMANDS: Final[Mapping[str, str]] = {
    "init": "Make a node's keys, configuration and database.",
    "doctor": "Look for what is wrong with a node and its machine.",
    "devnet": "Run a whole network on this machine.",
    "genesis": "Make or look at a network's genesis.",
    "node": "Run a full node.",
    "config": "Look at a node's configuration.",
    "miner": "Compute gradients and be paid for them.",
    "task": "Training tasks: submit, watch, download, verify, fund, cancel.",
    "wallet": "Accounts: keys, balances, transfers, rewards.",
    "validator": "The validator set: join, leave, vote, stake.",
}
"""What `pot --help` says of each command. The module node.cli.NAME_command implements it, with an
`app` of further commands or with one function of that name."""


def build_app(names: Collection[str]) -> typer.Typer:
    """The command line, with the modules of the commands `names` imported.

    The other commands are only listed: importing all of them takes a second.
    """
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
    app.callback()(_take_version)
    for name, text in COMMANDS.items():
        module = import_module(f"node.cli.{name}_command") if name in names else None
        if module is None:
            app.add_typer(typer.Typer(), name=name, help=text)
        elif hasattr(module, "app"):
            app.add_typer(module.app, name=name, help=text)
        else:
            app.command(name, epilog=module.EXAMPLE)(getattr(module, name))
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pot {version('proof-of-training')}")
        raise typer.Exit


def _take_version(
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
    # No option of `pot` itself takes a value, so the first other word is the command.
    names = [word for word in sys.argv[1:] if not word.startswith("-")][:1]
    try:
        build_app(names)()
    except (OperatorError, InvalidGenesisError, RejectedInputError) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename or 'input/output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        sys.exit(130)
