"""Inputs that are nearly valid, to reach a decoder's corner cases."""

import random

import rlp

INTERESTING = (
    b"",
    b"\x00",
    b"\x01",
    b"\x7f",
    b"\x80",
    b"\x81\x00",
    b"\xb8\x00",
    b"\xbf" + b"\xff" * 8,
    b"\xc0",
    b"\xc1\x80",
    b"\xf8\x00",
    b"\xff" * 9,
    b"\x00" * 32,
    b"\xff" * 32,
    b"\xff" * 65,
    b"\xc0" * 40,
    b"[" * 400,
    b'{"a":' * 100,
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00",
    (2**63).to_bytes(8, "big"),
)
"""Byte strings that decoders often handle wrongly."""


def mutate(source: random.Random, seeds: list[bytes]) -> bytes:
    """One of `seeds`, changed a few times; sometimes at the level of RLP items."""
    data = source.choice(seeds)
    if source.random() < 0.4 and len(data) < 2**16:
        data = _mutate_items(source, data)
    for _ in range(source.choice((0, 1, 1, 2, 4, 16))):
        data = _mutate_bytes(source, data, seeds)
    return data[: 2**20]


def _mutate_bytes(source: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    start = source.randrange(len(data) + 1)
    end = min(len(data), start + source.choice((0, 1, 1, 2, 8, 64, 1000)))
    match source.randrange(6):
        case 0:
            return data[:start]
        case 1:
            return data[:start] + data[end:]
        case 2:
            return data[:start] + data[start:end] * source.choice((2, 3, 50)) + data[end:]
        case 3:
            return data[:start] + source.choice(INTERESTING) + data[end:]
        case 4:
            other = source.choice(seeds)
            cut = source.randrange(len(other) + 1)
            return data[:start] + other[cut : cut + 200] + data[end:]
        case _:
            return data[:start] + source.randbytes(end - start) + data[end:]


def _mutate_items(source: random.Random, data: bytes) -> bytes:
    """Decode as RLP if that works, change one item somewhere, and encode again."""
    try:
        item = rlp.decode(data)
    except Exception:  # noqa: BLE001 - whatever it is, it is no RLP
        return data
    return bytes(rlp.encode(_change_item(source, item)))


def _change_item(source: random.Random, item: object) -> object:
    if isinstance(item, list | tuple) and item and source.random() < 0.85:
        children = list(item)
        index = source.randrange(len(children))
        match source.randrange(8):
            case 0:
                del children[index]
            case 1:
                children.insert(index, children[source.randrange(len(children))])
            case 2:
                children *= source.choice((2, 20))
            case _:
                children[index] = _change_item(source, children[index])
        return children
    match source.randrange(6):
        case 0:
            return []
        case 1:
            return b"" if isinstance(item, list | tuple) else [item]
        case 2:
            return source.choice(INTERESTING)
        case 3:
            return source.randbytes(source.choice((1, 2, 8, 20, 31, 32, 33, 65)))
        case 4:
            return (
                (2 ** source.choice((8, 16, 32, 63, 64, 256)) - source.randrange(2))
                .to_bytes(40)
                .lstrip(b"\0")
            )
        case _:
            nested: object = item
            for _ in range(source.choice((1, 15, 16, 17, 200))):
                nested = [nested]
            return nested
