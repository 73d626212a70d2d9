"""A small final chain on disk, built by the real transition, and a counter contract for it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from eth_account import Account as Signer
from eth_account.signers.local import LocalAccount

from chain.builder import build_block
from chain.contracts.set_reader import read_genesis_set
from chain.crypto import keccak256
from chain.genesis import build_genesis, parse_genesis
from chain.primitives import Address, Hash32, Signature, ValidatorIndex, View
from chain.types.certificate import CommitCertificate
from chain.types.transaction import decode_transaction
from node.chain.training_index import TrainingIndex
from node.storage.block_store import BlockStore
from node.storage.database import Database, open_database
from tests.worlds.values import SMALL_MAP_BYTES

CHAIN_ID: Final = 424_242
ALICE: Final[LocalAccount] = Signer.from_key(b"\x0a" * 32)
BOB: Final[LocalAccount] = Signer.from_key(b"\x0b" * 32)
VALIDATOR: Final = Address(b"\x11" * 20)
TEN: Final = 10**19
TIMESTAMP: Final = 1_790_000_000


def selector(signature: str) -> bytes:
    return keccak256(signature.encode())[:4]


CHANGED: Final = keccak256(b"Changed(address,uint256)")
REASON: Final = b"not like this"
ERROR_DATA: Final = (
    selector("Error(string)")
    + (32).to_bytes(32, "big")
    + len(REASON).to_bytes(32, "big")
    + REASON.ljust(32, b"\0")
)
COUNTER_ABI: Final = [
    {
        "type": "function",
        "name": "set",
        "inputs": [{"name": "value", "type": "uint256"}],
        "outputs": [],
        "stateMutability": "nonpayable",
    },
    {
        "type": "function",
        "name": "get",
        "inputs": [],
        "outputs": [{"name": "", "type": "uint256"}],
        "stateMutability": "view",
    },
    {
        "type": "function",
        "name": "fail",
        "inputs": [],
        "outputs": [],
        "stateMutability": "nonpayable",
    },
    {
        "type": "function",
        "name": "spin",
        "inputs": [],
        "outputs": [],
        "stateMutability": "view",
    },
    {
        "type": "event",
        "name": "Changed",
        "anonymous": False,
        "inputs": [
            {"name": "by", "type": "address", "indexed": True},
            {"name": "value", "type": "uint256", "indexed": False},
        ],
    },
]


def _assemble(program: Sequence[str | bytes]) -> bytes:
    """Code from mnemonics, pushed bytes, and labels: ":x" defines one, "@x" pushes it."""
    opcodes = {
        "STOP": 0x00,
        "EQ": 0x14,
        "SHR": 0x1C,
        "CALLER": 0x33,
        "CALLDATALOAD": 0x35,
        "CODECOPY": 0x39,
        "MSTORE": 0x52,
        "SLOAD": 0x54,
        "SSTORE": 0x55,
        "JUMP": 0x56,
        "JUMPI": 0x57,
        "DUP1": 0x80,
        "LOG2": 0xA2,
        "RETURN": 0xF3,
        "REVERT": 0xFD,
    }
    code, labels, uses = bytearray(), {}, []
    for step in program:
        if isinstance(step, bytes):
            code += bytes([0x5F + len(step)]) + step
        elif step.startswith(":"):
            labels[step[1:]] = len(code)
            code.append(0x5B)
        elif step.startswith("@"):
            uses.append((len(code) + 1, step[1:]))
            code += b"\x61\0\0"
        else:
            code.append(opcodes[step])
    for position, label in uses:
        code[position : position + 2] = labels[label].to_bytes(2, "big")
    return bytes(code)


def _build_counter() -> bytes:
    def choose(signature: str, label: str) -> list[str | bytes]:
        return ["DUP1", selector(signature), "EQ", f"@{label}", "JUMPI"]

    failing = [
        step
        for start in range(0, 128, 32)
        for step in (ERROR_DATA.ljust(128, b"\0")[start : start + 32], bytes([start]), "MSTORE")
    ]
    return _assemble(
        [
            *(b"\0", "CALLDATALOAD", b"\xe0", "SHR"),
            *choose("set(uint256)", "set"),
            *choose("fail()", "fail"),
            *choose("spin()", "spin"),
            *(b"\0", "SLOAD", b"\0", "MSTORE", b"\x20", b"\0", "RETURN"),
            *(":set", b"\x04", "CALLDATALOAD", "DUP1", b"\0", "SSTORE", b"\0", "MSTORE"),
            *("CALLER", bytes(CHANGED), b"\x20", b"\0", "LOG2", "STOP"),
            *(":fail", *failing, bytes([len(ERROR_DATA)]), b"\0", "REVERT"),
            *(":spin", "@spin", "JUMP"),
        ]
    )


COUNTER_RUNTIME: Final = _build_counter()
_LENGTH = len(COUNTER_RUNTIME).to_bytes(2, "big")
COUNTER_INIT_CODE: Final = (
    _assemble([_LENGTH, "DUP1", b"\0\x0d", b"\0", "CODECOPY", b"\0", "RETURN"]) + COUNTER_RUNTIME
)


def set_call(value: int) -> bytes:
    return selector("set(uint256)") + value.to_bytes(32, "big")


def sign(signer: LocalAccount, **fields: object) -> bytes:
    """The raw transaction of these fields, by default of type 2 without fees."""
    if isinstance(fields.get("to"), str):
        fields["to"] = bytes.fromhex(str(fields["to"])[2:])  # the signer wants checksums in text
    defaults: dict[str, object] = {"chainId": CHAIN_ID, "gas": 300_000, "value": 0}
    if "gasPrice" not in fields:
        defaults |= {"maxFeePerGas": 0, "maxPriorityFeePerGas": 0}
    return bytes(signer.sign_transaction({**defaults, **fields}).raw_transaction)


def genesis_file() -> bytes:
    return json.dumps(
        {
            "config": {"chainId": CHAIN_ID, "proofOfTraining": {}},
            "gasLimit": "0x1c9c380",
            "timestamp": hex(TIMESTAMP),
            "alloc": {
                ALICE.address: {"balance": str(TEN)},
                BOB.address: {"balance": str(TEN)},
            },
        }
    ).encode()


class StoredChain:
    """A store that is extended a block at a time; its certificates are not valid."""

    def __init__(self, path: Path, *, genesis: bytes | None = None) -> None:
        file = genesis or genesis_file()
        self.config = parse_genesis(file)
        state = build_genesis(self.config)
        self.database: Database = open_database(path, map_size_bytes=SMALL_MAP_BYTES)
        self.store = BlockStore(self.database)
        validator_set = read_genesis_set(self.config, state)
        self.store.initialize(state.header, state.delta, file, validator_set)
        self._index = TrainingIndex(self.store)

    def extend(self, *raw_transactions: bytes) -> Hash32:
        """Finalize a block of these transactions; its hash.

        Raises:
            InvalidTransaction: A transaction does not fit.
        """
        parent = self.store.head()
        built = build_block(
            parent,
            [decode_transaction(raw) for raw in raw_transactions],
            self.database,
            self.config,
            coinbase=VALIDATOR,
            timestamp=parent.timestamp + 2,
            parent_certificate=_certificate() if parent.number else None,
        )
        if built.dropped:
            raise built.dropped[0].error
        self.store.finalize(
            built.block,
            _certificate(),
            receipts=built.result.receipts,
            senders=built.result.senders,
            delta=built.result.delta,
            training_rows=self._index.compute_rows(built.block.header, built.result.receipts),
        )
        return built.block.hash


def _certificate() -> CommitCertificate:
    return CommitCertificate(View(0), ((ValidatorIndex(0), Signature(b"\x01" * 65)),))
