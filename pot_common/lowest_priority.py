"""Runs a module at the lowest priority: `python -m pot_common.lowest_priority MODULE [OPTION]...`.

The priority falls before the module is imported, because importing torch alone takes seconds of
processor time. So this module imports nothing of this project.
"""

import os
import runpy
import sys
from typing import Final

LOWEST_NICENESS: Final = 19
"""The niceness of a background process where the system has no idle class."""


def set_lowest_priority() -> None:
    """Let this process run only when no other process wants the processor."""
    os.nice(LOWEST_NICENESS)
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def main() -> None:
    """Become the program that the arguments name."""
    set_lowest_priority()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
