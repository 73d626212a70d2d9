"""Bytes as text: 0x and two hex digits a byte, as Ethereum's JSON-RPC writes them."""


def to_hex(data: bytes) -> str:
    """`data` as 0x and two lower-case hex digits a byte."""
    return "0x" + data.hex()


def from_hex(text: object) -> bytes:
    """The bytes that `text` writes.

    Raises:
        ValueError: It is not a string of 0x and two hex digits a byte.
    """
    if not isinstance(text, str) or not text.startswith("0x"):
        raise ValueError("expected 0x and hex digits")
    data = bytes.fromhex(text[2:])
    # bytes.fromhex skips whitespace, which would give one value many spellings.
    if len(text) != 2 + 2 * len(data):
        raise ValueError("expected 0x and two hex digits a byte, without spaces")
    return data


def from_plain_hex(text: str) -> bytes:
    """The bytes of hex digits with or without 0x, as people and geth's genesis files write them.

    Raises:
        ValueError: It is not two hex digits a byte.
    """
    return from_hex(text if text.startswith("0x") else "0x" + text)
