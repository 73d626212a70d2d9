"""The speed of every opcode class and precompile; fails below the floor (state-transition, 8).

    python -m bench.execution_floor [--json FILE] [--only TEXT] [--smoke]

Each case is a contract that does one thing in a loop until its gas is used up, so what is measured
is what a hostile block could do: the loop, the calls, the reads of the node's database and the new
state root included. `ns/gas` is
the time for a unit of Ethereum's gas, `Mgas/s` the speed in gas that is paid for, which counts
effort.
"""

import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from py_ecc.optimized_bls12_381 import G1, G2, multiply, normalize
from py_ecc.optimized_bn128 import G1 as BN_G1
from py_ecc.optimized_bn128 import G2 as BN_G2
from py_ecc.optimized_bn128 import multiply as bn_multiply
from py_ecc.optimized_bn128 import normalize as bn_normalize

import node
from bench.report import build_parser, write_report
from chain.crypto import get_address, keccak256
from chain.execution.block_environment import BlockEnvironment
from chain.execution.code_analysis import analyze_contract_code
from chain.execution.evm import BlockExecution
from chain.execution.precompiles import load_trusted_setup
from chain.genesis import GenesisAccount, GenesisConfig, build_genesis
from chain.params import ChainParameters
from chain.primitives import Address, PrivateKey
from chain.types.transaction import sign_transaction
from node.storage.database import Table, open_database

CALLEE = Address(b"\x98" * 20)
REVERTER = Address(b"\x97" * 20)
DELEGATING = Address(b"\x95" * 20)
HASHING = node.__name__
"""Importing the node's package makes this program hash with the library that a node takes."""

DELEGATED = "call itself, deep, by delegation"
"""The account of this case has no code of its own: it delegates to that with 24 KiB (EIP-7702)."""

LARGE = b"\x96" * 19
"""The beginning of the addresses of contracts with as much code as a contract may have."""
GAS = 1_000_000
"""Of most runs: enough for any one precompile call here, little enough for several runs."""
SECONDS_A_CASE = 0.6
"""Runs are repeated for this long."""


