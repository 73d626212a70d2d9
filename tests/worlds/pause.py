"""Stops processes for a while (SIGSTOP), and never for longer than this process lives."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

RESUME = """
import os, signal, sys
sys.stdin.read()
os.kill(int(sys.argv[1]), signal.SIGCONT)
"""
"""A program that waits for the end of its input, and lets processes go on."""


@contextmanager
def paused(target: int) -> Iterator[None]:
    """Stop a process, or the group of a negative id as in kill(2), for the `with` block.

    A stopped process does not even notice that its parent has died. So a program of its own lets it
    go on when the block is left or this process is killed, because its input ends then.
    """
    resumer = subprocess.Popen(
        [sys.executable, "-c", RESUME, str(target)],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # the target may have ended
        start_new_session=True,
    )
    try:
        with suppress(ProcessLookupError):
            os.kill(target, signal.SIGSTOP)
        yield
    finally:
        resumer.communicate()
