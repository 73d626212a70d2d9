"""`pot task`: submits a training task, shows its progress, downloads and verifies the model."""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import typer

from chain.amounts import format_amount
from chain.contracts.addresses import TRAINING_TOKEN
from chain.contracts.task_registry import (
    get_resources,
)
from chain.crypto import get_address
from chain.hexadecimal import to_hex
from chain.json_types import Json, JsonObject
from chain.primitives import TaskId
from chain.training.task_spec_codec import compute_spec_hash
from node.cli import task_money_command, task_round
from node.cli.account import GasPriceOption, KeyOption, PasswordOption, unlock_account
from node.cli.output import (
    JsonOption,
    RpcOption,
    TaskArgument,
    format_fields,
    parse_amount,
    print_done,
    print_fields,
    print_json,
    print_line,
    print_note,
    print_table,
    print_warning,
    read_round,
)
from node.cli.progress import progress_bar
from node.cli.readiness import (
    describe_readiness,
    describe_refusal,
    fetch_readiness,
    is_new_task,
)
from node.cli.task_fee import (
    describe_early_end,
    describe_lease,
    describe_money,
    describe_obstacles,
    describe_offer,
    encode_offer,
    find_shortages,
    name_token,
)
from node.cli.task_money_command import (
    AttemptsOption,
    LifetimeOption,
    MaxFeeOption,
    get_task,
    read_wishes,
)
from node.cli.task_round import (
    count_costs,
    count_planned_rounds,
    describe_finable,
    describe_round,
    name_unit,
)
from node.client.rpc_client import RpcClient, get_integer, get_text, get_value
from node.client.task_bundle import TaskBundle
from node.client.task_submission import (
    Offer,
    check_balance,
    check_token,
    compute_full_budget,
    compute_round_budget,
    download_model,
    fetch_parameters,
    find_model,
    find_open_namesake,
    make_offer,
    plan_purchase,
    submit_task,
    wait_for_task,
)
from pot_common.errors import OperatorError
from pot_common.node_url import DEFAULT_RPC_URL, RPC_VARIABLE
from pot_common.terminal import wrap_line

WATCH_SECONDS: Final = 0.5
"""Interval of asking for a task's progress; a round takes seconds."""

app = typer.Typer(no_args_is_help=True)

RpcListOption = Annotated[
    list[str] | None,
    typer.Option(
        "--rpc", metavar="URL", help="A node; repeat to ask several.", envvar=RPC_VARIABLE
    ),
]
"""The option for the URLs of nodes; the first one answers what all nodes know."""


