"""Keeps a worker's standard output free for its protocol."""

import os
import sys
from typing import BinaryIO, Final

STDOUT: Final = 1
"""The file descriptor of standard output, to which libraries print, C++ ones included."""


def claim_stdout() -> BinaryIO:
    """Return a stream to the parent process, and send all later prints to standard error."""
    sys.stdout.flush()
    stream = os.fdopen(os.dup(STDOUT), "wb")
    os.dup2(sys.stderr.fileno(), STDOUT)
    return stream
