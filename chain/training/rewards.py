"""The tree of cumulative rewards of a task, and proofs in it (docs/spec/training.md, section 9).

A task has one root. A leaf holds what an account has earned since the task began, so an old proof
cannot pay twice, and an account that skips rounds loses nothing. Leaf and node hashes are those of
OpenZeppelin's MerkleProof, which verifies proofs, and StandardMerkleTree, which builds the tree.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from chain.crypto import keccak256
from chain.primitives import ZERO_HASH, Address, Hash32, TaskId
from chain.training.sorted_tree import build_nodes, build_proof

EMPTY_ROOT: Final = ZERO_HASH
"""The root before any account has earned something: no leaf hashes to it, so no claim passes."""


def compute_leaf(
    chain_id: int, distributor: Address, task_id: TaskId, account: Address, cumulative: int
) -> Hash32:
    """keccak256(keccak256(abi.encode(chainId, distributor, task, account, cumulative))).

    It is hashed twice, so that no inner node can be passed off as a leaf.
    """
    # All words are static, so ABI encoding puts them one after the other; eth_abi takes ten times
    # as long, and a task may have paid many accounts.
    words = (
        chain_id.to_bytes(32, "big"),
        distributor.rjust(32, b"\0"),
        task_id.to_bytes(32, "big"),
        account.rjust(32, b"\0"),
        cumulative.to_bytes(32, "big"),
    )
    return keccak256(keccak256(b"".join(words)))


@dataclass(frozen=True, slots=True)
class RewardTree:
    """The cumulative rewards of a task after a round.

    Attributes:
        nodes: The tree as an array: the children of i are 2i + 1 and 2i + 2, the leaves are last,
            in descending order of their hashes.
        leaves: Each account's leaf.
    """

    nodes: tuple[Hash32, ...]
    leaves: Mapping[Address, Hash32]

    @property
    def root(self) -> Hash32:
        """The root that validators post with a result."""
        return self.nodes[0] if self.nodes else EMPTY_ROOT

    def proof(self, account: Address) -> tuple[Hash32, ...] | None:
        """The sibling hashes from an account's leaf to the root; None if it has earned nothing."""
        leaf = self.leaves.get(account)
        return None if leaf is None else build_proof(self.nodes, leaf)


def build_reward_tree(
    chain_id: int, distributor: Address, task_id: TaskId, cumulative: Mapping[Address, int]
) -> RewardTree:
    """The tree over what each account has earned in all; accounts with 0 have no leaf."""
    leaves = {
        account: compute_leaf(chain_id, distributor, task_id, account, amount)
        for account, amount in sorted(cumulative.items())
        if amount > 0
    }
    return RewardTree(build_nodes(leaves.values()), leaves)
