"""The assignment of samples to miners (docs/spec/training.md, section 3).

An attempt's seed determines a permutation of the training samples, which can be computed index by
index. Miners, by ascending address, take disjoint ranges of it.
The permutation is an eight-round Feistel network with SHA-256 as round function over the smallest
even number of bits that holds the indices. An image outside the range of indices is mapped again
until it is inside (cycle walking), so the permutation is a bijection of that range.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from eth_abi.abi import encode

from chain.crypto import keccak256, sha256
from chain.primitives import Address, Hash32
from chain.training.attempt import AttemptId

FEISTEL_ROUNDS: Final = 8
"""Four rounds suffice on large domains (Luby and Rackoff); a small data set has few bits in each
half, so there are eight."""

DOMAIN_SAMPLES: Final = b"POT samples v1\x00\x00"
"""Separates this permutation from other uses of the seed."""


def compute_seed(mix_hash: Hash32, attempt_id: AttemptId) -> Hash32:
    """The seed of an attempt.

    Args:
        mix_hash: The mix hash of the block after the one that opened the attempt. The opening block
            alone determines it (`chain.validation.compute_mix_hash`), so there is no wait.
        attempt_id: The attempt.
    """
    words = encode(
        ["bytes32", "uint256", "uint256", "uint256"],
        [mix_hash, attempt_id.task_id, attempt_id.round_number, attempt_id.attempt_number],
    )
    return keccak256(words)


def permute(seed: Hash32, domain: bytes, size: int, index: int) -> int:
    """The image of `index` under the permutation of range(size) that `seed` and `domain` draw."""
    assert 0 <= index < size
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    key = domain + seed
    image = _feistel(key, half_bits, index)
    while image >= size:
        image = _feistel(key, half_bits, image)
    return image


def _feistel(key: bytes, half_bits: int, value: int) -> int:
    mask = (1 << half_bits) - 1
    left, right = value >> half_bits, value & mask
    for i in range(FEISTEL_ROUNDS):
        digest = sha256(key + bytes([i]) + right.to_bytes(8, "big"))
        left, right = right, left ^ (int.from_bytes(digest[:8], "big") & mask)
    return left << half_bits | right


@dataclass(frozen=True, slots=True)
class Assignment:
    """The samples of each miner in one attempt.

    Attributes:
        seed: The attempt's seed.
        sample_count: The number of training samples.
        samples_per_unit: The number of samples in one unit.
        units: The units of each miner that takes part, by ascending address.
    """

    seed: Hash32
    sample_count: int
    samples_per_unit: int
    units: tuple[tuple[Address, int], ...]

    def units_of(self, miner: Address) -> int:
        """The units of `miner`; 0 if it does not take part."""
        return dict(self.units).get(miner, 0)

    def sample_range(self, miner: Address) -> tuple[int, int]:
        """The first place of `miner` in the permutation, and the number of its places."""
        first_unit = sum(units for address, units in self.units if address < miner)
        return (
            first_unit * self.samples_per_unit,
            self.units_of(miner) * self.samples_per_unit,
        )

    def sample_indices(self, miner: Address) -> tuple[int, ...]:
        """The samples of `miner`, in the order in which its gradient header binds them.

        This is the definition, for few samples; pot_common/samples.py computes many at once.
        """
        first, count = self.sample_range(miner)
        return tuple(
            permute(self.seed, DOMAIN_SAMPLES, self.sample_count, position)
            for position in range(first, first + count)
        )


def assign(
    seed: Hash32,
    miners: Sequence[tuple[Address, int]],
    sample_count: int,
    samples_per_unit: int,
) -> Assignment:
    """The samples of every miner that takes part; each gets the units that it declared.

    The ledger registers no units beyond the task's `max_units`, and no task has fewer samples than
    these units take. So there is always enough for all, and no miner can gain by its address, by
    splitting itself, or by having the seed chosen.

    Args:
        seed: The attempt's seed.
        miners: Address and declared units (at least 1) of each; every address once, in any order.
        sample_count: The number of training samples.
        samples_per_unit: The number of samples in one unit.
    """
    units = tuple(sorted(miners))
    assert len({address for address, _ in units}) == len(units)
    assert all(declared > 0 for _, declared in units)
    assert sum(declared for _, declared in units) * samples_per_unit <= sample_count
    return Assignment(seed, sample_count, samples_per_unit, units)
