from eth_abi.abi import encode
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.crypto import keccak256
from chain.primitives import Address, TaskId
from chain.training.rewards import (
    EMPTY_ROOT,
    build_reward_tree,
    compute_leaf,
)
from tests.worlds.training import miner_address, verify_reward_proof

DISTRIBUTOR = miner_address(0xDD)
TASK = TaskId(2)


def test_leaf_is_hashed_twice() -> None:
    words = encode(
        ["uint256", "address", "uint256", "address", "uint256"],
        [5, DISTRIBUTOR, 2, miner_address(1), 10**18],
    )
    leaf = compute_leaf(5, DISTRIBUTOR, TASK, miner_address(1), 10**18)
    assert leaf == keccak256(keccak256(words))


def test_tree_without_rewards_has_the_empty_root() -> None:
    tree = build_reward_tree(5, DISTRIBUTOR, TASK, {miner_address(1): 0})
    assert tree.root == EMPTY_ROOT
    assert tree.proof(miner_address(1)) is None


def test_one_account_is_its_own_root() -> None:
    tree = build_reward_tree(5, DISTRIBUTOR, TASK, {miner_address(1): 7})
    assert tree.root == compute_leaf(5, DISTRIBUTOR, TASK, miner_address(1), 7)
    assert tree.proof(miner_address(1)) == ()


@settings(max_examples=50)
@given(
    st.dictionaries(
        st.binary(min_size=20, max_size=20).map(Address), st.integers(1, 2**128), max_size=20
    )
)
def test_every_proof_verifies_for_its_amount_and_no_other(amounts: dict[Address, int]) -> None:
    tree = build_reward_tree(5, DISTRIBUTOR, TASK, amounts)
    assert tree == build_reward_tree(5, DISTRIBUTOR, TASK, dict(reversed(amounts.items())))
    for account, amount in amounts.items():
        proof = tree.proof(account)
        assert proof is not None
        leaf = compute_leaf(5, DISTRIBUTOR, TASK, account, amount)
        assert verify_reward_proof(tree.root, leaf, proof)
        more = compute_leaf(5, DISTRIBUTOR, TASK, account, amount + 1)
        assert not verify_reward_proof(tree.root, more, proof)
