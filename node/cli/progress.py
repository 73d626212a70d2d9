"""A progress bar for transfers."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from node.client import rpc_client


@contextmanager
def progress_bar(label: str, byte_count: int) -> Iterator[rpc_client.Progress]:
    """A progress bar on standard error; returns the function that reports the bytes done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=byte_count)

        def advance(count: int) -> None:
            progress.advance(task, count)

        yield advance
