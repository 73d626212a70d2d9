"""Showing whether validators are ready for a task, and if not, why."""

import textwrap
from collections.abc import Sequence
from typing import Final

from chain.json_types import JsonObject
from node.client.rpc_client import RpcClient, get_value
from pot_common.rpc_replies import ClientError

LINE_WIDTH: Final = 80
"""The width of a terminal that every line fits."""

ADVICE: Final = {
    "content_unavailable": "pot task upload ID FILE, with an --rpc that validators reach",
    "content_too_large": "cancel the task; submit one with less data or a smaller model",
    "disk_too_large": "cancel the task; submit one with fewer units or a smaller model",
    "too_noisy": "cancel the task; submit one with another model or a larger tolerance",
    "evaluation_too_slow": "cancel the task; submit it with a longer result_seconds",
    "aggregation_too_slow": "cancel the task; submit it with a longer result_seconds",
    "workers_busy": "wait until another task is closed, or submit one that declares less",
    "dry_run_refused": "cancel the task, mend its data or model, and submit it again",
    "dry_run_failed": "cancel the task; submit one with smaller units or a smaller model",
    "spec_invalid": "cancel the task; submit it with a pot of the network's version",
    "terms_differ": "cancel the task; submit it with `pot task submit`",
    "validator_busy": "wait; the validator tries again, and its machine is to blame",
    "too_many_tasks": "wait, or submit it again when fewer tasks are pending",
    "resources_exceeded": "cancel the task; submit it with a larger [resources] in its file",
    "no_room": "wait until another task is closed, or ask the operator for room",
    "declares_too_much": "cancel the task; submit it with `pot task submit`, which counts the disk",
    "commitment_phase_too_short": "cancel the task; submit it with a longer commit_seconds",
    "verdict_phase_too_short": "cancel the task; submit it with a longer verdict_seconds",
}
"""What the submitter can do, by the code of a validator's answer."""


def fetch_readiness(clients: Sequence[RpcClient], task: int) -> list[JsonObject]:
    """Each node's answer to a task; a node that does not answer is left out."""
    answers = []
    for client in clients:
        try:
            answer = client.call_object("pot_getReadiness", task)
        except ClientError:
            continue
        if answer is not None:
            answers.append({"node": client.url, **answer})
    return answers


def describe_readiness(answers: Sequence[JsonObject]) -> list[str]:
    """The lines that say which validators are ready, and why others are not."""
    lines = []
    for answer in answers:
        validator = get_value(answer, "validator")
        state, code = get_value(answer, "state"), str(get_value(answer, "code"))
        if not isinstance(validator, str):
            continue  # the node of no validator has no vote on the task
        name = f"validator {validator[:10]}"
        if get_value(answer, "voted") is True:
            lines.append(f"{name}: ready")
            continue
        match state:
            case "refused" | "waiting":
                verb = "refuses the task" if state == "refused" else "waits"
                text = f"{name} {verb}: {get_value(answer, 'reason')}"
                lines += textwrap.wrap(text, LINE_WIDTH, subsequent_indent="  ")
                if code in ADVICE:
                    lines += textwrap.wrap(f"  next: {ADVICE[code]}", LINE_WIDTH)
            case "ready":
                lines.append(f"{name}: the dry run passed; its vote follows")
            case "preparing":
                lines.append(f"{name}: fetches the content, or runs the task once")
            case _:
                lines.append(f"{name}: has not begun with the task")
    return lines
