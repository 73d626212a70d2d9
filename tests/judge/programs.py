"""Random programs for the EVM: statements with plausible arguments, and some without."""

from collections.abc import Callable, Sequence
from random import Random

from tests.judge.precompile_inputs import CHEAP, SLOW, break_input, valid_input

EDGES = (0, 1, 2, 3, 31, 32, 33, 255, 256, 2**31, 2**64 - 1, 2**255 - 1, 2**255, 2**256 - 1)
STACK_LIMIT = 1024

KEEPER, REVERTER = bytes.fromhex("ca" * 20), bytes.fromhex("cb" * 20)
HELPERS = {
    # SSTORE(0, 0), SSTORE(1, 2), TSTORE(0, 5), LOG0 of nothing; then STOP or REVERT.
    address: bytes.fromhex("5f5f556002600155" + "60055f5d" + "5f5fa0" + end)
    for address, end in ((KEEPER, "00"), (REVERTER, "5f5ffd"))
}
"""Contracts whose changes a caller sees in its own storage, or must not see."""

MAX_NESTING = 3
"""How many creations may lie within one another in the text of a program."""

UNARY = (0x15, 0x19, 0x35, 0x51, 0x54, 0x5C, 0x40, 0x49)
BINARY = (
    *range(0x01, 0x08),
    0x0A,
    0x0B,
    *range(0x10, 0x15),
    *range(0x16, 0x19),
    *range(0x1A, 0x1E),
)
TERNARY = (0x08, 0x09)
READS = (0x30, 0x32, 0x33, 0x34, 0x36, 0x38, 0x3A, 0x3D, *range(0x41, 0x49), 0x4A, 0x58, 0x59, 0x5A)
ADDRESS_READS = (0x31, 0x3B, 0x3F)
ARITY = {
    **dict.fromkeys(READS, 0),
    **dict.fromkeys(range(0x5F, 0x80), 0),
    **dict.fromkeys((*UNARY, *ADDRESS_READS, 0x50, 0x56, 0xFF), 1),
    **dict.fromkeys((*BINARY, 0x20, 0x52, 0x53, 0x55, 0x57, 0x5D, 0xA0, 0xF3, 0xFD), 2),
    **dict.fromkeys((*TERNARY, 0x37, 0x39, 0x3E, 0x5E, 0xA1, 0xF0), 3),
    **dict.fromkeys((0x3C, 0xA2, 0xF5), 4),
    0xA3: 5,
    **dict.fromkeys((0xA4, 0xF4, 0xFA), 6),
    **dict.fromkeys((0xF1, 0xF2), 7),
    **{0x80 + depth: depth + 1 for depth in range(16)},
    **{0x90 + depth: depth + 2 for depth in range(16)},
}
"""The stack items that an opcode needs."""
ALL_OPCODES = (
    *range(0x01, 0x0C),
    *range(0x10, 0x1E),
    0x20,
    *range(0x30, 0x4B),
    *range(0x50, 0x60),
    *range(0x80, 0xA5),
    *range(0xF0, 0xF6),
    *(0xFA, 0xFD, 0xFF),
)
"""Prague's opcodes that can fail, without the PUSHes."""


def push(value: int) -> bytes:
    if value == 0:
        return b"\x5f"
    size = (value.bit_length() + 7) // 8
    return bytes([0x5F + size]) + value.to_bytes(size, "big")


