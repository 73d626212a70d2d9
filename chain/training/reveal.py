"""The reveal, with which a miner opens its commitment (docs/spec/training.md, section 10)."""

from dataclasses import dataclass
from typing import Final

from chain import codec
from chain.primitives import Address, Hash32, TaskId
from chain.training.attempt import AttemptId
from chain.training.encoding import GradientHeader, compute_commitment

REVEAL_LIMIT_BYTES: Final = 160
"""The longest encoding: two hashes, an address and four integers."""


@dataclass(frozen=True, slots=True)
class Reveal:
    """The values that a miner claims to have committed to."""

    attempt_id: AttemptId
    miner: Address
    units: int
    salt: Hash32
    gradient_root: Hash32

    def to_item(self) -> codec.Encodable:
        """The seven fields, for RLP."""
        return [
            self.attempt_id.task_id,
            self.attempt_id.round_number,
            self.attempt_id.attempt_number,
            self.miner,
            self.units,
            self.salt,
            self.gradient_root,
        ]

    def encode(self) -> bytes:
        """The RLP list of the seven fields."""
        return codec.encode(self.to_item())

    def opens(self, commitment: Hash32, header: GradientHeader) -> bool:
        """Whether `commitment` commits to these values for a gradient with this header."""
        is_same = (header.attempt_id, header.miner) == (self.attempt_id, self.miner)
        opened = compute_commitment(header, self.gradient_root, self.salt, self.units)
        return is_same and opened == commitment


def reveal_from_item(item: codec.Item) -> Reveal:
    """The reveal of a decoded RLP list.

    Raises:
        RejectedInputError: MALFORMED.
    """
    fields = codec.as_list(item, length=7)
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
    )
