"""What this node measured when it re-executed gradients, for work receipts (docs/spec/rpc.md, 2).

One small JSON file an attempt, written by the training host, read by the RPC process.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from chain.hexadecimal import to_hex
from chain.primitives import Address
from chain.training.attempt import AttemptId

CHECKS_LIMIT_BYTES: Final = 2**24
"""Our own file read back: 65 536 miners at 200 bytes each."""


@dataclass(frozen=True, slots=True)
class GradientCheck:
    """What this node found out about one gradient."""

    __pydantic_config__ = ConfigDict(alias_generator=to_camel)

    verdict: str
    """ok, bad, cheat or unavailable."""
    distance_ppb: int | None
    """The cell distance E, parts per billion; None if it was not re-executed."""
    exponents: str | None
    """Whether the exponent rule is kept, broken, or broken_tenfold; None as above."""


_CHECKS: Final[TypeAdapter[Mapping[str, GradientCheck]]] = TypeAdapter(Mapping[str, GradientCheck])


def get_checks_path(directory: Path, attempt_id: AttemptId) -> Path:
    """Where this node's measurements of an attempt are kept, as JSON by miner."""
    name = f"{attempt_id.task_id}-{attempt_id.round_number}-{attempt_id.attempt_number}.checks.json"
    return directory / name


def load_check(directory: Path, attempt_id: AttemptId, miner: Address) -> GradientCheck | None:
    """What this node found out about a miner's gradient; None if it never looked at it."""
    path = get_checks_path(directory, attempt_id)
    try:
        if path.stat().st_size > CHECKS_LIMIT_BYTES:
            return None
        return _CHECKS.validate_json(path.read_bytes()).get(to_hex(miner))
    except (FileNotFoundError, ValidationError):
        return None  # never measured, or being written: it is for show only