@app.command(epilog="Example:  pot task submit examples/digits.toml --key alice")
def submit(
    file: Annotated[Path, typer.Argument(help="A task file; see examples/digits.toml.")],
    key: KeyOption,
    password_file: PasswordOption = None,
    gas_price: GasPriceOption = 0,
    budget: Annotated[
        str | None,
        typer.Option(
            help="What to put in escrow, in whole tokens; by default enough for all rounds."
        ),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Number of rounds, in place of the file's.")
    ] = None,
    rpc: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL", help="A node to upload to; repeat for several.", envvar=RPC_VARIABLE
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run/--no-dry-run",
            help="Whether to run the task once here, as validators do, before anything is paid.",
        ),
    ] = True,
    lifetime: LifetimeOption = None,
    attempts: AttemptsOption = None,
    max_fee: MaxFeeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check and submit a task, and pay for it.

    Its budget is escrowed, and the unspent part refunded after the task. The fee is shown before it
    is paid (`pot task price`). The specification is sent in a transaction; weights and data are
    uploaded to nodes. All of them are computed from the task file.
    """
    # Imported here, like TaskReplay below: numpy takes 0.15 s, which would delay other commands.
    from node.client.task_checks import check_task
    from node.client.task_file import load_task_file

    wishes = read_wishes(lifetime, attempts, max_fee)
    bundle = load_task_file(file, TRAINING_TOKEN, rounds)
    token = name_token(to_hex(bundle.spec.reward.token))
    amount = None if budget is None else parse_amount(budget, "--budget")
    least = compute_round_budget(bundle.spec)
    if amount is not None and amount < least:
        raise OperatorError(
            f"--budget {budget} pays for no round: one costs up to {format_amount(least)} {token}"
        )
    clients = [RpcClient(url) for url in rpc or [DEFAULT_RPC_URL]]
    blob_bytes_per_second = fetch_parameters(clients[0]).blob_bytes_per_second
    check_task(bundle, blob_bytes_per_second)
    planned = compute_full_budget(bundle.spec) if amount is None else amount
    # All that can be refused without a dry run, which takes seconds.
    check_token(clients[0], bundle.spec.reward.token)
    plan_purchase(clients[0], bundle, wishes)
    account = unlock_account(clients[0], key, password_file, gas_price)
    check_balance(clients[0], account.address, bundle.spec.reward.token, planned)
    bundle = _declare(bundle, blob_bytes_per_second, dry_run=dry_run)
    offer = make_offer(clients[0], bundle, wishes)
    if not as_json:
        for line in format_fields(describe_offer(bundle.spec, offer, planned)):
            print_note(line)
    _warn(bundle, offer, planned)
    name = bundle.spec.name
    namesake = find_open_namesake(clients[0], get_address(account.private_key), name)
    if namesake is not None:
        print_warning(f"task {namesake} of this account is open, too, and is named {name}")
    submission = submit_task(clients[0], account.private_key, bundle, offer, amount)
    _upload(clients, submission.task_id, bundle, file, rounds)
    if as_json:
        print_json(
            {
                "id": submission.task_id,
                "specHash": to_hex(submission.spec_hash),
                "budget": str(submission.budget),
                **encode_offer(bundle.spec, offer),
                "transactionHash": submission.transaction_hash,
            }
        )
        return
    print_done(f"task {submission.task_id} submitted", submission.transaction_hash)
    escrowed = f"{format_amount(submission.budget)} {token}"
    print_line(f"escrowed {escrowed}; what is not spent can be taken back")
    print_line(f"next: pot task watch {submission.task_id}")


@app.command(epilog="Example:  pot task price examples/digits.toml --lifetime 2d")
def price(
    file: Annotated[Path, typer.Argument(help="A task file; see examples/digits.toml.")],
    rounds: Annotated[
        int | None, typer.Option(help="Number of rounds, in place of the file's.")
    ] = None,
    lifetime: LifetimeOption = None,
    attempts: AttemptsOption = None,
    rpc: RpcOption = DEFAULT_RPC_URL,
    as_json: JsonOption = False,
) -> None:
    """Print the fee and the budget of a task.

    They are what submitting takes of the account now. The task is run once here, to measure what
    it takes of a validator. Nothing is paid. `pot task extend ID --dry-run` prints the price of
    more lifetime or attempts for a task that is open.
    """
    from node.client.task_checks import check_task
    from node.client.task_file import load_task_file

    wishes = read_wishes(lifetime, attempts, None)
    bundle = load_task_file(file, TRAINING_TOKEN, rounds)
    client = RpcClient(rpc)
    blob_bytes_per_second = fetch_parameters(client).blob_bytes_per_second
    check_task(bundle, blob_bytes_per_second)
    check_token(client, bundle.spec.reward.token)
    plan_purchase(client, bundle, wishes)
    bundle = _declare(bundle, blob_bytes_per_second, dry_run=True)
    offer = make_offer(client, bundle, wishes)
    budget = compute_full_budget(bundle.spec)
    _warn(bundle, offer, budget)
    if as_json:
        print_json({**encode_offer(bundle.spec, offer), "budget": str(budget)})
    else:
        print_fields(describe_offer(bundle.spec, offer, budget))


def _warn(bundle: TaskBundle, offer: Offer, budget: int) -> None:
    """Tell a submitter that what it buys may not be enough for all rounds."""
    for warning in find_shortages(bundle.spec, offer.purchase, budget):
        print_warning(warning)


def _declare(bundle: TaskBundle, blob_bytes_per_second: int, *, dry_run: bool) -> TaskBundle:
    """The task with what it takes of a validator, which a dry run measures."""
    from node.client.task_checks import (
        check_times,
        declare_resources,
        find_inflated,
        measure_task,
    )

    if not dry_run:
        if not bundle.is_measured:
            raise OperatorError(
                "without a dry run the task file must declare what the task takes, in [resources]: "
                "unit_milliseconds, evaluation_milliseconds and peak_bytes"
            )
        check_times(bundle, blob_bytes_per_second)
        return bundle
    if bundle.is_measured:
        check_times(bundle, blob_bytes_per_second)
    measured = measure_task(bundle)
    print_note(
        f"dry run passed: a unit takes {measured.unit_milliseconds} ms, with "
        f"{measured.peak_bytes / 2**20:.0f} MiB of memory"
    )
    declared = bundle if bundle.is_measured else declare_resources(bundle, measured)
    for warning in find_inflated(declared.spec.resources, measured):
        print_warning(warning)
    check_times(declared, blob_bytes_per_second)
    return declared


def _upload(
    clients: Sequence[RpcClient], task_id: int, bundle: TaskBundle, file: Path, rounds: int | None
) -> None:
    """Upload the weights and data of a task to every node.

    Raises:
        OperatorError: A node did not take them; the others have them.
    """
    total = sum(len(blob) for blob in bundle.blobs.values()) * len(clients)
    failed: list[str] = []
    reason = ""
    with progress_bar("uploading weights and data", total) as progress:
        for client in clients:
            try:
                wait_for_task(client, TaskId(task_id))
                for name, blob in sorted(bundle.blobs.items()):
                    client.put_blob(name, blob, progress, print_note)
            except OperatorError as error:
                failed.append(client.url)
                reason = str(error)
    if failed:
        again = ["pot task upload", str(task_id), str(file)]
        again += [] if rounds is None else ["--rounds", str(rounds)]
        again += [f"--rpc {url}" for url in failed]
        raise OperatorError(
            f"task {task_id} is submitted and paid, but {len(failed)} of {len(clients)} nodes did "
            f"not take its data: {reason}; submit it no second time; next: {' '.join(again)}"
        )


@app.command(epilog="Example:  pot task upload 1 examples/digits.toml --rpc http://127.0.0.1:8545")
def upload(
    task: TaskArgument,
    file: Annotated[Path, typer.Argument(help="The task file that was submitted.")],
    rounds: Annotated[int | None, typer.Option(help="As given to `pot task submit`.")] = None,
    rpc: RpcListOption = None,
    as_json: JsonOption = False,
) -> None:
    """Upload a task's weights and data again.

    For a task whose upload was interrupted, or whose content validators cannot fetch. Nothing is
    paid.
    """
    from node.client.task_file import load_task_file

    clients = [RpcClient(url) for url in rpc or [DEFAULT_RPC_URL]]
    found = get_task(clients[0], task)
    bundle = load_task_file(file, TRAINING_TOKEN, rounds)
    resources = clients[0].read(get_resources(TaskId(task)))
    # What was measured at the submission is not in the file.
    spec = replace(bundle.spec, resources=resources)
    if to_hex(compute_spec_hash(spec)) != get_text(found, "specHash"):
        raise OperatorError(
            f"{file} is not the file of task {task}: it gives another specification; give the file "
            "and the --rounds that were submitted"
        )
    _upload(clients, task, bundle, file, rounds)
    if as_json:
        print_json({"id": task, "uploaded": [client.url for client in clients]})
        return
    print_line(f"uploaded to {len(clients)} nodes; next: pot task show {task}")


@app.command("list", epilog="Example:  pot task list --rpc http://127.0.0.1:8545")
def list_(
    rpc: RpcOption = DEFAULT_RPC_URL,
    offset: Annotated[int, typer.Option(help="Number of tasks to skip.")] = 0,
    limit: Annotated[int, typer.Option(help="Number of tasks to list, at most 100.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """List the tasks on the chain."""
    tasks = RpcClient(rpc).call_list("pot_listTasks", {"offset": offset, "limit": limit})
    if as_json:
        print_json(tasks)
        return
    if not tasks:
        print_line("no tasks; submit one: pot task submit examples/digits.toml --key ACCOUNT")
        return
    rows = [
        (
            str(get_integer(task, "id")),
            str(get_value(task, "name") or "-"),
            get_text(task, "status"),
            f"{get_integer(task, 'roundsSettled')}/{get_value(task, 'rounds') or '?'}",
            get_text(task, "submitter"),
        )
        for task in tasks
    ]
    print_table(("id", "name", "status", "rounds", "submitter"), rows)


@app.command(epilog="Example:  pot task show 1 --json")
def show(task: TaskArgument, rpc: RpcListOption = None, as_json: JsonOption = False) -> None:
    """Print the state of a task.

    While it is pending, each node that is named says whether its validator is ready for it, and if
    not, why.
    """
    clients = [RpcClient(url) for url in rpc or [DEFAULT_RPC_URL]]
    found = get_task(clients[0], task)
    is_pending = get_text(found, "status") == "pending"
    is_refused = get_value(found, "lease", "refusal") is not None
    answers = fetch_readiness(clients, task) if is_pending or is_refused else []
    if as_json:
        is_asked = is_pending or is_refused
        print_json({**found, "readiness": list(answers)} if is_asked else found)
        return
    obstacles = describe_obstacles(found)
    rows = [
        ("task", str(task)),
        ("name", str(get_value(found, "spec", "name"))),
        ("status", get_text(found, "status")),
        ("round price", _describe_round_price(found)),
        ("phase", str(get_value(found, "phase"))),
        *([("no attempt", obstacles)] if obstacles else []),
        ("submitter", get_text(found, "submitter")),
        ("rounds settled", f"{found['roundsSettled']} of {count_planned_rounds(found)}"),
        *describe_lease(found, int(time.time())),
        *describe_money(found),
    ]
    print_fields(rows)
    # The hashes fit a terminal beside short names only.
    print_fields(
        [
            ("spec hash", get_text(found, "specHash")),
            ("model root", _describe_root(found["modelRoot"])),
            ("state root", _describe_root(found["trainingStateRoot"])),
        ]
    )
    is_new = is_new_task(found, int(time.time()))
    lines = (
        describe_readiness(task, answers, is_new=is_new)
        if is_pending
        else describe_refusal(found, answers)
    )
    if get_value(found, "finableAttempts"):
        fines = clients[0].call_list("pot_getFines", task)
        lines = [*lines, *describe_finable(fines)]
    for line in lines:
        print_line(line)


def _describe_round_price(task: JsonObject) -> str:
    """What a round costs at most, and how many rounds the rest of the budget pays."""
    price, units = (get_integer(task, "terms", name) for name in ("unitPrice", "maxUnits"))
    fee = get_integer(task, "terms", "validatorFee")
    token, cost = name_token(get_value(task, "terms", "token")), units * price + fee
    text = f"at most {format_amount(cost)} {token}: {units} units of {format_amount(price)}, and "
    text += f"{format_amount(fee)} for the validators"
    if get_text(task, "status") == "closed":
        return text
    rounds = get_integer(task, "account", "refundable") // cost
    return f"{text}; what is left of the budget pays {rounds} rounds or more"


def _describe_root(root: Json) -> str:
    """A root on the chain, which is zero before the first round is settled."""
    return str(root) if int(str(root), 16) else "none before the first settled round"


@app.command(epilog="Example:  pot task watch 1")
def watch(task: TaskArgument, rpc: RpcListOption = None, as_json: JsonOption = False) -> None:
    """Print each settled round of a task.

    While it is pending, each node that is named says whether its validator is ready for it, and if
    not, why.
    """
    clients = [RpcClient(url) for url in rpc or [DEFAULT_RPC_URL]]
    client = clients[0]
    shown = 0
    waiting_for, told_obstacles = "", ""
    told: list[str] = []
    while True:
        found = get_task(client, task)
        settled = get_integer(found, "roundsSettled")
        for number in range(shown, settled):
            round_ = client.call_object("pot_getRound", task, number) or {}
            if as_json:
                print_json(round_)
            else:
                print_line(describe_round(round_, count_planned_rounds(found), name_unit(found)))
                if costs := count_costs(round_):
                    for line in wrap_line(
                        f"with {costs}: pot task round {task} {number + 1}", "  "
                    ):
                        print_line(line)
            sys.stdout.flush()
        shown = settled
        status = get_text(found, "status")
        if status == "closed":
            break
        if not as_json and status != waiting_for and status != "active":
            print_note(f"the task is {status}")
        waiting_for = status
        obstacles = describe_obstacles(found)
        if not as_json and obstacles and obstacles != told_obstacles:
            for line in wrap_line(f"the task opens no attempt: {obstacles}"):
                print_note(line)
        told_obstacles = obstacles
        if not as_json and status == "pending":
            is_new = is_new_task(found, int(time.time()))
            lines = describe_readiness(task, fetch_readiness(clients, task), is_new=is_new)
            for line in lines:
                if line not in told:
                    print_note(line)
            told = lines
        time.sleep(WATCH_SECONDS)
    if shown < count_planned_rounds(found):
        if not as_json and get_value(found, "lease", "refusal") is not None:
            for line in describe_refusal(found, fetch_readiness(clients, task)):
                print_note(line)
        raise OperatorError(describe_early_end(found, shown, count_planned_rounds(found)))
    if not as_json:
        print_line(f"done; next: pot task download {task} -o model.safetensors")


@app.command(epilog="Example:  pot task download 1 -o model.safetensors")
def download(
    task: TaskArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The safetensors file to write.")],
    number: Annotated[
        int | None,
        typer.Option(
            "--round", help="The model after this round, from 1; by default after the last."
        ),
    ] = None,
    rpc: RpcOption = DEFAULT_RPC_URL,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Download a task's model as safetensors.

    It is checked against the model root on the chain before the file is written.
    """
    index = None if number is None else read_round(number)
    if output.exists() and not force:
        raise OperatorError(f"{output} exists; give another --output, or --force to overwrite it")
    client = RpcClient(rpc)
    model = find_model(client, task, index)
    with progress_bar("downloading the model", model.byte_count) as progress:
        data = download_model(client, model, progress)
    output.write_bytes(data)
    root = to_hex(model.root)
    if as_json:
        print_json({"file": str(output), "modelRoot": root, "round": model.round_number})
        return
    print_line(f"model root  {root}")
    print_line(f"settled in  round {model.round_number + 1}")
    print_line(f"written to  {output}")


