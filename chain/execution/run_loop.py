"""The loop that runs a message's code (docs/spec/state-transition.md, section 8).

Opcodes that touch only the stack, allocated memory and the program counter run here; all others run
in py-evm. With py-evm's stack objects even ADD takes longer than its three gas allow.
"""

from collections.abc import Callable
from operator import and_, or_, xor
from typing import Final, Protocol

from eth.abc import ComputationAPI
from eth.exceptions import (
    FullStack,
    Halt,
    InsufficientStack,
    InvalidJumpDestination,
    OutOfGas,
)
from eth.vm.logic.invalid import InvalidOpcode

from chain.execution.effort import MEMORY_TICKS, OPCODE_TICKS, EffortMeter

CHECK_INTERVAL_TICKS: Final = 1024
"""Ticks between two looks at the effort and at `should_stop`: a quarter of a millisecond."""

STACK_LIMIT: Final = 1024
"""Largest number of stack items (yellow paper)."""

_MODULUS: Final = 1 << 256
_MASK: Final = _MODULUS - 1
_SIGN: Final = 1 << 255


class ExecutionStoppedError(Exception):
    """The time budget of this execution is used up: `should_stop` returned true."""


def _signed(value: int) -> int:
    return value - _MODULUS if value & _SIGN else value


def _sdiv(a: int, b: int) -> int:
    a, b = _signed(a), _signed(b)
    if b == 0:
        return 0
    quotient = abs(a) // abs(b)
    return (-quotient if (a < 0) != (b < 0) else quotient) & _MASK


def _smod(a: int, b: int) -> int:
    a, b = _signed(a), _signed(b)
    if b == 0:
        return 0
    remainder = abs(a) % abs(b)
    return (-remainder if a < 0 else remainder) & _MASK


def _signextend(size: int, value: int) -> int:
    if size > 30:
        return value
    sign = 1 << (8 * size + 7)
    value &= 2 * sign - 1
    return value | (_MASK ^ (2 * sign - 1)) if value & sign else value


def _sar(shift: int, value: int) -> int:
    return (_signed(value) >> min(shift, 256)) & _MASK


