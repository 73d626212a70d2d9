"""Starts the processes of a development network, and stops all of them when this process ends.

Each is a program that an operator could start by hand, with its own directory and log.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from pot_common.errors import OperatorError

STOP_SECONDS: Final = 10.0
"""Time that a process has to end after SIGTERM, before it is killed."""

PR_SET_PDEATHSIG: Final = 1
"""Linux's prctl(2): the signal that a process gets when its parent dies."""

LOG_TAIL_BYTES: Final = 2_000
"""Bytes at the end of a log in which its last line is looked for."""

ONE_THREAD: Final[Mapping[str, str]] = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""Environment for one computing thread a process: a dozen processes share a few cores."""


@dataclass(frozen=True, slots=True)
class Child:
    """A started process."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def describe_end(self) -> str:
        """The reason why it ended, from the last line of its log."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        # Skip the frames that Python draws around exception groups.
        said = [line.strip(" |+-") for line in lines]
        last = next((line for line in reversed(said) if line), "it said nothing")
        return f"{self.name} ended with status {self.process.returncode}: {last} (see {self.log})"


class ProcessGroup:
    """The children of this process; leaving the `with` block stops them all."""

    def __init__(self, log_directory: Path) -> None:
        log_directory.mkdir(parents=True, exist_ok=True)
        self._log_directory = log_directory
        self._children: list[Child] = []
        self._die_with_parent = _prepare_death_signal()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, name: str, arguments: Sequence[str], *, output: Path | None = None) -> Child:
        """Start `python -m` with `arguments`; its output goes to the log called `name`.

        Args:
            name: The name of the process in messages and of its log.
            arguments: The module and its arguments.
            output: A file for standard output; by default it goes to the log.
        """
        log = self._log_directory / f"{name}.log"
        with log.open("ab") as log_file, (output or log).open("ab") as output_file:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output_file,
                stderr=log_file,
                env=_build_environment(),
                # In a process group of its own, so that Ctrl-C reaches only this process, which
                # ends the others. Not in a session of its own: Linux (sched_autogroup) divides the
                # processor among sessions before it looks at priorities, and the dry runs of one
                # node, which have the lowest, would take it from the consensus of another.
                process_group=0,
                preexec_fn=self._die_with_parent,
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def stop(self) -> None:
        """Terminate every child, and kill those that do not end in time."""
        try:
            for child in self._children:
                _signal_group(child, signal.SIGTERM)
            deadline = time.monotonic() + STOP_SECONDS
            for child in self._children:
                try:
                    child.process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    continue
        finally:
            # Also if a second Ctrl-C ends the wait, or if the child itself has ended, since
            # processes that it started may remain.
            for child in self._children:
                _signal_group(child, signal.SIGKILL)
            for child in self._children:
                child.process.wait()


def _signal_group(child: Child, number: int) -> None:
    with suppress(ProcessLookupError):  # the whole process group has ended
        os.killpg(child.process.pid, number)


def _build_environment() -> dict[str, str]:
    # Settings in POT_… variables are meant for the operator's own node, not for these.
    own = {name: value for name, value in os.environ.items() if not name.startswith("POT_")}
    return {**own, **ONE_THREAD, "PYTHONUNBUFFERED": "1"}


def _prepare_death_signal() -> Callable[[], None] | None:
    """A function that makes a child die with this process; None where the system has no such call.

    The child calls it between fork and exec.
    """
    if sys.platform != "linux":
        return None
    # Loaded before the fork: after it, loading could wait for a lock that another thread held.
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def die_with_parent() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    return die_with_parent


def require_free_ports(ports: Mapping[int, str]) -> None:
    """Check that the `ports` are free on loopback; the values say what each port is for.

    Raises:
        OperatorError: A port is in use.
    """
    for port, purpose in sorted(ports.items()):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise OperatorError(
                    f"port {port} ({purpose}) is in use ({error.strerror}); stop what listens "
                    "there, or give another --base-port"
                ) from error
