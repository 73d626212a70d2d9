"""The output of `pot devnet`: a live view on a terminal, lines elsewhere, a table at the end."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from chain.json_types import Json, JsonObject
from node.cli.output import (
    format_rounded,
    format_table,
    print_fields,
    print_line,
    print_table,
    print_wrapped,
)
from node.cli.task_round import describe_round
from node.client.rpc_client import get_integer, get_objects, get_text, get_value
from node.devnet.summary import MinerUnits, count_units, summarize_round

SHOWN_ROUNDS: Final = 8
"""Number of settled rounds in the live view, the latest ones."""

BAR_WIDTH: Final = 16
"""Characters of an accuracy bar. With it, the table fits into 80 columns."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The network and its task at one moment, as a validator reports them."""

    consensus: JsonObject
    """The answer of pot_consensusState."""
    task: JsonObject
    """The answer of pot_getTask."""
    rounds: tuple[JsonObject, ...]
    """The answer of pot_getRound for every settled round."""
    ended: tuple[str, ...] = field(default=())
    """Names of the processes that have ended."""

    @property
    def planned(self) -> int:
        """The number of rounds of the task."""
        return get_integer(self.task, "terms", "rounds")


class DevnetView:
    """Shows snapshots until the `with` block is left.

    Args:
        console: The output.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, transient=True) if console.is_terminal else None
        self._told = 0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def tell(self, text: str) -> None:
        """Show a message, before there is a snapshot."""
        if self._live is None:
            self._console.print(text, highlight=False)
        else:
            self._live.update(Spinner("dots", Text(text)), refresh=True)

    def show(self, snapshot: Snapshot) -> None:
        """Show a snapshot. Without a terminal, print only its new rounds."""
        if self._live is not None:
            self._live.update(render_snapshot(snapshot), refresh=True)
            return
        for round_ in snapshot.rounds[self._told :]:
            self._console.print(
                describe_round(round_, snapshot.planned), highlight=False, soft_wrap=True
            )
        self._told = len(snapshot.rounds)


def render_snapshot(snapshot: Snapshot) -> Group:
    """The live view."""
    consensus, task = snapshot.consensus, snapshot.task
    entries = [summarize_round(round_) for round_ in snapshot.rounds]
    accepted = sum(get_integer(entry, "accepted") for entry in entries)
    rejected = sum(get_integer(entry, "rejected") for entry in entries)
    network = (
        f"block {get_value(consensus, 'number')}   view {get_value(consensus, 'view')}   "
        f"{get_value(consensus, 'phase') or ''}"
    )
    round_number = min(len(entries) + 1, snapshot.planned)
    progress = (
        f"task {get_integer(task, 'id')} {get_text(task, 'status')}   "
        f"round {round_number}/{snapshot.planned}   phase {get_value(task, 'phase')}"
    )
    work = (
        f"gradients accepted {accepted}, rejected {rejected}   "
        f"rewards paid {format_rounded(get_integer(task, 'account', 'paid'))} POT"
    )
    lines = [network, progress, work]
    if snapshot.ended:
        lines.append(f"not running: {', '.join(snapshot.ended)}")
    if not entries:
        return Group(Text("\n".join(lines)))
    gap = Text("")
    return Group(
        Text("\n".join(lines)), gap, _render_rounds(entries), gap, _render_miners(snapshot.rounds)
    )


def _render_rounds(entries: list[JsonObject]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("round", "block", "accepted", "rejected", "loss", "accuracy"):
        table.add_column(name, justify="right")
    table.add_column("", no_wrap=True)
    table.add_column("seconds", justify="right")
    for entry in entries[-SHOWN_ROUNDS:]:
        accuracy = entry["accuracy"]
        filled = round(BAR_WIDTH * accuracy) if isinstance(accuracy, float) else 0
        table.add_row(
            str(get_integer(entry, "round") + 1),
            str(entry["block_number"]),
            str(entry["accepted"]),
            str(entry["rejected"]),
            _format_loss(entry["loss"]),
            format_accuracy(accuracy),
            "█" * filled + "░" * (BAR_WIDTH - filled),
            str(entry["seconds"]),
        )
    return table


def _render_miners(rounds: tuple[JsonObject, ...]) -> Text:
    units: Mapping[str, MinerUnits] = count_units(rounds)
    rows = [
        (miner, str(counts.accepted), str(counts.rejected))
        for miner, counts in sorted(units.items())
    ]
    return Text("\n".join(format_table(("miner", "units accepted", "rejected"), rows)))


def _format_loss(loss: Json) -> str:
    return f"{loss:.3f}" if isinstance(loss, float) else "-"


def format_accuracy(accuracy: Json) -> str:
    """A share as a percentage; a dash for None."""
    return f"{100 * accuracy:.2f} %" if isinstance(accuracy, float) else "-"


def print_summary(summary: JsonObject) -> None:
    """Print the summary of a task."""
    task = summary["task"]
    validators = get_objects(summary, "validators")
    print_line("")
    print_fields(
        [
            ("accuracy before", format_accuracy(get_value(task, "initial_accuracy"))),
            ("accuracy after", format_accuracy(get_value(task, "final_accuracy"))),
            (
                "rounds",
                f"{get_value(task, 'rounds_settled')} of {get_value(task, 'rounds_planned')}",
            ),
            ("blocks", str(summary["blocks"])),
            ("transactions", str(summary["transactions"])),
            ("time", f"{summary['wall_seconds']} s"),
            ("model file", get_text(task, "model_file")),
            ("chain id", str(summary["chain_id"])),
            *(("RPC URL", get_text(node, "rpc_url")) for node in validators),
        ]
    )
    print_fields([("model root", get_text(task, "model_root"))])  # it fits beside a short name only
    print_line("")
    rows = [
        (
            get_text(miner, "address"),
            str(miner["units_accepted"]),
            str(miner["units_rejected"]),
            format_rounded(get_integer(miner, "claimed")),
            format_rounded(get_integer(miner, "balance")),
        )
        for miner in get_objects(summary, "miners")
    ]
    print_table(("miner", "units", "rejected", "claimed", "balance"), rows)
    print_wrapped(
        "claimed and balance are in POT; a balance is without the bonds of the seat, which the "
        "miner takes back about 200 blocks later, if it still runs"
    )
    print_line("")
