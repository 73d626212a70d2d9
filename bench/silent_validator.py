"""What one silent validator of five costs a training round (docs/spec/training.md, section 10.2).

    python -m bench.silent_validator [--json FILE] [--base-port P] [--smoke]

Each of two tasks is trained twice on the network of `pot devnet` with five validators and three
miners: once with all validators healthy, and once with one of them stopped (SIGSTOP) after the
first round. A stopped validator keeps its connections open, but answers no message. One task is the
digits example, whose rounds take a second or two. The other trains a larger network on the same
digits, so that a round takes more than ten seconds on two cores.
The median round with a silent validator may take twice as long as without one, and in the larger
task 1.2 times as long.
"""

import itertools
import statistics
import tempfile
import time
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

from bench.report import build_parser, write_report
from node.client.rpc_client import RpcClient, get_integer
from node.devnet.devnet import Devnet, DevnetPlan, prepare
from node.devnet.processes import ProcessGroup
from pot_common.errors import OperatorError
from tests.worlds.pause import paused

VALIDATORS, MINERS = 5, 3
DIGITS = Path(__file__).parents[1] / "examples" / "digits.toml"
LARGER = {
    "channels = [16, 32]": "channels = [256, 512]",
    "samples_per_unit = 128": "samples_per_unit = 384",
    "max_units = 8": "max_units = 3",
    "_seconds = 20": "_seconds = 120",
    "evaluate_every = 1": "evaluate_every = 100",
}
"""The lines of the digits' task file that the larger task replaces."""
STALL_SECONDS = 240.0


@dataclass(frozen=True, slots=True)
class Case:
    """A task, and how much longer its median round may take with a silent validator."""

    name: str
    changes: dict[str, str]
    rounds: int
    largest_ratio: float
    least_seconds: float
    """The least median round with five healthy validators for which the limit is meant."""


CASES = (
    Case("digits", {}, 16, 2.0, 0.0),
    Case("larger network", LARGER, 7, 1.2, 10.0),
)


def write_task(case: Case, directory: Path) -> Path:
    """The task's file."""
    text = DIGITS.read_text()
    for old, new in case.changes.items():
        assert old in text, f"the digits example has no {old!r} any more"
        text = text.replace(old, new)
    file = directory / "task.toml"
    file.write_text(text)
    return file


def wait_for_round(client: RpcClient, task: int, count: int) -> int:
    """Wait until so many rounds are settled; returns the time of the moment in ms."""
    deadline = time.monotonic() + STALL_SECONDS
    while True:
        found = client.call_object("pot_getTask", task) or {}
        if get_integer(found, "roundsSettled") >= count:
            return time.monotonic_ns() // 10**6
        if time.monotonic() > deadline:
            raise OperatorError(f"round {count} did not settle in {STALL_SECONDS:.0f} s")
        time.sleep(0.02)


def measure_rounds(case: Case, rounds: int, base_port: int, *, is_one_silent: bool) -> list[float]:
    """The seconds that each round took after the first two."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        plan = DevnetPlan(
            validator_count=VALIDATORS,
            miner_count=MINERS,
            task_file=write_task(case, directory),
            round_count=rounds,
            data_dir=directory / "network",
            base_port=base_port,
        )
        files = prepare(plan)
        with (
            ProcessGroup(files.log_directory) as processes,
            closing(Devnet(files, processes)) as network,
        ):
            network.start_validators()
            network.start_miners()
            task = network.submit()
            client = network.clients[0]
            wait_for_round(client, task, 1)
            silent = network.find_process(VALIDATORS - 1)
            with paused(silent) if is_one_silent else nullcontext():
                times = [wait_for_round(client, task, count) for count in range(2, rounds + 1)]
    return [(later - earlier) / 1000 for earlier, later in itertools.pairwise(times)]


def main() -> int:
    """Measure, print, and write JSON; the status is 1 if a limit is missed."""
    parser = build_parser("silent_validator", __doc__)
    parser.add_argument("--base-port", type=int, default=28_800)
    arguments = parser.parse_args()
    cases = CASES[:1] if arguments.smoke else CASES
    report, is_missed = {}, False
    print(f"{'task':16} {'validators':12} {'rounds':>6} {'p50 s':>7} {'worst s':>8} {'ratio':>6}")
    for case in cases:
        rounds = 4 if arguments.smoke else case.rounds
        seconds = {}
        for silent in (False, True):
            taken = measure_rounds(case, rounds, arguments.base_port, is_one_silent=silent)
            seconds[silent] = taken
            p50 = statistics.median(taken)
            ratio = p50 / statistics.median(seconds[False])
            label = "one silent" if silent else "five"
            print(
                f"{case.name:16} {label:12} {len(taken):6} {p50:7.2f} {max(taken):8.2f}"
                f" {ratio:6.2f}" + (f"  of {case.largest_ratio}" if silent else "")
            )
        if statistics.median(seconds[False]) < case.least_seconds and not arguments.smoke:
            print(
                f"the rounds are shorter than {case.least_seconds:g} s: the limit means longer ones"
            )
        is_missed = is_missed or ratio > case.largest_ratio
        report[case.name] = {"five": seconds[False], "one silent": seconds[True], "ratio": ratio}
    write_report(arguments, report)
    return 1 if is_missed and not arguments.smoke else 0


if __name__ == "__main__":
    raise SystemExit(main())
