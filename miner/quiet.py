"""Standard output of a worker belongs to its protocol alone."""

import os
import sys
from typing import BinaryIO, Final

STDOUT: Final = 1
"""File descriptor that libraries, C++ ones included, print to."""


def claim_stdout() -> BinaryIO:
    """The stream to the parent; from now on everything else that is printed goes to stderr."""
    sys.stdout.flush()
    stream = os.fdopen(os.dup(STDOUT), "wb")
    os.dup2(sys.stderr.fileno(), STDOUT)
    return stream
