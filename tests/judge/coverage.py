"""Which outcomes of which opcodes the random blocks must reach, and the printed table."""

from collections.abc import Mapping

Table = Mapping[tuple[str, str], int]

ALWAYS_OK = frozenset({"STOP", "JUMPDEST", "INVALID"})

PUSHING_WITHOUT_INPUT = frozenset(
    {
        *("ADDRESS", "ORIGIN", "CALLER", "CALLVALUE", "CALLDATASIZE", "CODESIZE", "GASPRICE"),
        *("RETURNDATASIZE", "COINBASE", "TIMESTAMP", "NUMBER", "PREVRANDAO", "GASLIMIT"),
        *("CHAINID", "SELFBALANCE", "BASEFEE", "BLOBBASEFEE", "PC", "MSIZE", "GAS"),
    }
)
PUSHES = frozenset(f"PUSH{n}" for n in range(33))
DUPS = frozenset(f"DUP{n}" for n in range(1, 17))
SWAPS = frozenset(f"SWAP{n}" for n in range(1, 17))
LOGS = frozenset(f"LOG{n}" for n in range(5))
CALLS = frozenset({"CALL", "CALLCODE", "DELEGATECALL", "STATICCALL"})
CREATIONS = frozenset({"CREATE", "CREATE2"})
WRITES = frozenset({"SSTORE", "TSTORE", "SELFDESTRUCT", "CALL"}) | LOGS | CREATIONS
EXPENSIVE = (
    frozenset({"SLOAD", "BALANCE", "EXTCODESIZE", "EXTCODECOPY", "EXTCODEHASH", "KECCAK"})
    | frozenset({"MSTORE", "CALLDATACOPY", "CODECOPY", "RETURN", "REVERT"})
    | (WRITES - {"TSTORE"})
    | CALLS
)
"""Opcodes that must run out of gas; cheap ones do so too rarely to demand it of each."""

ADDED = ("ADD", "MUL", "SUB", "DIV", "SDIV", "MOD", "SMOD", "ADDMOD", "MULMOD", "EXP", "SIGNEXTEND")
COMPARED = ("LT", "GT", "SLT", "SGT", "EQ", "ISZERO")
BITWISE = ("AND", "OR", "XOR", "NOT", "BYTE", "SHL", "SHR", "SAR")
OTHERS = (
    *("KECCAK", "BALANCE", "CALLDATALOAD", "CALLDATACOPY", "CODECOPY", "EXTCODESIZE"),
    *("EXTCODECOPY", "RETURNDATACOPY", "EXTCODEHASH", "BLOCKHASH", "BLOBHASH", "POP", "MLOAD"),
    *("MSTORE", "MSTORE8", "SLOAD", "SSTORE", "JUMP", "JUMPI", "TLOAD", "TSTORE", "MCOPY"),
    *("RETURN", "REVERT", "SELFDESTRUCT"),
)
PRECOMPILES = frozenset(f"precompile {n:#04x}" for n in range(1, 0x12))
FAILING_PRECOMPILES = PRECOMPILES - {
    f"precompile {n:#04x}" for n in (1, 2, 3, 4, 5)
}  # these accept any input


def list_required() -> frozenset[tuple[str, str]]:
    """The pairs of opcode and outcome that 200 blocks must reach."""
    working = (
        {*ADDED, *COMPARED, *BITWISE, *OTHERS, "STOP", "JUMPDEST"}
        | PUSHING_WITHOUT_INPUT
        | LOGS
        | CALLS
        | CREATIONS
        | {f"DUP{n}" for n in range(1, 9)}
        | {f"SWAP{n}" for n in range(1, 9)}
        | {f"PUSH{n}" for n in (0, 1, 2, 4, 8, 20, 32)}
        | PRECOMPILES
    )
    return frozenset(
        {(name, "ok") for name in working}
        | {(name, "inner failure") for name in CALLS | CREATIONS}
        | {(name, "static") for name in WRITES - {"LOG3", "LOG4"}}
        | {(name, "out of gas") for name in EXPENSIVE}
        | {("JUMP", "bad jump"), ("JUMPI", "bad jump"), ("RETURNDATACOPY", "out of bounds")}
        | {("INVALID", "invalid"), ("SELFDESTRUCT", "deletes")}
        | {("ADD", "underflow"), ("SSTORE", "underflow"), ("PUSH0", "overflow")}
    )


def format_table(table: Table) -> str:
    """The table, an opcode a line."""
    outcomes = sorted({outcome for _, outcome in table})
    names = sorted({name for name, _ in table})
    lines = ["".join([f"{'':16}", *(f"{outcome:>15}" for outcome in outcomes)])]
    lines += [
        "".join([f"{name:16}", *(f"{table.get((name, each), 0) or '':>15}" for each in outcomes)])
        for name in names
    ]
    return "\n".join(lines)
