from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.network.pieces.erasure import PIECES_LIMIT, count_piece_bytes, decode, encode


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_k_pieces_give_the_data_back(data: st.DataObject) -> None:
    content = data.draw(st.binary(min_size=1, max_size=400))
    piece_count = data.draw(st.integers(1, 20))
    data_count = data.draw(st.integers(1, piece_count))
    pieces = encode(content, data_count, piece_count)
    held = data.draw(st.permutations(range(piece_count)))[:data_count]
    got = decode({index: pieces[index] for index in held}, len(content), data_count, piece_count)
    assert got == content


def test_every_choice_of_k_pieces_decodes() -> None:
    content = bytes(range(1, 12))
    pieces = encode(content, 3, 7)
    for held in combinations(range(7), 3):
        assert decode({index: pieces[index] for index in held}, 11, 3, 7) == content


def test_first_k_pieces_are_the_data() -> None:
    assert encode(b"abcdefg", 3, 5)[:3] == (b"abc", b"def", b"g\0\0")
    assert count_piece_bytes(7, 3) == 3


def test_code_equals_the_formula_of_the_specification() -> None:
    # Computed by hand: rows 2 and 3 over columns 0 and 1 are 1/2, 1/3 and 1/3, 1/2 in GF(2^8).
    half, third = 0x8E, 0xF4
    assert encode(b"\x01\x00", 2, 4) == (b"\x01", b"\x00", bytes([half]), bytes([third]))
    assert encode(b"\x00\x01", 2, 4)[2:] == (bytes([third]), bytes([half]))


@pytest.mark.parametrize("lost", [0, 1, 33])
def test_data_of_100_validators_survives_the_loss_of_a_third(lost: int) -> None:
    content = bytes(i * i % 251 for i in range(10_000))
    pieces = encode(content, 66, 99)
    held = {index: pieces[index] for index in range(lost, lost + 66)}
    assert decode(held, len(content), 66, 99) == content


def test_largest_number_of_pieces_decodes() -> None:
    pieces = encode(b"x" * 200, 64, PIECES_LIMIT)
    held = {index: pieces[index] for index in range(64, PIECES_LIMIT)}
    assert decode(held, 200, 64, PIECES_LIMIT) == b"x" * 200
