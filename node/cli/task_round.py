"""`pot task round`: what came of a round, with absences, void attempts and fines."""

from collections.abc import Sequence
from typing import Final

import typer

from chain.amounts import format_amount
from chain.json_types import JsonObject
from node.cli.output import (
    JsonOption,
    RoundArgument,
    RpcOption,
    TaskArgument,
    format_rounded,
    print_json,
    print_line,
    read_round,
)
from node.cli.task_fee import name_token
from node.cli.task_money_command import get_task
from node.client.rpc_client import RpcClient, get_integer, get_text, get_value
from pot_common.errors import OperatorError
from pot_common.node_url import DEFAULT_RPC_URL
from pot_common.terminal import LINE_WIDTH, wrap_line

ADDRESS_DIGITS: Final = 10
"""The characters of an address that fit a line; `--json` has them all."""

STATES: Final = {
    "due": "validators have to vote on it",
    "approved": "approved, and not taken yet",
    "imposed": "taken",
    "lapsed": "not taken, and its time is over",
}
"""How far a fine is."""

app = typer.Typer()
"""Its command is added to those of `pot task`."""


@app.command("round", epilog="Example:  pot task round 1 3")
def show_round(
    task: TaskArgument,
    number: RoundArgument,
    rpc: RpcOption = DEFAULT_RPC_URL,
    as_json: JsonOption = False,
) -> None:
    """Show a round: who was paid, who was absent or fined, and why.

    Attempts that were void before the round was settled are shown, too: they cost absent miners a
    part of their bonds.
    """
    index = read_round(number)
    client = RpcClient(rpc)
    found = get_task(client, task)
    shown = client.call_object("pot_getRound", task, index)
    if shown is None:
        raise OperatorError(
            f"task {task} has not come to round {number}: {found['roundsSettled']} of "
            f"{count_planned_rounds(found)} rounds are settled"
        )
    if as_json:
        print_json(shown)
        return
    if get_value(shown, "blockNumber") is None:
        print_line(f"round {number}/{count_planned_rounds(found)} is not settled yet")
    else:
        print_line(describe_round(shown, count_planned_rounds(found), name_unit(found)))
    if costs := count_costs(shown):
        print_line(f"  with {costs}, told below")
    accepted = shown.get("accepted")
    for row in list_objects(shown, "commitments"):
        miner, units = get_text(row, "miner")[:ADDRESS_DIGITS], get_integer(row, "units")
        is_paid = isinstance(accepted, list) and row["index"] in accepted
        word = "accepted and paid" if is_paid else "not accepted"
        is_settled = get_value(shown, "blockNumber") is not None
        count = f"{units} unit{'s'[: units > 1]}"
        print_line(f"  miner {miner}: {count}, {word if is_settled else 'committed'}")
    for line in describe_costs(shown, name_token(get_value(found, "terms", "token"))):
        print_line(line)


def describe_round(round_: JsonObject, planned: int, unit: str = "POT") -> str:
    """One line about a settled round of a task that pays in `unit`, at most 80 columns long."""
    accepted, commitments = round_.get("accepted"), round_.get("commitments")
    assert isinstance(accepted, list)
    assert isinstance(commitments, list)
    loss, accuracy = get_value(round_, "lossMillinats"), get_value(round_, "accuracyPpm")
    number = str(get_integer(round_, "round") + 1).rjust(len(str(planned)))
    loss_text = "    -" if loss is None else f"{int(str(loss)) / 1000:.3f}"
    accuracy_text = "    -  " if accuracy is None else f"{int(str(accuracy)) / 10_000:5.2f} %"
    parts = [
        f"round {number}/{planned}",
        f"block {get_integer(round_, 'blockNumber'):>3}",
        f"accepted {len(accepted)}/{len(commitments)}",
        f"loss {loss_text}",
        f"accuracy {accuracy_text}",
        f"{format_rounded(get_integer(round_, 'payout'))} {unit}",
        f"{get_integer(round_, 'seconds')} s",
    ]
    return "  ".join(parts)


def name_unit(task: JsonObject) -> str:
    """What a task pays in, in a word."""
    return "POT" if name_token(get_value(task, "terms", "token")) == "POT" else "tokens"


def count_planned_rounds(task: JsonObject) -> int:
    """The rounds of a task."""
    return get_integer(task, "terms", "rounds")


