"""Computed gradients on the disk, so that a miner that restarts reveals what it committed to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chain.primitives import Hash32
from chain.training.attempt import AttemptId
from pot_common.atomic_file import write_atomically

SALT_BYTES: Final = 32
"""The length of the salt that hides a gradient behind its commitment, even from a reader who can
guess the gradient."""

UNITS_BYTES: Final = 4
"""The length of the number of units in a file."""

KEPT_ROUNDS: Final = 4
"""How many rounds a gradient is kept: no ballot can ask for an older one."""


@dataclass(frozen=True, slots=True)
class PreparedGradient:
    """A gradient with what its commitment hides.

    Attributes:
        units: The units of work behind it.
        salt: Random bytes that are part of the commitment.
        payload: The encoded gradient.
    """

    units: int
    salt: Hash32
    payload: bytes

    def encode(self) -> bytes:
        """The content of its file: salt, units, payload."""
        return self.salt + self.units.to_bytes(UNITS_BYTES, "big") + self.payload


def decode_prepared(data: bytes) -> PreparedGradient:
    """The gradient that `PreparedGradient.encode` wrote."""
    start = SALT_BYTES + UNITS_BYTES
    units = int.from_bytes(data[SALT_BYTES:start], "big")
    return PreparedGradient(units, Hash32(data[:SALT_BYTES]), data[start:])


class GradientStore:
    """The prepared gradients of one task."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory

    def save(self, attempt_id: AttemptId, prepared: PreparedGradient) -> None:
        """Store the gradient of an attempt; durable on return."""
        write_atomically(self._path(attempt_id), prepared.encode())

    def load(self, attempt_id: AttemptId) -> PreparedGradient | None:
        """The gradient of an attempt; None if none was stored."""
        path = self._path(attempt_id)
        return decode_prepared(path.read_bytes()) if path.exists() else None

    def prune(self, round_number: int) -> None:
        """Delete gradients that no ballot of `round_number` or a later round can ask for."""
        for path in sorted(self._directory.glob("round-*-*.gradient")):
            if int(path.stem.split("-")[1]) < round_number - KEPT_ROUNDS:
                path.unlink()

    def _path(self, attempt_id: AttemptId) -> Path:
        name = f"round-{attempt_id.round_number}-{attempt_id.attempt_number}.gradient"
        return self._directory / name
