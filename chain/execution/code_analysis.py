"""What the run loop must know of a code before it runs (docs/spec/state-transition.md, section 8).

A transaction pays for the analysis of each code it runs, once, and keeps it until its end
(`chain.execution.effort.EffortMeter`). The cache here only saves time: what it holds changes no
transaction's effort, and strangers can fill it.
"""

from functools import lru_cache
from typing import Final, NamedTuple

CODE_CACHE_SIZE: Final = 256
"""How many codes are kept after the transaction that ran them, each with its analysis. Together
they take at most 19 MiB."""

CACHED_CODE_BYTES: Final = 24_576
"""The longest code in the cache: that of a contract is no longer (EIP-170), but init code may be,
and code that a request gives for a call."""


class CodeAnalysis(NamedTuple):
    """A code as the run loop needs it. Both parts have one byte for each of the code, and 33."""

    code: bytes
    """The code followed by STOPs, so that no PUSH reads beyond its end."""
    destinations: bytes
    """By position, 1 for a JUMPDEST that is not PUSH data, else 0."""


def analyze_code(code: bytes) -> CodeAnalysis:
    """Find the jump destinations of a code, of which a transaction has paid the ticks."""
    padded = code + bytes(33)
    destinations = bytearray(len(padded))
    size = len(code)
    position = 0
    while position < size:
        opcode = code[position]
        if opcode == 0x5B:
            destinations[position] = 1
        elif 0x60 <= opcode <= 0x7F:
            position += opcode - 0x5F
        position += 1
    return CodeAnalysis(padded, bytes(destinations))


analyze_contract_code = lru_cache(maxsize=CODE_CACHE_SIZE)(analyze_code)
"""`analyze_code` with the cache."""
