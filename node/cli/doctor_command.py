"""`pot doctor`: finds problems of a node and its machine, with the cure."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer

from node.cli.output import JsonOption, print_json, print_line
from node.client.rpc_client import RpcClient
from node.clock import SystemClock
from node.config import load_config
from node.setup.doctor import (
    Check,
    ask_node,
    check_state,
    examine_directory,
    examine_machine,
)
from pot_common.terminal import LINE_WIDTH, wrap_line

MARK_WIDTH: Final = 10
"""The columns before the text of a check: the longest mark and two spaces."""

EXAMPLE: Final = "Example:  pot doctor --config /var/lib/pot/config.toml"


def doctor(
    config: Annotated[Path | None, typer.Option(help="A node's TOML file; see pot init.")] = None,
    rpc: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Ask only this node; check nothing on this machine."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find what is wrong with a node and its machine.

    If the node runs, it is also asked what it waits for. Ends with status 1 if anything is wrong.
    """
    checks = []
    for check in _examine(config) if rpc is None else _ask(rpc):
        checks.append(check)
        if not as_json:
            _print(check)
    wrong = [check for check in checks if check.finding is not None]
    if as_json:
        print_json({"ok": not wrong, "checks": [check.to_json() for check in checks]})
    else:
        print_line(
            f"{len(wrong)} of {len(checks)} checks found something wrong" if wrong else "well"
        )
    if wrong:
        raise typer.Exit(1)


def _examine(config_file: Path | None) -> Iterator[Check]:

    config = load_config(config_file)
    is_running = ask_node(config.rpc_socket, "node_info") is not None
    yield from examine_machine()
    yield from examine_directory(config, SystemClock(), is_running=is_running)
    state = ask_node(config.rpc_socket, "consensus_state")
    if state is None:
        yield Check("node", "does not run here, so it was not asked", is_note=True)
    else:
        yield from check_state(state)


def _ask(url: str) -> Iterator[Check]:

    yield from check_state(RpcClient(url).call_object("pot_consensusState") or {})


def _print(check: Check) -> None:
    if check.finding is None:
        _print_aligned("note" if check.is_note else "ok", f"{check.name}: {check.text}")
        return
    _print_aligned(check.finding.severity.value, f"{check.name}: {check.text}")
    _print_aligned("", f"do: {check.finding.cure}")


def _print_aligned(mark: str, text: str) -> None:
    """Print a text beside its mark, in lines that fit a terminal."""
    room = LINE_WIDTH - MARK_WIDTH
    for at, line in enumerate(wrap_line(text, width=room)):
        print_line((mark if at == 0 else "").ljust(MARK_WIDTH) + line)
