"""`python -m tests.chaos`: real nodes, clients, faults and set changes, all drawn from a seed.

The report is printed, or written to a file as JSON. The status is 1 if an acknowledged operation
was lost, nodes forked or disagree on a block's validator set, the answers to clients are not
linearizable, a validator signed where it must not, or the network did not recover in the end.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

import trio

from tests.chaos.manifest import draw_manifest
from tests.chaos.network import LinkChoice
from tests.chaos.run import Run


def main() -> int:
    """Run a manifest; 1 if a rule was violated."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, help="of the manifest (default: any)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=120.0,
        help="of the plan (default: 120); a busy machine takes longer",
    )
    parser.add_argument("--json", type=Path, help="where the report goes")
    parser.add_argument("--base-port", type=int, default=27_000, help="the first of 90 ports")
    parser.add_argument(
        "--links",
        type=LinkChoice,
        choices=list(LinkChoice),
        default=LinkChoice.AUTO,
        help="between the nodes (default: namespaces where they are allowed, else proxies)",
    )
    parser.add_argument("--show", action="store_true", help="print the manifest and do nothing")
    arguments = parser.parse_args()
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    manifest = draw_manifest(seed, arguments.seconds)
    if arguments.show:
        print(json.dumps(manifest.to_json(), indent=2))
        return 0
    others = "a full node" if manifest.spare is None else "a full node, a spare that joins"
    print(f"seed {seed}: {manifest.validator_count} validators, {others}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))

    def say(line: str) -> None:
        print(line, flush=True)

    run = Run(manifest, directory, arguments.base_port, say, arguments.links)
    report = trio.run(run.execute)
    text = json.dumps(report, indent=2)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n")
    print(text)
    if report["violations"]:
        print(f"again: make chaos ARGS='--seed {seed} --seconds {arguments.seconds:g}'; "
              f"logs: {directory}")  # fmt: skip
        return 1
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