class Program:
    """Writes one program.

    Args:
        random: The source of every choice.
        addresses: The accounts that it may name.
        nesting: The number of creations around this program.
        is_slow_allowed: Whether it may call precompiles that are slow in the reference.
    """

    def __init__(
        self,
        random: Random,
        addresses: Sequence[bytes],
        *,
        nesting: int = 0,
        is_slow_allowed: bool = False,
    ) -> None:
        self._random = random
        self._addresses = addresses
        self._nesting = nesting
        self._is_slow_allowed = is_slow_allowed
        self._code = bytearray()
        self._tails: list[tuple[int, bytes]] = []
        self._depth = 0

    def write(self, length: int) -> bytes:
        """A program of about so many statements, with an end."""
        random = self._random
        statements: tuple[tuple[Callable[[], None], float], ...] = (
            (self._compute, 12),
            (self._read, 3),
            (self._read_address, 4),
            (self._use_memory, 8),
            (self._use_storage, 10),
            (self._use_helper, 4),
            (self._log, 3),
            (self._call, 9),
            (self._create, 4),
            (self._call_precompile, 4),
            (self._jump, 4),
            (self._move_stack, 6),
            (self._emit_noise, 0.3),
            (self._halt, 0.4),
        )
        kinds = [kind for kind, _ in statements]
        weights = [weight for _, weight in statements]
        for _ in range(length):
            random.choices(kinds, weights)[0]()
            while self._depth > 12:
                self._op(0x50, 1, 0)
        self._show_stack()
        self._halt()
        return self._link()

    def write_driver(self, probes: Sequence[tuple[bytes, int]]) -> bytes:
        """A program that calls each of these accounts, without writing and then with little gas."""
        for probe, gas in probes:
            for opcode, given in ((0xFA, 40_000), (0xF1, 40_000), (0xF1, gas)):
                for _ in range(5 if opcode == 0xF1 else 4):
                    self._push(0)
                self._push(int.from_bytes(probe, "big"))
                self._push(given)
                self._op(opcode, 7 if opcode == 0xF1 else 6, 1)
                self._op(0x50, 1, 0)
        return bytes(self._code)

    def write_fault(self) -> bytes:
        """A program whose first or last opcode finds an empty or a full stack."""
        random = self._random
        if random.random() < 0.2:
            opcode = random.choice((*READS, *range(0x5F, 0x90), 0x5F))
            return b"\x5f" * STACK_LIMIT + bytes([opcode])
        return bytes([random.choice((*ALL_OPCODES, 0x0C, 0x21, 0xFE))])

    def write_straight(self, length: int) -> bytes:
        """Some statements without jumps, ends and data."""
        for _ in range(length):
            self._random.choice((self._compute, self._read, self._use_storage, self._log))()
        return bytes(self._code)

    # Parts.

    def _op(self, opcode: int, taken: int, given: int) -> None:
        self._code.append(opcode)
        self._depth += given - taken

    def _push(self, value: int) -> None:
        self._code += push(value)
        self._depth += 1

    def _push_any(self) -> None:
        """An operand: an edge, a small or a random number, or a copy of what is on the stack."""
        random = self._random
        match random.randrange(7):
            case 0 | 1 | 2 if self._depth > 0:
                self._op(0x80 + random.randrange(min(16, self._depth)), 0, 1)
            case 3:
                self._push(random.getrandbits(256))
            case 4:
                self._push(random.randrange(100))
            case _:
                self._push(random.choice(EDGES))

    def _push_address(self) -> None:
        random = self._random
        match random.randrange(8):
            case 0:
                self._op(0x30, 0, 1)
            case 1:
                self._op(random.choice((0x32, 0x33, 0x41)), 0, 1)
            case 2 if self._depth > 0:
                self._op(0x80 + random.randrange(min(16, self._depth)), 0, 1)
            case 3:
                self._push_any()
            case _:
                self._push(int.from_bytes(random.choice(self._addresses), "big"))

    def _push_offset(self) -> None:
        random = self._random
        if random.random() < 0.005:
            self._push(random.choice((2**20, 2**32, 2**64 - 1, 2**256 - 1)))
        else:
            self._push(random.choice((0, 0, 1, 32, 64, 100)))

    def _push_source(self) -> None:
        """A position in call data or code, where any number is allowed."""
        if self._random.random() < 0.2:
            self._push_any()
        else:
            self._push_offset()

    def _push_size(self) -> None:
        random = self._random
        if random.random() < 0.005:
            self._push(random.choice((2**16, 2**32, 2**256 - 1)))
        else:
            self._push(random.choice((0, 1, 31, 32, 33, 64, 100)))

    def _push_gas(self) -> None:
        random = self._random
        if random.random() < 0.5:
            self._op(0x5A, 0, 1)
        else:
            self._push(
                random.choice((0, 1, 700, 2300, 5000, random.randrange(40_000), 30_000, 2**256 - 1))
            )

    def _push_tail(self, data: bytes) -> None:
        """The position of bytes that are put behind the program; known only at the end."""
        self._code += b"\x61\x00\x00"
        self._tails.append((len(self._code) - 2, data))
        self._depth += 1

    def _link(self) -> bytes:
        code = bytearray(self._code)
        tail = bytearray()
        for position, data in self._tails:
            start = len(code) + len(tail)
            code[position : position + 2] = min(start, 0xFFFF).to_bytes(2, "big")
            tail += data
        return bytes(code + tail)

    # Statements.

    def _compute(self) -> None:
        random = self._random
        match random.randrange(8):
            case 0:
                opcodes, taken = UNARY, 1
            case 1:
                opcodes, taken = TERNARY, 3
            case _:
                opcodes, taken = BINARY, 2
        opcode = random.choice(opcodes)
        for _ in range(taken):
            if opcode == 0x51:
                self._push_offset()
            else:
                self._push_any()
        self._op(opcode, taken, 1)

    def _read(self) -> None:
        self._op(self._random.choice(READS), 0, 1)

    def _read_address(self) -> None:
        random = self._random
        if random.random() < 0.25:
            self._push_size()
            self._push_source()
            self._push_offset()
            self._push_address()
            self._op(0x3C, 4, 0)
            return
        self._push_address()
        self._op(random.choice(ADDRESS_READS), 1, 1)

    def _use_memory(self) -> None:
        random = self._random
        match random.randrange(8):
            case 0:
                self._push_any()
                self._push_offset()
                self._op(random.choice((0x52, 0x53)), 2, 0)
            case 1:
                self._push_offset()
                self._op(0x51, 1, 1)
            case 2:
                self._push_size()
                self._push_offset()
                self._push_offset()
                self._op(0x5E, 3, 0)
            case 3:
                self._push_size()
                self._push_offset()
                self._op(0x20, 2, 1)
            case 4:
                if random.random() < 0.7:
                    self._op(0x3D, 0, 1)
                    self._push(0)
                else:
                    self._push_size()
                    self._push_offset()
                self._push_offset()
                self._op(0x3E, 3, 0)
            case _:
                self._push_size()
                self._push_source()
                self._push_offset()
                self._op(random.choice((0x37, 0x39)), 3, 0)

    def _use_storage(self) -> None:
        random = self._random
        load, store = random.choice(((0x54, 0x55), (0x54, 0x55), (0x5C, 0x5D)))
        if random.random() < 0.6:
            if random.random() < 0.5:
                self._push(random.choice((0, 0, 1, 2)))
            else:
                self._push_any()
            self._push(random.randrange(4))
            self._op(store, 2, 0)
        else:
            self._push(random.randrange(4))
            self._op(load, 1, 1)

    def _use_helper(self) -> None:
        """Let a helper change storage in this contract's name, and look at what it left."""
        for _ in range(4):
            self._push(0)
        self._push(int.from_bytes(self._random.choice(sorted(HELPERS)), "big"))
        self._op(0x5A, 0, 1)
        self._op(0xF4, 6, 1)
        for load in (0x54, 0x5C):
            self._push(self._random.randrange(2))
            self._op(load, 1, 1)

    def _log(self) -> None:
        topics = self._random.randrange(5)
        for _ in range(topics):
            self._push_any()
        self._push_size()
        self._push_offset()
        self._op(0xA0 + topics, topics + 2, 0)

    def _call(self) -> None:
        random = self._random
        opcode = random.choice((0xF1, 0xF1, 0xF2, 0xF4, 0xFA))
        self._push_size()
        self._push_offset()
        self._push_size()
        self._push_offset()
        if opcode in (0xF1, 0xF2):
            self._push(random.choice((0, 0, 0, 1, 1, 1000, 10**30)))
        self._push_address()
        self._push_gas()
        self._op(opcode, 7 if opcode in (0xF1, 0xF2) else 6, 1)

    def _create(self) -> None:
        random = self._random
        opcode = random.choice((0xF0, 0xF5))
        value = random.choice((0, 0, 0, 1, 1000, 10**30))
        if self._nesting >= MAX_NESTING or random.random() < 0.2:
            # Memory as it is, of any size up to beyond the limits of init code.
            size = random.choice((0, 0, 1, 1, 32, 33, 33, 1000, 1000, 1000, 24_576, 49_152, 49_153))
        else:
            init_code = write_init_code(random, self._addresses, self._nesting + 1)
            size = len(init_code)
            self._push(size)
            self._push_tail(init_code)
            self._push(0)
            self._op(0x39, 3, 0)
        if opcode == 0xF5:
            self._push(random.randrange(3))
        self._push(size)
        self._push(0)
        self._push(value)
        self._op(opcode, 3 + (opcode == 0xF5), 1)
        for _ in range(random.choice((0, 1, 1, 2))):
            # Call the new contract; a second time it may have destroyed itself.
            for _ in range(4):
                self._push(0)
            self._push(random.choice((0, 0, 1)))
            self._op(0x80 + 5, 0, 1)
            self._push_gas()
            self._op(0xF1, 7, 1)
            self._op(0x50, 1, 0)

    def _call_precompile(self) -> None:
        random = self._random
        is_slow = self._is_slow_allowed and random.random() < 0.5
        number = random.choice(SLOW if is_slow else CHEAP)
        data = valid_input(random, number)
        if random.random() < 0.4 or (number in SLOW and not self._is_slow_allowed):
            data = break_input(random, number, data)
        opcode = random.choice((0xF1, 0xF2, 0xF4, 0xFA, 0xFA))
        self._push(len(data))
        self._push_tail(data)
        self._push(0)
        self._op(0x39, 3, 0)
        self._push_size()
        self._push_offset()
        self._push(len(data))
        self._push(0)
        if opcode in (0xF1, 0xF2):
            self._push(random.choice((0, 0, 1)))
        self._push(number)
        if random.random() < 0.8:
            self._op(0x5A, 0, 1)
        else:
            self._push(random.choice((0, 100, 3000, 50_000)))
        self._op(opcode, 7 if opcode in (0xF1, 0xF2) else 6, 1)

    def _jump(self) -> None:
        random = self._random
        match random.randrange(6):
            case 0:  # over bytes that are never run, a JUMPDEST in PUSH data among them
                self._jump_over(0x56, random.choice((b"\xfe", b"\x60\x5b", b"\x62\x5b\x5b\x5b")))
            case 1 if random.random() < 0.3:  # to the JUMPDEST in the data of a PUSH
                target = len(self._code) + 5
                self._code += b"\x61" + target.to_bytes(2, "big") + b"\x56\x60\x5b"
            case 1 if random.random() < 0.3:  # anywhere
                self._push(1)
                self._push(random.choice((random.randrange(200), 2**64)))
                self._op(random.choice((0x56, 0x57)), 2, 0)
            case 2 | 3:  # a loop of a few turns
                self._push(random.choice((2, 3, 10)))
                start = len(self._code)
                self._code.append(0x5B)
                depth = self._depth
                for _ in range(random.randrange(1, 4)):
                    random.choice((self._use_storage, self._compute, self._log))()
                    while self._depth > depth:
                        self._op(0x50, 1, 0)
                # The counter minus 1, and back to the start while it is not zero.
                self._code += b"\x60\x01\x90\x03\x80\x61" + start.to_bytes(2, "big") + b"\x57"
                self._op(0x50, 1, 0)
            case _:  # a condition
                self._push_any()
                self._jump_over(0x57, b"\x30\x50")
                self._depth -= 1

    def _jump_over(self, opcode: int, skipped: bytes) -> None:
        target = len(self._code) + 4 + len(skipped)
        self._code += b"\x61" + target.to_bytes(2, "big") + bytes([opcode]) + skipped + b"\x5b"

    def _move_stack(self) -> None:
        random = self._random
        if self._depth < 2:
            self._push_any()
            return
        reach = min(16, self._depth - 1)
        match random.randrange(3):
            case 0:
                self._op(0x90 + random.randrange(reach), 0, 0)
            case 1:
                self._op(0x80 + random.randrange(reach), 0, 1)
            case _:
                self._op(0x50, 1, 0)

    def _emit_noise(self) -> None:
        """Bytes that may be anything; the depth of the stack is a guess from here on."""
        self._code += bytes(
            self._random.choice(ALL_OPCODES) for _ in range(self._random.randrange(1, 4))
        )
        self._depth = 0

    def _show_stack(self) -> None:
        """Log what is on the stack, so that a wrong value changes the receipts."""
        count = min(self._depth, 6)
        for position in range(count):
            self._push(32 * position)
            self._op(0x52, 2, 0)
        self._push(32 * count)
        self._push(0)
        self._op(0xA0, 2, 0)

    def _halt(self) -> None:
        random = self._random
        match random.randrange(16):
            case 0 if random.random() < 0.5:
                self._code.append(0xFE)
            case 1:
                self._push_size()
                self._push_offset()
                self._code.append(0xFD)
            case 3 | 4:
                self._push_address()
                self._code.append(0xFF)
            case 5:
                pass  # runs into what follows
            case 6 | 7:
                self._code.append(0x00)
            case _:
                self._push_size()
                self._push_offset()
                self._code.append(0xF3)
        self._depth = 0


