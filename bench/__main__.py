"""`python -m bench`: every benchmark, one after another.

Each runs in a process of its own with `--json build/bench/NAME.json`. One that fails or misses its
limit does not stop the rest; the exit status is then 1.
"""

import argparse
import subprocess
import sys
import time

PROGRAMS = (
    "execution_floor",
    "consensus_network",
    "network",
    "greedy_peers",
    "idle_peers",
    "consensus_loopback",
    "dead_validator",
    "silent_validator",
    "new_tasks",
    "aggregation_memory",
    "sync",
)
"""In the order in which they run; README.md says what each measures."""


def main() -> int:
    """Run them, and list at the end how each of them went."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--smoke", action="store_true", help="tiny settings, to see that all run")
    arguments = parser.parse_args()
    options = ["--smoke"] if arguments.smoke else []
    failed = False
    lines = []
    for name in PROGRAMS:
        print(f"\n== {name}", flush=True)
        start = time.monotonic()
        status = subprocess.call([sys.executable, "-m", f"bench.{name}", *options])
        failed = failed or status != 0
        outcome = "ok" if status == 0 else f"FAILED, status {status}"
        lines.append(f"{name:20} {time.monotonic() - start:7.0f} s  {outcome}")
    print("\n" + "\n".join(lines))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
