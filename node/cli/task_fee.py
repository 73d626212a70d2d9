"""Showing what a task costs, and when it ends."""

import re
from collections.abc import Sequence
from typing import Final

from chain.amounts import format_amount, format_short
from chain.contracts.addresses import TRAINING_TOKEN
from chain.contracts.task_registry import Purchase
from chain.hexadecimal import to_hex
from chain.json_types import Json, JsonObject
from chain.training.fees import (
    compute_attempts_time,
    compute_promised_ppm,
    compute_promised_time,
)
from chain.training.task_spec import PPM, TaskSpec
from node.client.durations import UNIT_SECONDS, format_duration
from node.client.rpc_client import get_integer, get_objects, get_text, get_value
from node.client.task_submission import Offer, compute_full_budget, compute_round_budget
from pot_common.errors import OperatorError

_DURATION: Final = re.compile(r"([0-9]{1,9})([dhms])")


def parse_duration(text: str) -> int:
    """The seconds of a typed duration, such as 36h, 2d or 90m.

    Raises:
        OperatorError: The text is no duration, has no unit, or is 0.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise OperatorError(
            f"--lifetime {text} is not a duration: give a number and its unit, such as 90m, 36h or "
            "2d"
        )
    seconds = int(match[1]) * UNIT_SECONDS[match[2]]
    if seconds == 0:
        raise OperatorError(f"--lifetime is {text}; give more")
    return seconds


def format_bytes(count: int) -> str:
    """A number of bytes in MiB or GiB."""
    if count < 2**30:
        return f"{-(-count // 2**20)} MiB"
    return f"{count / 2**30:.1f} GiB"


def describe_purchase(purchase: Purchase) -> str:
    """What was bought, such as `2 h, 5 attempts`; what was not is not named."""
    parts = []
    if purchase.lifetime_seconds:
        parts.append(format_duration(purchase.lifetime_seconds))
    if purchase.attempts:
        parts.append(f"{purchase.attempts} attempts")
    return ", ".join(parts)


def describe_extension(offer: Offer) -> list[tuple[str, str]]:
    """The price of more lifetime or attempts and its parts, as names and values."""
    quote = offer.quote
    return [
        ("extension", describe_purchase(offer.purchase)),
        ("rent", f"{_pot(quote.rent)}  slot, memory and disk for the lifetime"),
        ("computation", f"{_pot(quote.computation)}  the validators' time"),
        ("fee", f"{_pot(quote.fee)}  at most {format_short(offer.max_fee)} POT"),
    ]


def build_extension_answer(offer: Offer) -> JsonObject:
    """The same for scripts; amounts in base units of POT."""
    return {
        "lifetimeSeconds": offer.purchase.lifetime_seconds,
        "attempts": offer.purchase.attempts,
        "rent": str(offer.quote.rent),
        "computation": str(offer.quote.computation),
        "fee": str(offer.quote.fee),
        "maxFee": str(offer.max_fee),
    }


def describe_offer(spec: TaskSpec, offer: Offer, budget: int) -> list[tuple[str, str]]:
    """The fee of a task and its parts, and its budget, as names and values."""
    quote, bought = offer.quote, offer.purchase
    resources = spec.resources
    validators = quote.examination // quote.answer_pay
    times = f"{resources.unit_milliseconds} ms a unit, "
    times += f"{resources.evaluation_milliseconds} ms an evaluation,"
    sizes = f"{format_bytes(resources.peak_bytes)} of memory, "
    sizes += f"{format_bytes(resources.disk_bytes)} of disk"
    pending = "burnt now, for the wait until validators are ready, at most "
    pending += format_duration(offer.pending_seconds)
    reward = spec.reward
    miners = f"at least {reward.min_miners}, with {reward.min_units} of {reward.max_units} units, "
    miners += "to open an attempt"
    return [
        ("declared", times),
        ("", sizes),
        ("miners", miners),
        ("lifetime", f"{format_duration(bought.lifetime_seconds)}, {bought.attempts} attempts"),
        (
            "examination",
            f"{_pot(quote.examination)}  to {validators} validators, for their answers",
        ),
        ("pending", f"{_pot(quote.pending_rent)}  {pending}"),
        ("rent", f"{_pot(quote.rent)}  slot, memory and disk for the lifetime"),
        ("computation", f"{_pot(quote.computation)}  {_describe_computation(spec, offer)}"),
        ("fee", f"{_pot(quote.fee)}  at most {format_short(offer.max_fee)} POT"),
        *_describe_sum(spec, quote.fee, budget),
    ]


def find_shortages(spec: TaskSpec, purchase: Purchase, budget: int) -> list[str]:
    """Why what is bought may not be enough for all rounds of a task: a sentence for each reason."""
    found = []
    rounds, phases = spec.round_count, spec.phases
    full, token = compute_full_budget(spec), name_token(to_hex(spec.reward.token))
    if budget < full:
        found.append(
            f"{format_amount(budget)} {token} pay for {budget // compute_round_budget(spec)} of "
            f"{rounds} rounds if all their units are done; then the task waits for money. Give "
            f"--budget {format_amount(full)}, or add to it later with pot task fund"
        )
    if purchase.attempts < rounds:
        found.append(
            f"{purchase.attempts} attempts are too few for {rounds} rounds; give --attempts "
            f"{rounds} or more"
        )
    seconds = rounds * (phases.commit_seconds + phases.verdict_seconds + phases.result_seconds)
    if purchase.lifetime_seconds < seconds:
        found.append(
            f"{rounds} rounds can take {format_duration(seconds)} if their phases last to the "
            f"end, and the task is open for {format_duration(purchase.lifetime_seconds)}; give a "
            "longer --lifetime, or extend the task later"
        )
    return found


def _describe_sum(spec: TaskSpec, fee: int, budget: int) -> list[tuple[str, str]]:
    if spec.reward.token != TRAINING_TOKEN:
        amount = f"{format_amount(budget)} {name_token(to_hex(spec.reward.token))}"
        return [("budget", f"{amount}, in escrow for miners")]
    return [
        ("budget", f"{_pot(budget)}  in escrow for miners; what is left comes back"),
        ("in all", f"{format_amount(fee + budget)} POT"),
    ]


def encode_offer(spec: TaskSpec, offer: Offer) -> JsonObject:
    """The same for scripts; amounts in base units of POT."""
    quote, resources = offer.quote, spec.resources
    return {
        "resources": {
            "unitMilliseconds": resources.unit_milliseconds,
            "evaluationMilliseconds": resources.evaluation_milliseconds,
            "peakBytes": resources.peak_bytes,
            "diskBytes": resources.disk_bytes,
        },
        "lifetimeSeconds": offer.purchase.lifetime_seconds,
        "attempts": offer.purchase.attempts,
        "pendingSeconds": offer.pending_seconds,
        "examination": str(quote.examination),
        "pendingRent": str(quote.pending_rent),
        "rent": str(quote.rent),
        "computation": str(quote.computation),
        "fee": str(quote.fee),
        "maxFee": str(offer.max_fee),
    }


def describe_early_end(task: JsonObject, settled: int, planned: int) -> str:
    """Why a task was closed before its last round, and what to do."""
    number, reason = get_integer(task, "id"), get_value(task, "closeReason")
    text = f"task {number} closed after {settled} of {planned} rounds"
    refusal = get_value(task, "lease", "refusal")
    if refusal is not None:
        text += f": validators refuse it ({refusal})"
    elif reason == "expired":
        text += ": it expired"
    elif reason is not None:
        text += f": {reason}"
    return f"{text}; `pot task refund {number}` takes back what is left"


CURES: Final = {
    "escrow": "pot task fund {id} --amount AMOUNT",
    "attempts": "pot task extend {id} --attempts N",
    "lifetime": "pot task extend {id} --lifetime TIME",
    "paused": "pot task resume {id}",
}
"""What to do about a condition that a task lacks to open an attempt, by its kind."""


def describe_obstacles(task: JsonObject) -> str:
    """Why an active or paused task opens no attempt, and the cures.

    Empty if an attempt is in progress, or can open.
    """
    found = get_objects(task, "obstacles")
    if get_value(task, "status") not in ("active", "paused"):
        return ""
    cures = [
        CURES[kind].format(id=task["id"])
        for each in found
        if (kind := get_text(each, "kind")) in CURES
    ]
    reasons = "; ".join(get_text(each, "reason") for each in found)
    return f"{reasons}; next: {' and '.join(cures)}" if cures else reasons


def describe_lease(task: JsonObject, now: int) -> Sequence[tuple[str, str]]:
    """When a task ends, why it was refused, and what can be taken back, as names and values."""
    lease = get_value(task, "lease")
    assert isinstance(lease, dict)
    status = get_value(task, "status")
    rows: list[tuple[str, str]] = []
    if status == "pending":
        seconds = get_integer(lease, "windowTime") - now
        rows.append(("expires", f"{_describe_rest(seconds)}, unless validators are ready"))
    elif status in ("active", "paused"):
        rows.append(("expires", _describe_rest(get_integer(lease, "endTime") - now)))
        if status == "active":
            idle = get_integer(lease, "progressTime") + get_integer(lease, "idleSeconds") - now
            rows.append(("", f"or without a paid attempt {_describe_rest(idle)}"))
    elif get_value(task, "closeReason") is not None:
        rows.append(("closed", str(get_value(task, "closeReason"))))
    if get_value(lease, "refusal") is not None:
        rows.append(("refused", str(get_value(lease, "refusal"))))
    if status != "closed":
        rows.append(("attempts left", str(get_integer(lease, "attemptsLeft"))))
    return rows


def name_token(token: Json) -> str:
    """The name of a task's token, as it follows an amount."""
    return "POT" if token == to_hex(TRAINING_TOKEN) else "of the task's token"


