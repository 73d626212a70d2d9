"""The samples that are computed at once are those of the definition."""

from hypothesis import given, settings
from hypothesis import strategies as st

from chain.crypto import sha256
from chain.training.assignment import DOMAIN_SAMPLES, permute
from pot_common.samples import compute_samples

SEED = sha256(b"seed")


@settings(max_examples=60)
@given(data=st.data(), size=st.one_of(st.integers(1, 300), st.integers(1, 2**32)))
def test_samples_of_a_stretch_are_those_of_the_definition(data: st.DataObject, size: int) -> None:
    count = data.draw(st.integers(0, min(size, 40)))
    first = data.draw(st.integers(0, size - count))
    assert compute_samples(SEED, size, first, count).tolist() == [
        permute(SEED, DOMAIN_SAMPLES, size, index) for index in range(first, first + count)
    ]


def test_all_samples_are_permuted_at_once() -> None:
    size = 10_000
    images = compute_samples(SEED, size, 0, size)
    assert sorted(images.tolist()) == list(range(size))
    assert images[77] == permute(SEED, DOMAIN_SAMPLES, size, 77)