def list_objects(answer: JsonObject, name: str) -> list[JsonObject]:
    """The objects of a list in an answer; none if it is absent, as in one of an older node."""
    found = answer.get(name)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def describe_costs(round_: JsonObject, token: str) -> list[str]:
    """The lines that say which miners an attempt or a void attempt cost something, and why.

    Args:
        round_: The answer of `pot_getRound`.
        token: The name of the task's token.
    """
    lines = []
    for void in list_objects(round_, "voidAttempts"):
        lines += wrap_line(
            f"attempt {get_integer(void, 'ordinal')} of the task was void: "
            f"{get_text(void, 'reason')}"
        )
        lines += _describe_attempt(void, token)
    if get_value(round_, "ordinal") is not None:
        costs = _describe_attempt(round_, token)
        heading = f"attempt {get_integer(round_, 'ordinal')} of the task"
        lines += [f"{heading}:", *costs] if costs else []
    return lines


def count_costs(round_: JsonObject) -> str:
    """The absences, void attempts and fines of a round in a few words; empty without any.

    With void attempts, they say how long the round took with them.
    """
    void = list_objects(round_, "voidAttempts")
    attempts = [*void, round_]
    absences = sum(
        get_text(absent, "state") != "none"
        for each in attempts
        for absent in list_objects(each, "absent")
    )
    fines = sum(
        len(list_objects(found, "fines"))
        for each in attempts
        if isinstance(found := each.get("fines"), dict)
    )
    counts = ((absences, "absence"), (fines, "fine"), (len(void), "void attempt"))
    told = [f"{count} {name}{'s'[: count > 1]}" for count, name in counts if count]
    total = round_.get("totalSeconds")
    if void and total is not None:
        told.append(f"{total} s in all")
    return ", ".join(told)


def describe_fines(found: JsonObject, token: str, width: int = LINE_WIDTH) -> list[str]:
    """The fines of one attempt: each with its amounts and its reason, and the votes on it."""
    lines = []
    for fine in list_objects(found, "fines"):
        miner, amount = get_text(fine, "miner")[:ADDRESS_DIGITS], get_integer(fine, "amount")
        state = get_text(fine, "state")
        at_most = "" if state == "imposed" else "at most "
        lines += wrap_line(
            f"miner {miner}: {get_text(fine, 'kind')}, {at_most}{format_amount(amount)} {token} "
            f"and {format_amount(get_integer(fine, 'seatBond'))} POT of its seat bond, because "
            f"{get_text(fine, 'reason')}, in ballot {get_integer(fine, 'ballot') + 1}; "
            f"{STATES.get(state, state)}",
            "  ",
            width,
        )
    voters = {get_text(each, "validator") for each in list_objects(found, "votes")}
    needed = get_integer(found, "quorum")
    silent = found.get("silent")
    missing = [str(each)[:ADDRESS_DIGITS] for each in silent] if isinstance(silent, list) else []
    if lines and len(voters) < needed:
        silence = f"{len(voters)} votes of {needed}; no vote of {', '.join(missing)}"
        lines += wrap_line(silence, "  ", width)
    return lines


def describe_finable(found: Sequence[JsonObject], width: int = LINE_WIDTH) -> list[str]:
    """The fines that are due, and those that were imposed lately, by attempt.

    Args:
        found: The fines of attempts.
        width: The length of a line.
    """
    lines = []
    for each in found:
        place = f"round {get_integer(each, 'round') + 1}, attempt {get_integer(each, 'ordinal')}"
        until = get_integer(each, "slashedUntil")
        lines.append(f"fines of {place} of the task, until block {until}:")
        lines += describe_fines(each, name_token(each["token"]), width)
    return lines


def _describe_attempt(attempt: JsonObject, token: str) -> list[str]:
    lines = []
    for absent in list_objects(attempt, "absent"):
        miner = get_text(absent, "miner")[:ADDRESS_DIGITS]
        lines += wrap_line(f"miner {miner}: {describe_loss('absent', absent, token)}", "  ")
    fines = attempt.get("fines")
    return [*lines, *(describe_fines(fines, token) if isinstance(fines, dict) else [])]


def describe_loss(kind: str, loss: JsonObject, token: str) -> str:
    """What an absence or a fine cost a miner, and whether that was taken."""
    amount = f"{format_amount(get_integer(loss, 'amount'))} {token}"
    burnt = f"{format_amount(get_integer(loss, 'seatBond'))} POT of its seat bond"
    match get_text(loss, "state"):
        case "taken":
            return f"{kind}, which cost {amount} of its bond and {burnt}"
        case "due":
            return f"{kind}, which will cost {amount} of its bond and at least {burnt}"
        case "none":
            return f"{kind}, and owes nothing: its seat had ended"
        case _:
            return f"{kind}, which cost up to {amount} of its bond; this node knows no more"
