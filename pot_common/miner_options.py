"""The options of `pot miner run`, and of the process `python -m miner` that it starts.

Both commands are made by `build_command`, so that they take the same options with the same help.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from pot_common.node_url import DEFAULT_RPC_URL, RPC_VARIABLE

EXAMPLE: Final = (
    "Example:  pot miner run --rpc http://127.0.0.1:8545 --task auto --units 1 "
    "--key miner.json --password-file miner.password"
)
"""The example at the end of the help."""


class MinerLogFormat(StrEnum):
    """How a miner writes its log."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class MinerOptions:
    """The settings of a miner. Each field holds the option of the same name."""

    key: Path
    rpc: tuple[str, ...]
    genesis: str | None
    task: str
    units: int
    password_file: Path | None
    data_dir: Path
    device: str
    threads: int
    memory_gib: float | None
    data_gib: float
    lock_days: float
    claim: bool
    leave_at_end: bool
    gas_price: int
    private_data_host: tuple[str, ...]
    log_format: MinerLogFormat
    poll_ms: int

    def to_arguments(self) -> list[str]:
        """The command line that gives these options."""
        arguments = []
        for field in fields(self):
            flag, value = "--" + field.name.replace("_", "-"), getattr(self, field.name)
            if value is True:
                arguments.append(flag)
            elif value is not None and value is not False:
                values = value if isinstance(value, tuple) else (value,)
                arguments += [part for each in values for part in (flag, str(each))]
        return arguments


def build_command(run: Callable[[MinerOptions], None]) -> Callable[..., None]:
    """A typer command that hands its options to `run`."""

    def command(
        key: Annotated[Path, typer.Option(help="V3 keystore, or an account of pot wallet.")],
        rpc: Annotated[
            list[str] | None,
            typer.Option(metavar="URL", help="A node; repeat for failover.", envvar=RPC_VARIABLE),
        ] = None,
        genesis: Annotated[
            str | None,
            typer.Option(
                metavar="HASH|FILE",
                help="The network's genesis hash or file. Without it, the first node is "
                "trusted once.",
            ),
        ] = None,
        task: Annotated[
            str, typer.Option(help="A task's id, or auto for the active one that pays best.")
        ] = "auto",
        units: Annotated[
            int,
            typer.Option(help="Units of work a round, if this machine computes as many in time."),
        ] = 1,
        password_file: Annotated[
            Path | None, typer.Option(help="A file with the password; without it, you are asked.")
        ] = None,
        data_dir: Annotated[
            Path, typer.Option(help="Where gradients and data are kept. Each miner needs its own.")
        ] = Path("miner-data"),
        device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
        threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
        memory_gib: Annotated[
            float | None,
            typer.Option(
                help="Take no task that declares more memory; without it, all of this machine's."
            ),
        ] = None,
        data_gib: Annotated[float, typer.Option(help="Keep no more task data on the disk.")] = 16.0,
        lock_days: Annotated[
            float,
            typer.Option(help="With --task auto, take no task that may lock bonds for longer."),
        ] = 2.0,
        claim: Annotated[
            bool, typer.Option("--claim", help="Claim the rewards when the task closes.")
        ] = False,
        leave_at_end: Annotated[
            bool,
            typer.Option(
                "--leave-at-end",
                help="When stopped, leave the task, finish the attempt that is owed, and wait for "
                "the bonds; wait for them, too, when the task closes. Stop again to end at once.",
            ),
        ] = False,
        gas_price: Annotated[
            int,
            typer.Option(
                metavar="WEI", min=0, help="Pay this for a unit of gas where it could be free."
            ),
        ] = 0,
        private_data_host: Annotated[
            list[str] | None,
            typer.Option(
                metavar="HOST",
                help="A host of task data that may have a private address; repeat for several.",
            ),
        ] = None,
        log_format: Annotated[
            MinerLogFormat, typer.Option(help="The form of log lines.")
        ] = MinerLogFormat.TEXT,
        poll_ms: Annotated[
            int, typer.Option(help="Between two looks at the task's phase.", hidden=True)
        ] = 100,
    ) -> None:
        """Register for a task with a bond and mine it.

        The miner needs no open port: it sends HTTP requests to nodes. It trusts none of them: its
        assignments are proven from the network's genesis hash.
        """
        run(
            MinerOptions(
                key=key,
                rpc=tuple(rpc or [DEFAULT_RPC_URL]),
                genesis=genesis,
                task=task,
                units=units,
                password_file=password_file,
                data_dir=data_dir,
                device=device,
                threads=threads,
                memory_gib=memory_gib,
                data_gib=data_gib,
                lock_days=lock_days,
                claim=claim,
                leave_at_end=leave_at_end,
                gas_price=gas_price,
                private_data_host=tuple(private_data_host or ()),
                log_format=log_format,
                poll_ms=poll_ms,
            )
        )

    return command
