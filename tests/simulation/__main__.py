"""`python -m tests.simulation --seeds N --seed K`: N seeds from K on, each a simulated network."""

import argparse
import sys
import time

from tests.simulation.cluster import draw_faults, simulate


def main() -> int:
    """Run the seeds; 1 if any violates a checker."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--trace", action="store_true", help="print one line an event")
    arguments = parser.parse_args()
    failed: list[int] = []
    start = time.perf_counter()
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        try:
            simulate(seed, print if arguments.trace else lambda line: None)
        except AssertionError as error:
            failed.append(seed)
            n, faults = draw_faults(seed)
            print(f"seed {seed} n {n} {faults}\n  {error}")
    seconds = time.perf_counter() - start
    print(f"{arguments.seeds} seeds, {len(failed)} failed, {seconds:.1f} s")
    if failed:
        print(f"again: python -m tests.simulation --seeds 1 --seed {failed[0]} --trace")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
