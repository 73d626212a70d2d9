import pytest

from tests.tools.training_vectors import VECTORS, encode_vector, path_of


@pytest.mark.parametrize("name", sorted(VECTORS))
def test_published_vectors_are_what_this_code_computes(name: str) -> None:
    assert path_of(name).read_text() == encode_vector(name)