def describe_money(task: JsonObject) -> Sequence[tuple[str, str]]:
    """Where the budget and the fee of a task went, as names and values.

    The rows below each of the two sum up to it; what is 0 has no row.
    """
    number, account = get_integer(task, "id"), task["account"]
    is_closed = get_value(task, "status") == "closed"
    token = name_token(get_value(task, "terms", "token"))
    left = "for further rounds"
    if is_closed:
        left = f"to take back: pot task refund {number}"
    elif get_value(account, "cancelling") is True:
        left = "to take back once its round has ended"
    parts = [
        ("to miners", "paidToMiners", "for accepted work"),
        ("to validators", "paidToValidators", "for their votes"),
        ("reserved", "reserved", "for the attempt in progress"),
        ("left", "refundable", left),
        ("given back", "refunded", "to the submitter"),
    ]
    if get_value(account, "paidToMiners") is None:
        parts[:2] = [("paid", "paid", "to miners and validators")]
    return [
        ("budget", f"{format_amount(get_integer(account, 'escrowed'))} {token}"),
        *_list_parts(account, parts, token),
        *_describe_fee(task),
    ]


def _describe_fee(task: JsonObject) -> list[tuple[str, str]]:
    number, fee = get_integer(task, "id"), task["fee"]
    refundable = get_integer(task, "lease", "refundable")
    left = ("left", "refundable", f"to take back: pot task refund {number}")
    if not isinstance(fee, dict):
        text = "not known to this younger node; ask another with --rpc"
        return [("fee", text), *_list_parts({"refundable": str(refundable)}, [left], "POT")]
    is_pending = get_value(task, "status") == "pending"
    held = "for answers, and for the lifetime" if is_pending else "for answers"
    parts = [
        ("burnt", "burnt", "for slot and validators' time"),
        ("to validators", "answers", "for their answers"),
        ("held", "needed", held),
        left,
        ("given back", "returned", "to the submitter"),
    ]
    needed = get_integer(fee, "held") - refundable
    amounts: JsonObject = {**fee, "needed": str(needed), "refundable": str(refundable)}
    paid = f"{format_amount(get_integer(fee, 'paid'))} POT"
    return [("fee", paid), *_list_parts(amounts, parts, "POT")]


def _list_parts(
    amounts: Json, parts: Sequence[tuple[str, str, str]], token: str
) -> list[tuple[str, str]]:
    return [
        (f"  {name}", f"{format_amount(amount)} {token} {purpose}")
        for name, key, purpose in parts
        if (amount := get_integer(amounts, key))
    ]


def _describe_computation(spec: TaskSpec, offer: Offer) -> str:
    """What the fee pays of the validators' time: what is used or what is promised."""
    promised = compute_promised_time(spec, offer.purchase.lifetime_seconds)
    if promised <= compute_attempts_time(spec, offer.purchase.attempts):
        return "the validators' checks in the attempts"
    percent = compute_promised_ppm(spec) / PPM * 100
    return f"{percent:.2g} % of a worker, promised for the lifetime"


def _describe_rest(seconds: int) -> str:
    return f"in {format_duration(seconds)}" if seconds > 0 else "now"


def _pot(amount: int) -> str:
    return f"{format_short(amount)} POT"
