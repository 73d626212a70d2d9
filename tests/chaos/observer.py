"""Observations from outside: every node's blocks, their signers, and the longest stall.

Validators are named by the index of their node.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from tests.chaos.manifest import compute_quorum

STRANGER: Final = -1
"""Stands for an author that is no node of the run."""

Sets: TypeAlias = tuple[tuple[int, frozenset[int]], ...]
"""The validator sets, each with the first block that it decides; the genesis set has block 1."""


@dataclass(slots=True)
class Observations:
    """Block hashes by number and node, and the highest head over time."""

    started: float
    """The start of the run, on the monotonic clock of all times here."""
    hashes: dict[int, dict[str, set[int]]] = field(default_factory=dict)
    """For each block number: every hash that was seen, with the nodes that gave it."""
    signers: dict[int, dict[int, frozenset[int]]] = field(default_factory=dict)
    """For each block number and node: the authors of the signatures in the node's certificate."""
    proposers: dict[int, int] = field(default_factory=dict)
    """The builder of each block number."""
    highest: int = 0
    """The highest head of any node."""
    grown_at: float = 0.0
    longest_stall_seconds: float = 0.0
    """The longest time without a new block on any node."""

    def __post_init__(self) -> None:
        self.grown_at = self.started

    def see_hash(self, node: int, number: int, block_hash: str) -> None:
        """Note the final block that a node gave for a number."""
        self.hashes.setdefault(number, {}).setdefault(block_hash, set()).add(node)

    def see_certificate(self, node: int, number: int, signers: frozenset[int]) -> None:
        """Note the signers in a node's certificate of a block."""
        self.signers.setdefault(number, {})[node] = signers

    def find_signed(self, validator: int) -> list[int]:
        """The blocks that a validator signed, by any node's certificate."""
        return sorted(
            number
            for number, given in self.signers.items()
            if any(validator in signers for signers in given.values())
        )

    def find_proposed(self, validator: int) -> list[int]:
        """The blocks that a validator built."""
        return sorted(number for number, each in self.proposers.items() if each == validator)

    def see_head(self, number: int, now: float) -> None:
        """Note the number of a node's head."""
        self.longest_stall_seconds = max(self.longest_stall_seconds, now - self.grown_at)
        if number > self.highest:
            self.highest, self.grown_at = number, now

    def find_last(self, node: int) -> int:
        """The highest block number that a node gave; 0 if none."""
        return max(
            (n for n, seen in self.hashes.items() if any(node in nodes for nodes in seen.values())),
            default=0,
        )

    def list_forks(self) -> list[str]:
        """Every number for which nodes gave different final blocks."""
        return [
            f"block {number}: "
            + "; ".join(f"{name} at nodes {sorted(nodes)}" for name, nodes in sorted(seen.items()))
            for number, seen in sorted(self.hashes.items())
            if len(seen) > 1
        ]


@dataclass(frozen=True, slots=True)
class Silence:
    """Blocks whose certificates must not hold a validator's signature."""

    validator: int
    first: int
    last: int
    why: str


def list_broken_silences(silences: Sequence[Silence], seen: Observations) -> list[str]:
    """The silences that a signature in a certificate breaks."""
    return [
        f"validator {silence.validator} signed block {number}: {silence.why}"
        for silence in silences
        for number in seen.find_signed(silence.validator)
        if silence.first <= number <= silence.last
    ]


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A change of the set, from its event."""

    activation_block: int
    validator: int
    is_join: bool


def compute_sets(genesis: frozenset[int], scheduled: Sequence[Scheduled], last: int) -> Sets:
    """The sets that decide the blocks up to `last`, if these are all changes."""
    sets = [(1, genesis)]
    for change in scheduled:
        if change.activation_block <= last:
            before, moved = sets[-1][1], {change.validator}
            after = before | moved if change.is_join else before - moved
            sets.append((change.activation_block, after))
    return tuple(sets)


def find_members(sets: Sets, number: int) -> frozenset[int]:
    """The set that decides a block."""
    return next(members for first, members in reversed(sets) if first <= number)


def find_activation(sets: Sets, validator: int, *, is_join: bool) -> int | None:
    """The block from which on a validator is in all sets, or in none; None if neither holds yet."""
    found = None
    for first, members in sets:
        if (validator in members) is not is_join:
            found = None
        elif found is None:
            found = first
    return found


def list_disagreements(claims: Mapping[str, Sets]) -> list[str]:
    """The nodes' claims about the sets, if they differ."""
    by_claim: dict[Sets, list[str]] = {}
    for name, sets in claims.items():
        by_claim.setdefault(sets, []).append(name)
    if len(by_claim) <= 1:
        return []
    return [
        f"{', '.join(names)}: " + "; ".join(f"{sorted(who)} from block {n} on" for n, who in sets)
        for sets, names in by_claim.items()
    ]


def list_wrong_deciders(seen: Observations, sets: Sets, last: int) -> list[str]:
    """The blocks up to `last` that an outsider built or that less than a quorum certified."""
    wrong = []
    for number, given in sorted(seen.signers.items()):
        if number > last:
            break
        members = find_members(sets, number)
        if seen.proposers[number] not in members:
            wrong.append(f"block {number} was built by {seen.proposers[number]}, no member")
        for node, signers in sorted(given.items()):
            if not signers <= members:
                wrong.append(
                    f"block {number} at node {node} is signed by {sorted(signers - members)}, "
                    "no members"
                )
            if len(signers & members) < compute_quorum(len(members)):
                wrong.append(
                    f"block {number} at node {node} is signed by {len(signers & members)} of "
                    f"{len(members)} members only"
                )
    return wrong


def compare_set(
    added: Sequence[int], maybe_added: Sequence[int], held: Sequence[int]
) -> tuple[list[int], list[int]]:
    """The elements that are lost, and those that no client added or that occur more than once.

    Args:
        added: Elements with a receipt.
        maybe_added: Elements without an answer.
        held: The elements that a node holds at the end.
    """
    lost = sorted(set(added) - set(held))
    strange = sorted(set(held) - set(added) - set(maybe_added))
    twice = sorted({element for element in held if held.count(element) > 1})
    return lost, strange + twice
