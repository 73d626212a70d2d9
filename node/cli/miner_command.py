"""`pot miner`: starts a miner, leaves a task, takes the bond back."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Final

import typer

from chain.amounts import format_amount
from chain.contracts.abi import ContractCall
from chain.contracts.events import decode_event
from chain.contracts.miner_seats import (
    BondWithdrawn,
    withdraw_bond,
    withdraw_seat_bond,
)
from chain.contracts.miner_seats import leave as leave_task
from chain.hexadecimal import to_hex
from chain.json_types import JsonObject
from chain.primitives import TaskId
from node.cli.account import (
    Account,
    GasPriceOption,
    KeyOption,
    PasswordOption,
    find_key_file,
    unlock_account,
)
from node.cli.output import (
    JsonOption,
    RpcOption,
    TaskArgument,
    print_done,
    print_fields,
    print_json,
    print_line,
    print_wrapped,
    read_round,
)
from node.cli.task_fee import name_token
from node.cli.task_money_command import get_task
from node.cli.task_round import list_objects
from node.client.rpc_client import (
    RpcClient,
    decode_log,
    get_integer,
    get_objects,
    get_text,
    get_value,
)
from pot_common.errors import OperatorError
from pot_common.keystore import read_address
from pot_common.miner_options import EXAMPLE, MinerOptions, build_command
from pot_common.node_url import DEFAULT_RPC_URL
from pot_common.seats import (
    KINDS,
    SeatReply,
    describe_amounts,
    describe_ended_seat,
    describe_lock,
    describe_token,
    fetch_seat,
    name_next_command,
)

ADDRESS_DIGITS: Final = 10
"""The characters of a validator's address that fit a line; `--json` has them all."""

END_REASONS: Final = {
    "misses": "it missed too many attempts",
    "fraud": "a fraud took both bonds",
    "left": "the account left",
    "displaced": "another miner took its place",
}
"""Why a seat has ended."""

app = typer.Typer(no_args_is_help=True)


def _start(options: MinerOptions) -> None:
    arguments = replace(options, key=find_key_file(options.key)).to_arguments()
    # In a process of its own, because the miner needs torch and nothing of the node.
    os.execv(sys.executable, [sys.executable, "-m", "miner", *arguments])  # noqa: S606


app.command("run", epilog=EXAMPLE)(build_command(_start))


@app.command(epilog="Example:  pot miner leave 1 --key miner-1")
def leave(
    task: TaskArgument,
    key: KeyOption,
    password_file: PasswordOption = None,
    gas_price: GasPriceOption = 0,
    rpc: RpcOption = DEFAULT_RPC_URL,
    as_json: JsonOption = False,
) -> None:
    """Leave a task at the end of the attempt in progress.

    The miner must still finish that attempt, so stop it only afterwards: a seat that misses its
    last attempt loses its bond in POT. After a miss, commit once more before you leave. A new miner
    owes one attempt, but may leave while one without it takes commitments. Take the bonds back with
    `pot miner withdraw`.
    """
    client = RpcClient(rpc)
    account = unlock_account(client, key, password_file, gas_price)
    seat = fetch_seat(client, task, account.address)
    if seat is not None and seat.last_attempt is not None:
        raise OperatorError(describe_ended_seat(seat))
    _send_to_seats(task, leave_task, account, client, as_json, "left")


@app.command(epilog="Example:  pot miner withdraw 1 --key miner-1")
def withdraw(
    task: TaskArgument,
    key: KeyOption,
    pot_only: Annotated[
        bool,
        typer.Option(
            "--pot-only", help="Only the seat's bond in POT, if the task's token refuses to pay."
        ),
    ] = False,
    password_file: PasswordOption = None,
    gas_price: GasPriceOption = 0,
    rpc: RpcOption = DEFAULT_RPC_URL,
    as_json: JsonOption = False,
) -> None:
    """Take back the bonds in a task that you left or that is closed.

    This is possible 192 blocks after your last attempt there, or later if its verdict phase is
    longer than 32 seconds.
    """
    call = withdraw_seat_bond if pot_only else withdraw_bond
    client = RpcClient(rpc)
    account = unlock_account(client, key, password_file, gas_price)
    _require_free(fetch_seat(client, task, account.address), task)
    _send_to_seats(task, call, account, client, as_json, "bond withdrawn")


