"""Starts a node's RPC processes and keeps them running (docs/spec/rpc.md, section 5)."""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog
import trio

from node.config import NodeConfig
from node.metrics.rpc_files import DIRECTORY_VARIABLE, reset_gauges
from node.rpc.exit_status import CANNOT_START
from node.storage.blobs import BlobStore
from pot_common.errors import OperatorError, StorageError

FIRST_PAUSE_SECONDS: Final = 1.0
"""The pause before an RPC process that ended is started again."""

LONGEST_PAUSE_SECONDS: Final = 30.0
"""Each pause is twice the one before, up to this one: a process takes a second of a core to start,
which the node needs if it ends each time."""

STEADY_SECONDS: Final = 60.0
"""After an RPC process has run for so long, the pauses begin anew."""

_log = structlog.get_logger("node.rpc")


class RpcProcesses:
    """The RPC processes of one node. The node keeps running if one of them crashes.

    Args:
        config: The node's settings, including those from flags.
        config_file: The file that the settings were read from; None if there is none.
        blobs: The node's blobs, to which the RPC processes add uploads.
    """

    def __init__(self, config: NodeConfig, config_file: Path | None, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._count = config.rpc.processes
        self._metrics_directory = config.rpc_metrics_dir
        self._command = _build_command(config, config_file)

    async def run(self) -> None:
        """Keep `rpc.processes` processes running until this is cancelled.

        Raises:
            OperatorError: The settings allow no start of a process.
        """
        async with trio.open_nursery() as nursery:
            for place in range(self._count):
                nursery.start_soon(self._keep_one, place)

    async def _keep_one(self, place: int) -> None:
        is_first, pause = True, FIRST_PAUSE_SECONDS
        while True:
            started_at = trio.current_time()
            status = await self._run_one(place)
            if status == CANNOT_START and is_first:
                raise OperatorError(
                    "the RPC process cannot start: see its error above, or set rpc.processes=0 to "
                    "run without it"
                )
            is_first = False
            if trio.current_time() >= started_at + STEADY_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            _log.error("RPC process ended", status=status, restart_seconds=pause)
            await trio.to_thread.run_sync(self._clean_up, place)
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _run_one(self, place: int) -> int | None:
        """Run a process and return its exit status; None if the system refused to start one."""
        command = [*self._command, "--place", str(place)]
        environment = {**os.environ, DIRECTORY_VARIABLE: str(self._metrics_directory)}
        try:
            process = await trio.lowlevel.open_process(
                command, stdin=subprocess.DEVNULL, env=environment
            )
        except OSError as error:  # no memory or descriptors: the next try may find some
            _log.warning("RPC process not started", reason=str(error))
            return None
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                with trio.CancelScope(shield=True):
                    await process.wait()

    def _clean_up(self, place: int) -> None:
        """Forget the calls and the uploads in progress of a process that ended."""
        with suppress(OSError):  # without this, metrics show its calls until the restart
            reset_gauges(self._metrics_directory, place)
        try:
            self._blobs.remove_uploads_of(place)
        except StorageError as error:
            _log.warning("uploads of the RPC process that ended still take room", reason=str(error))


def _build_command(config: NodeConfig, config_file: Path | None) -> Sequence[str]:
    command = [sys.executable, "-m", "node.rpc", "--parent-pid", str(os.getpid())]
    if config_file is not None:
        command.extend(["--config", str(config_file)])
    # The RPC process reads all other settings from the file; flags may have changed these.
    for name, value in (
        ("data_dir", config.data_dir),
        ("rpc.host", config.rpc.host),
        ("rpc.port", config.rpc.port),
        ("rpc.processes", config.rpc.processes),
        ("rpc.cors", ",".join(config.rpc.cors)),
        ("rpc.allowed_hosts", ",".join(config.rpc.allowed_hosts)),
        ("logs.format", config.logs.format.value),
        ("logs.level", config.logs.level.value),
    ):
        command.extend(["--set", f"{name}={value}"])
    return command