def build_probes() -> tuple[tuple[bytes, int], ...]:
    """Programs of one opcode, each with the gas at which that opcode is too dear.

    The opcode has its arguments, or one too few, or finds a full stack.
    """
    working = [push(1) * ARITY[opcode] + bytes([opcode]) for opcode in sorted(ARITY)]
    short = [
        push(1) * (ARITY[opcode] - 1) + bytes([opcode])
        for opcode in (0x01, 0x09, 0x20, 0x31, 0x50, 0x52, 0x55, 0x57, 0x8F, 0x9F, 0xA4, 0xF1, 0xFF)
    ]
    full = [b"\x5f" * STACK_LIMIT + bytes([opcode]) for opcode in (*READS, 0x5F, 0x7F, 0x80)]
    # An argument costs 3 gas.
    return tuple(
        (code, 3 * (len(code) // 2) + 1 if len(code) < STACK_LIMIT else 50_000)
        for code in (*working, *short, *full)
    )


def write_probe(random: Random) -> bytes:
    """One opcode with some arguments, which may be too few."""
    opcode = random.choice(sorted(ARITY))
    count = ARITY[opcode] - (random.random() < 0.2)
    return b"".join(push(random.choice((0, 1, 32, 100))) for _ in range(count)) + bytes([opcode])


def write_init_code(random: Random, addresses: Sequence[bytes], nesting: int) -> bytes:
    """Init code: some statements, then one of the ways to end that matter for a creation."""
    program = Program(random, addresses, nesting=nesting)
    prefix = bytearray()
    if random.random() < 0.6:
        prefix += Program(random, addresses, nesting=MAX_NESTING).write_straight(
            random.randrange(1, 4)
        )
    match random.randrange(16):
        case 0:
            return program.write(random.randrange(1, 8))
        case 1:
            return random.choice((program.write_fault(), write_probe(random)))
        case 3:  # code of a size around the limit
            size = random.choice((0, 1, 32, 24_576, 24_577))
            return bytes(prefix + push(size) + b"\x5f\xf3")
        case 4:  # code that is refused because of its first byte, or not
            first = random.choice((0xEF, 0xEF, 0x00, 0xFE))
            return bytes(prefix + push(first) + b"\x5f\x53\x60\x01\x5f\xf3")
        case 5:
            return bytes(prefix + b"\x33\xff")
        case _:
            runtime = write_runtime(random, addresses, nesting)
            # CODECOPY(0, start, size); RETURN(0, size)
            size, start = len(runtime).to_bytes(2, "big"), (len(prefix) + 11).to_bytes(2, "big")
            head = b"\x61" + size + b"\x80\x61" + start + b"\x5f\x39\x5f\xf3"
            return bytes(prefix + head + runtime)


def write_runtime(random: Random, addresses: Sequence[bytes], nesting: int) -> bytes:
    """Code of a created contract, which often calls itself or destroys itself."""
    call_self = b"\x5f\x5f\x5f\x5f\x5f\x30\x5a\x60\x02\x90\x04\xf1\x50"
    call_caller = b"\x5f\x5f\x5f\x5f\x5f\x33\x5a\x60\x02\x90\x04\xf1\x50"
    destroy = random.choice((b"\x33\xff", b"\x30\xff", b"\x32\xff", b"\x5f\xff"))
    match random.randrange(6):
        case 0:
            return destroy
        case 1:
            return call_self + destroy
        case 2:
            return call_caller + destroy
        case 3:  # destroys itself only when it has gas enough, after it called itself
            return call_self + b"\x61\x20\x00\x5a\x11\x60\x16\x57\x00\x5b" + destroy
        case _:
            return Program(random, addresses, nesting=nesting + 1).write(random.randrange(1, 8))
