"""`pot`: the command line for operators, submitters, miners and wallet owners."""

import sys
from collections.abc import Collection, Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Final

import typer

from chain.errors import RejectedInputError
from chain.params import InvalidGenesisError
from pot_common.errors import OperatorError
from pot_common.terminal import format_error

COMMANDS: Final[Mapping[str, str]] = {
    "init": "Create a node's keys, configuration and database.",
    "doctor": "Find what is wrong with a node and its machine.",
    "devnet": "Run a whole network on this machine.",
    "genesis": "Create or show a network's genesis file.",
    "node": "Run a full node.",
    "config": "Check a node's configuration.",
    "miner": "Compute gradients and be paid for them.",
    "task": "Training tasks: submit, watch, download, verify, fund, cancel.",
    "wallet": "Accounts: keys, balances, transfers, rewards.",
    "validator": "The validator set: join, leave, vote, stake.",
}
"""The help text of each command. The module node.cli.NAME_command implements the command NAME, as
an `app` with subcommands or as a function of that name."""


def build_app(names: Collection[str]) -> typer.Typer:
    """The command line. Only the modules of the commands `names` are imported.

    The other commands are only listed in the help, because importing all of them takes a second.
    """
    app = typer.Typer(
        name="pot",
        help="Proof of Training: a blockchain that trains models as its useful work.",
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
    """Run the command line. An OperatorError ends it with its message and status 1."""
    # No option of `pot` itself takes a value, so the first word that is no option is the command.
    names = [word for word in sys.argv[1:] if not word.startswith("-")][:1]
    try:
        build_app(names)()
    except (OperatorError, InvalidGenesisError, RejectedInputError) as error:
        sys.exit(format_error(error))
    except OSError as error:
        sys.exit(format_error(f"{error.filename or 'input/output'}: {error.strerror or error}"))
    except KeyboardInterrupt:
        sys.exit(130)
