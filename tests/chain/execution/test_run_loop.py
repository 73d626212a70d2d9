import pytest
from eth.vm.forks.prague.computation import PragueComputation
from eth.vm.forks.prague.opcodes import PRAGUE_OPCODES
from eth.vm.message import Message
from hypothesis import given
from hypothesis import strategies as st

from chain.execution.block_environment import BlockEnvironment
from chain.execution.code_analysis import analyze_code
from chain.execution.engine import Computation, EngineState
from chain.execution.evm import never_stop
from chain.primitives import EMPTY_TRIE_ROOT, ZERO_ADDRESS, ZERO_HASH
from chain.state.world_state import WorldState

PURE = [*range(0x01, 0x0A), 0x0B, *range(0x10, 0x1E), 0x50, 0x51, 0x52, 0x53, 0x58, 0x5A, 0x5B]
EDGES = [0, 1, 2, 7, 31, 32, 64, 255, 256, 2**255 - 1, 2**255, 2**256 - 2, 2**256 - 1]
operands = st.sampled_from(EDGES) | st.integers(0, 2**256 - 1) | st.integers(0, 100)
instructions = st.one_of(
    st.sampled_from(PURE).map(lambda opcode: bytes([opcode])),
    operands.map(lambda value: b"\x7f" + value.to_bytes(32, "big")),
    st.integers(0, 200).map(lambda value: bytes([0x60, value])),
    st.sampled_from(EDGES).map(lambda _: b"\x5f"),
    st.integers(0x80, 0x9F).map(lambda opcode: bytes([opcode])),
    # Code fragments that put bytes instead of integers on the stack, and jumps to code size and PC.
    st.sampled_from(
        [b"\x30", b"\x38", b"\x58\x60\x05\x01\x56\x5b", b"\x60\x01\x58\x60\x06\x01\x57\xfe\x5b"]
    ),
    st.binary(min_size=1, max_size=3),
)


class Stock(PragueComputation):
    """py-evm's own loop and opcodes."""


def run(kind: type, code: bytes, gas: int) -> tuple:
    environment = BlockEnvironment(1, 1, 1, ZERO_ADDRESS, 10**7, 0, ZERO_HASH)
    world = WorldState({}, EMPTY_TRIE_ROOT)
    state = EngineState(world, environment, never_stop)
    world.mark_address_warm(ZERO_ADDRESS)  # the coinbase, as for every transaction
    context = state.get_transaction_context_class()(gas_price=0, origin=ZERO_ADDRESS)
    message = Message(gas=gas, to=b"\x99" * 20, sender=ZERO_ADDRESS, value=0, data=b"", code=code)
    computation = kind.apply_computation(state, message, context)
    values = [
        value if isinstance(value, int) else int.from_bytes(value, "big")
        for value in computation._stack.values
    ]
    if computation.is_error:
        return ("failed", computation.get_gas_remaining(), computation.should_burn_gas)
    return values, bytes(computation._memory._bytes), computation.get_gas_remaining()


@pytest.mark.filterwarnings("ignore:SELFDESTRUCT:DeprecationWarning")
@given(st.lists(instructions, max_size=30), st.sampled_from([30, 100, 300, 100_000]))
def test_stack_memory_and_gas_are_stock_py_evms(pieces: list[bytes], gas: int) -> None:
    code = b"".join(pieces)
    # Endless loops end when the gas is used up. test_evm covers calls and creations.
    code = bytes(byte for byte in code if not 0xF0 <= byte <= 0xFD or byte == 0xF3)
    assert run(Computation, code, gas) == run(Stock, code, gas)


@given(st.sampled_from([0x05, 0x07, 0x0B, 0x12, 0x13, 0x1A, 0x1B, 0x1C, 0x1D]), operands, operands)
def test_signed_and_shifting_opcodes_are_stock_py_evms(opcode: int, a: int, b: int) -> None:
    code = b"\x7f" + b.to_bytes(32, "big") + b"\x7f" + a.to_bytes(32, "big") + bytes([opcode])
    assert run(Computation, code, 1000) == run(Stock, code, 1000)


@given(st.sampled_from([0x08, 0x09]), operands, operands, operands)
def test_modular_opcodes_are_stock_py_evms(opcode: int, a: int, b: int, n: int) -> None:
    code = b"".join(b"\x7f" + value.to_bytes(32, "big") for value in (n, b, a)) + bytes([opcode])
    assert run(Computation, code, 1000) == run(Stock, code, 1000)


@pytest.mark.parametrize("opcode", sorted(PRAGUE_OPCODES))
@pytest.mark.filterwarnings("ignore:SELFDESTRUCT:DeprecationWarning")
def test_an_empty_and_a_full_stack_fail_alike(opcode: int) -> None:
    for prefix in (b"", b"\x5f" * 1024):
        code = prefix + bytes([opcode])
        assert run(Computation, code, 100_000) == run(Stock, code, 100_000)


def test_jump_destinations_are_not_push_data_and_code_ends_in_stops() -> None:
    code, destinations = analyze_code(bytes.fromhex("5b605b5b7f5b"))
    assert destinations == b"\1\0\0\1" + bytes(2 + 33)
    assert code == bytes.fromhex("5b605b5b7f5b") + bytes(33)