@app.command(epilog="Example:  pot miner status --key miner-1")
def status(
    key: KeyOption,
    task: Annotated[
        int | None, typer.Argument(metavar="[ID]", help="Task id; without it, all tasks.")
    ] = None,
    rpc: RpcOption = DEFAULT_RPC_URL,
    as_json: JsonOption = False,
) -> None:
    """Show the seats of an account, with bonds and misses."""
    client = RpcClient(rpc)
    miner = read_address(find_key_file(key))
    tasks = [task] if task is not None else _list_task_ids(client)
    if as_json:
        answers = [client.call("pot_getSeat", each, to_hex(miner)) for each in tasks]
        print_json([each for each in answers if each is not None])
        return
    seats = [seat for each in tasks if (seat := fetch_seat(client, each, miner)) is not None]
    if not seats:
        print_line(f"account {to_hex(miner)} has no seat" + (f" in task {task}" if task else ""))
    for position, seat in enumerate(seats):
        if position:
            print_line("")
        print_fields(_describe_seat(seat))


@app.command(epilog="Example:  pot miner receipt 1 3 --key miner-1")
def receipt(
    task: TaskArgument,
    number: Annotated[
        int,
        typer.Argument(
            metavar="ROUND",
            help="The round, from 1 as in pot task watch; a miner's log counts from 0.",
        ),
    ],
    key: KeyOption,
    rpc: RpcOption = DEFAULT_RPC_URL,
    as_json: JsonOption = False,
) -> None:
    """Show what became of your work in a round, and what it cost."""
    index = read_round(number)
    client = RpcClient(rpc)
    miner = read_address(find_key_file(key))
    found = client.call_object("pot_getReceipt", task, index, to_hex(miner))
    if found is None:
        raise OperatorError(
            f"account {to_hex(miner)} took no part in round {number} of task {task}, or the "
            "task has not come to it (`pot task show`)"
        )
    if as_json:
        print_json(found)
        return
    print_fields([("round", f"{number} of task {task}"), *_describe_receipt(found)])


def _describe_receipt(found: JsonObject) -> list[tuple[str, str]]:
    samples = found.get("samples")
    count = len(samples) if isinstance(samples, list) else samples
    block = found.get("commitmentBlock")
    accepted = {True: "yes", False: "no"}.get(bool(found.get("accepted")), "")
    if found.get("accepted") is None:
        accepted = "not yet"
    token = name_token(found["token"])
    rows = []
    if units := get_integer(found, "units"):
        rows = [
            ("units", f"{units}, with {count} samples"),
            ("committed", "no" if block is None else f"in block {block}"),
        ]
    for verdict in get_objects(found, "verdicts"):
        reason = verdict.get("reason")
        told = get_text(verdict, "verdict") + ("" if reason is None else f": {reason}")
        rows.append((get_text(verdict, "validator")[:ADDRESS_DIGITS], told))
    rows += [
        ("accepted", f"{accepted}: {get_text(found, 'reason')}"),
        ("pay", f"{format_amount(get_integer(found, 'pay'))} {token}"),
        *_describe_fine("fine", found, token),
    ]
    for void in list_objects(found, "voidAttempts"):
        rows.append(("void attempt", f"{get_integer(void, 'ordinal')}: {get_text(void, 'reason')}"))
        rows += _describe_fine("", void, token)
    return rows


def _describe_fine(name: str, found: JsonObject, token: str) -> list[tuple[str, str]]:
    """What an attempt cost a miner, and whether that was taken."""
    kind = get_value(found, "fine")
    if kind is None:
        has_ended = get_value(found, "fineState") == "none"
        told = "none" if name else "no fine"
        return [(name, f"{told}: the seat had ended" if has_ended else told)]
    amount = f"{format_amount(get_integer(found, 'fineAmount'))} {token}"
    burnt = f"{format_amount(get_integer(found, 'fineSeatBond'))} POT of the seat bond"
    match get_value(found, "fineState"):
        case "taken":
            return [(name, f"{kind}: {amount} and {burnt}")]
        case "due" if kind == "absence":
            return [
                (name, f"{kind}: {amount} and {burnt}"),
                ("", "not taken yet; of the seat bond it can be all that is left"),
            ]
        case "due":
            return [(name, f"{kind}: at most {amount} and {burnt}"), ("", "not taken yet")]
        case _:
            return [
                (name, f"{kind}: up to {amount} and a part of the seat bond"),
                ("", "what was taken, this node does not know any more"),
            ]


