"""Compare many random blocks with the second implementation: `make judge BLOCKS=10000`.

    python -m tests.judge [--blocks N] [--first SEED] [--seed SEED]

The table says how often each opcode and precompile had each outcome. A difference is printed with
the seed that shows it, and ends the run with status 1.
"""

import argparse
import sys
import time
from collections import Counter

from tests.judge.compare import BLOCKS_A_CHAIN, compare
from tests.judge.coverage import format_table, list_required

SEEDS_AT_ONCE = 50
"""Seeds between two lines of progress; their answers are held in memory."""


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
    table: Counter[tuple[str, str]] = Counter()
    blocks = transactions = differences = 0
    for chunk in (seeds[at : at + SEEDS_AT_ONCE] for at in range(0, len(seeds), SEEDS_AT_ONCE)):
        comparison = compare(chunk)
        table.update(comparison.table)
        blocks += sum("block" in step.request for step in comparison.steps)
        transactions += sum(reason is None for step in comparison.steps for reason in step.reasons)
        differences += len(comparison.differences)
        progress = f"{blocks} blocks, {transactions} transactions, {differences} differences"
        print("\n".join([*comparison.differences, progress]), flush=True)
    print(format_table(table))
    missing = sorted(list_required() - table.keys())
    print(f"outcomes that were not reached: {missing or 'none'}")
    print(f"{time.monotonic() - start:.0f} s")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