@app.command(epilog="Example:  pot task verify 1")
def verify(
    task: TaskArgument, rpc: RpcOption = DEFAULT_RPC_URL, as_json: JsonOption = False
) -> None:
    """Train a task again and compare every root.

    Every round is repeated from its gradients. The node must still have the gradients. Ends with
    status 1 if a root on the chain is not what follows from them.
    """
    from node.client.task_replay import TaskReplay

    replay = TaskReplay(RpcClient(rpc), TaskId(task))
    results = []
    for result in replay.rounds():
        results.append(result)
        if not as_json:
            mark = "equal" if result.is_equal else "DIFFERENT"
            print_line(
                f"round {result.round_number + 1:>3}/{replay.spec.round_count}  "
                f"block {result.block_number}  accepted {result.accepted_count}  "
                f"model root {to_hex(result.replayed.model_root)[:18]}…  {mark}"
            )
            sys.stdout.flush()
    if as_json:
        print_json(
            {
                "task": task,
                "equal": all(result.is_equal for result in results),
                "rounds": [
                    {
                        "round": result.round_number,
                        "blockNumber": result.block_number,
                        "equal": result.is_equal,
                        "trainingStateRoot": to_hex(result.replayed.training_state_root),
                        "modelRoot": to_hex(result.replayed.model_root),
                        "rewardsRoot": to_hex(result.replayed.rewards_root),
                        "acceptedUnits": result.replayed.accepted_units,
                        "payout": str(result.replayed.payout),
                    }
                    for result in results
                ],
            }
        )
    different = [result.round_number for result in results if not result.is_equal]
    if different:
        raise OperatorError(
            f"round {different[0] + 1} of task {task}: the chain settled another result than "
            "follows from the gradients; its validators are not to be trusted"
        )
    if not as_json:
        print_line(f"all {len(results)} rounds reproduced: states, models, rewards, payouts")


app.registered_commands += task_round.app.registered_commands
app.registered_commands += task_money_command.app.registered_commands
