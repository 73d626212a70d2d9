import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.crypto import merkle_leaf, merkle_path, merkle_root, merkle_root_of_path

INPUTS = ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")
LAST_INPUT = "606162636465666768696a6b6c6d6e6f"
ROOT_OF_EIGHT = "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


def test_tree_hash_is_that_of_certificate_transparency() -> None:
    """The inputs and the root are those of the reference log of RFC 6962."""
    leaves = [merkle_leaf(bytes.fromhex(each)) for each in (*INPUTS, LAST_INPUT)]
    assert merkle_root(leaves).hex() == ROOT_OF_EIGHT
    assert leaves[0].hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"


@given(st.integers(1, 99), st.data())
def test_path_proves_a_leaf_at_one_position_only(count: int, data: st.DataObject) -> None:
    leaves = [merkle_leaf(bytes([i])) for i in range(count)]
    root = merkle_root(leaves)
    index = data.draw(st.integers(0, count - 1))
    path = merkle_path(leaves, index)
    assert merkle_root_of_path(leaves[index], path, index, count) == root
    for other in {0, index - 1, index + 1, count - 1} - {index, -1, count}:
        assert merkle_root_of_path(leaves[index], path, other, count) != root


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_path_of_the_wrong_length_is_refused(count: int) -> None:
    leaves = [merkle_leaf(bytes([i])) for i in range(count)]
    path = merkle_path(leaves, 0)
    longer = (*path, leaves[0])
    assert merkle_root_of_path(leaves[0], longer, 0, count) is None
    if path:
        assert merkle_root_of_path(leaves[0], path[:-1], 0, count) != merkle_root(leaves)
