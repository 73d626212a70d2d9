"""What the benchmarks share: their options, quiet logs, and the JSON that each writes."""

import argparse
import json
import logging
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import structlog

DEFAULT_FOLDER = Path("build/bench")


def build_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has; `description` is its module's docstring."""
    parser = argparse.ArgumentParser(
        prog=f"python -m bench.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=DEFAULT_FOLDER / f"{name}.json",
        help="where the results go (default %(default)s)",
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="tiny settings and no limits: shows that the program runs, measures nothing",
    )
    return parser


def silence_logs() -> None:
    """Keep log lines out of the table: warnings of nodes are printed, and nothing of libp2p.

    A benchmark ends by killing its processes, and libp2p logs an error for each peer that it loses.
    """
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))


def write_report(arguments: argparse.Namespace, results: Mapping[str, object]) -> None:
    """Write the results with what they depend on: the machine, and whether it was a smoke run."""
    machine = {
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
    }
    report = {"is_smoke": arguments.smoke, "machine": machine, **results}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {arguments.json}")
