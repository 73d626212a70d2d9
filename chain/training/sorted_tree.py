"""Merkle trees with sorted pairs, as contracts verify them (docs/spec/training.md, section 9).

They are OpenZeppelin's StandardMerkleTree: node i is the hash of its children 2i + 1 and 2i + 2,
the smaller first; the leaves are last, in descending order.
"""

from collections.abc import Iterable, Sequence

from chain.crypto import keccak256
from chain.primitives import ZERO_HASH, Hash32


def _hash_pair(one: Hash32, other: Hash32) -> Hash32:
    return keccak256(min(one, other) + max(one, other))


def build_nodes(leaves: Iterable[Hash32]) -> tuple[Hash32, ...]:
    """The nodes of the tree over these leaves, the root first; none without leaves."""
    ordered = sorted(leaves, reverse=True)
    nodes = [ZERO_HASH] * (len(ordered) - 1) + ordered
    for i in reversed(range(len(ordered) - 1)):
        nodes[i] = _hash_pair(nodes[2 * i + 1], nodes[2 * i + 2])
    return tuple(nodes)


def build_proof(nodes: Sequence[Hash32], leaf: Hash32) -> tuple[Hash32, ...]:
    """The sibling hashes from a leaf of the tree to the root."""
    position = nodes.index(leaf, len(nodes) // 2)
    siblings = []
    while position > 0:
        siblings.append(nodes[position + 1 if position % 2 else position - 1])
        position = (position - 1) // 2
    return tuple(siblings)
