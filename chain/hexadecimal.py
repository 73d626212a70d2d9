"""Bytes as hexadecimal text, in the form of Ethereum's JSON-RPC: 0x and two digits a byte."""


def to_hex(data: bytes) -> str:
    """The text of `data`: 0x and two lower-case digits a byte."""
    return "0x" + data.hex()


def from_hex(text: object) -> bytes:
    """The bytes of a hexadecimal text.

    Raises:
        ValueError: The text is not 0x followed by two hex digits a byte.
    """
    if not isinstance(text, str) or not text.startswith("0x"):
        raise ValueError("expected 0x and hex digits")
    data = bytes.fromhex(text[2:])
    # bytes.fromhex ignores whitespace, which would allow several texts for one value.
    if len(text) != 2 + 2 * len(data):
        raise ValueError("expected 0x and two hex digits a byte, without spaces")
    return data


def from_plain_hex(text: str) -> bytes:
    """The bytes of a hexadecimal text with or without 0x, as in geth's genesis files.

    Raises:
        ValueError: The text is not two hex digits a byte.
    """
    return from_hex(text if text.startswith("0x") else "0x" + text)
