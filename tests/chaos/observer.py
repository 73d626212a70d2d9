"""What is seen from outside: block hashes of every node, and how long nothing moved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Observations:
    """Block hashes by number and node, and the highest head over time."""

    started: float
    """Seconds of the clock that every time here is of."""
    hashes: dict[int, dict[str, set[int]]] = field(default_factory=dict)
    """By block number: each hash that was seen, with the nodes that gave it."""
    highest: int = 0
    """The highest head of any node."""
    grown_at: float = 0.0
    longest_stall_seconds: float = 0.0
    """Without a new block on any node."""

    def __post_init__(self) -> None:
        self.grown_at = self.started

    def see_hash(self, node: int, number: int, block_hash: str) -> None:
        """A node says that this is its final block of that number."""
        self.hashes.setdefault(number, {}).setdefault(block_hash, set()).add(node)

    def see_head(self, number: int, now: float) -> None:
        """Some node's head has that number."""
        self.longest_stall_seconds = max(self.longest_stall_seconds, now - self.grown_at)
        if number > self.highest:
            self.highest, self.grown_at = number, now

    def find_last(self, node: int) -> int:
        """The highest number of which the node gave a block; 0 if none."""
        return max(
            (n for n, seen in self.hashes.items() if any(node in nodes for nodes in seen.values())),
            default=0,
        )

    def list_forks(self) -> list[str]:
        """Every number of which nodes gave different final blocks."""
        return [
            f"block {number}: "
            + "; ".join(f"{name} at nodes {sorted(nodes)}" for name, nodes in sorted(seen.items()))
            for number, seen in sorted(self.hashes.items())
            if len(seen) > 1
        ]


@dataclass(frozen=True, slots=True)
class Silence:
    """Blocks whose certificates must not hold a validator's signature."""

    validator_index: int
    first: int
    last: int
    why: str


def list_broken_silences(
    silences: Sequence[Silence], signers: Mapping[int, Sequence[frozenset[int]]]
) -> list[str]:
    """Who signed where it must not; `signers` are those of each node's certificate of a block."""
    return [
        f"validator {silence.validator_index} signed block {number}: {silence.why}"
        for silence in silences
        for number in range(silence.first, silence.last + 1)
        if any(silence.validator_index in given for given in signers.get(number, ()))
    ]


def compare_set(
    added: Sequence[int], maybe_added: Sequence[int], held: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Elements that are lost, and those that nobody added or that are there more than once.

    Args:
        added: Acknowledged.
        maybe_added: Never acknowledged, and never refused.
        held: What a node holds at the end.
    """
    lost = sorted(set(added) - set(held))
    strange = sorted(set(held) - set(added) - set(maybe_added))
    twice = sorted({element for element in held if held.count(element) > 1})
    return lost, strange + twice