def _list_task_ids(client: RpcClient) -> list[int]:
    ids: list[int] = []
    while page := client.call_list("pot_listTasks", {"offset": len(ids)}):
        ids += [get_integer(each, "id") for each in page]
    return ids


def _describe_seat(seat: SeatReply) -> list[tuple[str, str]]:
    token = describe_token(seat)
    state = "goes on"
    if seat.ended:
        state = f"ended: {END_REASONS.get(seat.end_reason or '', 'for an unknown reason')}"
    elif seat.closed:
        state = "ended: the task is closed"
    rows = [
        (f"task {seat.task}", state),
        ("units", str(seat.units)),
        ("bond", f"{format_amount(seat.bond)} {token}"),
        ("seat bond", f"{format_amount(seat.seat_bond)} POT"),
        ("misses", f"{seat.misses} of {seat.miss_limit}"),
    ]
    for loss in seat.losses:
        amount = f"{format_amount(loss.amount)} {token}"
        row = f"{amount} for {KINDS.get(loss.kind, loss.kind)} attempt {loss.attempt}"
        rows.append(("", row))
    if seat.seat_bond_paid:
        rows.append(("", f"of the seat bond {format_amount(seat.seat_bond_paid)} POT are burnt"))
    committed = seat.committed_attempt
    last = "never" if committed is None else f"to attempt {committed} of the task, over all rounds"
    rows.append(("committed last", last))
    is_over = seat.ended or seat.closed
    if not is_over:
        rows.append(("term", _describe_term(seat.term_attempts)))
    rows.append(("bonds", describe_lock(seat)))
    command = name_next_command(seat)
    if command is not None:
        purpose = "to take them back" if is_over else "to give the seat up"
        rows.append(("", f"{purpose}{' then' if seat.locked_blocks else ''}: {command}"))
    rows.append(("claimable", f"{format_amount(seat.claimable)} {token}"))
    return rows


def _describe_term(attempts: int) -> str:
    """For how long no newcomer can take the place of a seat."""
    if not attempts:
        return "over: in a full task, a newcomer may take the seat's place"
    return f"{attempts} more attempts; then, in a full task, a newcomer may take its place"


def _require_free(seat: SeatReply | None, task: int) -> None:
    """Accept bonds that can be withdrawn now.

    Raises:
        OperatorError: They are locked, lost, or withdrawn already.
    """
    if seat is None:
        raise OperatorError(
            f"the account has no seat in task {task}, or has withdrawn its bonds; check --key and "
            "the task id"
        )
    if seat.locked_blocks is None and not seat.is_lost:
        raise OperatorError(
            f"the bonds in task {task} are locked, because the seat goes on; to give it up: "
            f"pot miner leave {task}"
        )
    if seat.locked_blocks != 0:
        raise OperatorError(describe_ended_seat(seat))


def _send_to_seats(
    task: int,
    make_call: Callable[[TaskId], ContractCall],
    account: Account,
    client: RpcClient,
    as_json: bool,
    done: str,
) -> None:
    receipt = account.send_call(make_call(TaskId(task)))
    seat = fetch_seat(client, task, account.address)
    bond, seat_bond = (0, 0) if seat is None else (seat.bond, seat.seat_bond)
    received, received_pot = 0, 0
    for entry in get_objects(receipt, "logs"):
        event = decode_event(decode_log(entry))
        if isinstance(event, BondWithdrawn):
            received, received_pot = event.amount, event.seat_bond
    transaction = get_text(receipt, "transactionHash")
    if as_json:
        print_json(
            {
                "task": task,
                "bond": str(bond),
                "received": str(received),
                "seatBond": str(received_pot),
                "lockedBlocks": None if seat is None else seat.locked_blocks,
                "transactionHash": transaction,
            }
        )
        return
    print_done(f"task {task}: {done}", transaction)
    if seat is not None and (bond or seat_bond):
        print_wrapped(f"bonds: {describe_amounts(seat, bond, seat_bond)}")
        next_step = f"they are {describe_lock(seat)}; next: {name_next_command(seat)}"
        print_wrapped(next_step)
    if received or received_pot or seat is None:
        token = name_token(get_value(get_task(client, task), "terms", "token"))
        print_wrapped(
            f"received {format_amount(received)} {token} of the bond and "
            f"{format_amount(received_pot)} POT of the seat bond"
        )
