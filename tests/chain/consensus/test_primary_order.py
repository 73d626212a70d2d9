"""Quorums and turns (docs/spec/consensus.md, sections 2 and 3)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.consensus.primary_order import compute_primary_order
from chain.primitives import Address, BlockNumber
from chain.types.validator_set import compute_max_faulty, compute_quorum
from tests.worlds.replica import validators_of


@pytest.mark.parametrize(
    ("n", "f", "q"),
    [
        (1, 0, 1),
        (2, 0, 2),
        (3, 0, 2),
        (4, 1, 3),
        (5, 1, 4),
        (6, 1, 4),
        (7, 2, 5),
        (10, 3, 7),
        (100, 33, 67),
    ],
)
def test_quorum_is_two_thirds_rounded_up(n: int, f: int, q: int) -> None:
    assert (compute_max_faulty(n), compute_quorum(n)) == (f, q)


@given(st.integers(1, 1_000))
def test_two_quorums_share_an_honest_validator_and_the_honest_are_a_quorum(n: int) -> None:
    # Rule S1: two quorums share 2q - n validators, of which at most f lie.
    f, q = compute_max_faulty(n), compute_quorum(n)
    assert 2 * q - n > f
    assert n - f >= q


def test_first_block_starts_with_the_first_validator() -> None:
    assert compute_primary_order(BlockNumber(1), validators_of(4), []) == (0, 1, 2, 3)


def test_turns_go_on_after_the_parents_coinbase() -> None:
    validators = validators_of(4)
    assert compute_primary_order(BlockNumber(2), validators, [validators[2]]) == (3, 0, 1, 2)
    assert compute_primary_order(BlockNumber(2), validators, [validators[3]]) == (0, 1, 2, 3)


def test_turn_after_a_coinbase_outside_the_set_is_the_next_larger_address() -> None:
    validators = validators_of(4)
    between = Address(bytes([17] * 19 + [18]))
    assert compute_primary_order(BlockNumber(2), validators, [between]) == (2, 3, 0, 1)


def test_validators_without_a_block_in_the_window_wait_at_the_end() -> None:
    validators = validators_of(4)
    coinbases = [validators[index] for index in (0, 1, 3)] * 6
    # Validator 3 proposed the parent; validator 2 proposed none of the last sixteen blocks.
    assert compute_primary_order(BlockNumber(19), validators, coinbases) == (0, 1, 3, 2)
    # The rule begins when 4n blocks exist.
    assert compute_primary_order(BlockNumber(16), validators, coinbases[:15]) == (0, 1, 2, 3)


def test_every_32nd_block_starts_with_a_fixed_validator_active_or_not() -> None:
    validators = validators_of(4)
    coinbases = [validators[index] for index in (0, 1, 3)] * 40
    assert compute_primary_order(BlockNumber(64), validators, coinbases[:63])[0] == 2
    assert compute_primary_order(BlockNumber(64), validators, coinbases[:63])[1:] == (0, 1, 3)


def test_the_turn_after_a_probe_goes_on_from_the_block_before_it() -> None:
    validators = validators_of(4)
    coinbases = [validators[index % 4] for index in range(31)] + [validators[0]]
    # Block 31 was validator 2's, block 32 the probe; block 33 is 3's.
    assert compute_primary_order(BlockNumber(33), validators, coinbases) == (3, 0, 1, 2)


@given(st.integers(1, 12), st.integers(1, 300), st.randoms(use_true_random=False))
def test_order_is_a_permutation_that_looks_at_4n_plus_2_headers(
    n: int, number: int, random
) -> None:
    validators = validators_of(n)
    coinbases = [random.choice(validators) for _ in range(number - 1)]
    order = compute_primary_order(BlockNumber(number), validators, coinbases)
    assert sorted(order) == list(range(n))
    assert order == compute_primary_order(
        BlockNumber(number), validators, coinbases[-(4 * n + 2) :]
    )
