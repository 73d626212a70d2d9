"""The basic types of the protocol (docs/spec/state-transition.md, section 1)."""

from typing import Final, NewType

Address = NewType("Address", bytes)
"""20 bytes: an Ethereum account."""

Hash32 = NewType("Hash32", bytes)
"""32 bytes: a Keccak-256 or SHA-256 digest, or the root of a tree of them."""

PrivateKey = NewType("PrivateKey", bytes)
"""32 bytes: a secp256k1 secret scalar. Never encoded, logged or compared."""

Signature = NewType("Signature", bytes)
"""65 bytes: r || s || y_parity, with low s and y_parity in {0, 1}."""

BlockNumber = NewType("BlockNumber", int)
"""Position in the chain, which is PBFT's sequence number. Genesis is 0."""

View = NewType("View", int)
"""A PBFT view: one primary's turn. Views start at 0 again for every block number."""

ValidatorIndex = NewType("ValidatorIndex", int)
"""Position in the validator set of a block number, by ascending address, 0-based."""

TaskId = NewType("TaskId", int)
"""Position of a training task in the TaskRegistry contract, 1-based."""

ZERO_ADDRESS: Final = Address(bytes(20))
"""The zero address, which no key controls."""

ZERO_HASH: Final = Hash32(bytes(32))
"""32 zero bytes: the value of header fields that have no meaning on this chain."""

EMPTY_UNCLES_HASH: Final = Hash32(
    bytes.fromhex("1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347")
)
"""keccak256(rlp([])): the ommers hash of every block, since there are no ommers."""

EMPTY_TRIE_ROOT: Final = Hash32(
    bytes.fromhex("56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421")
)
"""keccak256(rlp(b"")): the root of an empty trie."""

EMPTY_REQUESTS_HASH: Final = Hash32(
    bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
)
"""sha256(b""): the EIP-7685 hash of no requests."""

TOKEN_DECIMALS: Final = 18
"""Decimal places of POT and of the native coin, as in nearly every ERC-20 token."""

TOKEN_UNIT: Final = 10**TOKEN_DECIMALS
"""Base units of one POT, and wei of one coin."""

UINT64_MAX: Final = 2**64 - 1
"""The largest u64, which stands for "no prepared view" in a VIEW-CHANGE payload."""
