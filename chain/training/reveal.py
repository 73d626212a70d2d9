"""The reveal, with which a miner opens its commitment (docs/spec/training.md, section 10)."""

from dataclasses import dataclass
from typing import Final

from chain import codec
from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import Address, Hash32, TaskId
from chain.training.attempt import AttemptId
from chain.training.encoding import GradientHeader, compute_commitment

REVEAL_LIMIT_BYTES: Final = 160
"""The longest encoding: three hashes, an address and four integers."""


@dataclass(frozen=True, slots=True)
class Reveal:
    """The values that a miner claims to have committed to."""

    attempt_id: AttemptId
    miner: Address
    units: int
    salt: Hash32
    gradient_root: Hash32
    trajectory_root: Hash32 | None = None
    """The root over the gradients of all steps; None if the round has one step."""

    def to_item(self) -> codec.Encodable:
        """The fields, for RLP: eight with a trajectory root, else seven."""
        fields: list[codec.Encodable] = [
            self.attempt_id.task_id,
            self.attempt_id.round_number,
            self.attempt_id.attempt_number,
            self.miner,
            self.units,
            self.salt,
            self.gradient_root,
        ]
        return fields if self.trajectory_root is None else [*fields, self.trajectory_root]

    def encode(self) -> bytes:
        """The RLP list of the fields."""
        return codec.encode(self.to_item())

    def opens(self, commitment: Hash32, header: GradientHeader) -> bool:
        """Whether `commitment` commits to these values for a gradient with this header."""
        if (header.attempt_id, header.miner) != (self.attempt_id, self.miner):
            return False
        if (self.trajectory_root is None) != (header.local_steps == 1):
            return False
        return commitment == compute_commitment(
            header, self.gradient_root, self.salt, self.units, self.trajectory_root
        )


def reveal_from_item(item: codec.Item) -> Reveal:
    """The reveal of a decoded RLP list.

    Raises:
        RejectedInputError: MALFORMED.
    """
    fields = codec.as_list(item, max_length=8)
    if len(fields) < 7:
        raise RejectedInputError(RejectionReason.MALFORMED, f"{len(fields)} fields of a reveal")
    return Reveal(
        attempt_id=AttemptId(
            task_id=TaskId(codec.as_uint(fields[0], bits=64)),
            round_number=codec.as_uint(fields[1], bits=32),
            attempt_number=codec.as_uint(fields[2], bits=32),
        ),
        miner=Address(codec.as_bytes(fields[3], length=20)),
        units=codec.as_uint(fields[4], bits=32),
        salt=Hash32(codec.as_bytes(fields[5], length=32)),
        gradient_root=Hash32(codec.as_bytes(fields[6], length=32)),
        trajectory_root=(
            None if len(fields) == 7 else Hash32(codec.as_bytes(fields[7], length=32))
        ),
    )
