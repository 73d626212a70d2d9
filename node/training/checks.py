"""This node's checks of gradients, kept for work receipts (docs/spec/rpc.md, section 2).

Each attempt has one small JSON file. The training host writes it, the RPC process reads it. A file
that a crash has cut off is as good as none.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from chain.hexadecimal import to_hex
from chain.primitives import Address, TaskId
from chain.training.attempt import AttemptId

CHECKS_LIMIT_BYTES: Final = 2**24
"""The largest file that is read: 1 024 miners at 16 KiB each; a row has about 400 bytes."""


KEPT_ATTEMPTS: Final = 256
"""Files of so many attempts of a task are kept. A task may have a million attempts."""

KEPT_BYTES: Final = 2**23
"""Files of a task are kept up to this size, since they are outside of `blobs.quota_bytes`: those of
the last attempts. They are 16 attempts or more with 1 024 miners, and hundreds of the usual ones.
"""

_NAME: Final = re.compile(r"(\d{1,20})-(\d{1,20})-(\d{1,20})\.checks\.json")


@dataclass(frozen=True, slots=True)
class GradientCheck:
    """The result of this node's check of one gradient."""

    __pydantic_config__ = ConfigDict(alias_generator=to_camel)

    verdict: str
    """ok, bad, cheat, missing or unchecked."""
    distance_ppb: int | None
    """The cell distance E in parts per billion; None if the gradient was not re-executed."""
    exponents: str | None
    """kept, broken or broken_tenfold; None if the gradient was not re-executed."""
    reason: str | None
    """Why the gradient was not ok, for its miner; None if it was."""


_CHECKS: Final[TypeAdapter[Mapping[str, GradientCheck]]] = TypeAdapter(Mapping[str, GradientCheck])


def get_checks_path(directory: Path, attempt_id: AttemptId) -> Path:
    """The path of the file with this node's checks of an attempt, as JSON by miner."""
    name = f"{attempt_id.task_id}-{attempt_id.round_number}-{attempt_id.attempt_number}.checks.json"
    return directory / name


def remove_old_checks(directory: Path) -> None:
    """Delete the files of all but the last attempts of each task.

    Raises:
        OSError: The disk refused.
    """
    found: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for path in directory.iterdir():
        name = _NAME.fullmatch(path.name)
        if name is not None:
            task, *attempt = map(int, name.groups())
            found[task].append((attempt[0], attempt[1], path.stat().st_size))
    for task, attempts in found.items():
        kept_bytes = 0
        for later_count, (*attempt, size_bytes) in enumerate(sorted(attempts, reverse=True)):
            kept_bytes += size_bytes
            if later_count >= KEPT_ATTEMPTS or kept_bytes > KEPT_BYTES:
                attempt_id = AttemptId(TaskId(task), *attempt)
                get_checks_path(directory, attempt_id).unlink(missing_ok=True)


def load_check(directory: Path, attempt_id: AttemptId, miner: Address) -> GradientCheck | None:
    """The result of this node's check of a miner's gradient; None if it has not checked it."""
    path = get_checks_path(directory, attempt_id)
    try:
        if path.stat().st_size > CHECKS_LIMIT_BYTES:
            return None
        return _CHECKS.validate_json(path.read_bytes()).get(to_hex(miner))
    except (FileNotFoundError, ValidationError):
        return None  # not checked, or being written: receipts can do without it
