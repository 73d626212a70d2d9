"""Compare many random blocks with the second implementation: `make judge BLOCKS=10000`.

    python -m tests.judge [--blocks N] [--first SEED] [--seed SEED]

The table says how often each opcode and precompile had each outcome. A difference is printed with
the seed that shows it, and ends the run with status 1.
"""

import argparse
import sys
import time

from tests.judge.compare import BLOCKS_A_CHAIN, compare
from tests.judge.coverage import format_table, list_required


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.judge",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--blocks", type=int, default=10_000, help="blocks in all (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (%(default)s)")
    parser.add_argument("--seed", type=int, help="only this one")
    arguments = parser.parse_args()
    count = -(-arguments.blocks // BLOCKS_A_CHAIN)
    seeds = range(arguments.first, arguments.first + count)
    if arguments.seed is not None:
        seeds = range(arguments.seed, arguments.seed + 1)
    start = time.monotonic()
    comparison = compare(seeds)
    print(format_table(comparison.table))
    missing = sorted(list_required() - comparison.table.keys())
    print(f"outcomes that were not reached: {missing or 'none'}")
    blocks = sum("block" in step.request for step in comparison.steps)
    transactions = sum(reason is None for step in comparison.steps for reason in step.reasons)
    seconds = time.monotonic() - start
    print(f"{blocks} blocks, {transactions} transactions, {seconds:.0f} s")
    differences = comparison.differences
    print("\n".join([*differences, f"{len(differences)} differences"]))
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
