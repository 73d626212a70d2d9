"""The execution time that a transaction must pay for (docs/spec/state-transition.md, section 8).

Gas is Ethereum's, and its prices follow the speeds of other engines. Some opcodes and precompiles
take this engine ten times as long for their gas as others. So a second meter counts an execution's
*effort* in ticks, by the tables below. A transaction pays for its gas or for its effort, whichever
is more. A tick is about the time of one cheap opcode: 250 ns on the machine of
docs/measurements.md.
"""

from collections.abc import Mapping
from typing import Final

from chain.execution.code_analysis import (
    CACHED_CODE_BYTES,
    CodeAnalysis,
    analyze_code,
    analyze_contract_code,
)
from chain.primitives import Address

CODE_TICKS_A_KIB: Final = 640
"""Ticks for finding the jump destinations in 1 024 bytes of code. A code counts once a
transaction."""

DATA_BYTES_A_TICK: Final = 2_048
"""Bytes of call data that are copied in one tick. Ethereum's gas counts no copying for a call."""

PRECOMPILE_BASE_TICKS: Final = 16
"""Ticks of any call of a precompile, besides those for its gas."""

_READ: Final = 5
_ACCOUNT: Final = 10
_COPY: Final = 20
_CALL: Final = 140
_CREATION: Final = 250
_TICKS: Final[Mapping[int, int]] = {
    **dict.fromkeys((0x30, 0x32, 0x33, 0x34, 0x36, 0x38, 0x3A, 0x3D, *range(0x41, 0x4B)), _READ),
    **dict.fromkeys((0x35, 0x58, 0x59), _READ + 2),  # CALLDATALOAD, PC, MSIZE
    **dict.fromkeys((0x31, 0x3B, 0x3F, 0x40, 0x47, 0x54, 0x5C), _ACCOUNT),
    **dict.fromkeys((0x37, 0x39, 0x3C, 0x3E, 0x5E), _COPY),
    0x0A: 30,  # EXP
    0x20: 24,  # KECCAK256
    **dict.fromkeys((0x51, 0x52, 0x53), 20),  # MLOAD, MSTORE and MSTORE8 that extend the memory
    0x55: 30,  # SSTORE
    0x5D: 16,  # TSTORE
    **{0xA0 + topics: 20 + 4 * topics for topics in range(5)},  # LOG0 to LOG4
    **dict.fromkeys((0xF1, 0xF2, 0xF4, 0xFA), _CALL),
    **dict.fromkeys((0xF0, 0xF5), _CREATION),
    0xFF: 100,  # SELFDESTRUCT
}

MEMORY_TICKS: Final = 3
"""Ticks of MLOAD, MSTORE and MSTORE8 within the memory, besides the one of every opcode."""

OPCODE_TICKS: Final[tuple[int, ...]] = tuple(_TICKS.get(opcode, _READ) for opcode in range(256))
"""By opcode, the ticks of those that py-evm runs, besides the one of every opcode."""


PRECOMPILE_TICKS: Final[Mapping[Address, int]] = {
    Address(number.to_bytes(20, "big")): ticks
    for number, ticks in {
        0x01: 80,
        0x02: 120,
        0x03: 40,
        0x04: 120,
        0x05: 160,
        0x06: 160,
        0x07: 800,
        0x08: 440,
        0x09: 90,
        0x0A: 80,
        0x0B: 120,
        0x0C: 60,
        0x0D: 100,
        0x0E: 90,
        0x0F: 90,
        0x10: 80,
        0x11: 20,
    }.items()
}
"""By precompile, the ticks for each thousand of its gas."""


class EffortExceededError(Exception):
    """The transaction's gas limit does not pay for the effort of its execution."""


class EffortMeter:
    """Counts the ticks of one transaction.

    The sum decides, not the moment at which it is noticed, so ticks may be counted in portions and
    after the work they stand for.
    """

    __slots__ = ("_analyses", "_limit_ticks", "ticks")

    def __init__(self, limit_ticks: int) -> None:
        self.ticks = 0
        self._limit_ticks = limit_ticks
        self._analyses: dict[bytes, CodeAnalysis] = {}
        """By code that ran. The default gas limit pays for 13 MiB of codes: 38 MiB with these."""

    def spend(self, ticks: int) -> None:
        """Count ticks.

        Raises:
            EffortExceededError: There are more than the gas limit pays for.
        """
        self.ticks += ticks
        if self.ticks > self._limit_ticks:
            raise EffortExceededError

    def analyze(self, code: bytes, *, is_init_code: bool) -> CodeAnalysis:
        """The code's jump destinations. The first time, count the ticks of finding them.

        They are kept here and not in a cache of several transactions, which may forget them. Then
        they would be found again unpaid.

        Raises:
            EffortExceededError: There are more ticks than the gas limit pays for.
        """
        analysis = self._analyses.get(code)
        if analysis is None:
            self.spend(len(code) * CODE_TICKS_A_KIB // 1024)
            is_cached = not is_init_code and len(code) <= CACHED_CODE_BYTES
            analysis = analyze_contract_code(code) if is_cached else analyze_code(code)
            self._analyses[code] = analysis
        return analysis
