"""Showing whether validators are ready for a task, and if not, why."""

import textwrap
from collections.abc import Sequence
from typing import Final

from chain.json_types import JsonObject
from node.client.rpc_client import RpcClient, get_value
from pot_common.rpc_replies import ClientError
from pot_common.terminal import LINE_WIDTH

CURES: Final = {
    "spec_invalid": "submit it with a pot of the network's version",
    "terms_differ": "submit it with `pot task submit`",
    "content_too_large": "submit one with less data or a smaller model",
    "disk_too_large": "submit one with fewer units or a smaller model",
    "verdict_phase_too_short": "submit it with a longer verdict_seconds, or fewer max_units",
    "evaluation_too_slow": "submit it with a longer result_seconds, or fewer held_out rows",
    "too_noisy": "submit one with another model or a larger tolerance",
    "resources_exceeded": "submit it with a larger [resources] in its file, or without that part",
    "dry_run_refused": "mend its data or model, and submit it again",
    "dry_run_failed": "submit one with smaller units or a smaller model",
    "aggregation_too_slow": "submit it with a longer result_seconds",
    "workers_busy": "submit it unchanged when another task is closed, or one that declares less",
    "commitment_phase_too_short": "submit it with a longer commit_seconds",
    "no_room": "submit it unchanged when another task is closed, or one that takes less disk",
    "declares_too_much": "submit it with `pot task submit`, which counts the disk",
}
"""What the submitter of a refused task can do, by the code of the refusal. The fee is paid again.
The operator guide, section 11.4, has the same table."""

WAITS: Final = {
    "content_unavailable": "give `pot task upload ID` the file that was submitted, and an --rpc "
    "that validators reach",
    "workers_busy": "wait until another task is closed, or submit one that declares less",
    "no_room": "wait until another task is closed, or ask the operator for room",
    "validator_busy": "wait; the validator tries again, and its machine is to blame",
    "too_many_tasks": "wait, or submit it again when fewer tasks are pending",
}
"""What the submitter can do about a task that a validator lets wait, by the code of the reason."""


NEW_SECONDS: Final = 60
"""A task is new for so long. Validators look for content again after half a minute at most, so in
this time a missing blob says nothing: it may be on its way."""

FETCHING: Final = "wait: what was uploaded just now is found within a minute"
"""The advice for missing content of a new task."""


def is_new_task(task: JsonObject, now: int) -> bool:
    """Whether a task was submitted so lately that its content may still be on its way."""
    submitted = get_value(task, "submittedTime")
    return isinstance(submitted, int) and now < submitted + NEW_SECONDS


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


def describe_readiness(
    task: int, answers: Sequence[JsonObject], *, is_new: bool = False
) -> list[str]:
    """The lines that say which validators are ready for a task, and why others are not.

    Args:
        task: The task.
        answers: What nodes say of their validators.
        is_new: Whether the task was submitted so lately that its content may be on its way.
    """
    waits = {**WAITS, "content_unavailable": FETCHING} if is_new else WAITS
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
                cure = CURES.get(code) if state == "refused" else waits.get(code)
                if cure is not None:
                    first = "cancel the task; " if state == "refused" else ""
                    text = f"  next: {first}{cure.replace(' ID', f' {task}')}"
                    lines += textwrap.wrap(text, LINE_WIDTH)
            case "ready":
                lines.append(f"{name}: the dry run passed; its vote follows")
            case "preparing":
                lines.append(f"{name}: prepares; it fetches the data, then runs the task once")
            case _:
                lines.append(f"{name}: has not begun with the task")
    return lines


def describe_refusal(task: JsonObject, answers: Sequence[JsonObject]) -> list[str]:
    """The lines that say why a closed task was refused, and what to change; none if it was not.

    Args:
        task: The task.
        answers: What nodes still know of their validators' reasons. The chain has only a code.
    """
    refusal = get_value(task, "lease", "refusal")
    if refusal is None:
        return []
    lines = []
    for answer in answers:
        validator, state = get_value(answer, "validator"), get_value(answer, "state")
        if isinstance(validator, str) and state == "refused":
            text = f"validator {validator[:10]} refused the task: {get_value(answer, 'reason')}"
            lines += textwrap.wrap(text, LINE_WIDTH, subsequent_indent="  ")
    if str(refusal) in CURES:
        lines += textwrap.wrap(f"next: {CURES[str(refusal)]}", LINE_WIDTH)
    return lines
