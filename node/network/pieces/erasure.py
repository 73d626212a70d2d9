"""A Reed-Solomon erasure code over GF(2^8): any k of n pieces give the data back.

It is systematic: the first k pieces are the data itself, the others are rows of a Cauchy matrix
times the data, so any k rows are independent (Bloemer et al., "An XOR-Based Erasure-Resilient
Coding Scheme", 1995; docs/spec/wire.md, section 4).
"""

from collections.abc import Mapping
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

PIECES_LIMIT: Final = 128
"""The rows and columns of the Cauchy matrix need distinct elements of the field, which has 256."""

_POLYNOMIAL: Final = 0x11D
"""x^8 + x^4 + x^3 + x^2 + 1, whose root x generates the field's 255 units."""

_Bytes = NDArray[np.uint8]


@cache
def _tables() -> tuple[_Bytes, _Bytes]:
    """The products of any two elements, and the inverse of each (0 for 0)."""
    powers, value = [], 1
    for _ in range(255):
        powers.append(value)
        value = value << 1 ^ (_POLYNOMIAL if value & 0x80 else 0)
    logarithms = {power: exponent for exponent, power in enumerate(powers)}
    logs = np.array([logarithms.get(element, 0) for element in range(256)])
    products = np.array(powers, np.uint8)[np.add.outer(logs, logs) % 255]
    products[0, :] = products[:, 0] = 0
    inverses = np.array(powers, np.uint8)[-logs % 255]
    inverses[0] = 0
    return products, inverses


@cache
def _matrix(data_count: int, piece_count: int) -> _Bytes:
    """The identity above a Cauchy matrix; row i times the data gives piece i."""
    _, inverses = _tables()
    parity = np.arange(data_count, piece_count)
    return np.concatenate(
        [np.eye(data_count, dtype=np.uint8), inverses[parity[:, None] ^ np.arange(data_count)]]
    )


def _multiply(matrix: _Bytes, pieces: _Bytes) -> _Bytes:
    products, _ = _tables()
    result = np.zeros((len(matrix), pieces.shape[1]), np.uint8)
    for row, coefficients in zip(result, matrix, strict=True):
        for coefficient, piece in zip(coefficients, pieces, strict=True):
            if coefficient:
                row ^= products[coefficient][piece]
    return result


def _invert(matrix: _Bytes) -> _Bytes:
    """The inverse by Gauss-Jordan elimination; any k rows of `_matrix` are independent."""
    products, inverses = _tables()
    size = len(matrix)
    work = np.concatenate([matrix, np.eye(size, dtype=np.uint8)], axis=1)
    for column in range(size):
        pivot = column + int(np.argmax(work[column:, column] != 0))
        work[[column, pivot]] = work[[pivot, column]]
        work[column] = products[inverses[work[column, column]]][work[column]]
        for row in range(size):
            if row != column and work[row, column]:
                work[row] ^= products[work[row, column]][work[column]]
    return work[:, size:]


def count_piece_bytes(size_bytes: int, data_count: int) -> int:
    """The size of each piece of `size_bytes` of data."""
    return -(-size_bytes // data_count)


def encode(data: bytes, data_count: int, piece_count: int) -> tuple[bytes, ...]:
    """The coded pieces of `data`, all of one size; zeros pad the end of the data.

    Args:
        data: At least one byte.
        data_count: k, the number of pieces that give the data back.
        piece_count: n, at most PIECES_LIMIT.
    """
    assert data
    assert 1 <= data_count <= piece_count <= PIECES_LIMIT
    width = count_piece_bytes(len(data), data_count)
    padded = np.zeros(data_count * width, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    pieces = padded.reshape(data_count, width)
    parity = _multiply(_matrix(data_count, piece_count)[data_count:], pieces)
    return tuple(row.tobytes() for row in (*pieces, *parity))


def decode(
    pieces: Mapping[int, bytes], size_bytes: int, data_count: int, piece_count: int
) -> bytes:
    """The data that `encode` cut into pieces.

    Inconsistent pieces decode to arbitrary bytes; the caller must compare a hash.

    Args:
        pieces: At least k pieces by index, each of `count_piece_bytes`.
        size_bytes: The size of the data.
        data_count: k.
        piece_count: n.
    """
    width = count_piece_bytes(size_bytes, data_count)
    assert len(pieces) >= data_count
    assert all(len(piece) == width for piece in pieces.values())
    chosen = sorted(pieces)[:data_count]
    held = np.stack([np.frombuffer(pieces[index], np.uint8) for index in chosen])
    missing = [index for index in range(data_count) if index not in pieces]
    data = np.empty((data_count, width), np.uint8)
    for row, index in enumerate(chosen):
        if index < data_count:
            data[index] = held[row]
    if missing:
        inverse = _invert(_matrix(data_count, piece_count)[chosen])
        data[missing] = _multiply(inverse[missing], held)
    return data.tobytes()[:size_bytes]