_UNARY: Final[dict[int, tuple[int, Callable[[int], int]]]] = {
    0x15: (3, lambda a: 0 if a else 1),  # ISZERO
    0x19: (3, lambda a: a ^ _MASK),  # NOT
}
_BINARY: Final[dict[int, tuple[int, Callable[[int, int], int]]]] = {
    0x01: (3, lambda a, b: (a + b) & _MASK),  # ADD
    0x02: (5, lambda a, b: (a * b) & _MASK),  # MUL
    0x03: (3, lambda a, b: (a - b) & _MASK),  # SUB
    0x04: (5, lambda a, b: a // b if b else 0),  # DIV
    0x05: (5, _sdiv),
    0x06: (5, lambda a, b: a % b if b else 0),  # MOD
    0x07: (5, _smod),
    0x0B: (5, _signextend),
    0x10: (3, lambda a, b: 1 if a < b else 0),  # LT
    0x11: (3, lambda a, b: 1 if a > b else 0),  # GT
    0x12: (3, lambda a, b: 1 if a ^ _SIGN < b ^ _SIGN else 0),  # SLT
    0x13: (3, lambda a, b: 1 if a ^ _SIGN > b ^ _SIGN else 0),  # SGT
    0x14: (3, lambda a, b: 1 if a == b else 0),  # EQ
    0x16: (3, and_),
    0x17: (3, or_),
    0x18: (3, xor),
    0x1A: (3, lambda a, b: b >> (248 - 8 * a) & 0xFF if a < 32 else 0),  # BYTE
    0x1B: (3, lambda a, b: (b << a) & _MASK if a < 256 else 0),  # SHL
    0x1C: (3, lambda a, b: b >> a if a < 256 else 0),  # SHR
    0x1D: (3, _sar),
}
_TERNARY: Final[dict[int, tuple[int, Callable[[int, int, int], int]]]] = {
    0x08: (8, lambda a, b, n: (a + b) % n if n else 0),  # ADDMOD
    0x09: (8, lambda a, b, n: (a * b) % n if n else 0),  # MULMOD
}


class _Operation(Protocol):
    def __call__(self, computation: ComputationAPI) -> None: ...


def run_code(
    computation: ComputationAPI,
    code_bytes: bytes,
    opcodes: dict[int, _Operation],
    effort: EffortMeter,
    should_stop: Callable[[], bool],
) -> None:
    """Run `code_bytes` until it halts.

    The stack holds integers and byte strings, because py-evm's opcodes push both.

    Raises:
        VMError: py-evm's error for a revert or an exceptional halt.
        EffortExceededError: The execution takes more effort than its gas limit pays for.
        ExecutionStoppedError: `should_stop` returned true.
    """
    code, destinations = effort.analyze(code_bytes, is_init_code=computation.msg.is_create)
    size = len(code)
    stream = computation.code
    meter = computation.get_gas_meter()
    stack: list[int | bytes] = computation.stack_values
    memory = computation.memory
    pop, push = stack.pop, stack.append
    gas: int = meter.gas_remaining
    countdown = CHECK_INTERVAL_TICKS
    pc = 0

    def pop_int() -> int:
        value = pop()
        return int.from_bytes(value, "big") if isinstance(value, bytes) else value

    try:
        while True:
            opcode = code[pc]
            pc += 1
            countdown -= 1
            if countdown <= 0:
                effort.spend(CHECK_INTERVAL_TICKS - countdown)
                countdown = CHECK_INTERVAL_TICKS
                if should_stop():
                    raise ExecutionStoppedError
            if 0x5F <= opcode <= 0x8F:  # PUSH0 to DUP16
                gas -= 2 if opcode == 0x5F else 3
                if gas < 0:
                    raise OutOfGas("push")
                if len(stack) >= STACK_LIMIT:
                    raise FullStack("push")
                if opcode <= 0x7F:
                    end = pc + opcode - 0x5F
                    push(int.from_bytes(code[pc:end], "big"))
                    pc = end
                else:
                    if len(stack) < opcode - 0x7F:
                        raise InsufficientStack("dup")
                    push(stack[0x7F - opcode])
                continue
            if opcode in _BINARY:
                cost, binary = _BINARY[opcode]
                gas -= cost
                if gas < 0:
                    raise OutOfGas("binary")
                if len(stack) < 2:
                    raise InsufficientStack("binary")
                first = pop()
                second = pop()
                if isinstance(first, bytes):
                    first = int.from_bytes(first, "big")
                if isinstance(second, bytes):
                    second = int.from_bytes(second, "big")
                push(binary(first, second))
                continue
            if 0x90 <= opcode <= 0x9F:  # SWAP
                gas -= 3
                if gas < 0:
                    raise OutOfGas("swap")
                depth = 0x8E - opcode
                if len(stack) < -depth:
                    raise InsufficientStack("swap")
                stack[-1], stack[depth] = stack[depth], stack[-1]
                continue
            if opcode == 0x5B:  # JUMPDEST
                gas -= 1
                if gas < 0:
                    raise OutOfGas("jumpdest")
                continue
            if opcode == 0x57:  # JUMPI
                gas -= 10
                if gas < 0:
                    raise OutOfGas("jumpi")
                if len(stack) < 2:
                    raise InsufficientStack("jumpi")
                target = pop_int()
                if pop_int():
                    if target >= size or not destinations[target]:
                        raise InvalidJumpDestination("jumpi")
                    pc = target
                continue
            if opcode == 0x56:  # JUMP
                gas -= 8
                if gas < 0:
                    raise OutOfGas("jump")
                if not stack:
                    raise InsufficientStack("jump")
                pc = pop_int()
                if pc >= size or not destinations[pc]:
                    raise InvalidJumpDestination("jump")
                continue
            if opcode == 0x50:  # POP
                gas -= 2
                if gas < 0:
                    raise OutOfGas("pop")
                if not stack:
                    raise InsufficientStack("pop")
                pop()
                continue
            if opcode in _UNARY:
                cost, unary = _UNARY[opcode]
                gas -= cost
                if gas < 0:
                    raise OutOfGas("unary")
                if not stack:
                    raise InsufficientStack("unary")
                push(unary(pop_int()))
                continue
            if 0x51 <= opcode <= 0x53 and len(stack) > 1 - (opcode == 0x51):
                # MLOAD, MSTORE, MSTORE8 of allocated memory; those that extend it run in py-evm.
                position = stack[-1]
                if isinstance(position, bytes):
                    position = int.from_bytes(position, "big")
                held = memory.held
                if position + (1 if opcode == 0x53 else 32) <= len(held):
                    countdown -= MEMORY_TICKS
                    gas -= 3
                    if gas < 0:
                        raise OutOfGas("memory")
                    pop()
                    if opcode == 0x51:
                        push(int.from_bytes(held[position : position + 32], "big"))
                    elif opcode == 0x52:
                        held[position : position + 32] = pop_int().to_bytes(32, "big")
                    else:
                        held[position] = pop_int() & 0xFF
                    continue
            if opcode in _TERNARY:
                cost, ternary = _TERNARY[opcode]
                gas -= cost
                if gas < 0:
                    raise OutOfGas("ternary")
                if len(stack) < 3:
                    raise InsufficientStack("ternary")
                push(ternary(pop_int(), pop_int(), pop_int()))
                continue
            if opcode == 0x5A:  # GAS
                gas -= 2
                if gas < 0:
                    raise OutOfGas("gas")
                if len(stack) >= STACK_LIMIT:
                    raise FullStack("gas")
                push(gas)
                continue
            operation = opcodes.get(opcode)
            if operation is None:
                operation = InvalidOpcode(opcode)
            countdown -= OPCODE_TICKS[opcode]
            meter.gas_remaining = gas
            stream.program_counter = pc
            try:
                operation(computation)
            except Halt:
                return
            gas = meter.gas_remaining
            pc = stream.program_counter
    finally:
        effort.spend(CHECK_INTERVAL_TICKS - countdown)
