"""Fuzzing for minutes or hours, with the memory printed: `make fuzz MINUTES=60`.

    python -m tests.fuzz [--minutes M] [--seed N] [--only decoders|host] [--json FILE]

Two processes run side by side: one gives mutated inputs to every decoder (decoders.py), the other
is a real host on loopback with hostile peers (host.py). A finding is printed with its input and
ends the run with status 1; so does memory that keeps growing.
"""

import argparse
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import structlog

from tests.fuzz.decoders import build_targets
from tests.fuzz.host import fuzz_host
from tests.fuzz.memory import MemoryWatch
from tests.fuzz.mutate import mutate

SLOW_SECONDS = 1.0
"""The most processor time of an input, which has at most 1 MiB; a longer one would delay votes."""


def fuzz_decoders(seconds: float, seed: int) -> dict[str, object]:
    """Give mutated inputs to every decoder in turn, until the time is up."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    counts: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    slowest = 0.0
    source = random.Random(seed)
    with tempfile.TemporaryDirectory() as directory:
        targets = build_targets(Path(directory))
        corpus = {target.name: list(target.seeds) for target in targets}
        watch = MemoryWatch("decoders", seconds)
        while not watch.is_over():
            for target in targets:
                for _ in range(20):
                    data = mutate(source, corpus[target.name])
                    start = time.process_time()
                    try:
                        target.run(data)
                    except target.refusals:
                        pass
                    except BaseException:
                        report_finding(target.name, data)
                        raise
                    else:
                        accepted[target.name] += 1
                        # An accepted input is a good seed for the next mutation.
                        if len(data) < 4_096 and len(corpus[target.name]) < 200:
                            corpus[target.name].append(data)
                    elapsed = time.process_time() - start
                    slowest = max(slowest, elapsed)
                    if elapsed > SLOW_SECONDS:
                        report_finding(target.name, data)
                        raise AssertionError(f"{target.name} took {elapsed:.1f} s")
                    counts[target.name] += 1
            watch.tick(f"{counts.total()} inputs")
    result = watch.finish()
    return {
        **result,
        "inputs": counts.total(),
        "accepted": accepted.total(),
        "targets": len(counts),
        "slowestSeconds": round(slowest, 3),
    }


def report_finding(name: str, data: bytes) -> None:
    path = Path(tempfile.gettempdir()) / f"fuzz-{name.replace(' ', '-')}-{os.getpid()}.bin"
    path.write_bytes(data)
    print(f"FINDING in {name}: {len(data)} bytes, kept in {path}: {data[:100].hex()}", flush=True)
    traceback.print_exc()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    parser.add_argument("--only", choices=("decoders", "host"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    seconds = 60 * arguments.minutes
    print(f"seed {arguments.seed}", flush=True)
    if arguments.only is not None:
        if arguments.only == "decoders":
            result = fuzz_decoders(seconds, arguments.seed)
        else:
            result = fuzz_host(seconds, arguments.seed)
        print(json.dumps(result), flush=True)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(result))
        return 0
    command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz", "--seed", str(arguments.seed)]
    results: dict[str, object] = {"seed": arguments.seed}
    with tempfile.TemporaryDirectory() as directory:
        files = {only: Path(directory) / only for only in ("decoders", "host")}
        programs = {
            only: subprocess.Popen(
                [*command, "--minutes", f"{arguments.minutes}", "--only", only, "--json", str(file)]
            )
            for only, file in files.items()
        }
        status = 0
        for only, program in programs.items():
            status = max(status, abs(program.wait()))
            is_clean = program.returncode == 0
            results[only] = json.loads(files[only].read_text()) if is_clean else "failed"
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2))
    print("failed" if status else "clean")
    return min(status, 1)


if __name__ == "__main__":
    sys.exit(main())
