"""Tells a refusal of a specification by the task file's settings (docs/spec/training.md, 1).

A specification holds integers under its own names. Its submitter wrote decimal numbers under the
names of the task file, and has to find there what to change.
"""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final

from chain.amounts import format_amount
from chain.training.task_spec import PPB
from chain.training.task_spec_codec import MAX_AMOUNT

SETTINGS: Final[Mapping[str, str]] = {
    "model.config": "[model]",
    "model": "[model]",
    "data.features.shape": "[data] source: the shape of its rows",
    "data.urls": "[data] urls",
    "data.shards": "[data] source:",
    "data": "[data]",
    "unit.samples": "[training] samples_per_unit",
    "local_steps": "[training] local_steps",
    "rounds": "[training] rounds",
    "evaluate_every": "[training] evaluate_every",
    "learning_rate_ppb": "[optimizer] learning_rate",
    "optimizer": "[optimizer]",
    "verification.tolerance_ppb": "[verification] tolerance",
    "phases": "[phases]",
    "reward": "[reward]",
    "resources": "[resources]",
}
"""The setting, or its table, by the beginning of a path in the specification. The longest one that
fits counts."""

SCALES: Final[Mapping[str, int]] = {
    "[optimizer] learning_rate": PPB,
    "[verification] tolerance": PPB,
}
"""The settings that a specification holds as integers, by the number that stands for 1."""

_AMOUNT: Final = f"must be an amount of at most {format_amount(MAX_AMOUNT)}"
_BELOW_ONE: Final = "must be a number from 0 to below 1"

RULES: Final[Mapping[str, str]] = {
    "name": "must begin with a letter or digit and have at most 64 letters, digits, spaces and ._-",
    "[optimizer] momentum": _BELOW_ONE,
    "[optimizer] beta1": _BELOW_ONE,
    "[optimizer] beta2": _BELOW_ONE,
    "[optimizer] epsilon": "must be a number from 1e-12 to 1",
    "[optimizer] weight_decay": "must be a number from 0 to 0.1",
    "[reward] unit_price": _AMOUNT,
    "[reward] validator_fee": _AMOUNT,
}
"""The rule of a setting whose bounds in the specification are no numbers of the file."""

_PATH: Final = re.compile(r"spec\.([a-z_0-9.]+)(\[[0-9]+\])?(\.[a-z_0-9.]+)? (.*)")
_RANGE: Final = re.compile(r"must be an integer from ([0-9]+) to ([0-9]+)")


def describe_refusal(detail: str) -> str:
    """Why a specification is refused, with the setting of the task file and its unit.

    Args:
        detail: The refusal, which begins with the path of a value in the specification.
    """
    match = _PATH.fullmatch(detail)
    if match is None:
        return detail.removeprefix("spec.")
    path, problem = match[1], match[4]
    start = max((each for each in SETTINGS if _is_in(path, each)), key=len, default="")
    key = path.removeprefix(start).removeprefix(".")
    setting = f"{SETTINGS[start]} {key}".strip() if start else path
    if setting in RULES:
        return f"{setting} {RULES[setting]}"
    if setting in SCALES:
        problem = _RANGE.sub(_scale(SCALES[setting]), problem)
        return f"{setting} {problem}"
    problem = problem.replace("unit.samples", "[training] samples_per_unit")
    return f"{setting}{match[2] or ''} {problem}"


def _is_in(path: str, start: str) -> bool:
    return path == start or path.startswith(f"{start}.")


def _scale(scale: int) -> Callable[[re.Match[str]], str]:
    def replace(match: re.Match[str]) -> str:
        low, high = (f"{(Decimal(bound) / scale).normalize():f}" for bound in match.groups())
        return f"must be a number from {low} to {high}"

    return replace
