"""The processes of a development network: started together, and none outlives the one that did.

Each is the program that an operator would start by hand, with its own directory and log.
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
"""A node closes its database within this after SIGTERM; what still runs is killed."""

PR_SET_PDEATHSIG: Final = 1
"""Linux's prctl(2): the signal that a process gets when its parent dies."""

LOG_TAIL_BYTES: Final = 2_000
"""Of a log, to find its last line in."""

ONE_THREAD: Final[Mapping[str, str]] = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""A dozen processes share a few cores: more threads than that only get in each other's way."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process that was started."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def describe_end(self) -> str:
        """Why it ended, as far as its log tells."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        # The frames that Python draws around exception groups say nothing.
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
        """Start `python -m` with `arguments`; what it says goes to the log called `name`.

        Args:
            name: Of the log file and in messages.
            arguments: The module and its arguments.
            output: Takes standard output, if it is not to go to the log.
        """
        log = self._log_directory / f"{name}.log"
        with log.open("ab") as log_file, (output or log).open("ab") as output_file:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output_file,
                stderr=log_file,
                env=_build_environment(),
                # A session of its own: Ctrl-C reaches us alone, and we end the others in order.
                start_new_session=True,
                preexec_fn=self._die_with_parent,
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def stop(self) -> None:
        """End every child, politely, then for certain."""
        for child in self._children:
            _signal_group(child, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for child in self._children:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                continue
        for child in self._children:
            # Also where the leader has ended: what it had started must not stay behind.
            _signal_group(child, signal.SIGKILL)
            child.process.wait()


def _signal_group(child: Child, number: int) -> None:
    with suppress(ProcessLookupError):  # all of it has ended
        os.killpg(child.process.pid, number)


def _build_environment() -> dict[str, str]:
    # POT_… settings are for the operator's own node, not for these.
    own = {name: value for name, value in os.environ.items() if not name.startswith("POT_")}
    return {**own, **ONE_THREAD, "PYTHONUNBUFFERED": "1"}


def _prepare_death_signal() -> Callable[[], None] | None:
    """What a child calls before exec so that it does not outlive us; None if there is no such."""
    if sys.platform != "linux":
        return None
    # Loaded here: after the fork nothing may be loaded or allocated that another thread holds.
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def die_with_parent() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    return die_with_parent


def require_free_ports(ports: Mapping[int, str]) -> None:
    """Check that nobody listens on loopback on any of `ports`, which says what each is for.

    Raises:
        OperatorError: Somebody does.
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
