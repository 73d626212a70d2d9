"""The two objects that clients use: a register and a set, as code in the genesis of the network."""

import re
from typing import Final

from chain.primitives import Address

REGISTER: Final = Address(bytes(18) + b"\xc4\x01")
"""The register's code.

Called without data it returns the value; with one word it writes that; with two it replaces the
first by the second, and reverts if the value is not the first.
"""

SET: Final = Address(bytes(18) + b"\xc4\x02")
"""The set's code.

Called without data it returns the number of elements and then each, in the order of their addition;
with one word it adds that, also if it is there.
"""

_OPCODES: Final = {
    name: int(code, 16)
    for name, code in re.findall(
        r"(\w+) (\w\w)",
        "STOP 00 ADD 01 LT 10 EQ 14 ISZERO 15 SHL 1b CALLDATALOAD 35 CALLDATASIZE 36 MSTORE 52 "
        "SLOAD 54 SSTORE 55 JUMPI 57 JUMPDEST 5b PUSH0 5f DUP1 80 DUP2 81 SWAP1 90 RETURN f3 "
        "REVERT fd",
    )
}


def assemble(text: str) -> bytes:
    """The code of `text`: opcodes, numbers below 256 to push, `name:` here and `@name` there."""
    words = text.split()
    places: dict[str, int] = {}
    length = 0
    for word in words:
        if word.endswith(":"):
            places[word[:-1]] = length
        length += 1 if word.endswith(":") or word in _OPCODES else 2
    code = bytearray()
    for word in words:
        if word.endswith(":"):
            code.append(_OPCODES["JUMPDEST"])
        elif word in _OPCODES:
            code.append(_OPCODES[word])
        else:
            code += bytes([0x60, places[word[1:]] if word.startswith("@") else int(word)])
    return bytes(code)


REGISTER_CODE: Final = assemble(
    """
    CALLDATASIZE @call JUMPI
    PUSH0 SLOAD PUSH0 MSTORE 32 PUSH0 RETURN
    call: CALLDATASIZE 32 EQ @write JUMPI
    PUSH0 CALLDATALOAD PUSH0 SLOAD EQ @swap JUMPI
    PUSH0 PUSH0 REVERT
    swap: 32 CALLDATALOAD PUSH0 SSTORE STOP
    write: PUSH0 CALLDATALOAD PUSH0 SSTORE STOP
    """
)

SET_CODE: Final = assemble(
    """
    CALLDATASIZE @add JUMPI
    PUSH0
    next: DUP1 SLOAD DUP2 5 SHL MSTORE
    1 ADD DUP1 PUSH0 SLOAD LT ISZERO @next JUMPI
    5 SHL PUSH0 RETURN
    add: PUSH0 SLOAD 1 ADD DUP1 PUSH0 SSTORE
    PUSH0 CALLDATALOAD SWAP1 SSTORE STOP
    """
)


def encode_words(*values: int) -> bytes:
    """The numbers as words of 32 bytes."""
    return b"".join(value.to_bytes(32, "big") for value in values)


def decode_words(data: bytes) -> tuple[int, ...]:
    """The numbers in `data`, a word each."""
    return tuple(int.from_bytes(data[i : i + 32], "big") for i in range(0, len(data), 32))
