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
from pot_common.errors import OperatorError

RESTART_SECONDS: Final = 1.0
"""The pause before an RPC process that ended is started again."""

CANNOT_START: Final = 1
"""The exit status of an RPC process that cannot start and has written the reason to its log."""

_log = structlog.get_logger("node.rpc")


class RpcProcesses:
    """The RPC processes of one node. The node keeps running if one of them crashes.

    Args:
        config: The node's settings, including those from flags.
        config_file: The file that the settings were read from; None if there is none.
    """

    def __init__(self, config: NodeConfig, config_file: Path | None) -> None:
        self._count = config.rpc.processes
        self._metrics_directory = config.rpc_metrics_dir
        self._command = _build_command(config, config_file)

    async def run(self) -> None:
        """Keep `rpc.processes` processes running until this is cancelled.

        Raises:
            OperatorError: A process cannot start.
        """
        async with trio.open_nursery() as nursery:
            for place in range(self._count):
                nursery.start_soon(self._keep_one, place)

    async def _keep_one(self, place: int) -> None:
        command = [*self._command, "--place", str(place)]
        environment = {**os.environ, DIRECTORY_VARIABLE: str(self._metrics_directory)}
        while True:
            process = await trio.lowlevel.open_process(
                command, stdin=subprocess.DEVNULL, env=environment
            )
            try:
                status = await process.wait()
            finally:
                if process.returncode is None:
                    process.terminate()
                    with trio.CancelScope(shield=True):
                        await process.wait()
            if status == CANNOT_START:
                raise OperatorError(
                    "the RPC process cannot start: see its error above, or set rpc.processes=0 to "
                    "run without it"
                )
            _log.error("RPC process ended", status=status)
            with suppress(OSError):  # without this, metrics show its calls until the restart
                await trio.to_thread.run_sync(reset_gauges, self._metrics_directory, place)
            await trio.sleep(RESTART_SECONDS)


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
