import pytest

from chain.contracts.addresses import VALIDATOR_SET
from chain.contracts.set_storage import (
    SET_SLOTS,
    compute_set_hash,
    is_validator_set,
    read_next_set_hash,
)
from chain.primitives import ZERO_ADDRESS, ZERO_HASH, Address, BlockNumber

ADDRESSES = tuple(Address(bytes([n]) * 20) for n in range(1, 102))


@pytest.mark.parametrize(
    ("activation", "number", "expected"),
    [(0, 9, 11), (12, 10, 11), (11, 10, 22), (5, 10, 22)],
    ids=["none scheduled", "after the next", "the next", "long since"],
)
def test_the_scheduled_set_decides_from_its_activation_on(
    activation: int, number: int, expected: int
) -> None:
    words = dict(zip(SET_SLOTS, (11, 22, activation), strict=True))
    found = read_next_set_hash(
        lambda address, slot: words[slot] if address == VALIDATOR_SET else 0, BlockNumber(number)
    )
    assert int.from_bytes(found, "big") == expected


def test_without_the_contract_there_is_no_hash() -> None:
    assert read_next_set_hash(lambda _address, _slot: 0, BlockNumber(9)) == ZERO_HASH


def test_a_set_is_1_to_100_ascending_addresses() -> None:
    assert is_validator_set(ADDRESSES[:1])
    assert is_validator_set(ADDRESSES[:100])
    for wrong in (
        (),
        ADDRESSES,
        ADDRESSES[1::-1],
        ADDRESSES[:1] * 2,
        (ZERO_ADDRESS, *ADDRESSES[:3]),
        (ADDRESSES[0][:19],),
        (*ADDRESSES[:2], ADDRESSES[2] + b"\0"),
    ):
        assert not is_validator_set(wrong)


def test_hash_of_a_set_depends_on_every_member() -> None:
    hashes = {compute_set_hash(ADDRESSES[:count]) for count in range(100)}
    assert len(hashes) == 100
