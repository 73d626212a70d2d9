"""`python -m tests.training_simulation`: simulated training, one network for each seed.

--seed K       run seed K alone and print one line an event
--seeds N      run N seeds from --first on, and report
--family NAME  of these, only the seeds of one family
--mutant NAME  the same with one rule removed; 0 if a seed notices
--mutants      every mutant; writes the table of the seeds that notice
"""

import argparse
import sys
import time
from collections import Counter

from tests.training_simulation import mutants


def main() -> int:
    """Run the chosen mode; 1 if a checker found a violation (for a mutant: if none did)."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.training_simulation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, help="replay this seed")
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds (default 200)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--family", help="only seeds of this family")
    parser.add_argument("--all-checkers", action="store_true", help="check known faults, too")
    parser.add_argument("--mutant", choices=sorted(mutants.MUTANTS), help="break one rule")
    parser.add_argument("--mutants", action="store_true", help="break each rule in turn")
    arguments = parser.parse_args()
    if arguments.mutants:
        return mutants.main(arguments.seeds)
    if arguments.mutant:
        mutants.install(arguments.mutant)
    without = frozenset[str]() if arguments.all_checkers else None
    if arguments.seed is not None:
        return replay(arguments.seed, without)
    if arguments.mutant:
        return hunt(arguments.mutant, arguments.first, arguments.seeds)
    return survey(arguments.first, arguments.seeds, without, arguments.family)


def replay(seed: int, without: frozenset[str] | None) -> int:
    from tests.training_simulation.worlds import simulate

    try:
        simulate(seed, print, without)
    except AssertionError as error:
        print(f"VIOLATION {error}")
        return 1
    return 0


def hunt(name: str, first: int, seeds: int) -> int:
    """Find the first seed that notices a mutant."""
    from tests.training_simulation.worlds import draw_world, simulate

    for seed in range(first, first + seeds):
        try:
            simulate(seed)
        except AssertionError as error:
            text = str(error).split(":")[0] or "an assertion"
            print(f"{name} | {seed} | {draw_world(seed)[0]} | {text}", flush=True)
            return 0
    print(f"{name} | none of {seeds} | |", flush=True)
    return 1


def survey(
    first: int, seeds: int, without: frozenset[str] | None, wanted: str | None = None
) -> int:
    """Run many seeds and print totals of their events; if a family is wanted, its seeds alone."""
    from tests.training_simulation.worlds import draw_world, simulate

    failed: list[int] = []
    violations: Counter[str] = Counter()
    total: Counter[str] = Counter()
    families: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    start = time.process_time()
    for seed in range(first, first + seeds):
        family, world = draw_world(seed)
        if wanted not in (None, family):
            continue
        families[family] += 1
        began = time.process_time()
        try:
            cluster = simulate(seed, without=without)
        except AssertionError as error:
            failed.append(seed)
            violations[f"{family}: {str(error).split(':')[0]}"] += 1
            print(f"seed {seed} {family} {world}\n  {error}", flush=True)
        else:
            total += cluster.counts
            total += Counter({f"refused {k}": v for k, v in cluster.chain.errors.items()})
        spent[family] += int((time.process_time() - began) * 1000)
    seconds = time.process_time() - start
    print(" ".join(f"{name} {count}" for name, count in sorted(families.items())))
    print(" ".join(f"{name} {spent[name] // count}ms" for name, count in sorted(families.items())))
    print(" ".join(f"{name} {total[name]}" for name in sorted(total)))
    for name, count in sorted(violations.items()):
        print(f"{count} x {name}")
    print(
        f"{families.total()} seeds from {first}, {len(failed)} failed, {seconds:.1f} CPU s, "
        f"{1000 * seconds / max(1, families.total()):.0f} ms a seed"
    )
    if failed:
        print(f"again: make simulate-training SEED={failed[0]}; all: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
