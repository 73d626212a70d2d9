"""The validator set, and how many of its votes are enough (docs/spec/consensus.md, section 2)."""

from dataclasses import dataclass

from chain.primitives import Address


def compute_max_faulty(n: int) -> int:
    """f, the largest number of Byzantine validators that a set of `n` tolerates."""
    return (n - 1) // 3


def compute_quorum(n: int) -> int:
    """The quorum q = ceil(2n/3): any two groups of q validators share an honest one.

    2f + 1 is too few unless n = 3f + 1: with n = 5, two groups of 3 may share only the faulty one.
    """
    return (2 * n + 2) // 3


@dataclass(frozen=True, slots=True)
class ValidatorSet:
    """The validators of a block by ascending address, and the operator account of each."""

    validators: tuple[Address, ...]
    operators: tuple[Address, ...]

    @property
    def max_faulty(self) -> int:
        """F of this set."""
        return compute_max_faulty(len(self.validators))

    @property
    def quorum(self) -> int:
        """Q of this set, counted in distinct validators."""
        return compute_quorum(len(self.validators))

    def find_operator(self, operator: Address | None) -> int | None:
        """The validator index of an operator account; None if it is no validator's operator."""
        return self.operators.index(operator) if operator in self.operators else None
