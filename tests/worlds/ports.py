"""Free ports for the processes of a test."""

import os
from typing import Final

from node.devnet.processes import require_free_ports
from pot_common.errors import OperatorError

FIRST_PORT: Final = 24_000
END_PORT: Final = 32_000
"""Below the ports that Linux gives to connections, which take any of them at any moment."""

STEP: Final = 200
"""Between two ports that are tried: a small network takes as many."""


def find_base_port(offsets: range = range(200)) -> int:
    """A port such that the ports at these offsets above it are free now.

    Two processes of tests begin to look at different ports, so that they seldom meet.
    """
    starts = range(FIRST_PORT, END_PORT - offsets.stop, STEP)
    first = os.getpid() % len(starts)
    for base in (*starts[first:], *starts[:first]):
        try:
            require_free_ports({base + offset: "a test" for offset in offsets})
        except OperatorError:
            continue
        return base
    raise AssertionError("no free ports")
