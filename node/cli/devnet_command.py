"""`pot devnet`: runs a whole network on this machine, to a trained model and paid miners."""

import json
import signal
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from chain.json_types import JsonObject
from node.cli.devnet_view import DevnetView, Snapshot, print_summary
from node.cli.output import print_line
from node.client.rpc_client import get_integer, get_text
from node.client.task_submission import download_model, find_model
from node.devnet.devnet import Devnet, DevnetPlan, evaluate_model, prepare
from node.devnet.processes import ProcessGroup
from node.devnet.summary import build_summary
from pot_common.errors import OperatorError
from pot_common.node_url import DEFAULT_BASE_PORT

EXAMPLE: Final = "Example:  pot devnet --miners 5 --rounds 10 --exit --summary out.json"

DEFAULT_TASK: Final = Path(__file__).parents[2] / "examples" / "digits.toml"
"""The example task, which learns handwritten digits."""

POLL_SECONDS: Final = 0.5
"""Interval of asking the network for its progress; a round takes seconds."""

STALL_SECONDS: Final = 180.0
"""A task that settles no round for this long has failed, because its longest phases are over."""

CLAIM_SECONDS: Final = 60.0
"""Time limit for the claims of all miners, one transaction each."""


def devnet(
    validators: Annotated[int, typer.Option(help="Validator processes.")] = 4,
    miners: Annotated[int, typer.Option(help="Miner processes.")] = 3,
    task: Annotated[Path, typer.Option(help="File of the task to train.")] = DEFAULT_TASK,
    rounds: Annotated[
        int | None, typer.Option(help="Number of rounds, in place of the task's.")
    ] = None,
    data_dir: Annotated[
        Path, typer.Option(help="Directory of the network; replaces the files of an earlier one.")
    ] = Path("devnet"),
    base_port: Annotated[
        int, typer.Option(help="RPC of the first validator; the others follow, peers 100 above.")
    ] = DEFAULT_BASE_PORT,
    exits: Annotated[
        bool, typer.Option("--exit", help="End after the claims; status 0 if all went well.")
    ] = False,
    summary: Annotated[
        Path | None, typer.Option(help="Write a summary as JSON to this file after the claims.")
    ] = None,
) -> None:
    """Run a whole network on this machine.

    It starts validators, miners and a submitter, trains a task, and lets the miners claim their
    rewards. Then it runs until Ctrl-C, so that you can connect a wallet. All processes end with it.
    """
    # When this process is terminated, the `with` block below still ends all others.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    plan = DevnetPlan(validators, miners, task, rounds, data_dir, base_port)
    console = Console()
    files = prepare(plan)
    with (
        ProcessGroup(files.log_directory) as processes,
        closing(Devnet(files, processes)) as network,
    ):
        with DevnetView(console) as view:
            report = _train(network, view, started)
        if summary is not None:
            _write_json(summary, report)
        print_summary(report)
        _require_success(network, report)
        if not exits:
            print_line(f"running; logs in {files.log_directory}; stop with Ctrl-C")
            _wait_for_interrupt()


def _train(network: Devnet, view: DevnetView, started: float) -> JsonObject:
    """Start the network, follow the task to its end, download the model; returns the summary."""
    files = network.files
    view.tell(f"starting {len(files.validators)} validators (logs in {files.log_directory})")
    network.start_validators()
    view.tell(f"starting {len(files.miners)} miners and a submitter")
    network.start_miners()
    task = network.submit()
    _follow(network, task, view)
    view.tell("the task is closed; waiting for the miners to claim")
    _await_claims(network, task)
    client = network.get_client()
    files.model_file.write_bytes(download_model(client, find_model(client, task)))
    view.tell("evaluating the initial weights")
    initial_accuracy = evaluate_model(files, files.spec.initial_weights, client)
    return build_summary(
        network.clients,
        client,
        task,
        miners=[miner.address for miner in files.miners],
        initial_accuracy=initial_accuracy,
        model_file=files.model_file,
        wall_seconds=time.monotonic() - started,
    )


def _follow(network: Devnet, task: int, view: DevnetView) -> None:
    """Show the task until it closes.

    Raises:
        OperatorError: The task has stopped making progress.
    """
    rounds: tuple[JsonObject, ...] = ()
    last_progress = time.monotonic()
    while True:
        try:
            client = network.get_client()
            found = client.call_object("pot_getTask", task) or {}
            settled = get_integer(found, "roundsSettled")
            while len(rounds) < settled:
                rounds += (client.call_object("pot_getRound", task, len(rounds)) or {},)
                last_progress = time.monotonic()
            consensus = client.call_object("pot_consensusState") or {}
            view.show(Snapshot(consensus, found, rounds, network.list_ended()))
            if get_text(found, "status") == "closed":
                return
        except OperatorError:
            # This validator was stopped meanwhile; the next time another one is asked.
            if time.monotonic() - last_progress > STALL_SECONDS:
                raise
        network.require_workers()
        if time.monotonic() - last_progress > STALL_SECONDS:
            raise OperatorError(
                f"no round settled for {STALL_SECONDS:.0f} s; see the logs in "
                f"{network.files.log_directory}"
            )
        time.sleep(POLL_SECONDS)


def _await_claims(network: Devnet, task: int) -> None:
    """Wait until every miner has claimed all of its rewards.

    Raises:
        OperatorError: A miner does not claim in time.
    """
    deadline = time.monotonic() + CLAIM_SECONDS
    for index, miner in enumerate(network.files.miners):
        while True:
            reward = network.get_client().reward_proof(task, miner.address)
            if reward is not None and reward.claimable == 0:
                break
            if time.monotonic() > deadline:
                raise OperatorError(
                    f"miner {index} has not claimed; see {network.files.log_directory}"
                )
            time.sleep(POLL_SECONDS)


def _require_success(network: Devnet, report: JsonObject) -> None:

    settled = get_integer(report, "task", "rounds_settled")
    planned = get_integer(report, "task", "rounds_planned")
    if settled < planned:
        raise OperatorError(
            f"the task closed after {settled} of {planned} rounds; see the logs in "
            f"{network.files.log_directory}"
        )


def _write_json(path: Path, value: JsonObject) -> None:

    path.write_text(json.dumps(value, indent=2) + "\n")


def _wait_for_interrupt() -> None:

    try:
        while True:
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        print_line("stopping")