def push(value: int) -> str:
    size = max(1, (value.bit_length() + 7) // 8)
    return f"{0x5F + size:02x}{value:0{2 * size}x}"


def loop(body: str, prepare: str = "", times: int = 1) -> bytes:
    """`prepare`, then `body` (which keeps the stack) for ever."""
    start = len(bytes.fromhex(prepare))
    return bytes.fromhex(prepare + "5b" + body * times + push(start) + "56")


def call_precompile(number: int, data: bytes, output: int) -> bytes:
    """Copy the code's tail to memory once, then call for ever."""
    # The output goes behind the input, which must stay valid.
    out = push(output) + push(len(data))
    body = out + push(len(data)) + push(0) + push(number) + "5a" + "fa" + "50"
    for offset in range(40, 200):
        prepare = push(len(data)) + push(offset) + "5f39"
        code = loop(body, prepare)
        if len(code) <= offset:
            return code.ljust(offset, b"\x00") + data
    raise AssertionError


def words(*values: int) -> bytes:
    return b"".join(value.to_bytes(32, "big") for value in values)


def bls(point: tuple) -> bytes:
    return b"".join(
        int(part).to_bytes(64, "big")
        for coordinate in normalize(point)
        for part in getattr(coordinate, "coeffs", (coordinate,))
    )


def bn(point: tuple) -> bytes:
    return b"".join(
        int(part).to_bytes(32, "big")
        for coordinate in bn_normalize(point)
        for part in reversed(getattr(coordinate, "coeffs", (coordinate,)))
    )


def modexp(base: int, exponent: int, modulus: int) -> bytes:
    return (
        words(base, exponent, modulus)
        + b"\xff" * base
        + b"\xff" * exponent
        + b"\xff" * (modulus - 1)
        + b"\xfd"
    )


def call_without_gas(number: int, size: int) -> bytes:
    """Write to the last word of `size` bytes of memory, then call for ever with them and no gas."""
    prepare = push(0) + push(size - 32) + "52"
    return loop("5f5f" + push(size) + "5f" + push(number) + "5ffa50", prepare)


G1_POINT, G2_POINT = bls(multiply(G1, 7)), bls(multiply(G2, 9))
BN_G1_POINT, BN_G2_POINT = bn(bn_multiply(BN_G1, 7)), bn(bn_multiply(BN_G2, 9))
SCALAR = words(2**255 - 19)
ZERO_PROOF = b"\xc0" + bytes(47)

PRECOMPILES: Mapping[str, bytes] = {
    "ecrecover": call_precompile(1, words(1, 27, 2**200 + 5, 2**200 + 7), 32),
    "sha256 nothing": call_precompile(2, b"", 32),
    "sha256 8 KiB": call_precompile(2, bytes(8192), 32),
    "ripemd160 nothing": call_precompile(3, b"", 32),
    "ripemd160 8 KiB": call_precompile(3, bytes(8192), 32),
    "identity nothing": call_precompile(4, b"", 0),
    "identity 8 KiB": call_precompile(4, bytes(8192), 8192),
    "modexp least": call_precompile(5, modexp(1, 1, 1), 1),
    "modexp 32 bytes": call_precompile(5, modexp(32, 32, 32), 32),
    "modexp 256 bytes": call_precompile(5, modexp(256, 256, 256), 256),
    "modexp 1 KiB base, exponent 1": call_precompile(5, modexp(1024, 1, 1024), 1024),
    "modexp 7 bytes, long exponent": call_precompile(5, modexp(7, 1024, 8), 8),
    "bn254 add": call_precompile(6, BN_G1_POINT * 2, 64),
    "bn254 multiply": call_precompile(7, BN_G1_POINT + SCALAR, 64),
    "bn254 pairing, 1 pair": call_precompile(8, BN_G1_POINT + BN_G2_POINT, 32),
    "bn254 pairing, 8 pairs": call_precompile(8, (BN_G1_POINT + BN_G2_POINT) * 8, 32),
    "blake2f 1 round": call_precompile(9, b"\0\0\0\1" + bytes(208) + b"\1", 64),
    "blake2f 100,000 rounds": call_precompile(9, b"\0\1\x86\xa0" + bytes(208) + b"\1", 64),
    "point evaluation": call_precompile(
        10,
        bytes.fromhex("010657f37554c781402a22917dee2f75def7ab966d7b770905398eba3c444014")
        + words(5, 0)
        + ZERO_PROOF * 2,
        64,
    ),
    "bls12 G1 add": call_precompile(0x0B, G1_POINT * 2, 128),
    "bls12 G1 msm, 1": call_precompile(0x0C, G1_POINT + SCALAR, 128),
    "bls12 G1 msm, 64": call_precompile(0x0C, (G1_POINT + SCALAR) * 64, 128),
    "bls12 G2 add": call_precompile(0x0D, G2_POINT * 2, 256),
    "bls12 G2 msm, 1": call_precompile(0x0E, G2_POINT + SCALAR, 256),
    "bls12 G2 msm, 64": call_precompile(0x0E, (G2_POINT + SCALAR) * 64, 256),
    "bls12 pairing, 1 pair": call_precompile(0x0F, G1_POINT + G2_POINT, 32),
    "bls12 pairing, 8 pairs": call_precompile(0x0F, (G1_POINT + G2_POINT) * 8, 32),
    "bls12 G1 msm, 384 KiB, no gas": call_without_gas(0x0C, 3 * 2**17 // 160 * 160),
    "bls12 G2 msm, 384 KiB, no gas": call_without_gas(0x0E, 3 * 2**17 // 288 * 288),
    "bls12 pairing, 384 KiB, no gas": call_without_gas(0x0F, 3 * 2**17 // 384 * 384),
    "bn254 pairing, 384 KiB, no gas": call_without_gas(8, 3 * 2**17 // 192 * 192),
    "sha256, 384 KiB, no gas": call_without_gas(2, 3 * 2**17),
    "identity, 384 KiB, no gas": call_without_gas(4, 3 * 2**17),
    "modexp, 384 KiB, no gas": call_without_gas(5, 3 * 2**17),
    "bls12 map to G1": call_precompile(0x10, bytes(32) + words(2**200 + 5), 128),
    "bls12 map to G2": call_precompile(0x11, (bytes(32) + words(2**200 + 5)) * 2, 256),
}

TOP = push(2**256 - 189)
OTHER = push(2**255 - 19)
CALL_CALLEE = "5f5f5f5f73" + CALLEE.hex() + "5a"
OPCODES: Mapping[str, bytes] = {
    "jumpdest": loop("5b", times=60),
    "push, pop": loop(push(1) + "50", times=20),
    "push32, pop": loop(TOP + "50", times=20),
    "dup, pop": loop("8050", prepare=push(1), times=20),
    "swap": loop("90", prepare=push(1) + push(2), times=40),
    "jump, jumpi": loop("6001" + "58600501" + "57" + "5b", times=10),
    "gas, pop": loop("5a50", times=20),
    "address, caller, number, pop": loop("30503350435046504850", times=4),
    "add": loop(OTHER + "01", prepare=TOP, times=20),
    "mul": loop(OTHER + "02", prepare=TOP, times=20),
    "div": loop("80" + TOP + "0450", prepare=OTHER, times=20),
    "sdiv, smod": loop("80" + TOP + "0550" + "80" + TOP + "0750", prepare=OTHER, times=10),
    "addmod": loop(OTHER + TOP + TOP + "0850", times=10),
    "mulmod": loop(OTHER + TOP + TOP + "0950", times=10),
    "exp, 1 byte": loop(push(255) + TOP + "0a50", times=10),
    "exp, 32 bytes": loop(TOP + TOP + "0a50", times=10),
    "signextend": loop(TOP + push(3) + "0b50", times=10),
    "lt, eq, iszero": loop(TOP + OTHER + "10" + "15" + "50" + TOP + OTHER + "1450", times=10),
    "and, or, xor, not": loop(TOP + "16" + OTHER + "17" + TOP + "1819", prepare=OTHER, times=10),
    "byte, shl, shr, sar": loop(push(9) + "1b" + push(9) + "1c" + push(9) + "1d", TOP, times=10),
    "keccak256, 32 bytes": loop(push(32) + "5f2050", times=10),
    "keccak256, 8 KiB": loop(push(8192) + "5f2050", times=2),
    "mload, mstore": loop("5f515f52", times=10),
    "mstore8": loop("5f5f53", times=10),
    "mcopy, 32 bytes": loop(push(32) + "5f" + push(32) + "5e", times=10),
    "mcopy, 64 KiB": loop(push(65536) + "5f5f5e", times=1),
    "memory growth": loop("80515060200180", prepare=push(0)).replace(b"\x80", b"\x80"),
    "calldatacopy, 64 KiB": loop(push(65536) + "5f5f37"),
    "codecopy, 64 KiB": loop(push(65536) + "5f5f39"),
    "extcodecopy, 64 KiB": loop(push(65536) + "5f5f73" + CALLEE.hex() + "3c"),
    "calldataload": loop("5f3550", times=20),
    "sload, warm": loop("5f5450", times=20),
    "sload, cold": loop("805450600101", prepare=push(1)),
    "sstore, warm": loop("5a5f55", times=5),
    "sstore, cold, new": loop("80805590".replace("90", "") + "600101", prepare=push(1)),
    "tload": loop("5f5c50", times=10),
    "tstore": loop("5a5f5d", times=10),
    "tstore, new slots": loop("80805d600101", prepare=push(1)),
    "balance, warm": loop("303150", times=10),
    "balance, cold": loop("803150600101", prepare=push(2**80)),
    "extcodehash, cold": loop("803f50600101", prepare=push(2**80)),
    "extcodesize, warm": loop("303b50", times=10),
    "blockhash": loop("5f4050", times=10),
    "log0": loop("5f5fa0", times=10),
    "log4, 32 bytes": loop("5f5f5f5f" + push(32) + "5fa4", times=4),
    "call, empty account": loop("5f5f5f5f5f" + push(2**90) + "5af150", times=4),
    "call with value": loop("5f5f5f5f6001" + "73" + CALLEE.hex() + "5af150", times=2),
    "staticcall": loop(CALL_CALLEE + "fa50", times=4),
    "delegatecall": loop(CALL_CALLEE + "f450", times=4),
    "call itself, deep": bytes.fromhex("5b5f5f5f5f5f305af150" + "5f56"),
    DELEGATED: bytes.fromhex("5b5f5f5f5f5f305af150" + "5f56").ljust(24_576, b"\x00"),
    "call that reverts": loop("5f5f5f5f5f73" + REVERTER.hex() + "5af150", times=4),
    "create, empty": loop("5f5f5ff050", times=2),
    "create2, 1 KiB": loop("5a" + push(1024) + "5f5ff550", times=2),
    "create that stores 4 KiB": loop(
        push(4096) + "5f5f5ff05050".replace("5f5f5ff05050", "50") + push(6) + "5f5ff050",
        prepare="65" + "6110005ff3fe" + "60d01b" + "5f52",
    ),
    "returndatacopy": loop("5f5f5f3e", times=10),
    "call, 256 KiB of data": loop(
        "5f5f" + push(2**18) + "5f5f" + "73" + CALLEE.hex() + "5af150",
        prepare="5f" + push(2**18 - 32) + "52",
    ),
    "call, 24 KiB of code": loop("5f5f5f5f5f73" + LARGE.hex() + "005af150", times=4),
    "call, new 24 KiB of code": loop(
        "5f5f5f5f5f85" + "73" + LARGE.hex() + "00" + "01" + "5af150600101", prepare="5f"
    ),
    "extcodesize, 24 KiB of code": loop("73" + LARGE.hex() + "00" + "3b50", times=10),
    "create, new 48 KiB of code": loop(
        "600101" + "80" + "6020" + "52" + push(49_152) + "5f5ff050", prepare="5f"
    ),
    "sstore, cold, the value it has": loop("60018155" + "600101", prepare=push(2**128)),
    "send to new accounts": loop("5f5f5f5f6001" + "855af150" + "600101", prepare=push(2**90)),
    "log0, 32 KiB": loop(push(2**15) + "5fa0"),
    "selfdestruct in init code": loop("6133ff5f52" + "6002601e5ff050"),
    "jumpdest in 24 KiB": b"\x5b" * 24_570 + bytes.fromhex("5f56"),
}


MANY = tuple(Address(b"\x94" * 18 + n.to_bytes(2, "big")) for n in range(700))
"""Accounts with more code than is kept in memory."""

# These run with the gas limit of a transaction. The first reads each code anew.
MANY_CODES: Mapping[str, bytes] = {
    "extcodesize, 17 MB of code": loop("".join("73" + each.hex() + "3b50" for each in MANY)),
}

# Python's hash of all multiples of 2**61 - 1 is 0. They run with the gas limit of a transaction:
# with less, a time that is quadratic in the gas would not show.
ONE_HASH: Mapping[str, bytes] = {
    "tstore, slots of one hash": loop(push(2**61 - 1) + "01" + "80805d", prepare="5f"),
    "sload, slots of one hash": loop(push(2**61 - 1) + "01" + "805450", prepare="5f"),
    "sstore, slots of one hash": loop(push(2**61 - 1) + "01" + "5f8155", prepare="5f"),
}

CASES: Mapping[str, bytes] = {**OPCODES, **MANY_CODES, **ONE_HASH, **PRECOMPILES}
FULL_GAS = MANY_CODES.keys() | ONE_HASH.keys()
SENDER = PrivateKey(keccak256(b"execution floor"))


def address_of(name: str) -> Address:
    return Address(keccak256(name.encode())[12:])


class Chain:
    """Block 0 with a contract for each case, among other accounts and slots, on the disk."""

    def __init__(self, accounts: int, directory: Path) -> None:
        filler = {address_of(f"account {n}"): GenesisAccount(balance=1) for n in range(accounts)}
        slots = {2**128 + slot: 1 for slot in range(accounts)}
        contracts = {
            address_of(name): GenesisAccount(
                balance=10**18,
                nonce=1,
                code=code,
                storage=slots if name.startswith(("sload", "sstore")) else {},
            )
            for name, code in CASES.items()
        }
        large = {
            Address(LARGE + bytes([n])): GenesisAccount(
                nonce=1, code=b"\x00" + bytes([n]) + b"\x5b" * 24_574
            )
            for n in range(256)
        }
        many = {
            each: GenesisAccount(nonce=1, code=b"\x00" + each[-2:] + b"\x5b" * 24_573)
            for each in MANY
        }
        alloc = {
            **filler,
            **contracts,
            **large,
            **many,
            get_address(SENDER): GenesisAccount(balance=10**18),
            CALLEE: GenesisAccount(nonce=1, code=b"\x00"),
            REVERTER: GenesisAccount(nonce=1, code=bytes.fromhex("5f5ffd")),
            DELEGATING: GenesisAccount(nonce=1, code=b"\xef\x01\x00" + address_of(DELEGATED)),
        }
        self.config = GenesisConfig(1, ChainParameters(), alloc)
        genesis = build_genesis(self.config)
        self.head = genesis.header
        self.database = open_database(directory)
        with self.database.write() as batch:
            batch.put_new(Table.STATE, list(genesis.delta.items()))

    def run(self, name: str, gas_per_tick: int) -> tuple[int, float]:
        """The gas paid by one transaction to a case's contract, and the processor time."""
        transaction = sign_transaction(
            SENDER,
            chain_id=1,
            nonce=0,
            max_fee_per_gas=1,
            max_priority_fee_per_gas=1,
            gas_limit=self.config.parameters.transaction_gas_limit if name in FULL_GAS else GAS,
            to=DELEGATING if name == DELEGATED else address_of(name),
        )
        environment = BlockEnvironment.after(self.head, self.config, coinbase=CALLEE, timestamp=1)
        environment = replace(environment, gas_per_tick=gas_per_tick)
        start = time.process_time()
        execution = BlockExecution(self.database, self.head, environment)
        outcome = execution.run(transaction)
        execution.finish()
        return outcome.gas_used, time.process_time() - start


def measure(chain: Chain, name: str, gas_per_tick: int, seconds_a_case: float) -> float:
    """Gas a second of processor time, the best of several runs: other processes only slow one."""
    best, spent = 0.0, 0.0
    while spent <= seconds_a_case:
        analyze_contract_code.cache_clear()
        gas, seconds = chain.run(name, gas_per_tick)
        best = max(best, gas / seconds)
        spent += seconds
    return best


def measure_cases(
    chain: Chain, only: str, seconds_a_case: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Mgas a second of each case: in Ethereum's gas, and in gas that is paid for."""
    plain: dict[str, float] = {}
    paid: dict[str, float] = {}
    gas_per_tick = chain.config.parameters.gas_per_tick
    for name in CASES:
        if only in name:
            plain[name] = measure(chain, name, 0, seconds_a_case) / 1e6
            paid[name] = measure(chain, name, gas_per_tick, seconds_a_case) / 1e6
    return plain, paid


def main() -> int:
    """Measure, print, and write JSON; 1 if a case is below the floor."""
    parser = build_parser("execution_floor", __doc__)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    arguments = parser.parse_args()
    load_trusted_setup()
    seconds_a_case = 0.0 if arguments.smoke else SECONDS_A_CASE
    with tempfile.TemporaryDirectory() as directory:
        chain = Chain(10 if arguments.smoke else 4_000, Path(directory))
        plain, paid = measure_cases(chain, arguments.only, seconds_a_case)
    parameters = chain.config.parameters
    floor = parameters.execution_gas_per_second / 1e6
    print(f"{'ns/gas':>9} {'Mgas/s':>9} {'ratio to floor':>15}  case")
    for name, speed in sorted(plain.items(), key=lambda item: item[1]):
        mark = "   BELOW" if paid[name] < floor else ""
        print(f"{1e3 / speed:9.1f} {paid[name]:9.2f} {paid[name] / floor:15.2f}  {name}{mark}")
    below = sorted(name for name, speed in paid.items() if speed < floor)
    print(f"{len(paid)} cases, {len(below)} below {floor} Mgas/s")
    report = {
        "floor_mgas_per_second": floor,
        "nanoseconds_per_gas": {name: 1e3 / speed for name, speed in plain.items()},
        "mgas_per_second": paid,
        "ratio_to_floor": {name: speed / floor for name, speed in paid.items()},
    }
    write_report(arguments, report)
    return 1 if below and not arguments.smoke else 0


if __name__ == "__main__":
    sys.exit(main())
