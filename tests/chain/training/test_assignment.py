from hypothesis import given, settings
from hypothesis import strategies as st

from chain.crypto import keccak256, sha256
from chain.primitives import Hash32, TaskId
from chain.training.assignment import DOMAIN_SAMPLES, assign, compute_seed, permute
from chain.training.attempt import AttemptId
from tests.worlds.training import miner_address

SEED = sha256(b"seed")


def test_seed_is_the_hash_of_four_words() -> None:
    mix_hash = sha256(b"mix")
    words = mix_hash + b"".join(i.to_bytes(32, "big") for i in (3, 7, 1))
    assert compute_seed(mix_hash, AttemptId(TaskId(3), 7, 1)) == keccak256(words)


@settings(max_examples=40)
@given(size=st.integers(1, 300), seed=st.binary(min_size=32, max_size=32))
def test_permute_is_a_permutation_of_exactly_the_indices(size: int, seed: bytes) -> None:
    images = [permute(Hash32(seed), DOMAIN_SAMPLES, size, index) for index in range(size)]
    assert sorted(images) == list(range(size))


def test_every_index_is_drawn_about_equally_often() -> None:
    """The first of 10 indices over 2 000 seeds: chi-squared with 9 degrees of freedom."""
    counts = [0] * 10
    for i in range(2_000):
        counts[permute(sha256(i.to_bytes(4, "big")), DOMAIN_SAMPLES, 10, 0)] += 1
    assert sum((count - 200) ** 2 / 200 for count in counts) < 27.9  # p = 0.001


def test_miners_take_disjoint_ranges_by_ascending_address() -> None:
    given_ = [(miner_address(3), 1), (miner_address(1), 2), (miner_address(2), 1)]
    then = assign(SEED, given_, sample_count=50, samples_per_unit=8)
    assert then.units == ((miner_address(1), 2), (miner_address(2), 1), (miner_address(3), 1))
    taken = [i for number in (1, 2, 3) for i in then.sample_indices(miner_address(number))]
    assert taken == [permute(SEED, DOMAIN_SAMPLES, 50, index) for index in range(32)]
    assert len(set(taken)) == 32
    assert then.sample_indices(miner_address(9)) == ()


def test_order_of_registration_does_not_matter() -> None:
    miners = [(miner_address(number), number) for number in (4, 2, 9, 1)]
    assert assign(SEED, miners, 1_000, 10) == assign(SEED, sorted(miners), 1_000, 10)


@settings(max_examples=40)
@given(
    declared=st.lists(st.integers(1, 40), max_size=12),
    samples_per_unit=st.integers(1, 9),
    seed=st.binary(min_size=32, max_size=32),
)
def test_each_miner_gets_its_units_and_no_sample_twice(
    declared: list[int], samples_per_unit: int, seed: bytes
) -> None:
    miners = tuple((miner_address(number), units) for number, units in enumerate(declared))
    needed = sum(declared) * samples_per_unit
    then = assign(Hash32(seed), miners, max(1, needed + 7), samples_per_unit)
    assert then.units == miners
    taken = [i for miner, _ in miners for i in then.sample_indices(miner)]
    assert len(taken) == len(set(taken)) == needed
