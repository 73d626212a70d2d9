"""`python -m tests.conformance`: the hash of every format, compared with what is recorded.

--write  record what there is now
"""

import argparse
import sys

from tests.conformance import lines, registry


def main() -> int:
    """Compare or record; 1 if something differs."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", action="store_true", help="record what there is now")
    arguments = parser.parse_args()
    computed = lines.compute_all()
    if arguments.write:
        registry.write_table(computed)
        return 0
    differences = registry.describe_differences(registry.read_table(), computed)
    print(differences or f"{len(computed)} lines are as recorded")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
