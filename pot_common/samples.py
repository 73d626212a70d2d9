"""The samples of an assignment, many at once (docs/spec/training.md, section 3).

chain/training/assignment.py has the definition, which takes eight hashes a sample. A round function
of the permutation has only as many arguments as half of the bits of an index have values; so here
each is hashed once, and the rest is done on whole arrays.
"""

import numpy as np
from numpy.typing import NDArray

from chain.crypto import sha256
from chain.primitives import Hash32
from chain.training.assignment import DOMAIN_SAMPLES, FEISTEL_ROUNDS

Indices = NDArray[np.uint64]
"""Indices of samples."""


Places = NDArray[np.int64]
"""Places of samples in an assignment."""


def compute_samples(seed: Hash32, sample_count: int, first: int, count: int) -> Indices:
    """The samples at `count` places of the permutation that `seed` draws, from `first` on."""
    return Samples(seed, sample_count, first, count)[np.arange(count)]


class Samples:
    """The samples of an assignment. Each is computed when it is asked for.

    A check goes on in pieces, so the samples of all pieces must not be computed in each.
    """

    def __init__(self, seed: Hash32, sample_count: int, first: int, count: int) -> None:
        """Take `count` places of the permutation that `seed` draws, from `first` on."""
        assert 0 <= first <= first + count <= sample_count
        half_bits = max(1, ((sample_count - 1).bit_length() + 1) // 2)
        self._tables = _RoundTables(DOMAIN_SAMPLES + seed, half_bits)
        self._sample_count = sample_count
        self._first = first
        self._count = count

    def __len__(self) -> int:
        """The number of samples."""
        return self._count

    def __getitem__(self, places: Places) -> Indices:
        """The samples at these places, each from 0 to the number of samples."""
        images = self._tables.map((self._first + places).astype(np.uint64))
        # An image outside the range of samples is mapped again until it is inside.
        while (outside := np.flatnonzero(images >= self._sample_count)).size:
            images[outside] = self._tables.map(images[outside])
        return images


class _RoundTables:
    """The round functions as tables, whose entries are hashed when they are first needed.

    A task has at most 2**32 rows, so all tables together take 5 MB at most.
    """

    def __init__(self, key: bytes, half_bits: int) -> None:
        self._key = key
        self._half_bits = np.uint64(half_bits)
        self._mask = (1 << half_bits) - 1
        self._values = np.zeros((FEISTEL_ROUNDS, 1 << half_bits), np.uint64)
        self._is_known = np.zeros((FEISTEL_ROUNDS, 1 << half_bits), np.bool_)

    def map(self, values: Indices) -> Indices:
        """The network's output for each value."""
        left, right = values >> self._half_bits, values & np.uint64(self._mask)
        for number in range(FEISTEL_ROUNDS):
            self._hash_missing(number, right)
            left, right = right, left ^ self._values[number][right]
        return left << self._half_bits | right

    def _hash_missing(self, number: int, halves: Indices) -> None:
        is_needed = np.zeros(self._mask + 1, np.bool_)
        is_needed[halves] = True
        for half in np.flatnonzero(is_needed & ~self._is_known[number]).tolist():
            digest = sha256(self._key + bytes([number]) + half.to_bytes(8, "big"))
            self._values[number, half] = int.from_bytes(digest[:8], "big") & self._mask
        self._is_known[number] |= is_needed
